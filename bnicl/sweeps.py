"""Sweeps: one file describes many runs of a chapter, one call executes those that are missing.

A sweep file is YAML:

    chapter: in-context-estimators    # a name that `bnicl chapters` lists, or a notebook's path
    profile: book
    table: estimators                 # the table of the chapter that is collected
    where: {node: average}            # of it, the rows with these values (all, if not given)
    grid: {compared: [chain5, asia]}  # every combination of the values
    sets: [{alpha: 1}, {alpha: 0.1}]  # with each of these sets of parameters
    seeds: [0, 1, 2]                  # and each of these values of the parameter `seed`
    time_limit: 600                   # seconds that one run may take

papermill executes (`runs.execute`), Dask distributed schedules. The folder of a finished run is never
executed again; a run that was lost, failed or cut short is.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bnicl import parameters, runs
from bnicl.cluster import execute_all
from bnicl.parameters import Profile
from bnicl.runs import Run

MAX_RUNS = 100_000
FieldPath = tuple[str | int, ...]

# --- sweep files ----------------------------------------------------------------------------------

Values = Annotated[list[Any], Field(min_length=1)]


class CarriedOver(BaseModel):
    """A table made by older code, kept because the change since does not touch its numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    to: str  # the version of the code that the table is still right for, as `problems` prints it
    reason: Annotated[str, Field(min_length=10)]


class Sweep(BaseModel):
    """What a sweep file says; see the module for its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    chapter: str
    profile: Profile = "book"
    table: str
    where: dict[str, str | int] = {}
    grid: dict[str, Values] = {}
    sets: Annotated[list[dict[str, Any]], Field(min_length=1)] = [{}]
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    carried_over: CarriedOver | None = None

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The grid with the seeds as its last axis."""
        return {**self.grid, **({} if self.seeds is None else {"seed": self.seeds})}

    def __len__(self) -> int:
        return len(self.sets) * math.prod(len(values) for values in self.axes.values())

    @cached_property
    def runs(self) -> list[Run]:
        """Every run of the sweep, the last axis fastest."""
        first = runs.plan_run(self.chapter, {}, self.profile)
        points = [dict(zip(self.axes, point, strict=True)) for point in itertools.product(*self.axes.values())]
        given = [{**one, **point} for one in self.sets for point in points]
        return [Run(first.chapter, g, {**first.parameters, **g}, first.profile, first.code) for g in given]


def load_sweep(path: Path | str) -> Sweep:
    """The sweep that a file describes.

    Raises ValueError with the line and the field where the file is not YAML, lacks a field or has one too many,
    names a chapter or a parameter that there is not, gives a parameter a value that it cannot have, asks for
    the same run twice, or for more than 100,000.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"sweep: expected a file, got {str(path)!r}")
    data, lines = _read_yaml(path)

    def wrong(field: FieldPath, problem: str) -> ValueError:
        known = next((lines[field[:n]] for n in range(len(field), -1, -1) if field[:n] in lines), 1)
        name = ".".join(map(str, field))
        return ValueError(f"{path}, line {known}, " + (f"field {name}: " if name else "") + problem)

    if not isinstance(data, dict):
        raise wrong((), f"expected fields and values, got {data!r}")
    try:
        sweep = Sweep(**{**data, "name": path.stem})
    except ValidationError as error:
        problem = error.errors()[0]
        got = f", got {problem['input']!r}" if problem["type"] != "missing" else ""
        raise wrong(problem["loc"], problem["msg"] + got) from error
    if len(sweep) > MAX_RUNS:
        raise wrong(("grid",), f"expected at most {MAX_RUNS:,} runs, got {len(sweep):,}")
    return _checked(sweep, wrong)


def _checked(sweep: Sweep, wrong: Callable[[FieldPath, str], ValueError]) -> Sweep:
    """The sweep with its values as the chapter's types; each value is checked once, not once a run."""
    try:
        declared = parameters.parameters_of(sweep.chapter)
    except ValueError as error:
        raise wrong(("chapter",), str(error)) from error

    def check(field: FieldPath, name: str, value: Any) -> Any:
        try:
            return parameters.declared_parameter(declared, name).check(value)
        except ValueError as error:
            raise wrong(field, str(error)) from error

    grid = {
        name: [check(("grid", name, i), name, value) for i, value in enumerate(values)]
        for name, values in sweep.grid.items()
    }
    sets = [
        {name: check(("sets", i, name), name, value) for name, value in one.items()} for i, one in enumerate(sweep.sets)
    ]
    for i, seed in enumerate(sweep.seeds or []):
        check(("seeds", i), "seed", seed)
    for i, one in enumerate(sets):
        if twice := set(one) & set(sweep.axes):
            raise wrong(("sets", i, min(twice)), f"expected each parameter in one place, got {min(twice)!r} in two")
    if sweep.seeds is not None and "seed" in grid:
        raise wrong(("grid", "seed"), "expected each parameter in one place, got 'seed' in grid and seeds")
    for field, values in [*((("grid", name), values) for name, values in grid.items()), (("sets",), sets)]:
        _each_once(field, values, wrong)
    _each_once(("seeds",), sweep.seeds or [], wrong)
    return sweep.model_copy(update={"grid": grid, "sets": sets})


