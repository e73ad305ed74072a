"""The data that figures and tables carry, against numbers that were put into them by hand."""

import io
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from bnicl import figures, load_network
from bnicl.shown import CSV, as_csv, drawn

CURVES = pd.DataFrame(
    {
        "n_context": [1, 10, 1, 10, 1, 10, 1, 10],
        "predictor": ["MLE", "MLE", "naive", "naive"] * 2,
        "network": ["asia"] * 4 + ["alarm"] * 4,
        "node": "average",
        "tv": [0.5, 0.25, 0.75, 0.5, 0.4, 0.2, 0.6, 0.3],
    }
)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_curves_in_panels_come_back_as_they_went_in() -> None:
    found = drawn(figures.learning_curves(CURVES, facet="network").figure)
    wanted = CURVES.rename(
        columns={
            "n_context": "rows in the context",
            "tv": "total variation to the truth",
            "predictor": "series",
            "network": "panel",
        }
    )[list(found.columns)]
    order = list(found.columns)
    pd.testing.assert_frame_equal(
        found.sort_values(order, ignore_index=True), wanted.sort_values(order, ignore_index=True), check_dtype=False
    )


def test_cells_of_a_heat_map_have_the_names_of_their_row_and_column() -> None:
    fig, (left, right) = plt.subplots(1, 2, sharey=True)
    table = pd.DataFrame([[1.0, 2.0], [3.0, np.nan]], index=["a", "b"], columns=["u", "v"])
    sns.heatmap(table, ax=left, cbar=False)
    sns.heatmap(10 * table, ax=right, cbar=True)
    left.set(title="one", xlabel="on", ylabel="from")
    right.set(title="ten", xlabel="on", ylabel="")
    found = drawn(fig).set_index(["panel", "from", "on"])["value"]
    assert dict(found) == {
        (panel, down, across): times * float(table.loc[down, across])
        for panel, times in (("one", 1), ("ten", 10))
        for down, across in (("a", "u"), ("a", "v"), ("b", "u"))
    }


def test_bars_have_the_names_of_their_places() -> None:
    figure, (upright, lying) = plt.subplots(1, 2)
    upright.bar(["a", "b"], [1.0, 2.0])
    lying.barh(["c", "d"], [3.0, 4.0])
    found = drawn(figure)
    assert list(found["x"]) == ["a", "b", 3.0, 4.0]
    assert list(found["y"]) == [1.0, 2.0, "c", "d"]


def test_points_have_the_name_of_their_color() -> None:
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [3.0, 2.0, 1.0], "kind": ["a", "b", "a"]})
    figure, ax = plt.subplots()
    sns.scatterplot(table, x="x", y="y", hue="kind", ax=ax)
    found = drawn(figure)
    pd.testing.assert_frame_equal(found, table.rename(columns={"kind": "of"}), check_like=True)


def test_guide_lines_colour_bars_and_drawings_of_graphs_are_no_data() -> None:
    figure, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    ax.axhline(0.5)
    ax.axline((0, 0), slope=1)
    assert drawn(figure).values.tolist() == [[1, 3], [2, 4]]
    without, ax = plt.subplots()
    figures.network(load_network("chain5"), ax)
    assert drawn(without).empty
    assert drawn(Figure()).empty


def test_a_table_keeps_an_index_that_says_something() -> None:
    assert as_csv(pd.DataFrame({"a": [1.23456789]})) == "a\n1.23457\n"
    assert as_csv(pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="net"))) == "net,a\nx,1\n"
    assert as_csv(pd.DataFrame()) is None


def test_an_executed_notebook_carries_the_data() -> None:
    cells = [
        "from bnicl import figures; figures.use_style()\nimport matplotlib.pyplot as plt, pandas as pd",
        "plt.plot([1, 2], [3, 4]); plt.show()",
        "pd.DataFrame({'a': [1, 2]})",
        "figures.network(__import__('bnicl').load_network('chain5')); plt.show()",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    NotebookClient(notebook, timeout=120).execute()
    figure, table, graph = [cell.outputs[-1].data for cell in notebook.cells[1:]]
    assert "image/png" in figure
    assert pd.read_csv(io.StringIO(figure[CSV])).values.tolist() == [[1, 3], [2, 4]]
    assert "text/html" in table
    assert table[CSV] == "a\n1\n2\n"
    assert "image/png" in graph
    assert CSV not in graph
