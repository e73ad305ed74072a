"""What is said under a figure of where it comes from."""

import html
import json
from pathlib import Path

import pytest

from bnicl.batch.parameters import RESULTS
from tools.made_by import PAGE, sources_of, table_line


@pytest.mark.parametrize(
    ("cells", "last"),
    [
        (["a = bnicl.load_results('sachs')", "b = a.max()\nc = 2 * b", "plot(c)"], {"sachs"}),
        (["a = bnicl.load_results('sachs')", "a = bnicl.train(config)", "a"], {PAGE}),
        (["a = []", "a.append(bnicl.load_results('sachs'))", "a"], {"sachs"}),
        (["table = 'estimators'", "a = bnicl.load_results(table)", "a"], {"estimators"}),
        (
            ["pd.concat([bnicl.load_results(f'unknown-{x}') for x in ('dense', 'depth')])"],
            {"unknown-dense", "unknown-depth"},
        ),
        (["x = bnicl.train(c)", "a = [x for x in bnicl.load_results('sachs')]", "a"], {"sachs"}),
        (["x = bnicl.train(c)", "def f(x):\n    return x", "f(1)"], set()),
        (["def f():\n    return bnicl.load_results('sachs')", "f()"], {"sachs"}),
        (["for a in range(3):\n    b = bnicl.load_results('sachs')", "b"], {"sachs"}),
        (["!ls runs"], {PAGE}),
    ],
)
def test_a_cell_shows_the_tables_that_its_names_came_from(cells: list[str], last: set[str]) -> None:
    assert sources_of(cells)[-1] == last


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_table_says_what_made_it(path: Path) -> None:
    made, line = json.loads(path.read_text()), table_line(path.stem)
    assert f"<code>{html.escape(made['made by'])}</code>" in line
    assert all(place["commit"] in line for place in made.get("environments", [made]))
