"""Networks of any graph as tables on the complete graph, and their joint distributions.

A network on any graph over the order 0..M-1 is one on the complete graph whose tables do not depend on predecessors
that are no parents. Networks with different graphs are therefore one `Batch` on the complete graph, so code that takes
such a batch takes them. If the columns are permuted, the joint distribution is one like any other, and its conditionals
in the order of the columns are again tables on the complete graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bnicl.networks.checks import (
    check_cardinalities,
)
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.states import every_state


def complete_network(cardinalities: Sequence[int]) -> BayesianNetwork:
    """The graph in which every node has all its predecessors as parents.

    >>> complete_network((2, 2, 3)).parents
    ((), (0,), (0, 1))
    """
    cards = check_cardinalities(cardinalities)
    return BayesianNetwork(
        tuple(f"X{m}" for m in range(len(cards))), tuple(tuple(range(m)) for m in range(len(cards))), cards
    )


def ignoring(parents: Bool[Tensor, "batch m"], table: Tensor) -> Tensor:
    """The table [batch, d_0, ..., d_{m-1}, d] with the same row whatever the states of the non-parents."""
    for i in range(parents.shape[1]):
        first = table.narrow(i + 1, 0, 1).expand_as(table)
        table = torch.where(parents[:, i].reshape(-1, *(1,) * (table.ndim - 1)), table, first)
    return table


def joint_distribution(cpts: Sequence[Tensor]) -> Float[Tensor, "batch *cards"]:
    """prod_m P(x_m | x_0, ..., x_{m-1}) from tables on the complete graph, float64 [batch, d_0, ..., d_{M-1}]."""
    joint = cpts[0]
    for table in cpts[1:]:
        joint = joint.unsqueeze(-1) * table
    return joint


def conditionals(joint: Float[Tensor, "batch *cards"]) -> tuple[Tensor, ...]:
    """The inverse of `joint_distribution`; uniform rows where the condition has probability zero."""
    tables = []
    for m in range(joint.ndim - 1):
        marginal = joint.flatten(m + 2).sum(-1) if m + 2 < joint.ndim else joint
        total = marginal.sum(-1, keepdim=True)
        uniform = torch.full_like(marginal, 1 / marginal.shape[-1])
        tables.append(torch.where(total > 0, marginal / total, uniform))
    return tuple(tables)


def permuted(cpts: Sequence[Tensor], order: Int64[Tensor, "batch nodes"]) -> tuple[Tensor, ...]:
    """Tables on the complete graph of the columns, column c being node order[c]."""
    joint = joint_distribution(cpts)
    cards = joint.shape[1:]
    states = every_state(cards, joint.device)
    strides = torch.tensor([math.prod(cards[i + 1 :]) for i in range(len(cards))], device=joint.device)
    index = (states @ strides[order].T).T  # where the row of columns x lies among the nodes' joint states
    return conditionals(joint.flatten(1).gather(1, index).reshape(joint.shape))
