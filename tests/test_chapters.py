"""The check of the chapters can fail: a committed number that a run does not give is found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from bnicl.batch import runs
from bnicl.batch.parameters import BOOK

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("committed", "profile", "code"), [("4", "smoke", 0), ("5", "smoke", 2), ("5", "book", 2)])
def test_one_changed_number_in_a_checked_output_fails(committed: str, profile: str, code: int, tmp_path: Path) -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    cell = new_code_cell("print(2 + 2)", execution_count=1, metadata={"tags": ["nbval-check-output"]})
    cell.outputs = [new_output("stream", text=f"{committed}\n")]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(new_notebook(cells=[cell], metadata=kernel), tmp_path / "sum.ipynb")
    call = ["make", "chapters", f"CHAPTERS={tmp_path / 'sum.ipynb'}", f"PROFILE={profile}", f"PY={sys.executable}"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("1 passed" if code == 0 else "Cell outputs differ") in done.stdout


ODD = {
    "without edges": "variable target {type discrete[2]{a,b};} variable x {type discrete[3]{a,b,c};}\n"
    "probability(target){table .3 .7;} probability(x){table .3 .3 .4;}",
    "a node called target": "variable target {type discrete[2]{a,b};} variable rows {type discrete[2]{a,b};}\n"
    "probability(target){table .3 .7;} probability(rows|target){(a) .1 .9; (b) .8 .2;}",
}


@pytest.mark.parametrize("network", ["chain7", *ODD])
def test_your_own_network_may_be_a_graph_alone_or_odd(network: str, tmp_path: Path) -> None:
    if network in ODD:
        (tmp_path / "a+b.BIF").write_text(ODD[network])
        network = str(tmp_path / "a+b.BIF")
    folder = runs.run_chapter("your-own-network", {"network": network}, tmp_path / "runs", "smoke")
    assert (folder / "networks.csv").is_file()


def shown_by(folder: Path) -> list[object]:
    """Every output of an executed chapter but the last, which says when and in how many seconds it was made."""
    cells = [cell for cell in nbformat.read(folder / "chapter.ipynb", as_version=4).cells if cell.cell_type == "code"]
    return [(out.output_type, out.get("text"), out.get("data")) for cell in cells[:-1] for out in cell.outputs]


def test_a_chapter_that_trains_shows_the_same_on_a_busy_machine(tmp_path: Path) -> None:
    idle = shown_by(runs.run_chapter("which-estimator", out=tmp_path / "idle", profile="smoke"))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        beside = shown_by(runs.run_chapter("which-estimator", out=tmp_path / "busy", profile="smoke"))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(idle) > 10
    assert beside == idle


FOLDED = {"hide-input", "remove-cell", "hide-cell", "remove-input"}


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_step_has_eight_lines_at_most_and_fits_the_page(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        if not FOLDED & set(cell["metadata"].get("tags", [])):
            lines = "".join(cell["source"]).splitlines()
            assert len(lines) <= 8, lines[0]
            assert max(map(len, lines)) <= 84, max(lines, key=len)
