"""What a context tells about the next value if the graph is known, or ignored: estimators by batched counting.

Let n_k be the number of context rows that agree with the query on a set A of nodes and have state k of
the target, n = sum_k n_k. Every estimator here is made of such counts.

| estimator           | agrees on         | estimate                                                    |
|---------------------|-------------------|-------------------------------------------------------------|
| `MaximumLikelihood` | the parents       | n_k / n                                                     |
| `NaiveFrequency`    | all predecessors  | n_k / n                                                     |
| `PosteriorMean`     | the parents       | (n_k + alpha) / (n + d alpha)                               |

All answer `predict_proba(context, query, target)`: int64 [batch, n, M], int64 [batch, M], a node ->
float64 [batch, card[target]], rows summing to 1. Entries of the query from the target on are not read.
The optimum for an unknown graph is in `averages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.encoding import Context, Query, check_cardinalities, check_context, check_query, check_target
from bnicl.networks import BayesianNetwork, check_network
from bnicl.priors import ALPHA_RANGE, check_number
from bnicl.sampling import ravel_states

Unmatched = Literal["nan", "uniform", "marginal", "nearest"]
Probabilities = Float[Tensor, "batch card"]


def check_unmatched(unmatched: Unmatched) -> Unmatched:
    """`unmatched` if it is one of the policies; else a ValueError."""
    if unmatched not in get_args(Unmatched):
        raise ValueError(f"unmatched: expected one of {', '.join(get_args(Unmatched))}, got {unmatched!r}")
    return unmatched


@runtime_checkable
class Predictor(Protocol):
    """Anything that answers what the next value is: an estimator here, a transformer later."""

    name: str

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities: ...


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
    return _count(context, target, given, cardinalities)


def _count(context: Tensor, target: int, given: Sequence[int], cardinalities: Sequence[int]) -> Tensor:
    """`count`, of what has been checked."""
    nodes = (*given, target)
    shape = [cardinalities[node] for node in nodes]
    cells = math.prod(shape)
    index = ravel_states(context, nodes, cardinalities)
    index = index + cells * torch.arange(len(context), device=context.device).unsqueeze(1)
    return torch.bincount(index.flatten(), minlength=cells * len(context)).reshape(-1, *shape)


class _Frequency:
    """Relative frequencies among the rows that agree with the query on the nodes that `_given` names."""

    def __init__(self, cardinalities: Sequence[int], unmatched: Unmatched) -> None:
        self.cardinalities, self.unmatched = check_cardinalities(cardinalities), check_unmatched(unmatched)

    def _given(self, target: int) -> tuple[int, ...]:
        raise NotImplementedError

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The relative frequencies, float64 [batch, card[target]]; see the class for rows without a match."""
        check_context(context, self.cardinalities)
        check_query(context, query, target, self.cardinalities)
        if self.unmatched == "nearest":
            agreeing = torch.zeros_like(context[:, :, 0])
            for agree in _agreement(context, query, self._given(target)):
                agreeing += agree
            matching = agreeing == agreeing.amax(dim=1, keepdim=True)
        else:
            matching = _matching(context, query, self._given(target))
        counts = tally(context[:, :, target], matching, self.cardinalities[target])
        overall = tally(context[:, :, target], torch.ones_like(matching), self.cardinalities[target])
        return normalised(counts, overall, self.unmatched)


def _by_node(context: Tensor) -> Tensor:
    """The same context with each node's states contiguous in memory: counting reads a node at a time."""
    return context.permute(2, 0, 1).contiguous().permute(1, 2, 0)


def _agreement(context: Tensor, query: Tensor, given: Sequence[int]) -> Iterator[Tensor]:
    """For each of the nodes `given`, which rows agree with the query there: bool [batch, n]."""
    return (context[:, :, node] == query[:, node, None] for node in given)


def _matching(context: Tensor, query: Tensor, given: Sequence[int]) -> Tensor:
    """Which rows agree with the query on all of the nodes `given`, bool [batch, n]."""
    matching = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    for agree in _agreement(context, query, given):
        matching &= agree
    return matching


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


