"""What a context tells about the next value if the graph is known, or ignored: estimators by batched counting.

Let n_k be the number of context rows that agree with the query on a set A of nodes and have state k of
the target, n = sum_k n_k. Every estimator here is made of such counts.

| estimator           | agrees on         | estimate                                                    |
|---------------------|-------------------|-------------------------------------------------------------|
| `MaximumLikelihood` | the parents       | n_k / n                                                     |
| `NaiveFrequency`    | all predecessors  | n_k / n                                                     |
| `PosteriorMean`     | the parents       | (n_k + alpha) / (n + d alpha)                               |

All are predictors: `predict_proba(context, query, target)` answers one question after each context, and
`given(context)` reads the contexts once and answers every query and target after them. Entries of the query from the
target on are not read. The optimum for an unknown graph is in `averages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.networks.checks import (
    Context,
    Queries,
    Query,
    check_cardinalities,
    check_context,
    check_query,
    check_target,
)
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.sampling import rows_of
from bnicl.networks.states import every_state, ravel_states
from bnicl.networks.tables import Prior, rows_prior

Unmatched = Literal["nan", "uniform", "marginal", "nearest"]
Probabilities = Float[Tensor, "batch card"]
Reading = Callable[[Queries, int], Float[Tensor, "batch *queries card"]]
_FEW = 1024  # cells of a table that is counted whole, however few the rows
_FEW_NEAR = 256  # joint states whose nearest ones are looked for among all


# --- what a predictor is --------------------------------------------------------------------------


@runtime_checkable
class Predictor(Protocol):
    """Anything that answers what the next value is: an estimator here, a transformer later.

    predict_proba: int64 [batch, n, M], int64 [batch, M], a node -> [batch, card[target]], rows summing to 1.
    given: reads contexts [batch, n, M] once; returns a function of queries, [batch, M] or [batch, n_queries, M], and a
    target, whose answers have one more axis of card[target] instead of the nodes.
    """

    name: str

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities: ...

    def given(self, context: Context) -> Reading: ...


@runtime_checkable
class HasPredictProba(Protocol):
    """A predictor that cannot read a context once: it may be measured in place of a `Predictor`."""

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities: ...


class ContextPredictor:
    """A predictor by `_read`, which takes a context that has been checked. `gaps`: whether values may be ABSENT."""

    name: str
    cardinalities: tuple[int, ...]
    gaps = False

    def _read(self, context: Context) -> Reading:
        raise NotImplementedError

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1.

        Raises ValueError for a context or a query that is none of this network.
        """
        check_context(context, self.cardinalities, self.gaps)
        check_query(len(context), query, target, self.cardinalities, self.gaps)
        return self._read(context)(query, target)

    def given(self, context: Context) -> Reading:
        """A function of queries and a target, after contexts that are read once; see `Predictor`."""
        check_context(context, self.cardinalities, self.gaps)
        answer = self._read(context)

        def checked(query: Queries, target: int) -> Tensor:
            check_query(len(context), query, target, self.cardinalities, self.gaps, several=True)
            return answer(query, target)

        return checked


def reading(predictor: Predictor | HasPredictProba, context: Context, checked: bool = False) -> Reading:
    """`predictor.given(context)`; one that has `predict_proba` alone reads the context anew for each question.

    checked: context and queries need not be checked again.
    """
    ways = ("_read", "given") if checked else ("given",)
    found = next((getattr(predictor, way) for way in ways if hasattr(predictor, way)), None)
    return found(context) if found else anew(predictor.predict_proba, context)


def anew(predict: Callable[[Tensor, Tensor, int], Tensor], context: Context) -> Reading:
    """A reading by a function of [batch, n, M], [batch, M] and a target: a context is repeated for each query."""

    def answer(query: Queries, target: int) -> Tensor:
        if query.ndim == 2:
            return predict(context, query, target)
        n = query.shape[1]
        repeated = context.repeat_interleave(n, 0) if len(context) > 1 else context.expand(n, -1, -1)
        return predict(repeated, query.flatten(0, 1), target).unflatten(0, query.shape[:2])

    return answer


# --- counts ---------------------------------------------------------------------------------------


def check_unmatched(unmatched: Unmatched) -> Unmatched:
    """`unmatched` if it is one of the policies; else a ValueError."""
    if unmatched not in get_args(Unmatched):
        raise ValueError(f"unmatched: expected one of {', '.join(get_args(Unmatched))}, got {unmatched!r}")
    return unmatched


def count(
    context: Context, target: int, given: Sequence[int], cardinalities: Sequence[int]
) -> Int64[Tensor, "batch *cells"]:
    """How often each state of the target occurs with each joint state of `given`.

    Returns int64 ``[batch, *cards of given, card[target]]``.

    >>> count(torch.tensor([[[0, 1], [0, 1], [1, 0]]]), 1, [0], (2, 2))
    tensor([[[0, 2],
             [1, 0]]])
    """
    check_context(context, cardinalities)
    nodes = (*given, target)
    for node in nodes:
        check_target(node, cardinalities)
    if len(set(nodes)) != len(nodes):
        raise ValueError(f"given: expected different nodes, none of them the target {target}, got {tuple(given)}")
    return cell_counts(context, nodes, cardinalities)


