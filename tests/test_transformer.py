from typing import Literal

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.transformer import Transformer, TransformerConfig


def random_model(
    causal: bool, activation: Literal["relu", "gelu"] = "relu", layer_norm: bool = False, heads: int = 2
) -> Transformer:
    config = TransformerConfig(
        width=8, n_outputs=4, d_model=12, n_layers=2, n_heads=heads, d_head=5, d_mlp=16,
        activation=activation, layer_norm=layer_norm, causal=causal,
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
    for causal in (True, False):
        model = random_model(causal, activation, layer_norm)
        difference = (model(changed) - model(columns)).abs().amax((0, 2))
        assert bool((difference[5:] > 1e-3).any())
        if causal:
            assert difference[:5].max() == 0
        else:
            assert bool((difference[:5] > 1e-6).all())


def test_attention_is_that_of_torch(columns: Tensor) -> None:
    model = random_model(causal=True)
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
    model = random_model(causal=False)
    out, cache = model.run_with_cache(columns)
    stream = cache["blocks.0.hook_resid_pre"]
    for layer in range(2):
        stream = stream + cache[f"blocks.{layer}.hook_attn_out"]
        assert torch.allclose(stream, cache[f"blocks.{layer}.hook_resid_mid"])
        stream = stream + cache[f"blocks.{layer}.hook_mlp_out"]
        assert torch.allclose(stream, cache[f"blocks.{layer}.hook_resid_post"])
    assert torch.allclose(stream @ model.W_U, out)


def test_a_hook_may_replace_an_activation(columns: Tensor) -> None:
    model = random_model(causal=False)

    def ablate(name: str, activation: Tensor) -> Tensor:
        return torch.zeros_like(activation) if name.endswith("attn.hook_z") else activation

    assert not torch.allclose(model(columns, ablate), model(columns))


@pytest.mark.parametrize("heads", [1, 3])
def test_a_remembered_context_answers_as_the_whole_sequence_does(heads: int, columns: Tensor) -> None:
    model = random_model(causal=True, heads=heads)
    memory = model.remember(columns[:, :6])
    answers = model.answer(memory, columns[:, 6:])
    for i in range(3):
        alone = torch.cat([columns[:, :6], columns[:, 6 + i : 7 + i]], dim=1)
        assert torch.allclose(answers[:, i], model(alone)[:, -1])


def test_only_a_causal_context_can_be_remembered(columns: Tensor) -> None:
    with pytest.raises(ValueError, match="remember: expected a causal transformer, got one whose context attends"):
        random_model(causal=False).remember(columns)


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
