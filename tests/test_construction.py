"""The theorem, tested: output against the counting MLE, error against the bound."""

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import bnicl
from bnicl.networks.sources import GRAPHS
from bnicl.transformer.mle_transformer import MLETransformer, Subspaces, Variant, error_bound, rounding
from tests.strategies import random_dag, tasks

ROOT = Path(__file__).resolve().parents[1]
Task = tuple[bnicl.BayesianNetwork, Tensor, Tensor, int]
VARIANTS: tuple[Variant, ...] = ("paper", "causal", "heads", "prompt")
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
@pytest.mark.parametrize("sparse", [False, True])
@given(task=tasks())
@settings(max_examples=25, deadline=None)
def test_the_output_is_the_mle_to_machine_precision(variant: Variant, sparse: bool, task: Task) -> None:
    """And where no row matches, the frequencies among the rows that agree on the most parents."""
    net, context, query, target = task
    predictor = bnicl.construct_mle_transformer(net, epsilon=1e-12, max_context=20, variant=variant, sparse=sparse)
    expected = bnicl.MaximumLikelihood(net, "nearest").predict_proba(context, query, target)
    predicted = predictor.predict_proba(context, query, target)
    assert (predicted - expected).abs().sum(-1).max() < 1e-12
    assert torch.allclose(predicted.sum(-1), torch.ones(len(context)).double(), atol=1e-14)


def random_network(seed: int) -> tuple[bnicl.BayesianNetwork, torch.Generator]:
    """2 to 8 variables with 2 to 5 states each."""
    generator = bnicl.make_generator(seed)
    n_nodes = int(torch.randint(2, 9, (), generator=generator))
    cards = torch.randint(2, 6, (n_nodes,), generator=generator).tolist()
    edge_prob = torch.rand((), generator=generator).item()
    return random_dag(n_nodes, edge_prob, cardinalities=cards, seed=generator), generator


def raw_output(predictor: MLETransformer, context: Tensor, query: Tensor, target: int) -> Tensor:
    """The linear read-out of the last column before it is normalised."""
    with torch.no_grad():
        out = predictor.model(predictor.columns(context, query, target))[:, -1]
    start = sum(predictor.cardinalities[:target])
    return out[:, start : start + predictor.cardinalities[target]]


def worst_ratio(dtype: torch.dtype, seeds: range) -> float:
    """The largest error / bound over random networks, contexts of 1 to 500 rows, betas and targets."""
    worst = 0.0
    for seed in seeds:
        net, generator = random_network(seed)
        n = int(500 ** torch.rand((), generator=generator).item())
        low, high = torch.tensor([0.5, 1.0, 1.0]), torch.tensor([12.0, 14.0, 14.0])
        beta, beta_1, gamma = (low + (high - low) * torch.rand(3, generator=generator)).tolist()
        predictor = bnicl.construct_mle_transformer(net, beta=beta, beta_1=beta_1, gamma=gamma, dtype=dtype)
        rows = bnicl.NetworkPrior(net).sample(2, n + 1, generator).rows
        context, query = rows[:, :n], rows[:, n]
        target = int(torch.randint(net.n_nodes, (), generator=generator))
        parents = list(net.parents[target])
        matching = (context[..., parents] == query[:, None, parents]).all(-1).sum(-1)
        mle = bnicl.MaximumLikelihood(net).predict_proba(context, query, target)
        for out in (raw_output(predictor, context, query, target), predictor.predict_proba(context, query, target)):
            error = (out.double() - mle).abs().sum(-1)[matching > 0]
            bound = predictor.error_bound(n, matching[matching > 0])
            assert bool((error <= bound).all()), (seed, error, bound)
            worst = max(worst, *(error / bound).tolist(), 0.0)
    return worst


@pytest.mark.parametrize(("dtype", "seeds"), [(torch.float64, range(1100)), (torch.float32, range(1100, 2200))])
def test_the_error_never_exceeds_the_bound_and_comes_near_it(dtype: torch.dtype, seeds: range) -> None:
    worst = worst_ratio(dtype, seeds)
    assert worst > 0.5  # the bound is not vacuous
    print(f"worst error / bound in {dtype}: {worst:.3f}")


def test_the_bound_by_hand() -> None:
    # eta = 10 / (10 + 90) = 0.1; 2 * (10 - 2) * exp(-2 * 0.81) / 2 + exp(-3) / 2
    expected = 0.1 + 8 * 0.1978986990 + 0.0497870684 / 2
    assert error_bound(10, 2, beta=2.0, beta_1=4.499809670330265, gamma=3.0).item() == pytest.approx(expected)
    assert error_bound(100, 100, beta=1.0).item() == 0
    assert error_bound(10, 1, beta=0.0).item() == 2


