"""The constructed transformer as a predictor: where its subspaces lie, how it reads a context, how wrong it can be.

Rows that agree on a target and its parents count as one: each such row is read once, with the logarithm of its number
added to its scores. The sums have as many terms as there are different rows, and rounding hardly grows with a context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bnicl.estimators.counting import Probabilities, Reading
from bnicl.estimators.families import Counts
from bnicl.networks.checks import ABSENT, Context, Queries, Query
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.states import row_codes
from bnicl.transformer.encoding import context_columns, query_columns_each
from bnicl.transformer.model import Hook, Transformer
from bnicl.transformer.predictor import SCORES, InContextTransformer

Variant = Literal["paper", "causal", "heads", "prompt"]
ROUNDING = 32  # times the machine epsilon: what a forward pass may add to the error, plus 2 log n


@dataclass(frozen=True)
class Subspaces:
    """Where the named parts of the residual stream lie, and the name of every direction."""

    x: range
    u: range
    r_u: range
    r_x: range
    g: range  # the prompt's flags of the parents; empty in the other variants

    @classmethod
    def of(cls, net: BayesianNetwork, variant: Variant) -> Subspaces:
        values, flags = sum(net.cardinalities), net.n_nodes + 1
        sizes = (values, flags, flags, values, net.n_nodes if variant == "prompt" else 0)
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
        parts = (("x ", values), ("u ", flags), ("r_u ", flags), ("r_x ", values), ("g ", parents))
        return [prefix + name for prefix, names in parts for name in names]


class MLETransformer(InContextTransformer):
    """A transformer that computes the in-context MLE of `net`; made by `construct_mle_transformer`.

    Where no context row agrees with the query on the target's parents, the output tends, as beta grows,
    to the frequencies among the rows that agree on the most of them (`MaximumLikelihood` with
    unmatched="nearest").

    `predict_proba` and `given` read the target's family from the context and drop the rest, as layer 1 would, so that
    rows that differ only elsewhere count as one. If weights were edited, ask `model(columns(context, query, target))`.
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

    def _read(self, context: Context) -> Reading:
        """Context rows that agree on the target and its parents count as one, and are read once, with their number."""
        self._check_length(context.shape[1])
        if len(context) == 1:
            one = self.counted(Counts.of(context, self.net))
            return lambda query, target: one(query.flatten(0, -2), target).unflatten(0, query.shape[:-1])
        families: dict[int, tuple[Tensor, Tensor]] = {}

        def answer(query: Queries, target: int) -> Tensor:
            if target not in families:
                nodes = (*self.net.parents[target], target)
                families[target] = _multisets(context, nodes, self.cardinalities)
            rows, times = families[target]
            queries = query if query.ndim == 3 else query[:, None]
            step = max(1, SCORES // (rows.shape[1] + 1) ** 2)
            split, targets = [part.split(step) for part in (rows, times, queries)], [target] * queries.shape[1]
            parts = [self._outputs(r, _log(t), q, targets) for r, t, q in zip(*split, strict=True)]
            p = self.read(torch.cat(parts), target)
            return p if query.ndim == 3 else p[:, 0]

        return answer

    def counted(self, counts: Counts) -> Callable[[Query, int], Probabilities]:
        """As `given`, of one context: a function of queries [batch, M], for rows of which only the counts are known.

        The answers for all states of the parents that were seen are computed once, for many nodes in one pass; those
        for others when they are asked for. Raises ValueError for more rows than max_context, and where no row has a
        value for the target's family.
        """
        self._check_length(counts.n)
        tables: dict[int, Tensor] = {}

        def predict(query: Query, target: int) -> Probabilities:
            if target not in tables:
                tables.update(self._tables(counts, target))
            p = counts.look_up(tables[target], counts.asked(query, target), target)
            alone = (p.sum(-1) == 0).nonzero()[:, 0]
            if len(alone):
                rows, times = counts.family_rows(target)
                parts = query[alone].split(max(1, SCORES // (len(rows) + 1) ** 2))
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
            if rows and (len(owners) + len(own)) * (len(asked) + len(evidence)) > SCORES // 2**6:
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
        context = self._prompted(context_columns(rows, self.cardinalities, self.dtype))
        asked = self._prompted(query_columns_each(queries, targets, self.cardinalities, self.dtype), targets)
        with torch.no_grad():
            if self.model.config.mask != "none":
                return self.model.decode(self.model.prefill(context), asked, _weighed(log_times))
            each = context.repeat_interleave(len(targets), 0)  # each query is a sequence of its own
            columns = torch.cat([each, asked.flatten(0, 1)[:, None]], dim=1)
            log_times = log_times.expand(-1, -1, len(targets), -1).transpose(1, 2).flatten(0, 1)[:, None]
            return self.model(columns, _weighed(log_times))[:, -1].unflatten(0, asked.shape[:2])

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

    The scores are centred first: a logarithm would lose its digits next to a large score.
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
