"""For Sphinx: a page opens with its figure, each figure has the data behind it, and the page ends with what made it.

The cell with the tag `opening` moves before the first cell, under the question that the page answers.
A figure and a table carry their numbers in the executed notebook, and a figure the committed tables that it was drawn
from (`bnicl.figures.show`); the numbers become files in data/.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

from bnicl.batch.parameters import RESULTS, check_parameters, current_profile

if TYPE_CHECKING:
    from sphinx.application import Sphinx

Cells = list[dict[str, Any]]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add(app: Sphinx, document: nodes.document) -> None:
    """Puts a line under each figure that a cell of this page shows, and the provenance at the page's end."""
    name = app.env.docname
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{name}.ipynb"
    if app.builder.format != "html" or not executed.is_file():
        return
    cells, up = json.loads(executed.read_text())["cells"], "../" * name.count("/")
    boxes = [box for box in document.findall(nodes.container) if box.get("nb_element") == "cell_code"]
    move_opening(boxes)
    for box in boxes:
        if links := _links(app, name, cells, box["cell_index"]):
            shown = ", ".join(f'<a href="{up}{path}" download>{text}</a>' for text, path in links)
            box.parent.insert(box.parent.index(box) + 1, _raw(f'<p class="bnicl-data">Data: {shown}</p>'))
    lines = [page_line(Path(name).name, cells), *(table_line(table) for table in tables_of(cells))]
    text = "".join(f"<p>{line}</p>" for line in lines)
    made = f'<details class="bnicl-made"><summary>What made the numbers of this page</summary>{text}</details>'
    document.children[-1].append(_raw(made))  # the last section


def move_opening(boxes: list[nodes.container]) -> None:
    """Moves the box with the tag `opening` before the first box of the page."""
    for box in boxes[1:]:
        if "opening" in box["cell_metadata"].get("tags", []):
            box.parent.remove(box)
            boxes[0].parent.insert(boxes[0].parent.index(boxes[0]), box)


def _raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def _links(app: Sphinx, page: str, cells: Cells, i: int) -> list[tuple[str, str]]:
    """Text and path of the files behind the figures of a cell; the numbers that are shown are written to data/."""
    found = []
    outputs = [output for output in cells[i].get("outputs", []) if "bnicl" in output.get("metadata", {})]
    for k, output in enumerate(outputs):
        if numbers := output["data"].get("text/csv"):
            label = cells[i]["metadata"].get("mystnb", {}).get("figure", {}).get("name") or f"cell-{i}"
            path = f"data/{Path(page).name}-{label}{f'-{k}' if k else ''}.csv"
            (Path(app.outdir) / "data").mkdir(parents=True, exist_ok=True)
            (Path(app.outdir) / path).write_text("".join(numbers))
            found.append(("what is shown (CSV)", path))
        files = [f"{table}.csv" for table in output["metadata"]["bnicl"]["made_by"]]
        found += [(file, file) for file in files if (RESULTS / file).is_file()]
    return found


def tables_of(cells: Cells) -> list[str]:
    """The committed tables that a page reads or shows."""
    shown = {name for cell in cells for output in cell.get("outputs", [])
             for name in output.get("metadata", {}).get("bnicl", {}).get("made_by", ())}  # fmt: skip
    read = {name for cell in cells for name in re.findall(r"load_results\(\s*\"([\w/-]+)\"", "".join(cell["source"]))}
    return [name for name in sorted(shown | read) if (RESULTS / f"{name}.json").is_file()]


def table_line(name: str) -> str:
    """What made a committed table, from its manifest."""
    made = json.loads((RESULTS / f"{name}.json").read_text())
    again = html.escape(made["made by"])
    runs = list(made["runs"].values()) if isinstance(made.get("runs"), dict) else []
    facts = []
    if runs:
        sweep = made["sweep"]
        seeds = sorted({run["parameters"]["seed"] for run in runs if "seed" in run["parameters"]})
        varied = [f"{key} = {', '.join(map(str, values))}" for key, values in sweep["grid"].items()]
        facts = [f"{len(runs)} runs", *varied, f"seeds {', '.join(map(str, seeds))}"]
        facts.append(f"{sum(run['seconds'] for run in runs) / 60:.0f} minutes in all")
    elif made.get("seconds"):
        facts = [f"{made['seconds'] / 60:.0f} minutes"]
    finished = max((run["started"][:10] for run in runs), default=made.get("finished", "")[:10])
    for place in made.get("environments", [made]):
        facts.append(f"commit {place['commit']} on {_hardware(place['hardware'])}")
    facts.append(finished)
    return f"<code>{name}.csv</code>, made by <code>{again}</code>: {html.escape('; '.join(filter(None, facts)))}."


def _hardware(made: dict[str, Any]) -> str:
    return f"{made['cores']} cores of {made['cpu']}" + (f", {made['gpu']}" if made["gpu"] else "")


def page_line(page: str, cells: list[dict[str, Any]]) -> str:
    """What computed the numbers of this page: its parameters, and what its last cell says of code, machine and time."""
    printed = "".join("".join(output.get("text", "")) for output in cells[-1].get("outputs", []))
    said = dict(line.split(maxsplit=1) for line in printed.splitlines() if " " in line)
    if "profile" not in said:
        return "Computed when this page was built, by <code>make book</code>."
    given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in check_parameters(page, {}).items())
    facts = f"profile {current_profile()}; {given}; {said['code']}; {said['hardware']}; {said['finished']}"
    return f"Computed by this page, that is by <code>bnicl run {page}</code>: {html.escape(facts)}."
