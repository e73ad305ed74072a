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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bnicl.counts import Counts, row_codes
from bnicl.encoding import (
    ABSENT,
    Context,
    Query,
    blocks,
    check_context,
    check_query,
    context_columns,
    query_columns_each,
)
from bnicl.estimators import Probabilities
from bnicl.incontext import InContextTransformer
from bnicl.networks import BayesianNetwork, check_network
from bnicl.priors import check_count
from bnicl.transformer import Hook, Transformer, TransformerConfig

Variant = Literal["paper", "causal", "heads", "prompt"]
_SCORES = 2**24  # of a pattern held at once: 128 MiB
START_BETA, START_SCALE = 8.0, 4.0  # still able to learn; the softmax of 4 p, 4 (1 - p) is p near p = 1/2
ROUNDING = 32  # times the machine epsilon: what a forward pass may add to the error, and 2 log n beside it


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
        self._check_length(context.shape[1] if context.ndim == 3 else 0)
        return super().columns(context, query, target)

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1.

        Context rows that agree on the target and its parents are one to it, and are read once, with their number: the
        sums have as many terms as there are different ones, and rounding hardly grows with the rows.
        """
        check_context(context, self.cardinalities)
        check_query(context, query, target, self.cardinalities)
        self._check_length(context.shape[1])
        rows, times = _multisets(context, (*self.net.parents[target], target), self.cardinalities)
        step = max(1, _SCORES // (rows.shape[1] + 1) ** 2)
        parts = [
            self._outputs(rows[i : i + step], _log(times[i : i + step]), query[i : i + step, None], [target])
            for i in range(0, len(context), step)
        ]
        return self.read(torch.cat(parts)[:, 0], target)

    def conditioned(self, context: Int64[Tensor, "n nodes"]) -> Callable[[Query, int], Probabilities]:
        """A function of queries [batch, M] and a target, for one context, of which the counts are taken once."""
        check_context(context[None], self.cardinalities)
        return self.counted(Counts.of([context], self.net))

    def counted(self, counts: Counts) -> Callable[[Query, int], Probabilities]:
        """As `conditioned`, for rows of which only the counts are known, however many they were.

        The answers for all states of the parents that were seen are computed once, for many nodes in one pass; those
        for others when they are asked for. Raises ValueError for more rows than max_context, and where no row has a
        value for the target's family.
        """
        self._check_length(counts.n)
        tables: dict[int, Tensor] = {}

        def predict(query: Query, target: int) -> Probabilities:
            if target not in tables:
                tables.update(self._tables(counts, target))
            p = counts.look_up(tables[target], query, target)
            alone = (p.sum(-1) == 0).nonzero()[:, 0]
            if len(alone):
                rows, times = counts.family_rows(target)
                parts = query[alone].split(max(1, _SCORES // (len(rows) + 1) ** 2))
                out = [self._outputs(rows[None], _log(times[None]), part[None], [target] * len(part)) for part in parts]
                p[alone] = self.read(torch.cat(out, dim=1)[0], target)
            return p

        return predict

    def _tables(self, counts: Counts, first: int) -> dict[int, Tensor]:
        """The answers [seen, card] for all states of the parents that were seen, of `first` and of some nodes after it.

        The families of several nodes are one context, in which a query attends to the rows of its target's family.
        """
        rows, times, queries = list[Tensor](), list[Tensor](), list[Tensor]()
        owners, asked = list[int](), list[int]()
        for target in range(first, self.net.n_nodes):
            own, often = counts.family_rows(target)
            if not len(own):
                raise ValueError(f"rows: expected one with {self.net.names[target]} and its parents, got none")
            evidence = counts.evidence_rows(target)
            if rows and (len(owners) + len(own)) * (len(asked) + len(evidence)) > _SCORES // 2**6:
                break
            rows, times, queries = [*rows, own], [*times, often], [*queries, evidence]
            owners, asked = [*owners, *[target] * len(own)], [*asked, *[target] * len(evidence)]
            if self.model.config.mask == "none":  # the context sees the query: it can have one target alone
                break
        others = torch.tensor(asked)[:, None] != torch.tensor(owners)
        log_times = torch.cat(times).log().masked_fill(others, -math.inf)[None, None]
        out = self._outputs(torch.cat(rows)[None], log_times, torch.cat(queries)[None], asked)[0]
        parts = zip(range(first, self.net.n_nodes), out.split([len(q) for q in queries]), strict=False)
        return {target: self.read(part, target) for target, part in parts}

    def _outputs(
        self,
        rows: Int64[Tensor, "batch n nodes"],
        log_times: Float[Tensor, "batch 1 any n"],
        queries: Int64[Tensor, "batch n_queries nodes"],
        targets: Sequence[int],
    ) -> Float[Tensor, "batch n_queries S"]:
        """The read-out for each query and its target, after rows of which each stands exp(log_times) times."""
        context = self._prompted(context_columns(rows, self.cardinalities, self.dtype), [])
        asked = self._prompted(query_columns_each(queries, targets, self.cardinalities, self.dtype), targets)
        with torch.no_grad():
            if self.model.config.mask != "none":
                return self.model.answer(self.model.remember(context), asked, _weighed(log_times))
            each = context.repeat_interleave(len(targets), 0)  # each query is a sequence of its own
            columns = torch.cat([each, asked.flatten(0, 1)[:, None]], dim=1)
            log_times = log_times.expand(-1, -1, len(targets), -1).transpose(1, 2).flatten(0, 1)[:, None]
            return self.model(columns, _weighed(log_times))[:, -1].unflatten(0, asked.shape[:2])

    def _prompted(self, columns: Float[Tensor, "*batch width"], targets: Sequence[int]) -> Float[Tensor, "*batch more"]:
        """With the flags of each column's parents, where the graph is part of the prompt."""
        flags = columns.new_zeros(*columns.shape[:-1], len(self.spaces.g))
        for i, target in enumerate(targets if self.spaces.g else []):
            flags[..., i, list(self.net.parents[target])] = 1
        return torch.cat([columns, flags], dim=-1)

    def _check_length(self, n: int) -> None:
        if n > self.max_context:
            raise ValueError(f"context: expected at most max_context = {self.max_context} rows, got {n}")

    def error_bound(self, n: int | Tensor, n_matching: int | Tensor = 1) -> Tensor:
        """The most that output and MLE can differ by (see `error_bound`), rounding of this dtype included."""
        beta_1 = self.beta_1 if self.variant == "paper" else math.inf
        return error_bound(n, n_matching, self.beta, beta_1, self.gamma) + rounding(n, self.dtype)


