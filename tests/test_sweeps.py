"""Sweep files, what they plan, the joined table, and whether a committed table can still be trusted."""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bnicl.__main__ import main
from bnicl.batch import parameters, runs, staleness, sweeps, tables
from tests.sweeping import Sweeping, expected, wait_until, write_notebook

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = sorted((ROOT / "sweeps").rglob("*.yml"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(tmp_path / "squares.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yml"
    path.write_text(text)
    return path


HEAD = "chapter: squares.ipynb\nprofile: smoke\ntable: squares\n"


def finish(sweep: sweeps.Sweep, out: Path, *seeds: int, text: str = "") -> None:
    """Folders as finished runs leave them, without the seconds that a kernel takes."""
    for run in sweep.runs:
        if run.parameters["seed"] in seeds:
            folder = out / run.name
            folder.mkdir(parents=True)
            seed = run.parameters["seed"]
            table = text or f"digit,value\n0,{seed**2}\n1,{seed / 3!r}\n"
            (folder / "squares.csv").write_text(table)
            (folder / "chapter.ipynb").write_text("{}")
            manifest = {
                **{"chapter": run.chapter, "profile": run.profile, "parameters": run.parameters, "code": run.code},
                **{"status": "finished", "seconds": 60.0, "started": "today", "commit": "abc", "versions": {}},
                **{"hardware": {"cores": 2}, "tables": {"squares.csv": staleness.digest(table.encode())}},
            }
            (folder / "manifest.json").write_text(json.dumps(manifest))


# --- files ----------------------------------------------------------------------------------------


def test_a_sweep_is_named_by_its_path_below_the_folder_of_sweeps(folder: Path) -> None:
    path = folder / "sweeps" / "paper" / "random.yml"
    path.parent.mkdir(parents=True)
    write(folder, HEAD).rename(path)
    sweep = sweeps.load_sweep(path)
    assert sweep.name == "paper/random"
    finish(sweep, folder / "runs", 0)
    assert tables.collect(sweep, folder / "runs", folder / "results").path == folder / "results/paper/random.csv"
    assert json.loads((folder / "results/paper/random.json").read_text())["made by"] == (
        "bnicl sweep sweeps/paper/random.yml"
    )


def test_at_another_scale_a_sweep_takes_what_the_profile_sets(folder: Path) -> None:
    notebook = folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("power: int = 2", "power: int = by_profile(10, 1, 1000)"))
    path = write(folder, "chapter: squares.ipynb\ntable: squares\nsets: [{power: 20}, {power: 30}]\nseeds: [1]\n")
    assert [run.parameters["power"] for run in sweeps.load_sweep(path).runs] == [20, 30]
    assert sweeps.load_sweep(path, "book").name == "sweep"
    whole = sweeps.load_sweep(path, "paper")
    assert (whole.name, whole.profile) == ("sweep-paper", "paper")
    assert [dict(run.given) for run in whole.runs] == [{"seed": 1}]
    assert whole.runs[0].parameters["power"] == 1000
    for wrong in ("whole", ""):
        with pytest.raises(ValueError, match=f"profile: expected one of smoke, book, paper, got '{wrong}'"):
            sweeps.load_sweep(path, wrong)
    write(folder, "chapter: squares.ipynb\ntable: squares\nsets:\n- {power: 20}\n- {power: 30}\n- {power: many}\n")
    with pytest.raises(ValueError, match=r"line 6, field sets\.2\.power"):  # what the profile sets is checked, too
        sweeps.load_sweep(path, "paper")


def test_grid_sets_and_seeds_are_combined(folder: Path) -> None:
    sweep = sweeps.load_sweep(
        write(folder, HEAD + "grid: {power: [2, 3]}\nsets: [{seconds: 0}, {seconds: 1, fails: 7}]\nseeds: [5, 6]\n")
    )
    given = [dict(run.given) for run in sweep.runs]
    assert len(sweep) == len(given) == 8
    assert given[:3] == [
        {"seconds": 0.0, "power": 2, "seed": 5},
        {"seconds": 0.0, "power": 2, "seed": 6},
        {"seconds": 0.0, "power": 3, "seed": 5},
    ]
    assert given[-1] == {"seconds": 1.0, "fails": 7, "power": 3, "seed": 6}
    assert sweep.runs[0].parameters == {"seed": 5, "power": 2, "seconds": 0.0, "fails": -1, "log": ""}
    assert len({run.name for run in sweep.runs}) == 8


def test_a_file_without_grid_sets_or_seeds_is_one_run(folder: Path) -> None:
    (run,) = sweeps.load_sweep(write(folder, HEAD)).runs
    assert run.given == {}
    assert run.parameters["seed"] == 0


def test_the_runs_of_a_sweep_are_those_of_single_calls(folder: Path) -> None:
    (run,) = sweeps.load_sweep(write(folder, HEAD + "sets: [{power: 3}]\n")).runs
    assert run.name == runs.plan_run("squares.ipynb", {"power": "3"}, "smoke").name


WRONG = {
    "no file": (None, ["expected a file, got 'sweep.yml'"]),
    "empty": ("", ["line 1", "expected fields and values, got None"]),
    "a list": ("- 1\n", ["line 1", "expected fields and values"]),
    "not yaml": (HEAD + "grid: {a: [1\n", ["line 5", "expected YAML"]),
    "twice": (HEAD + "table: other\n", ["line 4, field table: given twice"]),
    "no chapter": ("table: squares\n", ["field chapter", "required"]),
    "unknown field": (HEAD + "colour: red\n", ["line 4, field colour", "not permitted", "got 'red'"]),
    "chapter": (HEAD.replace("squares.ipynb", "in-context-estimator"), ["line 1, field chapter", "did you mean"]),
    "profile": (HEAD.replace("smoke", "huge"), ["line 2, field profile", "'smoke', 'book' or 'paper'", "got 'huge'"]),
    "parameter": (HEAD + "grid:\n  powr: [1]\n", ["line 5, field grid.powr.0", "got 'powr'; did you mean 'power'?"]),
    "value": (HEAD + "grid:\n  power:\n  - 1\n  - x\n", ["line 7, field grid.power.1", "expected int, got 'x'"]),
    "value in sets": (HEAD + "sets:\n- {power: 1.5}\n", ["line 5, field sets.0.power", "expected int, got 1.5"]),
    "no values": (HEAD + "grid: {power: []}\n", ["line 4, field grid.power", "at least 1 item"]),
    "no sets": (HEAD + "sets: []\n", ["line 4, field sets", "at least 1 item"]),
    "no seeds": (HEAD + "seeds: []\n", ["line 4, field seeds", "at least 1 item"]),
    "seeds of text": (HEAD + "seeds: [a]\n", ["line 4, field seeds.0", "valid integer", "got 'a'"]),
    "not a grid": (HEAD + "grid: 7\n", ["line 4, field grid", "valid dict", "got 7"]),
    "not a list": (HEAD + "grid: {power: 2}\n", ["line 4, field grid.power", "valid list", "got 2"]),
    "a value twice": (HEAD + "grid: {power: [2, 3, 2]}\n", ["line 4, field grid.power.2", "once, got 2 twice"]),
    "a set twice": (HEAD + "sets: [{power: 2}, {power: '2'}]\n", ["field sets.1", "each value once"]),
    "a seed twice": (HEAD + "seeds: [1, 1]\n", ["field seeds.1", "each value once"]),
    "two places": (HEAD + "sets: [{seed: 2}]\nseeds: [1]\n", ["line 4, field sets.0.seed", "in one place"]),
    "seed in the grid": (HEAD + "grid: {seed: [1]}\nseeds: [1]\n", ["field grid.seed", "in grid and seeds"]),
    "too many": (
        HEAD + f"grid: {{power: {list(range(400))}, fails: {list(range(400))}}}\n",
        ["line 4, field grid", "expected at most 100,000 runs, got 160,000"],
    ),
    "time limit": (HEAD + "time_limit: 0\n", ["line 4, field time_limit", "greater than 0, got 0"]),
    "table": (HEAD.replace("table: squares", "table: sqares"), ["line 3, field table", "got 'sqares'"]),
    "a number as a field": (HEAD + "1: 2\n", ["Keys should be strings"]),
    "without end": (HEAD + "sets: &a [*a]\n", ["nested without end"]),
    "no such notebook": (HEAD.replace("squares.ipynb", "cubes.ipynb"), ["line 1, field chapter", "is not there"]),
    "a truth as a seed": (HEAD + "seeds: [true]\n", ["field seeds.0", "valid integer"]),
    "a list as a cell": (HEAD + "where: {digit: [1]}\n", ["line 4, field where.digit", "number or text, got [1]"]),
    "no value as a cell": (HEAD + "where:\n  digit: .nan\n", ["line 5, field where.digit", "expected true, false, a"]),
    "nothing as a cell": (HEAD + "where:\n  digit:\n", ["line 5, field where.digit", "number or text, got None"]),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_is_one_line_that_names_line_and_field(
    text: str | None, words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        write(folder, text)
    assert main(["sweep", "sweep.yml"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for word in words:
        assert word in line
    assert not (folder / "runs").exists()


def test_bytes_are_not_a_sweep(folder: Path) -> None:
    (folder / "sweep.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"sweep\.yml: expected text"):
        sweeps.load_sweep("sweep.yml")


def test_a_chapter_without_seed_refuses_seeds(folder: Path) -> None:
    notebook = folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("seed: int", "start: int"))
    with pytest.raises(ValueError, match=r"field seeds\.0: parameter: expected one of start, .* got 'seed'"):
        sweeps.load_sweep(write(folder, HEAD + "seeds: [1]\n"))


def test_the_workers_must_be_a_positive_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "sweep.yml", "--workers", "0"])
    assert "expected a positive integer, got '0'" in capsys.readouterr().err


def test_a_dry_run_lists_the_runs_and_estimates_the_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(folder, HEAD + "seeds: [0, 1, 2, 3, 4]\n")
    assert main(["sweep", "sweep.yml", "--dry-run"]) == 0
    *listed, last = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:] for line in listed] == [["to do", f"seed={seed}"] for seed in range(5)]
    assert last == "5 runs, 5 of them to do: no run of it is known yet, so no estimate of the time"
    finish(sweeps.load_sweep(path), folder / "runs" / "sweep", 0)
    assert main(["sweep", "sweep.yml", "--dry-run", "--workers", "2"]) == 0
    *listed, last = capsys.readouterr().out.splitlines()
    assert "finished in 60 s" in listed[0]
    assert last == "5 runs, 4 of them to do: about 2 min with 2 workers (60 s a run, by earlier ones)"


# --- tables ---------------------------------------------------------------------------------------


def test_the_joined_table_has_every_row_in_order_with_its_run(folder: Path) -> None:
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [2, 0, 1]\n"))
    finish(sweep, folder / "runs", 0, 1, 2)
    path = tables.collect(sweep, folder / "runs", folder / "results").path
    table = runs.load_results(str(path))
    assert list(table.columns) == ["run", "seed", "digit", "value"]
    assert list(table["seed"]) == [2, 2, 0, 0, 1, 1]
    assert list(table["run"].unique()) == [run.name for run in sweep.runs]
    text = path.read_text()
    assert repr(1 / 3) in text  # not a digit is lost
    made = json.loads(path.with_suffix(".json").read_text())
    assert made["missing"] == []
    assert set(made["runs"]) == set(table["run"])
    for run in sweep.runs:
        facts = made["runs"][run.name]
        assert facts["parameters"] == run.parameters
        assert {"seconds", "started"} <= set(facts)
        assert made["environments"][facts["environment"]]["commit"] == "abc"
    assert not list((folder / "results").glob(".*"))


def test_a_part_of_the_rows_and_of_the_runs(folder: Path) -> None:
    sweep = sweeps.load_sweep(write(folder, HEAD + "where: {digit: 1}\nseeds: [0, 1]\n"))
    finish(sweep, folder / "runs", 1)
    path = tables.collect(sweep, folder / "runs", folder / "results").path
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert row == {"run": sweep.runs[1].name, "seed": "1", "digit": "1", "value": repr(1 / 3)}
    assert json.loads(path.with_suffix(".json").read_text())["missing"] == [sweep.runs[0].name]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("{won: true}", "ac"),  # pandas writes True, a person true
        ("{won: false}", "b"),
        ("{won: 1}", "d"),
        ('{won: "True"}', "a"),
        ("{n: 5}", "ab"),
        ("{n: 5.0}", "ab"),
        ("{n: 9007199254740993}", "d"),  # no float is this number
        ("{alpha: 0.1}", "ac"),
        ('{alpha: "0.1"}', "a"),
        ("{won: true, n: 5}", "a"),
    ],
)
def test_rows_are_found_by_what_a_value_is(where: str, kept: str, folder: Path) -> None:
    text = "row,won,n,alpha\na,True,5,0.1\nb,False,5.0,1e-3\nc,true,6,0.10\nd,1,9007199254740993,\n"
    sweep = sweeps.load_sweep(write(folder, HEAD + f"where: {where}\n"))
    finish(sweep, folder / "runs", 0, text=text)
    path = tables.collect(sweep, folder / "runs", folder / "results").path
    assert "".join(row["row"] for row in csv.DictReader(path.read_text().splitlines())) == kept
    assert tables.problems(folder / "sweep.yml", folder / "results") == []


