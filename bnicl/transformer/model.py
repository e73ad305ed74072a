"""The transformer of this book: one class, in which hand-built and trained weights live alike.

Shapes, in the names of the field:

    resid     [batch, pos, d_model]          the residual stream, one column of the input a position
    q, k, v   [batch, head, pos, d_head]
    scores    [batch, head, query_pos, key_pos]   q . k, not scaled: a factor belongs to W_Q
    pattern   as scores; softmax over key_pos
    W_Q, W_K, W_V [n_heads, d_model, d_head], W_O [n_heads, d_head, d_model]
    W_in [d_model, d_mlp], W_out [d_mlp, d_model], W_E [width, d_model], W_U [d_model, S]

A layer adds attention to the stream, then a feed-forward network. The last position is the query; where
the mask hides it from the context, the context's keys and values are computed once (`prefill`: the KV cache) and serve
any number of queries (`decode`). Without positions a context is a multiset: rows that are equal stay equal
in every layer, so each may stand once, with its multiplicity (`counts`), and the numbers are the same. The
same holds for dense and sparse matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor, nn

Stream = Float[Tensor, "batch pos d_model"]
Heads = Float[Tensor, "batch head pos d_head"]
Hook = Callable[[str, Tensor], Tensor]
Mask = Literal["none", "causal", "prefix", "rows"]


class KVCache(NamedTuple):
    """A context that has been read (prefill): keys and values of each layer (None for a layer without attention).

    log_counts: the logarithm of each row's multiplicity, [batch, 1, 1, n], or None for rows that stand once.
    log_n: the logarithm of how many columns a query sees, itself included, [batch, 1, 1, 1].
    """

    layers: list[tuple[Tensor, Tensor] | None]
    log_counts: Tensor | None
    log_n: Tensor


class TransformerConfig(BaseModel):
    """The shape of a transformer; immutable.

    width: entries of an input column; n_outputs: entries of the read-out (S, the one-hot blocks).
    mask: which columns a column attends to: all ("none"); those before it and itself ("causal"); or, for a
    column of the context, the context's ("prefix") or itself alone ("rows"), the query attending to all.
    n_positions: learned positions for this many rows; 0 for none. log_n: each head multiplies its scores by
    1 + tau log n, with a learned tau and n the columns that it sees. mlp_only: layers without attention.

    Three more are GPT-2's. scaled_scores: scores are divided by sqrt(d_head). biases: of every matrix, not only of the
    feed-forward networks'. one_logit: one entry is read out for all nodes, which have two states: the logit of each
    node's second state; the first state's is 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    width: PositiveInt
    n_outputs: PositiveInt
    d_model: PositiveInt
    n_layers: PositiveInt
    n_heads: PositiveInt
    d_head: PositiveInt
    d_mlp: PositiveInt
    activation: Literal["relu", "gelu", "gelu_tanh"] = "relu"
    layer_norm: bool = False
    mask: Mask = "none"
    n_positions: NonNegativeInt = 0
    log_n: bool = False
    mlp_only: tuple[int, ...] = ()
    scaled_scores: bool = False
    biases: bool = False
    one_logit: bool = False


def project(x: Float[Tensor, "*batch d_in"], weight: Float[Tensor, "d_in d_out"]) -> Float[Tensor, "*batch d_out"]:
    """x W for a dense or a sparse matrix W."""
    if weight.layout == torch.strided:
        return x @ weight
    flat = x.reshape(-1, x.shape[-1])
    return torch.sparse.mm(weight.t(), flat.t()).t().reshape(*x.shape[:-1], weight.shape[1])


def project_heads(x: Stream, weight: Float[Tensor, "head d_in d_out"]) -> Heads:
    """x W_h for every head h."""
    heads, _, d_head = weight.shape
    if weight.layout == torch.strided:
        joined = x @ weight.transpose(0, 1).flatten(1)
        return joined.unflatten(-1, (heads, d_head)).transpose(1, 2)
    return torch.stack([project(x, weight[h]) for h in range(heads)], dim=1)


