"""Executes the chapters, as many at a time as there are cores, into the cache that jupyter-book builds the pages from.

A chapter whose cells are in the cache is not executed again. Ends with 1, and the last lines of what was raised, where
a chapter fails.
"""

import sys
from pathlib import Path

import yaml
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from bnicl.batch.kernels import NEVER_ANSWERED

ROOT = Path(__file__).resolve().parents[1]
EXECUTE = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]  # what jupyter-book itself goes by


def longest_first(chapters: list[Path]) -> list[Path]:
    """Those that train before those that do not, so that no core waits for the last."""
    return sorted(chapters, key=lambda path: -path.read_text().count("bnicl.train(config"))


def fill(chapters: list[Path], folder: Path) -> list[str]:
    """What failed: the chapter and the end of its traceback."""
    cache = get_cache(str(folder))
    for path in longest_first(chapters):
        cache.add_nb_to_project(str(path))
    for _ in range(3):  # kernels that start at the same time may be given the same port
        load_executor("local-parallel", cache).run_and_cache(
            timeout=EXECUTE["timeout"], filter_uris=[str(path) for path in chapters]
        )
        records = [cache.get_project_record(str(path)) for path in chapters]
        if not any(words in (r.traceback or "") for r in records for words in NEVER_ANSWERED):
            break
    return [f"{Path(r.uri).name}: {r.traceback[-2000:]}" for r in records if r.traceback]


def main() -> None:
    if failed := fill(sorted((ROOT / "book").glob("*.ipynb")), ROOT / EXECUTE["cache"]):
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
