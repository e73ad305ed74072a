"""Integer states -> the columns that a transformer reads.

A column stacks a one-hot block of d_m entries for each of the M nodes, then a position block of M + 1
flags: one for each target, the last for context rows. With S = sum of d_m a column has S + M + 1 entries.

    context row:  [ x_0 | x_1 | ... | x_{M-1} | 0 ... 0 1 ]
    query for m0: [ x_0 | ... | x_{m0-1} | 0 ... 0 | e_m0 ]

An absent value (ABSENT) is a block of zeros, never the same as state 0.

The "raw" encoding has one number a node instead of a block (-1 where it is absent, never the
same as state 0) and one for the target (-1 in a context row): M + 1 entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.networks.checks import ABSENT, Context, Query, check_context, check_query

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
    starts = torch.tensor([block.start for block in blocks(cardinalities)], device=states.device)
    columns = torch.zeros(*states.shape[:-1], sum(cardinalities), dtype=dtype, device=states.device)
    return columns.scatter_(-1, states.clamp(min=0) + starts, (states != ABSENT).to(dtype))


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
    check_query(len(context), query, target, cardinalities)
    asked = query_columns(query, [target], cardinalities, dtype, encoding)
    return torch.cat([context_columns(context, cardinalities, dtype, encoding), asked], dim=1)
