"""The published recipe: a GPT-2 without positions whose rows hide what follows the target, by torch's own layers."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import bnicl
from bnicl.batch import parameters, runs, sweeps
from bnicl.estimators.averages import EdgeProb
from bnicl.networks.graph import kahn_order, reordered
from bnicl.training import update
from bnicl.training.config import STEP, TrainingConfig
from bnicl.training.steps import Examples, Stream, dropout, loss_of
from bnicl.training.trained import TrainedTransformer
from bnicl.transformer.model import Transformer

SMALL: dict[str, Any] = {
    "graph": "general5", "recipe": "published", "batch": 6, "d_model": 16, "d_mlp": 24, "n_heads": 4, "n_tables": 30,
    "min_context": 40, "max_context": 40, "records": 1,
}  # fmt: skip
PLAIN: dict[str, Any] = {"dropout": 0.0, "drop_everywhere": False}


def published(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**SMALL | fields)


def untrained(config: TrainingConfig) -> TrainedTransformer:
    """With weights and biases that are all at random, so that each has a part in the answer."""
    model = config.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return TrainedTransformer(model, config)


def by_torch(model: Transformer, columns: Tensor) -> Tensor:
    """The read-out of the last column, by `nn.TransformerEncoderLayer`."""
    config, w = model.config, model.state_dict()
    gelu = partial(nn.functional.gelu, approximate="tanh")
    x = columns @ w["W_E"] + w["b_E"]
    for i in range(config.n_layers):
        layer = nn.TransformerEncoderLayer(
            config.d_model, config.n_heads, config.d_mlp, 0.0, gelu, batch_first=True, norm_first=True
        )
        own = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items()}
        joined = [own[f"attn.W_{k}"].transpose(0, 1).flatten(1).T for k in "QKV"]
        layer.load_state_dict({
            "self_attn.in_proj_weight": torch.cat(joined),
            "self_attn.in_proj_bias": torch.cat([own[f"attn.b_{k}"].flatten() for k in "QKV"]),
            "self_attn.out_proj.weight": own["attn.W_O"].flatten(0, 1).T, "self_attn.out_proj.bias": own["attn.b_O"],
            "linear1.weight": own["mlp.W_in"].T, "linear1.bias": own["mlp.b_in"],
            "linear2.weight": own["mlp.W_out"].T, "linear2.bias": own["mlp.b_out"],
            "norm1.weight": own["ln1.weight"], "norm1.bias": own["ln1.bias"],
            "norm2.weight": own["ln2.weight"], "norm2.bias": own["ln2.bias"],
        })  # fmt: skip
        x = layer(x)
    return (model.ln_final(x) @ w["W_U"] + w["b_U"])[:, -1, 0]


@pytest.mark.parametrize("multiset", [False, True])
def test_the_forward_pass_is_that_of_torchs_own_layers(multiset: bool) -> None:
    config = published(**PLAIN, multiset=multiset)
    run, target = untrained(config), 3
    rows = bnicl.NetworkPrior(run.net).sample(4, 41, seed=0).rows
    context, query = rows[:, :40], rows[:, 40]
    columns = torch.full((4, 41, 6), -1.0)  # by hand: a number a node, -1 from the target on, and the target's number
    columns[:, :40, : target + 1] = context[..., : target + 1].float()
    columns[:, 40, :target] = query[:, :target].float()
    columns[..., 5] = target
    with torch.no_grad():
        second = by_torch(run.model, columns).sigmoid()
    ours = run.predict_proba(context, query, target)
    assert torch.allclose(ours[:, 1].float(), second, atol=1e-5)
    assert torch.allclose(ours.sum(-1), torch.ones(4, dtype=ours.dtype))


def test_the_last_layer_at_the_query_alone_changes_nothing() -> None:
    model = untrained(published(**PLAIN)).model
    columns = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0))
    for mask in ("none", "causal"):
        model.config = model.config.model_copy(update={"mask": mask})
        assert torch.allclose(model.answer(columns), model(columns)[:, -1], atol=1e-5)


def test_rows_hide_what_follows_the_target() -> None:
    run = untrained(published(**PLAIN))
    rows = bnicl.NetworkPrior(run.net).sample(4, 41, seed=0).rows
    context, query, target = rows[:, :40], rows[:, 40], 2
    was = run.predict_proba(context, query, target)
    for node in range(5):
        changed = context.clone()
        changed[..., node] = 1 - changed[..., node]
        now = run.predict_proba(changed, query, target)
        assert torch.equal(now, was) == (node > target), node


def test_the_columns_are_in_the_order_of_a_stack() -> None:
    """The two that were seen in the authors' code: A,C,G,F,B,E,D and B,A,C,D,E."""
    for graph, letters in {"tree7": "ACGFBED", "general5": "BACDE", "chain5": "ABCDE"}.items():
        net = bnicl.load_network(graph)
        order = kahn_order(net)
        assert "".join("ABCDEFG"[m] for m in order) == letters
        other = reordered(net, order)
        named = [{(n.names[i], n.names[j]) for i, j in n.edges} for n in (net, other)]
        assert named[0] == named[1]


