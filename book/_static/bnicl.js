// What all pages share: keyboard access to what scrolls, and the parts that the interactive examples are made of.
// No dependencies.
addEventListener("load", () => {
  for (const box of document.querySelectorAll("article table, article div, article pre"))
    if (box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === "auto") box.tabIndex = 0;
  for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
});

window.bnicl = (() => {
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
  // P(X = 1) for every joint state of the parents, and n rows.
  function network(parents, n, seed) {
    const next = random(seed);
    const tables = parents.map((own) => Array.from({ length: 2 ** own.length }, () => 0.1 + 0.8 * next()));
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
  // Labelled inputs that write into `state` and draw again.
  function controls(state, draw) {
    const box = element("div", "", { class: "bnicl-controls" });
    const add = (name, input) => {
      const label = element("label", name + " ");
      label.append(input);
      box.append(label);
      return input;
    };
    const write = (key, value) => { state[key] = value; draw(); };
    return {
      box,
      select(name, key, options) {
        const input = add(name, element("select"));
        options.forEach((option) => input.append(element("option", String(option), { value: option })));
        input.value = state[key];
        input.addEventListener("change", () => write(key, typeof options[0] === "number" ? +input.value : input.value));
      },
      slider(name, key, min, max, step) {
        const input = add(name, element("input", "", { type: "range", min, max, step, value: state[key] }));
        input.addEventListener("input", () => write(key, +input.value));
        return input;
      },
      toggle(name, key, color) {
        const input = add(name, element("input", "", { type: "checkbox" }));
        input.checked = state[key];
        input.parentElement.style.borderBottom = `3px solid ${color}`; // the key to the curves
        input.addEventListener("change", () => write(key, input.checked));
      },
      button(name, act) {
        const input = element("button", name, { type: "button" });
        input.addEventListener("click", () => { act(); draw(); });
        box.append(input);
      },
    };
  }
  return { GRAPHS, network, place, element, controls };
})();
