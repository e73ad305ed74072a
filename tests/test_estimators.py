"""Each estimator against pgmpy, brute force and a case worked out by hand; then what all must satisfy."""

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import bnicl
from bnicl.estimators.counting import Unmatched
from bnicl.networks.graph import import_pgmpy
from tests.strategies import tasks

Task = tuple[bnicl.BayesianNetwork, Tensor, Tensor, int]
PAIR = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 3))


def frame(net: bnicl.BayesianNetwork, rows: Tensor) -> pd.DataFrame:
    return pd.DataFrame(rows.numpy(), columns=list(net.names))


def pgmpy_fit(net: bnicl.BayesianNetwork, rows: Tensor, alpha: float | None = None) -> list[np.ndarray]:
    """pgmpy's tables [*evidence_card, card], parents in our order; MLE, or the Dirichlet posterior mean."""
    model = import_pgmpy().models.DiscreteBayesianNetwork()
    model.add_nodes_from(net.names)
    model.add_edges_from((net.names[i], net.names[j]) for i, j in net.edges)
    states = {name: list(range(card)) for name, card in zip(net.names, net.cardinalities, strict=True)}
    data = frame(net, rows)
    if alpha is None:
        estimator = import_pgmpy().estimators.MaximumLikelihoodEstimator(model, data, state_names=states)
        cpds = [estimator.estimate_cpd(name) for name in net.names]
    else:
        estimator = import_pgmpy().estimators.BayesianEstimator(model, data, state_names=states)
        cpds = []
        for m, name in enumerate(net.names):
            pseudo = np.full((net.cardinalities[m], math.prod(net.evidence_card(m))), alpha)
            cpds.append(estimator.estimate_cpd(name, prior_type="dirichlet", pseudo_counts=pseudo))
    tables = []
    for m, cpd in enumerate(cpds):
        order = [cpd.variables.index(net.names[p]) for p in net.parents[m]]
        tables.append(np.asarray(cpd.values).transpose(*order, 0))
    return tables


MIXED = bnicl.BayesianNetwork(
    ("A", "B", "C", "D"), ((), (0,), (1, 0), (2, 0)), (3, 2, 4, 2), states=((0, 1, 2), (0, 1), (0, 1, 2, 3), (0, 1))
)


