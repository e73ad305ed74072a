"""Speed beside a named peer, both in one run: `make bench`.

Each line is the median of at least five repetitions of ours and of the peer's, taken in turn. The table
goes to results/benchmarks.csv with its provenance in results/benchmarks.json, and into book/benchmarks.md.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from tqdm import tqdm

import bnicl
from bnicl.batch.runs import environment
from bnicl.files import write_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
START, END = "<!-- benchmarks: written by make bench -->", "<!-- /benchmarks -->"


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(ours: Callable[[], object], peer: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median seconds of both, after one call of each to warm up."""
    ours()
    peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repetitions)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def counting(name: str, n_contexts: int, n_rows: int, fitted: int) -> tuple[float, float]:
    """Contexts per second: ours fits all of them at once, pgmpy `fitted` of them one by one."""
    from pgmpy.models import DiscreteBayesianNetwork

    net = bnicl.load_network(name)
    contexts = bnicl.NetworkPrior(net).sample(n_contexts, n_rows, seed=0).rows
    frames = [pd.DataFrame(rows.numpy(), columns=list(net.names)) for rows in contexts[:fitted]]
    edges = [(net.names[parent], net.names[child]) for parent, child in net.edges]

    def one_by_one() -> None:
        for frame in frames:
            DiscreteBayesianNetwork(edges).fit(frame)

    learner = bnicl.MaximumLikelihood(net, "uniform")
    ours, peer = compare(lambda: learner.fit(contexts), one_by_one, 7)
    return n_contexts / ours, fitted / peer


def counting_beside_pyagrum(name: str, n_contexts: int, n_rows: int) -> tuple[float, float]:
    """Contexts per second: ours fits all of them at once, pyAgrum one of them again and again."""
    net = bnicl.load_network(name)
    contexts = bnicl.NetworkPrior(net).sample(n_contexts, n_rows, seed=0).rows
    learner = bnicl.MaximumLikelihood(net, "uniform")
    learner.fit(contexts)
    with tempfile.TemporaryDirectory() as folder:
        bif, rows = Path(folder) / "net.bif", Path(folder) / "rows.csv"
        bnicl.write_bif(bif, net)
        write_rows(rows, net, contexts[0])
        call = [sys.executable, "-W", "ignore", "-m", "benchmarks.agrum", "fit", str(bif), str(rows), "25"]
        pairs = [(seconds(lambda: learner.fit(contexts)), float(subprocess.check_output(call, cwd=ROOT)))
                 for _ in range(7)]  # fmt: skip
    return n_contexts / median(pair[0] for pair in pairs), 1 / median(pair[1] for pair in pairs)


def sampling() -> tuple[float, float]:
    """Milliseconds for 64 chain7 networks with fresh tables, 201 rows each; pgmpy samples one by one."""
    from pgmpy.sampling import BayesianModelSampling

    net = bnicl.load_network("chain7")
    source, generator = bnicl.NetworkPrior(net), bnicl.make_generator(0)

    def one_by_one() -> None:
        for _ in range(64):
            model = net.with_random_cpts(seed=generator).to_pgmpy()
            BayesianModelSampling(model).forward_sample(201, show_progress=False)

    ours, peer = compare(lambda: source.sample(64, 201, generator), one_by_one, 7)
    return 1000 * ours, 1000 * peer


def importing() -> tuple[float, float]:
    """Seconds to import and to name a first function, in a fresh interpreter."""

    def load(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)

    return compare(load("import bnicl; bnicl.forward_sample"), load("import pgmpy.models"), 5)


def generating() -> tuple[float, float]:
    """Seconds for 1,000 rows of alarm from a context of 1,000; pgmpy fits the context and simulates."""
    from pgmpy.models import DiscreteBayesianNetwork

    net = bnicl.load_network("alarm")
    context = bnicl.forward_sample(net, 1000, seed=0)
    frame = pd.DataFrame(context.numpy(), columns=list(net.names))
    edges = [(net.names[parent], net.names[child]) for parent, child in net.edges]
    transformer = bnicl.construct_mle_transformer(
        net, 1e-4, max_context=1000, variant="causal", dtype=torch.float32, sparse=True
    )

    def fit_and_simulate() -> None:
        model = DiscreteBayesianNetwork(edges)
        model.fit(frame)
        model.simulate(1000, show_progress=False)

    return compare(lambda: bnicl.generate(transformer, context, 1000, seed=0), fit_and_simulate, 7)


