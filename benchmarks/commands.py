"""The commands as whole processes beside pyAgrum's: `make bench`.

Ours and the peer's take turns, after one call of each to warm up; medians of five. The table is results/commands.csv.
"""

import csv
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from tqdm import tqdm

import bnicl
from benchmarks.__main__ import RESULTS, ROOT, seconds
from bnicl.batch.runs import environment
from bnicl.files import write_rows
from bnicl.networks.sources import example_models

REPETITIONS = 5
Row = tuple[str, str, float, str, float, str, bool | str]


def ours(*words: str) -> Callable[[], object]:
    """`bnicl WORDS` as a process."""
    return lambda: subprocess.run([sys.executable, "-m", "bnicl", *words], check=True, capture_output=True)


def peer(*words: str) -> Callable[[], object]:
    """The same by pyAgrum, as a process."""
    call = [sys.executable, "-W", "ignore", "-m", "benchmarks.agrum", *words]
    return lambda: subprocess.run(call, check=True, capture_output=True, cwd=ROOT)


def whole(name: str, mine: Callable[[], object], other: Callable[[], object] | None, most: float) -> Row:
    """Seconds of both, and whether ours are at most `most`."""
    times: list[list[float]] = [[], []]
    for i in range(REPETITIONS + 1):
        for kept, call in zip(times, (mine, other), strict=True):
            if call is not None:
                spent = seconds(call)
                kept.extend([spent] * (i > 0))
    own, theirs = median(times[0]), median(times[1]) if other else float("nan")
    return name, "s", own, "pyAgrum" if other else "", theirs, f"ours <= {most:g}", own <= most


def chain(folder: Path, m: int, n: int) -> tuple[str, str]:
    """A chain of m nodes as a list of edges, and n rows."""
    names = [f"n{i}" for i in range(m)]
    (folder / f"chain{m}.csv").write_text("".join(f"{a},{b}\n" for a, b in pairwise(names)))
    with (folder / f"rows{m}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *torch.randint(2, (n, m), generator=bnicl.make_generator(m)).tolist()])
    return str(folder / f"chain{m}.csv"), str(folder / f"rows{m}.csv")


def shipped(folder: Path, name: str, n: int) -> tuple[str, str]:
    """A shipped network as a BIF file, and n of its rows."""
    bif, rows = folder / f"{name}.bif", folder / f"{name}-rows.csv"
    bif.write_bytes(gzip.decompress((example_models() / f"{name}.bif.gz").read_bytes()))
    net = bnicl.load_network(name)
    write_rows(rows, net, bnicl.forward_sample(net, n, seed=0))
    return str(bif), str(rows)


@contextmanager
def busy() -> Iterator[None]:
    """One other process that never rests."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def generating(folder: Path) -> list[Row]:
    """1,000 alarm rows from 1,000 in a running process: beside pyAgrum's fit and sample, and beside a busy process."""
    bif, rows = shipped(folder, "alarm", 1000)
    net = bnicl.load_network("alarm")
    context = bnicl.forward_sample(net, 1000, seed=0)
    transformer = bnicl.construct_mle_transformer(
        net, 1e-4, max_context=1000, variant="causal", dtype=torch.float32, sparse=True
    )

    def measured() -> float:
        return median(seconds(lambda: bnicl.generate(transformer, context, 1000, seed=0)) for _ in range(25))

    def theirs() -> float:
        call = [sys.executable, "-W", "ignore", "-m", "benchmarks.agrum", "sample", bif, rows, "25"]
        return float(subprocess.check_output(call, text=True, cwd=ROOT))

    measured()
    pairs = [(measured(), theirs()) for _ in range(REPETITIONS)]
    own, other = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    with busy():
        time.sleep(0.5)
        loaded = measured()
    name = "generate 1,000 alarm rows from 1,000"
    return [
        (name, "s", own, "pyAgrum", other, "ratio >= 1", other / own >= 1),
        (f"{name}, beside a busy process", "s", loaded, "idle", own, "at most 2 times idle", loaded <= 2 * own),
    ]


def querying(folder: Path) -> Row:
    """Distinct queries a second, where parents decide: whole rows of hailfinder up to a node, as a process."""
    bif, rows = shipped(folder, "hailfinder", 10_000)
    net = bnicl.load_network("hailfinder")
    target = max(range(net.n_nodes), key=lambda m: (len(net.parents[m]), m))
    table = pd.read_csv(rows, dtype=str, na_filter=False)[list(net.names[:target])].drop_duplicates()
    table.to_csv(folder / "queries.csv", index=False)
    call = ["predict", "--network", bif, "--context", rows, "--target", net.names[target], "--force"]
    files = ["--queries", str(folder / "queries.csv"), "--out", str(folder / "answers.csv")]
    rate = len(table) / median(seconds(ours(*call, *files)) for _ in range(3))
    name = f"answer {len(table):,} distinct queries that parents decide"
    return name, "queries/s", rate, "", float("nan"), "at least 1,000", rate >= 1000


def measure() -> pd.DataFrame:
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as name, tqdm(total=8) as progress:
        folder = Path(name)

        def done(*rows: Row) -> None:
            lines.extend(rows)
            progress.update()

        done(whole("bnicl --help", ours("--help"), None, 0.5))
        bif, rows = shipped(folder, "asia", 5000)
        for name, target, *given in (
            ("predict on asia, parents given", "dysp", "bronc=yes", "either=no"),
            ("predict on asia, a cause from its effect", "lung", "smoke=yes", "xray=yes"),
        ):
            mine = ours("predict", "--network", "asia", "--context", rows, "--target", target, "--given", *given)
            done(whole(name, mine, peer("predict", bif, rows, target, *given), 2.5))
        edges, rows = chain(folder, 2000, 100)
        mine = ours("predict", "--network", edges, "--context", rows, "--target", "n1500", "--given", "n1499=1")
        other = peer("predict", edges, rows, "n1500", "n1499=1")
        done(whole("predict on a chain of 2,000 columns, 100 rows", mine, other, 3))
        for name, files, most in (
            ("generate 10 rows of 600 columns from 100", chain(folder, 600, 100), 4.0),
            ("generate 10 rows of munin1 from 100", shipped(folder, "munin1", 100), 6.0),
        ):
            into = ["-n", "10", "--force", "--out", str(folder / "new.csv")]
            mine = ours("generate", "--network", files[0], "--context", files[1], *into)
            done(whole(name, mine, peer("generate", *files, "10", str(folder / "peer.csv")), most))
        done(*generating(folder))
        done(querying(folder))
    columns = ["benchmark", "unit", "ours", "peer", "peer's", "target", "met"]
    table = pd.DataFrame(lines, columns=columns)
    ratio = table["ours"] / table["peer's"]
    table.insert(5, "ratio", ratio.where(table["unit"].str.endswith("/s"), 1 / ratio))
    return table


def main() -> None:
    table = measure()
    print(table.round(3).to_string(index=False))
    table.to_csv(RESULTS / "commands.csv", index=False, float_format="%.4g")
    made = {"table": "commands.csv", "made by": "make bench", "threads": torch.get_num_threads(), **environment()}
    made["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    (RESULTS / "commands.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
