"""The transformer of this book: one class, in which hand-built and trained weights live alike.

Shapes, in the names of the field:

    resid     [batch, pos, d_model]          the residual stream, one column of the input a position
    q, k, v   [batch, head, pos, d_head]
    scores    [batch, head, query_pos, key_pos]   q . k, not scaled: a factor belongs to W_Q
    pattern   as scores; softmax over key_pos
    W_Q, W_K, W_V [n_heads, d_model, d_head], W_O [n_heads, d_head, d_model]
    W_in [d_model, d_mlp], W_out [d_mlp, d_model], W_E [width, d_model], W_U [d_model, S]

A layer adds attention to the stream, then a feed-forward network. The last position is the query; a
causal transformer's context never sees it, so that its keys and values are computed once (`remember`) and
serve any number of queries (`answer`). A matrix may be dense or sparse: the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from bnicl.encoding import ABSENT, Context, Query, blocks, encode
from bnicl.estimators import Probabilities

Stream = Float[Tensor, "batch pos d_model"]
Heads = Float[Tensor, "batch head pos d_head"]
Memory = list[tuple[Tensor, Tensor] | None]
Hook = Callable[[str, Tensor], Tensor]


class TransformerConfig(BaseModel):
    """The shape of a transformer; immutable.

    width: entries of an input column; n_outputs: entries of the read-out (S, the one-hot blocks); mlp_only:
    layers without attention.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: PositiveInt
    n_outputs: PositiveInt
    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    d_head: PositiveInt
    d_mlp: PositiveInt
    activation: Literal["relu", "gelu"] = "relu"
    layer_norm: bool = False
    causal: bool = False
    mlp_only: tuple[int, ...] = ()


def project(x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "*batch d_out"]:
    """x W for a dense or a sparse matrix W."""
    if weight.layout == torch.strided:
        return x @ weight
    flat = x.reshape(-1, x.shape[-1])
    return torch.sparse.mm(weight.t(), flat.t()).t().reshape(*x.shape[:-1], weight.shape[1])


def project_heads(x: Stream, weight: Float[Tensor, "head d_in d_out"]) -> Heads:
    """x W_h for every head h."""
    if weight.layout == torch.strided:
        return torch.einsum("bpi,hio->bhpo", x, weight)
    return torch.stack([project(x, weight[h]) for h in range(weight.shape[0])], dim=1)


class Attention(nn.Module):
    """softmax(q k^T) v for each head, added up by W_O."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        self.W_Q = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.zeros(heads, d_head, d_model))

    def keys_and_values(self, x: Stream) -> tuple[Heads, Heads]:
        """k and v of every position."""
        return project_heads(x, self.W_K), project_heads(x, self.W_V)

    def forward(self, x: Stream, hook: Hook, mask: Tensor | None, memory: tuple[Tensor, Tensor] | None) -> Stream:
        """Attention of each position to those that `mask` allows, or to `memory` and itself."""
        q = hook("attn.hook_q", project_heads(x, self.W_Q))
        k, v = self.keys_and_values(x)
        k, v = hook("attn.hook_k", k), hook("attn.hook_v", v)
        if memory is None:
            scores = q @ k.transpose(-1, -2)
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            pattern = hook("attn.hook_pattern", hook("attn.hook_attn_scores", scores).softmax(-1))
            z = pattern @ v
        else:
            past_k, past_v = memory
            own = (q * k).sum(-1, keepdim=True)
            scores = torch.cat([q @ past_k.transpose(-1, -2), own], dim=-1)
            pattern = hook("attn.hook_pattern", hook("attn.hook_attn_scores", scores).softmax(-1))
            z = pattern[..., :-1] @ past_v + pattern[..., -1:] * v
        z = hook("attn.hook_z", z)
        out = project(z[:, 0], self.W_O[0])
        for h in range(1, z.shape[1]):
            out = out + project(z[:, h], self.W_O[h])
        return hook("hook_attn_out", out)


class MLP(nn.Module):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.zeros(config.d_model, config.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp))
        self.W_out = nn.Parameter(torch.zeros(config.d_mlp, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model))
        self.activation = torch.relu if config.activation == "relu" else nn.functional.gelu

    def forward(self, x: Stream, hook: Hook) -> Stream:
        pre = hook("mlp.hook_pre", project(x, self.W_in) + self.b_in)
        post = hook("mlp.hook_post", self.activation(pre))
        return hook("hook_mlp_out", project(post, self.W_out) + self.b_out)


class Block(nn.Module):
    """One layer: the stream plus attention (if the layer has any), then plus the feed-forward network."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.d_model) if config.layer_norm else nn.Identity()
        self.attn = None if layer in config.mlp_only else Attention(config)
        self.ln2 = nn.LayerNorm(config.d_model) if config.layer_norm else nn.Identity()
        self.mlp = MLP(config)

    def forward(
        self, x: Stream, hook: Hook, mask: Tensor | None = None, memory: tuple[Tensor, Tensor] | None = None
    ) -> Stream:
        x = hook("hook_resid_pre", x)
        if self.attn is not None:
            x = x + self.attn(self.ln1(x), hook, mask, memory)
        x = hook("hook_resid_mid", x)
        return hook("hook_resid_post", x + self.mlp(self.ln2(x), hook))


