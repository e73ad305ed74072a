"""Verdicts: what they say, and that naive counting in the transformer's place fails each one."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bnicl.batch import parameters
from bnicl.evaluation import verdicts
from bnicl.evaluation.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = {
    "transformer": [0.20, 0.10, 0.05],
    "naive": [0.3, 0.3, 0.3],
    "MLE": [0.25, 0.11, 0.04],
    "best": [0.2, 0.09, 0.03],
}


def table(numbers: dict[str, list[float]] = NUMBERS, **about: Any) -> pd.DataFrame:
    rows = [(name, n, tv) for name, own in numbers.items() for n, tv in zip((5, 50, 500), own, strict=True)]
    return pd.DataFrame(rows, columns=["predictor", "n_context", "tv"]).assign(graph="chain5", seed=0, **about)


def test_a_verdict_names_the_rows_and_runs_that_it_covers() -> None:
    assert str(verdicts.nearer(table())) == "agrees at N = 5 to 50, not at 500 (one run)"
    assert str(verdicts.nearer(table(), than=["naive"])) == "agrees at every N, 5 to 500 (one run)"
    assert str(verdicts.of_naives_excess(table(), "best", 0.01)) == "agrees at N = 5, not at 50 to 500 (one run)"
    assert str(verdicts.below(table(), 0.01, "tv")) == "disagrees at every N, 5 to 500 (one run)"


def test_one_seed_that_fails_fails_the_whole() -> None:
    worse = table(NUMBERS | {"transformer": [0.20, 0.12, 0.05]}).assign(seed=1)
    assert verdicts.nearer(pd.concat([table(), worse])).holds == {5: True, 50: False, 500: False}
    assert verdicts.nearer(pd.concat([table(), worse])).runs == 2


def test_a_published_value_that_naive_counting_reaches_decides_nothing() -> None:
    assert verdicts.below(table(), 0.25, "tv").holds == {5: True, 50: True, 500: True}
    assert verdicts.below(table(), 0.31, "tv").holds == {5: False, 50: False, 500: False}


def test_the_line_between_two_estimators() -> None:
    columns = ["predictor", "n_context", "share", "off_the_line"]
    rows = [
        ("a", 5, 0.95, 0.01),
        ("a", 20, 0.8, 0.01),
        ("a", 200, 0.2, 0.01),
        ("naive", 5, 1, 0.3),
        ("naive", 20, 1, 0.3),
    ]
    shares = pd.DataFrame(rows, columns=columns).assign(graph="chain5", seed=0)
    assert verdicts.on_the_line(shares, "a", end=1, within=0.1).holds == {5: True, 20: False}
    assert verdicts.on_the_line(shares, "naive", end=1, within=0.1).holds == {5: False, 20: False}


TRAINED = ["transformer", "true conditional", "drawn value", "distance to the MLE"]
ABOUT = ["graph", "lowest", "highest", "alpha", "levels", "seed", "start", "node", "n_context"]
ABOUT += ["run", "steps", "n_layers", "n_heads"]


def as_naive(name: str) -> pd.DataFrame:
    """A committed table with naive counting in the place of everything trained."""
    shown = pd.read_csv(ROOT / f"results/{name}.csv", low_memory=False)
    about = [column for column in ABOUT if column in shown]
    if name == "unknown-searched":  # its own naive is in another table, on other contexts of the same networks
        curves = pd.read_csv(ROOT / "results/unknown-structure.csv").query("predictor == 'naive' and lowest == 0.5")
        key = ["graph", "seed", "n_context"]
        naive = curves.set_index(key)["tv"].reindex(pd.MultiIndex.from_frame(shown[key])).to_numpy()
        return shown.assign(tv_more_low=shown["tv_more_low"] + (shown["tv"] - naive) - shown["tv_more"])
    if not about or "naive" not in {*shown.get("predictor", [])}:
        return shown
    naive = shown[shown["predictor"] == "naive"].drop_duplicates(about).drop(columns="predictor")
    is_trained = shown["predictor"].isin(TRAINED)
    replaced = shown.loc[is_trained, [*about, "predictor"]].merge(naive, on=about, how="left")
    return pd.concat([shown[~is_trained], replaced], ignore_index=True)


def stated_on_the_page(
    results: Path, monkeypatch: pytest.MonkeyPatch, n_cells: int | None = None
) -> list[tuple[str, Verdict]]:
    """The claims page, or its first cells, executed on the tables of a folder: its verdicts on what training finds."""
    monkeypatch.setattr(parameters, "results_path", lambda name: results / f"{name}.csv")
    cells = re.findall(r"```\{code-cell\}.*?\n\n(.*?)```", (ROOT / "book/claims.md").read_text(), re.DOTALL)
    page: dict[str, Any] = {}
    for cell in cells[:n_cells]:
        exec(cell, page)
    assert not re.search(r"\bnan\b", " ".join(map(str, page["stated"])))
    return [(said, verdict) for said, _, _, verdict in page["stated"] if isinstance(verdict, Verdict)]


def test_naive_counting_in_the_transformers_place_fails_every_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (ROOT / "results").rglob("*.csv"):
        made = tmp_path / path.relative_to(ROOT / "results")
        made.parent.mkdir(exist_ok=True)
        as_naive(made.relative_to(tmp_path).with_suffix("").as_posix()).to_csv(made, index=False)
    found = stated_on_the_page(tmp_path, monkeypatch, n_cells=3)
    assert len(found) >= 11
    assert [(said, str(verdict)) for said, verdict in found if any(verdict.holds.values())] == []


def test_on_the_committed_tables_something_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict(stated_on_the_page(ROOT / "results", monkeypatch))
    assert sum(any(verdict.holds.values()) for verdict in found.values()) >= 7