def test_what_cannot_be_collected_is_said(folder: Path) -> None:
    out = folder / "runs"
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0, 1]\n"))
    with pytest.raises(ValueError, match=r"expected finished runs of sweep in .*runs, got none"):
        tables.collect(sweep, out, folder)
    finish(sweep, out, 0, 1)
    with pytest.raises(ValueError, match=r"table: expected one that the run saved \(squares\), got 'cubes'"):
        tables.collect(sweep.model_copy(update={"table": "cubes"}), out, folder)
    with pytest.raises(ValueError, match="where: expected one of the columns digit, value, got 'node'"):
        tables.collect(sweep.model_copy(update={"where": {"node": "average"}}), out, folder)
    with pytest.raises(ValueError, match="where: expected rows with digit = 7"):
        tables.collect(sweep.model_copy(update={"where": {"digit": "7"}}), out, folder)
    assert not (folder / "sweep.csv").exists()


def test_a_run_with_another_table_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0, 1, 2]\n"))
    out = folder / "runs" / "sweep"
    finish(sweep, out, 0, 1, 2)
    other = out / sweep.runs[1].name
    (other / "squares.csv").write_text("digit,cube\n0,1\n")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["tables"]["squares.csv"] = staleness.digest((other / "squares.csv").read_bytes())
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert main(["sweep", "sweep.yml", "--collect"]) == 1
    printed = capsys.readouterr()
    assert "collected: 2 of 3 runs in results/sweep.csv" in printed.out
    assert f"left out: {other.name}, table squares: expected the columns" in printed.err
    assert list(runs.load_results("results/sweep.csv")["seed"].unique()) == [0, 2]
    assert list(json.loads((folder / "results" / "sweep.json").read_text())["odd"]) == [other.name]


