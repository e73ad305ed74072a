"""The pages in a real browser: Debian's chromium, driven by playwright, on what `make book` has built.

Part of `make web`. Skipped, with the reason, where there is no chromium or no book.
"""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.glob("book/*.html"))
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
    pytest.mark.skipif(not PAGES, reason="there are no pages: make book"),
]
WIDTHS = (1280, 390)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what happened while it opened."""

    def __init__(self, browser: Any, url: str, width: int, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.failed: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on("response", lambda reply: reply.status >= 400 and self.failed.append(reply.url))
        self.page.goto(url)
        self.page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
        self.page.wait_for_load_state("networkidle")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


RAW_TEX = r"""() => {
  const article = document.querySelector('article').cloneNode(true);
  article.querySelectorAll('pre, code, mjx-container, script, .MathJax').forEach(part => part.remove());
  return article.innerText.match(/\$[^$\n]{1,60}\$|\\(frac|sum|alpha|hat|begin|mid)\b|\{(glue|numref|prf|eq|cite)[:}][^ ]*/g) || [];
}"""
HEADINGS = """() => [...document.querySelectorAll('article h1, article h2, article h3, article h4')]
  .map(heading => Number(heading.tagName[1]))"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole(path: str, width: int, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}", width) as visit:
        assert visit.said == []
        assert visit.failed == []
        assert [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))] == []
        assert visit.ask("document.documentElement.scrollWidth") <= width
        assert visit.ask(RAW_TEX) == []
        images = visit.ask(
            "[...document.querySelectorAll('article img')].map(image => [image.src, image.alt, image.naturalWidth])"
        )
        assert [image for image in images if not (image[1] and image[2])] == []
        levels = visit.ask(HEADINGS)
        assert levels.count(1) == 1 == levels[0]
        assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible(path: str, scheme: str, browser: Any, address: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Visit(browser, f"{address}/{path}", 1280, scheme) as visit:
        found = Axe().run(visit.page).response["violations"]
        serious = {
            (one["id"], node["html"][:120])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        }
        assert serious == set(), json.dumps(sorted(serious), indent=1)
