// The transformers of this book, run in the page for five nodes of two states, and the estimators beside them.
(() => {
  const M = 5, STATES = Array.from({ length: 1 << M }, (_, s) => Array.from({ length: M }, (_, m) => (s >> (M - 1 - m)) & 1));

  // --- the trained one: a multiset of rows that attend to themselves, and a query that attends to them --------------
  const entries = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return Float64Array.from(new Float32Array(bytes.buffer)); // sums in double precision
  };
  // y += x W for the part of a matrix [.., x.length, y.length] that begins at `from`.
  function add(y, x, W, from = 0) {
    for (let i = 0; i < x.length; i++) {
      const at = from + i * y.length;
      if (x[i]) for (let j = 0; j < y.length; j++) y[j] += x[i] * W[at + j];
    }
    return y;
  }
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  function softmax(scores) {
    const most = Math.max(...scores), weights = scores.map((s) => Math.exp(s - most));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / total);
  }

  function trained({ d_model, n_layers, n_heads, d_head, d_mlp, matrices }) {
    const W = Object.fromEntries(Object.entries(matrices).map(([name, text]) => [name, entries(text)]));
    const heads = Array.from({ length: n_heads }, (_, h) => h);
    const of = (layer, name) => W[`blocks.${layer}.${name}`];
    const head = (x, layer, name, h) => add(new Float64Array(d_head), x, of(layer, `attn.${name}`), h * d_model * d_head);
    function embed(states, target) { // a column: the one-hot values, and the target's flag
      const column = new Float64Array(3 * M + 1);
      states.forEach((value, m) => { column[2 * m + value] = 1; });
      column[2 * M + target] = 1;
      return add(new Float64Array(d_model), column, W.W_E);
    }
    function block(x, layer, z) { // the stream after a layer whose heads read z
      heads.forEach((h) => add(x, z[h], of(layer, "attn.W_O"), h * d_head * d_model));
      const hidden = add(of(layer, "mlp.b_in").slice(), x, of(layer, "mlp.W_in")).map((v) => Math.max(v, 0));
      return add(add(x, hidden, of(layer, "mlp.W_out")), [1], of(layer, "mlp.b_out"));
    }
    // Keys and values of every row there can be: the KV cache of all contexts.
    const cache = STATES.map((states) => {
      const x = embed(states, M);
      return Array.from({ length: n_layers }, (_, layer) => {
        const [k, v] = ["W_K", "W_V"].map((name) => heads.map((h) => head(x, layer, name, h)));
        block(x, layer, v);
        return { k, v };
      });
    });
    // P(target = 1 | query) after rows, and the attention of each head: to one row of each state, and to the query.
    return (counts, query, target) => {
      const seen = STATES.map((_, s) => s).filter((s) => counts[s]);
      const log_n = Math.log(counts.reduce((a, b) => a + b, 0) + 1);
      const x = embed(query.slice(0, target), target), attention = [];
      for (let layer = 0; layer < n_layers; layer++) {
        const z = heads.map((h) => {
          const sharper = 1 + of(layer, "attn.tau")[h] * log_n;
          const q = head(x, layer, "W_Q", h).map((value) => value * sharper);
          const own = head(x, layer, "W_V", h);
          const scores = seen.map((s) => dot(q, cache[s][layer].k[h]) + Math.log(counts[s]));
          const pattern = softmax([...scores, dot(q, head(x, layer, "W_K", h))]);
          const mean = own.map((value) => value * pattern[seen.length]);
          seen.forEach((s, i) => cache[s][layer].v[h].forEach((value, j) => { mean[j] += pattern[i] * value; }));
          attention.push({
            layer, head: h, query: pattern[seen.length],
            row: Object.fromEntries(seen.map((s, i) => [s, pattern[i] / counts[s]])),
          });
          return mean;
        });
        block(x, layer, z);
      }
      const out = add(new Float64Array(2 * M), x, W.W_U);
      return { p: softmax([out[2 * target], out[2 * target + 1]])[1], attention };
    };
  }

  // --- the constructed one, its first layer and its head starts at infinity: rows that agree on the parents ----------
  function constructed(parents, counts, query, target, beta) {
    const agree = STATES.map((row) => parents[target].filter((p) => row[p] === query[p]).length);
    const most = Math.max(...STATES.map((_, s) => (counts[s] ? agree[s] : -1)));
    const weights = STATES.map((_, s) => Math.exp(beta * (agree[s] - most)));
    const total = weights.reduce((sum, w, s) => sum + w * counts[s], 0);
    const row = weights.map((w) => w / total);
    return { p: row.reduce((sum, w, s) => sum + w * counts[s] * STATES[s][target], 0), row };
  }

  // The share of ones among the rows that agree on the nodes `given`, with `alpha` more of each value; NaN for 0 / 0.
  function share(given, counts, query, target, alpha) {
    let all = 2 * alpha, ones = alpha;
    STATES.forEach((row, s) => {
      if (given.every((p) => row[p] === query[p])) { all += counts[s]; ones += counts[s] * row[target]; }
    });
    return ones / all;
  }

  const ready = {};
  Object.assign(bnicl, {
    codes: (rows) => rows.map((row) => row.reduce((code, value) => 2 * code + value, 0)),
    // Every answer to a query after rows: P(target = 1), and what the transformers look at.
    solve(graph, rows, query, target, beta = 20) {
      const { parents } = bnicl.weights[graph], counts = new Array(1 << M).fill(0);
      bnicl.codes(rows).forEach((code) => { counts[code] += 1; });
      const run = (ready[graph] ??= trained(bnicl.weights[graph]))(counts, query, target);
      const built = constructed(parents, counts, query, target, beta);
      const before = Array.from({ length: target }, (_, m) => m);
      return {
        attention: run.attention, built: built.row,
        p: {
          "trained transformer": run.p,
          "constructed transformer": built.p,
          "posterior mean": share(parents[target], counts, query, target, 0.5),
          "MLE": share(parents[target], counts, query, target, 0),
          "naive": share(before, counts, query, target, 0),
        },
      };
    },
  });
})();
