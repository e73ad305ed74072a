"""Rows with gaps: expected counts by expectation maximisation, for networks small enough to list their joint states.

With p the joint distribution that the tables give, and C_i the joint states that agree with what row i shows,

    E step:  q(x) = p(x) sum_{i : x in C_i} 1 / p(C_i)        how often each joint state is to be expected
    M step:  each table from the counts of its family in q: (n_k + alpha) / (n + d alpha)

until the tables stand still. With alpha = 0 the fixed point is a maximum of the likelihood of what the rows show; with
alpha > 0 the counts are those to use for the posterior mean. This is right where cells are missing at random: whether
a cell is missing may depend on the cells that are there, not on the value it would have. Reference: A. P. Dempster,
N. M. Laird and D. B. Rubin (1977).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.estimators.families import Counts, Family
from bnicl.networks.checks import ABSENT, check_number, check_states
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.states import every_state, ravel_states, states_of, unique_rows

MAX_STATES = 4096  # joint states of a network
_LARGEST = 2**27  # rows times joint states: 1 GiB
_WAY_OUT = "missing available counts each family over the rows that have all of it"
_NOTHING = 1e-6  # rows: an expected count below this is one of zero that the iteration has not reached
_START = 0.5  # of each count in the first M step: no state begins with probability 0


def expected_counts(
    rows: Int64[Tensor, "batch n nodes"],
    net: BayesianNetwork,
    alpha: float = 0.5,
    tolerance: float = 1e-10,
    max_steps: int = 10_000,
) -> tuple[Float[Tensor, "batch *family"], ...]:
    """The expected counts of every family in contexts with gaps, per node float64 ``[batch, *evidence_card, card]``.

    rows: int64 [batch, n, M]; ABSENT is a cell without a value.
    net: the graph. alpha: of the M step; 0 for maximum likelihood.
    tolerance, max_steps: the iteration ends when no table entry moves by more than `tolerance`, or after `max_steps`.

    Raises ValueError for a network of more than 4,096 joint states.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> rows = torch.tensor([[[0, 0], [0, 0], [0, 1], [0, ABSENT]]])
    >>> expected_counts(rows, net, alpha=0.0)[1][0, 0]
    tensor([2.6667, 1.3333], dtype=torch.float64)
    """
    check_network(net)
    check_states("rows", rows, net.cardinalities, absent=True)
    check_number("alpha", alpha, 0, 1e6)
    check_joint_states(net)
    cards = net.cardinalities
    joint = every_state(cards)
    index = [ravel_states(joint, (*net.parents[m], m), cards) for m in range(net.n_nodes)]
    shapes = [(*net.evidence_card(m), card) for m, card in enumerate(cards)]

    shown, which = unique_rows(rows.flatten(0, 1))  # what a row can show, in all contexts
    if len(shown) * len(joint) > _LARGEST:
        raise ValueError(
            f"missing em: expected at most {_LARGEST // len(joint):,} different rows for {len(joint):,} joint states, "
            f"got {len(shown):,}; {_WAY_OUT}"
        )
    agrees = torch.ones(len(shown), len(joint), dtype=torch.bool)
    for own, value in zip(shown.t(), joint.t(), strict=True):
        agrees &= (own[:, None] == value) | (own[:, None] == ABSENT)
    agrees = agrees.double()
    times = torch.zeros(len(rows), len(shown), dtype=torch.float64)
    which = which.reshape(rows.shape[:2])
    times.scatter_add_(1, which, times.new_ones(which.shape))

    def families(q: Tensor) -> list[Tensor]:
        return [q.new_zeros(len(q), math.prod(shape)).index_add_(1, own, q)
                for own, shape in zip(index, shapes, strict=True)]  # fmt: skip

    def tables(counts: list[Tensor], alpha: float) -> list[Tensor]:
        found = []
        for flat, shape in zip(counts, shapes, strict=True):
            table = flat.reshape(len(flat), -1, shape[-1]) + alpha
            total = table.sum(-1, keepdim=True)
            found.append(torch.where(total > 0, table / total, 1 / shape[-1]).flatten(1))
        return found

    known = times @ (agrees / agrees.sum(1, keepdim=True))  # what is not shown, spread evenly: only where to begin
    fitted = tables(families(known), alpha or _START)
    for _ in range(max_steps):
        p = torch.ones(len(rows), len(joint), dtype=torch.float64)
        for table, own in zip(fitted, index, strict=True):
            p *= table[:, own]
        q = p * ((times / (p @ agrees.t()).clamp(min=1e-300)) @ agrees)
        counts = families(q)
        new = tables(counts, alpha)
        moved = max((a - b).abs().max().item() for a, b in zip(fitted, new, strict=True))
        fitted = new
        if moved <= tolerance:
            break
    return tuple(flat.reshape(len(flat), *shape) for flat, shape in zip(counts, shapes, strict=True))


def counts_by_em(rows: Int64[Tensor, "n nodes"], net: BayesianNetwork, alpha: float = 0.5) -> Counts:
    """The expected counts of one context with gaps, as `Counts` for every estimator; see `expected_counts`."""
    families = []
    for m, table in enumerate(expected_counts(rows[None], net, alpha)):
        flat = table[0].reshape(-1, net.cardinalities[m])
        flat = torch.where(flat < _NOTHING, 0.0, flat)  # on the way to zero
        seen = (flat.sum(-1) > 0).nonzero()[:, 0]
        families.append(Family(states_of(seen, net.evidence_card(m)), flat[seen]))
    return Counts(net, len(rows), tuple(families))


def check_joint_states(net: BayesianNetwork) -> None:
    """Raises ValueError where a network has too many joint states for expectation maximisation."""
    n = math.prod(net.cardinalities)
    if n > MAX_STATES:
        raise ValueError(
            f"missing em: expected a network of at most {MAX_STATES:,} joint states, got {n:,}; {_WAY_OUT}"
        )
