"""What a sweep costs: per run beside a bare papermill call, from one worker to two, and when nothing is left to do.

The runs are those of a chapter in the profile "smoke", with one thread each. The table goes to results/batch.csv.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pandas as pd

from bnicl.batch import parameters, runs, staleness, sweeps, tables

RESULTS = Path(__file__).resolve().parents[1] / "results"
CHAPTER = "in-context-estimators"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
N_RUNS = 4  # of a sweep
REPETITIONS = 3


def sweep_of(seeds: range, name: str = "batch") -> sweeps.Sweep:
    file = Path(f"{name}.yml")
    file.write_text(
        f"chapter: {CHAPTER}\nprofile: smoke\ntable: estimators\ngrid: {{compared: [chain5]}}\nseeds: {list(seeds)}\n"
    )
    return sweeps.load_sweep(file)


@contextmanager
def cluster(n_workers: int) -> Iterator[str]:
    """The address of a scheduler with warm workers: their start is not part of what is measured."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, memory_limit=0, dashboard_address=None, env=ONE_THREAD
        ) as started,
        Client(started) as client,
    ):
        client.run(staleness.code_version)
        yield started.scheduler_address


def swept(seeds: range, address: str) -> float:
    """Seconds of a sweep from its first run to its collected table."""
    with tempfile.TemporaryDirectory() as out:
        sweep = sweep_of(seeds)
        begin = time.perf_counter()
        failures = sweeps.run_sweep(sweep, out, scheduler=address, progress=False)
        tables.collect(sweep, out, Path(out) / "results")
        assert not failures
        return time.perf_counter() - begin


def bare(seeds: range) -> float:
    """Seconds of the same runs, by papermill alone."""
    import papermill

    begin = time.perf_counter()
    for seed in seeds:
        papermill.execute_notebook(
            str(parameters.chapter_path(CHAPTER)),
            "bare.ipynb",
            parameters={"compared": ["chain5"], "seed": seed},
            progress_bar=False,
        )
    return time.perf_counter() - begin


def nothing_to_do(n_runs: int) -> float:
    """Seconds of the command on a finished sweep: one run is executed, and its folder copied for the others."""
    sweep = sweep_of(range(n_runs), "finished")
    out = Path("runs/finished")
    first = runs.execute(sweep.runs[0], out)
    manifest = json.loads((first / "manifest.json").read_text())
    for run in sweep.runs[1:]:
        (out / run.name).mkdir()
        for path in first.iterdir():
            (out / run.name / path.name).write_bytes(path.read_bytes())
        copied = {**manifest, "name": run.name, "parameters": dict(run.parameters)}
        (out / run.name / "manifest.json").write_text(json.dumps(copied))

    def call() -> float:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bnicl", "sweep", "finished.yml", "--results", "results"],
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - begin

    return median(call() for _ in range(5))


def made_up(sweep: sweeps.Sweep, out: Path) -> None:
    """Folders as finished runs leave them, without the seconds that a kernel takes."""
    table = "predictor,n_context,node,tv\n" + "".join(f"MLE,{n},average,0.1\n" for n in range(8))
    about = {"status": "finished", "seconds": 1.0, "started": "", "commit": "", "versions": {}, "hardware": {}}
    for run in sweep.runs:
        folder = out / run.name
        folder.mkdir(parents=True)
        (folder / "estimators.csv").write_text(table)
        (folder / "chapter.ipynb").write_text("{}")
        own = {
            "chapter": run.chapter,
            "profile": run.profile,
            "parameters": dict(run.parameters),
            "code": dict(run.code),
        }
        tables = {"estimators.csv": staleness.digest(table.encode())}
        (folder / "manifest.json").write_text(json.dumps({**about, **own, "tables": tables}))


def found_and_collected() -> None:
    """Prints the seconds in which a made-up sweep is found finished, and the GiB that collecting it takes."""
    sweep, out = sweeps.load_sweep("scale.yml"), Path("runs/scale")
    begin = time.perf_counter()
    assert len(sweeps.state_of(sweep, out)) == len(sweep)
    took = time.perf_counter() - begin
    tables.collect(sweep, out, "results")
    print(took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def at_scale(n_runs: int) -> tuple[float, float]:
    """Both, in a process of their own."""
    made_up(sweep_of(range(n_runs), "scale"), Path("runs/scale"))
    call = [sys.executable, "-c", "from benchmarks.batch import found_and_collected; found_and_collected()"]
    root = str(RESULTS.parent)
    printed = subprocess.check_output(call, text=True, env={**os.environ, "PYTHONPATH": root})
    took, gib = map(float, printed.split())
    return took, gib


def measure() -> pd.DataFrame:
    os.environ.update(ONE_THREAD, BNICL_PROFILE="smoke")
    idle = nothing_to_do(200)
    found, gib = at_scale(100_000)
    pairs = []
    with cluster(1) as address:
        for repetition in range(REPETITIONS):
            seeds = range(N_RUNS * repetition, N_RUNS * (repetition + 1))
            pairs.append((swept(seeds, address), bare(seeds)))
            print("one worker, papermill alone: " + ", ".join(f"{s / N_RUNS:.2f} s a run" for s in pairs[-1]))
    with cluster(2) as address:
        two = [swept(range(N_RUNS * i, N_RUNS * (i + 1)), address) for i in range(REPETITIONS)]
    one, alone, both = median(p[0] for p in pairs), median(p[1] for p in pairs), median(two)
    overhead, faster = 100 * (one / alone - 1), one / both
    lines = [
        ("a run by papermill alone", alone / N_RUNS, "s", "", ""),
        ("a run in a sweep, one worker", one / N_RUNS, "s", "", ""),
        ("overhead of the sweep", overhead, "%", "at most 10", overhead <= 10),
        ("speed-up from one worker to two", faster, "times", "at least 1.7", faster >= 1.7),
        ("a finished sweep of 200 runs, called again", idle, "s", "at most 3", idle <= 3),
        ("100,000 finished runs are found", found, "s", "at most 60", found <= 60),
        ("100,000 finished runs are collected within", gib, "GiB", "at most 1", gib <= 1),
    ]
    return pd.DataFrame(lines, columns=["measure", "value", "unit", "target", "met"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        table = measure()
        os.chdir(RESULTS)
    table.to_csv(RESULTS / "batch.csv", index=False, float_format="%.3g")
    made = {"table": "batch.csv", "made by": "make bench", "runs": N_RUNS, "repetitions": REPETITIONS}
    made |= {"finished": datetime.now(UTC).isoformat(timespec="seconds"), **runs.environment()}
    (RESULTS / "batch.json").write_text(json.dumps(made, indent=2) + "\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