def cell_counts(context: Context, nodes: Sequence[int], cardinalities: Sequence[int]) -> Int64[Tensor, "batch *cells"]:
    """How often each joint state of `nodes` occurs; the input must have been checked."""
    shape = [cardinalities[node] for node in nodes]
    cells = math.prod(shape)
    index = ravel_states(context, nodes, cardinalities)
    index = index + cells * torch.arange(len(context), device=context.device).unsqueeze(1)
    return torch.bincount(index.flatten(), minlength=cells * len(context)).reshape(-1, *shape)


def tally(states: Tensor, chosen: Tensor, card: int) -> Tensor:
    """How many of the chosen rows have each state, float64 [batch, card]."""
    return torch.stack([((states == k) & chosen).sum(1) for k in range(card)], dim=-1).double()


def normalised(counts: Tensor, overall: Tensor, unmatched: Unmatched) -> Tensor:
    """counts [..., card] over their sum; rows without a count by the policy, from `overall` (same shape)."""
    fallback = {
        "nan": torch.full_like(counts, math.nan),
        "uniform": torch.ones_like(counts),
        "marginal": overall.expand_as(counts),
        "nearest": counts,  # the nearest rows are counted already: there is always one
    }[unmatched]
    kept = torch.where(counts.sum(-1, keepdim=True) > 0, counts, fallback)
    return kept / kept.sum(-1, keepdim=True)


# --- estimators -----------------------------------------------------------------------------------


class _Counting(ContextPredictor):
    """An estimate from the counts of the rows that agree with the query on the nodes that `_given` names."""

    def __init__(self, cardinalities: Sequence[int], unmatched: Unmatched) -> None:
        self.cardinalities, self.unmatched = check_cardinalities(cardinalities), check_unmatched(unmatched)

    def _given(self, target: int) -> tuple[int, ...]:
        raise NotImplementedError

    def _estimate(self, counts: Tensor, overall: Tensor) -> Tensor:
        """Counts [..., card] as probabilities; `overall` [..., card] are those of all rows."""
        return normalised(counts, overall, self.unmatched)

    def _read(self, context: Context) -> Reading:
        tables: dict[int, Tensor] = {}

        def answer(query: Queries, target: int) -> Tensor:
            if not self._is_small(target, context.shape[1]):
                return anew(self._matched, context)(query, target)
            if target not in tables:
                tables[target] = self._fitted(context, target)
            return rows_of(tables[target], query, self._given(target), self.cardinalities)

        return answer

    def _is_small(self, target: int, n: int) -> bool:
        """Whether the whole table is counted; else only the rows that match a query."""
        rows = math.prod(self.cardinalities[node] for node in self._given(target))
        return rows * self.cardinalities[target] <= (_FEW_NEAR if self.unmatched == "nearest" else max(_FEW, 4 * n))

    def _fitted(self, context: Context, target: int) -> Float[Tensor, "batch *cells"]:
        """The estimate for every joint state of the given nodes, [batch, *cards of given, card]."""
        given = self._given(target)
        counts = cell_counts(context, (*given, target), self.cardinalities).double()
        table = counts.reshape(len(counts), -1, counts.shape[-1])
        overall = table.sum(1, keepdim=True)
        if self.unmatched == "nearest":
            near = _shared_states([self.cardinalities[node] for node in given]).to(table.device)
            score = torch.where(table.sum(-1).unsqueeze(1) > 0, near, -1)
            table = (score == score.amax(-1, keepdim=True)).double() @ table
        return self._estimate(table, overall).reshape(counts.shape)

    def _matched(self, context: Context, query: Query, target: int) -> Probabilities:
        """The estimate for one query each, from the rows that match it."""
        card, given = self.cardinalities[target], self._given(target)
        everything = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if self.unmatched == "nearest":
            agreeing = torch.zeros_like(context[:, :, 0])
            for agree in _agreement(context, query, given):
                agreeing += agree
            matching = agreeing == agreeing.amax(dim=1, keepdim=True)
        else:
            matching = everything.clone()
            for agree in _agreement(context, query, given):
                matching &= agree
        states = context[:, :, target]
        return self._estimate(tally(states, matching, card), tally(states, everything, card))


class _KnownGraph(_Counting):
    """Counts of a node with its parents."""

    def __init__(self, net: BayesianNetwork, unmatched: Unmatched) -> None:
        check_network(net)
        super().__init__(net.cardinalities, unmatched)
        self.net = net

    def _given(self, target: int) -> tuple[int, ...]:
        return self.net.parents[target]

    def fit(self, context: Context) -> tuple[Tensor, ...]:
        """The whole network fitted to each context: per node float64 ``[batch, *evidence_card, card]``.

        Every row of every table, counted in one pass a node; the same numbers as `predict_proba`.
        """
        check_context(context, self.cardinalities)
        by_node = context.permute(2, 0, 1).contiguous().permute(1, 2, 0)  # a node's states lie together
        return tuple(self._fitted(by_node, m) for m in range(self.net.n_nodes))

    def fit_node(self, context: Context, target: int) -> Float[Tensor, "batch *cells"]:
        """The target's table alone of those that `fit` gives."""
        check_context(context, self.cardinalities)
        check_target(target, self.cardinalities)
        return self._fitted(context, target)