@pytest.fixture(params=["mixed", "general7", "asia"])
def problem(request: pytest.FixtureRequest) -> tuple[bnicl.BayesianNetwork, Tensor]:
    net = MIXED if request.param == "mixed" else bnicl.load_network(request.param)
    return net, bnicl.NetworkPrior(net).sample(4, 60, seed=3).rows


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_maximum_likelihood_is_pgmpys(problem: tuple[bnicl.BayesianNetwork, Tensor]) -> None:
    net, contexts = problem
    fitted = bnicl.MaximumLikelihood(net, unmatched="uniform").fit(contexts)  # as pgmpy, silently, does
    for b, rows in enumerate(contexts):
        for ours, theirs in zip(fitted, pgmpy_fit(net, rows), strict=True):
            np.testing.assert_allclose(ours[b].numpy(), theirs, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_posterior_mean_is_pgmpys(problem: tuple[bnicl.BayesianNetwork, Tensor], alpha: float) -> None:
    net, contexts = problem
    fitted = bnicl.PosteriorMean(net, alpha).fit(contexts)
    for b, rows in enumerate(contexts):
        for ours, theirs in zip(fitted, pgmpy_fit(net, rows, alpha), strict=True):
            np.testing.assert_allclose(ours[b].numpy(), theirs, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_naive_frequency_is_pgmpys_maximum_likelihood_on_the_complete_graph() -> None:
    complete = replace(MIXED, parents=tuple(tuple(range(m)) for m in range(4)))
    rows = bnicl.NetworkPrior(MIXED).sample(1, 80, seed=1).rows
    tables = pgmpy_fit(complete, rows[0])
    naive = bnicl.NaiveFrequency(MIXED.cardinalities, unmatched="uniform")
    for query in bnicl.NetworkPrior(MIXED).sample(1, 20, seed=9).rows[0]:
        for target in range(4):
            ours = naive.predict_proba(rows, query[None], target)[0]
            np.testing.assert_allclose(ours.numpy(), tables[target][tuple(query[:target])], atol=1e-12)


def log_marginal_likelihood(
    cards: tuple[int, ...], rows: Tensor, target: int, parents: tuple[int, ...], alpha: float
) -> float:
    """The Dirichlet-multinomial score of one parent set, counted row by row in Python."""
    counts: dict[tuple[int, ...], list[int]] = {}
    for row in rows.tolist():
        counts.setdefault(tuple(row[p] for p in parents), [0] * cards[target])[row[target]] += 1
    d = cards[target]
    score = 0.0
    for n in counts.values():
        score += math.lgamma(d * alpha) - math.lgamma(d * alpha + sum(n))
        score += sum(math.lgamma(alpha + k) - math.lgamma(alpha) for k in n)
    return score


@pytest.mark.parametrize(("alpha", "edge_prob"), [(0.5, 0.5), (1.0, 0.2), (0.1, 0.9)])
def test_model_average_is_the_sum_over_parent_sets_done_by_brute_force(alpha: float, edge_prob: float) -> None:
    cards = MIXED.cardinalities
    rows = bnicl.NetworkPrior(MIXED).sample(3, 26, seed=5).rows
    context, query = rows[:, :25], rows[:, 25]
    average = bnicl.ModelAverage(cards, alpha, edge_prob)
    for target in range(4):
        predicted = average.predict_proba(context, query, target)
        posterior = average.parent_set_posterior(context, target)
        for b in range(3):
            weights, means = [], []
            for mask in itertools.product((0, 1), repeat=target):
                parents = tuple(i for i in range(target) if mask[i])
                prior = edge_prob ** sum(mask) * (1 - edge_prob) ** (target - sum(mask))
                weights.append(prior * math.exp(log_marginal_likelihood(cards, context[b], target, parents, alpha)))
                graph = replace(MIXED, parents=(*MIXED.parents[:target], parents, *MIXED.parents[target + 1 :]))
                mean = bnicl.PosteriorMean(graph, alpha).predict_proba(context[b : b + 1], query[b : b + 1], target)
                means.append(mean[0])
            shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
            assert posterior[b].flatten().tolist() == pytest.approx(shares.tolist(), rel=1e-9)
            expected = (shares[:, None] * torch.stack(means)).sum(0)
            assert predicted[b].tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parent_set_posterior_agrees_with_pgmpys_k2_score() -> None:
    """K2 is the marginal likelihood with alpha = 1."""
    net = bnicl.load_network("general5").with_random_cpts(seed=2)
    rows = bnicl.forward_sample(net, n=40, seed=0)
    data = frame(net, rows)
    scorer = import_pgmpy().estimators.K2(data, state_names={name: [0, 1] for name in net.names})
    posterior = bnicl.ModelAverage(net.cardinalities, alpha=1, edge_prob=0.5).parent_set_posterior(rows[None], 4)[0]
    reference = posterior[0, 0, 0, 0].log() - scorer.local_score("X4", [])
    for mask in itertools.product((0, 1), repeat=4):
        parents = [f"X{i}" for i in range(4) if mask[i]]
        score = scorer.local_score("X4", parents)
        assert (posterior[mask].log() - score).item() == pytest.approx(reference.item(), abs=1e-8)


# --- worked out by hand ---------------------------------------------------------------------------

CONTEXT = torch.tensor([[[0, 0], [0, 2], [0, 2], [1, 1]]])  # a, b


def test_maximum_likelihood_by_hand() -> None:
    mle = bnicl.MaximumLikelihood(PAIR)
    assert mle.predict_proba(CONTEXT, torch.tensor([[0, 0]]), 1)[0].tolist() == [1 / 3, 0, 2 / 3]
    assert mle.predict_proba(CONTEXT, torch.tensor([[1, 0]]), 1)[0].tolist() == [0, 1, 0]
    assert mle.predict_proba(CONTEXT, torch.tensor([[0, 0]]), 0)[0].tolist() == [3 / 4, 1 / 4]


def test_naive_frequency_by_hand() -> None:
    triple = torch.tensor([[[0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1]]])
    naive = bnicl.NaiveFrequency((2, 2, 2))
    assert naive.predict_proba(triple, torch.tensor([[0, 1, 0]]), 2)[0].tolist() == [1 / 2, 1 / 2]
    assert naive.predict_proba(triple, torch.tensor([[0, 1, 0]]), 1)[0].tolist() == [1 / 3, 2 / 3]


def test_posterior_mean_by_hand() -> None:
    mean = bnicl.PosteriorMean(PAIR, alpha=0.5)
    got = mean.predict_proba(CONTEXT, torch.tensor([[0, 0]]), 1)[0].tolist()
    assert got == pytest.approx([1.5 / 4.5, 0.5 / 4.5, 2.5 / 4.5])


def test_model_average_by_hand() -> None:
    # Two rows, b copies a. One table for b: 1/2 * 1/4 (alpha 1/2: 0.5/1 * 0.5/2). Two tables: 1/2 * 1/2.
    context, query = torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[1, 0]])
    average = bnicl.ModelAverage((2, 2), alpha=0.5, edge_prob=0.5)
    posterior = average.parent_set_posterior(context, 1)[0]
    assert posterior.tolist() == pytest.approx([(1 / 8) / (1 / 8 + 1 / 4), (1 / 4) / (1 / 8 + 1 / 4)])
    # Given a as parent: (1 + 1/2) / (1 + 1) = 3/4; without: 1/2.
    assert average.predict_proba(context, query, 1)[0, 1].item() == pytest.approx(1 / 3 * 1 / 2 + 2 / 3 * 3 / 4)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("nan", [math.nan] * 3),
        ("uniform", [1 / 3] * 3),
        ("marginal", [1 / 4, 2 / 4, 1 / 4]),
        ("nearest", [0, 2 / 3, 1 / 3]),  # the three rows that agree on one of the two parents
    ],
)
def test_each_policy_for_queries_without_a_match_by_hand(policy: Unmatched, expected: list[float]) -> None:
    net = bnicl.BayesianNetwork(("a", "b", "c"), ((), (), (0, 1)), (2, 2, 3))
    context = torch.tensor([[[0, 0, 1], [0, 0, 2], [1, 1, 1], [1, 0, 0]]])
    query = torch.tensor([[0, 1, 0]])
    mle = bnicl.MaximumLikelihood(net, policy)
    assert mle.predict_proba(context, query, 2)[0].tolist() == pytest.approx(expected, nan_ok=True)
    assert mle.fit(context)[2][0, 0, 1].tolist() == pytest.approx(expected, nan_ok=True)
    # Naive inference conditions on the same two nodes here.
    naive = bnicl.NaiveFrequency(net.cardinalities, policy)
    assert naive.predict_proba(context, query, 2)[0].tolist() == pytest.approx(expected, nan_ok=True)


