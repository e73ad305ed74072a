"""Held-out rows: against hand-made loops, with predictors whose answer is known, and with bad input."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.evaluation.heldout import UNIFORM, held_out

NET = bnicl.load_network("general5").with_random_cpts(alpha=1.0, seed=3)
ROWS = bnicl.forward_sample(NET, 300, seed=4)


class Fixed:
    """Answers with the tables that it was given, and keeps what it was asked."""

    name = "fixed"

    def __init__(self, net: bnicl.BayesianNetwork, tables: tuple[Tensor, ...]) -> None:
        self.net, self.tables = net, tables
        self.asked: list[tuple[Tensor, Tensor]] = []

    def predict_proba(self, context: Tensor, query: Tensor, target: int) -> Tensor:
        self.asked.append((context, query))
        parents = self.net.parents[target]
        return torch.stack([self.tables[target][tuple(row[list(parents)])] for row in query])


def test_the_log_loss_is_that_of_a_loop_over_rows() -> None:
    table = held_out({"mean": bnicl.PosteriorMean(NET, 0.7)}, NET, ROWS, [6, 40], n_splits=3, n_test=11, seed=5)
    spy = Fixed(NET, bnicl.MaximumLikelihood(NET, "uniform").fit(ROWS[None]))
    spy.tables = tuple(t[0] for t in spy.tables)
    held_out({"spy": spy}, NET, ROWS, [40], n_splits=3, n_test=11, seed=5)  # the same splits
    context, query = spy.asked[0]
    for n in (6, 40):
        for m, name in enumerate(NET.names):
            losses, distances = [], []
            for rows, row in zip(context[:, :n].tolist(), query.tolist(), strict=True):
                agree = [r for r in rows if all(r[p] == row[p] for p in NET.parents[m])]
                p = [(sum(r[m] == k for r in agree) + 0.7) / (len(agree) + 1.4) for k in range(2)]
                losses.append(-math.log2(p[row[m]]))
                every = [r for r in ROWS.tolist() if all(r[q] == row[q] for q in NET.parents[m])]
                distances.append(abs(p[1] - sum(r[m] for r in every) / len(every)))
            got = table[(table["n_context"] == n) & (table["node"] == name)].iloc[0]
            assert got["log_loss"] == pytest.approx(sum(losses) / len(losses))
            assert got["tv"] == pytest.approx(sum(distances) / len(distances))
    average = table[table["node"] == "average"].set_index("n_context")
    per_node = table[table["node"] != "average"].groupby("n_context").mean(numeric_only=True)
    for measure in ("log_loss", "mixed", "tv", "ruled_out"):
        assert average[measure].to_numpy() == pytest.approx(per_node[measure].to_numpy())
    assert list(table) == ["predictor", "n_context", "node", "log_loss", "mixed", "tv", "ruled_out"]  # no intervals


def test_no_test_row_stands_in_its_context() -> None:
    net = bnicl.BayesianNetwork(("number",), ((),), (200,))
    spy = Fixed(net, (torch.full((200,), 1 / 200, dtype=torch.float64),))
    table = held_out({"spy": spy}, net, torch.arange(200)[:, None], [150], n_splits=4, n_test=50)
    (context, query), *more = spy.asked
    assert not more
    assert not bool((context == query[:, None]).any())
    assert table["log_loss"].to_numpy() == pytest.approx([math.log2(200)] * 2)


def test_the_fitted_tables_are_at_distance_zero_and_lose_the_entropy() -> None:
    fitted = bnicl.MaximumLikelihood(NET).fit(ROWS[None])
    table = held_out({"fit": Fixed(NET, tuple(t[0] for t in fitted))}, NET, ROWS, [1], n_splits=1, n_test=299)
    assert table["tv"].to_numpy() == pytest.approx([0.0] * 6)
    assert table["ruled_out"].eq(0).all()


def test_what_was_ruled_out_is_infinite_and_finite_once_mixed() -> None:
    net = bnicl.BayesianNetwork(("a",), ((),), (2,))
    never = Fixed(net, (torch.tensor([1.0, 0.0], dtype=torch.float64),))
    rows = torch.tensor([[0], [1]]).repeat(50, 1)
    got = held_out({"never": never}, net, rows, [1], n_splits=2, n_test=99).iloc[0]
    assert got["log_loss"] == math.inf
    assert got["ruled_out"] == pytest.approx(0.5, abs=0.02)
    kept, lost = -math.log2(1 - UNIFORM / 2), -math.log2(UNIFORM / 2)
    assert got["mixed"] == pytest.approx((1 - got["ruled_out"]) * kept + got["ruled_out"] * lost)


def test_the_constructed_transformer_answers_as_the_mle_does() -> None:
    both: dict[str, Any] = {
        "MLE": bnicl.MaximumLikelihood(NET, "nearest"),
        "constructed": bnicl.construct_mle_transformer(NET, variant="causal", epsilon=1e-9),
    }
    table = held_out(both, NET, ROWS, [30], n_splits=2, n_test=20).set_index(["predictor", "node"])
    for measure in ("mixed", "tv"):
        assert table.loc["constructed", measure].to_numpy() == pytest.approx(table.loc["MLE", measure].to_numpy())


def test_contexts_can_come_from_elsewhere() -> None:
    spy = Fixed(NET, tuple(t[0] for t in bnicl.PosteriorMean(NET).fit(ROWS[None])))
    zeros = torch.zeros(20, 5, dtype=torch.int64)
    held_out({"spy": spy}, NET, ROWS, [20], n_splits=2, n_test=200, contexts_from=zeros)
    assert all(not bool(context.any()) for context, _ in spy.asked)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n_contexts": [260]}, "rows: expected at least 324 for these contexts and tests, got 300"),
        ({"contexts_from": ROWS[:5]}, "contexts_from: expected at least 50 for these contexts and tests, got 5"),
        ({"rows": ROWS + 1}, "state"),
        ({"n_splits": 0}, "n_splits: expected"),
        ({"n_test": 0}, "n_test: expected"),
        ({"predictors": {"MLE": bnicl.MaximumLikelihood(NET, "nan")}, "n_contexts": [1]}, "got NaN"),
        ({"predictors": {}}, "predictors: expected at least one"),
        ({"n_contexts": []}, "n_contexts: expected at least one"),
    ],
)
def test_what_cannot_be_measured_is_refused(more: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"predictors": {"mean": bnicl.PosteriorMean(NET)}, "net": NET, "rows": ROWS}
    with pytest.raises(ValueError, match=message):
        held_out(**{**usual, "n_contexts": [50], **more})