class Attention(nn.Module):
    """softmax(q k^T) v for each head, added up by W_O."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        heads, d_model, d_head = config.n_heads, config.d_model, config.d_head
        self.W_Q = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.zeros(heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.zeros(heads, d_head, d_model))
        self.tau = nn.Parameter(torch.zeros(heads, 1, 1)) if config.log_n else None
        self.b_Q, self.b_K, self.b_V = (_bias(config, heads, 1, d_head) for _ in range(3))
        self.b_O = _bias(config, d_model)
        self.scale = d_head**-0.5 if config.scaled_scores else 1.0

    def keys_and_values(self, x: Stream) -> tuple[Heads, Heads]:
        """k and v of every position."""
        return plus(project_heads(x, self.W_K), self.b_K), plus(project_heads(x, self.W_V), self.b_V)

    def queries(self, x: Stream, log_n: Tensor) -> Heads:
        """q of every position; log_n [batch or 1, 1, pos or 1, 1] is the logarithm of how many columns it sees."""
        q = plus(project_heads(x, self.W_Q), self.b_Q)
        q = q if self.scale == 1 else q * self.scale
        return q if self.tau is None else q * (1 + self.tau * log_n)

    def forward(self, x: Stream, hook: Hook, log_n: Tensor, bias: Tensor | None) -> Stream:
        """Attention among the columns x; `bias` is added to the scores (-inf: a column is not seen)."""
        q = hook("attn.hook_q", self.queries(x, log_n))
        k, v = self.keys_and_values(x)
        k, v = hook("attn.hook_k", k), hook("attn.hook_v", v)
        scores = q @ k.transpose(-1, -2)
        scores = hook("attn.hook_attn_scores", scores if bias is None else scores + bias)
        return self.write(hook("attn.hook_pattern", scores.softmax(-1)) @ v, hook)

    def attend_to_cache(self, x: Stream, hook: Hook, cache: KVCache, layer: int) -> Stream:
        """Attention of each of the columns x to a context that was read before, and to itself."""
        past = cache.layers[layer]
        assert past is not None
        q = hook("attn.hook_q", self.queries(x, cache.log_n))
        k, v = self.keys_and_values(x)
        scores = _shared_matmul(q, past[0].transpose(-1, -2))
        if cache.log_counts is not None:
            scores = scores + cache.log_counts
        scores = torch.cat([scores, (q * k).sum(-1, keepdim=True)], dim=-1)
        pattern = hook("attn.hook_pattern", hook("attn.hook_attn_scores", scores).softmax(-1))
        return self.write(_shared_matmul(pattern[..., :-1], past[1]) + pattern[..., -1:] * v, hook)

    def attend_to_itself(self, x: Stream, hook: Hook) -> Stream:
        """What `forward` is where every column sees itself alone."""
        return self.write(plus(project_heads(x, self.W_V), self.b_V), hook)

    def write(self, z: Heads, hook: Hook) -> Stream:
        """What the heads' means add to the stream."""
        z = hook("attn.hook_z", z)
        if self.W_O.layout == torch.strided:
            out = z.transpose(1, 2).flatten(2) @ self.W_O.flatten(0, 1)
        else:
            out = project(z[:, 0], self.W_O[0])
            for h in range(1, z.shape[1]):
                out = out + project(z[:, h], self.W_O[h])
        return hook("hook_attn_out", plus(out, self.b_O))


def _bias(config: TransformerConfig, *shape: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(*shape)) if config.biases else None


def plus(x: Tensor, bias: Tensor | None) -> Tensor:
    """x + b, where there is a bias."""
    return x if bias is None else x + bias


def _shared_matmul(a: Float[Tensor, "batch head i j"], b: Float[Tensor, "any head j k"]) -> Tensor:
    """a @ b; where b has one batch entry for all of a's, the batch is laid along a's rows (one large product)."""
    if b.shape[0] == a.shape[0]:
        return a @ b
    batch, heads, i, _ = a.shape
    product = a.transpose(0, 1).reshape(heads, batch * i, -1) @ b[0]
    return product.unflatten(1, (batch, i)).transpose(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
}


