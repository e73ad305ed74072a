"""The pages in a real browser: Debian's chromium, driven by playwright, on what `make book` has built.

Part of `make web`. Skipped, with the reason, where there is no chromium or no book.
"""

import gzip
import itertools
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import torch

import bnicl
from tests.visits import NEEDED, SITE, Visit, example
from tools import make_pdf

ROOT = Path(__file__).parent.parent
PAGES = [f"{name}.html" for name in make_pdf.PAGES]
WIDTHS = (1280, 390)
MOST_BYTES, MOST_OF_THE_SITE = 1.5e6, 30e6
pytestmark = NEEDED
# A term of each chapter, and where a search for it must lead to.
TERMS = {
    "forward sampling": "bayesian-networks",
    "posterior mean": "in-context-estimators",
    "residual stream": "construction",
    "curriculum": "ablations",
    "selectivity": "mechanism",
    "Hartemink": "sachs",
    "papermill": "batch-runs",
}


RAW_TEX = r"""() => {
  const article = document.querySelector('article').cloneNode(true);
  article.querySelectorAll('pre, code, mjx-container, script, .MathJax').forEach(part => part.remove());
  const raw = /\$[^$\n]{1,60}\$|\\(frac|sum|alpha|hat|begin|mid)\b|\{(glue|numref|prf|eq|cite)[:}][^ ]*/g;
  return article.innerText.match(raw) || [];
}"""
IMAGES = "[...document.querySelectorAll('article img')].map(image => [image.src, image.alt, image.naturalWidth])"
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
        assert [image for image in visit.ask(IMAGES) if not (image[1] and image[2])] == []
        levels = visit.ask(HEADINGS)
        assert levels.count(1) == 1 == levels[0]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_opens_from_the_disk(path: str, browser: Any) -> None:
    with Visit(browser, (SITE / path).as_uri()) as visit:
        assert visit.said == []
        assert visit.failed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible(path: str, scheme: str, browser: Any, address: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Visit(browser, f"{address}/{path}", 1280, scheme) as visit:
        # a colour that is still on its way to another scheme's is nobody's colour
        visit.page.add_style_tag(
            content="*, ::before, ::after { transition: none !important; animation: none !important }"
        )
        found = Axe().run(visit.page).response["violations"]
        serious = {
            (one["id"], node["html"][:120])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        }
        assert serious == set(), json.dumps(sorted(serious), indent=1)


def test_next_and_previous_walk_the_whole_book(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{PAGES[0]}") as visit:
        walked = [PAGES[0]]
        while visit.page.locator("a.right-next").count():
            visit.page.goto(visit.page.locator("a.right-next").evaluate("link => link.href"))
            walked.append(visit.page.url.removeprefix(f"{address}/"))
        assert walked == PAGES
        for path in reversed(PAGES[:-1]):
            visit.page.goto(visit.page.locator("a.left-prev").evaluate("link => link.href"))
            assert visit.page.url == f"{address}/{path}"


@pytest.mark.parametrize(("term", "chapter"), TERMS.items())
def test_a_search_finds_a_term_of_a_chapter(term: str, chapter: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/search.html?q={term}") as visit:
        visit.page.wait_for_selector(f"#search-results a[href*='{chapter}']", timeout=10_000)


def test_the_first_page_leads_to_the_book(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/index.html") as visit:
        visit.page.wait_for_url(f"{address}/{PAGES[0]}")


@pytest.mark.parametrize("path", PAGES)
def test_every_link_of_a_page_leads_somewhere(path: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}") as visit:
        links = visit.ask("[...document.querySelectorAll('a[href]')].map(link => link.href)")
        for link in {link for link in links if link.startswith(address)}:
            url, _, anchor = link.removeprefix(address).partition("#")
            file = SITE / urllib.parse.unquote(url.split("?")[0]).lstrip("/")
            assert file.exists(), link
            if anchor and file.suffix == ".html":
                assert f'id="{urllib.parse.unquote(anchor)}"' in file.read_text(), link


@pytest.mark.parametrize("path", PAGES)
def test_a_page_with_figures_says_what_made_its_numbers_and_offers_them(path: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}") as visit:
        made = visit.page.locator("article details.bnicl-made")
        said = [str(made.nth(i).text_content()) for i in range(made.count())]
        data = visit.ask("[...document.querySelectorAll('.bnicl-data a')].map(link => link.href)")
        assert len(said) <= 1
        assert bool(said) or not data
        assert all("commit" in text or "Computed" in text for text in said)


SCROLLS = """() => [...document.querySelectorAll('div.cell_input pre')]
  .filter(code => !code.closest('details:not([open])') && code.scrollWidth > code.clientWidth + 1)
  .map(code => code.innerText.slice(0, 80))"""


@pytest.mark.parametrize("path", PAGES)
def test_no_code_scrolls_sideways_on_a_wide_screen(path: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}") as visit:
        assert visit.ask(SCROLLS) == []


NARROW = """() => [...document.querySelectorAll('article div.math')].map(box => {
  const [math, number] = [box.querySelector('mjx-container'), box.querySelector('.eqno')];
  const place = part => part && part.getBoundingClientRect();
  const [text, sign, room] = [place(math.querySelector('mjx-math')), place(number), place(box)];
  const over = (a, b, low, high) => a[low] < b[high] && b[low] < a[high];
  const meet = sign && over(sign, text, 'left', 'right') && over(sign, text, 'top', 'bottom');
  const size = parseFloat(getComputedStyle(math).fontSize);
  return [text.right <= room.right + 1 && text.left >= room.left - 1, !meet, size >= 9, box.innerText.slice(0, 60)];
})"""


@pytest.mark.parametrize("path", PAGES)
def test_equations_are_whole_on_a_narrow_screen(path: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}", 390) as visit:
        visit.page.wait_for_timeout(100)  # the equations are fitted when MathJax has set them
        assert [equation for equation in visit.ask(NARROW) if not all(equation[:3])] == []


SHRUNK = """() => [...document.querySelectorAll('article .cell_output figure img')]
  .map(image => [image.getBoundingClientRect().width, parseFloat(image.style.width) || image.naturalWidth])
  .map(([shown, own]) => [shown, Math.min(690, own)])
  .filter(([shown, wanted]) => shown < wanted - 1)"""


@pytest.mark.parametrize("path", PAGES)
def test_figures_keep_the_size_of_their_text_on_a_narrow_screen(path: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}", 390) as visit:
        visit.page.wait_for_load_state("load")
        assert visit.ask(SHRUNK) == []


def test_claims_are_cards_on_a_narrow_screen(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/claims.html", 390) as visit:
        cells = visit.page.locator(".bnicl-claims tbody tr").first.locator("td")
        places = [cells.nth(i).bounding_box() for i in range(4)]
        assert all(place is not None and place["x"] + place["width"] <= 390 for place in places)
        assert len({place["y"] for place in places if place is not None}) == 4  # one below the other


# Each caption's contrast with the page, weight of its letters, and the grounds of the page's figures.
CAPTIONS = """() => {
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = rgb => rgb.reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const read = (part, name) => luminance(getComputedStyle(part)[name].match(/[\\d.]+/g).slice(0, 3).map(Number));
  return [...document.querySelectorAll('article figcaption')].map(caption => {
    const levels = [read(caption, 'color'), read(document.body, 'backgroundColor')].sort((a, b) => b - a);
    return [(levels[0] + 0.05) / (levels[1] + 0.05), Number(getComputedStyle(caption).fontWeight)];
  });
}"""
GROUNDS = (
    "[...document.querySelectorAll('article .cell_output img')].map(image => getComputedStyle(image).backgroundColor)"
)
PADDING = """[...document.querySelectorAll('article table:not(.bnicl-cells) td')]
  .map(cell => [parseFloat(getComputedStyle(cell).paddingLeft), parseFloat(getComputedStyle(cell).paddingRight)])"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_captions_stand_out_and_figures_have_one_frame(path: str, scheme: str, browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/{path}", 1280, scheme) as visit:
        assert all(contrast >= 7 and weight >= 400 for contrast, weight in visit.ask(CAPTIONS))
        assert set(visit.ask(GROUNDS)) <= {"rgb(255, 255, 255)"}
        assert all(min(sides) >= 8 for sides in visit.ask(PADDING))


def test_paper_has_the_article_alone(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/construction.html") as visit:
        visit.page.emulate_media(media="print")
        for gone in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-area", ".bnicl-widget", ".bnicl-ask"):
            assert not visit.page.locator(gone).first.is_visible(), gone
        assert visit.page.locator("article h2").first.is_visible()


def test_the_first_paint_of_a_chapter_takes_less_than_a_second(browser: Any, address: str) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    for path in PAGES[1:4]:
        with Visit(browser, f"{address}/{path}") as visit:
            took = []
            for _ in range(3):  # the best of three: the machine may have other work
                visit.page.reload()
                visit.page.wait_for_function(paint)
                took.append(visit.ask(paint))
            assert min(took) < 1000


def sent(url: str) -> int:
    """The bytes of a file as a web server sends it: text is compressed."""
    content = (SITE / urllib.parse.urlparse(url).path.lstrip("/")).read_bytes()
    return len(gzip.compress(content, 6) if url.split("?")[0].endswith((".html", ".js", ".css", ".svg")) else content)


def test_the_site_is_light(browser: Any, address: str) -> None:
    weight = {}
    for path in PAGES:
        with Visit(browser, f"{address}/{path}") as visit:
            visit.page.wait_for_load_state("load")
            weight[path] = sum(map(sent, {url for url in visit.requests if url.startswith(address)}))
    assert {path: own for path, own in weight.items() if own > MOST_BYTES} == {}
    assert sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file()) < MOST_OF_THE_SITE


def test_every_claim_has_a_verdict(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/claims.html") as visit:
        rows = visit.page.locator(".bnicl-claims tbody tr")
        assert rows.count() > 25
        assert all(rows.nth(i).locator(".bnicl-verdict").inner_text().strip() for i in range(rows.count()))
        assert not re.search(r"\bnan\b", visit.page.locator("article").inner_text())


def network_of(shown: dict[str, Any]) -> bnicl.BayesianNetwork:
    parents = tuple(tuple(own) for own in shown["parents"])
    return bnicl.BayesianNetwork(tuple("abcd"), parents, (2,) * 4)


def test_the_explorer_on_the_page_measures_as_the_package_does(browser: Any, address: str) -> None:
    with Visit(browser, f"{address}/book/in-context-estimators.html") as visit:
        for act in ("ten rows more", "new network"):
            visit.page.get_by_role("button", name=act).press("Enter")
            shown = example(visit, "context-explorer")
            net, rows = network_of(shown), torch.tensor([shown["rows"]])
            truth = tuple(
                torch.tensor([[1 - p, p] for p in table], dtype=torch.float64).reshape(*net.evidence_card(m), 2)
                for m, table in enumerate(shown["tables"])
            )
            every = torch.cartesian_prod(*(torch.arange(2),) * 4)
            exact = [
                bnicl.conditional(net, [table.expand(16, *table.shape) for table in truth], every, m) for m in range(4)
            ]
            weight = torch.stack([p.gather(1, every[:, [m]])[:, 0] for m, p in enumerate(exact)]).prod(0)
            for estimator in (
                bnicl.MaximumLikelihood(net, "uniform"),
                bnicl.NaiveFrequency(net.cardinalities, "uniform"),
                bnicl.PosteriorMean(net, shown["alpha"]),
            ):
                contexts = rows.expand(16, -1, -1)
                apart = [
                    bnicl.total_variation(exact[m], estimator.predict_proba(contexts, every, m)) @ weight
                    for m in range(4)
                ]
                assert shown["found"][estimator.name] == pytest.approx(float(sum(apart)) / 4)
        assert visit.page.locator("#context-explorer polyline").count() == 3
        visit.page.get_by_role("checkbox", name="naive").uncheck()
        assert visit.page.locator("#context-explorer polyline").count() == 2


def test_the_curves_on_the_page_are_those_of_the_table(browser: Any, address: str) -> None:
    swept = bnicl.load_results("single-structure").query("node == 'average'")
    with Visit(browser, f"{address}/book/single-structure.html") as visit:
        box = visit.page.locator("#curve-explorer")
        box.locator("select").nth(0).select_option("general5")
        box.locator("select").nth(1).select_option("mode accuracy")
        box.locator("input[type=range]").press("Home")
        for key in ("", "End"):  # by keyboard: the fewest rows, and the most
            if key:
                box.locator("input[type=range]").press(key)
            shown = example(visit, "curve-explorer")
            own = swept[(swept["graph"] == "general5") & (swept["n_context"] == shown["n"])]
            for name, (mean, deviation) in shown["found"].items():
                values = own[own["predictor"] == name]["mode_accuracy"]
                assert (mean, deviation) == pytest.approx((values.mean(), values.std()), abs=2e-6)
        assert len(shown["found"]) == 4
        box.locator("svg").hover(position={"x": 70, "y": 100})  # by pointer: the left end again
        assert example(visit, "curve-explorer")["n"] < shown["n"]
        assert box.locator("polyline").count() == 4
        box.get_by_role("checkbox", name="naive").uncheck()
        assert box.locator("polyline").count() == 3