# --- what every estimator must satisfy ------------------------------------------------------------

Maker = Callable[[bnicl.BayesianNetwork], bnicl.Predictor]
MAKERS: dict[str, Maker] = {
    "MLE uniform": lambda net: bnicl.MaximumLikelihood(net, "uniform"),
    "MLE marginal": lambda net: bnicl.MaximumLikelihood(net, "marginal"),
    "MLE nearest": lambda net: bnicl.MaximumLikelihood(net, "nearest"),
    "naive marginal": lambda net: bnicl.NaiveFrequency(net.cardinalities, "marginal"),
    "naive nearest": lambda net: bnicl.NaiveFrequency(net.cardinalities, "nearest"),
    "posterior mean": lambda net: bnicl.PosteriorMean(net, 0.3),
    "model average": lambda net: bnicl.ModelAverage(net.cardinalities, 0.3, 0.4),
}
every_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@every_estimator
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_predictions_are_distributions(make: Maker, task: Task) -> None:
    net, context, query, target = task
    p = make(net).predict_proba(context, query, target)
    assert p.dtype == torch.float64
    assert tuple(p.shape) == (len(context), net.cardinalities[target])
    assert bool((p >= 0).all())
    assert (p.sum(-1) - 1).abs().max() < 1e-12


@every_estimator
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_context_rows_makes_no_difference(make: Maker, task: Task) -> None:
    net, context, query, target = task
    shuffled = context[:, torch.randperm(context.shape[1], generator=bnicl.make_generator(0))]
    first = make(net).predict_proba(context, query, target)
    assert torch.allclose(make(net).predict_proba(shuffled, query, target), first, atol=1e-12)