def test_a_batch_is_used_four_times_running() -> None:
    stream = Stream(published(**PLAIN))
    contexts = [stream.step(step, 0.0).context for step in range(5)]
    assert all(torch.equal(contexts[0], own) for own in contexts[1:4])
    assert not torch.equal(contexts[0], contexts[4])


def test_first_weights_are_gpt2s() -> None:
    model = TrainingConfig(graph="chain5", recipe="published").build()
    attn = model.blocks[2].attn
    assert attn is not None
    assert attn.b_O is not None
    stds = {"read": attn.W_Q, "written": attn.W_O, "in": model.blocks[1].mlp.W_in, "out": model.blocks[0].mlp.W_out}
    measured = {name: weight.std().item() for name, weight in stds.items()}
    assert measured == pytest.approx(dict(zip(stds, (0.02, 0.02 / 8**0.5) * 2, strict=True)), rel=0.02)
    assert attn.b_O.count_nonzero() == 0


@pytest.mark.parametrize(("objective", "expected"), [("mle", 0.4), ("tv", 0.2), ("mse", 0.04)])
def test_losses_by_hand(objective: Any, expected: float) -> None:
    """An answer of 0.7 where the MLE is 0.5."""
    net = bnicl.BayesianNetwork(("A",), ((),), (2,))
    outputs = torch.tensor([[[[0.7, 0.3]]]]).log()
    context = torch.tensor([[[0], [1]]])
    fitted = bnicl.MaximumLikelihood(net).fit(context)
    examples = Examples(context, torch.tensor([[[0]]]), [0], fitted)
    loss = loss_of(net, objective, outputs, [0], examples.wanted(net, objective))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_where_no_row_matches_the_loss_takes_the_marginal() -> None:
    config = published(graph="chain5", **PLAIN)
    stream = Stream(config)
    context = torch.zeros(1, 4, 5, dtype=torch.int64)
    context[0, 0, 1] = 1
    batch = stream.drawn_from.sample(1, 1, 0)
    right = Examples(context, torch.ones(1, 1, 5, dtype=torch.int64), [1], stream._right(batch, context)).right
    assert right(stream.net, 1).tolist() == [[[0.75, 0.25]]]


def test_dropout_is_where_gpt2_has_it() -> None:
    sites = ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]
    for everywhere, hit in ((True, sites), (False, sites[2:])):
        drop = dropout(published(drop_everywhere=everywhere, dropout=0.5), torch.Generator())
        assert drop is not None
        assert [name for name in sites if bool((drop(name, torch.ones(100)) == 0).any())] == hit
        assert bool((drop("blocks.1.hook_resid_pre", torch.ones(100)) == 1).all())


