// The constructed transformer's second layer, live: attention of a query over context rows, output, exact MLE.
// No dependencies. The numbers are those of bnicl's construction with beta_1 and gamma at infinity.
(() => {
  const GRAPHS = {
    "chain of 4": [[], [0], [1], [2]],
    "sprinkler": [[], [0], [0], [1, 2]],
    "three parents": [[], [], [], [0, 1, 2]],
  };
  const random = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  function sample(parents, n, seed) {
    const next = random(seed);
    const tables = parents.map((own) => Array.from({ length: 2 ** own.length }, () => 0.1 + 0.8 * next()));
    return Array.from({ length: n }, () => {
      const row = [];
      parents.forEach((own, m) => {
        const index = own.reduce((sum, p) => 2 * sum + row[p], 0);
        row.push(next() < tables[m][index] ? 1 : 0);
      });
      return row;
    });
  }
  function answer(parents, rows, query, target, beta) {
    const agree = rows.map((row) => parents[target].filter((p) => row[p] === query[p]).length);
    const most = Math.max(...agree);
    const weights = agree.map((a) => Math.exp(beta * (a - most)));
    const total = weights.reduce((a, b) => a + b, 0);
    const attention = weights.map((w) => w / total);
    const output = attention.reduce((sum, a, i) => sum + a * rows[i][target], 0);
    const matching = rows.filter((_, i) => agree[i] === parents[target].length);
    const mle = matching.length ? matching.filter((row) => row[target]).length / matching.length : null;
    return { attention, output, mle, matching: matching.length, agree };
  }
  const element = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  function start(root) {
    const state = { graph: "sprinkler", n: 12, target: 3, beta: 2, seed: 1 };
    const controls = element("div", "", { class: "bnicl-controls" });
    const view = element("div", "", { class: "bnicl-view", "aria-live": "polite" });
    const add = (name, input) => {
      const label = element("label", name + " ");
      label.append(input);
      controls.append(label);
      return input;
    };
    const select = (name, key, options) => {
      const input = add(name, element("select"));
      options.forEach((option) => input.append(element("option", String(option), { value: option })));
      input.value = state[key];
      input.addEventListener("change", () => { state[key] = key === "target" ? +input.value : input.value; draw(); });
    };
    const slider = (name, key, min, max, step) => {
      const input = add(name, element("input", "", { type: "range", min, max, step, value: state[key] }));
      input.addEventListener("input", () => { state[key] = +input.value; draw(); });
    };
    select("graph", "graph", Object.keys(GRAPHS));
    select("target X", "target", [0, 1, 2, 3]);
    slider("rows", "n", 2, 40, 1);
    slider("beta", "beta", 0, 10, 0.25);
    const again = element("button", "new rows", { type: "button" });
    again.addEventListener("click", () => { state.seed += 1; draw(); });
    controls.append(again);
    root.append(controls, view);
    function draw() {
      const parents = GRAPHS[state.graph];
      const all = sample(parents, 41, state.seed);
      const query = all[40];
      const rows = all.slice(0, state.n);
      const { attention, output, mle, matching, agree } = answer(parents, rows, query, state.target, state.beta);
      const own = parents[state.target];
      const prefix = query.slice(0, state.target).map((v, m) => `X${m}=${v}`).join(", ") || "nothing";
      const shown = mle === null ? "undefined: no row matches" : mle.toFixed(4);
      view.replaceChildren(
        element("p", `Query: ${prefix}. Parents of X${state.target}: ${own.map((p) => "X" + p).join(", ") || "none"}.`),
        element("p", `P(X${state.target} = 1): transformer ${output.toFixed(4)}, MLE ${shown} (${matching} of ${state.n} rows match).`,
          { class: "bnicl-result", "data-output": output, "data-mle": mle === null ? "" : mle }));
      const table = element("table", "", { class: "bnicl-rows" });
      const head = element("tr");
      query.forEach((_, m) => head.append(element("th", `X${m}`, { scope: "col" })));
      head.append(element("th", "attention", { scope: "col" }));
      table.append(head);
      const most = Math.max(...attention);
      rows.forEach((row, i) => {
        const line = element("tr", "", agree[i] === own.length ? { class: "bnicl-match" } : {});
        row.forEach((v, m) => line.append(element("td", String(v), own.includes(m) ? { class: "bnicl-parent" } : {})));
        const cell = element("td");
        cell.append(element("span", "", { class: "bnicl-bar", style: `width:${(100 * attention[i]) / most}px` }),
          element("span", ` ${attention[i].toFixed(3)}`));
        line.append(cell);
        table.append(line);
      });
      view.append(table);
    }
    draw();
  }
  const root = document.getElementById("construction-widget");
  if (root) start(root);
})();
