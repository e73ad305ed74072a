"""The table of a sweep: joined from its runs, each row with its provenance, and checked against the code.

The committed tables in results/ are made here; `problems` says why one of them cannot be trusted as it stands.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from bnicl.batch import parameters, runs, staleness
from bnicl.batch.sweeps import Sweep, changed_between, key_of, load_sweep, provenance_of, state_of
from bnicl.networks.writing import whole_bytes, whole_file


class Collected(NamedTuple):
    """The joined table, and the runs that have no place in it, with the reason."""

    path: Path
    odd: dict[str, str]


def collect(sweep: Sweep, out: Path | str, results: Path | str = parameters.RESULTS) -> Collected:
    """Joins the tables of the finished runs into RESULTS/NAME.csv, with RESULTS/NAME.json next to it.

    The rows are those of the runs in the order of the sweep, each with the name of its `run` and the parameters
    that vary. The .json gives each run's parameters, seconds, start and environment, and, for the whole table, the
    sweep, the digests of code and table, and which runs are missing or odd: with another table than the first.
    Raises ValueError where no run has finished, or none with the table that is asked for.
    """
    out, results = Path(out), Path(results)
    done = state_of(sweep, out)
    if not done:
        raise ValueError(f"sweep: expected finished runs of {sweep.name} in {out}, got none")
    wanted = sweep.runs
    values = {name: {key_of(run.parameters[name]) for run in wanted} for name in wanted[0].parameters}
    varying = [name for name, different in values.items() if len(different) > 1 or name in sweep.axes]
    path = results / f"{sweep.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:  # streamed: a table may have 100,000 runs
        with part.open("w", newline="") as file:
            made, odd, environments = _joined(sweep, out, done, varying, file)
        provenance = {
            "table": path.name,
            "made by": f"bnicl sweep sweeps/{sweep.name}.yml",
            "sha256": staleness.file_digest(part),
            "sweep": _described(sweep),
            "code": staleness.code_of(sweep.chapter),
            "missing": [run.name for run in wanted if run.name not in made],
            "odd": odd,
            "environments": environments,
            "runs": made,
        }
    with whole_file(path.with_suffix(".json")) as part, part.open("w") as file:
        json.dump(provenance, file, indent=1)
        file.write("\n")
    for name in made:
        for weights in sorted((out / name).glob("*.safetensors")):
            _keep(weights, results / "weights", sweep.name, name, done[name])
    return Collected(path, odd)


def _joined(
    sweep: Sweep, out: Path, done: Mapping[str, dict[str, Any]], varying: Sequence[str], file: TextIO
) -> tuple[dict[str, Any], dict[str, str], list[dict[str, Any]]]:
    """Writes the rows of all runs; what is to be said of each run, the odd ones, and the environments."""
    environments: list[dict[str, Any]] = []
    made, odd = dict[str, Any](), dict[str, str]()
    writer, header = csv.writer(file, lineterminator="\n"), None
    for run in (run for run in sweep.runs if run.name in done):
        try:
            columns, rows = _table(sweep, out / run.name, done[run.name]["tables"])
        except ValueError as error:
            odd[run.name] = str(error)
            continue
        added = [name for name in varying if name not in columns]  # columns that the table already has are not added
        if header is None:
            header = ["run", *added, *columns]
            writer.writerow(header)
        if header != ["run", *added, *columns]:
            odd[run.name] = f"table {sweep.table}: expected the columns {header}, got {columns}"
            continue
        writer.writerows([run.name, *(_text(run.parameters[name]) for name in added), *row] for row in rows)
        manifest = done[run.name]
        environment = {key: manifest[key] for key in ("commit", "versions", "hardware")}
        if environment not in environments:
            environments.append(environment)
        facts = {key: manifest[key] for key in ("parameters", "seconds", "started")}
        made[run.name] = {**facts, "environment": environments.index(environment)}
    if header is None:
        raise ValueError(next(iter(odd.values())))
    return made, odd, environments


def _keep(weights: Path, folder: Path, sweep: str, run: str, manifest: dict[str, Any]) -> None:
    """Copies a run's trained transformer to the committed ones, with a card."""
    from bnicl.training.checkpoint import load_trained

    folder.mkdir(exist_ok=True)
    content = weights.read_bytes()
    trained = load_trained(weights)
    last, config = trained.history[-1], trained.config
    lines = [
        f"# {weights.stem}",
        "",
        f'A transformer trained on the graph `{config.graph}`; `bnicl.load_trained("{weights.stem}")` reads it.',
        "",
        f"- for contexts of {config.min_context} to {config.max_context} rows from networks on this graph whose tables "
        f"come from the prior in the configuration (default: Dirichlet({config.alpha:g}))",
        "- not for other graphs or orders of the columns, for missing values, or for decisions about people: it keeps "
        "the prior of its training whatever the rows are about",
        f"- made by `bnicl sweep sweeps/{sweep}.yml`, run `{run}`, commit {manifest['commit']}; its measures are in "
        f"`results/{sweep}.csv`",
        f"- {last['step']:.0f} steps in {last['seconds']:.0f} s; after them a regret of "
        f"{1000 * last['regret_bits']:.2f} millibits and a total variation of {last['tv']:.4f} (the optimum's is "
        f"{last['tv_floor']:.4f}) on 64 held-out networks with 100 rows",
        f"- {sum(w.numel() for w in trained.model.parameters()):,} weights, {len(content):,} bytes, sha256 "
        f"{staleness.digest(content)}",
        f"- configuration: `{config.model_dump_json(exclude_defaults=True)}`",
    ]
    whole_bytes(folder / weights.name, content)
    whole_bytes(folder / f"{weights.stem}.md", "\n".join([*lines, ""]).encode())


