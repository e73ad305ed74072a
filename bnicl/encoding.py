"""Integer states <-> the columns that a transformer reads, and the checks that all input passes.

A column stacks a one-hot block of d_m entries for each of the M nodes, then a position block of M + 1
flags: one for each target, the last for context rows. With S = sum of d_m a column has S + M + 1 entries.

    context row:  [ x_0 | x_1 | ... | x_{M-1} | 0 ... 0 1 ]
    query for m0: [ x_0 | ... | x_{m0-1} | 0 ... 0 | e_m0 ]

An absent value (ABSENT) is a block of zeros, never the same as state 0.

The "raw" encoding, the peer's, has one number a node instead of a block (-1 where it is absent, never the
same as state 0) and one for the target (-1 in a context row): M + 1 entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ABSENT = -1

Context = Int64[Tensor, "batch n nodes"]
Query = Int64[Tensor, "batch nodes"]
Encoding = Literal["one-hot", "raw"]


def blocks(cardinalities: Sequence[int]) -> tuple[slice, ...]:
    """Where each node's one-hot block lies in a column.

    >>> blocks((2, 3))
    (slice(0, 2, None), slice(2, 5, None))
    """
    return tuple(slice(start, stop) for start, stop in pairwise(accumulate(cardinalities, initial=0)))


def one_hot(
    states: Int64[Tensor, "*batch nodes"], cardinalities: Sequence[int], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch S"]:
    """One-hot blocks side by side, [..., S]; ABSENT becomes a block of zeros.

    >>> one_hot(torch.tensor([[1, 0], [ABSENT, 2]]), (2, 3))
    tensor([[0., 1., 1., 0., 0.],
            [0., 0., 0., 0., 1.]])
    """
    check_states("states", states, cardinalities, absent=True)
    starts = torch.tensor([block.start for block in blocks(cardinalities)], device=states.device)
    columns = torch.zeros(*states.shape[:-1], sum(cardinalities), dtype=dtype, device=states.device)
    return columns.scatter_(-1, states.clamp(min=0) + starts, (states != ABSENT).to(dtype))


def from_one_hot(columns: Float[Tensor, "*batch S"], cardinalities: Sequence[int]) -> Int64[Tensor, "*batch nodes"]:
    """The inverse of `one_hot`: integer states, ABSENT where a block is zero.

    >>> from_one_hot(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), (2, 3))
    tensor([-1,  0])
    """
    if columns.shape[-1] != sum(cardinalities):
        raise ValueError(f"columns: expected {sum(cardinalities)} entries, got {columns.shape[-1]}")
    states = []
    for m, block in enumerate(blocks(cardinalities)):
        values = columns[..., block]
        if not bool((((values == 0) | (values == 1)).all(-1) & (values.sum(-1) <= 1)).all()):
            raise ValueError(f"columns: expected block {m} to be one-hot or zero, got other values")
        states.append(torch.where(values.sum(-1) > 0, values.argmax(-1), ABSENT))
    return torch.stack(states, dim=-1)


def context_columns(
    rows: Int64[Tensor, "*batch nodes"],
    cardinalities: Sequence[int],
    dtype: torch.dtype = torch.float32,
    encoding: Encoding = "one-hot",
) -> Float[Tensor, "*batch width"]:
    """The column of each context row.

    >>> context_columns(torch.tensor([[0, 1]]), (2, 2))
    tensor([[1., 0., 0., 1., 0., 0., 1.]])
    """
    if encoding == "raw":
        return torch.nn.functional.pad(rows.to(dtype), (0, 1), value=float(ABSENT))
    x, m = one_hot(rows, cardinalities, dtype), len(cardinalities)
    position = x.new_zeros(*x.shape[:-1], m + 1)
    position[..., m] = 1
    return torch.cat([x, position], dim=-1)


def query_columns(
    rows: Int64[Tensor, "*batch nodes"],
    targets: Sequence[int],
    cardinalities: Sequence[int],
    dtype: torch.dtype = torch.float32,
    encoding: Encoding = "one-hot",
) -> Float[Tensor, "*batch targets width"]:
    """The columns that ask for each of the targets given the values before it; later values are not read.

    >>> query_columns(torch.tensor([[1, ABSENT]]), [0, 1], (2, 2))
    tensor([[[0., 0., 0., 0., 1., 0., 0.],
             [0., 1., 0., 0., 0., 1., 0.]]])
    """
    wanted = torch.as_tensor(list(targets), device=rows.device)
    known = torch.arange(len(cardinalities), device=rows.device) < wanted[:, None]  # [targets, nodes]
    prefix = torch.where(known, rows.unsqueeze(-2), ABSENT)
    if encoding == "raw":
        return torch.cat([prefix.to(dtype), wanted[:, None].to(dtype).expand(*prefix.shape[:-1], 1)], dim=-1)
    flags = torch.nn.functional.one_hot(wanted, len(cardinalities) + 1).to(dtype)
    x = one_hot(prefix, cardinalities, dtype)
    return torch.cat([x, flags.expand(*x.shape[:-1], -1)], dim=-1)


def query_columns_each(
    rows: Int64[Tensor, "*batch n nodes"],
    targets: Sequence[int],
    cardinalities: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*batch n width"]:
    """As `query_columns`, one-hot, each of the n rows with a target of its own.

    >>> query_columns_each(torch.tensor([[1, ABSENT], [1, 0]]), [1, 0], (2, 2))
    tensor([[0., 1., 0., 0., 0., 1., 0.],
            [0., 0., 0., 0., 1., 0., 0.]])
    """
    wanted = torch.as_tensor(list(targets), device=rows.device)
    known = torch.arange(len(cardinalities), device=rows.device) < wanted[:, None]  # [n, nodes]
    x = one_hot(torch.where(known, rows, ABSENT), cardinalities, dtype)
    flags = torch.nn.functional.one_hot(wanted, len(cardinalities) + 1).to(dtype)
    return torch.cat([x, flags.expand(*x.shape[:-1], -1)], dim=-1)


def encode(
    context: Context,
    query: Query,
    target: int,
    cardinalities: Sequence[int],
    dtype: torch.dtype = torch.float32,
    encoding: Encoding = "one-hot",
) -> Float[Tensor, "batch n_ctx width"]:
    """The input matrix: the context's columns, then the query's, [batch, n + 1, S + M + 1].

    Entries of `query` from `target` on are not read. Raises ValueError for input out of range.

    >>> encode(torch.tensor([[[0, 1]]]), torch.tensor([[1, 0]]), 1, (2, 2))
    tensor([[[1., 0., 0., 1., 0., 0., 1.],
             [0., 1., 0., 0., 0., 1., 0.]]])
    """
    check_context(context, cardinalities)
    check_query(context, query, target, cardinalities)
    asked = query_columns(query, [target], cardinalities, dtype, encoding)
    return torch.cat([context_columns(context, cardinalities, dtype, encoding), asked], dim=1)


# --- checks: every public function calls these before it computes anything ------------------------


def check_tensor(name: str, value: Tensor) -> None:
    """Raises ValueError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(value).__name__}")


