import gzip
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import bnicl
from bnicl.networks.graph import import_pgmpy
from bnicl.networks.sources import PAPER_GRAPHS, example_models
from tests.strategies import networks

# The paper's graphs as its text gives them: child: parents.
GRAPHS = {
    "chain5": {1: {0}, 2: {1}, 3: {2}, 4: {3}},
    "chain7": {m: {m - 1} for m in range(1, 7)},
    "chain10": {m: {m - 1} for m in range(1, 10)},
    "tree5": {1: {0}, 2: {0}, 3: {1}, 4: {1}},
    "tree7": {1: {0}, 2: {0}, 3: {1}, 4: {1}, 5: {2}, 6: {2}},
    "tree10": {1: {0}, 2: {0}, 3: {1}, 4: {1}, 5: {2}, 6: {2}, 7: {3}, 8: {3}, 9: {8}},
    "general5": {2: {0, 1}, 3: {0, 2}, 4: {3}},
    "general7": {2: {0, 1}, 3: {0, 2}, 4: {3}, 5: {3, 4}, 6: {2, 4}},
    "general10": {2: {0, 1}, 3: {0, 2}, 4: {3}, 5: {3, 4}, 6: {2, 4}, 7: {5, 6}, 8: {4, 7}, 9: {6, 8}},
    "wet-grass": {1: {0}, 2: {0}, 3: {1, 2}},
}


def test_every_graph_of_the_paper_is_there() -> None:
    assert set(PAPER_GRAPHS) == set(GRAPHS)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_named_graph_is_the_graph_of_the_paper(name: str) -> None:
    net = bnicl.load_network(name)
    assert {m: set(parents) for m, parents in enumerate(net.parents) if parents} == GRAPHS[name]
    assert net.n_nodes == max(GRAPHS[name]) + 1
    assert net.cpts is None
    assert set(net.cardinalities) == {2}
    # and it can be built, drawn from and fitted
    rows = bnicl.forward_sample(net.with_random_cpts(seed=0), n=50, seed=0)
    assert len(bnicl.MaximumLikelihood(net).fit(rows[None])) == net.n_nodes


@pytest.mark.parametrize("name", ["asia", "cancer", "earthquake", "sachs", "survey", "alarm", "child", "insurance"])
def test_a_shipped_network_has_the_tables_of_its_file(name: str) -> None:
    pgmpy = import_pgmpy()
    text = gzip.decompress((example_models() / f"{name}.bif.gz").read_bytes()).decode()
    model = pgmpy.readwrite.BIFReader(string=text).get_model()
    net = bnicl.load_network(name)
    assert set(net.names) == set(model.nodes)
    for m, node in enumerate(net.names):
        cpd = model.get_cpds(node)
        assert [net.names[p] for p in net.parents[m]] == cpd.variables[1:]
        expected = np.moveaxis(np.asarray(cpd.values), 0, -1)
        np.testing.assert_allclose(net.tables[m].numpy(), expected, atol=1e-6)
        assert list(net.states[m]) == cpd.state_names[node]


def test_every_network_thatpgmpy_ships_is_known_by_name() -> None:
    shipped = {path.name.removesuffix(".bif.gz") for path in example_models().glob("*.bif.gz")}
    assert shipped <= set(bnicl.network_names())
    assert {"asia", "sachs", "alarm", "munin", "link"} <= shipped


def test_a_bif_file_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "my asia.bif"
    path.write_bytes(gzip.decompress((example_models() / "asia.bif.gz").read_bytes()))
    ours, named = bnicl.load_network(path), bnicl.load_network("asia")
    assert ours.names == named.names
    assert all(map(torch.equal, ours.tables, named.tables))


def test_from_pgmpy_keeps_unsorted_parents_and_string_states() -> None:
    pgmpy = import_pgmpy()
    model = pgmpy.models.DiscreteBayesianNetwork([("zoo", "child"), ("ant", "child")])
    ant, zoo = ["no", "yes"], ["low", "mid", "high"]
    values = np.arange(1, 13, dtype=float).reshape(2, 6)
    values /= values.sum(0)
    model.add_cpds(
        pgmpy.factors.discrete.TabularCPD("ant", 2, [[0.3], [0.7]], state_names={"ant": ant}),
        pgmpy.factors.discrete.TabularCPD("zoo", 3, [[0.2], [0.3], [0.5]], state_names={"zoo": zoo}),
        pgmpy.factors.discrete.TabularCPD(
            "child", 2, values, ["zoo", "ant"], [3, 2], state_names={"child": ["a", "b"], "zoo": zoo, "ant": ant}
        ),
    )
    net = bnicl.BayesianNetwork.from_pgmpy(model)
    child = net.names.index("child")
    assert [net.names[p] for p in net.parents[child]] == ["zoo", "ant"]
    assert net.states[net.names.index("zoo")] == ("low", "mid", "high")
    # P(child = b | zoo = high, ant = no), by hand: column 2 * 2 + 0 of the table
    assert net.tables[child][2, 0, 1].item() == pytest.approx(11 / (5 + 11))


