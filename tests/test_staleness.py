"""A table is stale when what computes it changed, and never for prose, comments or plots."""

import json
from pathlib import Path

import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bnicl.batch import staleness
from tools.verify_tables import agree, short, trimmed

PARAMETERS = new_code_cell("n: int = 3  # a number", metadata={"tags": ["parameters"]})
MAKES = new_code_cell("import bnicl\ntable = n * 2\nbnicl.save_table(table, 'sums')", metadata={"tags": ["table"]})
PLOTS = new_code_cell("import matplotlib.pyplot as plt\nplt.plot(table)")


def code(folder: Path, *cells: object) -> dict[str, str]:
    path = folder / "sums.ipynb"
    path.write_text(json.dumps(new_notebook(cells=[new_markdown_cell("# Sums"), *cells])))
    return staleness.code_of(str(path))


def test_text_plots_comments_and_layout_make_no_table_stale(tmp_path: Path) -> None:
    first = code(tmp_path, PARAMETERS, MAKES, PLOTS)
    other = new_code_cell("plt.bar(table, 2)")
    again = new_code_cell("table = n  *  2  # twice", metadata={"tags": ["table"]})
    saves = new_code_cell("bnicl.save_table(table, 'sums')", metadata={"tags": ["table"]})
    assert code(tmp_path, PARAMETERS, new_code_cell("import bnicl"), again, saves, other) == first


def test_a_changed_constant_makes_a_table_stale(tmp_path: Path) -> None:
    first = code(tmp_path, PARAMETERS, MAKES, PLOTS)
    other = new_code_cell(MAKES.source.replace("* 2", "* 3"), metadata={"tags": ["table"]})
    assert code(tmp_path, PARAMETERS, other, PLOTS)["the chapter"] != first["the chapter"]


def test_of_a_module_its_code_counts_and_its_prose_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bnicl"
    (package / "networks").mkdir(parents=True)
    (package / "__init__.pyi").write_text("from .networks.a import f as f\n")
    module = package / "networks" / "a.py"
    monkeypatch.setattr(staleness, "PACKAGE", package)
    staleness._exported.cache_clear()
    uses = new_code_cell("import bnicl\ntable = bnicl.f()", metadata={"tags": ["table"]})
    module.write_text('def f():\n    """Two."""\n    return 2\n')
    first = code(tmp_path, uses)
    assert set(first) == {"the chapter", "networks.a"}
    module.write_text('"""A module."""\n\n\ndef f():\n    """The number two."""\n    # it is even\n    return 2\n')
    assert code(tmp_path, uses) == first
    module.write_text("def f():\n    return 3\n")
    assert code(tmp_path, uses) != first
    staleness._exported.cache_clear()


def test_a_short_run_keeps_what_is_asked_and_drops_the_sizes() -> None:
    given = {"graph": "random5", "steps": 10_000, "n_networks": 400, "lowest": 0.7, "n_layers": 3, "objective": "drawn"}
    assert short("unknown-structure", given) == {
        "graph": "random5",
        "lowest": 0.7,
        "n_layers": 3,
        "objective": "drawn",
    }


def test_a_table_stands_only_with_every_number_that_it_has() -> None:
    table = pd.DataFrame({"who": ["a", "b"], "tv": [0.1, float("nan")]})
    assert agree(table, table)
    assert agree(table, table.assign(tv=[0.1, 0.2]))  # not known then
    assert not agree(table, table.assign(tv=[0.1000001, float("nan")]))
    assert not agree(table, table.assign(tv=float("nan")))
    assert not agree(table, table.head(1))
    more = pd.DataFrame({"who": ["a", "new", "b"], "tv": [0.1, 0.3, float("nan")]})
    assert agree(table, more)  # a rival that was not known then
    assert not agree(more, table)
    assert not agree(table, more.iloc[::-1])
    assert not agree(table, table.rename(columns={"tv": "regret"}))


def test_a_trimmed_chapter_makes_its_tables_with_the_cells_they_need() -> None:
    cells = [
        new_markdown_cell("# A chapter"),
        new_code_cell("import math"),
        new_code_cell("n: int = 2", metadata={"tags": ["parameters"]}),
        new_code_cell("half = n / 2"),
        new_code_cell("def shown():\n    return half"),
        new_code_cell("print(shown())"),
        new_code_cell("made = math.sqrt(half)", metadata={"tags": ["table"]}),
        new_code_cell("print(made)"),
    ]
    kept = trimmed(new_notebook(cells=cells)).cells
    assert [cell.source for cell in kept] == ["import math", "n: int = 2", "half = n / 2", "made = math.sqrt(half)"]
