"""The constructive proof as weights: transformers that compute the in-context MLE of a given network.

The residual stream has four named subspaces, with S = sum of cardinalities:

    x    S      one-hot blocks of the column's values
    u    M + 1  flags: which target the query asks for, or "context"
    r_u  M + 1  scratch: the query's flags, copied to every column
    r_x  S      scratch: the weighted mean of the context's values

Layer 1 keeps, in every column, only the target and its parents; layer 2 attends to the context rows that
agree with the query on what is left, and averages the target's block over them. For z in [0, 1] and a
flag g, relu(z + g - 1) is z where g = 1 and 0 where g = 0: that is every gate below.

| variant   | layers x heads          | what differs                                                     |
|-----------|-------------------------|------------------------------------------------------------------|
| "paper"   | 2 x 1                   | every column learns the query's target and drops what it ignores |
| "causal"  | 2 x 1, 1st has no head  | only the query drops its non-parents: the context never sees it  |
| "heads"   | 1 x distinct parent sets| one head matches one set of parents; a gate picks the head       |
| "prompt"  | 2 x 1, 1st has no head  | as "causal", the graph given as flags of the query               |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bnicl.estimators.families import Counts, Family
from bnicl.networks.checks import check_count
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.transformer.encoding import blocks
from bnicl.transformer.mle_transformer import MLETransformer, Subspaces, Variant, rounding
from bnicl.transformer.model import Transformer, TransformerConfig

START_BETA, START_SCALE = 8.0, 4.0  # still able to learn; the softmax of 4 p, 4 (1 - p) is p near p = 1/2


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

    net: a network, of which only the graph is used.
    epsilon: the most that output and MLE may differ by, in l1 norm.
    max_context: the most rows that a context may have.
    beta: inverse temperature of layer 2; by default from the bound, log(2 max_context / epsilon), rounded up so that
    every score is exact in `dtype`.
    beta_1, gamma: inverse temperature of layer 1, and the context's head start over the query; by default so large that
    their terms vanish, gamma even where no row matches.
    variant: "paper", "causal", "heads" or "prompt"; see the table of this module.
    dtype: of weights and activations, torch.float64 or torch.float32.
    sparse: whether the matrices hold their O(S + edges) non-zero entries only.

    Raises ValueError for an epsilon that is not in (0, 2 max_context) or that the dtype cannot reach with so many
    rows (the message names the smallest that it can), for a max_context below 1, and for a given gamma that is so
    small next to beta that a query without a matching row would get 0 / 0. Reference: arXiv 2501.02547, the theorem
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


def read_family(counts: Counts, target: int) -> Callable[[Int64[Tensor, "batch parents"]], Float[Tensor, "batch card"]]:
    """The constructed transformer of one family, as a function of the parents' states; for `FittedNetwork`.

    Its network is the target with its parents alone: the answers are those of the whole network's.

    >>> from bnicl import load_network
    >>> counts = Counts.of([torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 0]])], load_network("chain3"))
    >>> read_family(counts, 1)(torch.tensor([[0]]))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    net, last = counts.net, len(counts.net.parents[target])
    nodes = (*net.parents[target], target)
    cards = tuple(net.cardinalities[m] for m in nodes)
    family = BayesianNetwork(tuple(net.names[m] for m in nodes), (*((),) * last, tuple(range(last))), cards)
    empty = tuple(Family(torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, c).double()) for c in cards[:-1])
    own = Counts(family, counts.n, (*empty, counts.families[target]))
    built = construct_mle_transformer(family, 1e-10, max(1, counts.n), variant="causal", sparse=sum(cards) > 64)
    answer = built.counted(own)
    return lambda parents: answer(torch.nn.functional.pad(parents, (0, 1)), last)