def check_states(name: str, states: Tensor, cardinalities: Sequence[int], absent: bool = False) -> None:
    """Raises ValueError unless `states` is int64 [..., M] with every entry a state of its node."""
    check_tensor(name, states)
    if states.dtype != torch.int64:
        raise ValueError(f"{name}: expected integer states (torch.int64), got {states.dtype}")
    if states.shape[-1] != len(cardinalities):
        raise ValueError(f"{name}: expected {len(cardinalities)} columns, one for each node, got {states.shape[-1]}")
    if states.numel() == 0:
        return
    lowest = ABSENT if absent else 0
    if states.numel() < 2**16:  # small: one comparison; large: a node at a time, as the rows lie in memory
        limits = torch.tensor(cardinalities, device=states.device)
        if not bool(((states < lowest) | (states >= limits)).any()):
            return
    for m, card in enumerate(cardinalities):
        low, high = states[..., m].aminmax()
        if low < lowest or high >= card:
            got = int(high) if high >= card else int(low)
            raise ValueError(f"{name}: expected states of node {m} in 0..{card - 1}, got {got}")


def check_cardinalities(cardinalities: Sequence[int]) -> tuple[int, ...]:
    """`cardinalities` as a tuple if there is at least one and each is an integer of at least 2; else ValueError."""
    try:
        cards = tuple(cardinalities)
    except TypeError:
        cards = ()
    if not cards or any(isinstance(card, bool) or not isinstance(card, int) or card < 2 for card in cards):
        raise ValueError(f"cardinalities: expected integers of at least 2, one for each node, got {cardinalities!r}")
    return cards


def check_context(context: Tensor, cardinalities: Sequence[int], absent: bool = False) -> None:
    """Raises ValueError unless `context` is int64 [batch, n, M], n >= 1, of states, or `absent` values."""
    check_tensor("context", context)
    if context.ndim != 3:
        raise ValueError(f"context: expected shape [batch, n, {len(cardinalities)}], got {tuple(context.shape)}")
    check_states("context", context, cardinalities, absent)
    if context.shape[0] == 0 or context.shape[1] == 0:
        raise ValueError(f"context: expected at least one row in at least one context, got {tuple(context.shape)}")


def check_query(
    context: Tensor, query: Tensor, target: int, cardinalities: Sequence[int], absent: bool = False
) -> None:
    """Raises ValueError unless target is a node and `query` [batch, M] has a state, or `absent`, for all before it."""
    m = len(cardinalities)
    check_target(target, cardinalities)
    check_tensor("query", query)
    if query.ndim != 2 or query.shape[1] != m or query.shape[0] != context.shape[0]:
        raise ValueError(f"query: expected shape ({context.shape[0]}, {m}), got {tuple(query.shape)}")
    check_states("query", query[:, :target], cardinalities[:target], absent)


def check_target(target: int, cardinalities: Sequence[int]) -> None:
    """Raises ValueError unless `target` is the index of a node."""
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(cardinalities):
        raise ValueError(f"target: expected a node in 0..{len(cardinalities) - 1}, got {target!r}")
