"""Sweeps: one file describes many runs of a chapter; one call executes those that are missing.

A sweep file is YAML:

    chapter: in-context-estimators    # a name that `bnicl chapters` lists, or a notebook's path
    profile: book
    table: estimators                 # the table of the chapter that is collected
    where: {node: average}            # its rows with these values (all, if not given)
    grid: {compared: [chain5, asia]}  # every combination of the values
    sets: [{alpha: 1}, {alpha: 0.1}]  # with each of these sets of parameters
    seeds: [0, 1, 2]                  # and each of these values of the parameter `seed`
    time_limit: 600                   # seconds that one run may take

A sweep is named by its file: sweeps/paper/random.yml is "paper/random", and its table results/paper/random.csv.

papermill executes (`runs.execute`), Dask distributed schedules. The folder of a finished run is never
executed again; a run that was lost, failed or cut short is. Paths in a file are
relative to the folder in which the command is called.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StrictInt, ValidationError

from bnicl.batch import parameters, runs, staleness
from bnicl.batch.cluster import execute_all
from bnicl.batch.parameters import Profile
from bnicl.batch.runs import Run

MAX_RUNS = 100_000
FieldPath = tuple[str | int, ...]

# --- sweep files ----------------------------------------------------------------------------------

Values = Annotated[list[Any], Field(min_length=1)]


def _cell(value: Any) -> bool | int | float | str:
    if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf) or value != value:
        raise ValueError("expected true, false, a number or text")
    return value


CellValue = Annotated[bool | int | float | str, PlainValidator(_cell)]  # as YAML gives it: true is not 1


class Sweep(BaseModel):
    """What a sweep file says; see the module for its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    chapter: str
    profile: Profile = "book"
    table: str
    where: dict[str, CellValue] = {}
    grid: dict[str, Values] = {}
    sets: Annotated[list[dict[str, Any]], Field(min_length=1)] = [{}]
    seeds: Annotated[list[StrictInt], Field(min_length=1)] | None = None
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0

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
        code = staleness.code_of(self.chapter)
        everything = [{**first.parameters, **g} for g in given]
        codes = ({**code, **files} if (files := runs.files_of(p)) else code for p in everything)
        return [Run(first.chapter, *about) for about in zip(given, everything, itertools.repeat(first.profile), codes)]


def load_sweep(path: Path | str, profile: str | None = None) -> Sweep:
    """The sweep that a file describes.

    profile: another scale than the file's. The parameters that a profile sets are then its own, whatever the file
    says, and the name ends with it.

    Raises ValueError with the line and the field where the file is not YAML, lacks a field or has one too many,
    names a chapter or a parameter that does not exist, gives a parameter a value that it cannot have, asks for
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
        sweep = Sweep.model_validate({**data, "name": _name_of(path)})
    except ValidationError as error:
        problem = error.errors()[0]
        got = f", got {problem['input']!r}" if problem["type"] != "missing" else ""
        raise wrong(problem["loc"], problem["msg"].removeprefix("Value error, ") + got) from error
    if len(sweep) > MAX_RUNS:
        raise wrong(("grid",), f"expected at most {MAX_RUNS:,} runs, got {len(sweep):,}")
    sweep = _checked(sweep, wrong)
    if profile is None or parameters.check_profile(profile) == sweep.profile:
        return sweep
    return _at_scale(sweep, profile)


def _name_of(path: Path) -> str:
    """The file's name, after the folders between it and one that is called sweeps."""
    folders = path.resolve().parent.parts
    below = folders[len(folders) - folders[::-1].index("sweeps") :] if "sweeps" in folders else ()
    return "/".join((*below, path.stem))


def _at_scale(sweep: Sweep, profile: str) -> Sweep:
    """The sweep without what a profile sets, under that profile and a name that says so."""
    declared = parameters.parameters_of(sweep.chapter).values()
    scaled = {line.name for line in declared if "by_profile" in line.default}
    sets = [{name: value for name, value in one.items() if name not in scaled} for one in sweep.sets]
    return sweep.model_copy(
        update={
            "name": f"{sweep.name}-{profile}",
            "profile": profile,
            "grid": {name: values for name, values in sweep.grid.items() if name not in scaled},
            "sets": [one for i, one in enumerate(sets) if one not in sets[:i]],
        }
    )


