"""Speed beside a named peer, both in one run: `make bench`.

Each line is the median of at least five repetitions of ours and of the peer's, taken in turn. The table
goes to results/benchmarks.csv with its provenance in results/benchmarks.json, and into the README.
"""

import json
import subprocess
import sys
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
from bnicl.runs import environment

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
    """Seconds to import, in a fresh interpreter."""

    def load(module: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {module}"], check=True)

    return compare(load("bnicl"), load("pgmpy.models"), 5)


BENCHMARKS: dict[str, tuple[Callable[[], tuple[float, float]], str, str]] = {
    "fit chain7, 1,024 contexts of 200 rows": (
        lambda: counting("chain7", 1024, 200, 16),
        "contexts/s",
        "ratio >= 1000",
    ),
    "fit alarm, 64 contexts of 1,000 rows": (lambda: counting("alarm", 64, 1000, 4), "contexts/s", ""),
    "sample 64 fresh chain7 networks, 201 rows each": (sampling, "ms", "ours <= 3"),
    "import": (importing, "s", "ours <= 3"),
}


def measure() -> pd.DataFrame:
    """One line for each benchmark: ours, the peer's, how many times better ours is, and the target."""
    lines = []
    for name, (run, unit, target) in (progress := tqdm(BENCHMARKS.items())):
        progress.set_description(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pgmpy's, of its own parts
            ours, peer = run()
        ratio = ours / peer if unit.endswith("/s") else peer / ours
        met = {"": "", "ratio >= 1000": ratio >= 1000, "ours <= 3": ours <= 3}[target]
        lines.append((name, unit, ours, "pgmpy", peer, ratio, target, met))
    columns = ["benchmark", "unit", "ours", "peer", "peer's", "ratio", "target", "met"]
    return pd.DataFrame(lines, columns=columns)


def as_markdown(table: pd.DataFrame) -> str:
    """The table as the README shows it, three digits each."""
    lines = ["| | unit | bnicl | pgmpy | times better | target |", "|---|---|---|---|---|---|"]
    for line in table.fillna("").to_dict("records"):
        numbers = (
            f"{line[key]:,.3g}" if line[key] < 1000 else f"{line[key]:,.0f}" for key in ("ours", "peer's", "ratio")
        )
        verdict = f"{line['target']}: {'met' if line['met'] else 'missed'}" if line["target"] else ""
        lines.append(f"| {line['benchmark']} | {line['unit']} | {' | '.join(numbers)} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    table = measure()
    print(table.round(3).to_string(index=False))
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "benchmarks.csv", index=False, float_format="%.6g")
    made = {"table": "benchmarks.csv", "made by": "make bench", "threads": torch.get_num_threads(), **environment()}
    made["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    (RESULTS / "benchmarks.json").write_text(json.dumps(made, indent=2) + "\n")
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(START)
    shown = as_markdown(pd.read_csv(RESULTS / "benchmarks.csv"))
    (ROOT / "README.md").write_text(f"{before}{START}\n{shown}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
