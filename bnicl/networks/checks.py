"""Checks of the input of every public function; a message has a name, what was expected, and what came instead.

A context is checked once, by the public function; the code behind it trusts its input.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

ABSENT = -1  # a cell without a value; never the same as state 0

Rows = Int64[Tensor, "n nodes"]
Context = Int64[Tensor, "batch n nodes"]
Query = Int64[Tensor, "batch nodes"]
Queries = Int64[Tensor, "batch *queries nodes"]


def check_count(name: str, value: int, least: int = 1) -> int:
    """`value` if it is an integer of at least `least`; a ValueError with its name if not."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: float, low: float, high: float) -> float:
    """`value` if it is a number in [low, high]; a ValueError with its name if not."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ValueError(f"{name}: expected a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message: the known name that is nearest to the one given, or nothing where none is near.

    >>> did_you_mean("chian7", ["chain7", "asia"]), did_you_mean("rows", ["chain7", "asia"])
    ("; did you mean 'chain7'?", '')
    """
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
    batch: int, query: Tensor, target: int, cardinalities: Sequence[int], absent: bool = False, several: bool = False
) -> None:
    """Raises ValueError unless target is a node and `query` has a state, or `absent`, for all nodes before it.

    Its shape is [batch, M], or [batch, n_queries, M] where there may be `several` for each context.
    """
    m = len(cardinalities)
    check_target(target, cardinalities)
    check_tensor("query", query)
    if query.ndim not in ((2, 3) if several else (2,)) or query.shape[-1] != m or query.shape[0] != batch:
        raise ValueError(f"query: expected shape ({batch}, {m}), got {tuple(query.shape)}")
    check_states("query", query[..., :target], cardinalities[:target], absent)


def check_target(target: int, cardinalities: Sequence[int]) -> None:
    """Raises ValueError unless `target` is the index of a node."""
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(cardinalities):
        raise ValueError(f"target: expected a node in 0..{len(cardinalities) - 1}, got {target!r}")