def exponents() -> pd.DataFrame:
    """How the seconds to generate grow with context rows, new rows and nodes: slopes on a log-log scale."""

    def spent(nodes: int, context_rows: int, new_rows: int) -> float:
        net = bnicl.BayesianNetwork.from_edges([(f"n{i}", f"n{i + 1}") for i in range(nodes - 1)], 3)
        rows = bnicl.forward_sample(net.with_random_cpts(seed=0), context_rows, seed=0)
        transformer = bnicl.construct_mle_transformer(
            net, 1e-3, max_context=context_rows, variant="causal", dtype=torch.float32, sparse=True
        )
        return min(seconds(lambda: bnicl.generate(transformer, rows, new_rows, seed=0)) for _ in range(5))

    sizes = {
        "context rows": [(20, n, 100) for n in (10_000, 20_000, 40_000, 80_000)],
        "new rows": [(20, 100, n) for n in (50_000, 100_000, 200_000, 400_000)],
        "nodes": [(n, 200, 200) for n in (50, 100, 200, 400)],
    }
    lines = []
    for axis, (name, points) in zip((1, 2, 0), sizes.items(), strict=True):
        x = torch.tensor([float(point[axis]) for point in points]).log()
        y = torch.tensor([spent(*point) for point in points]).log()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        lines.append((name, points[0][axis], points[-1][axis], slope.item()))
    return pd.DataFrame(lines, columns=["grows with", "from", "to", "exponent"])


BENCHMARKS: list[tuple[str, Callable[[], tuple[float, float]], str, str, str]] = [
    ("fit chain7, 1,024 contexts of 200 rows", lambda: counting("chain7", 1024, 200, 16), "contexts/s", "pgmpy",
     "ratio >= 1000"),
    ("fit chain7, 1,024 contexts of 200 rows", lambda: counting_beside_pyagrum("chain7", 1024, 200), "contexts/s",
     "pyAgrum", ""),
    ("fit alarm, 64 contexts of 1,000 rows", lambda: counting("alarm", 64, 1000, 4), "contexts/s", "pgmpy", ""),
    ("fit alarm, 64 contexts of 1,000 rows", lambda: counting_beside_pyagrum("alarm", 64, 1000), "contexts/s",
     "pyAgrum", ""),
    ("sample 64 fresh chain7 networks, 201 rows each", sampling, "ms", "pgmpy", "ours <= 3"),
    ("generate 1,000 alarm rows from 1,000", generating, "s", "pgmpy", "ratio >= 1"),
    ("import", importing, "s", "pgmpy", "ours <= 3"),
]  # fmt: skip


def measure() -> pd.DataFrame:
    """One line for each benchmark: ours, the peer's, how many times better ours is, and the target."""
    lines = []
    for name, run, unit, peer_name, target in (progress := tqdm(BENCHMARKS)):
        progress.set_description(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pgmpy's, of its own parts
            ours, peer = run()
        ratio = ours / peer if unit.endswith("/s") else peer / ours
        met = {"": "", "ratio >= 1000": ratio >= 1000, "ratio >= 1": ratio >= 1, "ours <= 3": ours <= 3}[target]
        lines.append((name, unit, ours, peer_name, peer, ratio, target, met))
    columns = ["benchmark", "unit", "ours", "peer", "peer's", "ratio", "target", "met"]
    return pd.DataFrame(lines, columns=columns)


def as_markdown(table: pd.DataFrame) -> str:
    """The table as the README shows it, three digits each."""
    lines = ["| | unit | bnicl | peer | the peer's | times better | target |", "|---|---|---|---|---|---|---|"]
    for line in table.fillna("").to_dict("records"):
        own, theirs, ratio = (
            f"{line[key]:,.3g}" if line[key] < 1000 else f"{line[key]:,.0f}" for key in ("ours", "peer's", "ratio")
        )
        verdict = f"{line['target']}: {'met' if line['met'] else 'missed'}" if line["target"] else ""
        lines.append(
            f"| {line['benchmark']} | {line['unit']} | {own} | {line['peer']} | {theirs} | {ratio} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    table = measure()
    print(table.round(3).to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "benchmarks.csv", index=False, float_format="%.6g")
    growth = exponents()
    print(growth.round(2).to_string(index=False))
    growth.to_csv(RESULTS / "generation-exponents.csv", index=False, float_format="%.3g")
    made = {
        "table": "benchmarks.csv, generation-exponents.csv",
        "made by": "make bench",
        "threads": torch.get_num_threads(),
        **environment(),
    }
    made["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    (RESULTS / "benchmarks.json").write_text(json.dumps(made, indent=2) + "\n")
    readme = (ROOT / "book" / "benchmarks.md").read_text()
    before, rest = readme.split(START)
    shown = as_markdown(pd.read_csv(RESULTS / "benchmarks.csv"))
    (ROOT / "book" / "benchmarks.md").write_text(f"{before}{START}\n{shown}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
