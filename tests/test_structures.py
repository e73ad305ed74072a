"""Unknown graphs: what is drawn, the exact averages against sums over all graphs and orders, searches."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.estimators.averages import EdgeProb, ModelAverage
from bnicl.estimators.counting import HasPredictProba
from bnicl.estimators.few_graphs import GraphAverage
from bnicl.estimators.graphs import GivenGraphs, OneOf, RandomGraphs
from bnicl.estimators.orders import OrderAverage
from bnicl.estimators.priors import StructurePrior
from bnicl.estimators.searches import SearchedGraph, search_graphs
from bnicl.evaluation.edges import shuffle_scores
from bnicl.networks.joint import complete_network, conditionals, joint_distribution
from bnicl.networks.states import ravel_states
from bnicl.training import steps

CARDS = (2, 3, 2)
ALPHA = 0.7
SOME = tuple(bnicl.load_network(name) for name in ("chain5", "tree5", "general5"))


# --- what is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("edge_prob", [0.0, 0.3, 1.0, (0.1, 0.8)])
def test_edges_go_forward_with_their_probability(edge_prob: EdgeProb) -> None:
    drawn = RandomGraphs((2,) * 6, edge_prob).sample(4000, bnicl.make_generator(0))
    mean = sum(edge_prob) / 2 if isinstance(edge_prob, tuple) else edge_prob
    forward = torch.ones(6, 6).triu(1).bool()
    assert not drawn[:, ~forward].any()
    assert (drawn[:, forward].double().mean(0) - mean).abs().max() < 0.04
    spread = drawn[:, forward].double().sum(1).var().item()  # graphs with a p of their own differ more in size
    alone = 15 * mean * (1 - mean)
    within = (0.7**2 / 12) * 15 * 14 if isinstance(edge_prob, tuple) else 0.0
    assert spread == pytest.approx(alone + within, rel=0.1, abs=1e-9)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("graphs", [RandomGraphs((2, 2, 2, 2), 0.5), RandomGraphs((3, 3, 3), (0.2, 0.9)), OneOf(SOME)])
def test_tables_are_those_of_the_graph_and_rows_follow_them(graphs: Any, shuffled: bool) -> None:
    batch = StructurePrior(graphs, shuffled=shuffled).sample(3, 20_000, seed=4)
    joint, cards = joint_distribution(batch.cpts), graphs.cardinalities
    assert (joint.flatten(1).sum(1) - 1).abs().max() < 1e-9
    for b in range(3):
        index = ravel_states(batch.rows[b], range(len(cards)), cards)
        seen = torch.bincount(index, minlength=math.prod(cards)) / 20_000
        assert bnicl.total_variation(joint[b].flatten(), seen.double()) < 0.03
        order = topological(batch.graphs[b])
        assert factorises(joint[b], batch.graphs[b], order)
    assert tuple(batch.graphs.shape) == (3, len(cards), len(cards))


def topological(adjacency: Tensor) -> list[int]:
    order: list[int] = []
    while len(order) < len(adjacency):
        order.append(next(j for j in range(len(adjacency)) if j not in order and
                          all(i in order for i in range(len(adjacency)) if adjacency[i, j])))  # fmt: skip
    return order


def factorises(joint: Tensor, adjacency: Tensor, order: Sequence[int]) -> bool:
    """Whether each node depends on nothing before it but its parents."""
    for place, node in enumerate(order):
        before = order[:place]
        table = joint.permute(*before, node, *order[place + 1 :])
        table = table.reshape(*(joint.shape[i] for i in (*before, node)), -1).sum(-1)
        table = table / table.sum(-1, keepdim=True)
        for axis, other in enumerate(before):
            if not adjacency[other, node] and not torch.allclose(table, table.narrow(axis, 0, 1).expand_as(table)):
                return False
    return True


def test_every_network_of_a_batch_has_tables_of_its_own() -> None:
    batch = StructurePrior(RandomGraphs((2,) * 4)).sample(50, 1, seed=0)
    assert len(batch.cpts[3][:, 0, 0, 0, 0].unique()) == 50
    assert len({tuple(graph.flatten().tolist()) for graph in batch.graphs}) > 20


def test_one_of_some_graphs() -> None:
    drawn = OneOf(SOME).sample(3000, bnicl.make_generator(1))
    for net in SOME:
        own = torch.zeros(5, 5, dtype=torch.bool)
        own[[i for i, _ in net.edges], [j for _, j in net.edges]] = True
        assert (drawn == own).all(-1).all(-1).double().mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_conditionals_invert_the_joint_distribution() -> None:
    cpts = StructurePrior(RandomGraphs(CARDS)).sample(4, 1, seed=0).cpts
    assert all(torch.allclose(a, b) for a, b in zip(conditionals(joint_distribution(cpts)), cpts, strict=True))
    never = torch.tensor([[[0.0, 0.0], [0.25, 0.75]]])
    assert conditionals(never)[1].tolist() == [[[0.5, 0.5], [0.25, 0.75]]]


# --- the averages, against sums over all graphs ---------------------------------------------------


def evidence(rows: Tensor, node: int, parents: Sequence[int], cards: Sequence[int]) -> float:
    """P(column of the node | its parents' columns), one row after the other: each is predicted from those before it."""
    total = 1.0
    for n, row in enumerate(rows):
        total *= predictive(rows[:n], row, node, parents, cards)
    return total


def predictive(rows: Tensor, row: Tensor, node: int, parents: Sequence[int], cards: Sequence[int]) -> float:
    same, wanted = [r for r in rows.tolist() if all(r[i] == row[i] for i in parents)], int(row[node])
    return (sum(r[node] == wanted for r in same) + ALPHA) / (len(same) + cards[node] * ALPHA)


def graphs_over(order: Sequence[int]) -> list[list[tuple[int, int]]]:
    edges = [(order[a], order[b]) for b in range(len(order)) for a in range(b)]
    return [[e for e, kept in zip(edges, chosen, strict=True) if kept]
            for chosen in itertools.product((0, 1), repeat=len(edges))]  # fmt: skip


def edge_weight(n_edges: int, n_possible: int, edge_prob: EdgeProb) -> float:
    """p^edges (1 - p)^others, averaged over a fine grid of the range."""
    low, high = edge_prob if isinstance(edge_prob, tuple) else (edge_prob, edge_prob)
    p = torch.linspace(0, 1, 20_001).double()
    p = low + (high - low) * (p[1:] + p[:-1]) / 2
    return (p**n_edges * (1 - p) ** (n_possible - n_edges)).mean().item()


def brute_force_joint(rows: Tensor, orders: Sequence[Sequence[int]], edge_prob: EdgeProb) -> Tensor:
    """P(new row | rows), by a sum over all graphs along the orders."""
    nodes = range(len(CARDS))
    states = list(itertools.product(*(range(card) for card in CARDS)))
    joint = torch.zeros(len(states), dtype=torch.float64)
    for order in orders:
        for graph in graphs_over(order):
            parents = {m: [i for i, j in graph if j == m] for m in nodes}
            weight = edge_weight(len(graph), len(nodes) * (len(nodes) - 1) // 2, edge_prob)
            weight *= math.prod(evidence(rows, m, parents[m], CARDS) for m in nodes)
            for s, state in enumerate(states):
                row = torch.tensor(state)
                joint[s] += weight * math.prod(predictive(rows, row, m, parents[m], CARDS) for m in nodes)
    return (joint / joint.sum()).reshape(CARDS)


@pytest.mark.parametrize("edge_prob", [0.3, (0.2, 0.9), (0.0, 1.0)])
@pytest.mark.parametrize(
    ("average", "orders"),
    [(ModelAverage, [(0, 1, 2)]), (OrderAverage, list(itertools.permutations(range(3))))],
    ids=["order known", "order unknown"],
)
def test_the_averages_against_a_sum_over_all_graphs(
    average: Callable[..., bnicl.Predictor], orders: Sequence[Sequence[int]], edge_prob: EdgeProb
) -> None:
    rows = StructurePrior(RandomGraphs(CARDS)).sample(2, 9, seed=3).rows
    predictor = average(CARDS, ALPHA, edge_prob)
    for b in range(2):
        expected = conditionals(brute_force_joint(rows[b], orders, edge_prob)[None])
        for target in range(3):
            for state in itertools.product(*(range(card) for card in CARDS[:target])):
                query = torch.tensor([[*state, *[0] * (3 - target)]])
                got = predictor.predict_proba(rows[b : b + 1], query, target)[0]
                assert got.tolist() == pytest.approx(expected[target][0][state].tolist(), abs=1e-7)


def test_the_order_average_of_many_contexts_is_that_of_each() -> None:
    rows = StructurePrior(RandomGraphs((2,) * 4), shuffled=True).sample(5, 30, seed=1).rows
    average = OrderAverage((2,) * 4)
    together = average.joint(rows)
    assert all(torch.allclose(average.joint(rows[b : b + 1])[0], together[b], atol=1e-12) for b in range(5))
    mirrored = average.joint(rows.flip(-1)).permute(0, 4, 3, 2, 1)  # no order of the columns is special
    assert torch.allclose(mirrored, together, atol=1e-12)


def test_the_graph_average_against_a_sum_over_the_graphs() -> None:
    rows = bnicl.NetworkPrior(SOME[1]).sample(2, 6, seed=0).rows
    context, query = rows[:, :5], rows[:, 5]
    average = GraphAverage(SOME, ALPHA)
    for b in range(2):
        weights = [math.prod(evidence(context[b], m, net.parents[m], (2,) * 5) for m in range(5)) for net in SOME]
        expected = [w / sum(weights) for w in weights]
        assert average.graph_posterior(context)[b].tolist() == pytest.approx(expected)
        for target in range(5):
            told = [predictive(context[b], query[b], target, net.parents[target], (2,) * 5) for net in SOME]
            probability = sum(w * p for w, p in zip(weights, told, strict=True)) / sum(weights)
            got = average.predict_proba(context, query, target)[b, query[b, target]].item()
            assert got == pytest.approx(probability)
            weights = [w * p for w, p in zip(weights, told, strict=True)]  # the query's value tells about the graph


@pytest.mark.parametrize("n", [600, 3000])
def test_the_order_average_of_columns_that_are_copies(n: int) -> None:
    """The evidence of some orders is smaller than any float64."""
    copies = torch.randint(0, 2, (1, n, 1), generator=bnicl.make_generator(0)).expand(-1, -1, 4).contiguous()
    joint = OrderAverage((2,) * 4).joint(copies)[0]
    assert joint.sum().item() == pytest.approx(1)
    assert (joint[0, 0, 0, 0] + joint[1, 1, 1, 1]).item() > 0.98
    one = OrderAverage((2,)).predict_proba(copies[:, :, :1], copies[:, 0, :1], 0)
    assert one[0, 1].item() == pytest.approx((copies[0, :, 0].sum().item() + 0.5) / (n + 1))


def test_edge_probabilities_are_those_of_the_parent_sets() -> None:
    rows = StructurePrior(RandomGraphs(CARDS)).sample(2, 40, seed=5).rows
    average = ModelAverage(CARDS, ALPHA, (0.1, 0.6))
    edges, sets = average.edge_posterior(rows), average.parent_set_posterior(rows, 2)
    assert torch.allclose(edges[:, 0, 2], sets[:, 1].sum(-1))
    assert torch.allclose(edges[:, 1, 2], sets[:, :, 1].sum(-1))
    assert edges.tril().abs().max() == 0


@pytest.mark.parametrize(
    "networks",
    [
        StructurePrior(RandomGraphs((2,) * 4, 0.5)),
        StructurePrior(RandomGraphs((2,) * 4, (0.1, 0.8))),
        StructurePrior(RandomGraphs((2,) * 4, 0.5), shuffled=True),
        StructurePrior(OneOf(SOME)),
    ],
)
def test_no_other_average_is_nearer_to_the_truth_than_the_optimum(networks: StructurePrior) -> None:
    """What is optimal is unbiased as well: on average its probabilities are those of the truth."""
    batch, best = networks.sample(4000, 21, seed=7), bnicl.optimum(networks)
    context, query, cards = batch.rows[:, :20], batch.rows[:, 20], networks.net.cardinalities
    assert best is not None
    rivals: list[bnicl.Predictor] = [
        ModelAverage(cards),
        ModelAverage(cards, edge_prob=0.9),
        bnicl.PosteriorMean(networks.net),
    ]
    lost = torch.zeros(1 + len(rivals))
    for target in range(1, len(cards)):
        truth = bnicl.conditional(networks.net, batch.cpts, query, target)
        answers = [p.predict_proba(context, query, target) for p in (best, *rivals)]
        lost += torch.stack([bnicl.kl_bits(truth, answer).mean() for answer in answers])
        off = (truth - answers[0])[:, 0]
        assert abs(off.mean()) < 4 * off.std() / len(off) ** 0.5
    assert lost.argmin() == 0


# --- predictors with a graph for each context -----------------------------------------------------


def test_given_graphs_are_the_estimators_of_each_graph() -> None:
    batch = StructurePrior(OneOf(SOME)).sample(30, 26, seed=2)
    context, query = batch.rows[:, :25], batch.rows[:, 25]
    for target in range(5):
        mle = GivenGraphs(batch.graphs, (2,) * 5, unmatched="uniform").predict_proba(context, query, target)
        mean = GivenGraphs(batch.graphs, (2,) * 5, ALPHA).predict_proba(context, query, target)
        for b in range(30):
            parents = batch.graphs[b, :, target].nonzero().flatten().tolist()
            net = next(
                net
                for net in SOME
                if all(net.parents[m] == tuple(batch.graphs[b, :, m].nonzero().flatten().tolist()) for m in range(5))
            )
            assert parents == list(net.parents[target])
            one = (context[b : b + 1], query[b : b + 1], target)
            assert torch.allclose(mle[b], bnicl.MaximumLikelihood(net, "uniform").predict_proba(*one)[0])
            assert torch.allclose(mean[b], bnicl.PosteriorMean(net, ALPHA).predict_proba(*one)[0])


def test_evaluation_with_graphs_that_are_told() -> None:
    networks = StructurePrior(RandomGraphs((2,) * 4))
    rivals: dict[str, Any] = {
        "told": lambda batch: GivenGraphs(batch.graphs, (2,) * 4, unmatched="nan"),
        "best": networks.optimum(),
        "full": bnicl.PosteriorMean(networks.net),
    }
    table = bnicl.evaluate(rivals, networks, [50], 200).set_index(["predictor", "node"])
    assert table.loc[("told", "average"), "tv_to_mle"] == 0
    assert table.loc[("best", "average"), "regret_bits"] == 0
    assert table.loc[("full", "average"), "regret_bits"] > 0.001
    permuted = bnicl.evaluate(
        {"full": bnicl.PosteriorMean(networks.net)}, StructurePrior(networks.graphs, shuffled=True), [5], 50
    )
    assert permuted["tv_to_mle"].isna().all()


@pytest.mark.parametrize("search", ["bdeu", "bic", "pc"])
def test_searches_find_nothing_where_nothing_can_be_seen(search: Any) -> None:
    constant = torch.tensor([[[0, 0], [0, 1]] * 50])
    assert not search_graphs(constant, (2, 2), search).any()
    assert not search_graphs(constant[:, :1], (2, 2), search).any()


@pytest.mark.parametrize("search", ["bdeu", "bic", "pc"])
def test_searches_find_a_clear_graph_and_are_fitted(search: Any) -> None:
    net = bnicl.load_network("chain5")
    copy = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double()
    net = bnicl.BayesianNetwork(net.names, net.parents, net.cardinalities, cpts=(copy[0] / copy[0].sum(), *[copy] * 4))
    context = bnicl.forward_sample(net, 400, seed=1)[None]
    expected = [(i, i + 1) for i in range(4)]
    found = search_graphs(context, (2,) * 5, search)[0]
    assert [tuple(edge) for edge in found.nonzero().tolist()] == expected
    searched, query = SearchedGraph((2,) * 5, search), context[:, 0]
    fitted = bnicl.PosteriorMean(net).predict_proba(context, query, 3)
    assert torch.allclose(searched.predict_proba(context, query, 3), fitted)
    other = context.flip(-1)
    assert not torch.equal(searched.predict_proba(other, query, 4), searched.predict_proba(context, query, 4))


# --- reading the graph out ------------------------------------------------------------------------


def test_shuffling_a_column_moves_the_predictions_of_its_children_alone() -> None:
    net = bnicl.load_network("general5")
    context = bnicl.NetworkPrior(net).sample(20, 60, seed=3).rows
    transformer = bnicl.construct_mle_transformer(net, epsilon=1e-9, max_context=100)
    for predictor in (bnicl.PosteriorMean(net), transformer):
        scores = shuffle_scores(predictor, context, n_queries=8)
        parents = torch.zeros(5, 5, dtype=torch.bool)
        for i, j in net.edges:
            parents[i, j] = True
        assert scores[:, ~parents].abs().max() < 1e-5
        assert (scores[:, parents].mean(0) > 0.01).all()


def test_the_share_between_two_other_ends() -> None:
    """Of a mixture of the sparse and the full parent set, the share is the mixture's."""
    sparse, networks = bnicl.load_network("chain5"), bnicl.NetworkPrior(bnicl.load_network("chain5"))
    ends = bnicl.PosteriorMean(complete_network((2,) * 5)), bnicl.PosteriorMean(sparse)

    class Mixture:
        name = "mixture"

        def predict_proba(self, context: Tensor, query: Tensor, target: int) -> Tensor:
            full, own = (end.predict_proba(context, query, target) for end in ends)
            return 0.3 * full + 0.7 * own

    rivals: dict[str, HasPredictProba] = {"full": ends[0], "mixture": Mixture(), "sparse": ends[1]}
    table = bnicl.share_of_the_gap(rivals, networks, [20], 50, ends=ends)
    assert table["share"].tolist() == pytest.approx([0, 0.7, 1])
    assert table["off_the_line"].tolist() == pytest.approx([0, 0, 0], abs=1e-7)


def test_edges_by_hand() -> None:
    truth = torch.zeros(1, 3, 3, dtype=torch.bool)
    truth[0, 0, 1] = truth[0, 0, 2] = True
    scores = torch.zeros(1, 3, 3)
    scores[0, 0, 1], scores[0, 1, 2], scores[0, 0, 2] = 0.9, 0.5, 0.4
    assert bnicl.edge_accuracy(scores > 0.6, truth) == pytest.approx((1, 1 / 2, 2 / 3))
    assert bnicl.edge_accuracy(scores > 0.1, truth) == pytest.approx((2 / 3, 1, 4 / 5))
    assert bnicl.best_threshold(scores, truth) < 0.4  # all three: F1 is 4/5
    truth[0, 0, 2] = False
    assert bnicl.best_threshold(scores, truth) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("prior", "n"),
    [
        (StructurePrior(RandomGraphs((2, 3, 2, 2))), 11),
        (StructurePrior(RandomGraphs((2, 2, 3), (0.2, 0.9)), bnicl.Dirichlet(0.8)), 4),
        (StructurePrior(OneOf(SOME)), 7),
        (StructurePrior(RandomGraphs((2,) * 3, (0.1, 1.0)), shuffled=True), 5),
        (StructurePrior(RandomGraphs((2,))), 5),
    ],
)
def test_the_distribution_of_a_new_row_says_what_is_predicted_query_by_query(prior: StructurePrior, n: int) -> None:
    rows = prior.sample(12, n + 1, seed=5).rows
    best = prior.optimum()
    assert best is not None
    joint = best.joint(rows[:, :n])
    torch.testing.assert_close(joint.flatten(1).sum(1), torch.ones(12, dtype=torch.float64))
    for target in range(prior.net.n_nodes):
        answered = bnicl.conditional(prior.net, conditionals(joint), rows[:, n], target)
        torch.testing.assert_close(answered, best.predict_proba(rows[:, :n], rows[:, n], target))


def test_the_edges_of_one_of_several_graphs_are_averaged_by_their_posterior() -> None:
    rows = StructurePrior(OneOf(SOME)).sample(5, 30, seed=0).rows
    average = GraphAverage(SOME)
    edges, posterior = average.edge_posterior(rows), average.graph_posterior(rows)
    for i, j in ((0, 1), (1, 2), (0, 2), (3, 4), (2, 4)):
        having = [g for g, net in enumerate(SOME) if i in net.parents[j]]
        torch.testing.assert_close(edges[:, i, j], posterior[:, having].sum(1))


@pytest.mark.parametrize("pooled", [None, 7])
def test_the_loss_compares_with_the_optimum_on_the_same_contexts(pooled: int | None) -> None:
    config = bnicl.TrainingConfig(graph="random4", recipe="structure", steps=1, batch=16, n_tables=pooled)
    told, networks = (
        steps.Stream(config.model_copy(update={"objective": objective})).step(3, 0.0)
        for objective in ("optimum", "true")
    )
    assert torch.equal(told.context, networks.context)
    assert not callable(told.tables)
    for target in range(4):
        expected = ModelAverage((2,) * 4).predict_proba(told.context, told.queries[:, 1], target)
        answered = bnicl.conditional(config.networks.net, told.tables, told.queries[:, 1], target)
        torch.testing.assert_close(answered, expected)


# --- training on unknown graphs -------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"graph": "random4", "edge_prob": (0.2, 0.8)},
        {"graph": "random3", "n_states": 3, "shuffled": True},
        {"graph": "tree5+chain5+general5"},
        {"graph": "random4", "objective": "drawn", "n_tables": 20},
        {"graph": "random4", "n_tables": 20, "layer_norm": True},
    ],
)
def test_training_on_unknown_graphs(fields: dict[str, Any], tmp_path: Path) -> None:
    config = bnicl.TrainingConfig(
        **fields, recipe="structure", steps=3, records=1, batch=4, d_model=8, n_heads=2, d_mlp=8, max_context=30
    )
    run = bnicl.train(config, tmp_path)
    assert math.isfinite(run.history[-1]["regret_bits"])
    assert run.history[-1]["tv"] > run.history[-1]["tv_floor"]
    again = bnicl.load_trained(tmp_path)
    rows = config.networks.sample(2, 11, seed=0).rows
    answers = [r.predict_proba(rows[:, :10], rows[:, 10], 2) for r in (run, again)]
    assert torch.equal(*answers)


