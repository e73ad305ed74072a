"""Files of kinds that people have, each with the right answer (cases/README.md says what kinds there are)."""

import csv
import shlex
import shutil
from pathlib import Path

import pytest

import bnicl
from bnicl.__main__ import main

CASES = Path(__file__).parent / "cases"
with (CASES / "cases.csv").open(newline="") as file:
    LISTED = list(csv.DictReader(file))


def test_every_case_is_listed() -> None:
    assert {line["case"] for line in LISTED} == {path.name for path in CASES.iterdir() if path.is_dir()}


@pytest.mark.parametrize("line", [line for line in LISTED if line["target"]], ids=lambda line: line["case"])
def test_a_prediction_is_right_or_refused_in_one_line(line: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = CASES / line["case"]
    files = ["--network", str(folder / line["network"]), "--context", str(folder / line["rows"])]
    given = shlex.split(line["given"])
    code = main(["predict", *files, "--target", line["target"], "--given", *given])
    shown, problem = capsys.readouterr()
    assert code == int(line["exit"])
    if code:
        assert problem.count("\n") == 1
        assert not shown
    else:
        state, _, p = line["expected"].rpartition("=")
        assert f"{float(p):8.4f}  {line['target']}={state}" in shown.splitlines()


@pytest.mark.parametrize("line", LISTED, ids=lambda line: line["case"])
def test_generation_works_or_is_refused_in_one_line(
    line: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CASES / line["case"]
    files = ["--network", str(folder / line["network"]), "--context", str(folder / line["rows"])]
    code = main(["generate", *files, "--out", str(tmp_path / "new.csv"), "-n", "20"])
    problem = capsys.readouterr().err
    if line["exit"] == "2" and line["target"]:
        assert code == 2
        assert problem.count("\n") == 1
        assert not list(tmp_path.iterdir())
    else:
        assert code == 0
        assert {path.name for path in tmp_path.iterdir()} == {"new.csv", "new.png", "new.json"}


def test_the_message_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for case, target, message in (
        ("57-pandas-index", "cough", "column 1 has no name"),
        ("61-missing-value-marks", "cough", "got none for cough in line 4; --missing available counts each node"),
    ):
        files = ["--network", str(CASES / case / "g.csv"), "--context", str(CASES / case / "d.csv")]
        assert main(["predict", *files, "--target", target]) == 2
        assert message in capsys.readouterr().err


def test_a_default_row_and_wildcards_fill_the_tables() -> None:
    assert bnicl.load_network(CASES / "18-default-row" / "n.bif").tables[1].tolist() == [[0.6, 0.4], [0.5, 0.5]]
    assert bnicl.load_network(CASES / "47-wildcard-rows" / "n.bif").tables[2][1, :, 0].tolist() == [0.1, 0.1]


def test_tables_that_are_used_must_be_right() -> None:
    with pytest.raises(
        ValueError, match=r"n\.bif, line 14: expected a row of cough given no that sums to 1 .* got a sum of 0"
    ):
        bnicl.load_network(CASES / "03-unseen-parents-zero-row" / "n.bif")


def test_seventy_parents_are_counted_where_rows_have_them_and_refused_where_the_sum_is_too_wide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = CASES / "112-70-parents"
    files = ["predict", "--network", str(folder / "g.csv"), "--context", str(folder / "d.csv"), "--target", "label"]
    with (folder / "d.csv").open() as file:
        header, first, *_ = csv.reader(file)
    given = [f"{name}={value}" for name, value in zip(header, first, strict=True) if name != "label"]
    assert main([*files, "--given", *given]) == 0
    assert f"1.0000  label={first[header.index('label')]}" in capsys.readouterr().out
    assert main(files) == 2
    assert "--samples 100000 gives the answer with its standard error" in capsys.readouterr().err
    assert main([*files, "--estimator", "posterior-mean", "--samples", "500"]) == 0
    assert "±" in capsys.readouterr().out


def test_missing_cells_are_counted_or_weighed_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    folder = CASES / "61-missing-value-marks"
    files = ["predict", "--network", str(folder / "g.csv"), "--context", str(folder / "d.csv"), "--target", "cough"]
    assert main([*files, "--given", "smoke=no", "--missing", "available"]) == 0
    assert "constructed transformer: 2 of 5 rows have these parents" in capsys.readouterr().out
    assert main([*files, "--given", "smoke=no", "--missing", "em", "--estimator", "posterior-mean"]) == 0
    assert "posterior mean, alpha = 0.5: 3 of 5 rows have these parents" in capsys.readouterr().out


def test_a_case_can_be_copied_anywhere_and_its_files_are_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(CASES / "70-R-arcs-quoted", tmp_path / "a+b c")
    files = ["generate", "--network", str(folder / "g.csv"), "--context", str(folder / "d.csv"), "--force"]
    for name in ("d.csv", "g.csv"):
        assert main([*files, "--out", str(folder / name)]) == 2
        assert "out: expected another file than what is read" in capsys.readouterr().err
    assert main([*files, "--out", str(folder / "new.csv"), "-n", "5"]) == 0