def _log(times: Float[Tensor, "batch n"]) -> Float[Tensor, "batch 1 1 n"]:
    return times.log()[:, None, None]


def _weighed(log_times: Float[Tensor, "batch 1 any n"]) -> Hook:
    """Attention to rows that stand more than once: log times is added to each score.

    The scores are centred before: a logarithm would lose its digits beside a large score.
    """
    log_times = nn.functional.pad(log_times, (0, 1))  # the query stands once

    def weigh(name: str, scores: Tensor) -> Tensor:
        if not name.endswith("hook_attn_scores"):
            return scores
        top = scores.masked_fill(log_times.isneginf(), -math.inf).amax(-1, keepdim=True)
        return scores - top + log_times.to(scores.dtype)

    return weigh


def _multisets(
    context: Context, nodes: Sequence[int], cardinalities: Sequence[int]
) -> tuple[Int64[Tensor, "batch seen nodes"], Float[Tensor, "batch seen"]]:
    """Each context's different rows of `nodes` (ABSENT elsewhere), and how often each stands there; 0 for padding."""
    family, cards = context[:, :, list(nodes)], [cardinalities[node] for node in nodes]
    code = row_codes([family.flatten(0, 1)], cards)[0].reshape(context.shape[:2])
    code, order = code.sort(1)
    new = torch.nn.functional.pad(code[:, 1:] != code[:, :-1], (1, 0), value=True)
    which = new.cumsum(1) - 1  # rows with the same family have the same number
    shape = (len(context), int(which.max()) + 1)
    times = torch.zeros(shape, dtype=torch.float64, device=context.device)
    times.scatter_add_(1, which, times.new_ones(which.shape))
    first = order.new_zeros(shape).scatter_(1, which, order)  # one row of each
    rows = context.new_full((*shape, context.shape[2]), ABSENT)
    rows[:, :, list(nodes)] = family.take_along_dim(first[..., None], 1)
    return rows, times


def rounding(n: int | Tensor, dtype: torch.dtype) -> Tensor:
    """What the sums of a forward pass over n rows may add to the error in l1 norm: (32 + 2 log n) eps.

    Equal rows are one term, so that there are as many terms as a node has states, however many the rows; log n, the
    largest logarithm of a number of rows, is rounded once and counts twice in l1.
    """
    n = torch.as_tensor(n, dtype=torch.float64)
    return (ROUNDING + 2 * n.log()) * torch.finfo(dtype).eps


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

    Raises ValueError for an epsilon that is not in (0, 2 max_context) or that the dtype cannot reach with so many
    rows (the message names the smallest that it can), for a max_context below 1, and for a given gamma that is so
    small beside beta that a query without a matching row would get 0 / 0. Reference: arXiv 2501.02547, the theorem
    and its proof.

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
    if not 0 < epsilon < 2 * max_context:
        raise ValueError(f"epsilon: expected a positive number below 2 max_context = {2 * max_context}, got {epsilon}")
    least = {kind: 2 * rounding(max_context, kind).item() for kind in (torch.float32, torch.float64)}
    if beta is None and epsilon < least[dtype]:
        hint = "torch.float64 would do" if epsilon >= least[torch.float64] else "no dtype of torch reaches it"
        raise ValueError(
            f"epsilon: expected at least {least[dtype]:.2g} for {dtype} and {max_context:,} rows, got {epsilon}; {hint}"
        )
    for name, value in (("beta", beta), ("beta_1", beta_1), ("gamma", gamma)):
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}: expected a number of at least 0, got {value}")

    eps, most_parents = torch.finfo(dtype).eps, max(map(len, net.parents))
    beta_1 = _exact(math.log(8 * max_context / eps)) if beta_1 is None else beta_1
    if beta is None:
        beta = _exact(math.log(2 * max_context / (epsilon - least[dtype] / 2 - eps)))  # eps for layer 1 and gamma
    if gamma is None:  # a query agrees with itself on everything, a row that does not match perhaps on nothing
        gamma = _exact(math.log(8 / eps) + beta * most_parents)
    elif gamma < (least_gamma := beta * most_parents + math.log(torch.finfo(dtype).tiny / eps)):
        raise ValueError(
            f"gamma: expected at least {least_gamma:.4g} for beta = {beta} and {most_parents} parents in {dtype}, got "
            f"{gamma}: without a matching row the query would keep all of its weight to itself"
        )
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
