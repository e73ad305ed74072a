// Estimators as a context grows, live: total variation to the truth, exactly, averaged over queries and nodes.
// Tables are drawn from Dirichlet(1/2), for which the posterior mean with alpha 1/2 is the optimum on average. Where no
// row matches, MLE and naive inference answer 1/2.
(() => {
  const { network, place, element, controls } = bnicl;
  const GRAPHS = {
    "chain of 4": [[], [0], [1], [2]],
    "sprinkler": [[], [0], [0], [1, 2]],
    "three parents": [[], [], [], [0, 1, 2]],
  };
  const SVG = "http://www.w3.org/2000/svg";
  const COLORS = { "MLE": "#0173b2", "naive": "#de8f05", "posterior mean": "#029e73" };
  const SIZES = [1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300];
  const WIDTH = 600, HEIGHT = 260, LEFT = 56, BOTTOM = 36, TOP = 10;

  const bits = (state) => [8, 4, 2, 1].map((bit) => (state & bit ? 1 : 0));
  const STATES = Array.from({ length: 16 }, (_, state) => bits(state));
  // The expected total variation of each estimator from these rows.
  function distances({ tables, rows }, parents, n, alpha) {
    const counts = new Array(16).fill(0);
    rows.slice(0, n).forEach((row) => { counts[place([0, 1, 2, 3], row)] += 1; });
    const estimate = (given, x, m, extra) => {
      let matching = 2 * extra, ones = extra;
      STATES.forEach((state, s) => {
        if (given.every((p) => state[p] === x[p])) { matching += counts[s]; ones += counts[s] * state[m]; }
      });
      return matching ? ones / matching : 0.5;
    };
    const found = { "MLE": 0, "naive": 0, "posterior mean": 0 };
    for (const x of STATES) {
      const truth = parents.map((own, m) => tables[m][place(own, x)]);
      const p = truth.reduce((product, one, m) => product * (x[m] ? one : 1 - one), 1);
      parents.forEach((own, m) => {
        found["MLE"] += (p / 4) * Math.abs(truth[m] - estimate(own, x, m, 0));
        found["naive"] += (p / 4) * Math.abs(truth[m] - estimate([...Array(m).keys()], x, m, 0));
        found["posterior mean"] += (p / 4) * Math.abs(truth[m] - estimate(own, x, m, alpha));
      });
    }
    return found;
  }
  function start(root) {
    const state = { graph: "sprinkler", n: 20, alpha: 0.5, seed: 1, "MLE": true, "naive": true, "posterior mean": true };
    const view = element("div", "", { class: "bnicl-view", "aria-live": "polite" });
    const inputs = controls(state, draw);
    inputs.select("graph", "graph", Object.keys(GRAPHS));
    inputs.slider("rows", "n", 1, 300, 1, SIZES);
    inputs.slider("α", "alpha", 0.1, 5, 0.1, [0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 3, 5]);
    inputs.button("ten rows more", () => { state.n = Math.min(300, state.n + 10); });
    inputs.button("new network", () => { state.seed += 1; });
    Object.entries(COLORS).forEach(([name, color]) => inputs.toggle(name, name, color));
    root.append(inputs.box, view);
    const across = (n) => LEFT + (Math.log(n) / Math.log(300)) * (WIDTH - LEFT - 12);
    const down = (d) => TOP + (1 - Math.min(d, 0.6) / 0.6) * (HEIGHT - TOP - BOTTOM);
    function line(x1, y1, x2, y2) {
      return element("line", "", { x1, y1, x2, y2, stroke: "#c8ccd0" }, SVG);
    }
    function draw() {
      const parents = GRAPHS[state.graph], net = network(parents, 300, state.seed);
      const sizes = [...SIZES.filter((n) => n < state.n), state.n];
      const curve = sizes.map((n) => distances(net, parents, n, state.alpha)), last = curve[curve.length - 1];
      const words = Object.keys(COLORS).filter((name) => state[name]).map((name) => `${name} ${last[name].toFixed(4)}`).join(", ");
      const rows = `${state.n} ${state.n === 1 ? "row" : "rows"}`;
      const picture = element("svg", "", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "bnicl-plot",
        "aria-label": `Total variation to the truth against the rows of the context. After ${rows}: ${words}.` }, SVG);
      for (const d of [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) {
        picture.append(line(LEFT, down(d), WIDTH - 12, down(d)), element("text", d.toFixed(1), { x: LEFT - 8, y: down(d) + 4, "text-anchor": "end" }, SVG));
      }
      for (const n of [1, 3, 10, 30, 100, 300]) {
        picture.append(line(across(n), TOP, across(n), HEIGHT - BOTTOM), element("text", n, { x: across(n), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, SVG));
      }
      picture.append(element("text", "total variation to the truth", { x: 12, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + HEIGHT - BOTTOM) / 2})` }, SVG));
      picture.append(element("text", "rows in the context", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, SVG));
      for (const [name, color] of Object.entries(COLORS).filter(([name]) => state[name])) {
        const points = curve.map((values, i) => `${across(sizes[i])},${down(values[name])}`).join(" ");
        picture.append(element("polyline", "", { points, fill: "none", stroke: color, "stroke-width": 2.5 }, SVG));
        curve.forEach((values, i) => {
          const dot = element("circle", "", { cx: across(sizes[i]), cy: down(values[name]), r: 4, fill: color }, SVG);
          dot.append(element("title", `${name}, ${sizes[i]} rows: ${values[name].toFixed(4)}`, {}, SVG));
          picture.append(dot);
        });
      }
      view.replaceChildren(element("p", `After ${rows}, total variation to the truth: ${words || "nothing is shown"}.`, { class: "bnicl-result" }), picture);
      root.example = { parents, tables: net.tables, rows: net.rows.slice(0, state.n), alpha: state.alpha, found: last };
    }
    draw();
  }
  const root = document.getElementById("context-explorer");
  if (root) start(root);
})();
