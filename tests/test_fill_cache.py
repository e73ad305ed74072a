"""The chapters are executed into the book's cache before it is built."""

from pathlib import Path

from jupyter_cache import get_cache

from tests.test_runs import write_chapter
from tools.fill_cache import fill, longest_first


def test_chapters_are_executed_into_the_cache_and_failures_are_named(tmp_path: Path) -> None:
    write_chapter(tmp_path, "sums", "n: int = 2  # of them", "print(n + 1)")
    write_chapter(tmp_path, "fails", "n: int = 2  # of them", "raise ValueError('not this one')")
    chapters = [tmp_path / "sums.ipynb", tmp_path / "fails.ipynb"]
    (failed,) = fill(chapters, tmp_path / "cache")
    assert failed.startswith("fails.ipynb")
    assert "not this one" in failed
    (record,) = get_cache(str(tmp_path / "cache")).list_cache_records()
    assert Path(record.uri).name == "sums.ipynb"


def test_what_trains_begins_first(tmp_path: Path) -> None:
    for name, text in (("a", "print(1)"), ("b", "run = bnicl.train(config)")):
        (tmp_path / f"{name}.ipynb").write_text(text)
    assert [path.stem for path in longest_first(sorted(tmp_path.glob("*.ipynb")))] == ["b", "a"]
