"""Every wrong input raises a ValueError at once that says the name, what was expected and what was got."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bnicl
from bnicl.networks.graph import import_pgmpy

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

NET = bnicl.load_network("general5")
CONTEXT = torch.zeros(2, 3, 5, dtype=torch.int64)
QUERY = torch.zeros(2, 5, dtype=torch.int64)


def one_node(*row: float) -> bnicl.BayesianNetwork:
    return bnicl.BayesianNetwork(("rain",), ((),), (len(row),), cpts=(torch.tensor(row).double(),))


def edited(tensor: torch.Tensor, value: int) -> torch.Tensor:
    changed = tensor.clone()
    changed[..., 1] = value
    return changed


NETWORKS: dict[str, tuple[Callable[[], object], str]] = {
    "cycle": (
        lambda: bnicl.BayesianNetwork.from_edges([("a", "b"), ("b", "c"), ("c", "a")]),
        r"edges: expected a graph without cycles, got the cycle a -> b -> c -> a",
    ),
    "order": (
        lambda: bnicl.BayesianNetwork(("a", "b"), ((1,), ()), (2, 2)),
        r"parents of a: expected indices .* got \(1,\)",
    ),
    "own parent": (lambda: bnicl.BayesianNetwork(("a",), ((0,),), (2,)), r"parents of a: .* got \(0,\)"),
    "double parent": (lambda: bnicl.BayesianNetwork(("a", "b"), ((), (0, 0)), (2, 2)), r"parents of b: .* \(0, 0\)"),
    "double name": (lambda: bnicl.BayesianNetwork(("a", "a"), ((), ()), (2, 2)), r"names: expected 2 different"),
    "no node": (lambda: bnicl.BayesianNetwork((), (), ()), r"names: expected at least one node, got none"),
    "lengths": (lambda: bnicl.BayesianNetwork(("a",), ((), ()), (2,)), r"parents: expected one entry .* got 2"),
    "one state": (
        lambda: bnicl.BayesianNetwork(("a",), ((),), (1,)),
        r"cardinality: expected an integer of at least 2, got 1",
    ),
    "states": (
        lambda: bnicl.BayesianNetwork(("a",), ((),), (2,), states=(("x", "x"),)),
        r"states of a: expected 2 different names, got",
    ),
    "row sum": (lambda: one_node(0.5, 0.5 + 2e-6), r"CPT of rain: expected every row to sum to 1 .* got .*1\.000002"),
    "negative": (lambda: one_node(-0.1, 1.1), r"CPT of rain: expected probabilities in \[0, 1\], got -0\.1"),
    "nan": (lambda: one_node(math.nan, 1.0), r"CPT of rain: expected probabilities in \[0, 1\], got nan"),
    "table shape": (
        lambda: replace(NET, cpts=(torch.ones(2, 2) / 2,) * 5),
        r"CPT of X0: expected shape \(2,\), got \(2, 2\)",
    ),
    "too few tables": (lambda: replace(NET, cpts=(torch.ones(2) / 2,)), r"cpts: expected 5 tables, got 1"),
    "no tables": (lambda: bnicl.forward_sample(NET, 3), r"cpts: expected a network with tables, got a graph"),
    "no cardinality": (
        lambda: bnicl.BayesianNetwork.from_edges([("a", "b")], {"a": 2}),
        r"cardinalities: expected one for each node, got none for b",
    ),
    "unknown name": (
        lambda: bnicl.load_network("chian7"),
        r"network: expected a name .* got 'chian7'; did you mean 'chain7'\?",
    ),
    "missing file": (
        lambda: bnicl.load_network("nowhere/net.bif"),
        r"network: expected a file of a network, got 'nowhere",
    ),
    "alpha and prior": (
        lambda: NET.with_random_cpts(1.0, prior=bnicl.TwoBands()),
        r"with_random_cpts: expected alpha or prior, got both",
    ),
    "prior alpha": (lambda: bnicl.Dirichlet(alpha=-1), r"alpha: expected a number in \[1e-06, 1e\+06\], got -1"),
    "bands": (
        lambda: bnicl.TwoBands().sample([2], 3, bnicl.make_generator(0)),
        r"Bands: expected 2 states for every node, got 3",
    ),
    "bands overlap": (
        lambda: bnicl.Bands(((0.1, 0.5), (0.4, 0.9))),
        r"bands: expected intervals apart .* got",
    ),
    "bands beyond": (lambda: bnicl.Bands(((0.5, 1.5),)), r"bands: expected intervals apart .* in \[0, 1\]"),
    "no bands": (lambda: bnicl.Bands(()), r"bands: expected intervals .* got \(\)"),
    "prior of an estimator": (
        lambda: bnicl.PosteriorMean(NET, prior=0.5),  # type: ignore[arg-type]
        r"prior: expected a prior such as .* got 0\.5",
    ),
    "seed": (lambda: bnicl.make_generator(-1), r"seed: expected a non-negative integer .* got -1"),
    "seed type": (lambda: bnicl.make_generator(1.5), r"seed: expected .* got 1\.5"),  # type: ignore[arg-type]
    "prior type": (lambda: bnicl.NetworkPrior(NET, 0.5), r"prior: expected a prior such as .* got 0\.5"),  # type: ignore[arg-type]
    "net type": (lambda: bnicl.NetworkPrior("asia"), r"net: expected a BayesianNetwork .* got 'asia'"),  # type: ignore[arg-type]
    "source type": (lambda: bnicl.load_network(3), r"network: expected a name or a path, got 3"),  # type: ignore[arg-type]
    "not tuples": (lambda: replace(NET, names="abcde"), r"names: expected a tuple, got 'abcde'"),  # type: ignore[arg-type]
    "float parent": (
        lambda: bnicl.BayesianNetwork(("a", "b"), ((), (0.0,)), (2, 2)),  # type: ignore[arg-type]
        r"parents of b: expected an integer of at least 0, got 0\.0",
    ),
    "float rows": (lambda: bnicl.NetworkPrior(NET).sample(2, 1.5), r"n: expected an integer .* got 1\.5"),  # type: ignore[arg-type]
    "empty pool": (
        lambda: bnicl.Pool(bnicl.NetworkPrior(NET), 0),
        r"n: expected an integer of at least 1, got 0",
    ),
    "a pool of a network": (
        lambda: bnicl.Pool(NET, 3),  # type: ignore[arg-type]
        r"prior: expected a prior over networks, got Bayes",
    ),
    "tables of another batch": (
        lambda: bnicl.conditional(NET, bnicl.NetworkPrior(NET).sample(4, 1).cpts, QUERY, 2),
        r"cpts: expected one table .* here \(2, 2, 2, 2\), got \(4, 2, 2, 2\)",
    ),
    "no rows": (
        lambda: bnicl.forward_sample(NET.with_random_cpts(), 0),
        r"n: expected an integer of at least 1, got 0",
    ),
    "no networks": (
        lambda: bnicl.NetworkPrior(NET).sample(0, 5),
        r"batch_size: expected an integer of at least 1, got 0",
    ),
}


@pytest.mark.parametrize(("call", "message"), NETWORKS.values(), ids=NETWORKS.keys())
def test_networks_and_sampling(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


BROKEN = {
    "no network at all": "rows and columns",
    "cut short": "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n}\nprobability ( a ) {\n  table 0.1",
    "unknown parent": (
        "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n}\n"
        "probability ( a | b ) {\n  (yes) 0.1, 0.9;\n  (no) 0.2, 0.8;\n}\n"
    ),
    "row sum": (
        "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n}\nprobability ( a ) {\n  table 0.1, 0.8;\n}\n"
    ),
    "missing table": (
        "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n}\n"
        "variable b {\n  type discrete [ 2 ] { yes, no };\n}\nprobability ( a ) {\n  table 0.2, 0.8;\n}\n"
    ),
    "two tables": (
        "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n}\nprobability ( a ) {\n  table 0.2, 0.8;\n}\n"
        "probability ( a ) {\n  table 0.3, 0.7;\n}\n"
    ),
    "unread variable": (
        "network x {}\nvariable a {\n  type discrete [ 2 ] { yes, no };\n} probability ( a ) {\n table 1, 0;\n"
    ),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_bif_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.bif"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.bif.*expected.*got"):
        bnicl.load_network(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.bif"
    path.write_bytes(b"\xff\xfe\x00network")
    with pytest.raises(ValueError, match=r"binary\.bif: expected text in UTF-8, got other bytes"):
        bnicl.load_network(path)


def test_a_pgmpy_table_that_does_not_fit_the_graph_is_named() -> None:
    pgmpy = import_pgmpy()
    model = pgmpy.models.DiscreteBayesianNetwork([("a", "b")])
    root = pgmpy.factors.discrete.TabularCPD("a", 2, [[0.3], [0.7]])
    model.cpds = [root, pgmpy.factors.discrete.TabularCPD("b", 2, [[0.5], [0.5]])]
    with pytest.raises(ValueError, match=r"expected the table of b to have the parents \['a'\], got \[\]"):
        bnicl.BayesianNetwork.from_pgmpy(model)
    wide = pgmpy.factors.discrete.TabularCPD("b", 2, [[0.5] * 3, [0.5] * 3], ["a"], [3])
    model.cpds = [root, wide]
    with pytest.raises(ValueError, match=r"expected the table of b to have the states \[0, 1\] of a, got \[0, 1, 2\]"):
        bnicl.BayesianNetwork.from_pgmpy(model)


ESTIMATORS: dict[str, Callable[[], bnicl.Predictor]] = {
    "MLE": lambda: bnicl.MaximumLikelihood(NET, "uniform"),
    "naive": lambda: bnicl.NaiveFrequency(NET.cardinalities, "uniform"),
    "posterior mean": lambda: bnicl.PosteriorMean(NET),
    "model average": lambda: bnicl.ModelAverage(NET.cardinalities),
}
TASKS: dict[str, tuple[object, object, object, str]] = {
    "list": ([[[0] * 5]], QUERY, 2, r"context: expected a torch tensor, got list"),
    "query list": (CONTEXT, [[0] * 5], 2, r"query: expected a torch tensor, got list"),
    "columns": (CONTEXT[..., :4], QUERY, 2, r"context: expected 5 columns, one for each node, got 4"),
    "floats": (CONTEXT.float(), QUERY, 2, r"context: expected integer states \(torch\.int64\), got torch\.float32"),
    "two axes": (CONTEXT[0], QUERY, 2, r"context: expected shape \[batch, n, 5\], got \(3, 5\)"),
    "empty": (CONTEXT[:, :0], QUERY, 2, r"context: expected at least one row .* got \(2, 0, 5\)"),
    "no context": (CONTEXT[:0], QUERY[:0], 2, r"context: expected at least one row .* got \(0, 3, 5\)"),
    "state too large": (edited(CONTEXT, 2), QUERY, 2, r"context: expected states of node 1 in 0\.\.1, got 2"),
    "absent in context": (edited(CONTEXT, -1), QUERY, 2, r"context: expected states of node 1 in 0\.\.1, got -1"),
    "query state": (CONTEXT, edited(QUERY, 7), 2, r"query: expected states of node 1 in 0\.\.1, got 7"),
    "query floats": (CONTEXT, QUERY.double(), 2, r"query: expected integer states .* got torch\.float64"),
    "query shape": (CONTEXT, QUERY[:1], 2, r"query: expected shape \(2, 5\), got \(1, 5\)"),
    "target too large": (CONTEXT, QUERY, 5, r"target: expected a node in 0\.\.4, got 5"),
    "target negative": (CONTEXT, QUERY, -1, r"target: expected a node in 0\.\.4, got -1"),
    "target a name": (CONTEXT, QUERY, "X1", r"target: expected a node in 0\.\.4, got 'X1'"),
}


@pytest.mark.parametrize(("context", "query", "target", "message"), TASKS.values(), ids=TASKS.keys())
@pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_contexts_queries_and_targets(
    make: Callable[[], bnicl.Predictor], context: torch.Tensor, query: torch.Tensor, target: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make().predict_proba(context, query, target)
    with pytest.raises(ValueError, match=message):
        bnicl.encode(context, query, target, NET.cardinalities)


class Sevens:
    name = "sevens"

    def __init__(self, card: int = 2) -> None:
        self.card = card

    def predict_proba(self, context: torch.Tensor, query: torch.Tensor, target: int) -> torch.Tensor:
        return torch.full((len(query), self.card), 7.0)


SETTINGS: dict[str, tuple[Callable[[], object], str]] = {
    "policy": (lambda: bnicl.MaximumLikelihood(NET, "mean"), r"unmatched: expected one of nan, .* got 'mean'"),  # type: ignore[arg-type]
    "alpha": (lambda: bnicl.PosteriorMean(NET, 0.0), r"alpha: expected a number in .* got 0\.0"),
    "alpha nan": (lambda: bnicl.ModelAverage((2, 2), math.nan), r"alpha: expected a number in .* got nan"),
    "edge": (lambda: bnicl.ModelAverage((2,), edge_prob=-0.1), r"edge_prob: expected a number in \[0, 1\], got -0\.1"),
    "too many sets": (
        lambda: bnicl.ModelAverage((2,) * 40).parent_set_posterior(torch.zeros(1, 2, 40, dtype=torch.int64), 39),
        r"ModelAverage: node 39 has 2\^39 parent sets; expected at most 4,194,304 counts, got 8\.1e\+18",
    ),
    "no predictors": (lambda: bnicl.evaluate({}, NET), r"predictors: expected at least one, by name, got {}"),
    "no rows": (
        lambda: bnicl.evaluate(bnicl.baselines(NET), NET, [0]),
        r"n_contexts: expected an integer of at least 1, got 0",
    ),
    "targets": (lambda: bnicl.evaluate(bnicl.baselines(NET), NET, targets=[9]), r"target: expected .* got 9"),
    "net": (lambda: bnicl.PosteriorMean("asia"), r"net: expected a BayesianNetwork .* got 'asia'"),  # type: ignore[arg-type]
    "cards": (lambda: bnicl.NaiveFrequency((2, 1)), r"cardinalities: expected integers of at least 2, .* \(2, 1\)"),
    "count twice": (lambda: bnicl.count(CONTEXT, 2, [0, 0], NET.cardinalities), r"given: expected different nodes"),
    "count itself": (lambda: bnicl.count(CONTEXT, 2, [2], NET.cardinalities), r"given: .* the target 2, got \(2,\)"),
    "count target": (lambda: bnicl.count(CONTEXT, -1, [], NET.cardinalities), r"target: expected .* got -1"),
    "sizes twice": (
        lambda: bnicl.evaluate(bnicl.baselines(NET), NET, [5, 5]),
        r"n_contexts: expected different numbers, at least one, got \[5, 5\]",
    ),
    "no targets": (lambda: bnicl.evaluate(bnicl.baselines(NET), NET, targets=[]), r"targets: .* got \[\]"),
    "no probabilities": (
        lambda: bnicl.evaluate({"sevens": Sevens()}, NET, [5], 4),
        r"predictor 'sevens': expected probability vectors, got others, the first \[7\.0, 7\.0\]",
    ),
    "wrong prediction": (
        lambda: bnicl.evaluate({"narrow": Sevens(1)}, NET, [5], 4),
        r"predictor 'narrow': expected a tensor of shape \(4, 2\), got \(4, 1\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_settings(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
