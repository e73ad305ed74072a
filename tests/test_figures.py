"""What a notebook shows: figures that carry their numbers, tables to be read, one palette."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from bnicl import figures, readable
from bnicl.batch.parameters import BOOK

CHAPTERS = sorted(BOOK.glob("*.ipynb"))
CURVES = pd.DataFrame(
    {
        "n_context": [1, 10, 1, 10, 1, 10, 1, 10],
        "predictor": ["MLE", "MLE", "naive", "naive"] * 2,
        "network": ["asia"] * 4 + ["alarm"] * 4,
        "tv": [0.5, 0.25, 0.75, 0.5, 0.4, 0.2, 0.6, 0.3],
    }
)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_every_predictor_has_a_colour_of_its_own_and_nothing_else_has_one_of_these() -> None:
    every = [*figures.PALETTE.values(), *figures.OTHERS]
    assert len(set(every)) == len(every)
    mixed = figures.colours(["MLE", "wet", "dry"])
    assert mixed["MLE"] == figures.PALETTE["MLE"]
    assert {mixed["wet"], mixed["dry"]} <= set(figures.OTHERS)


def lab(colour: str) -> np.ndarray:
    """CIE 1976 lightness and hues of an sRGB colour, in which distances are those that the eye sees."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ linear / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_nothing_looks_like_a_predictor_that_it_is_not() -> None:
    for i, other in enumerate(figures.OTHERS):
        for colour in [*figures.PALETTE.values(), *figures.OTHERS[:i]]:
            assert np.linalg.norm(lab(other) - lab(colour)) > 16, (other, colour)


def test_no_chapter_draws_with_another_palette() -> None:
    for path in BOOK.glob("*.ipynb"):
        assert not re.search(r'palette=\\"colorblind|plt\.show\(', path.read_text()), path.name


def test_curves_have_a_panel_for_each_value_and_the_colour_of_their_predictor() -> None:
    grid = figures.curves(CURVES, panel="network")
    assert list(grid.axes_dict) == ["asia", "alarm"]
    naive, mle = (grid.axes_dict["asia"].lines[i] for i in (1, 0))
    assert (mle.get_color(), naive.get_color()) == (figures.PALETTE["MLE"], figures.PALETTE["naive"])
    assert list(mle.get_ydata()) == [0.5, 0.25]


def test_the_papers_figure_has_a_panel_for_each_predictor_and_one_for_the_averages() -> None:
    of_nodes = pd.concat([CURVES.assign(node=node) for node in ("X0", "X1", "average")])
    ours = of_nodes.assign(predictor="transformer", tv=0.125)
    figure = figures.four_panels(pd.concat([of_nodes, ours]).query("network == 'asia'"))
    assert [ax.get_title() for ax in figure.axes] == ["transformer", "MLE", "naive", "average over the nodes"]
    drawn = [[[*np.asarray(line.get_ydata())] for line in ax.lines] for ax in figure.axes]
    assert [0.5, 0.25] in drawn[1]
    assert [0.5, 0.25] not in drawn[0] + drawn[2]
    colours = {line.get_color() for line in figure.axes[3].lines if np.size(line.get_xdata())}
    assert colours == {figures.PALETTE[name] for name in ("MLE", "naive", "transformer")}


def test_a_table_has_one_header_row_the_same_digits_and_no_gaps() -> None:
    wide = CURVES.pivot(index="network", columns=["predictor", "n_context"], values="tv")
    wide.loc["asia", ("MLE", 1)] = None
    shown = readable.flat(wide)
    assert list(shown.columns) == ["network", "MLE, 1", "MLE, 10", "naive, 1", "naive, 10"]
    assert shown["MLE, 1"].tolist() == ["0.4", readable.NONE]
    assert shown["MLE, 10"].tolist() == ["0.20", "0.25"]
    assert "NaN" not in readable.as_html(wide)
    assert '<td class="text-right">0.25</td>' in readable.as_html(wide)


def test_a_figure_in_a_notebook_carries_its_numbers_and_its_sources() -> None:
    cells = [
        "from bnicl import figures; figures.use_style()\nimport matplotlib.pyplot as plt, pandas as pd",
        "table = pd.DataFrame({'x': [1, 2], 'y': [3, 4]})\nax = plt.subplots()[1]\nax.plot(table['x'], table['y'])\n"
        "figures.show(ax, table, made_by='sachs')",
        "table",
        "figures.show(plt.subplots()[1], table.iloc[[0, 1, 1]])",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    NotebookClient(notebook, timeout=120).execute()
    (figure,), (table,), (part,) = ([out for out in cell.outputs if "data" in out] for cell in notebook.cells[1:])
    assert figure.metadata["bnicl"]["made_by"] == ["sachs"]
    assert figure.metadata["image/svg+xml"]["width"] > 100
    assert "<svg" in figure.data["image/svg+xml"]
    assert figure.data["text/csv"] == "x,y\n1,3\n2,4\n"
    assert part.data["text/csv"] == "x,y\n1,3\n2,4\n2,4\n"  # no number of the row in the whole table
    assert '<td class="text-right">4</td>' in table.data["text/html"]


def test_the_smallest_text_is_measured_at_the_width_that_a_page_shows() -> None:
    fig, ax = plt.subplots(figsize=(9, 3))
    ax.tick_params(labelsize=10)
    ax.set_title("small", fontsize=6)
    fig.canvas.draw()  # before that the ticks have no text
    assert figures.smallest_text(fig, 600) == pytest.approx(6 * 96 / 72, abs=0.05)
    assert figures.smallest_text(fig, 2 * figures.COLUMN) == pytest.approx(3 * 96 / 72, abs=0.05)
    ax.set_title("")
    assert figures.smallest_text(fig, 600) == pytest.approx(10 * 96 / 72, abs=0.05)
    plt.close(fig)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_text_of_a_figure_is_smaller_than_nine_pixels(path: Path) -> None:
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    sizes = [out["metadata"]["bnicl"]["smallest_text"] for out in outputs if "bnicl" in out.get("metadata", {})]
    assert all(size >= 9 for size in sizes), sizes