@every_estimator
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_entries_of_the_query_from_the_target_on_are_not_read(make: Maker, task: Task) -> None:
    net, context, query, target = task
    blanked = query.clone()
    blanked[:, target:] = bnicl.ABSENT
    first = make(net).predict_proba(context, query, target)
    assert torch.equal(make(net).predict_proba(context, blanked, target), first)


@every_estimator
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_relabelling_states_commutes_with_estimation(make: Maker, task: Task) -> None:
    net, context, query, target = task
    new = [torch.randperm(card, generator=bnicl.make_generator(m)) for m, card in enumerate(net.cardinalities)]
    relabel = lambda rows: torch.stack([new[m][rows[..., m]] for m in range(net.n_nodes)], dim=-1)  # noqa: E731
    first = make(net).predict_proba(context, query, target)
    second = make(net).predict_proba(relabel(context), relabel(query), target)
    assert torch.allclose(second[:, new[target]], first, atol=1e-12)


@every_estimator
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_relabelling_nodes_commutes_with_estimation(make: Maker, task: Task) -> None:
    """The predecessors of the target in another order: the same task, seen through other indices."""
    net, context, query, target = task
    order = [*torch.randperm(target, generator=bnicl.make_generator(0)).tolist(), *range(target, net.n_nodes)]
    where = {old: i for i, old in enumerate(order)}
    # Only the target's parents matter: the other nodes need none for the new order to be topological.
    parents = tuple(tuple(where[p] for p in net.parents[old]) if old == target else () for old in order)
    moved = bnicl.BayesianNetwork(
        tuple(net.names[old] for old in order), parents, tuple(net.cardinalities[old] for old in order)
    )
    first = make(net).predict_proba(context, query, target)
    second = make(moved).predict_proba(context[..., order], query[..., order], target)
    assert torch.allclose(second, first, atol=1e-12)


@given(task=tasks())
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("unmatched", ["nan", "uniform", "marginal", "nearest"])
def test_fit_and_predict_proba_give_the_same_numbers(unmatched: Unmatched, task: Task) -> None:
    net, context, query, target = task
    for estimator in (bnicl.MaximumLikelihood(net, unmatched), bnicl.PosteriorMean(net)):
        looked_up = bnicl.conditional(net, estimator.fit(context), query, target)
        assert torch.allclose(estimator.predict_proba(context, query, target), looked_up, atol=1e-12, equal_nan=True)


def test_parts_of_a_large_batch_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bnicl.NetworkPrior(bnicl.load_network("general5")).sample(7, 21, seed=0).rows
    average = bnicl.ModelAverage((2,) * 5)
    whole = average.predict_proba(rows[:, :20], rows[:, 20], 4)
    monkeypatch.setattr(bnicl.ModelAverage, "MAX_CELLS", 3**4 * 2 * 3)  # three contexts at a time
    assert torch.allclose(average.predict_proba(rows[:, :20], rows[:, 20], 4), whole)


@pytest.mark.parametrize("edge_prob", [0.0, 1.0])
def test_a_certain_graph_makes_the_model_average_a_posterior_mean(edge_prob: float) -> None:
    graph = replace(MIXED, parents=tuple(tuple(range(m)) if edge_prob else () for m in range(4)))
    rows = bnicl.NetworkPrior(MIXED).sample(5, 31, seed=0).rows
    for target in range(4):
        ours = bnicl.ModelAverage(MIXED.cardinalities, 0.5, edge_prob).predict_proba(rows[:, :30], rows[:, 30], target)
        mean = bnicl.PosteriorMean(graph, 0.5).predict_proba(rows[:, :30], rows[:, 30], target)
        assert torch.allclose(ours, mean)


def test_drawing_and_estimating_assume_the_same_prior_by_default() -> None:
    drawn = bnicl.NetworkPrior(bnicl.load_network("chain5")).prior
    assert drawn == bnicl.Dirichlet(alpha=0.5)
    for estimator in (bnicl.PosteriorMean, bnicl.ModelAverage, bnicl.baselines):
        assert inspect.signature(estimator).parameters["alpha"].default == 0.5


def test_baselines_leave_the_model_average_out_where_its_sum_is_long() -> None:
    assert "model average" in bnicl.baselines(bnicl.load_network("general10"))
    assert "model average" not in bnicl.baselines(bnicl.load_network("alarm"))
