"""Whether committed tables stand under code that has changed since: short runs, by the code that made them and by ours.

    python tools/verify_tables.py sweeps/single-structure.yml ...

The first and the last run of a sweep are executed with the steps, networks and rows of the profile "smoke", in a
worktree of the commit that made the table and in this one, which must be clean; of the chapter, the cells that make
tables, and those that they need. Where this one saves every number of the other, to the last digit and clocks apart,
the provenance beside the committed table says so under `stands`, and `tables.problems` goes by that. (It may save
more: where there was no number, or for a rival that was not known.) Where they differ the table has to be made again,
by its sweep.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from bnicl.batch import runs, staleness, sweeps, tables
from bnicl.batch.kernels import environ
from bnicl.batch.parameters import RESULTS, ROOT, check_parameters

CLOCKS = ["seconds", "minutes"]


def short(chapter: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is given, less its sizes: numbers that the profile "smoke" sets otherwise than "book"."""
    defaults = []
    for profile in ("smoke", "book"):
        with environ(BNICL_PROFILE=profile):
            defaults.append(check_parameters(chapter, {}))
    smoke, book = defaults
    sizes = {name for name, value in book.items() if value != smoke[name] and not isinstance(value, str)}
    return {name: value for name, value in given.items() if name not in sizes}


def trimmed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A chapter's cells that make tables, its imports and parameters, and whatever defines a name that these use."""
    kept, wanted = [], set[str]()
    for cell in reversed(notebook.cells):
        if cell.cell_type != "code":
            continue
        nodes = [*ast.walk(ast.parse(cell.source))]
        names = [(node.id, type(node.ctx)) for node in nodes if isinstance(node, ast.Name)]
        stored = {name for name, use in names if use is ast.Store} | {
            node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        imports = any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
        if imports or stored & wanted or {staleness.TABLE, "parameters"} & {*cell.metadata.get("tags", [])}:
            kept.append(cell)
            wanted |= {name for name, use in names if use is ast.Load}
    return nbformat.v4.new_notebook(cells=kept[::-1], metadata=notebook.metadata)


def saved(sweep: sweeps.Sweep, given: Mapping[str, Any], where: Path, out: Path) -> pd.DataFrame:
    """The sweep's table from a short run by the code in a folder."""
    chapter = out.with_suffix(".chapter") / f"{sweep.chapter}.ipynb"
    chapter.parent.mkdir()
    nbformat.write(trimmed(nbformat.read(where / "book" / chapter.name, as_version=4)), chapter)
    words = [word for name, value in given.items() for word in ("-p", name, json.dumps(value).strip('"').strip("[]"))]
    command = [sys.executable, "-W", "ignore", "-m", "bnicl", "run", str(chapter), "--profile", "smoke", *words]
    # pgmpy's searches break ties in the order of a set of names, which hangs on the hash seed
    env = os.environ | {"PYTHONPATH": str(where), "PYTHONHASHSEED": "0"}
    subprocess.run([*command, "--out", str(out)], cwd=where, env=env, check=True, capture_output=True)
    (table,) = out.glob(f"*/{sweep.table}.csv")
    return pd.read_csv(table).drop(columns=CLOCKS, errors="ignore")


def agree(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether every number of the table is the same now; where it has none, there may be one now, and rows between."""
    if not before.columns.equals(now.columns):
        return False
    rows = iter(now.itertuples(index=False))
    return all(any(_same(old, new) for new in rows) for old in before.itertuples(index=False))


def _same(before: Iterable[object], now: Iterable[object]) -> bool:
    return all(pd.isna(old) or old == new for old, new in zip(before, now, strict=True))


def differences(sweep: sweeps.Sweep, commit: str) -> list[str]:
    """The runs, of the first and the last, that save another table at the commit than here."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        old = Path(name) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", old, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            for i, run in enumerate(dict.fromkeys([sweep.runs[0].name, sweep.runs[-1].name])):
                given = short(sweep.chapter, next(r for r in sweep.runs if r.name == run).given)
                before, now = (saved(sweep, given, where, Path(name) / f"{i}-{where.name}") for where in (old, ROOT))
                if not agree(before, now):
                    found.append(f"{sweep.name}: {given} gives another table than at {commit}")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)
    return found


def verify(path: Path) -> list[str]:
    """Notes beside a sweep's table that it stands; or why it does not."""
    sweep = sweeps.load_sweep(path)
    provenance = RESULTS / f"{sweep.name}.json"
    made = json.loads(provenance.read_text())
    if not sweeps.changed_between(made["code"], staleness.code_of(sweep.chapter)):
        made.pop("stands", None)
    else:
        commits = {place["commit"] for place in made["environments"]}
        if problems := [line for commit in commits for line in differences(sweep, commit)]:
            return problems
        made["stands"] = {"at": runs.environment()["commit"], "code": staleness.code_of(sweep.chapter)}
    provenance.write_text(json.dumps(made, indent=1) + "\n")
    return tables.problems(path)


def reported(path: Path) -> list[str]:
    """`verify`, with a line on the screen."""
    found = verify(path)
    print(f"{path}: {'stands' if not found else 'has to be made again'}", flush=True)
    return found


def main() -> None:
    if "+edited" in runs.environment()["commit"]:
        sys.exit("verify_tables: expected a clean checkout, got one with edits in bnicl")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        problems = [line for found in pool.map(reported, map(Path, sys.argv[1:])) for line in found]
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
