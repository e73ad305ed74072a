// The swept curves of the trained transformers: mean and standard deviation over the seeds, from results/ (curves.js).
(() => {
  const { curves, element, controls } = bnicl;
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = { "naive": "#de8f05", "MLE": "#0173b2", "posterior mean": "#029e73", "transformer": "#d55e00" };
  const WIDTH = 600, HEIGHT = 300, LEFT = 58, RIGHT = 24, BOTTOM = 36, TOP = 10;

  function start(root) {
    const graphs = Object.keys(curves), measures = Object.keys(curves[graphs[0]]);
    const sizes = curves[graphs[0]][measures[0]]["transformer"].map(([n]) => n), most = sizes[sizes.length - 1];
    const state = { graph: "chain7", measure: measures[0], at: sizes.indexOf(100), picture: null };
    Object.keys(COLORS).forEach((name) => { state[name] = true; });
    const view = element("div", "", { class: "bnicl-view" });
    const said = element("p", "", { class: "bnicl-result", "aria-live": "polite" });
    const inputs = controls(state, draw);
    inputs.select("graph", "graph", graphs);
    inputs.select("measure", "measure", measures);
    const slider = inputs.slider("rows", "at", 0, sizes.length - 1, 1);
    Object.entries(COLORS).forEach(([name, color]) => inputs.toggle(name, name, color));
    root.append(inputs.box, said, view);
    const across = (n) => LEFT + (Math.log(n) / Math.log(most)) * (WIDTH - LEFT - RIGHT);

    function draw() {
      const own = curves[state.graph][state.measure], n = sizes[state.at];
      const shown = Object.keys(COLORS).filter((name) => state[name] && own[name].length);
      const values = shown.flatMap((name) => own[name].map(([, mean]) => mean));
      const low = state.measure === "mode accuracy" ? Math.min(...values, 1) : 0;
      const high = Math.max(...values, low + 1e-6);
      const down = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
      const digits = high < 0.05 ? 4 : 3;
      const picture = element("svg", "", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "bnicl-plot",
        "aria-label": `${state.measure} on ${state.graph} against the rows of the context, mean over the seeds` }, SVG);
      const add = (tag, text, attributes) => picture.append(element(tag, text, attributes, SVG));
      for (let i = 0; i <= 4; i += 1) {
        const value = low + (i / 4) * (high - low);
        add("line", "", { x1: LEFT, x2: WIDTH - RIGHT, y1: down(value), y2: down(value), stroke: "#c8ccd0" });
        add("text", value.toFixed(digits), { x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" });
      }
      for (const tick of sizes.filter((size) => /^1/.test(size))) {
        add("text", tick, { x: across(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" });
      }
      add("text", "rows in the context", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" });
      add("line", "", { x1: across(n), x2: across(n), y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#555", "stroke-dasharray": "4 3" });
      const found = {};
      for (const name of shown) {
        const points = own[name].map(([size, mean]) => `${across(size)},${down(mean)}`).join(" ");
        add("polyline", "", { points, fill: "none", stroke: COLORS[name], "stroke-width": 2.5,
          "stroke-dasharray": name === "transformer" ? "7 5" : "none" }); // it lies on the posterior mean
        for (const [size, mean, sd] of own[name]) {
          add("circle", "", { cx: across(size), cy: down(mean), r: size === n ? 5 : 3, fill: COLORS[name] });
          if (size === n) found[name] = [mean, sd];
        }
      }
      const words = Object.entries(found).map(([name, [mean, sd]]) => `${name} ${mean.toFixed(4)} ± ${sd.toFixed(4)}`);
      said.textContent = `With ${n} rows: ${words.join(", ") || "nothing is shown"}.`;
      picture.addEventListener("pointermove", (event) => {
        const box = picture.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDTH;
        const near = sizes.reduce((best, size, i) => (Math.abs(across(size) - x) < Math.abs(across(sizes[best]) - x) ? i : best), 0);
        if (near !== state.at) { state.at = near; draw(); }
      });
      slider.value = state.at;
      slider.setAttribute("aria-valuetext", `${n} rows`);
      view.replaceChildren(picture);
      root.example = { graph: state.graph, measure: state.measure, n, found };
    }
    draw();
  }
  const root = document.getElementById("curve-explorer");
  if (root) start(root);
})();
