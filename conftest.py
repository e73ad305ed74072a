"""Every test runs the small profile, and every function of the package checks the shapes it is called with."""

import os
from collections.abc import Iterator
from typing import Any

import jaxtyping
import nbval.plugin
import pytest
from beartype import BeartypeConf, beartype
from nbval.kernel import RunningKernel

os.environ.setdefault("BNICL_PROFILE", "smoke")
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
jaxtyping.install_import_hook("bnicl", "conftest.checked")


def kernel_that_answers(*args: object, **options: object) -> RunningKernel:
    """A kernel for a notebook's test, started again where it never answers, as those of runs are."""
    from bnicl.batch.kernels import once_it_starts

    return once_it_starts(RunningKernel, *args, **options)


nbval.plugin.RunningKernel = kernel_that_answers


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Switches the shape checks off: bad input must meet the package's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the built pages are served."""
    from tests.visits import served

    with served() as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that opens them."""
    from playwright.sync_api import sync_playwright

    from tests.visits import CHROMIUM

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nbval compares what a cell shows, not the data behind it, which has more digits than machines agree on."""
    for notebook in {item.parent for item in items if hasattr(item.parent, "skip_compare")}:
        notebook.skip_compare = (*notebook.skip_compare, "text/csv")