def test_a_sweep_tidies_up_after_its_own_runs_only(folder: Path) -> None:
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0]\n"))
    finish(sweep, folder / "runs", 0)
    for name in (".config-files", f".{sweep.runs[0].name}-ab_1", f".{sweep.runs[0].name}-failed-cd2"):
        (folder / "runs" / name).mkdir()
    (folder / "runs" / ".a-file").touch()
    assert sweeps.run_sweep(sweep, folder / "runs") == {}
    left = sorted(path.name for path in (folder / "runs").glob(".*"))
    assert left == [".a-file", ".config-files", ".lock"]


def test_a_changed_input_file_is_another_run(folder: Path) -> None:
    (folder / "table.csv").write_text("a\n1\n")
    first = runs.plan_run("reading-a-sweep", {"table": "table.csv"}, "smoke")
    assert runs.plan_run("reading-a-sweep", {"table": "table.csv"}, "smoke").name == first.name
    (folder / "table.csv").write_text("a\n2\n")
    assert runs.plan_run("reading-a-sweep", {"table": "table.csv"}, "smoke").name != first.name


def test_only_collect_does_not_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0, 1]\n"))
    finish(sweep, folder / "runs" / "sweep", 1)
    assert main(["sweep", "sweep.yml", "--collect", "--results", "results"]) == 1  # one is missing
    assert "collected: 1 of 2 runs in results/sweep.csv" in capsys.readouterr().out


