from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.transformer.model import Mask, Transformer, TransformerConfig


def random_model(
    mask: Mask, activation: Literal["relu", "gelu"] = "relu", layer_norm: bool = False, heads: int = 2, **extra: Any
) -> Transformer:
    config = TransformerConfig(
        width=8, n_outputs=4, d_model=12, n_layers=2, n_heads=heads, d_head=5, d_mlp=16,
        activation=activation, layer_norm=layer_norm, mask=mask, **extra,
    )  # fmt: skip
    return Transformer(config).init_weights(bnicl.make_generator(0)).double()


@pytest.fixture
def columns() -> Tensor:
    return torch.randn(3, 9, 8, dtype=torch.float64, generator=bnicl.make_generator(1))


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_later_column_changes_nothing_under_the_causal_mask_and_does_without(
    activation: Literal["relu", "gelu"], layer_norm: bool, columns: Tensor
) -> None:
    changed = columns.clone()
    changed[:, 5] += 1.0
    masks: tuple[Mask, ...] = ("causal", "none")
    for mask in masks:
        model = random_model(mask, activation, layer_norm)
        difference = (model(changed) - model(columns)).abs().amax((0, 2))
        assert bool((difference[5:] > 1e-3).any())
        if mask == "causal":
            assert difference[:5].max() == 0
        else:
            assert bool((difference[:5] > 1e-6).all())


def test_attention_is_that_of_torch(columns: Tensor) -> None:
    model = random_model("causal")
    with torch.no_grad():
        out, cache = model.run_with_cache(columns)
        assert torch.equal(out, model(columns))
    for layer in range(2):
        q, k, v = (cache[f"blocks.{layer}.attn.hook_{name}"] for name in "qkv")
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        assert torch.allclose(cache[f"blocks.{layer}.attn.hook_z"], z)
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        assert torch.allclose(pattern.sum(-1), torch.ones(3, 2, 9).double())
        assert float(pattern.triu(1).abs().max()) == 0


def test_the_residual_stream_is_the_sum_of_what_is_written_to_it(columns: Tensor) -> None:
    model = random_model("none")
    out, cache = model.run_with_cache(columns)
    stream = cache["blocks.0.hook_resid_pre"]
    for layer in range(2):
        stream = stream + cache[f"blocks.{layer}.hook_attn_out"]
        assert torch.allclose(stream, cache[f"blocks.{layer}.hook_resid_mid"])
        stream = stream + cache[f"blocks.{layer}.hook_mlp_out"]
        assert torch.allclose(stream, cache[f"blocks.{layer}.hook_resid_post"])
    assert torch.allclose(stream @ model.W_U, out)


def test_a_hook_may_replace_an_activation(columns: Tensor) -> None:
    model = random_model("none")

    def ablate(name: str, activation: Tensor) -> Tensor:
        return torch.zeros_like(activation) if name.endswith("attn.hook_z") else activation

    assert not torch.allclose(model(columns, ablate), model(columns))


@pytest.mark.parametrize("mask", ["causal", "prefix", "rows"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("extra", [{}, {"log_n": True, "layer_norm": True}, {"n_positions": 6}])
def test_a_remembered_context_answers_as_the_whole_sequence_does(
    mask: Mask, heads: int, extra: dict[str, Any], columns: Tensor
) -> None:
    model = random_model(mask, heads=heads, **extra)
    memory = model.prefill(columns[:, :6])
    answers = model.decode(memory, columns[:, 6:])
    for i in range(3):
        alone = torch.cat([columns[:, :6], columns[:, 6 + i : 7 + i]], dim=1)
        assert torch.allclose(answers[:, i], model(alone)[:, -1])


@pytest.mark.parametrize("mask", ["none", "prefix", "rows"])
def test_a_row_and_its_multiplicity_count_as_the_row_repeated(mask: Mask, columns: Tensor) -> None:
    model = random_model(mask, log_n=True)
    counts = torch.tensor([[1, 3, 0, 2], [2, 1, 1, 1], [0, 0, 5, 1]])
    short = model(columns[:, :5], counts=counts)[:, -1]
    for i, own in enumerate(counts):
        rows = columns[i, :4].repeat_interleave(own, dim=0)
        whole = model(torch.cat([rows, columns[i, 4:5]])[None])[0, -1]
        assert torch.allclose(short[i], whole)
    if mask != "none":
        assert torch.allclose(model.decode(model.prefill(columns[:, :4], counts), columns[:, 4:5])[:, 0], short)
    if mask == "rows":  # one list of rows for all contexts
        shared = model.decode(model.prefill(columns[:1, :4], counts), columns[:, 4:])
        alone = [model(torch.cat([columns[0, :4], columns[i, 4:5]])[None], counts=counts[i : i + 1]) for i in range(3)]
        assert torch.allclose(shared[:, 0], torch.cat(alone)[:, -1])


def test_where_the_order_of_the_rows_matters_they_have_no_counts(columns: Tensor) -> None:
    for model in (random_model("causal"), random_model("none", n_positions=8)):
        with pytest.raises(ValueError, match="counts: expected none where the order of the rows matters, got some"):
            model(columns, counts=torch.ones(3, 8))
    with pytest.raises(ValueError, match="context: expected at most n_positions = 6 rows, got 8"):
        random_model("none", n_positions=6)(columns)


def test_tau_multiplies_the_scores_by_one_plus_tau_log_n(columns: Tensor) -> None:
    plain, scaled = random_model("causal"), random_model("causal", log_n=True)
    weights = plain.state_dict()
    scaled.load_state_dict({name: weights.get(name, torch.full((2, 1, 1), 0.5)) for name in scaled.state_dict()})
    scores = plain.run_with_cache(columns)[1]["blocks.0.attn.hook_attn_scores"]
    factor = 1 + 0.5 * torch.arange(1.0, 10.0).double().log()[:, None]
    assert torch.allclose(scaled.run_with_cache(columns)[1]["blocks.0.attn.hook_attn_scores"], scores * factor)


def test_a_context_that_sees_the_query_cannot_be_remembered(columns: Tensor) -> None:
    with pytest.raises(ValueError, match="prefill: expected a mask that hides the query from the context, got 'none'"):
        random_model("none").prefill(columns)


def test_trained_weights_answer_the_same_call_with_probability_vectors() -> None:
    net = bnicl.load_network("general5")
    width = sum(net.cardinalities) + net.n_nodes + 1
    config = TransformerConfig(width=width, n_outputs=10, d_model=16, n_layers=2, n_heads=2, d_head=8, d_mlp=32)
    model = bnicl.InContextTransformer(
        Transformer(config).init_weights(bnicl.make_generator(0)), net.cardinalities, readout="softmax"
    )
    rows = bnicl.NetworkPrior(net).sample(5, 21, seed=0).rows
    for target in range(5):
        p = model.predict_proba(rows[:, :20], rows[:, 20], target)
        assert tuple(p.shape) == (5, 2)
        assert torch.allclose(p.sum(-1), torch.ones(5))
    assert bnicl.evaluate({"random": model}, net, [5], 4)["tv"].between(0, 1).all()


def test_parts_of_a_large_batch_are_put_together_in_order() -> None:
    net = bnicl.load_network("chain5")
    rows = bnicl.NetworkPrior(net).sample(40, 1001, seed=0).rows
    predictor = bnicl.construct_mle_transformer(net, beta=3.0, dtype=torch.float32)
    whole = predictor.predict_proba(rows[:, :1000], rows[:, 1000], 3)  # sixteen at a time
    assert torch.equal(whole[30:31], predictor.predict_proba(rows[30:31, :1000], rows[30:31, 1000], 3))
