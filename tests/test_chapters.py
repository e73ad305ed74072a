"""The check of the chapters can fail: a committed number that a run does not give is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

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
