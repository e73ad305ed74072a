"""Many runs at once: Dask distributed hands them to worker processes, on this machine or on a cluster.

A worker has one thread and executes one run at a time. If a worker dies, Dask itself gives its run to
another; a run that fails is reported and not tried again. Finished runs stay where `runs.execute` put them.
"""

from __future__ import annotations

import logging
import queue
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnicl.batch import runs, staleness
from bnicl.batch.runs import Run, RunFailed

if TYPE_CHECKING:
    from distributed import Client
    from tqdm import tqdm


CONNECT_SECONDS = 8.0  # before giving up on a scheduler that does not answer
PATIENCE_SECONDS = 60.0  # to wait for a scheduler that was there and is gone
GIB_PER_WORKER = 1.5  # a kernel with torch, pandas and seaborn


class SchedulerLost(ConnectionError):
    """The scheduler went away and did not come back."""


def execute_all(
    todo: Sequence[Run],
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    time_limit: float | None = None,
    progress: bool = True,
) -> dict[str, str]:
    """Executes runs, each into its folder below `out`; returns what went wrong, by the run's name.

    With `scheduler`, the address of a Dask scheduler, its workers execute them. Without, `workers` processes on
    this machine do, by default as many as it has cores and memory for, the cores shared between them.

    Raises ConnectionError where no scheduler answers within eight seconds, ValueError where one of its workers
    has another version of the code or of a package, more than one thread or no access to `out`, and
    SchedulerLost if it goes away for more than a minute.
    """
    if not todo:
        return {}  # saves the seconds that importing Dask takes
    from distributed.utils import silence_logging_cmgr
    from tqdm import tqdm

    waiting = {run.name: run for run in todo}
    failures: dict[str, str] = {}
    lost_at = None
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.NamedTemporaryFile(prefix=".bnicl-", dir=out) as seen,
        silence_logging_cmgr(logging.CRITICAL),
        tqdm(total=len(waiting), disable=not progress, unit="run", bar_format=BAR, mininterval=0) as bar,
    ):
        while waiting:
            try:
                with _connected(scheduler, workers, len(waiting)) as client:
                    expected = Expected(staleness.code_of(todo[0].chapter), runs.versions(), seen.name)
                    _check_workers(client, todo[0].chapter, expected)
                    lost_at = None
                    task = partial(_task, expected=expected, out=str(out), time_limit=time_limit)
                    for name, problem in _executed(client, list(waiting.values()), task, bar, failures):
                        if not problem and not runs.read_manifest(out / name):
                            problem = f"{name}: finished on its worker, but it is not in {out}"
                        del waiting[name]
                        if problem:
                            failures[name] = problem
                            bar.write(f"failed: {problem}", file=sys.stderr)
                        bar.update()
            except ConnectionError as error:
                if len(waiting) == len(todo) and lost_at is None and not isinstance(error, SchedulerLost):
                    raise
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_SECONDS:
                    done = len(todo) - len(waiting)
                    raise SchedulerLost(
                        f"scheduler: {scheduler} is gone, with {done} of {len(todo)} runs done; call again for the rest"
                    ) from error
                bar.set_description_str("done, waiting for the scheduler")
                time.sleep(1)
        bar.set_description_str(_failed(failures))
    return failures


BAR = "{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {desc} [{elapsed} gone, {remaining} left]"


