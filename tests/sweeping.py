"""A small notebook and sweeps of it, for the tests: runs of a second, with a log of what was executed."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PARAMETERS = """\
seed: int = 0  # of everything
power: int = 2  # of the seed
seconds: float = 0.1  # that a run takes
fails: int = -1  # the seed whose run raises
log: str = ""  # a file that says what was executed"""
CELLS = [
    'import os\nimport time\n\nwith open(log, "a") as file:\n    file.write(f"{seed}\\n")',
    'print("before")\ntime.sleep(seconds)\n'
    'while seed > 0 and os.path.exists(f"{log}.hold"):  # a test holds the runs\n    time.sleep(0.05)\n'
    'assert seed != fails, "not this seed"',
    'path = os.path.join(os.environ["BNICL_RUN"], "squares.csv")\n'
    'with open(path, "w") as file:\n'
    '    file.write(f"digit,value\\n0,{seed ** power}\\n1,{seed ** power / 3!r}\\n")',
]


def write_notebook(path: Path) -> None:
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Squares"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *(new_code_cell(cell) for cell in CELLS),
        ],
        metadata={"kernelspec": KERNEL},
    )
    nbformat.write(notebook, path)


def another_python3(folder: Path) -> Path:
    """A folder for JUPYTER_PATH with a kernel spec called python3 that starts a program which is no kernel."""
    spec = folder / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    started = {"argv": [sys.executable, "-c", "raise SystemExit('another python3')", "{connection_file}"]}
    (spec / "kernel.json").write_text(json.dumps({**KERNEL, **started}))
    return folder / "jupyter"


class Sweeping:
    """A folder with the notebook and a sweep file, the command, and what came of it."""

    def __init__(self, folder: Path, seeds: int = 4, **given: float) -> None:
        self.folder = folder
        write_notebook(folder / "squares.ipynb")
        self.write(seeds, "", **given)

    def write(self, seeds: int = 4, extra: str = "", **given: float) -> None:
        sets = {"log": str(self.folder / "log"), **given}
        lines = ["chapter: squares.ipynb", "profile: smoke", "table: squares", f"seeds: {list(range(seeds))}", extra]
        (self.folder / "sweep.yml").write_text("\n".join([*lines, f"sets: [{sets}]\n"]))

    def call(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "bnicl", "sweep", "sweep.yml", "--results", "results", *options]

    def start(self, *options: str, **settings: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.call(*options),
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **settings,  # type: ignore[call-overload]
        )

    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.call(*options), cwd=self.folder, text=True, capture_output=True, check=False, timeout=120
        )

    @property
    def hold(self) -> Path:
        """While this file is there, no run ends but that of seed 0."""
        return self.folder / "log.hold"

    def executed(self) -> Counter[str]:
        """How often the run of each seed began."""
        log = self.folder / "log"
        return Counter(log.read_text().split() if log.exists() else [])

    def finished(self) -> set[str]:
        """The seeds whose runs have finished."""
        manifests = (json.loads(path.read_text()) for path in self.runs.glob("squares-*/manifest.json"))
        return {str(manifest["parameters"]["seed"]) for manifest in manifests if manifest["status"] == "finished"}

    @property
    def table(self) -> list[str]:
        """The collected table, less the runs' names: these hold the path of the log."""
        rows = (self.folder / "results" / "sweep.csv").read_text().splitlines()
        return [row.split(",", 1)[1] for row in rows]

    @property
    def runs(self) -> Path:
        return self.folder / "runs" / "sweep"


def expected(seeds: int = 4) -> list[str]:
    """The table of an undisturbed sweep."""
    rows = [[f"{seed},0,{seed**2}", f"{seed},1,{seed**2 / 3!r}"] for seed in range(seeds)]
    return ["seed,digit,value", *(row for pair in rows for row in pair)]


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


class Cluster:
    """A scheduler and workers as processes of their own, over TCP on loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def _start(self, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "cluster.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        self.processes.append(process)
        return process

    def scheduler(self) -> "subprocess.Popen[bytes]":
        return self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def worker(self, threads: int = 1, **environment: str) -> "subprocess.Popen[bytes]":
        scratch = ("--local-directory", str(self.folder / "scratch"))
        return self._start(
            "worker", self.address, "--nthreads", str(threads), "--no-dashboard", *scratch, **environment
        )

    def wait_for(self, n_workers: int) -> None:
        """Returns when the workers have said hello, which a process of its own waits for."""
        wait = f"from distributed import Client; Client({self.address!r}, timeout=30).wait_for_workers({n_workers}, 60)"
        subprocess.run([sys.executable, "-c", wait], check=True, capture_output=True, timeout=90)

    def stop(self) -> None:
        """A worker that lost its scheduler in the middle of a run may not listen: it is killed, with its children."""
        for process in reversed(self.processes):
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                for each in children:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
                process.kill()
                process.wait()
