"""Counts of families: what was seen, whatever the product of the cardinalities; oracles are loops and dense tables."""

import pytest
import torch

import bnicl
from bnicl.estimators.families import Counts
from bnicl.estimators.inference import FittedNetwork
from bnicl.networks.checks import ABSENT
from tests.strategies import random_dag


def by_hand(rows: torch.Tensor, query: torch.Tensor, parents: list[int], target: int, card: int) -> list[float]:
    agreeing = [row for row in rows.tolist() if all(row[p] == query.tolist()[p] for p in parents)]
    return [float(sum(row[target] == k for row in agreeing)) for k in range(card)]


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_those_of_a_loop_over_the_rows(seed: int) -> None:
    generator = bnicl.make_generator(seed)
    cards = torch.randint(2, 5, (5,), generator=generator).tolist()
    net = random_dag(5, 0.7, cardinalities=cards, seed=generator)
    rows = bnicl.NetworkPrior(net).sample(1, 60, generator).rows[0]
    rows[torch.rand(rows.shape, generator=generator) < 0.1 * (seed % 2)] = ABSENT
    counts = Counts.of(rows.split(17), net)
    query = bnicl.NetworkPrior(net).sample(1, 10, generator).rows[0]
    for m in range(5):
        whole = rows[(rows[:, [*net.parents[m], m]] != ABSENT).all(1)]
        for q, given in zip(query, counts.given(query, m).tolist(), strict=True):
            assert given == by_hand(whole, q, list(net.parents[m]), m, cards[m])
        assert counts.families[m].counts.sum() == len(whole)
        dense = bnicl.count(whole.clamp(min=0)[None], m, net.parents[m], cards)[0] if len(whole) else torch.zeros(1)
        assert counts.tables[m].tolist() == dense.tolist()


def test_estimates_are_those_of_the_estimators() -> None:
    net = bnicl.load_network("child")
    rows, query = bnicl.forward_sample(net, 200, seed=0), bnicl.forward_sample(net, 40, seed=1)
    counts, context = Counts.of([rows], net), rows.expand(40, -1, -1)
    for m in range(net.n_nodes):
        nearest = bnicl.MaximumLikelihood(net, "nearest").predict_proba(context, query, m)
        torch.testing.assert_close(counts.mle(query, m), nearest, atol=1e-12, rtol=0)
        mean = bnicl.PosteriorMean(net, 0.3).predict_proba(context, query, m)
        torch.testing.assert_close(
            FittedNetwork(counts, "posterior-mean", 0.3).conditionals(query, m), mean, atol=1e-12, rtol=0
        )


def test_seventy_parents_cost_what_was_seen() -> None:
    net = bnicl.BayesianNetwork(tuple(f"n{i}" for i in range(71)), (*((),) * 70, tuple(range(70))), (2,) * 71)
    rows = torch.randint(2, (50, 71), generator=bnicl.make_generator(0))
    counts = Counts.of([rows, rows[:20]], net)
    with pytest.raises(
        ValueError, match="tables: expected at most 134,217,728 cells for n70, got 2,361,183,241,434,822"
    ):
        _ = counts.tables
    assert counts.families[70].counts.sum(1).tolist() == [2.0 if i in seen else 1.0 for i, seen in enumerate_seen(rows)]
    assert counts.matching(rows[:1], 70).tolist() == [2.0]
    assert counts.matching(1 - rows[:1], 70).tolist() == [0.0]
    nearest = (rows[:, :70] == 1 - rows[0, :70]).sum(1)
    expected = rows.repeat(1, 1)[nearest == nearest.max(), 70].double().mean()
    assert counts.mle(1 - rows[:1], 70)[0, 1] == pytest.approx(expected.item(), abs=0.2)


def enumerate_seen(rows: torch.Tensor) -> list[tuple[int, set[int]]]:
    order = sorted(range(len(rows)), key=lambda i: rows[i, :70].tolist())
    return [(place, {place} if i < 20 else set()) for place, i in enumerate(order)]


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_refused() -> None:
    net = bnicl.load_network("general5")
    counts = Counts.of([torch.zeros(3, 5, dtype=torch.int64)], net)
    with pytest.raises(ValueError, match=r"target: expected a node in 0\.\.4, got 5"):
        counts.given(torch.zeros(1, 5, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"query: expected states of node 0 in 0\.\.1, got 7"):
        counts.given(torch.full((1, 5), 7), 2)
    with pytest.raises(ValueError, match="rows: expected states of node 0"):
        Counts.of([torch.full((1, 5), 2)], net)
    with pytest.raises(ValueError, match="expected one with a value for X2 and its parents, got none"):
        Counts.of([torch.full((2, 5), ABSENT)], net).mle(torch.zeros(1, 5, dtype=torch.int64), 2)