def fitting_workers() -> int:
    """How many workers this machine has cores and memory for."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT, int(MEMORY_LIMIT / 2**30 / GIB_PER_WORKER)))


@contextmanager
def _connected(scheduler: str | None, workers: int | None, n_runs: int) -> Iterator[Client]:
    """A client of the scheduler, or of a cluster on this machine that ends with it."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler is None:
            n_workers = min(workers or fitting_workers(), n_runs)
            threads = str(max(1, CPU_COUNT // n_workers))
            stack.enter_context(dask.config.set({"distributed.scheduler.worker-saturation": 1.0}))
            with _deaf_to_interrupts():
                address = stack.enter_context(
                    LocalCluster(
                        n_workers=n_workers,
                        threads_per_worker=1,
                        memory_limit=0,
                        dashboard_address=":0",
                        silence_logs=logging.CRITICAL,
                        preload="import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)",  # of those born later
                        env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
                    )
                )
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, MemoryError, ValueError) as error:  # MemoryError: what answers speaks another language
            raise ConnectionError(
                f"scheduler: expected one at {scheduler}, got no answer from it within {CONNECT_SECONDS:.0f} s"
            ) from error
        yield client


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which reaches every process of a terminal: the client stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _executed(
    client: Client, todo: Sequence[Run], task: Callable[[Run], str], bar: tqdm[Any], failures: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """Names of runs as they end, each with what went wrong."""
    call = uuid.uuid4().hex[:8]  # a run that another client left on a worker is another task
    futures = {client.submit(task, run, key=f"{run.name}-{call}", pure=False): run.name for run in todo}
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    if not _workers(client):
        bar.write("the scheduler has no workers yet: the runs begin when the first arrives", file=sys.stderr)
    while left:
        running = min(left, len(_workers(client)))
        bar.set_description_str(f"{_failed(failures)}, {running} running", refresh=sys.stderr.isatty())
        try:
            future = ended.get(timeout=1)
        except queue.Empty:
            continue
        if future.status == "cancelled":
            raise SchedulerLost("cancelled")
        left -= 1
        yield futures[future], _problem(future)


def _failed(failures: dict[str, str]) -> str:
    return f"done ({len(failures)} failed)" if failures else "done"


def _problem(future: Any) -> str:
    from distributed.scheduler import KilledWorker

    if future.status != "error":
        try:
            return str(future.result())
        except OSError as lost:
            raise SchedulerLost(str(lost)) from lost
    error = future.exception()
    if isinstance(error, KilledWorker):
        return f"{error.task}: its worker died again and again (is the memory too small?)"
    return f"{future.key}: {type(error).__name__}: {error}"


def _workers(client: Client) -> dict[str, Any]:
    """What the scheduler knows of its workers, by address."""
    if client.status != "running":
        raise SchedulerLost(client.status)
    try:
        workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    except OSError as error:
        raise SchedulerLost(str(error)) from error
    return workers


class Expected(NamedTuple):
    """What the client and its workers must agree on."""

    code: dict[str, str]
    versions: dict[str, str]
    seen: str  # a file in the folder of the runs, which a worker must see


def _task(run: Run, expected: Expected, out: str, time_limit: float | None) -> str:
    """On a worker: executes the run unless it is there already; returns what went wrong."""
    from distributed import get_worker

    if problem := _unfit(run.chapter, expected, get_worker()):
        raise ValueError(problem)  # a worker that has joined since the sweep began
    if runs.read_manifest(Path(out) / run.name):
        return ""
    try:
        runs.execute(run, out, time_limit)
    except RunFailed as error:
        return str(error)
    return ""


def _unfit(chapter: str, expected: Expected, dask_worker: Any) -> str:
    """On a worker: why it may not execute runs of this client; nothing if it may."""
    here = {"code": staleness.code_of(chapter), **runs.versions()}
    for what, value in {"code": expected.code, **expected.versions}.items():
        if here[what] != value:
            return f"worker {dask_worker.address}: expected {what} {value}, got {here[what]}"
    if not Path(expected.seen).exists():
        folder = Path(expected.seen).parent
        return f"worker {dask_worker.address}: expected to see the folder {folder}, got nothing there (is it shared?)"
    if dask_worker.state.nthreads != 1:
        threads = dask_worker.state.nthreads
        return f"worker {dask_worker.address}: expected one thread (--nthreads 1), got {threads}"
    return ""


def _check_workers(client: Client, chapter: str, expected: Expected) -> None:
    for address, answer in client.run(_unfit, chapter, expected, on_error="return").items():
        if isinstance(answer, BaseException):
            raise ValueError(f"worker {address}: expected bnicl as it is here, got {type(answer).__name__}: {answer}")
        if answer:
            raise ValueError(answer)