def test_the_loss_begins_where_the_authors_code_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their means of 40 steps on chain5: .238 .204 .189 .215. The targets are drawn, so only the level can agree."""
    losses: list[float] = []

    def seen(*given: Any) -> Tensor:
        loss = loss_of(*given)
        losses.append(loss.item())
        if len(losses) == 160:
            raise InterruptedError
        return loss

    monkeypatch.setattr(update, "loss_of", seen)
    with pytest.raises(InterruptedError):
        bnicl.train(TrainingConfig(graph="chain5", recipe="published", multiset=True, **PLAIN), progress=False)
    assert sum(losses) / 160 == pytest.approx(0.2115, abs=0.015)


def test_random_graphs_of_the_paper() -> None:
    joined = bnicl.RandomGraphs((2,) * 5, 0.2, joined=True)
    graphs = joined.sample(4000, torch.Generator().manual_seed(0))
    assert bool((graphs.any(1) | graphs.any(2)).all())
    assert not graphs.tril().any()
    free = bnicl.RandomGraphs((2,) * 5, 0.2).sample(4000, torch.Generator().manual_seed(0))
    assert bool((graphs | ~free).all())  # what was there stays
    untouched = (free.any(1) | free.any(2)).all(1)
    assert torch.equal(graphs[untouched], free[untouched])
    assert bnicl.RandomGraphs((2,) * 6, 0.2, joined=True).average(bnicl.Dirichlet(0.5)) is None
    assert not bnicl.RandomGraphs((2,), 0.2, joined=True).sample(10, torch.Generator()).any()
    shared = bnicl.RandomGraphs((2,) * 5, 0.5, shared=True).sample(50, torch.Generator())
    assert len(shared.unique(dim=0)) == 1


@pytest.mark.parametrize("edge_prob", [0.1, (0.1, 0.8)])
def test_the_probabilities_of_joined_graphs_are_how_often_they_are_drawn(edge_prob: EdgeProb) -> None:
    graphs = bnicl.RandomGraphs((2,) * 4, edge_prob, joined=True)
    probabilities = graphs.probabilities()
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)
    n = 200_000
    drawn = Counter(map(tuple, graphs.sample(n, torch.Generator().manual_seed(0)).flatten(1).int().tolist()))
    for edges, p in probabilities.items():
        matrix = torch.zeros(4, 4, dtype=torch.int)
        matrix[tuple(zip(*edges, strict=True))] = 1
        assert abs(drawn[tuple(matrix.flatten().tolist())] / n - p) < 5 * (p / n) ** 0.5
    assert len(drawn) <= len(probabilities)


def test_contexts_of_even_lengths() -> None:
    stream = Stream(published(**PLAIN, min_context=5, max_context=14, even_contexts=True, repeats=1))
    lengths = Counter(stream.step(step, 0.0).context.shape[1] for step in range(2000))
    assert sorted(lengths) == list(range(5, 15))
    assert all(abs(n - 200) < 5 * 200**0.5 for n in lengths.values())


def test_two_nodes_that_are_joined_always_have_their_edge() -> None:
    assert bnicl.RandomGraphs((2, 2), 0.3, joined=True).probabilities() == {frozenset({(0, 1)}): pytest.approx(1)}
    alone = bnicl.RandomGraphs((2, 2), (0.0, 0.6)).probabilities()
    assert alone == {frozenset(): pytest.approx(0.7), frozenset({(0, 1)}): pytest.approx(0.3)}


def test_the_average_over_graphs_is_the_model_average_where_none_is_joined() -> None:
    free = bnicl.RandomGraphs((2, 3, 2, 2), (0.1, 0.8))
    context = bnicl.StructurePrior(free, bnicl.Dirichlet(0.7)).sample(20, 31, seed=0).rows
    context, query = context[:, :30], context[:, 30]
    over_graphs, over_sets = free._average_over_graphs(bnicl.Dirichlet(0.7)), free.average(bnicl.Dirichlet(0.7))
    assert over_sets is not None
    assert torch.allclose(over_graphs.joint(context), over_sets.joint(context), atol=1e-12)
    for m in range(4):
        ours, other = (average.predict_proba(context, query, m) for average in (over_graphs, over_sets))
        assert torch.allclose(ours, other, atol=1e-12)


def test_the_optimum_of_joined_graphs_beats_those_that_do_not_know_it() -> None:
    prior = bnicl.StructurePrior(bnicl.RandomGraphs((2,) * 5, 0.1, joined=True), bnicl.Bands())
    optimum, free = prior.optimum(), bnicl.ModelAverage((2,) * 5, edge_prob=0.1, prior=bnicl.Bands())
    assert optimum is not None
    batch = prior.sample(4000, 21, seed=1)
    context, query = batch.rows[:, :20], batch.rows[:, 20]
    surprise = [
        [-average.predict_proba(context, query, m).gather(1, query[:, [m]]).log().mean() for m in range(5)]
        for average in (optimum, free)
    ]
    assert sum(surprise[0]) < sum(surprise[1])


@pytest.mark.parametrize(
    "probabilities", [[0.5], [0.5, 0.6], [1.0, 0.0], [-0.5, 1.5], 0.5, [[0.5], [0.5]], ["half", "half"], [math.nan, 1]]
)
def test_probabilities_of_graphs_are_checked(probabilities: Any, unchecked_shapes: None) -> None:
    graphs = [bnicl.load_network(name, tables=False) for name in ("chain5", "tree5")]
    with pytest.raises(ValueError, match="probabilities: expected "):
        bnicl.GraphAverage(graphs, probabilities=probabilities)


def test_graphs_too_many_to_list_are_refused() -> None:
    assert sum(bnicl.RandomGraphs((2,) * 6, 0.5).probabilities().values()) == pytest.approx(1)
    with pytest.raises(ValueError, match="cardinalities: expected at most 6 nodes, whose graphs can be listed, got 7"):
        bnicl.RandomGraphs((2,) * 7, 0.5).probabilities()


def test_a_graph_that_is_twice_as_likely_counts_twice() -> None:
    chain, tree = (bnicl.load_network(name, tables=False) for name in ("chain5", "tree5"))
    context = torch.randint(2, (6, 20, 5), generator=torch.Generator().manual_seed(3))
    twice = bnicl.GraphAverage([chain, chain, tree]).joint(context)
    assert torch.allclose(bnicl.GraphAverage([chain, tree], probabilities=[2 / 3, 1 / 3]).joint(context), twice)


def test_random_graphs_are_trained_towards_the_mle_of_each_graph() -> None:
    config = published(graph="random4", edge_prob=(0.7, 1.0), shared_graph=True, n_tables=None, **PLAIN)
    stream = Stream(config)
    examples = stream.step(3, 0.0)
    (m,) = examples.targets
    batch = stream.drawn_from.sample(6, 41, stream._generator(STEP, 0, 1))  # as step() draws
    assert batch.adjacency is not None
    told = bnicl.GivenGraphs(batch.adjacency, (2,) * 4).predict_proba(batch.rows[:, :40], batch.rows[:, 40], m)
    assert torch.equal(examples.right(stream.net, m)[:, 0], told)
    with pytest.raises(ValueError, match="joined: expected its default for 'chain5'"):
        TrainingConfig(graph="chain5", joined=True)


# --- the paper's experiments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted((parameters.ROOT / "sweeps" / "paper").glob("*.yml")), ids=lambda path: path.stem
)
def test_each_experiment_of_the_paper_runs_from_training_to_its_tables(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bnicl, "TrainingConfig", partial(TrainingConfig, d_model=16, d_mlp=16, n_heads=2))
    monkeypatch.setenv("BNICL_RUN", str(tmp_path))
    sweep = sweeps.load_sweep(path, "smoke")
    cells = parameters.cells_of_notebook(parameters.chapter_path(sweep.chapter))
    making = "\n".join(cell.source for cell in cells if "table" in cell.tags)
    different = {(run.parameters["experiment"], run.parameters["graph"]): run for run in sweep.runs}
    for run in different.values():
        names = {"bnicl": bnicl, "runs": runs, "pd": pd, "torch": torch, **run.parameters, "fraction": 1e-5}
        exec(making, names)
        measured = names["measured"]
        exact = names["config"].networks.optimum() is not None  # more than five nodes that are joined have none
        rivals = {"transformer", "naive", "MLE"} | ({"optimum"} if exact else set())
        assert set(measured["predictor"]) == rivals
        assert measured["tv"].between(0, 1).all()
    saved = pd.read_csv(tmp_path / f"{sweep.table}.csv")
    assert saved.notna().any().drop([] if exact else "regret_bits", errors="ignore").all()
