"""What the words promise: a letter means one thing, an interval says what it covers, departures have a page."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
MATHS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)

# How each letter once was used otherwise, in formulas.
OTHERWISE = {
    "p as flags": r"r_p|\\mid p \\mid|(?<![\w\\])p\[",
    "P as a number": r"(?<![\w\\])P(?! ?[(]|\\bigl|\\left)(?![\w])",
    "S as a set or a number of seeds": r"F\(S|\\in S(?!\w)|\\sqrt S|\bS =(?! \\sum)",
    "f as a density": r"(?<![\w\\])f\(",
    "n as something else than rows": r"\\tau \\ln n(?!\w)",
    "g as a graph or a distribution": r"P\(g|_g(?!\w)|\\nu g",
    "e as a vector or a function": r"(?<![\w\\])e_|(?<![\w\\])e\(|\\mid e\b",
    "sigma as a part of attention": r"\\nu \+ \\sigma|\\sigma \\le",
    "s as a score, a seed or a deviation": r"(?<![\w\\])s_|_s(?!\w)|(?<![\w\\])s /",
}


def formulas() -> Iterator[tuple[str, str]]:
    """Every formula of the book with the name of its page; of the notation page, none."""
    for path in sorted(BOOK.glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield from ((path.stem, m) for c in cells if c["cell_type"] == "markdown" for m in _maths("".join(c["source"])))
    for path in sorted({*BOOK.glob("*.md")} - {BOOK / "notation.md"}):
        text = re.sub(r"```\{code-cell\}.*?```", "", path.read_text(), flags=re.DOTALL)
        yield from ((path.stem, m) for m in _maths(text))


def _maths(text: str) -> list[str]:
    return [block or inline for block, inline in MATHS.findall(re.sub(r"`[^`$]*`", "", text))]


@pytest.mark.parametrize("pattern", OTHERWISE.values(), ids=OTHERWISE)
def test_a_letter_means_one_thing(pattern: str) -> None:
    wrong = [(page, formula) for page, formula in formulas() if re.search(pattern, formula)]
    assert wrong == []


@pytest.mark.parametrize("letter", ["p", "P", "S", "f", "n", "g", "e", r"\sigma", "s"])
def test_the_notation_page_has_one_line_for_each_letter(letter: str) -> None:
    lines = [line for line in (BOOK / "notation.md").read_text().splitlines() if line.startswith("| ")]
    symbols = [line.split("|", 2)[1] if "\\mid" in line or "\\|" in line else line.split(" | ")[0] for line in lines]
    defined = [s for s in symbols if re.search(rf"\$(?:[^$]*, )?{re.escape(letter)}(?![\w^])", s)]
    assert len(defined) == 1, defined


def test_what_makes_probabilities_is_defined_where_it_first_stands() -> None:
    """Softmax and logits, in the order of the table of contents."""
    toc = re.findall(r"file: book/([\w-]+)", (BOOK.parent / "_toc.yml").read_text())
    pages = [BOOK / f"{name}.ipynb" for name in toc if (BOOK / f"{name}.ipynb").exists()]
    for word, meaning in (("softmax", "exponentials"), ("logits", "softmax")):
        first = next(p for p in pages if word in _prose(p))
        assert meaning in _prose(first), (word, first.stem)


def test_an_interval_says_what_it_covers() -> None:
    """In captions and text: 95 % of what, and given how many runs."""
    for path in BOOK.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        captions = [c["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "") for c in cells]
        for text in [*captions, *_prose(path).split("\n")]:
            if "95 %" in text:
                assert re.search(
                    r"over (the )?held-out|over \S+ networks|networks, given|credible|table's rows", text
                ), text


def test_every_chapter_links_to_the_departures_and_is_named_there() -> None:
    """The page of departures from the paper, by chapter."""
    named = (BOOK / "departures.md").read_text()
    for path in BOOK.glob("*.ipynb"):
        assert "](departures)" in _prose(path), path.stem
        assert f"]({path.stem})" in named, path.stem


def _prose(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