class MaximumLikelihood(_Frequency):
    """In-context maximum likelihood, the paper's "Bayesian inference": the parents are known.

    P(k) = n_k / n over the n rows that agree with the query on Pa(target). Where n = 0 the likelihood
    says nothing, and `unmatched` decides:

    - "nan" (default): a row of NaN, so that nobody takes a guess for an estimate;
    - "uniform": 1 / d for each of d states;
    - "marginal": the target's frequencies over all rows, whatever their parents;
    - "nearest": the frequencies over the rows that agree on the *most* parents, which is what the
      constructed transformer tends to.

    See Also: PosteriorMean, which is defined for every context. Reference: arXiv 2501.02547, section 3.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> context, query = torch.tensor([[[0, 1], [0, 1], [0, 0], [1, 0]]]), torch.tensor([[0, 0]])
    >>> MaximumLikelihood(net).predict_proba(context, query, 1)
    tensor([[0.3333, 0.6667]], dtype=torch.float64)
    """

    name = "MLE"

    def __init__(self, net: BayesianNetwork, unmatched: Unmatched = "nan") -> None:
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
        by_node = _by_node(context)
        return tuple(self._fit_node(by_node, m) for m in range(self.net.n_nodes))

    def _fit_node(self, context: Tensor, target: int) -> Tensor:
        counts = _count(context, target, self.net.parents[target], self.cardinalities)
        shape = counts.shape
        table = counts.reshape(shape[0], -1, shape[-1]).double()
        if self.unmatched == "nearest":
            near = _shared_states(self.net.evidence_card(target)).to(table.device)
            score = torch.where(table.sum(-1).unsqueeze(1) > 0, near, -1)
            overall = table
            table = (score == score.amax(-1, keepdim=True)).double() @ table
        else:
            overall = table.sum(1, keepdim=True)
        return normalised(table, overall, self.unmatched).reshape(shape)


def _shared_states(evidence_card: Sequence[int]) -> Int64[Tensor, "rows rows"]:
    """On how many parents two joint states of the parents agree."""
    states = torch.cartesian_prod(*(torch.arange(card) for card in (*evidence_card, 1))).reshape(
        -1, len(evidence_card) + 1
    )
    return (states.unsqueeze(0) == states.unsqueeze(1))[..., :-1].sum(-1)


class NaiveFrequency(_Frequency):
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


class PosteriorMean:
    """The mean of the posterior over tables whose rows are Dirichlet(alpha) a priori; parents known.

    P(k) = (n_k + alpha) / (n + d alpha) for d states: defined for every context, uniform where no row
    matches. For tables drawn from this prior no predictor that knows the graph has a smaller expected
    Kullback-Leibler divergence from the truth: this is the exact optimum.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> context, query = torch.tensor([[[0, 1], [0, 1], [0, 0], [1, 0]]]), torch.tensor([[0, 0]])
    >>> PosteriorMean(net, alpha=0.5).predict_proba(context, query, 1)
    tensor([[0.3750, 0.6250]], dtype=torch.float64)
    """

    name = "posterior mean"

    def __init__(self, net: BayesianNetwork, alpha: float = 0.5) -> None:
        check_network(net)
        self.net, self.alpha = net, check_number("alpha", alpha, *ALPHA_RANGE)

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The posterior mean, float64 [batch, card[target]]."""
        check_context(context, self.net.cardinalities)
        check_query(context, query, target, self.net.cardinalities)
        parents = self.net.parents[target]
        matching = _matching(context, query, parents)
        return self._smoothed(tally(context[:, :, target], matching, self.net.cardinalities[target]))

    def fit(self, context: Context) -> tuple[Tensor, ...]:
        """Every table's posterior mean: per node float64 ``[batch, *evidence_card, card]``."""
        check_context(context, self.net.cardinalities)
        parents, cards, by_node = self.net.parents, self.net.cardinalities, _by_node(context)
        return tuple(self._smoothed(_count(by_node, m, parents[m], cards)) for m in range(self.net.n_nodes))

    def _smoothed(self, counts: Tensor) -> Tensor:
        smoothed = counts.double() + self.alpha
        return smoothed / smoothed.sum(-1, keepdim=True)