def _agreement(context: Tensor, query: Tensor, given: Sequence[int]) -> Iterator[Tensor]:
    """For each of the nodes `given`, which rows agree with the query there: bool [batch, n]."""
    return (context[:, :, node] == query[:, node, None] for node in given)


def _shared_states(cardinalities: Sequence[int]) -> Int64[Tensor, "rows rows"]:
    """For each pair of joint states, on how many of the nodes they agree."""
    states = every_state(cardinalities)
    return (states.unsqueeze(0) == states.unsqueeze(1)).sum(-1)


class MaximumLikelihood(_KnownGraph):
    """In-context maximum likelihood, the paper's "Bayesian inference": the parents are known.

    P(k) = n_k / n over the n rows that agree with the query on Pa(target). Where n = 0 the likelihood
    says nothing, and `unmatched` decides:

    - "nan" (default): a row of NaN, so that a guess is never taken for an estimate;
    - "uniform": 1 / d for each of d states;
    - "marginal": the target's frequencies over all rows, whatever their parents;
    - "nearest": the frequencies over the rows that agree on the *most* parents, to which the
      constructed transformer tends.

    See Also: PosteriorMean, which is defined for every context. Reference: arXiv 2501.02547, section 3.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> context, query = torch.tensor([[[0, 1], [0, 1], [0, 0], [1, 0]]]), torch.tensor([[0, 0]])
    >>> MaximumLikelihood(net).predict_proba(context, query, 1)
    tensor([[0.3333, 0.6667]], dtype=torch.float64)
    """

    name = "MLE"

    def __init__(self, net: BayesianNetwork, unmatched: Unmatched = "nan") -> None:
        super().__init__(net, unmatched)


class NaiveFrequency(_Counting):
    """Frequencies given *all* predecessors, the paper's "naive inference": the graph is not used.

    As `MaximumLikelihood` on the complete graph over the order. A query then has few matching rows or
    none; `unmatched` is as there.

    >>> context, query = torch.tensor([[[0, 1, 1], [1, 1, 0]]]), torch.tensor([[0, 1, 0]])
    >>> NaiveFrequency((2, 2, 2), unmatched="uniform").predict_proba(context, query, 2)
    tensor([[0., 1.]], dtype=torch.float64)
    """

    name = "naive"

    def __init__(self, cardinalities: Sequence[int], unmatched: Unmatched = "nan") -> None:
        super().__init__(cardinalities, unmatched)

    def _given(self, target: int) -> tuple[int, ...]:
        return tuple(range(target))


class PosteriorMean(_KnownGraph):
    """The mean of the posterior over tables, parents known: for Dirichlet(alpha) rows (n_k + alpha) / (n + d alpha).

    Defined for every context: the prior's mean where no row matches. For tables drawn from the prior no predictor that
    knows the graph has a smaller expected Kullback-Leibler divergence from the truth: this is the exact optimum.

    net: the graph.
    alpha: of the Dirichlet prior of the rows.
    prior: another prior of the rows, in its place; see `Prior.mean`.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> context, query = torch.tensor([[[0, 1], [0, 1], [0, 0], [1, 0]]]), torch.tensor([[0, 0]])
    >>> PosteriorMean(net, alpha=0.5).predict_proba(context, query, 1)
    tensor([[0.3750, 0.6250]], dtype=torch.float64)
    """

    name = "posterior mean"

    def __init__(self, net: BayesianNetwork, alpha: float = 0.5, prior: Prior | None = None) -> None:
        super().__init__(net, "uniform")
        self.prior = rows_prior(alpha, prior)

    def _estimate(self, counts: Tensor, overall: Tensor) -> Tensor:
        return self.prior.mean(counts)


class KnownTables(ContextPredictor):
    """A predictor that knows the tables of a network: the true conditionals, whatever the context.

    >>> net = BayesianNetwork(("a",), ((),), (2,), cpts=(torch.tensor([0.25, 0.75]),))
    >>> KnownTables(net).predict_proba(torch.tensor([[[0], [0]]]), torch.tensor([[0]]), 0)
    tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """

    name = "known tables"

    def __init__(self, net: BayesianNetwork) -> None:
        check_network(net)
        self.net, self.cardinalities, self._tables = net, net.cardinalities, net.tables

    def fit(self, context: Context) -> tuple[Tensor, ...]:
        """The network's own tables for each context, float64 ``[batch, *evidence_card, card]``."""
        return tuple(table.to(context.device).expand(len(context), *table.shape) for table in self._tables)

    def _read(self, context: Context) -> Reading:
        tables = self.fit(context)
        return lambda query, target: rows_of(tables[target], query, self.net.parents[target], self.cardinalities)