def test_epsilon_is_kept_for_every_context_up_to_the_longest() -> None:
    for epsilon in (0.5, 1e-3, 1e-9):
        predictor = bnicl.construct_mle_transformer(bnicl.load_network("general7"), epsilon, max_context=1000)
        assert predictor.error_bound(torch.arange(1, 1001)).max() <= epsilon


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_epsilon_holds_for_a_million_rows(variant: Variant, dtype: torch.dtype) -> None:
    """Rounding grows with the logarithm of the rows: equal rows are one term."""
    net = bnicl.load_network("general5")
    rows = bnicl.NetworkPrior(net).sample(1, 1_000_001, seed=1).rows
    for n in (10_000, 100_000, 1_000_000):
        epsilon = 2.1 * rounding(n, dtype).item()
        assert epsilon < (1.6e-5 if dtype == torch.float32 else 3e-14)
        predictor = bnicl.construct_mle_transformer(net, epsilon, max_context=n, variant=variant, dtype=dtype)
        for target in range(net.n_nodes):
            mle = bnicl.MaximumLikelihood(net).predict_proba(rows[:, :n], rows[:, n], target)
            error = (predictor.predict_proba(rows[:, :n], rows[:, n], target).double() - mle).abs().sum()
            assert error < epsilon / 10
            assert predictor.error_bound(n) <= epsilon


@every_variant
def test_merging_equal_rows_changes_no_answer(variant: Variant) -> None:
    """Also where a family has more joint states than an int64 has numbers, and contexts of a batch differ in size."""
    net = bnicl.BayesianNetwork(tuple(f"n{i}" for i in range(66)), (*((),) * 65, tuple(range(65))), (2,) * 66)
    generator = bnicl.make_generator(0)
    few = torch.randint(2, (3, 4, 66), generator=generator)
    context = few.take_along_dim(torch.randint(4, (3, 30, 1), generator=generator), 1)
    predictor = bnicl.construct_mle_transformer(net, max_context=30, variant=variant)
    whole = predictor.read(predictor.last_column(predictor.columns(context, few[:, 0], 65)), 65)
    merged = predictor.predict_proba(context, few[:, 0], 65)
    torch.testing.assert_close(merged, whole, atol=1e-12, rtol=0)


def test_one_wrong_weight_breaks_the_guarantee() -> None:
    net = bnicl.load_network("general5")
    rows = bnicl.NetworkPrior(net).sample(50, 101, seed=0).rows
    predictor = bnicl.construct_mle_transformer(net)
    mle = bnicl.MaximumLikelihood(net, "nearest").predict_proba(rows[:, :100], rows[:, 100], 3)
    assert (predictor.predict_proba(rows[:, :100], rows[:, 100], 3) - mle).abs().max() < 1e-6
    spaces = predictor.spaces
    gates = predictor.model.blocks[0].mlp.W_in
    gates[spaces.r_u[3], 10:12] = 0  # node 0 is a parent of node 3 no longer
    assert (predictor.predict_proba(rows[:, :100], rows[:, 100], 3) - mle).abs().max() > 0.1


def test_layer_1_leaves_the_target_and_its_parents() -> None:
    net = bnicl.load_network("general5")
    predictor = bnicl.construct_mle_transformer(net)
    rows = bnicl.NetworkPrior(net).sample(1, 6, seed=0).rows
    _, cache = predictor.model.run_with_cache(predictor.columns(rows[:, :5], rows[:, 5], 3))
    before, after = cache["blocks.0.hook_resid_pre"][0], cache["blocks.0.hook_resid_post"][0]
    x = predictor.spaces.x
    kept = [0, 1, 4, 5, 6, 7]  # the blocks of X0, X2 and X3
    dropped = [2, 3, 8, 9]
    assert torch.allclose(after[:, [x[i] for i in kept]], before[:, [x[i] for i in kept]])
    assert after[:, [x[i] for i in dropped]].abs().max() == 0


def test_every_direction_of_the_stream_has_its_own_name() -> None:
    net = bnicl.load_network("wet-grass")
    for variant in VARIANTS:
        spaces = Subspaces.of(net, variant)
        labels = spaces.labels(net)
        assert len(labels) == len(set(labels)) == spaces.d_model
        assert labels[spaces.r_x[0]] == "r_x X0=0"


def test_the_graph_in_the_prompt_makes_one_transformer_for_every_graph() -> None:
    first, second = bnicl.load_network("chain5"), bnicl.load_network("general5")
    weights = [
        bnicl.construct_mle_transformer(net, beta=10.0, gamma=50.0, variant="prompt").model for net in (first, second)
    ]
    assert all(map(torch.equal, weights[0].buffers(), weights[1].buffers()))


def test_one_head_is_one_parent_set() -> None:
    net = bnicl.load_network("general7")
    model = bnicl.construct_mle_transformer(net, variant="heads").model
    assert model.config.n_layers == 1
    assert model.config.n_heads == len(set(map(frozenset, net.parents))) == 6


