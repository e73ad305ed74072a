"""Chapters as programs: parameters are checked first, runs leave whole folders or none."""

import gzip
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bnicl.__main__ import main
from bnicl.batch import kernels, parameters, runs, staleness
from bnicl.batch.parameters import Parameter, by_profile
from bnicl.networks.sources import example_models
from tests.sweeping import another_python3
from tools.execute_chapters import execute

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def write_chapter(folder: Path, name: str, *cells: str) -> None:
    first, *rest = cells
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# The chapter {name}"),
            new_code_cell("from bnicl.batch import runs\nfrom bnicl.batch.parameters import *"),
            new_code_cell(first, metadata={"tags": ["parameters"]}),
            *(new_code_cell(cell) for cell in rest),
        ],
        metadata={"kernelspec": KERNEL},
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of two small chapters, and an empty folder to run them in."""
    folder = tmp_path / "book"
    folder.mkdir()
    write_chapter(
        folder,
        "sums",
        "n: PositiveInt = by_profile(300, 10)  # terms\nalpha: PositiveFloat = 0.5  # weight\n"
        'network: NetworkName = "chain5"  # a name or a file',
        "import pandas as pd",
        'runs.save_table(pd.DataFrame({"n": [n], "alpha": [alpha], "network": [network]}), "sum")',
    )
    write_chapter(folder, "fails", "n: int = 1  # a number", "print('before')", "1 / 0", "print('after')")
    monkeypatch.setattr(parameters, "BOOK", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_kernel_keeps_its_memory_unless_the_reader_has_it_otherwise(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(kernels.KEEP_MEMORY)
    seen = f"pd.DataFrame([{{name: os.environ.get(name) for name in {names}}}], dtype=str)"
    write_chapter(book, "seen", "n: int = 1  # a number", f"import os, pandas as pd\nruns.save_table({seen}, 'seen')")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    table = pd.read_csv(runs.run_chapter("seen") / "seen.csv", dtype=str)
    assert table.iloc[0].to_dict() == kernels.KEEP_MEMORY | {"MALLOC_ARENA_MAX": "3"}
    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_a_run_leaves_notebook_tables_and_manifest(book: Path, tmp_path: Path) -> None:
    folder = runs.run_chapter("sums", {"alpha": "2"})
    assert listing(folder) == ["chapter.ipynb", "manifest.json", "sum.csv"]
    assert (folder / "sum.csv").read_text() == "n,alpha,network\n10,2.0,chain5\n"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"n": 10, "alpha": 2.0, "network": "chain5"}
    assert manifest["profile"] == "smoke"
    assert manifest["status"] == "finished"
    assert manifest["tables"] == {"sum.csv": staleness.digest((folder / "sum.csv").read_bytes())}
    assert {"commit", "code", "versions", "hardware", "seconds", "started"} <= set(manifest)
    assert {"torch", "numpy", "pgmpy", "python", "bnicl"} <= set(manifest["versions"])
    cells = nbformat.read(folder / "chapter.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    # The same call has the same name and takes the place of the first.
    assert runs.run_chapter("sums", {"alpha": 2}) == folder
    assert listing(tmp_path / "runs") == [folder.name]


def test_what_the_text_says_is_asserted_of_the_chapter_s_own_run_alone(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = parameters.check_parameters("sums", {})
    assert not runs.published("sums", own)  # the profile is smoke
    monkeypatch.setenv("BNICL_PROFILE", "book")
    own = parameters.check_parameters("sums", {})
    assert runs.published("sums", {**own, "other": 1})
    assert not runs.published("sums", {**own, "n": own["n"] + 1})


def test_other_parameters_profiles_and_cells_have_other_names(book: Path) -> None:
    names = {runs.run_chapter("sums").name, runs.run_chapter("sums", {"n": 3}).name}
    names.add(runs.run_chapter("sums", profile="book").name)
    path = book / "sums.ipynb"
    names.add(runs.run_chapter("sums").name)
    path.write_text(path.read_text().replace("import pandas as pd", "import pandas  as pd  # the same"))
    assert runs.plan_run("sums").name in names
    path.write_text(path.read_text().replace("import pandas  as pd", "import pandas  as pd; other = 1"))
    assert runs.plan_run("sums").name not in names
    assert len(names) == 3


def test_a_cell_that_raises_is_named_and_the_notebook_kept(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "fails"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "ZeroDivisionError" in message
    assert "cell 4" in message
    (name,) = listing(tmp_path / "runs")
    assert name.endswith("-failed")
    text = (tmp_path / "runs" / name / "chapter.ipynb").read_text()
    assert "before" in text
    assert json.loads((tmp_path / "runs" / name / "manifest.json").read_text())["status"] == "failed"


def test_an_interrupted_run_leaves_nothing(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import papermill

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    assert main(["run", "sums"]) == 130
    assert listing(tmp_path / "runs") == []
    assert "BNICL_RUN" not in os.environ


WRONG = {
    "chapter": (
        ["run", "sumz"],
        ["expected one of fails, sums or a notebook's path, got 'sumz'", "did you mean 'sums'"],
    ),
    "parameter": (["run", "sums", "-p", "alhpa", "1"], ["expected one of n, alpha, network, got 'alhpa'", "'alpha'"]),
    "type": (["run", "sums", "-p", "n", "many"], ["parameter n: expected PositiveInt, got 'many'"]),
    "fraction": (["run", "sums", "-p", "n", "1.5"], ["parameter n: expected PositiveInt, got '1.5'"]),
    "bound": (["run", "sums", "-p", "n", "0"], ["parameter n: expected PositiveInt, got '0' (Input should be gr"]),
    "nan": (["run", "sums", "-p", "alpha", "nan"], ["parameter alpha: expected PositiveFloat, got 'nan'"]),
    "network": (["run", "sums", "-p", "network", "assia"], ["got 'assia'", "did you mean 'asia'"]),
    "file": (["run", "sums", "-p", "network", "no.bif"], ["expected a file of a network, got 'no.bif'"]),
    "file in capitals": (["run", "sums", "-p", "network", "NO.BIF"], ["file of a network, got 'NO.BIF'"]),
    "twice": (["run", "sums", "-p", "n", "1", "-p", "n", "2"], ["parameter n: expected once, got '1' and '2'"]),
    "two profiles": (["run", "sums", "--profile", "book", "-p", "profile", "smoke"], ["profile: expected once, got"]),
    "upper case": (["run", "sums", "-p", "network", "ASIA"], ["got 'ASIA'", "did you mean 'asia'"]),
    "broken file": (["run", "sums", "-p", "network", "broken.bif"], ["broken.bif, line 1: expected a BIF file", "got"]),
    "broken in capitals": (
        ["run", "sums", "-p", "network", "BROKEN.BIF"],
        ["BROKEN.BIF, line 1: expected a BIF file", "got"],
    ),
    "broken and packed": (
        ["run", "sums", "-p", "network", "broken.bif.gz"],
        ["broken.bif.gz, line 1: expected a BIF", "got"],
    ),
    "profile": (["run", "sums", "-p", "profile", "huge"], ["profile: expected one of smoke, book, paper, got 'huge'"]),
}


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_one_clear_line_and_nothing_is_written(
    call: list[str], words: list[str], book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("broken.bif", "BROKEN.BIF", "broken.bif.gz"):
        (tmp_path / name).write_text("network x {}")
    assert main(call) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bnicl: ")
    for word in words:
        assert word in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("call", [["run", "zebra"], ["run", "sums", "-p", "zebra", "1"]])
def test_a_name_that_is_like_none_gets_no_suggestion(
    call: list[str], book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("call", [["run"], ["run", "sums", "-p", "n"], ["sing"]])
def test_a_call_that_cannot_be_read_is_one_line_too(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(call)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bnicl: ")


def test_an_executed_notebook_forgets_what_it_was_executed_with(book: Path, tmp_path: Path) -> None:
    """Its manifest says the defaults, and so must its table."""
    first = runs.run_chapter("sums", {"n": 7}, tmp_path / "first")
    again = runs.run_chapter(str(first / "chapter.ipynb"), {}, tmp_path / "again")
    assert json.loads((again / "manifest.json").read_text())["parameters"]["n"] == 10
    assert (again / "sum.csv").read_text() == "n,alpha,network\n10,0.5,chain5\n"


def test_a_negative_number_with_an_exponent_is_a_value(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "sums", "-p", "alpha", "-5e-4"]) == 2
    assert "parameter alpha: expected PositiveFloat, got '-5e-4'" in capsys.readouterr().err


def test_an_unknown_profile_is_refused(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "sums", "--profile", "huge"]) == 2
    assert "profile: expected one of smoke, book, paper, got 'huge'" in capsys.readouterr().err


def test_an_unknown_profile_in_the_environment_is_refused(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNICL_PROFILE", "large")
    with pytest.raises(ValueError, match="profile: expected one of smoke, book, paper, got 'large'"):
        by_profile(1, 2)
    assert main(["run", "sums"]) == 2


def test_a_folder_that_cannot_be_written_is_one_clear_line(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("a file")
    assert main(["run", "sums", "--out", "taken"]) == 2
    assert "taken" in capsys.readouterr().err


def test_by_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"smoke": 2, "book": 1, "paper": 1}.items():
        monkeypatch.setenv("BNICL_PROFILE", name)
        assert by_profile(1, 2) == value
    assert by_profile(1, 2, 3) == 3
    monkeypatch.setenv("BNICL_PROFILE", "")  # set, but to nothing
    assert by_profile(1, 2, 3) == 1


def test_lists_and_files_as_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Parameter("n_contexts", "ContextSizes", "[1]", "")
    assert line.check("1, 2,50") == line.check([1, 2, 50]) == line.check("[1, 2, 50]") == [1, 2, 50]
    monkeypatch.chdir(tmp_path)
    packed = (example_models() / "asia.bif.gz").read_bytes()
    for name in ("own.bif", "OWN.BIF", "a+b.bif", "own.bif.gz"):
        Path(name).write_bytes(packed if name.endswith(".gz") else gzip.decompress(packed))
        checked = Parameter("network", "NetworkName", "", "").check(name)
        assert checked == str(tmp_path / name)
        assert list(runs.files_of({"network": checked})) == [f"the file {name}"]


CELL = """\
name: str = "a=b"  # text with a sign
n: Count = by_profile(book=300, smoke=10)  # names of profiles, too