class Transformer(nn.Module):
    """Columns [batch, pos, width] in, read-out [batch, pos, n_outputs] out.

    All weights are zero until they are set, by hand (`construction`) or by `init_weights`.

    >>> config = TransformerConfig(width=5, n_outputs=4, d_model=8, n_layers=2, n_heads=2, d_head=4, d_mlp=16)
    >>> model = Transformer(config).init_weights(torch.Generator().manual_seed(0))
    >>> out, cache = model.run_with_cache(torch.rand(3, 7, 5))
    >>> out.shape, cache["blocks.1.attn.hook_pattern"].shape
    (torch.Size([3, 7, 4]), torch.Size([3, 2, 7, 7]))
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.W_E = nn.Parameter(torch.zeros(config.width, config.d_model))
        layers = (Block(config, layer) for layer in range(config.n_layers))
        self.blocks = cast(Sequence[Block], nn.ModuleList(layers))
        self.ln_final = nn.LayerNorm(config.d_model) if config.layer_norm else nn.Identity()
        self.W_U = nn.Parameter(torch.zeros(config.d_model, config.n_outputs))

    def init_weights(self, generator: torch.Generator) -> Transformer:
        """Random weights: normal with variance 1 / fan-in, and W_Q smaller by sqrt(d_head); biases zero."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if ".ln" in name or name.startswith("ln"):
                    continue
                if name.rsplit(".", 1)[-1].startswith("b_"):
                    weight.zero_()
                else:
                    weight.normal_(std=weight.shape[-2] ** -0.5, generator=generator)
                    if name.endswith("W_Q"):
                        weight.mul_(self.config.d_head**-0.5)
        return self

    def forward(self, columns: Float[Tensor, "batch pos width"], hook: Hook | None = None) -> Tensor:
        """The read-out at every position. `hook(name, activation)` sees each activation and may replace it."""
        x = project(columns, self.W_E)
        n = columns.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() if self.config.causal else None
        for layer, block in enumerate(self.blocks):
            x = block(x, _prefixed(hook, layer), mask)
        return project(self.ln_final(x), self.W_U)

    def run_with_cache(self, columns: Float[Tensor, "batch pos width"]) -> tuple[Tensor, dict[str, Tensor]]:
        """The read-out, and every activation by its TransformerLens name ("blocks.0.attn.hook_pattern")."""
        cache: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor) -> Tensor:
            cache[name] = activation
            return activation

        return self(columns, keep), cache

    def remember(self, context: Float[Tensor, "batch n width"]) -> Memory:
        """Keys and values of the context in every layer, for `answer`. Raises ValueError unless causal."""
        if not self.config.causal:
            raise ValueError("remember: expected a causal transformer, got one whose context attends to the query")
        x = project(context, self.W_E)
        attending = [layer for layer in range(len(self.blocks)) if layer not in self.config.mlp_only]
        n = context.shape[1] if attending and attending[0] < len(self.blocks) - 1 else 0
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).tril() if n else None  # rows attend to rows
        memory: Memory = []
        for layer, block in enumerate(self.blocks):
            memory.append(block.attn.keys_and_values(block.ln1(x)) if block.attn is not None else None)
            if layer < len(self.blocks) - 1:
                x = block(x, _prefixed(None, layer), mask)
        return memory

    def answer(self, memory: Memory, queries: Float[Tensor, "batch n_queries width"]) -> Tensor:
        """The read-out for each query on its own, as if it stood alone after the context."""
        x = project(queries, self.W_E)
        for layer, (block, past) in enumerate(zip(self.blocks, memory, strict=True)):
            x = block(x, _prefixed(None, layer), memory=past)
        return project(self.ln_final(x), self.W_U)