def test_the_cost_of_the_sparse_form_is_linear() -> None:
    stored = []
    for m in (50, 100, 200):
        net = bnicl.BayesianNetwork.from_edges([(f"n{i}", f"n{i + 1}") for i in range(m - 1)], 3)
        model = bnicl.construct_mle_transformer(net, variant="causal", sparse=True).model
        stored.append(sum(w._nnz() if w.is_sparse else w.numel() for w in model.buffers()))
    assert stored[2] - stored[1] == pytest.approx(2 * (stored[1] - stored[0]), rel=0.01)


@pytest.mark.parametrize("name", ["alarm", "barley", "hailfinder", "win95pts", "andes"])
def test_the_sparse_form_is_exact_on_real_networks(name: str) -> None:
    net = bnicl.load_network(name)
    predictor = bnicl.construct_mle_transformer(
        net, 2e-5, max_context=100, variant="causal", dtype=torch.float32, sparse=True
    )
    rows = bnicl.forward_sample(net, 104, seed=1)
    answer = predictor.counted(bnicl.Counts.of([rows[:100]], net))
    mle = bnicl.MaximumLikelihood(net, "nearest")
    for target in range(net.n_nodes):
        expected = mle.predict_proba(rows[:100].expand(8, -1, -1), rows[96:], target)
        assert (answer(rows[96:], target) - expected).abs().max() < 1e-5


def test_the_committed_table_covers_every_shipped_network_within_the_targets() -> None:
    table = pd.read_csv(ROOT / "results" / "scale.csv")
    assert set(table["network"]) == set(bnicl.network_names()) - set(GRAPHS)
    assert table["worst_l1"].max() < 2e-5
    assert table["peak_gib"].max() < 4
    assert json.loads((ROOT / "results" / "scale.json").read_text())["seconds"] < 180


NET = bnicl.load_network("general5")
ROWS = torch.zeros(1, 11, 5, dtype=torch.int64)
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "zero": (
        lambda: bnicl.construct_mle_transformer(NET, 0.0),
        r"epsilon: expected a positive number below 2 max_context = 20000, got 0\.0",
    ),
    "negative": (
        lambda: bnicl.construct_mle_transformer(NET, -1.0),
        r"epsilon: expected a positive number below .* got -1\.0",
    ),
    "float32": (
        lambda: bnicl.construct_mle_transformer(NET, 1e-7, dtype=torch.float32),
        r"epsilon: expected at least 1\.2e-05 for torch\.float32 and 10,000 rows, got 1e-07; torch\.float64 would do",
    ),
    "too small": (
        lambda: bnicl.construct_mle_transformer(NET, 1e-20),
        r"epsilon: expected at least 2\.2e-14 for torch\.float64 .* got 1e-20; no dtype of torch reaches it",
    ),
    "too large": (
        lambda: bnicl.construct_mle_transformer(NET, 20.0, max_context=10),
        r"epsilon: expected a positive number below 2 max_context = 20, got 20\.0",
    ),
    "small gamma": (
        lambda: bnicl.construct_mle_transformer(NET, beta=800.0, gamma=0.0),
        r"gamma: expected at least 927\.6 for beta = 800\.0 and 2 parents in torch\.float64, got 0\.0: without",
    ),
    "dtype": (
        lambda: bnicl.construct_mle_transformer(NET, dtype=torch.float16),
        r"dtype: expected .* got torch\.float16",
    ),
    "variant": (
        lambda: bnicl.construct_mle_transformer(NET, variant="deep"),  # type: ignore[arg-type]
        r"variant: expected one of paper, causal, heads, prompt, got 'deep'",
    ),
    "beta": (
        lambda: bnicl.construct_mle_transformer(NET, beta=-1.0),
        r"beta: expected a number of at least 0, got -1\.0",
    ),
    "net": (lambda: bnicl.construct_mle_transformer("asia"), r"net: expected a BayesianNetwork .* got 'asia'"),  # type: ignore[arg-type]
    "max_context": (lambda: bnicl.construct_mle_transformer(NET, max_context=0), r"max_context: expected .* got 0"),
    "long context": (
        lambda: bnicl.construct_mle_transformer(NET, max_context=10).predict_proba(ROWS, ROWS[:, 0], 1),
        r"context: expected at most max_context = 10 rows, got 11",
    ),
    "states": (
        lambda: bnicl.construct_mle_transformer(NET).predict_proba(ROWS + 2, ROWS[:, 0], 1),
        r"context: expected states of node 0 in 0\.\.1, got 2",
    ),
    "target": (
        lambda: bnicl.construct_mle_transformer(NET).predict_proba(ROWS, ROWS[:, 0], 5),
        r"target: expected a node in 0\.\.4, got 5",
    ),
}


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
    gc.collect()


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 10, 1000, 100_000])
def test_the_weights_that_the_proof_names_are_large_enough(n: int, epsilon: float) -> None:
    beta = math.log(2 * n / epsilon)
    beta_1 = math.log(2 * n**2 * (1 + 4 * epsilon * beta) / epsilon)
    for matching in {1, min(2, n), n}:
        assert error_bound(n, matching, beta, beta_1, gamma=beta) <= epsilon * (1 + 1e-12)
