"""What is said under a figure and at the end of a page of where the numbers come from."""

import html
import json
from pathlib import Path

import pytest
from docutils import nodes

from bnicl.batch.parameters import RESULTS
from tools.made_by import move_opening, table_line, tables_of


def test_a_page_names_the_tables_that_it_reads_and_those_that_its_figures_were_made_by() -> None:
    read = {"source": ["swept = bnicl.load_results(\n", '    "paper/prediction"\n)'], "outputs": []}
    shown = {"source": "figures.show(figure, table)", "outputs": [{"metadata": {"bnicl": {"made_by": ["estimators"]}}}]}
    other = {"source": "print(1)", "outputs": [{"output_type": "stream"}]}
    assert tables_of([read, shown, other]) == ["estimators", "paper/prediction"]


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.stem)
def test_every_committed_table_says_what_made_it(path: Path) -> None:
    name = path.relative_to(RESULTS).with_suffix("").as_posix()
    made, line = json.loads(path.read_text()), table_line(name)
    assert f"<code>{html.escape(made['made by'])}</code>" in line
    assert all(place["commit"] in line for place in made.get("environments", [made]))


def test_the_opening_figure_stands_before_the_first_cell() -> None:
    page, boxes = nodes.section("", nodes.paragraph(text="The question.")), []
    for tags in ([], ["hide-input"], ["opening"]):
        boxes.append(nodes.container(nb_element="cell_code", cell_metadata={"tags": tags} if tags else {}))
        page += nodes.section("", boxes[-1]) if "opening" in tags else boxes[-1]
    move_opening(boxes)
    assert page.children[1:4] == [boxes[2], boxes[0], boxes[1]]
