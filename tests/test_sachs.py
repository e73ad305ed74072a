"""The real cells: how they were made discrete, and that the committed tables are those."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

import bnicl
from tools import make_sachs

DATA = Path(__file__).parent.parent / "book" / "data"


@pytest.mark.parametrize("levels", ["quantiles", "hartemink", "conditions"])
def test_the_committed_cells_are_rows_of_the_network(levels: str) -> None:
    table, net = pd.read_csv(DATA / f"sachs-{levels}.csv.gz"), bnicl.load_network("sachs")
    assert table["condition"].value_counts(sort=False).to_dict() == make_sachs.CONDITIONS
    assert set(table.columns) == {"condition", *net.names}
    assert all(set(table[name]) == set(net.states[m]) for m, name in enumerate(net.names))
    if levels == "quantiles":
        shares = pd.concat([table[name].value_counts(normalize=True) for name in net.names])
        assert shares.between(0.32, 0.35).all()


def test_the_committed_cells_are_what_the_script_makes() -> None:
    try:
        raw = make_sachs.measurements().to_numpy()
    except subprocess.CalledProcessError:
        pytest.skip("the package index cannot be reached")
    for levels, bins in make_sachs.discretised(raw).items():
        committed = pd.read_csv(DATA / f"sachs-{levels}.csv.gz").drop(columns="condition")
        assert (committed.to_numpy() == np.array(make_sachs.LEVELS)[bins]).all()


def test_the_cost_of_a_merging_is_the_information_it_loses() -> None:
    bins = np.random.default_rng(0).integers(0, [5, 3, 4], size=(200, 3))
    bins[:, 1] = (bins[:, 0] + bins[:, 1]) // 3
    for column in range(3):
        others = [other for other in range(3) if other != column]
        for k, cost in enumerate(make_sachs.merging_costs(bins, column)):
            merged = bins[:, column] - (bins[:, column] > k)
            lost = sum(
                mutual_info_score(bins[:, column], bins[:, other]) - mutual_info_score(merged, bins[:, other])
                for other in others
            )
            assert cost == pytest.approx(200 * lost, abs=1e-9)


def test_the_cut_that_tells_about_another_column_is_kept() -> None:
    """y is whether x is beyond 1/2: of all cuts of x that one must survive, of which thirds know nothing."""
    x = np.linspace(0, 1, 600)
    bins = make_sachs.hartemink(make_sachs.quantiles(np.stack([x, x > 0.5], axis=1), 20), n_bins=2)
    assert (bins == (x > 0.5)[:, None]).all()
