"""Chapters, their typed parameters, and the profiles that set the defaults.

A chapter has one cell tagged `parameters`, each statement `name: type = default  # comment`. The types are
those of `TYPES`; a default may be `by_profile(...)`, so that one notebook serves as a quick test
("smoke"), as a chapter to read ("book") and as an experiment at the scale of the paper ("paper").
"""

from __future__ import annotations

import ast
import io
import json
import os
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from bnicl.estimators.counting import Unmatched
from bnicl.networks.checks import did_you_mean
from bnicl.networks.sources import check_source, is_network_file, load_network
from bnicl.training.config import Objective, PriorName, Recipe, Start
from bnicl.transformer.model import Mask

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
RESULTS = ROOT / "results"

# --- profiles -------------------------------------------------------------------------------------

Profile = Literal["smoke", "book", "paper"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


def check_profile(name: str) -> Profile:
    """`name` if it is a profile; a ValueError if not."""
    if name not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return name


def current_profile() -> Profile:
    """The profile that the environment variable BNICL_PROFILE names; "book" if it is not set, or empty."""
    return check_profile(os.environ.get("BNICL_PROFILE") or "book")


def by_profile(book: T, smoke: T, paper: T | None = None) -> T:
    """The value for the current profile; `paper` is that of the book where it is not given.

    >>> by_profile(book=200, smoke=200)
    200
    """
    values = {"smoke": smoke, "book": book, "paper": book if paper is None else paper}
    return values[current_profile()]


# --- parameters -----------------------------------------------------------------------------------


def _network(source: str) -> str:
    """A name, or the whole path of a file: the notebook runs in another folder."""
    if not is_network_file(check_source(source)):
        return source
    load_network(source)  # a broken file is refused here, before anything starts
    return str(Path(source).resolve())


def results_path(name: str) -> Path:
    """The table results/NAME.csv, or that at a path that ends in .csv; a ValueError with the names if there is none."""
    path = Path(name) if name.endswith(".csv") else RESULTS / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(map(_table_name, RESULTS.rglob("*.csv"))))
        raise ValueError(f"results: expected one of {known} or a .csv file, got {name!r}")
    return path


def _results(name: str) -> str:
    return str(results_path(name).resolve()) if name.endswith(".csv") else _table_name(results_path(name))


def _table_name(path: Path) -> str:
    return path.relative_to(RESULTS).with_suffix("").as_posix()


def _rows_file(path: str) -> str:
    """The absolute path of a file, because the notebook runs in another folder; empty if there is none."""
    if path and not Path(path).is_file():
        raise ValueError(f"rows: expected a file, got {path!r}")
    return str(Path(path).resolve()) if path else path


def _different(items: list[T]) -> list[T]:
    if len(set(items)) != len(items):
        raise ValueError("each at most once")
    return items


NetworkName = Annotated[str, AfterValidator(_network)]
NetworkNames = Annotated[list[NetworkName], Field(min_length=1), AfterValidator(_different)]
RowsFile = Annotated[str, AfterValidator(_rows_file)]
ResultsName = Annotated[str, AfterValidator(_results)]
Count = Annotated[int, Field(ge=10, le=1_000_000)]  # of things drawn
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
ContextSizes = Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1), AfterValidator(_different)]
TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "Count": Count,
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "Probability": Probability,
    "NetworkName": NetworkName,
    "NetworkNames": NetworkNames,
    "ContextSizes": ContextSizes,
    "ResultsName": ResultsName,
    "RowsFile": RowsFile,
    "Unmatched": Unmatched,
    "Recipe": Recipe,
    "PriorName": PriorName,
    "Objective": Objective,
    "Mask": Mask,
    "Start": Start,
}
_ADAPTERS = {name: TypeAdapter(annotation) for name, annotation in TYPES.items()}


class Parameter(NamedTuple):
    """One statement of a chapter's parameters cell."""

    name: str
    type_name: str
    default: str
    comment: str

    def check(self, value: Any) -> Any:
        """`value`, or its text from a command line, as this parameter's type; a ValueError if it is not.

        A list is its items separated by commas.
        """
        if self.type_name not in TYPES:
            raise ValueError(f"parameter {self.name}: expected a type among {', '.join(TYPES)}, got {self.type_name}")
        if isinstance(value, str) and self.type_name in ("NetworkNames", "ContextSizes"):
            value = [item.strip(" \"'") for item in value.strip("[] ").split(",")]
        try:
            return _ADAPTERS[self.type_name].validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            reason = problem["msg"].removeprefix("Value error, ")
            raise ValueError(f"parameter {self.name}: expected {self.type_name}, got {value!r} ({reason})") from error

    def value(self) -> Any:
        """The default under the current profile."""
        try:  # The expression is part of a chapter, which is about to be executed whole; it may go over lines.
            default = eval(f"({self.default})", {"__builtins__": {}, "by_profile": by_profile})  # noqa: S307
        except (NameError, TypeError, SyntaxError, AttributeError, ArithmeticError, LookupError) as error:
            raise ValueError(
                f"parameter {self.name}: expected a plain default, got {self.default} ({error})"
            ) from error
        return self.check(default)