def _each_once(field: FieldPath, values: Sequence[Any], wrong: Callable[[FieldPath, str], ValueError]) -> None:
    seen: set[str] = set()
    for i, value in enumerate(values):
        text = json.dumps(value, sort_keys=True)
        if text in seen:
            raise wrong((*field, i), f"expected each value once, got {value!r} twice")
        seen.add(text)


def _read_yaml(path: Path) -> tuple[Any, dict[FieldPath, int]]:
    """The content of a YAML file, and the line of every field: {("grid", "alpha", 0): 4, ...}."""
    import yaml

    lines: dict[FieldPath, int] = {}

    def visit(node: yaml.Node, field: FieldPath) -> None:
        lines.setdefault(field, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                visit(item, (*field, i))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*field, key.value)
                if inner in lines:
                    raise ValueError(f"{path}, line {key.start_mark.line + 1}, field {key.value}: given twice")
                lines[inner] = key.start_mark.line + 1
                visit(value, inner)

    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: expected YAML, got {getattr(error, 'problem', error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text, got bytes that are not UTF-8") from error
    if node is not None:
        visit(node, ())
    return data, lines


# --- runs -----------------------------------------------------------------------------------------


def state_of(sweep: Sweep, out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the sweep's finished runs in a folder, by name; the others are to be executed."""
    found = {run.name: runs.read_manifest(out / run.name) for run in sweep.runs}
    return {name: manifest for name, manifest in found.items() if manifest}


def stale(sweep: Sweep, out: Path) -> Counter[str]:
    """What has changed since finished runs of this sweep in the folder were made, and in how many of them."""
    wanted = sweep.runs
    names, asked = {run.name for run in wanted}, {_key(run.parameters) for run in wanted}
    changed: Counter[str] = Counter()
    for folder in out.glob(f"{Path(sweep.chapter).stem}-*"):
        manifest = None if folder.name in names else runs.read_manifest(folder)
        if manifest and manifest["profile"] == sweep.profile and _key(manifest["parameters"]) in asked:
            changed.update(_changed(manifest["code"], wanted[0].code))
    return changed


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(part for part in {*before, *now} if before.get(part) != now.get(part))


def _key(parameters: Any) -> str:
    return json.dumps(parameters, sort_keys=True)


def seconds_each(sweep: Sweep, out: Path) -> float | None:
    """How long one run takes, as far as is known: the median of runs in the folder or of the committed table,
    whatever their parameters, or what the chapter itself says of its committed run; None if there is none of these.
    """
    manifests = [runs.read_manifest(folder) for folder in out.glob(f"{Path(sweep.chapter).stem}-*")]
    before = [m["seconds"] for m in manifests if m and m["profile"] == sweep.profile]
    if not before:
        before = [run["seconds"] for run in _provenance(sweep.name, parameters.RESULTS).get("runs", {}).values()]
    return statistics.median(before) if before else runs.committed_seconds(sweep.chapter, sweep.profile)


def run_sweep(
    sweep: Sweep,
    out: Path | str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> dict[str, str]:
    """Executes the runs of a sweep that are not in the folder yet; returns what went wrong, by the run's name.

    On this machine with `workers` processes (as many as it has cores and memory for, if not given), or on the
    cluster whose Dask scheduler has the address `scheduler`. Raises BlockingIOError if another sweep is at work
    in the folder, and what `cluster.execute_all` does.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        done = state_of(sweep, out)
        todo = [run for run in sweep.runs if run.name not in done]
        failures = execute_all(
            todo, out, workers=workers, scheduler=scheduler, time_limit=sweep.time_limit, progress=progress
        )
        for left in out.glob(".*-*"):  # of runs that were lost with their worker or client
            shutil.rmtree(left)
    return failures


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise BlockingIOError(f"sweep: another one is at work in {out}; wait for it, or give another --out") from error


# --- tables ---------------------------------------------------------------------------------------


def collect(sweep: Sweep, out: Path | str, results: Path | str = parameters.RESULTS) -> Path:
    """Joins the tables of the finished runs into RESULTS/NAME.csv, with RESULTS/NAME.json beside it.

    The rows are those of the runs in the order of the sweep, each with the name of its `run` and the parameters
    that vary. The .json says for every run its parameters, seconds, start and environment, and for the whole the
    sweep, the digests of code and table, and which runs are missing. Raises ValueError where no run has finished,
    or where the tables do not fit together.
    """
    out, results = Path(out), Path(results)
    done = state_of(sweep, out)
    if not done:
        raise ValueError(f"sweep: expected finished runs of {sweep.name} in {out}, got none")
    wanted = sweep.runs
    values = {name: {_key(run.parameters[name]) for run in wanted} for name in wanted[0].parameters}
    varying = [name for name, different in values.items() if len(different) > 1 or name in sweep.axes]
    text, environments, made = io.StringIO(), [], {}
    writer, header = csv.writer(text, lineterminator="\n"), None
    for run in (run for run in wanted if run.name in done):
        columns, rows = _table(sweep, out / run.name, done[run.name]["tables"])
        added = [name for name in varying if name not in columns]  # what the table says already it says itself
        if header is None:
            header = ["run", *added, *columns]
            writer.writerow(header)
        if header != ["run", *added, *columns]:
            raise ValueError(f"table {sweep.table}: expected the columns {header}, got {columns} in {run.name}")
        writer.writerows([run.name, *(_text(run.parameters[name]) for name in added), *row] for row in rows)
        manifest = done[run.name]
        environment = {key: manifest[key] for key in ("commit", "versions", "hardware")}
        if environment not in environments:
            environments.append(environment)
        facts = {key: manifest[key] for key in ("parameters", "seconds", "started")}
        made[run.name] = {**facts, "environment": environments.index(environment)}
    table = text.getvalue().encode()
    provenance = {
        "table": f"{sweep.name}.csv",
        "made by": f"bnicl sweep sweeps/{sweep.name}.yml",
        "sha256": runs.digest(table),
        "sweep": _described(sweep),
        "code": dict(wanted[0].code),
        "missing": [run.name for run in wanted if run.name not in done],
        "environments": environments,
        "runs": made,
    }
    results.mkdir(parents=True, exist_ok=True)
    _write(results / f"{sweep.name}.csv", table)
    _write(results / f"{sweep.name}.json", (json.dumps(provenance, indent=1) + "\n").encode())
    return results / f"{sweep.name}.csv"


def _table(sweep: Sweep, folder: Path, tables: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a run's table, as text, so that no digit changes."""
    if f"{sweep.table}.csv" not in tables:
        known = ", ".join(name.removesuffix(".csv") for name in tables) or "none"
        raise ValueError(f"table: expected one that the chapter saves ({known}), got {sweep.table!r}")
    with (folder / f"{sweep.table}.csv").open(newline="") as file:
        columns, *rows = csv.reader(file)
    for name, value in sweep.where.items():
        if name not in columns:
            raise ValueError(f"where: expected one of the columns {', '.join(columns)}, got {name!r}")
        rows = [row for row in rows if row[columns.index(name)] == str(value)]
    if not rows:
        asked = ", ".join(f"{name} = {value}" for name, value in sweep.where.items()) or "anything in them"
        raise ValueError(f"where: expected rows with {asked}, got none in {folder / sweep.table}.csv")
    return columns, rows


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _described(sweep: Sweep) -> dict[str, Any]:
    """What must be the same in the sweep's file and beside its table."""
    return sweep.model_dump(exclude={"name", "time_limit", "carried_over"})


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}")
    try:
        partial.write_bytes(content)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _provenance(name: str, results: Path) -> dict[str, Any]:
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def problems(path: Path | str, results: Path | str = parameters.RESULTS) -> list[str]:
    """Why the committed table of a sweep file cannot be trusted as it stands; an empty list if it can."""
    sweep, results = load_sweep(path), Path(results)
    made = _provenance(sweep.name, results)
    if not made:
        return [f"{sweep.name}: it has no table in {results}; run bnicl sweep {path}"]
    found = []
    try:
        runs.load_results(str(results / f"{sweep.name}.csv"))
    except ValueError as error:
        found.append(str(error))
    if made["sweep"] != json.loads(json.dumps(_described(sweep))):
        found.append(f"{sweep.name}: the table was made by another version of {path}")
    if made["missing"]:
        found.append(f"{sweep.name}: {len(made['missing'])} of {len(sweep)} runs are missing from the table")
    code = runs.code_of(sweep.chapter)
    if changed := _changed(made["code"], code):
        version = runs.digest(_key(code).encode())[:12]
        if sweep.carried_over is None or sweep.carried_over.to != version:
            found.append(
                f"{sweep.name}: changed since the table was made: {', '.join(changed)}. Run bnicl sweep {path}, or, if "
                f"no number can have changed, add to it\ncarried_over: {{to: {version}, reason: ...}}"
            )
    return found
