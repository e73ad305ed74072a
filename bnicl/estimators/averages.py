"""The exact optimum when the graph is not known: averages over all graphs, weighted by their posterior.

Rows of tables are Dirichlet(alpha). With counts n_ck of the joint state c of a set A of nodes and state k of
node m, the evidence that A are the parents of m is a product of Dirichlet-multinomial probabilities,

    L_m(A) = prod_c  B(n_c + alpha) / B(alpha),    B the multivariate beta function,

and the prediction given A is the posterior mean (n_ck + alpha) / (n_c + d alpha). What is averaged over:

| estimator      | unknown                                  | sum over                                   |
|----------------|------------------------------------------|--------------------------------------------|
| `ModelAverage` | every edge, the order being known        | the 2^m parent sets of a node              |
| `GraphAverage` | which of a few it is (see `few_graphs`)  | these graphs                               |
| `OrderAverage` | every edge, and the order (see `orders`) | all orders and parent sets, by subsets     |

Reference: Heckerman, Geiger and Chickering, Machine Learning 20 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.counting import (
    ContextPredictor,
    MaximumLikelihood,
    NaiveFrequency,
    PosteriorMean,
    Predictor,
    Reading,
    Unmatched,
    anew,
    cell_counts,
)
from bnicl.networks.checks import (
    Context,
    Queries,
    Query,
    check_cardinalities,
    check_context,
    check_number,
    check_target,
)
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.joint import conditionals
from bnicl.networks.sampling import rows_of
from bnicl.networks.tables import Prior, rows_prior


class Average(ContextPredictor):
    """A predictor that averages over what is unknown, and has the distribution of a whole new row."""

    def joint(self, context: Context) -> Float[Tensor, "batch *cards"]:
        """The distribution of a new row, float64 [batch, d_0, ..., d_{M-1}]: `predict_proba` for all queries."""
        check_context(context, self.cardinalities)
        return self._joint(context)

    def fit(self, context: Context) -> tuple[Tensor, ...]:
        """The answers to all queries as tables on the complete graph, float64 [batch, *cards before, card]."""
        return conditionals(self.joint(context))

    def _joint(self, context: Context) -> Tensor:
        raise NotImplementedError


EdgeProb = float | tuple[float, float]
INSTEAD = "bnicl.searches finds one graph instead of averaging over all"


def check_edge_prob(edge_prob: EdgeProb) -> tuple[float, float]:
    """The ends of a range of edge probabilities, equal for a single one; a ValueError if they are none."""
    ends = edge_prob if isinstance(edge_prob, tuple) else (edge_prob, edge_prob)
    low, high = (check_number("edge_prob", end, 0, 1) for end in ends) if len(ends) == 2 else (1.0, 0.0)
    if low > high:
        raise ValueError(f"edge_prob: expected a number or a tuple of two, the smaller first, got {edge_prob!r}")
    return low, high


def edge_probs(edge_prob: EdgeProb, n_nodes: int) -> tuple[Tensor, Tensor]:
    """Edge probabilities and their weights that stand for the whole range: the points of Gauss and Legendre.

    The probability of a graph is a polynomial in p of degree M (M - 1) / 2; q points are exact up to degree 2q - 1.
    """
    low, high = check_edge_prob(edge_prob)
    if low == high:
        return torch.tensor([low], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    x, weights = np.polynomial.legendre.leggauss(n_nodes * (n_nodes - 1) // 4 + 1)
    return torch.from_numpy((low + high) / 2 + (high - low) / 2 * x), torch.from_numpy(weights / 2)


# --- counts of all subsets at once ----------------------------------------------------------------


def subset_counts(counts: Tensor) -> Tensor:
    """[batch, d_0, ..., d_{m-1}, d] -> [batch, 1 + d_0, ..., 1 + d_{m-1}, d].

    The last index of an axis is the sum over that node: it is not in A.
    """
    for axis in range(1, counts.ndim - 1):
        counts = torch.cat([counts, counts.sum(axis, keepdim=True)], dim=axis)
    return counts


def log_evidence(subset_counts: Tensor, prior: Prior) -> Tensor:
    """log L(A) of every subset, float64 [batch, 2, ..., 2]; axis i is 1 where node i is in A."""
    score = prior.log_evidence(subset_counts)
    for axis in range(1, score.ndim):
        inside = score.narrow(axis, 0, score.shape[axis] - 1).sum(axis, keepdim=True)
        score = torch.cat([score.narrow(axis, score.shape[axis] - 1, 1), inside], dim=axis)
    return score


def _log_prior(p: Tensor, m: int) -> Tensor:
    """log p^|A| (1 - p)^(m - |A|) of every subset of m nodes: p [points] -> [points, 2, ..., 2]."""
    axes = [torch.arange(2.0, dtype=torch.float64).reshape(-1, *(1,) * (m - i - 1)) for i in range(m)]
    size = sum(axes, torch.zeros((1,) * m, dtype=torch.float64)).to(p.device)
    p = p.reshape(-1, *(1,) * m)
    return torch.xlogy(size, p) + torch.xlogy(m - size, 1 - p)


# --- the averages ---------------------------------------------------------------------------------


class ModelAverage(Average):
    """The exact optimum when the graph is unknown: an average over every parent set, the order known.

    A priori each predecessor of the target is a parent with probability `edge_prob`, independently, and
    rows of tables are Dirichlet(alpha)::

        P(A | context)  is proportional to  edge_prob^|A| (1 - edge_prob)^(m - |A|) L(A),
        P(k) = sum_A P(A | context) (n_{c(A),k} + alpha) / (n_{c(A)} + d alpha),

    c(A) being the query's states on A; another `prior` of the rows has its own evidence and means. The sum has 2^m
    terms for a target with m predecessors; the counts of all of them are computed at once, d prod_i (1 + d_i)
    cells. More than `MAX_CELLS` of them raise a ValueError. If `edge_prob` is a range (low, high), each graph has its
    own p, uniform there. The parents of *all* nodes, and the query's values, are informative about p; the integral
    over p is exact.

    >>> average = ModelAverage((2, 2), alpha=0.5, edge_prob=0.5)
    >>> context = torch.tensor([[[0, 0], [1, 1], [0, 0], [1, 1]]])
    >>> average.parent_set_posterior(context, 1)[0, 1]  # X_0 is a parent: X_1 copies it
    tensor(0.8571, dtype=torch.float64)
    """

    name = "model average"
    MAX_CELLS = 2**22

    def __init__(
        self, cardinalities: Sequence[int], alpha: float = 0.5, edge_prob: EdgeProb = 0.5, prior: Prior | None = None
    ) -> None:
        self.cardinalities, self.prior = check_cardinalities(cardinalities), rows_prior(alpha, prior)
        self.edge_prob = edge_prob
        self._points, self._weights = edge_probs(edge_prob, len(self.cardinalities))

    def _read(self, context: Context) -> Reading:
        if len(self._points) > 1:  # the query's values tell about p
            return anew(self._averages, context)
        tables: dict[int, Tensor] = {}

        def answer(query: Queries, target: int) -> Tensor:
            if query.ndim == 2 and target not in tables:
                return self._averages(context, query, target)
            if target not in tables:  # many queries: the answers to all
                tables[target] = torch.cat([self._table(context[p], target) for p in self._parts(context, target)])
            return rows_of(tables[target], query, range(target), self.cardinalities)

        return answer

    def _table(self, context: Tensor, target: int) -> Float[Tensor, "batch *cells"]:
        """The answers to all queries, float64 [batch, d_0, ..., d]; p is the same for all graphs."""
        counts = self._counts(context, target)
        weights = self._posterior(context, target, counts)
        return _averaged(weights.unsqueeze(1), self.prior.mean(counts).unsqueeze(1))[:, 0]

    def _averages(self, context: Context, query: Query, target: int) -> Tensor:
        return torch.cat([self._average(context[part], query[part], target) for part in self._parts(context, target)])

    def parent_set_posterior(self, context: Context, target: int) -> Float[Tensor, "batch *subsets"]:
        """P(A | context), float64 [batch, 2, ..., 2]: axis i is 1 where predecessor i is in A."""
        check_context(context, self.cardinalities)
        check_target(target, self.cardinalities)
        return torch.cat([self._posterior(context[part], target) for part in self._parts(context, target)])

    def edge_posterior(self, context: Context) -> Float[Tensor, "batch nodes nodes"]:
        """The probability that i is a parent of j, float64 [batch, M, M]."""
        check_context(context, self.cardinalities)
        m = len(self.cardinalities)
        edges = torch.zeros(len(context), m, m, dtype=torch.float64, device=context.device)
        for target in range(1, m):
            posterior = self.parent_set_posterior(context, target)
            for i in range(target):
                edges[:, i, target] = posterior.select(i + 1, 1).reshape(len(context), -1).sum(1)
        return edges

    def _joint(self, context: Context) -> Tensor:
        last = len(self.cardinalities) - 1
        return torch.cat([self._joint_of_part(context[part]) for part in self._parts(context, last)])

    def _joint_of_part(self, context: Tensor) -> Tensor:
        points = self._points.to(context.device)
        log_weights = self._weights.to(context.device).log().expand(len(context), -1)
        joint = torch.ones(len(context), len(points), dtype=torch.float64, device=context.device)
        for m in range(len(self.cardinalities)):
            counts = self._counts(context, m)
            score = log_evidence(counts, self.prior)[:, None] + _log_prior(points, m)[None]
            flat = score.reshape(*score.shape[:2], -1)
            log_weights = log_weights + flat.logsumexp(-1)
            table = _averaged(flat.softmax(-1).reshape(score.shape), self.prior.mean(counts)[:, None])
            joint = joint.unsqueeze(-1) * table
        weights = log_weights.softmax(-1)
        return (weights.reshape(*weights.shape, *(1,) * (joint.ndim - 2)) * joint).sum(1)

    def cells(self, target: int) -> int:
        """How many counts the sum over the target's parent sets takes: prod_i (1 + d_i) times its states."""
        return math.prod(1 + card for card in self.cardinalities[:target]) * self.cardinalities[target]

    def check_size(self, target: int) -> int:
        """`cells` of the target; a ValueError where they are too many."""
        if (cells := self.cells(target)) > self.MAX_CELLS:
            possible = sum(self.cells(m) <= self.MAX_CELLS for m in range(len(self.cardinalities)))
            raise ValueError(
                f"ModelAverage: node {target} has 2^{target} parent sets; expected at most {self.MAX_CELLS:,} "
                f"counts, got {cells:.2g}. The first {possible} of these nodes are possible; for more, {INSTEAD}"
            )
        return cells

    def _parts(self, context: Tensor, target: int) -> list[slice]:
        """Contexts taken together so that their counts stay within MAX_CELLS; a ValueError where one is too many."""
        cells = self.check_size(max((target, *self._others(target)), key=self.cells))
        step = max(1, self.MAX_CELLS // cells)
        return [slice(start, start + step) for start in range(0, len(context), step)]

    def _others(self, target: int) -> list[int]:
        """The nodes whose parents tell something about those of the target."""
        return [m for m in range(len(self.cardinalities)) if m != target] if len(self._points) > 1 else []

    def _counts(self, context: Tensor, target: int) -> Tensor:
        return subset_counts(cell_counts(context, range(target + 1), self.cardinalities))

    def _posterior(
        self, context: Tensor, target: int, counts: Tensor | None = None, query: Tensor | None = None
    ) -> Tensor:
        """P(A | context, the query's values before the target), float64 [batch, 2, ..., 2]."""
        points = self._points.to(context.device)
        prior = _log_prior(points, target)[None]  # [1, points, 2, ..., 2]
        log_weights = self._weights.to(context.device).log().expand(len(context), -1)
        for m in self._others(target):
            seen = context if query is None or m > target else torch.cat([context, query[:, None]], dim=1)
            own = subset_counts(cell_counts(seen, range(m + 1), self.cardinalities))
            score = log_evidence(own, self.prior)[:, None] + _log_prior(points, m)
            log_weights = log_weights + score.reshape(*score.shape[:2], -1).logsumexp(-1)
        prior = (prior + log_weights.reshape(*log_weights.shape, *(1,) * target)).logsumexp(1)
        score = prior + log_evidence(self._counts(context, target) if counts is None else counts, self.prior)
        return score.reshape(len(score), -1).softmax(-1).reshape(score.shape)

    def _average(self, context: Tensor, query: Tensor, target: int) -> Tensor:
        counts = self._counts(context, target)
        weights = self._posterior(context, target, counts, query)
        for i, card in enumerate(self.cardinalities[:target]):
            # Axis i keeps two entries: summed out (not in A), and the query's own state (in A).
            pair = torch.stack([torch.full_like(query[:, i], card), query[:, i]], dim=1)
            shape = list(counts.shape)
            shape[i + 1] = 2
            index = pair.reshape(-1, *(1,) * i, 2, *(1,) * (counts.ndim - i - 2)).expand(shape)
            counts = counts.gather(i + 1, index)
        means = self.prior.mean(counts)
        return (weights.unsqueeze(-1) * means).reshape(len(means), -1, means.shape[-1]).sum(1)


def _averaged(weights: Tensor, means: Tensor) -> Tensor:
    """sum_A weights[A] means[c(A)] for all c: [..., 2, ..., 2] and [..., 1 + d_0, ..., d] -> [..., d_0, ..., d]."""
    for axis in range(2, weights.ndim):
        card = means.shape[axis] - 1
        outside, inside = weights.split(1, axis)
        weights = torch.cat([inside.expand(*inside.shape[:axis], card, *inside.shape[axis + 1 :]), outside], axis)
    total = weights.unsqueeze(-1) * means
    for axis in range(2, weights.ndim):
        total = total.narrow(axis, 0, total.shape[axis] - 1) + total.narrow(axis, total.shape[axis] - 1, 1)
    return total


def baselines(
    net: BayesianNetwork, alpha: float = 0.5, edge_prob: EdgeProb = 0.5, unmatched: Unmatched = "marginal"
) -> dict[str, Predictor]:
    """The estimators that every experiment is compared with, by name.

    The model average is among them where its sum is short enough to be taken thousands of times.

    >>> from bnicl import load_network
    >>> list(baselines(load_network("chain5")))
    ['MLE', 'naive', 'posterior mean', 'model average']
    """
    check_network(net)
    average = ModelAverage(net.cardinalities, alpha, edge_prob)
    chosen: list[Predictor] = [
        MaximumLikelihood(net, unmatched),
        NaiveFrequency(net.cardinalities, unmatched),
        PosteriorMean(net, alpha),
        *([average] if average.cells(net.n_nodes - 1) <= 50_000 else []),
    ]
    return {estimator.name: estimator for estimator in chosen}
