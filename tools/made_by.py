"""For Sphinx: under every figure and table, what made it, the data behind it, and the line to make it again.

Which committed tables a cell shows is read from the code: a name stands for the tables that it was computed from, back
to `load_results`. The numbers that are shown are in the executed notebook (`bnicl.shown`) and become files in data/.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

from bnicl.batch.parameters import RESULTS, check_parameters, current_profile
from bnicl.shown import CSV

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GLUED = re.compile(r'glue\(f?"([^"{]+)')
PAGE = ""  # stands for what the page itself has computed
COMPUTES = ("bnicl.", "runs.", "tables.", "sweeps.")
NO_RUN = ("bnicl.load_network", "bnicl.BayesianNetwork", "bnicl.TrainingConfig", "runs.save_table")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add(app: Sphinx, document: nodes.document) -> None:
    """Puts the lines under each figure and each table that a cell of this page shows."""
    name = app.env.docname
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{name}.ipynb"
    if app.builder.format != "html" or not executed.is_file():
        return
    cells = json.loads(executed.read_text())["cells"]
    tables = sources_of(["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells])
    up = "../" * name.count("/")
    for place, i in _places(document, cells):
        shown = [f'<a href="{up}{file}" download>what is shown (CSV)</a>' for file in _data(app, name, cells[i], i)]
        files = [f"{table}.{kind}" for table in sorted(tables[i] - {PAGE}) for kind in ("csv", "json")]
        links = [*shown, *(f'<a href="{up}{f}" download>{f}</a>' for f in files if (RESULTS / f).is_file())]
        made = [table_line(table) for table in sorted(tables[i] - {PAGE})]
        if PAGE in tables[i] or not made:
            made.append(page_line(Path(name).name, cells))
        lines = [*made, *(["Data: " + ", ".join(links)] if links else [])]
        text = "".join(f"<p>{line}</p>" for line in lines)
        raw = f'<details class="bnicl-made"><summary>Data and provenance</summary>{text}</details>'
        place.parent.insert(place.parent.index(place) + 1, nodes.raw("", raw, format="html"))


def _places(document: nodes.document, cells: list[dict[str, Any]]) -> list[tuple[nodes.Element, int]]:
    """Where a figure or table stands, and the cell that made it."""
    found: list[tuple[nodes.Element, int]] = []
    for box in document.findall(nodes.container):
        if box.get("nb_element") == "cell_code" and box.next_node(_is_output):
            shown = [output.get("data", {}) for output in cells[box["cell_index"]]["outputs"]]
            if any("image/png" in data or CSV in data for data in shown):
                found.append((box, box["cell_index"]))
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for key, label in re.findall(r"\{glue:figure\} (\S+)\n:name: (\S+)", text):
        glued = [
            i
            for i, cell in enumerate(cells)
            for start in GLUED.findall("".join(cell["source"]))
            if key.startswith(start)
        ]
        found += [
            (figure, glued[-1]) for figure in document.findall(nodes.figure) if label in figure["names"] and glued
        ]
    return found


def _is_output(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_output"


def _data(app: Sphinx, page: str, cell: dict[str, Any], i: int) -> list[str]:
    """Writes what a cell shows to files of the site; their paths there."""
    found: list[str] = []
    for data in (output.get("data", {}) for output in cell["outputs"]):
        if CSV in data:
            label = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") or f"cell-{i}"
            path = f"data/{Path(page).name}-{label}{f'-{len(found)}' if found else ''}.csv"
            (Path(app.outdir) / "data").mkdir(parents=True, exist_ok=True)
            (Path(app.outdir) / path).write_text("".join(data[CSV]))
            found.append(path)
    return found


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


# --- which tables a cell shows ----------------------------------------------------------------------------------------


def sources_of(cells: list[str]) -> list[set[str]]:
    """For the code of each cell the committed tables behind it, and `PAGE` where the page's own computing is, too.

    >>> sources_of(["swept = bnicl.load_results('sachs')", "best = swept.max()", "best", "net = bnicl.train(c)", "net"])
    [{'sachs'}, {'sachs'}, {'sachs'}, {''}, {''}]
    """
    known: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, str] = {}
    found = []
    for cell in cells:
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # a line for the shell: it computes on the page
            body = ast.parse("bnicl.run()").body
        found.append(_follow(body, known, texts))
    return found


def _follow(body: list[ast.stmt], known: dict[str, set[str]], texts: dict[str, str]) -> set[str]:
    """What the statements use; the names that they bind stand for it from now on."""
    used: set[str] = set()
    for statement in body:
        own = set()
        for part in ast.iter_child_nodes(statement):
            if isinstance(part, ast.expr | ast.withitem | ast.arguments):
                own |= _used(part, known, texts)
        bound = [node.id for target in _targets(statement) for node in ast.walk(target) if isinstance(node, ast.Name)]
        if isinstance(statement, ast.FunctionDef):
            parameters = {argument.arg for argument in ast.walk(statement.args) if isinstance(argument, ast.arg)}
            free = defaultdict(set, {name: own for name, own in known.items() if name not in parameters})
            own |= _follow(statement.body, free, texts.copy())
            bound = [statement.name]
        anew = [target.id for target in getattr(statement, "targets", []) if isinstance(target, ast.Name)]
        for name in bound:
            known[name] = own if name in anew else own | known[name]
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts[name] = value.value
        used |= own
        for inner in () if isinstance(statement, ast.FunctionDef) else ("body", "orelse", "handlers", "finalbody"):
            used |= _follow(getattr(statement, inner, []), known, texts)
    return used


def _targets(statement: ast.stmt) -> list[ast.expr]:
    """What a statement binds, or changes in place."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    if isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.For):
        return [statement.target]
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call):  # tables.append(own)
        return (
            [call.func.value] if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else []
        )
    return [item.optional_vars for item in getattr(statement, "items", []) if item.optional_vars]


def _used(tree: ast.AST, known: dict[str, set[str]], texts: dict[str, str]) -> set[str]:
    used: set[str] = set()
    inner = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in inner:
            used |= known.get(node.id, set())
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called.split(".")[-1] in ("load_results", "results_path"):
            strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            used |= _tables(node.args[0], texts, strings)
        elif called.startswith(COMPUTES) and "(" not in called and called not in NO_RUN:
            used.add(PAGE)
    return used


def _tables(argument: ast.expr, texts: dict[str, str], strings: set[str]) -> set[str]:
    """The tables that the argument of `load_results` names; of an f-string, those for the strings beside it."""
    if isinstance(argument, ast.Constant):
        names = {str(argument.value)}
    elif isinstance(argument, ast.Name) and argument.id in texts:
        names = {texts[argument.id]}
    elif isinstance(argument, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else None for part in argument.values]
        names = {"".join(text if part is None else str(part) for part in parts) for text in strings}
    else:
        names = set()
    return {name for name in names if (RESULTS / f"{name}.json").is_file()} or {PAGE}
