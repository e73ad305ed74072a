"""Rows with gaps: expectation maximisation beside a loop over joint states and pyAgrum's EM."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.estimators.families import Counts
from bnicl.estimators.incomplete import counts_by_em, expected_counts
from bnicl.estimators.inference import FittedNetwork
from bnicl.networks.checks import ABSENT
from tests.agrum import ask
from tests.strategies import random_dag

Key = tuple[int, ...]


def with_gaps(net: bnicl.BayesianNetwork, batch: int, n: int, share: float, seed: int) -> Tensor:
    rows = bnicl.NetworkPrior(net).sample(batch, n, seed).rows
    rows[torch.rand(rows.shape, generator=bnicl.make_generator(seed, 1)) < share] = ABSENT
    return rows


def by_loops(
    net: bnicl.BayesianNetwork, rows: list[list[int]], alpha: float, steps: int
) -> list[dict[tuple[int, ...], float]]:
    """Expected counts of families after so many steps from uniform tables, joint state by joint state."""
    families = [(*net.parents[m], m) for m in range(net.n_nodes)]
    tables = [dict.fromkeys(keys(net, f), 1 / net.cardinalities[f[-1]]) for f in families]
    counts: list[dict[Key, float]] = []
    for _ in range(steps):
        counts = [dict.fromkeys(keys(net, f), 0.0) for f in families]
        for row in rows:
            choices = [[v] if v != ABSENT else list(range(net.cardinalities[m])) for m, v in enumerate(row)]
            weights = {x: math.prod(t[tuple(x[i] for i in f)] for t, f in zip(tables, families, strict=True))
                       for x in itertools.product(*choices)}  # fmt: skip
            for x, w in weights.items():
                for count, f in zip(counts, families, strict=True):
                    count[tuple(x[i] for i in f)] += w / sum(weights.values())
        tables = []
        for count, f in zip(counts, families, strict=True):
            total = {key[:-1]: 0.0 for key in count}
            for key, value in count.items():
                total[key[:-1]] += value + alpha
            even = 1 / net.cardinalities[f[-1]]
            tables.append({k: (v + alpha) / total[k[:-1]] if total[k[:-1]] else even for k, v in count.items()})
    return counts


def keys(net: bnicl.BayesianNetwork, family: Key) -> list[Key]:
    return list(itertools.product(*(range(net.cardinalities[i]) for i in family)))


@pytest.mark.parametrize("seed", range(4))
def test_expected_counts_are_those_of_a_loop_over_completions(seed: int) -> None:
    """From two different beginnings, with the posterior-mean step: the same fixed point."""
    net = random_dag(3, 0.8, cardinalities=(2, 3, 2), seed=seed)
    rows = with_gaps(net, 1, 12, 0.3, seed)
    found = expected_counts(rows, net, alpha=1.5)
    for m, count in enumerate(by_loops(net, rows[0].tolist(), 1.5, 400)):
        for key, value in count.items():
            assert found[m][(0, *key)].item() == pytest.approx(value, abs=1e-6)


def test_without_gaps_they_are_the_counts() -> None:
    net = bnicl.load_network("general5")
    rows = with_gaps(net, 3, 40, 0.0, 0)
    for alpha in (0.0, 0.5):
        for m, table in enumerate(expected_counts(rows, net, alpha)):
            exact = bnicl.count(rows, m, net.parents[m], net.cardinalities)
            assert torch.allclose(table, exact.double(), atol=1e-9)


def test_a_batch_is_its_contexts_one_by_one() -> None:
    net = bnicl.load_network("chain5")
    rows = with_gaps(net, 4, 30, 0.4, 2)
    together = expected_counts(rows, net)
    for b in range(4):
        alone = expected_counts(rows[b : b + 1], net)
        assert all(torch.allclose(t[b], a[0], atol=1e-6) for t, a in zip(together, alone, strict=True))


def test_maximum_likelihood_is_that_of_pyagrum(tmp_path: Path) -> None:
    net = bnicl.load_network("chain3")
    net = bnicl.BayesianNetwork(("a", "b", "c"), net.parents, (2, 2, 2)).with_random_cpts(alpha=2.0, seed=3)
    rows = bnicl.forward_sample(net, 400, seed=0)
    rows[torch.rand(rows.shape, generator=bnicl.make_generator(5)) < 0.2] = ABSENT
    text = "\n".join(",".join("?" if v == ABSENT else str(v) for v in row) for row in rows.tolist())
    (tmp_path / "rows.csv").write_text(f"a,b,c\n{text}\n")
    task = {
        "rows": str(tmp_path / "rows.csv"), "states": {name: ["0", "1"] for name in "abc"}, "edges": ["ab", "bc"],
    }  # fmt: skip
    peer = ask("em", {**task, "edges": [list(edge) for edge in ("ab", "bc")]})
    counts = expected_counts(rows[None], net, alpha=0.0)
    ours = [count[0] / count[0].sum(-1, keepdim=True) for count in counts]
    theirs = [torch.tensor(peer[name]).double().reshape(own.shape) for name, own in zip("abc", ours, strict=True)]
    theirs = [table / table.sum(-1, keepdim=True) for table in theirs]  # single precision
    assert all(torch.allclose(a, b, atol=0.01) for a, b in zip(ours, theirs, strict=True))
    assert log_likelihood(ours, rows) + 1e-6 >= log_likelihood(theirs, rows) > log_likelihood(net.tables, rows)


def log_likelihood(tables: Sequence[Tensor], rows: Tensor) -> float:
    """Of what the rows of a chain of three show, in nats."""
    a, b, c = tables
    joint = torch.einsum("a,ab,bc->abc", a, b, c)
    total = 0.0
    for row in rows.tolist():
        total += joint[tuple(slice(None) if v == ABSENT else v for v in row)].sum().log().item()
    return total


def test_em_is_nearer_to_the_truth_than_available_cells_and_they_than_whole_rows() -> None:
    """general5, 30 % of cells missing: the mean divergence of the posterior mean's row from the true one, in bits."""
    net, n = bnicl.load_network("general5"), 60
    drawn = bnicl.NetworkPrior(net).sample(100, n + 1, seed=0)
    rows, query = drawn.rows[:, :n].clone(), drawn.rows[:, n]
    rows[torch.rand(rows.shape, generator=bnicl.make_generator(1)) < 0.3] = ABSENT
    expected = expected_counts(rows, net)
    means = {"em": 0.0, "available": 0.0, "whole": 0.0}
    for m in range(5):
        true = bnicl.conditional(net, drawn.cpts, query, m)
        by_em = bnicl.conditional(net, [(c + 0.5) / (c + 0.5).sum(-1, keepdim=True) for c in expected], query, m)
        means["em"] += bnicl.kl_bits(true, by_em).mean().item()
        for name, own in (("available", rows), ("whole", [r[(r != ABSENT).all(1)] for r in rows])):
            each = [
                FittedNetwork(Counts.of([r], net), "posterior-mean").conditionals(q[None], m)
                for r, q in zip(own, query, strict=True)
            ]
            means[name] += bnicl.kl_bits(true, torch.cat(each)).mean().item()
    assert means["em"] < 0.95 * means["available"] < 0.95 * means["whole"]


def test_counts_of_expectation_maximisation_serve_every_estimator() -> None:
    net = bnicl.load_network("general5")
    rows = with_gaps(net, 1, 50, 0.2, 4)[0]
    counts, expected = counts_by_em(rows, net), expected_counts(rows[None], net)
    assert counts.n == 50
    query = bnicl.NetworkPrior(net).sample(1, 30, 9).rows[0]
    for m in range(5):
        wanted = bnicl.conditional(net, [c.expand(30, *c.shape[1:]) for c in expected], query, m)
        assert torch.allclose(counts.given(query, m), wanted, atol=1e-9)


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_refused() -> None:
    net, rows = bnicl.load_network("chain5"), torch.zeros(1, 3, 5, dtype=torch.int64)
    for call, message in (
        (lambda: expected_counts(rows + 2, net), r"rows: expected states of node 0 in 0\.\.1, got 2"),
        (lambda: expected_counts(rows, net, alpha=-1.0), "alpha: expected a number in"),
        (
            lambda: expected_counts(torch.zeros(1, 3, 37, dtype=torch.int64), bnicl.load_network("alarm")),
            "missing em: expected a network of at most 4,096 joint states, got .*; missing available",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