def test_training_finds_some_of_the_structure() -> None:
    """After a few hundred steps the transformer is nearer to the truth than whoever matches on all predecessors."""
    small: dict[str, Any] = {"d_model": 32, "d_mlp": 64}
    run = bnicl.train(bnicl.TrainingConfig(graph="random3", recipe="structure", steps=400, records=8, **small))
    rivals: dict[str, Any] = {"trained": run, "naive": bnicl.NaiveFrequency((2, 2, 2), "marginal")}
    table = bnicl.evaluate(rivals, run.config.networks, [5], 300)
    tv = table[table["node"] == "average"].set_index("predictor")["tv"]
    assert tv["trained"] < tv["naive"]
    assert run.history[-1]["regret_bits"] < 0.01  # bits
    assert run.history[0]["regret_bits"] > 5 * run.history[-1]["regret_bits"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomGraphs((2, 2), 1.2), r"edge_prob: expected a number in \[0, 1\], got 1.2"),
        (lambda: RandomGraphs((2, 2), (0.8, 0.2)), "a number or a tuple of two, the smaller first"),
        (lambda: RandomGraphs((2, 2), (-0.1, 0.2)), r"edge_prob: expected a number in \[0, 1\], got -0.1"),
        (lambda: RandomGraphs((2, 1)), "cardinalities: expected integers of at least 2"),
        (lambda: OneOf(()), "graphs: expected a sequence of at least one"),
        (lambda: OneOf((SOME[0], bnicl.load_network("chain7"))), r"graphs: expected the cardinalities \(2, 2, 2,"),
        (lambda: StructurePrior(RandomGraphs((2, 3)), shuffled=True).sample(2, 3),
         r"shuffled: expected the same number of states for every node, got \(2, 3\)"),
        (lambda: OrderAverage((2,) * 8), r"OrderAverage: expected at most .* 7 nodes of two states .*bnicl.searches"),
        (lambda: ModelAverage((2,) * 20).edge_posterior(torch.zeros(1, 2, 20, dtype=torch.int64)),
         r"ModelAverage: node 14 has .*The first 14 of these nodes are possible; for more, bnicl.searches"),
        (lambda: ModelAverage((2,) * 20, edge_prob=(0.1, 0.2)).parent_set_posterior(
            torch.zeros(1, 2, 20, dtype=torch.int64), 1), "ModelAverage: node 19 has"),
        (lambda: search_graphs(torch.zeros(1, 2, 2, dtype=torch.int64), (2, 2), "guess"),  # type: ignore[arg-type]
         "search: expected one of bdeu, bic, pc, got 'guess'"),
        (lambda: GivenGraphs(torch.zeros(2, 2, 2, dtype=torch.bool), (2, 2)).predict_proba(
            torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64), 1),
         "context: expected 2 of them, one for each graph, got 1"),
        (lambda: GivenGraphs(torch.zeros(2, 2, 2), (2, 2)), "adjacency: expected torch.bool"),
        (lambda: GivenGraphs(torch.zeros(2, 3, 3, dtype=torch.bool), (2, 2)), "expected graphs of 2 nodes, got 3"),
        (lambda: GivenGraphs(torch.zeros(2, 2, 2, dtype=torch.bool), (2, 2), -1.0), "alpha: expected a number in"),
        (lambda: GivenGraphs(torch.zeros(2, 2, 2, dtype=torch.bool), (2, 2), unmatched="nearest"), "got 'nearest'"),
        (lambda: SearchedGraph((2, 2), "guess"), "search: expected one of"),  # type: ignore[arg-type]
        (lambda: StructurePrior((2, 2)), r"graphs: expected RandomGraphs or OneOf, got \(2, 2\)"),  # type: ignore[arg-type]
        (lambda: StructurePrior(RandomGraphs((2, 2)), 0.5), "prior: expected a prior such as"),  # type: ignore[arg-type]
        (lambda: StructurePrior(RandomGraphs((2,) * 26)), "cardinalities: expected at most 1,048,576 joint states"),
        (lambda: StructurePrior(RandomGraphs((2,) * 16)).optimum(), "ModelAverage: node 15 has"),
        (lambda: bnicl.edge_accuracy(torch.ones(1, 2, 2).bool(), torch.ones(3, 2, 2).bool()), "expected the shape"),
        (lambda: bnicl.best_threshold(torch.full((1, 2, 2), math.nan), torch.ones(1, 2, 2).bool()), "expected finite"),
        (lambda: bnicl.share_of_the_gap({"a": ModelAverage((2, 2))}, StructurePrior(RandomGraphs((2, 2)))),
         "networks: expected a NetworkPrior, or other ends, got StructurePrior"),
        (lambda: bnicl.TrainingConfig(graph="random0", steps=1), "random0"),
        (lambda: bnicl.TrainingConfig(graph="random16", steps=1), "ModelAverage: node 15 has"),
        (lambda: bnicl.TrainingConfig(graph="chain5", steps=1, edge_prob=(0.1, 0.2)),
         "edge_prob: expected its default for 'chain5', which is not random"),
        (lambda: bnicl.TrainingConfig(graph="asia", steps=1, n_states=3),
         "n_states: expected its default for 'asia', which has its own, got 3"),
        (lambda: bnicl.TrainingConfig(graph="random5", steps=1, edge_prob=(0.5, 1.5)), "edge_prob"),
        (lambda: bnicl.TrainingConfig(graph="random5", steps=1, edge_prob=(0.5, 0.1)), "the smaller first"),
        (lambda: bnicl.TrainingConfig(graph="chain5", steps=1, shuffled=True), "shuffled: expected False for 'chain5'"),
        (lambda: bnicl.TrainingConfig(graph="random5", steps=1, objective="mle", shuffled=True),
         "objective: expected 'true', 'optimum' or 'drawn' for shuffled columns, got 'mle'"),
        (lambda: bnicl.TrainingConfig(graph="tree5+chain5", steps=1, shuffled=True, objective="optimum"),
         "objective: expected 'true' or 'drawn' where no closed form"),
        (lambda: bnicl.TrainingConfig(graph="tree5+chain7", steps=1), "graphs: expected the cardinalities"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_complete_network() -> None:
    assert complete_network(CARDS).parents == ((), (0,), (0, 1))
    assert complete_network(CARDS).cardinalities == CARDS
