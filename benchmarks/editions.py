"""This edition beside the first one, which is the peer here: `python -m benchmarks.editions`.

Each task is a process of its own, the two editions in turn; medians of five. Not part of `make bench`: the first
edition is a commit of the past, and what it took does not change. The table is results/editions.csv, and on the page.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pandas as pd
from tqdm import tqdm

import bnicl
from benchmarks.__main__ import RESULTS, ROOT, as_markdown, seconds
from benchmarks.commands import shipped
from bnicl.batch.runs import environment

FIRST = "63d4ace"  # the last commit of the first edition
REPETITIONS = 5
START, END = "<!-- editions: written by python -m benchmarks.editions -->", "<!-- /editions -->"
# What a process of either edition runs: it prints the seconds of what it measures.
EVALUATE = """
net = bnicl.NetworkPrior(bnicl.load_network("general7"))
run = bnicl.train(bnicl.TrainingConfig(graph="general7", steps=20, records=1))
rivals = {"transformer": run, **bnicl.baselines(net.net)}
rivals.pop("model average", None)
call = lambda: bnicl.evaluate(rivals, net, [5, 20, 100, 500], n_networks=256, seed=0)
"""
STEP = """
call = lambda: bnicl.train(bnicl.TrainingConfig(graph="general7", steps=200, records=1))
"""
TIMED = """
import time
import bnicl
{}
call()
begin = time.perf_counter()
call()
print(time.perf_counter() - begin)
"""


def inside(edition: Path, code: str) -> float:
    """Seconds of the second call, in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(code)]
    return float(subprocess.check_output(command, cwd=edition, env={**os.environ, "PYTHONPATH": str(edition)}))


def whole(edition: Path, *words: str) -> float:
    """Seconds of `bnicl WORDS` as a process."""
    command, env = [sys.executable, "-m", "bnicl", *words], {**os.environ, "PYTHONPATH": str(edition)}
    return seconds(lambda: subprocess.run(command, cwd=edition, env=env, check=True, capture_output=True))


def edges_of(folder: Path) -> str:
    """The graph of ALARM as a list of edges."""
    net = bnicl.load_network("alarm")
    path = folder / "alarm.csv"
    path.write_text("".join(f"{net.names[a]},{net.names[b]}\n" for a, b in net.edges))
    return str(path)


def show() -> None:
    """Puts the table into the book's page of benchmarks."""
    page = ROOT / "book" / "benchmarks.md"
    before, rest = page.read_text().split(START)
    shown = as_markdown(pd.read_csv(RESULTS / "editions.csv"))
    page.write_text(f"{before}{START}\n{shown}\n{END}{rest.split(END)[1]}")


def main() -> None:
    begin, lines = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder, first = Path(name), Path(name) / "first"
        subprocess.run(["git", "worktree", "add", "--detach", str(first), FIRST], cwd=ROOT, check=True)
        try:
            bif, rows = shipped(folder, "alarm", 1_000_000)
            edges = edges_of(folder)
            new = ("-n", "1000", "--out", str(folder / "new.csv"), "--force")
            tasks = {
                "evaluate four predictors on general7, 256 networks": (3.0, lambda e: inside(e, EVALUATE)),
                "200 training steps of the fast recipe, general7": (1.0, lambda e: inside(e, STEP)),
                "bnicl generate, a million rows of alarm, BIF": (
                    1.5, lambda e: whole(e, "generate", "--network", bif, "--context", rows, *new)),
                "bnicl generate, a million rows of alarm, edges": (
                    1.5, lambda e: whole(e, "generate", "--network", edges, "--context", rows, *new)),
            }  # fmt: skip
            for task, (least, spend) in tqdm(tasks.items()):
                pairs = [(spend(ROOT), spend(first)) for _ in range(REPETITIONS)]
                ours, theirs = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
                ratio = theirs / ours
                lines.append((task, "s", ours, "first edition", theirs, ratio, f"ratio >= {least:g}", ratio >= least))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(first)], cwd=ROOT, check=True)
    columns = ["benchmark", "unit", "ours", "peer", "peer's", "ratio", "target", "met"]
    pd.DataFrame(lines, columns=columns).round(3).to_csv(RESULTS / "editions.csv", index=False)
    show()
    made: dict[str, object] = {"table": "editions.csv", "made by": "python -m benchmarks.editions"}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    made |= {"seconds": round(time.perf_counter() - begin), "finished": finished, **environment()}
    (RESULTS / "editions.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