def test_runs_of_older_code_are_stale_and_it_is_said_why(folder: Path) -> None:
    path = write(folder, HEAD + "seeds: [0, 1]\n")
    before = sweeps.load_sweep(path)
    finish(before, folder / "runs", 0, 1)
    assert not sweeps.stale(before, folder / "runs")
    notebook = folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("# Squares", "# The same squares"))
    assert len(sweeps.state_of(sweeps.load_sweep(path), folder / "runs")) == 2  # text does not count
    notebook.write_text(notebook.read_text().replace("before", "after"))
    after = sweeps.load_sweep(path)
    assert sweeps.stale(after, folder / "runs") == {"the chapter": 2}
    assert not sweeps.state_of(after, folder / "runs")


def test_only_the_run_whose_file_has_changed_is_stale(folder: Path) -> None:
    notebook = folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("log: str", "log: ResultsName"))
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("x\n1\n")
    path = write(folder, HEAD + "grid: {log: [a.csv, b.csv]}\nseeds: [0]\n")
    notebook.write_text(notebook.read_text().replace('= \\"\\"  # a file', '= \\"estimators\\"  # a file'))
    finish(sweeps.load_sweep(path), folder / "runs", 0)
    (folder / "b.csv").write_text("x\n2\n")
    sweep = sweeps.load_sweep(path)
    assert len(sweeps.state_of(sweep, folder / "runs")) == 1
    assert sweeps.stale(sweep, folder / "runs") == {"the file b.csv": 1}


