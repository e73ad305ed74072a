"""Executes chapters in place, without the time stamps that would change at every run.

The figure of the README is one of theirs, copied out.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from bnicl.batch.kernels import own_kernel

README_FIGURE = "fig-total-variation"
README_IMAGE = Path(__file__).resolve().parents[1] / "book" / "_static" / "readme.svg"


def figure(notebook: nbformat.NotebookNode, name: str) -> str | None:
    """The image that the cell with this figure name shows, if the notebook has such a cell."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            return next(o.data["image/svg+xml"] for o in cell.outputs if "image/svg+xml" in o.get("data", {}))
    return None


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    begin = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        kernel_manager_class=own_kernel(),
    ).execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.rename(path)
    if image := figure(notebook, README_FIGURE):
        README_IMAGE.write_text(image)
    print(f"{path}: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
