// The constructed transformer's second layer, live: attention of a query over context rows, output, exact MLE.
// The numbers are those of bnicl's construction with beta_1 and gamma at infinity.
(() => {
  const { GRAPHS, network, element, controls } = bnicl;
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
  function start(root) {
    const state = { graph: "sprinkler", n: 12, target: 3, beta: 2, seed: 1 };
    const view = element("div", "", { class: "bnicl-view", "aria-live": "polite" });
    const inputs = controls(state, draw);
    inputs.select("graph", "graph", Object.keys(GRAPHS));
    inputs.select("target X", "target", [0, 1, 2, 3]);
    inputs.slider("rows", "n", 2, 40, 1);
    inputs.slider("beta", "beta", 0, 10, 0.25);
    inputs.button("new rows", () => { state.seed += 1; });
    root.append(inputs.box, view);
    function draw() {
      const parents = GRAPHS[state.graph];
      const all = network(parents, 41, state.seed).rows;
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
      root.example = { parents, rows, query, target: state.target, beta: state.beta, output, mle };
    }
    draw();
  }
  const root = document.getElementById("construction-widget");
  if (root) start(root);
})();