def _prefixed(hook: Hook | None, layer: int) -> Hook:
    if hook is None:
        return lambda _, activation: activation
    return lambda name, activation: hook(f"blocks.{layer}.{name}", activation)


class InContextTransformer:
    """A transformer as a predictor: encode context and query, run, read the target's block.

    readout "share" divides the block by its sum (the constructed transformers average one-hot values),
    "softmax" takes it for logits: either way the prediction is a probability vector. With `parents`, the
    query carries the flags of its target's parents (the graph in the prompt).
    """

    name = "transformer"

    def __init__(
        self,
        model: Transformer,
        cardinalities: Sequence[int],
        readout: Literal["share", "softmax"] = "share",
        parents: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.model, self.cardinalities, self.readout, self.parents = model, tuple(cardinalities), readout, parents
        self._blocks = blocks(cardinalities)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.W_E.dtype

    def columns(self, context: Context, query: Query, target: int) -> Float[Tensor, "batch pos width"]:
        """The input matrix of `encode`, with the flags of the prompt where the graph is part of it."""
        columns = encode(context, query, target, self.cardinalities, self.dtype)
        if self.parents is None:
            return columns
        flags = columns.new_zeros(*columns.shape[:2], len(self.cardinalities))
        flags[:, -1, list(self.parents[target])] = 1
        return torch.cat([columns, flags], dim=-1)

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1."""
        columns = self.columns(context, query, target)
        step = max(1, 2**24 // columns.shape[1] ** 2)  # patterns of 128 MiB at the most
        with torch.no_grad():
            parts = [self._last(columns[i : i + step]) for i in range(0, len(columns), step)]
        return self.read(torch.cat(parts), target)

    def conditioned(self, context: Int64[Tensor, "n nodes"]) -> Callable[[Query, int], Probabilities]:
        """A function of queries [batch, M] and a target, for one context that is read once.

        Raises ValueError unless the transformer is causal.
        """
        empty = torch.full_like(context[:1], ABSENT)
        with torch.no_grad():
            memory = self.model.remember(self.columns(context[None], empty, 0)[:, :-1])

        def predict(query: Query, target: int) -> Probabilities:
            columns = self.columns(context[None, :1].expand(len(query), -1, -1), query, target)[:, -1]
            with torch.no_grad():
                return self.read(self.model.answer(memory, columns[None])[0], target)

        return predict

    def _last(self, columns: Tensor) -> Tensor:
        """The read-out of the last column, [batch, S]."""
        if not self.model.config.causal:
            return self.model(columns)[:, -1]
        return self.model.answer(self.model.remember(columns[:, :-1]), columns[:, -1:])[:, 0]

    def read(self, output: Float[Tensor, "batch S"], target: int) -> Probabilities:
        """The target's block of the read-out as a probability vector."""
        block = output[:, self._blocks[target]]
        return block.softmax(-1) if self.readout == "softmax" else block / block.sum(-1, keepdim=True)