def test_from_pgmpy_reorders_a_table_that_names_its_parents_states_in_another_order() -> None:
    pgmpy = import_pgmpy()
    model = pgmpy.models.DiscreteBayesianNetwork([("a", "b")])
    model.add_cpds(
        pgmpy.factors.discrete.TabularCPD("a", 2, [[0.3], [0.7]], state_names={"a": ["no", "yes"]}),
        pgmpy.factors.discrete.TabularCPD(
            "b", 2, [[0.9, 0.2], [0.1, 0.8]], ["a"], [2], state_names={"b": ["n", "y"], "a": ["yes", "no"]}
        ),
    )
    net = bnicl.BayesianNetwork.from_pgmpy(model)
    assert net.tables[1].tolist() == [[0.2, 0.8], [0.9, 0.1]]  # rows: a = no, a = yes


@given(networks())
@settings(max_examples=25, deadline=None)
def test_to_pgmpy_and_back_is_the_same_network(net: bnicl.BayesianNetwork) -> None:
    model = net.to_pgmpy()
    assert model.check_model()
    again = bnicl.BayesianNetwork.from_pgmpy(model)
    assert (again.names, again.parents, again.states) == (net.names, net.parents, net.states)
    assert all(map(torch.allclose, again.tables, net.tables))


@given(networks())
@settings(max_examples=25, deadline=None)
def test_rows_of_tables_sum_to_one(net: bnicl.BayesianNetwork) -> None:
    for m, table in enumerate(net.tables):
        assert tuple(table.shape) == (*net.evidence_card(m), net.cardinalities[m])
        assert (table.sum(-1) - 1).abs().max() < 1e-12


def test_from_edges_sorts_topologically_and_keeps_the_order_of_ties() -> None:
    net = bnicl.BayesianNetwork.from_edges([("c", "a"), ("b", "a")], {"a": 2, "b": 3, "c": 4}, nodes=["a", "b", "c"])
    assert net.names == ("b", "c", "a")
    assert net.cardinalities == (3, 4, 2)
    assert net.parents == ((), (), (0, 1))


def test_dirichlet_rows_have_the_moments_of_the_dirichlet() -> None:
    alpha, card = 0.7, 3
    rows = bnicl.Dirichlet(alpha=alpha).sample([100_000], card, bnicl.make_generator(0))
    assert torch.allclose(rows.mean(0), torch.full((3,), 1 / 3).double(), atol=0.005)
    variance = (card - 1) / (card**2 * (card * alpha + 1))
    assert torch.allclose(rows.var(0), torch.full((3,), variance).double(), rtol=0.02)


def test_a_small_alpha_makes_nearly_deterministic_rows_and_no_others() -> None:
    """The gammas behind such rows are zero in float64; their logarithms are not."""
    for alpha in (1e-6, 1e-3, 0.02):
        rows = bnicl.Dirichlet(alpha=alpha).sample([50_000], 3, bnicl.make_generator(0))
        assert (rows.sum(-1) - 1).abs().max() < 1e-12
        undecided = (rows.amax(-1) < 0.9).double().mean().item()
        assert undecided < 20 * alpha + 1e-4
        assert torch.allclose(rows.mean(0), torch.full((3,), 1 / 3).double(), atol=0.01)


def test_the_default_prior_is_beta_one_half_for_two_states() -> None:
    p = torch.cat([bnicl.load_network("chain5").with_random_cpts(seed=s).tables[4][:, 0] for s in range(4000)])
    assert p.var().item() == pytest.approx(1 / 8, rel=0.05)  # of Beta(1/2, 1/2)


def test_two_bands_are_the_prior_of_the_first_version() -> None:
    p = bnicl.TwoBands().sample([20_000], 2, bnicl.make_generator(0))[:, 0]
    low = (p >= 0.15) & (p <= 0.30)
    assert bool((low | ((p >= 0.70) & (p <= 0.85))).all())
    assert low.double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert p[low].min() < 0.152
    assert p[low].max() > 0.298
    wide = bnicl.Bands(((0.1, 0.2), (0.5, 0.9))).sample([20_000], 2, bnicl.make_generator(0))[:, 0]
    assert (wide < 0.2).double().mean().item() == pytest.approx(0.2, abs=0.02)  # by length
    net = bnicl.load_network("tree5").with_random_cpts(prior=bnicl.TwoBands(), seed=0)
    assert all(0.15 <= value <= 0.85 for table in net.tables for value in table.flatten().tolist())


def test_random_tables_come_from_their_seed_alone() -> None:
    graph = bnicl.load_network("general7")
    before = torch.random.get_rng_state()
    first, again, other = (graph.with_random_cpts(seed=seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, first.tables, again.tables))
    assert not torch.equal(first.tables[0], other.tables[0])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_table_with_seven_digits_is_accepted_and_sums_to_one() -> None:
    net = bnicl.BayesianNetwork(("a",), ((),), (3,), cpts=(torch.tensor([0.3333333, 0.3333333, 0.3333333]).double(),))
    assert net.tables[0].sum().item() == pytest.approx(1, abs=1e-15)
    with pytest.raises(ValueError, match="sum to 1"):
        replace(net, cpts=(torch.tensor([0.33333, 0.33333, 0.33333]).double(),))


def test_the_papers_graphs_need_no_pgmpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bnicl.load_network("chain5").n_nodes == 5
    with pytest.raises(ValueError, match="pgmpy: expected to be installed for the networks that it ships"):
        bnicl.load_network("asia")
