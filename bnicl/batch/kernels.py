"""Kernels for runs: they use this very interpreter and its bnicl, and start again if they die at the start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from bnicl.batch.parameters import ROOT

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


# For glibc, read when a process starts. By default it gives the memory of each large tensor back at once, and the next
# is cleared page by page: half of the time of training where that is slow. So memory is kept, in large pages.
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}


# What jupyter_client and nbval say, each as a bare RuntimeError.
NEVER_ANSWERED = (
    "Kernel died before replying",
    "Kernel didn't respond",
    "Kernel info reqest timed out",
    "establish IOPub",
)
T = TypeVar("T")


def own_kernel() -> type[AsyncKernelManager]:
    """For nbclient: the manager of a kernel of this very interpreter, whatever kernel specs are installed.

    A spec is found by its name alone, and one called "python3" may start another checkout's Python.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return OwnKernel


def this_bnicl_first() -> str:
    """A PYTHONPATH with which a kernel, which runs in another folder, imports the bnicl that the manifest describes."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def once_it_starts(start: Callable[..., T], *args: object, **options: object) -> T:
    """The result of `start`, which starts a kernel; tries again if the kernel never answered, as no cell has run then.

    Kernels that start at the same time may be given the same port: one of them then ends at once, or is not heard.
    """
    for _ in range(2):
        try:
            return start(*args, **options)
        except RuntimeError as problem:
            if not any(words in str(problem) for words in NEVER_ANSWERED):
                raise
    return start(*args, **options)


def remaining(time_limit: float | None) -> Callable[[object], float | None] | None:
    """For nbclient: the seconds that a cell may take so that the whole run keeps to its limit."""
    if time_limit is None:
        return None
    end = time.perf_counter() + time_limit
    return lambda cell: max(end - time.perf_counter(), 0.01)


@contextmanager
def environ(**values: str) -> Iterator[None]:
    """Sets environment variables for the kernels started inside, and restores them afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
