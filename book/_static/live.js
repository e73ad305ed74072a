// The live transformer: click cells of the context and of the query, and see what five predictors answer.
// <div class="bnicl-live" data-size="small"> is the short form of the first page; without data-size it is the whole.
(() => {
  const { network, element, controls } = bnicl, SVG = "http://www.w3.org/2000/svg";
  const here = document.currentScript.src, ROWS = 200, NODES = [0, 1, 2, 3, 4];
  const PLACES = { // of the nodes in the picture, in units of 60
    chain5: [[0, 1], [1, 1], [2, 1], [3, 1], [4, 1]],
    tree5: [[2, 0], [1, 1], [3, 1], [0.4, 2], [1.6, 2]],
    general5: [[0.6, 0], [0.6, 2], [1.7, 1.4], [2.7, 0.6], [3.8, 0.6]],
  };
  const COLORS = { "trained transformer": "#d55e00", "constructed transformer": "#ca9161", "posterior mean": "#029e73",
    "MLE": "#0173b2", "naive": "#de8f05" };
  const percent = (p) => (Number.isNaN(p) ? "no row matches" : p.toFixed(3));
  const load = (graph) => bnicl.weights?.[graph] ? Promise.resolve() : new Promise((done, failed) => {
    const script = element("script", "", { src: here.replace(/live\.js.*$/, `weights-${graph}.js`) });
    script.addEventListener("load", done);
    script.addEventListener("error", () => failed(new Error(`no weights of ${graph}`)));
    document.head.append(script);
  });

  // Rows of up to five columns of two states each, with or without a line of names; an Error says what is wrong.
  function parse(text) {
    const lines = text.trim().split(/\r?\n/).map((line) => line.split(/[,;\t]/).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
    const width = lines[0].length, below = new Set(lines.slice(1).flat()), plain = (cell) => cell === "0" || cell === "1";
    if (!text.trim()) throw new Error("Expected rows, got nothing.");
    if (width === 1 && lines.some(([cell]) => /[ |]/.test(cell))) throw new Error("Expected values separated by commas.");
    if (width > 5) throw new Error(`Expected at most five columns, got ${width}.`);
    lines.forEach((line, i) => {
      if (line.length !== width) throw new Error(`Line ${i + 1}: expected ${width} values, got ${line.length}.`);
      if (line.includes("")) throw new Error(`Line ${i + 1}: expected ${width} values, one is empty.`);
    });
    const states = (m, from) => [...new Set(lines.slice(from).map((line) => line[m]))].sort();
    const named = !lines[0].every((cell) => plain(cell) || below.has(cell)); // what stands nowhere below is a name
    const names = named ? lines[0] : lines[0].map((_, m) => `X${m}`), rows = lines.slice(named ? 1 : 0);
    if (!rows.length) throw new Error("Expected rows below the names, got none.");
    if (new Set(names).size < width) throw new Error("Expected different names.");
    if (rows.length > ROWS) throw new Error(`Expected at most ${ROWS} rows, got ${rows.length}.`);
    const labels = names.map((name, m) => {
      const own = states(m, named ? 1 : 0);
      if (own.length > 2) throw new Error(`Column ${name}: expected two states, got ${own.length} (${own.slice(0, 4).join(", ")}).`);
      if (own.every(plain)) return ["0", "1"];
      if (own.length === 2) return own;
      return /^(no|n|false|f|off|absent)$/i.test(own[0]) ? [own[0], `not ${own[0]}`] : [`not ${own[0]}`, own[0]];
    });
    return { names, labels, rows: rows.map((row) => NODES.map((m) => (m < width ? labels[m].indexOf(row[m]) : 0))) };
  }

  function start(root) {
    const small = root.dataset.size === "small", most = small ? 12 : 100; // rows that are drawn
    const state = { graph: root.dataset.graph ?? "general5", n: small ? 10 : 20, target: 3, seed: +(root.dataset.seed ?? 1018), beta: 8, guessing: false };
    // own: what was pasted. current: the graph that is drawn. pool: all rows there are, of which the first n are shown.
    let own = null, current = null, pool = [], rows = [], query = [], tables = null, guess = null, source = "";
    const shape = () => bnicl.weights[current].parents;
    const inputs = controls(state, changed);
    inputs.select("graph", "graph", Object.keys(PLACES));
    const count = inputs.slider("rows", "n", 1, most, 1);
    inputs.button("new network", () => { own = null; state.seed += 1; });
    if (!small) {
      inputs.slider("β of the construction", "beta", 0, 12, 0.5);
      inputs.toggle("guess first", "guessing");
    }
    const picture = element("div", "", { class: "bnicl-graph" });
    const answers = element("div", "", { class: "bnicl-answers" });
    const said = element("p", "", { class: "bnicl-result", "aria-live": "polite" });
    const grid = element("div", "", { class: "bnicl-view" });
    const sum = element("div", "");
    const top = element("div", "", { class: "bnicl-top" });
    top.append(picture, answers, ...(small ? [grid] : []));
    root.replaceChildren(inputs.box, top, said, ...(small ? [] : [grid, sum, paste()]));

    function paste() {
      const fold = element("details"), text = element("textarea", "", { rows: 5, "aria-label": "your rows", spellcheck: "false",
        placeholder: "Rain,Sprinkler,Wet\nno,yes,yes\nyes,no,yes" });
      const wrong = element("p", "", { role: "alert" }), use = element("button", "use these rows", { type: "button" });
      use.addEventListener("click", () => {
        try {
          own = parse(text.value);
          wrong.textContent = "";
          state.n = own.rows.length;
          state.target = Math.min(state.target, own.names.length - 1);
          changed();
        } catch (error) { wrong.textContent = error.message; }
      });
      fold.append(element("summary", "paste rows of your own"),
        element("p", "Up to five columns of two states, the first line with or without names. The graph is the one chosen above, in the order of the columns; the query starts as a copy of the first row."),
        text, use, wrong);
      return fold;
    }

    // --- what is shown -----------------------------------------------------------------------------------------------
    function changed(key) { // other rows, or another graph: everything is drawn anew
      guess = null;
      if (key === "beta" || key === "guessing") return show();
      const graph = state.graph;
      load(graph).then(() => {
        if (graph !== state.graph) return; // another was chosen meanwhile
        current = graph;
        const now = own ?? `${graph} ${state.seed}`;
        if (now !== source) { // else what was flipped stays
          const drawn = network(shape(), most + 1, state.seed);
          pool = own ? own.rows : drawn.rows.slice(0, -1);
          query = [...(own ? pool[0] : drawn.rows[drawn.rows.length - 1])];
          tables = own ? null : drawn.tables;
          source = now;
        }
        count.max = pool.length;
        state.n = Math.min(state.n, pool.length);
        rows = pool.slice(0, state.n);
        inputs.sync();
        paint();
        show();
      }).catch((error) => {
        if (graph !== state.graph) return;
        said.textContent = error.message;
        if (current) state.graph = current;
        inputs.sync();
      });
    }
    const width = () => own?.names.length ?? 5;
    const named = (m) => own?.names[m] ?? `X${m}`;
    const label = (m, value) => own?.labels[m][value] ?? String(value);
    const edges = () => shape().slice(0, width()).flatMap((own, m) => own.map((p) => `${named(p)} to ${named(m)}`));
    const ask = (m) => { state.target = m; guess = null; paint(); show(); };

    function paint() { // the graph and the table; `show` fills in what hangs on the values
      const parents = shape(), places = PLACES[current];
      const high = Math.max(...places.map(([, y]) => y)) * 60 + 60;
      const svg = element("svg", "", { viewBox: `-30 -30 300 ${high}`, role: "img",
        "aria-label": `Graph ${current}: ` + edges().join(", ") }, SVG);
      parents.forEach((own, m) => m < width() && own.forEach((p) => {
        const [from, to] = [places[p], places[m]].map((place) => place.map((value) => 60 * value));
        const far = Math.hypot(to[0] - from[0], to[1] - from[1]), step = (k) => [0, 1].map((i) => to[i] + ((from[i] - to[i]) * k) / far);
        const [tip, left] = [step(20), step(29)], across = [(from[1] - to[1]) / far, (to[0] - from[0]) / far];
        svg.append(element("line", "", { x1: from[0], y1: from[1], x2: left[0], y2: left[1], class: m === state.target ? "bnicl-asked" : "" }, SVG),
          element("path", "", { d: `M${tip} L${left[0] + 5 * across[0]},${left[1] + 5 * across[1]} L${left[0] - 5 * across[0]},${left[1] - 5 * across[1]} Z` }, SVG));
      }));
      places.forEach(([x, y], m) => {
        if (m >= width()) return;
        const node = element("g", "", { class: m === state.target ? "bnicl-asked" : parents[state.target].includes(m) ? "bnicl-parent" : "" }, SVG);
        node.append(element("circle", "", { cx: 60 * x, cy: 60 * y, r: 19 }, SVG), element("text", named(m).length < 5 ? named(m) : `${named(m).slice(0, 3)}.`, { x: 60 * x, y: 60 * y + 5 }, SVG));
        node.addEventListener("click", () => ask(m));
        svg.append(node);
      });
      picture.replaceChildren(svg);

      const table = element("table", "", { class: "bnicl-cells" }), head = element("tr");
      head.append(element("td"));
      for (let m = 0; m < width(); m++) {
        const cell = element("th", "", { scope: "col" }), button = element("button", named(m), { type: "button",
          "aria-pressed": m === state.target, "aria-label": `predict ${named(m)}` });
        button.addEventListener("click", () => { ask(m); grid.querySelectorAll("th button")[m].focus(); });
        cell.append(button);
        head.append(cell);
      }
      if (!small) {
        const { n_layers, n_heads } = bnicl.weights[current];
        for (let layer = 0; layer < n_layers; layer++)
          for (let h = 0; h < n_heads; h++) head.append(element("th", `L${layer + 1} H${h + 1}`, { scope: "col", class: "bnicl-head", title: `layer ${layer + 1}, head ${h + 1}` }));
        head.append(element("th", "con\u00adstruc\u00adted", { scope: "col", class: "bnicl-head" }));
      }
      table.append(head, line("query", query, -1), ...rows.map((row, i) => line(`${i + 1}`, row, i)));
      table.addEventListener("keydown", walk);
      grid.replaceChildren(table);
    }
    function line(name, row, i) {
      const tr = element("tr", "", i < 0 ? { class: "bnicl-query" } : {});
      tr.append(element("th", name, { scope: "row" }));
      for (let m = 0; m < width(); m++) {
        const cell = element("td");
        if (i >= 0 || m < state.target) {
          const button = element("button", "", { type: "button", "data-row": i, "data-node": m, tabindex: m === 0 && i === (state.target ? -1 : 0) ? 0 : -1 });
          button.addEventListener("click", () => { row[m] = 1 - row[m]; guess = null; show(); });
          cell.append(button);
        } else cell.textContent = m === state.target ? "?" : "";
        tr.append(cell);
      }
      if (!small) for (let k = 0; k < 5; k++) tr.append(element("td", "", { class: "bnicl-weight" }));
      return tr;
    }
    function walk(event) { // arrows go from cell to cell
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const at = event.target.dataset;
      if (!step || at.row === undefined) return;
      const next = grid.querySelector(`button[data-row="${+at.row + step[0]}"][data-node="${+at.node + step[1]}"]`);
      event.preventDefault();
      if (!next) return;
      grid.querySelectorAll("button[data-row]").forEach((button) => { button.tabIndex = button === next ? 0 : -1; });
      next.focus();
    }

    function show() {
      const parents = shape(), m = state.target, family = [...parents[m], m];
      const found = bnicl.solve(current, rows, query, m, small ? 20 : state.beta), codes = bnicl.codes(rows);
      const truth = tables ? tables[m][bnicl.place(parents[m], query)] : null;
      const hidden = state.guessing && guess === null;
      grid.querySelectorAll("button[data-row]").forEach((button) => {
        const i = +button.dataset.row, node = +button.dataset.node, value = (i < 0 ? query : rows[i])[node];
        button.textContent = String(value);
        button.className = `bnicl-value${value}` + (family.includes(node) ? "" : " bnicl-erased");
        button.setAttribute("aria-label", `${i < 0 ? "query" : `row ${i + 1}`}, ${named(node)} is ${label(node, value)}`);
      });
      const lines = [...grid.querySelectorAll("tr")].slice(1);
      const largest = Math.max(...found.attention.flatMap((head) => Object.values(head.row)), ...codes.map((code) => found.built[code]));
      lines.forEach((tr, at) => {
        const i = at - 1, match = i >= 0 && parents[m].every((p) => rows[i][p] === query[p]);
        tr.classList.toggle("bnicl-match", match);
        const weights = i < 0 ? [...found.attention.map((head) => head.query), 0] : [...found.attention.map((head) => head.row[codes[i]]), found.built[codes[i]]];
        tr.querySelectorAll(".bnicl-weight").forEach((cell, k) => {
          cell.textContent = hidden ? "" : weights[k] < 0.0005 ? "0" : weights[k].toFixed(3).replace(/^0/, "");
          cell.style.setProperty("--weight", hidden ? 0 : Math.min(1, weights[k] / largest));
        });
      });
      answers.replaceChildren(...bars(found.p, truth, hidden));
      if (!small) sum.replaceChildren(...(hidden ? [] : parts(found.built, codes, m)));
      said.textContent = hidden ? "Guess first, with the slider; then show the answers." : sentence(found.p, truth);
      if (!root.example) performance.mark("bnicl-answer");
      root.example = { graph: current, parents, rows, query, target: m, beta: state.beta, truth, ...found };
    }
    function sentence(p, truth) {
      const m = state.target, given = query.slice(0, m).map((value, k) => `${named(k)} = ${label(k, value)}`).join(", ");
      return `With ${rows.length} ${rows.length === 1 ? "row" : "rows"}, P(${named(m)} = ${label(m, 1)}${given && ` | ${given}`}) is ` +
        `${percent(p["trained transformer"])} for the trained transformer, ${percent(p["posterior mean"])} for the posterior mean and ` +
        `${Number.isNaN(p.MLE) ? "undefined" : percent(p.MLE)} for the MLE${truth === null ? "" : `; the truth is ${percent(truth)}`}.`;
    }
    function bars(p, truth, hidden) {
      const made = [element("p", `P(${named(state.target)} = ${label(state.target, 1)})`, { class: "bnicl-title" })];
      if (state.guessing) {
        const bar = element("div", "", { class: "bnicl-answer" }), value = element("span", (guess ?? 0.5).toFixed(2));
        const input = element("input", "", { type: "range", min: 0, max: 1, step: 0.01, value: guess ?? 0.5, "aria-label": "your guess" });
        const check = element("button", "show the answers", { type: "button" });
        input.addEventListener("input", () => { value.textContent = (+input.value).toFixed(2); });
        check.addEventListener("click", () => { guess = +input.value; show(); });
        bar.append(element("span", "your guess"), input, value);
        made.push(bar, ...(hidden ? [check] : []));
      }
      for (const [name, value] of Object.entries(p)) {
        const bar = element("div", "", { class: "bnicl-answer" }), room = element("div", "", { class: "bnicl-room" });
        if (!hidden) {
          room.append(element("div", "", { style: `width:${100 * (value || 0)}%;background:${COLORS[name]}` }));
          if (truth !== null) room.append(element("i", "", { style: `left:${100 * truth}%` }));
        }
        bar.append(element("span", name.replace(" transformer", "")), room, element("span", hidden ? "" : percent(value)));
        made.push(bar);
      }
      if (truth !== null && !hidden) made.push(element("p", "The vertical line marks the truth.", { class: "bnicl-note" }));
      return made;
    }
    function parts(built, codes, m) { // attention times value, row by row: the constructed transformer's answer
      const strip = element("div", "", { class: "bnicl-strip" });
      const order = rows.map((_, i) => i).sort((a, b) => rows[b][m] - rows[a][m] || a - b);
      order.forEach((i) => {
        const weight = built[codes[i]];
        if (weight > 0.0005) strip.append(element("div", weight > 0.03 ? `${i + 1}` : "", { class: `bnicl-value${rows[i][m]}`, style: `width:${100 * weight}%`, title: `row ${i + 1}: ${weight.toFixed(3)} × ${rows[i][m]}` }));
      });
      return [element("p", "Shaded: the attention to each row, and to the query itself. L1 H2 is head 2 of layer 1 of the trained transformer.", { class: "bnicl-note" }),
        ...(own ? [element("p", `Edges: ${edges().join(", ") || "none"}. ${own.names.map((name, k) => `${name}: 0 is ${own.labels[k][0]}, 1 is ${own.labels[k][1]}`).join("; ")}.`, { class: "bnicl-note" })] : []),
        element("p", `The constructed transformer's answer is a sum over rows, attention times value: the dark part of this strip, whose segments are the rows.`, { class: "bnicl-note" }), strip,
        element("p", `Values that layer 1 of the construction erases are struck through; rows that agree on the parents have a bar at the left.`, { class: "bnicl-note" })];
    }
    changed();
  }
  document.querySelectorAll(".bnicl-live").forEach(start);
})();
