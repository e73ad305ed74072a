import pytest
import torch
from hypothesis import given, settings
from scipy.stats import chisquare

import bnicl
from bnicl.networks.graph import import_pgmpy
from bnicl.networks.sampling import sample_rows, with_noise
from tests.strategies import networks


@pytest.mark.parametrize("name", ["asia", "sachs", "child"])
def test_samples_have_the_marginals_that_pgmpy_computes(name: str) -> None:
    net = bnicl.load_network(name)
    n = 40_000
    rows = bnicl.forward_sample(net, n=n, seed=5)
    inference = import_pgmpy().inference.VariableElimination(net.to_pgmpy())
    for m, node in enumerate(net.names):
        expected = inference.query([node], show_progress=False).values * n
        observed = torch.bincount(rows[:, m], minlength=net.cardinalities[m]).numpy()
        possible = expected > 0
        assert observed[~possible].sum() == 0
        assert chisquare(observed[possible], expected[possible]).pvalue > 1e-4


def test_samples_have_the_joint_distribution_of_the_product_of_tables() -> None:
    net = bnicl.load_network("wet-grass").with_random_cpts(alpha=1, seed=3)
    c, s, r, w = net.tables
    joint = torch.einsum("a,ab,ac,bcd->abcd", c, s, r, w).flatten()
    rows = bnicl.forward_sample(net, n=50_000, seed=1)
    observed = torch.bincount(rows @ torch.tensor([8, 4, 2, 1]), minlength=16)
    assert chisquare(observed.numpy(), (joint * 50_000).numpy()).pvalue > 1e-4


def test_a_batch_samples_each_network_from_its_own_tables() -> None:
    net = bnicl.load_network("tree5")
    batch = bnicl.NetworkPrior(net).sample(batch_size=5, n=4000, seed=2)
    for b in range(5):
        for m in range(net.n_nodes):
            fitted = bnicl.MaximumLikelihood(net, "uniform").fit(batch.rows[b : b + 1])[m][0]
            parent_rows = torch.bincount(batch.rows[b, :, net.parents[m][0]], minlength=2) if m else torch.tensor(4000)
            error = (fitted - batch.cpts[m][b]).abs().amax(-1)
            assert bool((error < 5 * 0.5 / parent_rows.clamp(min=1).sqrt()).all())


@given(networks())
@settings(max_examples=25, deadline=None)
def test_samples_are_states_of_their_nodes_and_never_impossible(net: bnicl.BayesianNetwork) -> None:
    rows = bnicl.forward_sample(net, n=30, seed=0)
    assert rows.dtype == torch.int64
    assert tuple(rows.shape) == (30, net.n_nodes)
    for m in range(net.n_nodes):
        p = bnicl.conditional(net, [t.expand(30, *t.shape) for t in net.tables], rows, m)
        assert bool((p.gather(1, rows[:, m : m + 1]) > 0).all())


def test_a_state_of_probability_zero_is_never_drawn() -> None:
    table = torch.tensor([0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]).double()
    net = bnicl.BayesianNetwork(("a",), ((),), (12,), cpts=(table,))
    rows = bnicl.forward_sample(net, n=200_000, seed=0)
    assert set(rows.flatten().tolist()) == set(range(1, 11))


def test_conditional_is_what_pgmpy_infers_from_all_predecessors() -> None:
    net = bnicl.load_network("asia")
    inference = import_pgmpy().inference.VariableElimination(net.to_pgmpy())
    row = bnicl.forward_sample(net, n=1, seed=7)
    for m, node in enumerate(net.names):
        evidence = {net.names[i]: net.states[i][row[0, i]] for i in range(m)}
        expected = inference.query([node], evidence, show_progress=False).values
        ours = bnicl.conditional(net, [t.unsqueeze(0) for t in net.tables], row, m)[0]
        assert ours.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_sampling_comes_from_its_seed_and_leaves_the_global_state_alone() -> None:
    prior = bnicl.NetworkPrior(bnicl.load_network("chain5"))
    before = torch.random.get_rng_state()
    first, again, other = (prior.sample(4, 10, seed) for seed in (0, 0, 1))
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)
    assert torch.equal(torch.random.get_rng_state(), before)
    generator = bnicl.make_generator(0)
    assert not torch.equal(prior.sample(4, 10, generator).rows, prior.sample(4, 10, generator).rows)


def test_every_batch_has_fresh_tables_unless_the_network_brings_its_own() -> None:
    chain = bnicl.load_network("chain5")
    fresh = bnicl.NetworkPrior(chain).sample(2, 1, 0).cpts[0]
    assert not torch.equal(fresh[0], fresh[1])
    own = chain.with_random_cpts(seed=0)
    kept = bnicl.NetworkPrior(own).sample(2, 1, 0).cpts[0]
    assert torch.equal(kept, own.tables[0].expand(2, 2))
    redrawn = bnicl.NetworkPrior(own, bnicl.Dirichlet(alpha=1)).sample(2, 1, 0).cpts[0]
    assert not torch.equal(redrawn[0], redrawn[1])


def test_streams_of_one_seed_are_independent() -> None:
    draws = {torch.rand(1, generator=bnicl.make_generator(s, w)).item() for s in range(5) for w in range(5)}
    assert len(draws) == 25


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_everything_lives_on_the_device_of_the_generator() -> None:
    generator = bnicl.make_generator(0, device="cuda")
    batch = bnicl.NetworkPrior(bnicl.load_network("chain5")).sample(3, 10, generator)
    assert batch.rows.is_cuda
    assert all(table.is_cuda for table in batch.cpts)


def test_sample_rows_takes_the_tables_of_a_batch() -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 3))
    cpts = [torch.eye(2).double(), torch.eye(3).double()[:2].expand(2, 2, 3)]  # network 0 draws a = 0, 1 draws a = 1
    rows = sample_rows(net, cpts, 2, bnicl.make_generator(0))
    assert rows.tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]


def test_noise_replaces_its_share_of_the_values_by_uniform_states() -> None:
    rows = torch.zeros(200, 100, 2, dtype=torch.int64)
    noisy = with_noise(rows, (2, 4), 0.3, seed=1)
    for node, card in ((0, 2), (1, 4)):
        observed = torch.bincount(noisy[..., node].flatten(), minlength=card) / 20_000
        expected = torch.full((card,), 0.3 / card)
        expected[0] += 0.7
        assert torch.allclose(observed, expected, atol=0.01)
    assert torch.equal(with_noise(rows, (2, 4), 0.0), rows)
    assert torch.equal(noisy, with_noise(rows, (2, 4), 0.3, seed=1))
    with pytest.raises(ValueError, match=r"share: expected a number in \[0, 1\], got 1.5"):
        with_noise(rows, (2, 4), 1.5)