def _table(sweep: Sweep, folder: Path, tables: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a run's table, as text, so that no digit changes."""
    if f"{sweep.table}.csv" not in tables:
        known = ", ".join(name.removesuffix(".csv") for name in tables) or "none"
        raise ValueError(f"table: expected one that the run saved ({known}), got {sweep.table!r}")
    with (folder / f"{sweep.table}.csv").open(newline="") as file:
        columns, *rows = [*csv.reader(file)] or [[]]
    if "run" in columns:
        raise ValueError(f"table {sweep.table}: expected columns with other names than 'run', got {columns}")
    for name, value in sweep.where.items():
        if name not in columns:
            raise ValueError(f"where: expected one of the columns {', '.join(columns)}, got {name!r}")
        rows = [row for row in rows if _holds(row[columns.index(name)], value)]
    if not rows:
        asked = ", ".join(f"{name} = {value}" for name, value in sweep.where.items()) or "anything in them"
        raise ValueError(f"where: expected rows with {asked}, got none in {folder / sweep.table}.csv")
    return columns, rows


def _holds(cell: str, value: bool | int | float | str) -> bool:
    """Whether a cell of a table is a value: true or false by the word, a number by its size, text as it is."""
    if isinstance(value, bool):
        return cell in (str(value), str(value).lower())
    if isinstance(value, str):
        return cell == value
    try:
        return cell == str(value) or float(cell) == value  # an integer may have more digits than a float
    except ValueError:
        return False


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _described(sweep: Sweep) -> dict[str, Any]:
    """The fields that must be the same in the sweep's file and in the provenance of its table."""
    return sweep.model_dump(exclude={"name", "time_limit"})


def problems(path: Path | str, results: Path | str = parameters.RESULTS) -> list[str]:
    """Why the committed table of a sweep file cannot be trusted as it stands; an empty list if it can."""
    sweep, results = load_sweep(path), Path(results)
    made = provenance_of(sweep.name, results)
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
    known = made.get("stands", made)["code"]  # or of code that was seen to give the same numbers
    if changed := changed_between(known, staleness.code_of(sweep.chapter)):
        found.append(
            f"{sweep.name}: changed since the table was made: {', '.join(changed)}. Run bnicl sweep {path}, or, where "
            f"no number can have changed, python tools/verify_tables.py {path}"
        )
    return found