colour: str = "#ff0000"  # text with a hash; "quoted"
limit: float | None = None  # two types
quoted: "PositiveInt" = (1 +
    2)  # a type in quotes
sizes: ContextSizes = [
    1,  # few
    20,
]  # lines
# a remark
plain: int = dict(k=1)
"""
DECLARED = [
    Parameter("name", "str", '"a=b"', "text with a sign"),
    Parameter("n", "Count", "by_profile(book=300, smoke=10)", "names of profiles, too"),
    Parameter("colour", "str", '"#ff0000"', 'text with a hash; "quoted"'),
    Parameter("limit", "float | None", "None", "two types"),
    Parameter("quoted", "PositiveInt", "1 +\n    2", "a type in quotes"),
    Parameter("sizes", "ContextSizes", "[\n    1,  # few\n    20,\n]", "lines"),
    Parameter("plain", "int", "dict(k=1)", "a remark"),
]


def test_no_parameter_of_a_cell_is_lost(book: Path) -> None:
    write_chapter(book, "all", CELL)
    assert list(parameters.parameters_of("all").values()) == DECLARED
    assert [line.value() for line in DECLARED[:3]] == ["a=b", 10, "#ff0000"]
    assert [line.value() for line in DECLARED[4:6]] == [3, [1, 20]]
    with pytest.raises(ValueError, match=r"parameter limit: expected a type among .*, got float \| None"):
        DECLARED[3].value()
    write_chapter(book, "none", "")
    assert parameters.parameters_of("none") == {}


def test_what_a_cell_declares_and_what_is_given_arrives(book: Path) -> None:
    table = 'import pandas as pd\nruns.save_table(pd.DataFrame({"n": [n], "name": [name], "size": [sizes[-1]]}), "t")'
    write_chapter(book, "all", "\n".join(CELL.splitlines()[:2] + CELL.splitlines()[7:11]), table)
    folder = runs.run_chapter("all", {"name": 'c="d"'})
    assert (folder / "t.csv").read_text() == 'n,name,size\n10,"c=""d""",20\n'
    folder = runs.run_chapter("all", {"n": "12", "sizes": "3,4"})
    assert (folder / "t.csv").read_text() == "n,name,size\n12,a=b,4\n"
    assert json.loads((folder / "manifest.json").read_text())["parameters"] == {"name": "a=b", "n": 12, "sizes": [3, 4]}


