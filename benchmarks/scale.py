"""The sparse construction on every network that pgmpy ships: is it exact, and what does it cost?

For each network: contexts of rows of its own, the causal construction in float32, and for every node queries with and
without a matching row, against the counting MLE in l1 norm. Seconds are those of the shorter context. Writes
results/scale.csv.
"""

import json
import resource
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

import bnicl
from bnicl.batch.runs import environment
from bnicl.networks.sources import GRAPHS

RESULTS = Path(__file__).resolve().parents[1] / "results"
LENGTHS, N_QUERIES = (200, 10_000), 4
COLUMNS = (
    "network", "nodes", "edges", "S", "weights", "dense_weights", "megabytes",
    "load_s", "build_s", "answer_s", "worst_l1", "peak_gib",
)  # fmt: skip


def counted(net: bnicl.BayesianNetwork, context: Tensor, query: Tensor, target: int) -> Tensor:
    """The counting MLE of one node, from the columns of its family alone."""
    family, last = [*net.parents[target], target], len(net.parents[target])
    parents = (*((),) * last, tuple(range(last)))
    small = bnicl.BayesianNetwork(
        tuple(net.names[m] for m in family), parents, tuple(net.cardinalities[m] for m in family)
    )
    rows = context[:, family].expand(len(query), -1, -1)
    return bnicl.MaximumLikelihood(small, "nearest").predict_proba(rows, query[:, family], last)


def measure(name: str) -> tuple[object, ...]:
    """One line of the table."""
    begin = time.perf_counter()
    net = bnicl.load_network(name)
    loaded = time.perf_counter()
    transformer = bnicl.construct_mle_transformer(
        net, epsilon=2e-5, max_context=max(LENGTHS), variant="causal", dtype=torch.float32, sparse=True
    )
    built = time.perf_counter()
    rows = bnicl.forward_sample(net, max(LENGTHS) + N_QUERIES // 2, seed=0)
    query = torch.cat([rows[: N_QUERIES // 2], rows[max(LENGTHS) :]])
    answer_s, worst = [], 0.0
    for n in LENGTHS:
        begun = time.perf_counter()
        answer = transformer.counted(bnicl.Counts.of([rows[:n]], net))
        answers = [answer(query, target) for target in range(net.n_nodes)]
        answer_s.append(time.perf_counter() - begun)
        exact = [counted(net, rows[:n], query, target) for target in range(net.n_nodes)]
        worst = max(worst, *((a - e).abs().sum(-1).max().item() for a, e in zip(answers, exact, strict=True)))
    weights = list(transformer.model.buffers())
    stored = sum(weight._nnz() if weight.is_sparse else weight.numel() for weight in weights)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        name, net.n_nodes, len(net.edges), sum(net.cardinalities), stored, sum(w.numel() for w in weights),
        # a sparse entry holds its value and its row and column (three indices where there are heads)
        sum(w._nnz() * (4 + 8 * w.ndim) if w.is_sparse else w.numel() * 4 for w in weights) / 1e6,
        loaded - begin, built - loaded, answer_s[0], worst, peak,
    )  # fmt: skip


def main() -> None:
    begin = time.perf_counter()
    names = [name for name in bnicl.network_names() if name not in GRAPHS]
    lines = [measure(name) for name in tqdm(names)]
    table = pd.DataFrame(lines, columns=list(COLUMNS)).sort_values("nodes")
    table.to_csv(RESULTS / "scale.csv", index=False, float_format="%.4g")
    seconds = round(time.perf_counter() - begin, 1)
    made = {"table": "scale.csv", "made by": "make bench", "rows": LENGTHS, "queries": N_QUERIES, "seconds": seconds}
    (RESULTS / "scale.json").write_text(json.dumps({**made, **environment()}, indent=2) + "\n")
    print(table.to_string(index=False))
    print(f"all {len(table)} networks: {seconds} s, worst error {table['worst_l1'].max():.2g}, "
          f"{table['peak_gib'].max():.2f} GiB at most")  # fmt: skip


if __name__ == "__main__":
    main()
