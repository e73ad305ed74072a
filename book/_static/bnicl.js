// What all pages share: keyboard access to what scrolls, equations that fit, and the parts that the interactive examples
// are made of. No dependencies.
addEventListener("load", () => {
  bnicl.fit = (root) => { // an equation that is wider than its place is set smaller
    const wide = [...root.querySelectorAll("div.math mjx-container")];
    wide.forEach((box) => { box.style.fontSize = box.dataset.size ??= box.style.fontSize; }); // MathJax's own
    wide.map((box) => [box, box.clientWidth / box.scrollWidth, parseFloat(getComputedStyle(box).fontSize)])
      .forEach(([box, share, size]) => { if (share < 0.999) box.style.fontSize = `${Math.max(9, 0.98 * share * size)}px`; });
  };
  const article = document.querySelector("article"), fit = () => bnicl.fit(article);
  if (article) window.MathJax?.startup?.promise?.then(fit);
  if (article) addEventListener("resize", fit);
  for (const box of document.querySelectorAll("article table, article div, article pre"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto") box.tabIndex = 0;
  for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
});

window.bnicl = (() => {
  const random = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  // P(X = 1) for every joint state of the parents, from Dirichlet(1/2) as in training, and n rows.
  function network(parents, n, seed) {
    const next = random(seed);
    const tables = parents.map((own) => Array.from({ length: 2 ** own.length }, () => Math.sin((next() * Math.PI) / 2) ** 2));
    const rows = Array.from({ length: n }, () => {
      const row = [];
      parents.forEach((own, m) => row.push(next() < tables[m][place(own, row)] ? 1 : 0));
      return row;
    });
    return { tables, rows };
  }
  const place = (nodes, row) => nodes.reduce((sum, p) => 2 * sum + row[p], 0);
  const element = (tag, text, attributes = {}, space) => {
    const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
    if (text) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  // Labelled inputs that write into `state` and draw again; `sync` shows what the state says.
  function controls(state, draw) {
    const box = element("div", "", { class: "bnicl-controls" }), shown = [];
    const add = (name, input, show) => {
      const label = element("label", name + " ");
      label.append(input);
      box.append(label);
      shown.push(() => show(input, label));
      show(input, label);
      return input;
    };
    const sync = () => shown.forEach((show) => show());
    const write = (key, value) => { state[key] = value; sync(); draw(key); };
    return {
      box, sync,
      select(name, key, options) {
        const input = element("select");
        options.forEach((option) => input.append(element("option", String(option), { value: option })));
        input.addEventListener("change", () => write(key, input.value));
        return add(name, input, () => { input.value = state[key]; });
      },
      // A slider over a list of values, or from `min` to `max`; its value stands beside it.
      slider(name, key, min, max, step, values = null) {
        const input = element("input", "", { type: "range", ...(values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step }) });
        const output = element("output");
        const nearest = (value) => values.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(values[best] - value) ? i : best), 0);
        input.addEventListener("input", () => write(key, values ? values[+input.value] : +input.value));
        return add(name, input, (_, label) => {
          input.value = values ? nearest(state[key]) : state[key];
          input.setAttribute("aria-valuetext", state[key]);
          output.textContent = state[key];
          label.append(output);
        });
      },
      toggle(name, key, color) {
        const input = element("input", "", { type: "checkbox" });
        input.addEventListener("change", () => write(key, input.checked));
        return add(name, input, (_, label) => {
          input.checked = state[key];
          if (color) label.style.borderBottom = `3px solid ${color}`; // the key to the curves
        });
      },
      button(name, act) {
        const input = element("button", name, { type: "button" });
        input.addEventListener("click", () => { act(); sync(); draw(); });
        box.append(input);
        return input;
      },
    };
  }
  return { network, place, element, controls };
})();