def test_seconds_of_runs_that_are_known_only_from_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "RESULTS", folder / "results")
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0, 1]\n"))
    assert sweeps.seconds_each(sweep, folder / "runs") is None
    finish(sweep, folder / "elsewhere", 0)
    tables.collect(sweep, folder / "elsewhere", folder / "results")
    assert sweeps.seconds_each(sweep, folder / "runs") == 60.0


def test_seconds_of_a_chapter_that_was_never_swept() -> None:
    assert 1 < (runs.committed_seconds("in-context-estimators", "book") or 0) < 600
    assert runs.committed_seconds("in-context-estimators", "paper") is None


# --- committed tables -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_table_is_that_of_its_sweep_and_of_this_code(path: Path) -> None:
    assert tables.problems(path) == []


def test_what_a_committed_table_can_suffer_is_found(folder: Path) -> None:
    results = folder / "results"

    def problems(text: str = HEAD + "seeds: [0, 1]\n") -> str:
        return "\n".join(tables.problems(write(folder, text), results))

    assert "it has no table" in problems()
    sweep = sweeps.load_sweep(write(folder, HEAD + "seeds: [0, 1]\n"))
    finish(sweep, folder / "runs", 0)
    table = tables.collect(sweep, folder / "runs", results).path
    assert problems() == "sweep: 1 of 2 runs are missing from the table"
    finish(sweep, folder / "runs", 1)
    tables.collect(sweep, folder / "runs", results)
    assert problems() == ""
    assert "another version of" in problems(HEAD + "seeds: [0, 2]\n")
    table.write_text(table.read_text().replace("0.33", "0.34"))
    assert "is not the table that sweep.json describes" in problems()
    tables.collect(sweep, folder / "runs", results)

    notebook = folder / "squares.ipynb"
    notebook.write_text(notebook.read_text().replace("before", "after"))
    found = problems()
    assert "changed since the table was made: the chapter" in found
    beside = results / "sweep.json"
    made = json.loads(beside.read_text()) | {"stands": {"code": staleness.code_of("squares.ipynb")}}
    beside.write_text(json.dumps(made))  # as tools/verify_tables.py leaves it
    assert problems() == ""
    notebook.write_text(notebook.read_text().replace("after", "once more"))
    assert "the chapter" in problems()  # it stands under other code


