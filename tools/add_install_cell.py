"""Gives chapters a first cell that installs the package in Colab: add_install_cell.py URL NOTEBOOK...

Elsewhere the cell does nothing. Only the standard library is used, so that a bare machine can run this.
"""

import json
import sys
from pathlib import Path

CELL = """import sys

if "google.colab" in sys.modules:  # the package, and the tables that the chapters read
    !git clone -q --depth 1 {url} bnicl-book
    %cd -q bnicl-book
    %pip install -q -e ".[book,batch]"
"""


def with_cell(notebook: dict, url: str) -> dict:
    """The notebook with the cell in front."""
    source = CELL.format(url=url).splitlines(keepends=True)
    cell: dict = {
        "cell_type": "code",
        "execution_count": None,
        "id": "install",
        "metadata": {},
        "outputs": [],
        "source": source,
    }
    return notebook | {"cells": [cell, *notebook["cells"]]}


if __name__ == "__main__":
    _, url, *paths = sys.argv
    for path in map(Path, paths):
        notebook = with_cell(json.loads(path.read_text()), url)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
