"""The exact optimum when the order of the variables is unknown as well: a sum over all orders by dynamic programming.

Reference: Koivisto and Sood, Journal of Machine Learning Research 5 (2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bnicl.estimators.averages import (
    INSTEAD,
    Average,
    EdgeProb,
    edge_probs,
    log_evidence,
    subset_counts,
)
from bnicl.estimators.counting import Reading, cell_counts
from bnicl.networks.checks import Context, Queries, check_cardinalities
from bnicl.networks.sampling import rows_of
from bnicl.networks.states import every_state
from bnicl.networks.tables import Prior, rows_prior


class OrderAverage(Average):
    """The exact optimum when neither the graph nor the order of the variables is known.

    A priori every order is equally likely, and given the order every edge has probability `edge_prob`, as in
    `ModelAverage`. The probability of a new row x given the context is a sum over orders, in which node m
    comes after a set U of nodes::

        P(x | context)  is proportional to  F(all nodes),    F(S) = sum_{m in S} F(S - m) V_m(S - m),  F({}) = 1,
        V_m(U) = sum_{A in U} edge_prob^|A| (1 - edge_prob)^(|U| - |A|) L_m(A) P(x_m | x_A, context, A).

    It takes 2^M sets instead of M! orders. Conditionals follow from the joint distribution. More than `MAX_CELLS` terms
    a context raise a ValueError: seven nodes of two states are the most.

    >>> average = OrderAverage((2, 2))
    >>> average.joint(torch.tensor([[[0, 0], [1, 1], [0, 0], [1, 1]]]))
    tensor([[[0.3929, 0.1071],
             [0.1071, 0.3929]]], dtype=torch.float64)
    """

    name = "order average"
    MAX_CELLS = 2**17

    def __init__(
        self, cardinalities: Sequence[int], alpha: float = 0.5, edge_prob: EdgeProb = 0.5, prior: Prior | None = None
    ) -> None:
        self.cardinalities = check_cardinalities(cardinalities)
        self.prior = rows_prior(alpha, prior)
        self.edge_prob = edge_prob
        self._points, self._weights = edge_probs(edge_prob, len(self.cardinalities))
        m = len(self.cardinalities)
        self._cells = m * 2 ** (m - 1) * math.prod(self.cardinalities)
        if self._cells > self.MAX_CELLS:
            raise ValueError(
                f"OrderAverage: expected at most {self.MAX_CELLS:,} terms, as 7 nodes of two states have, got "
                f"{self._cells:.2g} for {m} nodes; for more, {INSTEAD}"
            )

    def _read(self, context: Context) -> Reading:
        joint = self._joint(context)

        def answer(query: Queries, target: int) -> Tensor:
            known = joint.flatten(target + 2).sum(-1) if target + 1 < len(self.cardinalities) else joint
            row = rows_of(known, query, range(target), self.cardinalities)
            return row / row.sum(-1, keepdim=True)

        return answer

    def _joint(self, context: Context) -> Tensor:
        step = max(1, 2**22 // self._cells)
        parts = [self._joint_of_part(context[start : start + step]) for start in range(0, len(context), step)]
        return torch.cat(parts)

    def _joint_of_part(self, context: Tensor) -> Tensor:
        """F over all sets, smallest first: F(S) is the sum over the node m that comes last in S."""
        m = len(self.cardinalities)
        everything = cell_counts(context, range(m), self.cardinalities)
        terms = [self._terms(everything, node) for node in range(m)]
        nothing = torch.zeros(len(context), math.prod(self.cardinalities), dtype=torch.float64, device=context.device)
        # F({}) = 1; F(S) = sum_{m in S} F(S - m) V_m(S - m): the node m that comes last in S has its parents among the
        # others. A set is a number, a bit for each node, so that S - m comes before S.
        totals = []
        for p, weight in zip(self._points.tolist(), self._weights.tolist(), strict=True):
            values = [_over_subsets(own, p) for own in terms]
            before = {0: nothing}  # log F, by the bits of S
            for members in range(1, 2**m):
                last = [node for node in range(m) if members >> node & 1]
                options = [before[members - 2**node] + values[node][_inside(members, node, m)] for node in last]
                before[members] = torch.stack(options).logsumexp(0)
            totals.append(math.log(weight) + before[2**m - 1])
        return torch.stack(totals).logsumexp(0).softmax(-1).reshape(-1, *self.cardinalities)

    def _terms(self, everything: Tensor, node: int) -> Tensor:
        """log L(A) P(x_node | x_A, A), for all subsets A of the other nodes and all x: [batch, 2, ..., 2, X]."""
        cards = self.cardinalities
        counts = subset_counts(everything.movedim(node + 1, -1))
        x = every_state(cards, counts.device)
        index = torch.zeros_like(x[:, 0])
        for i in (i for i in range(len(cards)) if i != node):  # along each axis: summed out, or x's own state
            pair = torch.stack([torch.full_like(x[:, i], cards[i]), x[:, i]])
            index = index.unsqueeze(-2) * (1 + cards[i]) + pair
        means = self.prior.mean(counts).flatten(1)[:, index * cards[node] + x[:, node]]
        return log_evidence(counts, self.prior).unsqueeze(-1) + means.log()


def _over_subsets(terms: Tensor, p: float) -> Tensor:
    """log sum_{A in U} p^|A| (1 - p)^(|U| - |A|) exp(terms(A)), for all U: [batch, 2, ..., 2, X]."""
    log_in, log_out = (math.log(q) if q > 0 else -math.inf for q in (p, 1 - p))
    for axis in range(1, terms.ndim - 1):
        out, inside = terms.select(axis, 0), terms.select(axis, 1)
        terms = torch.stack([out, torch.logaddexp(log_out + out, log_in + inside)], dim=axis)
    return terms


def _inside(members: int, node: int, m: int) -> tuple[slice | int, ...]:
    """Where V of `node` is for the set `members` without it."""
    return (slice(None), *(members >> i & 1 for i in range(m) if i != node))