def test_the_code_of_a_chapter_is_its_cells_and_the_modules_they_compute_with(folder: Path) -> None:
    def code(source: str) -> set[str]:
        write_notebook(folder / "squares.ipynb")
        text = (folder / "squares.ipynb").read_text().replace("import time", f"import time; {source}")
        (folder / "squares.ipynb").write_text(text)
        return set(staleness.code_of("squares.ipynb")) - {"the chapter"}

    graph = {f"networks.{name}" for name in ("checks", "tables", "graph")}
    low = {*graph, "networks.states", "networks.sampling"}
    assert code("pass") == set()
    assert code("from bnicl import figures; from bnicl.batch import runs") == set()
    assert code("import bnicl.networks.graph") == graph
    assert code("from bnicl.networks import graph") == graph
    assert code("import bnicl; bnicl.forward_sample") == low
    assert code("from bnicl.networks.sampling import Batch") == low
    assert code("from bnicl import MaximumLikelihood") == {*low, "estimators.counting"}
    assert "training.loop" in code("%time")
    estimators = staleness.code_of("in-context-estimators")
    assert {*low, "networks.bif", "estimators.averages", "evaluation.evaluate"} <= set(estimators)
    assert not any(name.startswith(("training", "transformer", "batch")) for name in estimators)


def test_a_table_by_name_or_path(folder: Path) -> None:
    table = runs.load_results("estimators")
    assert table["compared"].nunique() == 6
    assert table["seed"].nunique() == 5
    pd.testing.assert_frame_equal(table, runs.load_results(str(ROOT / "results" / "estimators.csv")))
    with pytest.raises(ValueError, match=r"results: expected one of .*estimators.* got 'estimator'"):
        runs.load_results("estimator")


# --- the example for SLURM ------------------------------------------------------------------------


def test_the_slurm_example_submits_a_job_again_that_has_ended(tmp_path: Path) -> None:
    """A stand-in for sbatch starts each job's script in the background, as a node would."""
    sweeping = Sweeping(tmp_path, seeds=3, seconds=1.0)
    commands = tmp_path / "bin"
    commands.mkdir()
    start = (
        '#!/bin/sh\ncp "$1" job.sh\nsetsid sh job.sh > job.log 2>&1 &\necho $! >> jobs\necho "Submitted batch job $!"\n'
    )
    for name, script in {"sbatch": start, "scancel": '#!/bin/sh\nkill -- "-$1" 2> /dev/null || true\n'}.items():
        (commands / name).write_text(script)
        (commands / name).chmod(stat.S_IRWXU)
    example = (ROOT / "sweeps" / "slurm.py").read_text()
    (tmp_path / "slurm.py").write_text(example.replace("JOBS = 20", "JOBS = 1").replace("EVERY = 30.0", "EVERY = 1.0"))
    path, patience = f"{commands}:{os.environ['PATH']}", {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}
    client = subprocess.Popen(
        [sys.executable, "slurm.py", "sweep.yml"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, **patience},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(sweeping.finished)
    os.killpg(int((tmp_path / "jobs").read_text()), signal.SIGKILL)  # its wall time is over
    _, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    assert sweeping.table == expected(3)
    assert len((tmp_path / "jobs").read_text().split()) >= 2
    job = (tmp_path / "job.sh").read_text()
    for line in ("#SBATCH -n 1", "#SBATCH --cpus-per-task=2", "#SBATCH -t 02:00:00", "export OMP_NUM_THREADS=2"):
        assert line in job
    assert "--nthreads 1" in job