NO_PARAMETERS = {
    "n = 1  # without a type": "expected name: type = default, got 'n = 1'",
    "n: int": "expected name: type = default, got 'n: int'",
    "n: int = 1\nprint(n)": "expected name: type = default, got 'print(n)'",
    "book.n: int = 1": "expected name: type = default, got 'book.n: int = 1'",
    "n: int = 1\nn: int = 2": "expected each parameter once, got 'n' twice",
    "n: int = 1\n%time 2": "expected Python, got '%time 2' (invalid syntax)",
}


@pytest.mark.parametrize(("cell", "problem"), NO_PARAMETERS.items(), ids=NO_PARAMETERS)
def test_a_cell_of_other_than_parameters_is_refused(
    cell: str, problem: str, book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_chapter(book, "sums", cell)
    for call in (["run", "sums"], ["run", "sums", "-p", "n", "1"]):
        assert main(call) == 2
        assert capsys.readouterr().err == f"bnicl: chapter sums: {problem}\n"


def test_two_cells_of_parameters_are_refused(book: Path) -> None:
    path = book / "sums.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=r"chapter sums: expected one code cell .*, got a code cell and a code cell"):
        parameters.parameters_of("sums")
    del notebook.cells[2:4]
    nbformat.write(notebook, path)
    assert parameters.parameters_of("sums") == {}


def test_the_version_of_the_code_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bnicl").mkdir()
    (tmp_path / "bnicl" / "a.py").write_text("x = 1")
    monkeypatch.setattr(staleness, "PACKAGE", tmp_path / "bnicl")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    first = staleness.code_version()
    assert staleness.code_version() == first
    (tmp_path / "bnicl" / "a.py").write_text("x = 2")
    assert staleness.code_version() != first
    assert runs.environment()["commit"].startswith("unknown")


def test_the_commands_of_the_readme_run_from_anywhere(tmp_path: Path) -> None:
    """The real book, as a reader calls it: another network gives a new notebook with its manifest."""
    call = [sys.executable, "-m", "bnicl", "run", "in-context-estimators", "-p", "network", "alarm"]
    done = subprocess.run(
        [*call, "-p", "n_contexts", "1,10"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"]["network"] == "alarm"
    assert manifest["parameters"]["n_contexts"] == [1, 10]
    assert listing(folder) == ["chapter.ipynb", "estimators.csv", "manifest.json", "unmatched.csv"]


def test_chapters_are_listed_with_their_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chapters"]) == 0
    printed = capsys.readouterr().out
    assert "in-context-estimators: In-context estimators" in printed
    assert "-p network NetworkName" in printed


def test_chapters_are_listed_without_what_executes_them() -> None:
    code = "import sys; from bnicl.__main__ import main; main(['chapters']); assert 'papermill' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- kernels --------------------------------------------------------------------------------------


def test_a_kernel_is_this_python_whatever_spec_has_the_name(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(another_python3(tmp_path)))
    write_chapter(book, "which", "n: int = 1", "import sys", "print(sys.executable)")
    folder = runs.run_chapter("which")
    assert sys.executable in (folder / "chapter.ipynb").read_text()
    execute(book / "which.ipynb")
    assert sys.executable in (book / "which.ipynb").read_text()


def test_a_kernel_imports_the_bnicl_that_started_it(book: Path, tmp_path: Path) -> None:
    """As it is in the folder of a call, where that is another checkout than the installed one."""
    other = tmp_path / "other"
    shutil.copytree(staleness.PACKAGE, other / "bnicl", ignore=shutil.ignore_patterns("__pycache__"))
    write_chapter(book, "where", "n: int = 1", "import bnicl", "print(bnicl.__file__)")
    subprocess.run([sys.executable, "-m", "bnicl", "run", book / "where.ipynb"], cwd=other, check=True)
    (notebook,) = (other / "runs").glob("where-*/chapter.ipynb")
    assert str(other / "bnicl" / "__init__.py") in notebook.read_text()


ANSWERS_NOT = [
    "Kernel died before replying to kernel_info",
    "Kernel didn't respond in 60 seconds",
    "Kernel info reqest timed out after 10 seconds!",
    "Wasn't able to establish IOPub after 30 seconds.",
]


@pytest.mark.parametrize("problem", ANSWERS_NOT)
@pytest.mark.parametrize(("dies", "runs_in_the_end"), [(2, True), (3, False)])
def test_a_kernel_that_never_answers_is_started_again(dies: int, runs_in_the_end: bool, problem: str) -> None:
    begun = []

    def start(path: str) -> str:
        begun.append(path)
        if len(begun) <= dies:
            raise RuntimeError(problem)
        return "done"

    if runs_in_the_end:
        assert kernels.once_it_starts(start, "a.ipynb") == "done"
    else:
        with pytest.raises(RuntimeError, match=problem):
            kernels.once_it_starts(start, "a.ipynb")
    assert len(begun) == 3


def test_the_notebooks_under_test_have_kernels_that_are_started_again() -> None:
    assert importlib.import_module("nbval.plugin").RunningKernel.__name__ == "kernel_that_answers"


def test_a_kernel_that_dies_in_a_cell_is_not_started_again() -> None:
    begun = []

    def start() -> None:
        begun.append(1)
        raise RuntimeError("Kernel died")

    with pytest.raises(RuntimeError):
        kernels.once_it_starts(start)
    assert begun == [1]
