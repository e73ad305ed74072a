"""Sweeps in trouble: whatever dies, fills up or is cut short, calling again gives the undisturbed table.

And no run that has finished is executed twice.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bnicl.batch import cluster as cluster_module
from bnicl.batch.runs import load_results
from tests.sweeping import Cluster, Sweeping, another_python3, expected, wait_until

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The scheduler of a cluster with two workers, for the faults that leave it whole."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.scheduler()
    cluster.worker()
    cluster.worker()
    cluster.wait_for(2)
    yield cluster.address
    cluster.stop()


@pytest.fixture
def sweeping(tmp_path: Path) -> Sweeping:
    return Sweeping(tmp_path, seconds=1.0)


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a client or of a `dask worker`: those with a kernel or the ability to start one."""
    return [child for child in psutil.Process(pid).children() if "spawn_main" in " ".join(child.cmdline())]


def kernels_in(folder: Path) -> list[psutil.Process]:
    """The kernels that execute a run below the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.cwd() and "ipykernel_launcher" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_an_undisturbed_sweep_and_the_same_call_again(sweeping: Sweeping) -> None:
    done = sweeping.run()
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert sweeping.executed() == {str(seed): 1 for seed in range(4)}
    assert "100%" in done.stderr  # the progress bar
    assert "4/4 done" in done.stderr
    made = json.loads((sweeping.folder / "results" / "sweep.json").read_text())["environments"]
    assert [m["hardware"]["threads"] for m in made] == [1]  # as many workers as cores, which share them
    again = sweeping.run()
    assert again.returncode == 0
    assert "collected: 4 of 4 runs" in again.stdout
    assert sweeping.executed().total() == 4
    assert sorted(path.name for path in sweeping.runs.iterdir() if path.name.startswith(".")) == [".lock"]


def test_a_worker_killed_in_the_middle_costs_its_run_only(sweeping: Sweeping) -> None:
    client = sweeping.start("--workers", "2")
    wait_until(sweeping.finished)
    victim = workers_of(client.pid)[0]
    wait_until(victim.children)  # its kernel
    finished = sweeping.finished()
    victim.kill()
    _, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    assert sweeping.table == expected()
    assert sweeping.executed().total() <= 5
    assert all(sweeping.executed()[seed] == 1 for seed in finished)
    assert not kernels_in(sweeping.folder)
    assert not list(sweeping.runs.glob(".*-*"))


def test_a_run_that_kills_its_worker_every_time_is_reported(
    sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killing the worker from the inside, as the system does when memory runs out."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")  # instead of 3, to be done sooner
    notebook = sweeping.folder / "squares.ipynb"
    text = notebook.read_text()
    killing = "import signal\\n__import__('os').kill(__import__('os').getppid(), signal.SIGKILL) if seed == 1 else 0\\n"
    notebook.write_text(text.replace('print(\\"before\\")', killing))
    done = sweeping.run("--workers", "1")
    assert done.returncode == 1
    assert "its worker died again and again" in done.stderr
    assert "collected: 3 of 4 runs" in done.stdout


def test_workers_start_this_python_whatever_spec_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(another_python3(tmp_path)))
    sweeping = Sweeping(tmp_path, seeds=2)
    done = sweeping.run("--workers", "1")
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected(2)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_client_killed_and_called_again(how: signal.Signals, sweeping: Sweeping) -> None:
    sweeping.hold.touch()
    client = sweeping.start("--workers", "2")
    wait_until(sweeping.finished)
    client.send_signal(how)
    client.communicate(timeout=60)
    sweeping.hold.unlink()
    wait_until(lambda: not kernels_in(sweeping.folder))  # nothing of it goes on
    finished = sweeping.finished()
    assert 0 < len(finished) < 4
    before = sweeping.executed().total()
    done = sweeping.run()
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert sweeping.executed().total() == before + 4 - len(finished)
    assert all(sweeping.executed()[seed] == 1 for seed in finished)
    assert not list(sweeping.runs.glob(".*-*"))


def test_an_interrupt_stops_cleanly(sweeping: Sweeping) -> None:
    """Ctrl-C goes to the whole group of processes, workers and all."""
    sweeping.write(seeds=12)  # more than are done before the interrupt arrives
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
    client = sweeping.start("--workers", "2", start_new_session=True)
    signal.signal(signal.SIGINT, before)
    wait_until(sweeping.finished)
    os.killpg(client.pid, signal.SIGINT)
    _, errors = client.communicate(timeout=30)
    assert client.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "bnicl: interrupted; what has finished is kept"
    assert "Traceback" not in errors
    assert not kernels_in(sweeping.folder)
    assert not list(sweeping.runs.glob(".*-*"))
    finished = sweeping.finished()
    assert sweeping.run().returncode == 0
    assert sweeping.table == expected(12)
    assert all(sweeping.executed()[seed] == 1 for seed in finished)


def test_a_run_past_its_time_limit_fails_and_the_rest_goes_on(address: str, sweeping: Sweeping) -> None:
    notebook = sweeping.folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("time.sleep(seconds)", "time.sleep(100 if seed == 1 else 0)"))
    sweeping.write(extra="time_limit: 5")
    done = sweeping.run("--scheduler", address)
    assert done.returncode == 1
    assert "time limit: it took more than 5 s" in done.stderr
    assert "collected: 3 of 4 runs" in done.stdout
    (failed,) = sweeping.runs.glob("*-failed")
    assert "before" in (failed / "chapter.ipynb").read_text()
    assert not kernels_in(sweeping.folder)


def test_a_cell_that_raises_is_reported_and_tried_again_by_the_next_call(address: str, tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path, fails=2)
    done = sweeping.run("--scheduler", address)
    assert done.returncode == 1
    assert "cell 4: AssertionError: not this seed" in done.stderr
    assert "1 failed" in done.stderr
    (failed,) = sweeping.runs.glob("*-failed")
    assert "before" in (failed / "chapter.ipynb").read_text()
    assert "collected: 3 of 4 runs" in done.stdout
    assert sweeping.table == [row for row in expected() if not row.startswith("2,")]
    assert sweeping.executed() == {str(seed): 1 for seed in range(4)}  # not tried again by itself
    assert sweeping.run("--scheduler", address).returncode == 1
    assert sweeping.executed() == {"0": 1, "1": 1, "2": 2, "3": 1}
    notebook = tmp_path / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("assert seed != fails", "assert True"))
    mended = sweeping.run("--scheduler", address)
    assert mended.returncode == 0, mended.stderr
    assert "stale: the chapter has changed since 3 runs" in mended.stdout
    assert sweeping.table == expected()


def test_two_sweeps_in_one_folder(address: str, sweeping: Sweeping) -> None:
    sweeping.hold.touch()
    first = sweeping.start("--scheduler", address)
    wait_until(sweeping.executed)
    second = sweeping.run("--scheduler", address)
    sweeping.hold.unlink()
    assert second.returncode == 2
    (line,) = second.stderr.strip().splitlines()
    assert "another one is at work in" in line
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert sweeping.table == expected()
    assert max(sweeping.executed().values()) == 1


def test_files_cut_short_are_found_and_made_again(address: str, tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path)
    assert sweeping.run("--scheduler", address).returncode == 0
    first, second, third, _ = sorted(sweeping.runs.glob("squares-*"))
    for damaged in (first / "squares.csv", second / "manifest.json"):
        damaged.write_bytes(damaged.read_bytes()[:-5])
    (third / "chapter.ipynb").unlink()
    table = tmp_path / "results" / "sweep.csv"
    table.write_bytes(table.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"sweep\.csv is not the table that sweep\.json describes"):
        load_results(str(table))
    done = sweeping.run("--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert sweeping.executed().total() == 4 + 3
    assert len(load_results(str(table))) == 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "runs"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills(address: str, small_disk: Path, tmp_path: Path) -> None:
    sweeping = Sweeping(tmp_path)
    filling = small_disk / "filling"
    filling.write_bytes(b"0" * 1_000_000)
    with contextlib.suppress(OSError), filling.open("ab") as file:
        while True:
            file.write(b"0" * 1000)
            file.flush()
    os.truncate(filling, filling.stat().st_size - 60_000)  # room for one run, not for four
    done = sweeping.run("--scheduler", address)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    finished = sweeping.finished()
    assert 0 < len(finished) < 4
    assert len(list(sweeping.runs.glob("*"))) == len(finished) + 1  # the lock: nothing is half-written
    filling.unlink()
    done = sweeping.run("--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert all(sweeping.executed()[seed] == 1 for seed in finished)


# --- a cluster of separate processes --------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


def test_the_scheduler_lost_and_restarted(cluster: Cluster, sweeping: Sweeping) -> None:
    """The client waits for it and goes on."""
    scheduler = cluster.scheduler()
    cluster.worker()
    cluster.wait_for(1)
    client = sweeping.start("--scheduler", cluster.address)
    wait_until(sweeping.finished)
    finished = sweeping.finished()
    scheduler.kill()
    scheduler.wait()
    cluster.scheduler()
    cluster.worker()
    _, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    assert sweeping.table == expected()
    assert all(sweeping.executed()[seed] == 1 for seed in finished)


def test_the_scheduler_lost_for_good(cluster: Cluster, sweeping: Sweeping) -> None:
    """The client gives up with a clear word, and the next call does the rest, here or elsewhere."""
    scheduler = cluster.scheduler()
    cluster.worker()
    cluster.wait_for(1)
    call = sweeping.call("--scheduler", cluster.address)
    impatient = (
        "from bnicl import __main__; from bnicl.batch import cluster; cluster.PATIENCE_SECONDS = 3.0; "
        "raise SystemExit(__main__.main())"
    )
    sweeping.hold.touch()
    client = subprocess.Popen(
        [sys.executable, "-c", impatient, *call[3:]], cwd=sweeping.folder, text=True, stderr=subprocess.PIPE
    )
    wait_until(sweeping.finished)
    finished = sweeping.finished()
    scheduler.kill()
    _, errors = client.communicate(timeout=60)
    sweeping.hold.unlink()
    assert client.returncode == 2
    assert f"scheduler: {cluster.address} is gone, with " in errors.splitlines()[-1]
    assert "Traceback" not in errors
    done = sweeping.run("--workers", "1")
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert all(sweeping.executed()[seed] == 1 for seed in finished)


def test_the_client_of_a_cluster_killed_and_called_again(cluster: Cluster, sweeping: Sweeping) -> None:
    """What it left on the workers goes on, and counts."""
    cluster.scheduler()
    cluster.worker()
    cluster.wait_for(1)
    client = sweeping.start("--scheduler", cluster.address)
    wait_until(sweeping.finished)
    client.kill()
    client.communicate()
    done = sweeping.run("--scheduler", cluster.address)
    assert done.returncode == 0, done.stderr
    assert sweeping.table == expected()
    assert sweeping.executed() == {str(seed): 1 for seed in range(4)}


def test_an_unreachable_scheduler_is_named_within_ten_seconds(sweeping: Sweeping) -> None:
    assert cluster_module.CONNECT_SECONDS < 10
    begin = time.monotonic()
    done = sweeping.run("--scheduler", "tcp://127.0.0.1:1")
    assert time.monotonic() - begin < cluster_module.CONNECT_SECONDS + 20  # a busy machine imports torch slowly
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("bnicl"))
    assert "expected one at tcp://127.0.0.1:1, got no answer" in line
    assert "Traceback" not in done.stderr


def test_workers_with_another_version_of_the_package_are_refused(cluster: Cluster, sweeping: Sweeping) -> None:
    copy = sweeping.folder / "other"
    shutil.copytree(ROOT / "bnicl", copy / "bnicl", ignore=shutil.ignore_patterns("__pycache__"))
    notebook = sweeping.folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("import time", "import time, bnicl.networks.sampling"))
    edited = copy / "bnicl" / "networks" / "sampling.py"
    edited.write_text(edited.read_text() + "edited = 1\n")
    cluster.scheduler()
    cluster.worker(PYTHONPATH=str(copy))
    cluster.wait_for(1)
    done = sweeping.run("--scheduler", cluster.address)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "worker tcp://127.0.0.1" in line
    assert "expected code" in line
    assert not sweeping.executed()


def test_workers_with_several_threads_are_refused(cluster: Cluster, sweeping: Sweeping) -> None:
    cluster.scheduler()
    cluster.worker(threads=3)
    cluster.wait_for(1)
    done = sweeping.run("--scheduler", cluster.address)
    assert done.returncode == 2
    assert "expected one thread (--nthreads 1), got 3" in done.stderr


def test_a_worker_that_joins_later_is_checked_too(cluster: Cluster, sweeping: Sweeping) -> None:
    cluster.scheduler()
    client = sweeping.start("--scheduler", cluster.address)
    wait_until(lambda: list(sweeping.runs.glob(".bnicl-*")))
    cluster.worker(threads=2)
    output, errors = client.communicate(timeout=120)
    assert client.returncode == 1
    assert "the scheduler has no workers yet" in errors
    assert "expected one thread (--nthreads 1), got 2" in errors
    assert "failed: 4 of 4 runs" in output
    assert not sweeping.executed()