class MLP(nn.Module):
    """act(x W_in + b_in) W_out + b_out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.zeros(config.d_model, config.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(config.d_mlp))
        self.W_out = nn.Parameter(torch.zeros(config.d_mlp, config.d_model))
        self.b_out = nn.Parameter(torch.zeros(config.d_model))
        self.activation = ACTIVATIONS[config.activation]

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

    def forward(self, x: Stream, hook: Hook, attend: Callable[[Attention, Stream, Hook], Stream]) -> Stream:
        x = hook("hook_resid_pre", x)
        if self.attn is not None:
            x = x + attend(self.attn, self.ln1(x), hook)
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
        self.W_pos = nn.Parameter(torch.zeros(config.n_positions, config.d_model)) if config.n_positions else None
        layers = (Block(config, layer) for layer in range(config.n_layers))
        self.blocks = cast(Sequence[Block], nn.ModuleList(layers))
        self.ln_final = nn.LayerNorm(config.d_model) if config.layer_norm else nn.Identity()
        self.W_U = nn.Parameter(torch.zeros(config.d_model, 1 if config.one_logit else config.n_outputs))
        self.b_E, self.b_U = _bias(config, config.d_model), _bias(config, self.W_U.shape[1])

    def init_weights(self, generator: torch.Generator, scaled: bool = False, std: float | None = None) -> Transformer:
        """Random weights: normal with variance 1 / rows, and W_Q smaller by sqrt(d_head); biases zero, tau 1/2.

        scaled: the 2L matrices W_O and W_out of L layers are smaller by sqrt(2L), so that the stream does not grow with
        depth. std: of every matrix instead.
        """
        with torch.no_grad():
            for name, weight in self.named_parameters():
                last = name.rsplit(".", 1)[-1]
                if ".ln" in name or name.startswith("ln"):
                    continue
                if last.startswith("b_") or last == "tau":
                    weight.fill_(0.5 if last == "tau" else 0.0)
                else:
                    weight.normal_(std=weight.shape[-2] ** -0.5 if std is None else std, generator=generator)
                    if last == "W_Q" and std is None:
                        weight.mul_(self.config.d_head**-0.5)
                    elif scaled and last in ("W_O", "W_out"):
                        weight.mul_((2 * self.config.n_layers) ** -0.5)
        return self

    def forward(
        self, columns: Float[Tensor, "batch pos width"], hook: Hook | None = None, counts: Tensor | None = None
    ) -> Tensor:
        """The read-out at every position. `hook(name, activation)` sees each activation and may replace it.

        counts [batch, pos - 1]: how often each row of the context stands there, by default once.
        """
        log_n, bias = self._visible(columns, counts)
        x = torch.cat([self._read_in(columns[:, :-1]), self._embed(columns[:, -1:])], dim=1)
        for layer, block in enumerate(self.blocks):
            x = block(x, _prefixed(hook, layer), lambda attn, x, hook: attn(x, hook, log_n, bias))
        return self._unembed(x)

    def answer(
        self, columns: Float[Tensor, "batch pos width"], hook: Hook | None = None, counts: Tensor | None = None
    ) -> Float[Tensor, "batch n_outputs"]:
        """`forward` at the query alone: the last layer is computed for its column only; the numbers are the same."""
        log_n, bias = self._visible(columns, counts)
        x = torch.cat([self._read_in(columns[:, :-1]), self._embed(columns[:, -1:])], dim=1)
        *first, last = self.blocks
        for layer, block in enumerate(first):
            x = block(x, _prefixed(hook, layer), lambda attn, x, hook: attn(x, hook, log_n, bias))
        past = last.attn.keys_and_values(last.ln1(x[:, :-1])) if last.attn is not None else None
        times = None if counts is None else counts.to(x.dtype).log()[:, None, None]
        cache = KVCache([past], times, log_n[:, :, -1:])
        x = last(x[:, -1:], _prefixed(hook, len(first)), partial(Attention.attend_to_cache, cache=cache, layer=0))
        return self._unembed(x)[:, 0]

    def _embed(self, columns: Tensor) -> Stream:
        return plus(project(columns, self.W_E), self.b_E)

    def _unembed(self, x: Stream) -> Tensor:
        out = plus(project(self.ln_final(x), self.W_U), self.b_U)
        if not self.config.one_logit:
            return out
        return torch.cat([torch.zeros_like(out), out], dim=-1).repeat(1, 1, self.config.n_outputs // 2)

    def _read_in(self, context: Tensor) -> Tensor:
        """The stream of the context's rows before the first layer."""
        x = self._embed(context)
        if self.W_pos is None:
            return x
        if x.shape[1] > len(self.W_pos):
            raise ValueError(f"context: expected at most n_positions = {len(self.W_pos)} rows, got {x.shape[1]}")
        return x + self.W_pos[: x.shape[1]]

    def _visible(self, columns: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """log n of each column, [batch or 1, 1, pos, 1], and the bias of its scores, [batch or 1, 1, pos, pos].

        n is how many columns it sees; the bias is the logarithm of how often it sees each (None: each once).
        """
        mask, n = self.config.mask, columns.shape[1]
        times = columns.new_ones(1, n, n)
        if counts is not None:
            if mask == "causal" or self.W_pos is not None:
                raise ValueError("counts: expected none where the order of the rows matters, got some")
            times = nn.functional.pad(counts.to(columns.dtype), (0, 1), value=1.0)[:, None].repeat(1, n, 1)
        if mask == "causal":
            times = times.tril()
        elif mask == "prefix":
            times[:, :-1, -1] = 0
        elif mask == "rows":
            times[:, :-1] = torch.eye(n, dtype=columns.dtype, device=columns.device)[:-1]
        bias = None if mask == "none" and counts is None else times.log()[:, None]
        return times.sum(-1).log()[:, None, :, None], bias

    def run_with_cache(self, columns: Float[Tensor, "batch pos width"]) -> tuple[Tensor, dict[str, Tensor]]:
        """The read-out, and every activation by its TransformerLens name ("blocks.0.attn.hook_pattern")."""
        cache: dict[str, Tensor] = {}

        def keep(name: str, activation: Tensor) -> Tensor:
            cache[name] = activation
            return activation

        return self(columns, keep), cache

    def prefill(
        self, context: Float[Tensor, "batch n width"], counts: Tensor | None = None, hook: Hook | None = None
    ) -> KVCache:
        """Keys and values of the context in every layer, for `decode`.

        counts [batch, n]: how often each row stands in the context, by default once. One list of rows may have the
        counts of many contexts; under the mask "rows" it is then read once for all of them.
        Raises ValueError where the context attends to the query (mask "none").
        """
        mask, last = self.config.mask, len(self.blocks) - 1
        if mask == "none":
            raise ValueError("prefill: expected a mask that hides the query from the context, got 'none'")
        x = self._read_in(context)
        if mask != "rows" and any(block.attn is not None for block in self.blocks[:last]):
            log_n, bias = self._visible(torch.cat([context, context[:, :1]], dim=1), counts)  # any query: it is unseen
            assert bias is not None
            x = x if counts is None else x.expand(len(counts), -1, -1)
            log_n, bias = log_n[:, :, :-1], bias[:, :, :-1, :-1]

        def attend(attn: Attention, x: Tensor, hook: Hook) -> Tensor:
            return attn.attend_to_itself(x, hook) if mask == "rows" else attn(x, hook, log_n, bias)

        layers: list[tuple[Tensor, Tensor] | None] = []
        for layer, block in enumerate(self.blocks):
            layers.append(block.attn.keys_and_values(block.ln1(x)) if block.attn is not None else None)
            if layer < last:
                x = block(x, _prefixed(hook, layer), attend)
        if counts is None:
            return KVCache(layers, None, x.new_full((1, 1, 1, 1), context.shape[1] + 1).log())
        counts = counts.to(x.dtype)[:, None, None]
        return KVCache(layers, counts.log(), (counts.sum(-1, keepdim=True) + 1).log())

    def decode(
        self, cache: KVCache, queries: Float[Tensor, "batch n_queries width"], hook: Hook | None = None
    ) -> Tensor:
        """The read-out for each query on its own, as if it stood alone after the context."""
        x = self._embed(queries)
        for layer, block in enumerate(self.blocks):
            x = block(x, _prefixed(hook, layer), partial(Attention.attend_to_cache, cache=cache, layer=layer))
        return self._unembed(x)


def _no_hook(_: str, activation: Tensor) -> Tensor:
    return activation


def _prefixed(hook: Hook | None, layer: int) -> Hook:
    if hook is None:
        return _no_hook
    return lambda name, activation: hook(f"blocks.{layer}.{name}", activation)
