"""Visits to the built pages in a real browser: Debian's chromium, driven by playwright."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tools.make_pdf import CHROMIUM, SITE

NEEDED = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
    pytest.mark.skipif(not (SITE / "book" / "index.html").is_file(), reason="there are no pages: make book"),
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of the pages."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Visit:
    """A page that is open, and what happened while it opened."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light", **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.failed: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", self._check)
        self.page.goto(url)
        self.page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")

    def _note(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            self.said.append(line.text)

    def _check(self, reply: Any) -> None:
        if reply.status >= 400:
            self.failed.append(reply.url)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


def example(visit: Visit, name: str) -> dict[str, Any]:
    """What an interactive example shows, after its script has run."""
    visit.page.wait_for_function(f"document.getElementById('{name}')?.example")
    return dict(visit.ask(f"document.getElementById('{name}').example"))
