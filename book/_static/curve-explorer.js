// The swept curves of the trained transformers: mean and standard deviation over the seeds, from results/ (curves.js).
// Distances stand on a scale of decades. The posterior mean's regret is 0: the floor, which has no place there.
(() => {
  const { curves, element, controls } = bnicl;
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = { "naive": "#de8f05", "MLE": "#0173b2", "posterior mean": "#029e73", "transformer": "#d55e00" };
  const WIDTH = 600, HEIGHT = 300, LEFT = 68, RIGHT = 24, BOTTOM = 36, TOP = 10;

  function start(root) {
    const graphs = Object.keys(curves), measures = Object.keys(curves[graphs[0]]);
    const sizes = curves[graphs[0]][measures[0]]["transformer"].map(([n]) => n), most = sizes[sizes.length - 1];
    const state = { graph: "chain7", measure: "regret (millibits)", n: 100 };
    Object.keys(COLORS).forEach((name) => { state[name] = true; });
    const view = element("div", "", { class: "bnicl-view" });
    const said = element("p", "", { class: "bnicl-result", "aria-live": "polite" });
    const inputs = controls(state, draw);
    inputs.select("graph", "graph", graphs);
    inputs.select("measure", "measure", measures);
    inputs.slider("rows", "n", 0, 0, 1, sizes);
    Object.entries(COLORS).forEach(([name, color]) => inputs.toggle(name, name, color));
    root.append(inputs.box, said, view);
    const across = (n) => LEFT + (Math.log(n) / Math.log(most)) * (WIDTH - LEFT - RIGHT);

    function draw() {
      const own = curves[state.graph][state.measure], n = state.n, decades = state.measure !== "mode accuracy";
      const shown = Object.keys(COLORS).filter((name) => state[name] && own[name].length);
      const drawn = shown.filter((name) => !decades || own[name].some(([, mean]) => mean > 1e-4)), scale = decades ? Math.log10 : (value) => value;
      const values = drawn.flatMap((name) => own[name].map(([, mean]) => scale(mean))).filter(Number.isFinite);
      const [low, high] = !values.length ? [0, 1] : decades ? [Math.floor(Math.min(...values)), Math.ceil(Math.max(...values))] : [Math.min(...values), Math.max(...values)];
      const down = (value) => TOP + (1 - (scale(value) - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
      const picture = element("svg", "", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "bnicl-plot",
        "aria-label": `${state.measure} on ${state.graph} against the rows of the context, mean over the seeds` }, SVG);
      const add = (tag, text, attributes) => picture.append(element(tag, text, attributes, SVG));
      const ticks = decades ? Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) : [0, 1, 2, 3, 4].map((i) => low + (i / 4) * (high - low));
      for (const value of ticks) {
        add("line", "", { x1: LEFT, x2: WIDTH - RIGHT, y1: down(value), y2: down(value), stroke: "#c8ccd0" });
        add("text", decades ? String(+value.toPrecision(1)) : value.toFixed(3), { x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" });
      }
      add("text", state.measure, { x: 12, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + HEIGHT - BOTTOM) / 2})` });
      for (const tick of sizes.filter((size) => /^1/.test(size))) {
        add("text", tick, { x: across(tick), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" });
      }
      add("text", "rows in the context", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" });
      add("line", "", { x1: across(n), x2: across(n), y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#555", "stroke-dasharray": "4 3" });
      const found = {};
      for (const name of shown) {
        for (const [size, mean, sd] of own[name]) if (size === n) found[name] = [mean, sd];
        if (!drawn.includes(name)) continue;
        const points = own[name].map(([size, mean]) => `${across(size)},${down(mean)}`).join(" ");
        add("polyline", "", { points, fill: "none", stroke: COLORS[name], "stroke-width": 2.5,
          "stroke-dasharray": name === "transformer" ? "7 5" : "none" }); // it lies on the posterior mean
        for (const [size, mean] of own[name]) add("circle", "", { cx: across(size), cy: down(mean), r: size === n ? 5 : 3, fill: COLORS[name] });
      }
      const short = (value) => String(+value.toPrecision(3));
      const words = Object.entries(found).map(([name, [mean, sd]]) => (mean || sd ? `${name} ${short(mean)} ± ${short(sd)}` : `${name} 0, the floor`));
      said.textContent = `With ${n} ${n === 1 ? "row" : "rows"}: ${words.join(", ") || "nothing is shown"}.`;
      picture.addEventListener("pointermove", (event) => {
        const box = picture.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDTH;
        const near = sizes.reduce((best, size) => (Math.abs(across(size) - x) < Math.abs(across(best) - x) ? size : best));
        if (near !== state.n) { state.n = near; inputs.sync(); draw(); }
      });
      view.replaceChildren(picture);
      root.example = { graph: state.graph, measure: state.measure, n, found };
    }
    draw();
  }
  const root = document.getElementById("curve-explorer");
  if (root) start(root);
})();
