"""When a table is stale: digests of what computes it, and of nothing else.

A chapter's tables depend on the modules of bnicl that it computes with, and on its own cells that make them: those
with the tag `table` and the parameters (all code cells, where none has that tag). A digest is that of the syntax tree
without docstrings: prose, comments, layout and plots never make a table stale; a changed constant does.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bnicl.batch.parameters import ROOT, cells_of_notebook, chapter_path

PACKAGE = ROOT / "bnicl"
# No number in a table depends on these: they draw figures, run chapters or read a reader's own files.
NO_NUMBERS = ("__init__", "__main__", "commands", "figures", "readable", "own", "edges", "files", "batch")
TABLE = "table"  # the tag of a cell that makes a saved table
_IMPORT = (ast.Import, ast.ImportFrom)


def digest(*parts: bytes) -> str:
    """The SHA-256 of the parts one after the other, in hexadecimal."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, read a piece at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(source: str) -> str:
    """Twelve hexadecimal digits of what Python code does: of its syntax tree, without docstrings.

    >>> code_digest("x = 1  # one") == code_digest("x  =  1"), code_digest("x = 1") == code_digest("x = 2")
    (True, False)
    """
    return digest(repr(_shape(ast.parse(source))).encode())[:12]


def _shape(node: object) -> object:
    """A syntax tree as nested tuples, without docstrings, places and what is empty, which versions of Python vary."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = node.body[1:]
    return (type(node).__name__, *((name, _shape(value)) for name, value in fields.items() if value not in (None, [])))


def code_version() -> str:
    """Twelve hexadecimal digits that change whenever a file of bnicl does."""
    return digest(*(f"{name} {text}".encode() for name, text in _modules().items()))[:12]


def code_of(chapter: str) -> dict[str, str]:
    """Digests of what a chapter's tables depend on: its cells that make them, and each module it computes with.

    The modules are those that these cells name, or any cell imports, and those that these import in turn, less
    `NO_NUMBERS`. Cells that are not plain Python count as using every module.
    """
    modules, exported = _modules(), _exported()
    cells = [cell for cell in cells_of_notebook(chapter_path(chapter)) if cell.kind == "code"]
    making = [cell for cell in cells if TABLE in cell.tags or "parameters" in cell.tags]
    making = making if any(TABLE in cell.tags for cell in cells) else cells
    try:
        trees = [ast.parse(cell.source) for cell in making]
        imports = [node for cell in cells for node in ast.parse(cell.source).body if isinstance(node, _IMPORT)]
        wanted = set().union(*(_imports(tree, exported) for tree in [*trees, *imports]))
        doing = [_shape(node) for tree in trees for node in tree.body if not isinstance(node, _IMPORT)]
        own = digest(repr(doing).encode())
    except SyntaxError:  # a line for the shell
        own, wanted = digest(*(cell.source.encode() for cell in making)), set(modules)
    used: set[str] = set()
    while wanted := {name for name in wanted - used if name in modules and not _makes_no_number(name)}:
        used |= wanted
        wanted = set().union(*(_imports(ast.parse(modules[name]), exported) for name in wanted))
    return {"the chapter": own[:12], **{name: code_digest(modules[name]) for name in sorted(used)}}


def _modules() -> dict[str, str]:
    """The source of every module of bnicl, by its name without "bnicl."."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text() for path in paths}


@cache
def _exported() -> Mapping[str, str]:
    """The module that each public name of bnicl comes from."""
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def _makes_no_number(module: str) -> bool:
    return module.split(".")[0] in NO_NUMBERS or module.endswith("__init__")


def _imports(tree: ast.AST, exported: Mapping[str, str]) -> set[str]:
    """The modules of bnicl that Python code names, without "bnicl."."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bnicl":
            found.add(exported.get(node.attr, node.attr))
        elif isinstance(node, ast.ImportFrom) and node.module == "bnicl":
            found |= {exported.get(alias.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bnicl."):
            module = (node.module or "").removeprefix("bnicl.")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("bnicl.") for alias in node.names if alias.name.startswith("bnicl.")}
    return found