# --- chapters -------------------------------------------------------------------------------------


def chapters() -> dict[str, Path]:
    """Every chapter by name, in the order of the table of contents' file names."""
    return {path.stem: path for path in sorted(BOOK.glob("*.ipynb"))}


def chapter_path(name: str) -> Path:
    """The notebook of a chapter, by its name or a path ending in .ipynb; a ValueError with the nearest name if none."""
    if name.endswith(".ipynb"):
        if not Path(name).is_file():
            raise ValueError(f"chapter: expected a notebook, got {name!r}, which is not there")
        return Path(name).resolve()
    known = chapters()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"chapter: expected one of {', '.join(known)} or a notebook's path, got {name!r}{hint}")
    return known[name]


class Cell(NamedTuple):
    """One cell of a notebook, without its outputs."""

    kind: str
    tags: tuple[str, ...]
    source: str


def cells_of_notebook(notebook: Path) -> list[Cell]:
    """The cells of a notebook; a ValueError where it is none."""
    try:
        cells = json.loads(notebook.read_text())["cells"]
        return [
            Cell(cell["cell_type"], tuple(cell.get("metadata", {}).get("tags", ())), "".join(cell["source"]))
            for cell in cells
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"chapter: expected a notebook, got {notebook} ({type(error).__name__}: {error})") from error


def cells_of(notebook: Path, kind: str) -> list[str]:
    """The source of every cell of a kind, without the outputs."""
    return [cell.source for cell in cells_of_notebook(notebook) if cell.kind == kind]


def title_of(chapter: str) -> str:
    """The heading of a chapter."""
    return cells_of(chapter_path(chapter), "markdown")[0].splitlines()[0].removeprefix("# ")


def parameters_of(chapter: str) -> dict[str, Parameter]:
    """The parameters of a chapter, read from its notebook without running it; none where no cell is tagged.

    Raises ValueError if a statement of that cell is not a parameter, if two have the same name, and if several
    cells are tagged: papermill inserts the given values after the first.
    """
    cells = [cell for cell in cells_of_notebook(chapter_path(chapter)) if "parameters" in cell.tags]
    if [cell.kind for cell in cells] not in ([], ["code"]):
        kinds = " and ".join(f"a {cell.kind} cell" for cell in cells)
        raise ValueError(f"chapter {chapter}: expected one code cell with the tag parameters, got {kinds}")
    try:
        return _read_parameters(cells[0].source) if cells else {}
    except ValueError as error:
        raise ValueError(f"chapter {chapter}: {error}") from error


def _read_parameters(source: str) -> dict[str, Parameter]:
    """The statements of a parameters cell; a ValueError with the first that is not a parameter."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"expected Python, got {(error.text or source).strip()!r} ({error.msg})") from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.removeprefix("#").strip() for token in tokens if token.type == tokenize.COMMENT
    }
    declared: dict[str, Parameter] = {}
    end = 0
    for statement in statements:
        above = " ".join(comments[line] for line in range(end + 1, statement.lineno) if line in comments)
        end = statement.end_lineno or statement.lineno
        parameter = _parameter(source, statement, comments.get(end, above))
        if parameter.name in declared:
            raise ValueError(f"expected each parameter once, got {parameter.name!r} twice")
        declared[parameter.name] = parameter
    return declared


def _parameter(source: str, statement: ast.stmt, comment: str) -> Parameter:
    def text(node: ast.AST) -> str:
        return ast.get_source_segment(source, node) or ""

    match statement:
        case ast.AnnAssign(ast.Name(name), ast.Constant(str(type_name)), ast.expr() as default):
            pass  # a type in quotes is that type
        case ast.AnnAssign(ast.Name(name), annotation, ast.expr() as default):
            type_name = text(annotation)
        case _:
            raise ValueError(f"expected name: type = default, got {text(statement)!r}")
    return Parameter(name, type_name, text(default), comment)


def declared_parameter(declared: Mapping[str, Parameter], name: str) -> Parameter:
    """The parameter of this name; a ValueError with the nearest name if there is none."""
    if name not in declared:
        hint = did_you_mean(name, declared)
        raise ValueError(f"parameter: expected one of {', '.join(declared)}, got {name!r}{hint}")
    return declared[name]


def check_parameters(chapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a run, those given checked and the others by default; a ValueError if one is wrong."""
    declared = parameters_of(chapter)
    checked = {name: declared_parameter(declared, name).check(value) for name, value in given.items()}
    return {name: checked[name] if name in checked else line.value() for name, line in declared.items()}
