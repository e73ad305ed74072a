"""Joint states of several nodes as one integer, and back; rows that are equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

WIDE = 2**62  # joint states from here on have no int64 of their own


def ravel_states(
    states: Int64[Tensor, "*batch nodes"], nodes: Sequence[int], cardinalities: Sequence[int]
) -> Int64[Tensor, "*batch"]:
    """The joint state of `nodes` as one integer, the last node counting fastest (as `reshape` does).

    >>> ravel_states(torch.tensor([[1, 0, 2]]), [0, 2], [2, 2, 3])
    tensor([5])
    """
    index = states[..., nodes[0]] if len(nodes) else torch.zeros_like(states[..., 0])
    for node in nodes[1:]:
        index = torch.add(states[..., node], index, alpha=cardinalities[node])
    return index


def states_of(codes: Int64[Tensor, "*batch"], cardinalities: Sequence[int]) -> Int64[Tensor, "*batch nodes"]:
    """The inverse of `ravel_states`, for nodes of these cardinalities.

    >>> states_of(torch.tensor([5]), (2, 3))
    tensor([[1, 2]])
    """
    states = codes.new_empty(*codes.shape, len(cardinalities))
    for i in range(len(cardinalities) - 1, -1, -1):
        states[..., i] = codes % cardinalities[i]
        codes = codes // cardinalities[i]
    return states


def every_state(cardinalities: Sequence[int], device: torch.device | str = "cpu") -> Int64[Tensor, "states nodes"]:
    """All joint states, in the order of `ravel_states`; of no nodes there is one.

    >>> every_state((2, 2)).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return states_of(torch.arange(math.prod(cardinalities), device=device), cardinalities)


def unique_rows(rows: Int64[Tensor, "n nodes"]) -> tuple[Int64[Tensor, "seen nodes"], Int64[Tensor, " n"]]:
    """The different rows, sorted, and which of them each is; also of rows without any entry."""
    if rows.shape[1]:
        different, which = rows.unique(dim=0, return_inverse=True)
        return different, which
    return rows[:1], torch.zeros(len(rows), dtype=torch.int64)


def row_codes(several: Sequence[Tensor], cardinalities: Sequence[int]) -> Sequence[Tensor]:
    """A number for each row, the same for equal rows and in their order."""
    if math.prod(cardinalities) < WIDE:
        nodes = range(len(cardinalities))
        return [ravel_states(rows, nodes, cardinalities) if nodes else rows.new_zeros(len(rows)) for rows in several]
    numbered = unique_rows(torch.cat(list(several)))[1]
    return numbered.split([len(rows) for rows in several])
