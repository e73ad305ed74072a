"""Previews of what a link leads to, in a real browser, also from the disk."""

from typing import Any

import pytest

from tests.visits import NEEDED, SITE, Visit
from tools.make_previews import previews

pytestmark = NEEDED
KINDS = {  # a page, a link on it and what the preview must hold
    "a theorem": ("single-structure", "#thm-optimum", ".proof"),
    "an equation": ("construction", "#equation-eq-bound", "mjx-container"),
    "a figure": ("construction", "#fig-stream", "img"),
    "a term": ("mechanism", "#term-residual-stream", "p"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("served", [True, False], ids=["served", "from the disk"])
def test_a_link_shows_what_it_leads_to(kind: str, served: bool, browser: Any, address: str) -> None:
    name, anchor, part = KINDS[kind]
    url = f"{address}/book/{name}.html" if served else (SITE / "book" / f"{name}.html").as_uri()
    with Visit(browser, url) as visit:
        tip, link = (
            visit.page.locator("#bnicl-preview"),
            visit.page.locator(f"article a.internal[href$='{anchor}']").first,
        )
        link.hover()
        tip.wait_for(state="visible")
        tip.locator(part).first.wait_for(state="attached")
        assert link.get_attribute("aria-describedby") == "bnicl-preview"
        if part == "img":
            visit.page.wait_for_function("document.querySelector('#bnicl-preview img').naturalWidth > 0")
        tip.hover()  # one may go there
        visit.page.wait_for_timeout(400)
        assert tip.is_visible()
        visit.page.keyboard.press("Escape")
        assert not tip.is_visible()
        assert link.get_attribute("aria-describedby") is None
        visit.page.mouse.move(0, 0)
        link.focus()  # after a key was pressed, as by a keyboard
        tip.wait_for(state="visible")
        link.blur()
        assert not tip.is_visible()
        assert visit.said == []
        assert visit.failed == []


def test_every_kind_of_target_has_a_preview() -> None:
    made = previews(SITE)
    assert {"thm-optimum", "equation-eq-bound", "fig-stream"} <= {target.partition("#")[2] for target in made}
    assert sum(target.startswith("book/glossary.html#term-") for target in made) > 20
    assert not any("headerlink" in text or " id=" in text for text in made.values())


def test_a_preview_stays_on_a_narrow_screen(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/construction.html", 390) as visit:
        visit.page.locator("article a.internal[href$='#equation-eq-bound']").first.hover()
        visit.page.locator("#bnicl-preview").wait_for(state="visible")
        assert visit.ask("document.documentElement.scrollWidth") <= 390


def test_a_preview_that_comes_late_does_not_open(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/construction.html") as visit:
        held = list[Any]()
        visit.page.route("**/previews.js", lambda route: held.append(route))
        visit.page.locator("article a.internal[href$='#equation-eq-bound']").first.hover()
        visit.page.wait_for_timeout(500)
        visit.page.keyboard.press("Escape")
        visit.page.mouse.move(0, 0)
        held[0].continue_()
        visit.page.wait_for_function("bnicl.previews")
        visit.page.wait_for_timeout(300)
        assert not visit.page.locator("#bnicl-preview").is_visible()
