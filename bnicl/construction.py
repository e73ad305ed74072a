"""The constructive proof as weights: transformers that compute the in-context MLE of a given network.

The residual stream has four named subspaces, with S = sum of cardinalities and P = M + 1 flags:

    x    S   one-hot blocks of the column's values
    p    P   flags: which target the query asks for, or "context"
    r_p  P   scratch: the query's flags, copied to every column
    r_x  S   scratch: the weighted mean of the context's values

Layer 1 keeps, in every column, only the target and its parents; layer 2 attends to the context rows that
agree with the query on what is left, and averages the target's block over them. For z in [0, 1] and a
flag g, relu(z + g - 1) is z where g = 1 and 0 where g = 0: that is every gate below.

| variant   | layers x heads          | what differs                                                     |
|-----------|-------------------------|------------------------------------------------------------------|
| "paper"   | 2 x 1                   | every column learns the query's target and drops what it ignores |
| "causal"  | 2 x 1, 1st without      | only the query drops its non-parents: the context never sees it  |
| "heads"   | 1 x distinct parent sets| one head matches one set of parents; a gate picks the head       |
| "prompt"  | 2 x 1, 1st without      | as "causal", the graph given as flags of the query               |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bnicl.encoding import blocks, context_columns, query_columns
from bnicl.incontext import InContextTransformer
from bnicl.networks import BayesianNetwork, check_network
from bnicl.priors import check_count
from bnicl.rows import Counts
from bnicl.sampling import ravel_states
from bnicl.transformer import Memory, Transformer, TransformerConfig

Variant = Literal["paper", "causal", "heads", "prompt"]
START_BETA, START_SCALE = 8.0, 4.0  # still able to learn; the softmax of 4 p, 4 (1 - p) is p near p = 1/2
ROUNDING = 64  # times the machine epsilon: what the sums of a forward pass may add to the error


@dataclass(frozen=True)
class Subspaces:
    """Where the named parts of the residual stream lie, and the name of every direction."""

    x: range
    p: range
    r_p: range
    r_x: range
    g: range  # the prompt's flags of the parents; empty in the other variants

    @classmethod
    def of(cls, net: BayesianNetwork, variant: Variant) -> Subspaces:
        S, P = sum(net.cardinalities), net.n_nodes + 1
        sizes = (S, P, P, S, net.n_nodes if variant == "prompt" else 0)
        starts = [sum(sizes[:i]) for i in range(6)]
        return cls(*(range(starts[i], starts[i + 1]) for i in range(5)))

    @property
    def d_model(self) -> int:
        return self.g.stop

    def labels(self, net: BayesianNetwork) -> list[str]:
        """The name of every direction, in order."""
        values = [f"{name}={state}" for name, own in zip(net.names, net.states, strict=True) for state in own]
        flags = [*(f"target {name}" for name in net.names), "context"]
        parents = [f"parent {name}" for name in net.names] if self.g else []
        parts = (("x ", values), ("p ", flags), ("r_p ", flags), ("r_x ", values), ("g ", parents))
        return [prefix + name for prefix, names in parts for name in names]


class MLETransformer(InContextTransformer):
    """A transformer that computes the in-context MLE of `net`; made by `construct_mle_transformer`.

    Where no context row agrees with the query on the target's parents, the output tends, as beta grows,
    to the frequencies among the rows that agree on the most of them (`MaximumLikelihood` with
    unmatched="nearest").
    """

    name = "constructed transformer"

    def __init__(
        self, model: Transformer, net: BayesianNetwork, variant: Variant,
        beta: float, beta_1: float, gamma: float, max_context: int,
    ) -> None:  # fmt: skip
        super().__init__(model, net.cardinalities, parents=net.parents if variant == "prompt" else None)
        self.net, self.variant, self.spaces = net, variant, Subspaces.of(net, variant)
        self.beta, self.beta_1, self.gamma, self.max_context = beta, beta_1, gamma, max_context

    def columns(self, context: Tensor, query: Tensor, target: int) -> Tensor:
        if context.ndim == 3 and context.shape[1] > self.max_context:
            raise ValueError(f"context: expected at most max_context = {self.max_context} rows, got {context.shape[1]}")
        return super().columns(context, query, target)

    def conditioned(self, context: Tensor) -> Callable[[Tensor, int], Tensor]:
        """As for any transformer; queries that agree on the parents are one, for layer 1 drops the rest."""
        answer = super().conditioned(context)

        def predict(query: Tensor, target: int) -> Tensor:
            evidence = ravel_states(query, self.net.parents[target], self.cardinalities)
            different, which = evidence.unique(return_inverse=True)
            first = torch.zeros_like(different).scatter_(0, which, torch.arange(len(query)))
            return answer(query[first], target)[which]

        return predict

    def counted(self, counts: Counts) -> Callable[[Tensor, int], Tensor]:
        """As `conditioned`, for rows of which only the counts are known, however many they were.

        Rows that agree on the target and its parents are one to it, and are read once, with their count. Raises
        ValueError for more rows than max_context, and for the variants "paper", whose context sees the query, and
        "prompt".
        """
        if self.variant not in ("causal", "heads"):
            raise ValueError(f"variant: expected 'causal' or 'heads' for counts, got {self.variant!r}")
        if counts.n > self.max_context:
            raise ValueError(f"counts: expected at most max_context = {self.max_context} rows, got {counts.n}")

        @cache
        def memory(target: int) -> Memory:
            rows, times = counts.family_rows(target)
            columns = context_columns(rows[None], self.cardinalities, self.dtype)
            with torch.no_grad():
                return self.model.remember(columns, times[None])

        def predict(query: Tensor, target: int) -> Tensor:
            columns = query_columns(query[None], [target], self.cardinalities, self.dtype)[:, :, 0]
            with torch.no_grad():
                return self.read(self.model.answer(memory(target), columns)[0], target)

        return predict

    def error_bound(self, n: int | Tensor, n_matching: int | Tensor = 1) -> Tensor:
        """The most that output and MLE can differ by (see `error_bound`), rounding of this dtype included."""
        beta_1 = self.beta_1 if self.variant == "paper" else math.inf
        return error_bound(n, n_matching, self.beta, beta_1, self.gamma) + ROUNDING * torch.finfo(self.dtype).eps


def error_bound(
    n: int | Tensor, n_matching: int | Tensor, beta: float, beta_1: float = math.inf, gamma: float = math.inf
) -> Tensor:
    """The bound on || output - MLE ||_1 for a context of n rows of which n_matching >= 1 match.

        eta + 2 (n - n_matching) exp(-beta (1 - eta)^2) / n_matching + exp(-gamma) / n_matching,
        eta = n / (n + exp(beta_1))

    eta is what layer 1 loses, the second term the weight on rows that do not match, the third the query's
    weight on itself. It holds for the linear read-out and for its normalised form alike. Float64, at most 2.

    >>> error_bound(100, 1, beta=10.0)
    tensor(0.0090, dtype=torch.float64)
    """
    n, n_matching = torch.as_tensor(n, dtype=torch.float64), torch.as_tensor(n_matching, dtype=torch.float64)
    eta = n / (n + math.exp(beta_1)) if beta_1 < 700 else torch.zeros_like(n)
    off = 2 * (n - n_matching) * torch.exp(-beta * (1 - eta) ** 2) + math.exp(-gamma)
    return (eta + off / n_matching).clamp(max=2)


def construct_mle_transformer(
    net: BayesianNetwork,
    epsilon: float = 1e-6,
    max_context: int = 10_000,
    *,
    beta: float | None = None,
    beta_1: float | None = None,
    gamma: float | None = None,
    variant: Variant = "paper",
    dtype: torch.dtype = torch.float64,
    sparse: bool = False,
) -> MLETransformer:
    """The weights of the theorem: a predictor within `epsilon` of the in-context MLE in l1 norm.

    Only the graph of `net` is used. The inverse temperature of layer 2 is chosen from the bound,
    beta = log(2 max_context / epsilon), rounded up so that every score is exact in `dtype`; beta_1 (layer 1)
    and gamma (the context's head start over the query) are so large that their terms vanish, gamma even where
    no row matches. Each may be given instead. With `sparse` the matrices hold their O(S + edges) non-zero entries only.

    Raises ValueError for an epsilon that is not positive or that the dtype cannot reach, and for a
    max_context below 1. Reference: arXiv 2501.02547, the theorem and its proof.

    >>> from bnicl import load_network
    >>> predictor = construct_mle_transformer(load_network("chain5"), epsilon=1e-3, max_context=100)
    >>> predictor.beta, predictor.model.config.n_layers
    (12.21875, 2)
    """
    check_network(net)
    if variant not in get_args(Variant):
        raise ValueError(f"variant: expected one of {', '.join(get_args(Variant))}, got {variant!r}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    check_count("max_context", max_context)
    eps = torch.finfo(dtype).eps
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon: expected a positive number, got {epsilon}")
    if beta is None and epsilon < 2 * ROUNDING * eps:
        double = 2 * ROUNDING * torch.finfo(torch.float64).eps
        hint = "torch.float64 would do" if epsilon >= double else "no dtype of torch reaches it"
        raise ValueError(f"epsilon: expected at least {2 * ROUNDING * eps:.2g} for {dtype}, got {epsilon}; {hint}")
    for name, value in (("beta", beta), ("beta_1", beta_1), ("gamma", gamma)):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}: expected a number of at least 0, got {value}")

    beta_1 = _exact(math.log(8 * max_context / eps)) if beta_1 is None else beta_1
    if beta is None:
        beta = _exact(math.log(2 * max_context / (epsilon - ROUNDING * eps)))
    if gamma is None:  # a query agrees with itself on everything, a row that does not match perhaps on nothing
        gamma = _exact(math.log(8 / eps) + beta * max(map(len, net.parents)))
    builder = _Builder(net, variant)
    builder.embed()
    if variant == "heads":
        builder.match_by_heads(beta, gamma)
    else:
        builder.select(beta_1)
        builder.match(beta, gamma)
    return MLETransformer(builder.build(dtype, sparse), net, variant, beta, beta_1, gamma, max_context)


def start_as_construction(model: Transformer, net: BayesianNetwork) -> Transformer:
    """`model`, in place, with the "causal" construction in a corner of its weights: an initialisation for training.

    model: random weights, of at least the construction's size (`check_room`). What it has beyond that keeps its random
    weights but writes nothing yet (its W_O and W_out are zero), so that the read-out is exactly START_SCALE times the
    constructed transformer's with the inverse temperature START_BETA, and all of it can learn.
    """
    builder = _Builder(net, "causal")
    builder.embed()
    builder.select(0.0)
    builder.match(START_BETA, gamma=START_BETA * (1 + max(map(len, net.parents))))
    S = builder.S
    own = {"W_Q": (0,), "W_K": (0, slice(None), slice(S + 1)), "W_V": (0, slice(None), slice(S + 1)),
           "W_in": (slice(None), slice(2 * S))}  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if last not in own:
                weight.zero_()
            elif name in builder.entries:
                weight[own[last]] = 0
            if name in builder.entries:
                index, values = torch.tensor(builder.entries[name]).T, torch.tensor(builder.values[name])
                weight.index_put_(tuple(index), values.to(weight), accumulate=True)
        model.W_U.mul_(START_SCALE)
    return model


def check_room(config: TransformerConfig, net: BayesianNetwork) -> None:
    """Raises ValueError where a transformer of this shape cannot hold the "causal" construction for `net`."""
    S, d_model = sum(net.cardinalities), Subspaces.of(net, "causal").d_model
    least = {"n_layers": 2, "d_model": d_model, "d_head": S + 1, "d_mlp": 2 * S}
    for name, needed in least.items():
        if getattr(config, name) < needed:
            raise ValueError(f"{name}: expected at least {needed} for the construction, got {getattr(config, name)}")
    if config.layer_norm or config.activation != "relu" or config.width != S + net.n_nodes + 1:
        raise ValueError("start: expected one-hot columns, relu and no layer norm for the construction, got others")


def _exact(value: float) -> float:
    """Rounded up to a multiple of 1/64: sums of a few hundred of these are exact in float32."""
    return math.ceil(value * 64) / 64


class _Builder:
    """Collects the non-zero entries of every matrix by name, then makes a Transformer of them."""

    def __init__(self, net: BayesianNetwork, variant: Variant) -> None:
        self.net, self.variant, self.spaces = net, variant, Subspaces.of(net, variant)
        self.S, self.units = sum(net.cardinalities), blocks(net.cardinalities)
        self.parent_sets = sorted({tuple(sorted(parents)) for parents in net.parents})
        self.entries: dict[str, list[tuple[int, ...]]] = {}
        self.values: dict[str, list[float]] = {}

    def put(self, name: str, value: float, *index: int) -> None:
        self.entries.setdefault(name, []).append(index)
        self.values.setdefault(name, []).append(value)

    def embed(self) -> None:
        """The column goes to x, p (and g); the read-out takes r_x."""
        spaces = self.spaces
        for i, direction in enumerate((*spaces.x, *spaces.p, *spaces.g)):
            self.put("W_E", 1, i, direction)
        for u, direction in enumerate(spaces.r_x):
            self.put("W_U", 1, direction, u)

    def select(self, beta_1: float) -> None:
        """Layer 1: keep the target's parents (and, in the context, the target)."""
        net, (x, p, r_p, g) = self.net, (self.spaces.x, self.spaces.p, self.spaces.r_p, self.spaces.g)
        context = net.n_nodes
        gates: list[list[int]] = [[] for _ in range(net.n_nodes)]  # the directions that open each block
        if self.variant == "paper":
            for j in range(net.n_nodes + 1):
                self.put("blocks.0.attn.W_Q", beta_1, 0, p[j], 0)
                self.put("blocks.0.attn.W_V", 1, 0, p[j], j)
                self.put("blocks.0.attn.W_O", 1, 0, j, r_p[j])
                if j != context:
                    self.put("blocks.0.attn.W_K", 1, 0, p[j], 0)
            for target, parents in enumerate(net.parents):
                for m in (target, *parents):
                    gates[m].append(r_p[target])
        else:
            for m in range(net.n_nodes):
                gates[m].append(p[context])
                if self.variant == "prompt":
                    gates[m].append(g[m])
            if self.variant == "causal":
                for target, parents in enumerate(net.parents):
                    for m in parents:
                        gates[m].append(p[target])
        self.gate(0, x, gates)

    def match(self, beta: float, gamma: float) -> None:
        """Layer 2: attend to the rows that agree with what is left of the query, average their values."""
        x, p, r_x = self.spaces.x, self.spaces.p, self.spaces.r_x
        for u in range(self.S):
            self.put("blocks.1.attn.W_Q", beta, 0, x[u], u)
            self.put("blocks.1.attn.W_K", 1, 0, x[u], u)
            self.put("blocks.1.attn.W_V", 1, 0, x[u], u)
            self.put("blocks.1.attn.W_O", 1, 0, u, r_x[u])
        self.head_start(1, 0, gamma)
        self.gate(1, r_x, [[p[m]] for m in range(self.net.n_nodes)])

    def match_by_heads(self, beta: float, gamma: float) -> None:
        """One layer: head h matches on parent set h and writes the blocks of the targets that have it."""
        x, p, r_x = self.spaces.x, self.spaces.p, self.spaces.r_x
        for h, parents in enumerate(self.parent_sets):
            for m in parents:
                for u in range(self.units[m].start, self.units[m].stop):
                    self.put("blocks.0.attn.W_Q", beta, h, x[u], u)
                    self.put("blocks.0.attn.W_K", 1, h, x[u], u)
            for target in range(self.net.n_nodes):
                if tuple(sorted(self.net.parents[target])) == parents:
                    for u in range(self.units[target].start, self.units[target].stop):
                        self.put("blocks.0.attn.W_V", 1, h, x[u], u)
                        self.put("blocks.0.attn.W_O", 1, h, u, r_x[u])
            self.head_start(0, h, gamma)
        self.gate(0, r_x, [[p[m]] for m in range(self.net.n_nodes)])

    def head_start(self, layer: int, head: int, gamma: float) -> None:
        """gamma to the score of every context row: the flags of a query sum to 1."""
        p, context = self.spaces.p, self.net.n_nodes
        for j in range(context + 1):
            self.put(f"blocks.{layer}.attn.W_Q", gamma, head, p[j], self.S)
        self.put(f"blocks.{layer}.attn.W_K", 1, head, p[context], self.S)

    def gate(self, layer: int, space: range, gates: list[list[int]]) -> None:
        """z <- relu(z + g - 1) in every direction of `space`, g the sum of its block's gates."""
        for m, block in enumerate(self.units):
            for u in range(block.start, block.stop):
                self.put(f"blocks.{layer}.mlp.W_in", 1, space[u], u)
                self.put(f"blocks.{layer}.mlp.W_out", -1, u, space[u])
                self.put(f"blocks.{layer}.mlp.W_in", 1, space[u], self.S + u)
                for direction in gates[m]:
                    self.put(f"blocks.{layer}.mlp.W_in", 1, direction, self.S + u)
                self.put(f"blocks.{layer}.mlp.b_in", -1, self.S + u)
                self.put(f"blocks.{layer}.mlp.W_out", 1, self.S + u, space[u])

    def build(self, dtype: torch.dtype, sparse: bool) -> Transformer:
        heads = self.variant == "heads"
        config = TransformerConfig(
            width=len(self.spaces.x) + len(self.spaces.p) + len(self.spaces.g),
            n_outputs=self.S,
            d_model=self.spaces.d_model,
            n_layers=1 if heads else 2,
            n_heads=len(self.parent_sets) if heads else 1,
            d_head=self.S + 1,
            d_mlp=2 * self.S,
            mask="none" if self.variant == "paper" else "causal",
            mlp_only=(0,) if self.variant in ("causal", "prompt") else (),
        )
        with torch.device("meta"):  # nothing is allocated: a dense matrix may not fit
            model = Transformer(config)
        for name, weight in list(model.named_parameters()):
            index = torch.tensor(self.entries.get(name, [()] * 0), dtype=torch.int64).reshape(-1, weight.ndim).t()
            values = torch.tensor(self.values.get(name, []), dtype=dtype)
            matrix = torch.sparse_coo_tensor(index, values, weight.shape, check_invariants=True).coalesce()
            keep_sparse = sparse and weight.ndim > 1
            _replace(model, name, matrix if keep_sparse else matrix.to_dense())
        return model


def _replace(model: nn.Module, name: str, weight: Tensor) -> None:
    """Puts a fixed weight where the module had a parameter."""
    path, _, last = name.rpartition(".")
    owner = model.get_submodule(path)
    delattr(owner, last)
    owner.register_buffer(last, weight)