def _checked(sweep: Sweep, wrong: Callable[[FieldPath, str], ValueError]) -> Sweep:
    """The sweep with its values as the chapter's types; each value is checked once, not once a run."""
    try:
        declared = parameters.parameters_of(sweep.chapter)
        cells = "\n".join(parameters.cells_of(parameters.chapter_path(sweep.chapter), "code"))
    except ValueError as error:
        raise wrong(("chapter",), str(error)) from error
    if not re.search(rf"\b{re.escape(sweep.table)}(\.csv)?[\"']", cells):
        saved = ", ".join(re.findall(r"""save_table\(.*["']([\w-]+)["']\)""", cells)) or "none by name"
        raise wrong(("table",), f"expected a table that the chapter saves ({saved}), got {sweep.table!r}")

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
        if node is not None:
            visit(node, ())
    except RecursionError as error:
        raise ValueError(f"{path}: expected a sweep, got YAML that is nested without end") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: expected YAML, got {getattr(error, 'problem', error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text, got bytes that are not UTF-8") from error
    return data, lines


# --- runs -----------------------------------------------------------------------------------------


def state_of(sweep: Sweep, out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the sweep's finished runs in a folder, by name; the others are to be executed."""
    found: dict[str, dict[str, Any]] = {}
    same: dict[str, Any] = {}  # what many manifests say alike is kept once: there may be 100,000 of them
    for run in sweep.runs:
        if manifest := runs.read_manifest(out / run.name):
            for part in ("code", "versions", "hardware", "profile", "chapter", "commit", "status"):
                if part in manifest:
                    manifest[part] = same.setdefault(part + key_of(manifest[part]), manifest[part])
            found[run.name] = manifest
    return found


def stale(sweep: Sweep, out: Path) -> Counter[str]:
    """What has changed since finished runs of this sweep in the folder were made, and in how many of them."""
    wanted = {key_of(run.parameters): run for run in sweep.runs}
    names = {run.name for run in sweep.runs}
    changed: Counter[str] = Counter()
    for folder in out.glob(f"{Path(sweep.chapter).stem}-*"):
        manifest = None if folder.name in names else runs.read_manifest(folder)
        run = wanted.get(key_of(manifest["parameters"])) if manifest else None
        if manifest and run and manifest["profile"] == sweep.profile:
            changed.update(changed_between(manifest["code"], run.code))
    return changed


def changed_between(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The parts whose digests differ."""
    return sorted(part for part in {*before, *now} if before.get(part) != now.get(part))


def key_of(parameters: Any) -> str:
    """The same text for the same parameters."""
    return json.dumps(parameters, sort_keys=True)


def seconds_each(sweep: Sweep, out: Path) -> float | None:
    """How long one run takes, as far as is known: the median over runs in the folder or in the committed table,
    whatever their parameters, or else the time that the chapter states for its committed run; None without these.
    """
    manifests = [runs.read_manifest(folder) for folder in out.glob(f"{Path(sweep.chapter).stem}-*")]
    before = [m["seconds"] for m in manifests if m and m["profile"] == sweep.profile]
    if not before:
        before = [run["seconds"] for run in provenance_of(sweep.name, parameters.RESULTS).get("runs", {}).values()]
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

    They run on this machine with `workers` processes (as many as it has cores and memory for, if not given) or on the
    cluster whose Dask scheduler has the address `scheduler`. Raises BlockingIOError if another sweep is at work
    in the folder, and what `cluster.execute_all` does.
    """
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, got the file {out}")
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        done = state_of(sweep, out)
        todo = [run for run in sweep.runs if run.name not in done]
        failures = execute_all(
            todo, out, workers=workers, scheduler=scheduler, time_limit=sweep.time_limit, progress=progress
        )
        for seen in out.glob(".bnicl-*"):
            seen.unlink()
        ours = {run.name for run in sweep.runs}
        for left in out.glob(".*-*"):  # of runs that were lost with their worker or client
            if left.name[1:].rsplit("-", 1)[0].removesuffix("-failed") in ours:
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


def provenance_of(name: str, results: Path) -> dict[str, Any]:
    """The provenance stored next to a sweep's table; empty if there is no table."""
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}