def start_as_construction(model: Transformer, net: BayesianNetwork) -> Transformer:
    """`model`, in place, with the "causal" construction in a corner of its weights: an initialisation for training.

    model: random weights, of at least the construction's size (`check_room`). The part beyond that keeps its random
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
        """The column goes to x, u (and g); the read-out takes r_x."""
        spaces = self.spaces
        for i, direction in enumerate((*spaces.x, *spaces.u, *spaces.g)):
            self.put("W_E", 1, i, direction)
        for k, direction in enumerate(spaces.r_x):
            self.put("W_U", 1, direction, k)

    def select(self, beta_1: float) -> None:
        """Layer 1: keep the target's parents (and, in the context, the target)."""
        net, (x, u, r_u, g) = self.net, (self.spaces.x, self.spaces.u, self.spaces.r_u, self.spaces.g)
        context = net.n_nodes
        gates: list[list[int]] = [[] for _ in range(net.n_nodes)]  # the directions that open each block
        if self.variant == "paper":
            # Every column scores the query beta_1 and the N context columns 0: the query's weight is at least
            # 1 - eta, eta = N / (N + exp(beta_1)), and r_u is the query's flag up to eta.
            for j in range(net.n_nodes + 1):
                self.put("blocks.0.attn.W_Q", beta_1, 0, u[j], 0)
                self.put("blocks.0.attn.W_V", 1, 0, u[j], j)
                self.put("blocks.0.attn.W_O", 1, 0, j, r_u[j])
                if j != context:
                    self.put("blocks.0.attn.W_K", 1, 0, u[j], 0)
            for target, parents in enumerate(net.parents):
                for m in (target, *parents):
                    gates[m].append(r_u[target])
        else:
            for m in range(net.n_nodes):
                gates[m].append(u[context])
                if self.variant == "prompt":
                    gates[m].append(g[m])
            if self.variant == "causal":
                for target, parents in enumerate(net.parents):
                    for m in parents:
                        gates[m].append(u[target])
        self.gate(0, x, gates)

    def match(self, beta: float, gamma: float) -> None:
        """Layer 2: attend to the rows that agree with what is left of the query, average their values."""
        # A row that agrees with the query on a of the |Pa| parents scores beta a: one that matches is ahead of others
        # by beta or more, and the n - n_matching others have at most (n - n_matching) exp(-beta) / n_matching of the
        # weight of those that match. The value that W_V reads is the row's own, so r_x is their mean.
        x, u, r_x = self.spaces.x, self.spaces.u, self.spaces.r_x
        for k in range(self.S):
            self.put("blocks.1.attn.W_Q", beta, 0, x[k], k)
            self.put("blocks.1.attn.W_K", 1, 0, x[k], k)
            self.put("blocks.1.attn.W_V", 1, 0, x[k], k)
            self.put("blocks.1.attn.W_O", 1, 0, k, r_x[k])
        self.head_start(1, 0, gamma)
        self.gate(1, r_x, [[u[m]] for m in range(self.net.n_nodes)])

    def match_by_heads(self, beta: float, gamma: float) -> None:
        """One layer: head h matches on parent set h and writes the blocks of the targets that have it."""
        # As in `match`, the scores of head h differ by beta or more between rows that agree on parent set h and others.
        x, u, r_x = self.spaces.x, self.spaces.u, self.spaces.r_x
        for h, parents in enumerate(self.parent_sets):
            for m in parents:
                for k in range(self.units[m].start, self.units[m].stop):
                    self.put("blocks.0.attn.W_Q", beta, h, x[k], k)
                    self.put("blocks.0.attn.W_K", 1, h, x[k], k)
            for target in range(self.net.n_nodes):
                if tuple(sorted(self.net.parents[target])) == parents:
                    for k in range(self.units[target].start, self.units[target].stop):
                        self.put("blocks.0.attn.W_V", 1, h, x[k], k)
                        self.put("blocks.0.attn.W_O", 1, h, k, r_x[k])
            self.head_start(0, h, gamma)
        self.gate(0, r_x, [[u[m]] for m in range(self.net.n_nodes)])

    def head_start(self, layer: int, head: int, gamma: float) -> None:
        """gamma to the score of every context row: the flags of a query sum to 1."""
        # The query agrees with itself on everything, beta |Pa|; a row that matches scores gamma more, so that the query
        # keeps at most exp(-gamma) / n_matching of the weight.
        u, context = self.spaces.u, self.net.n_nodes
        for j in range(context + 1):
            self.put(f"blocks.{layer}.attn.W_Q", gamma, head, u[j], self.S)
        self.put(f"blocks.{layer}.attn.W_K", 1, head, u[context], self.S)

    def gate(self, layer: int, space: range, gates: list[list[int]]) -> None:
        """z <- relu(z + g - 1) in every direction of `space`, g the sum of its block's gates."""
        # The stream is z; one unit takes relu(z) = z away, the other adds relu(z + g - 1): z where g = 1, and 0 where
        # g = 0, as z <= 1. Of a block's gates at most one is open.
        for m, block in enumerate(self.units):
            for k in range(block.start, block.stop):
                self.put(f"blocks.{layer}.mlp.W_in", 1, space[k], k)
                self.put(f"blocks.{layer}.mlp.W_out", -1, k, space[k])
                self.put(f"blocks.{layer}.mlp.W_in", 1, space[k], self.S + k)
                for direction in gates[m]:
                    self.put(f"blocks.{layer}.mlp.W_in", 1, direction, self.S + k)
                self.put(f"blocks.{layer}.mlp.b_in", -1, self.S + k)
                self.put(f"blocks.{layer}.mlp.W_out", 1, self.S + k, space[k])

    def build(self, dtype: torch.dtype, sparse: bool) -> Transformer:
        heads = self.variant == "heads"
        config = TransformerConfig(
            width=len(self.spaces.x) + len(self.spaces.u) + len(self.spaces.g),
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
