"""Batched forward sampling: many networks of one graph, many rows of each, at once.

Forward (ancestral) sampling draws X_0, X_1, ... in index order, each from its table's row for the
states just drawn for its parents. A batch holds B networks: the tables of node m are then one tensor
[B, *evidence_card, card], the rows [B, L, M]. Everything lives on the device of the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bnicl.networks.checks import (
    Context,
    Queries,
    Rows,
    check_count,
    check_number,
    check_states,
    check_target,
    check_tensor,
)
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.states import ravel_states
from bnicl.networks.tables import Seed, make_generator

Adjacency = Bool[Tensor, "batch nodes nodes"]  # [b, i, j]: node i is a parent of node j in network b


class Batch(NamedTuple):
    """B networks and L rows of each.

    cpts: per node float64 ``[B, *evidence_card, card]``, of one graph: the complete one where each network has its own.
    rows: int64 ``[B, L, M]``.
    adjacency: the networks' own graphs, bool ``[B, M, M]``, i -> j; None where one graph is known. Where the columns
    are permuted it is that of the columns, which are then in no topological order.
    """

    cpts: tuple[Tensor, ...]
    rows: Context
    adjacency: Adjacency | None = None

    @property
    def graphs(self) -> Adjacency:
        """``adjacency``, or a ValueError where the networks have no graphs of their own."""
        if self.adjacency is None:
            raise ValueError("adjacency: expected a graph for each network, got None: one graph is known")
        return self.adjacency


def conditional(
    net: BayesianNetwork, cpts: Sequence[Tensor], query: Queries, target: int
) -> Float[Tensor, "batch *queries card"]:
    """P(X_target | x_Pa(target)) of each network for its own queries: rows of its table, [B, ..., card]."""
    check_target(target, net.cardinalities)
    check_tensor("query", query)
    card = net.cardinalities[target]
    expected = (len(query), *net.evidence_card(target), card)
    if len(cpts) != net.n_nodes or tuple(cpts[target].shape) != expected:
        got = tuple(cpts[target].shape) if len(cpts) == net.n_nodes else f"{len(cpts)} tables"
        raise ValueError(f"cpts: expected one table [batch, *evidence_card, card] a node, here {expected}, got {got}")
    check_states("query", query[..., :target], net.cardinalities[:target])
    return rows_of(cpts[target], query, net.parents[target], net.cardinalities)


def rows_of(
    table: Tensor, query: Queries, parents: Sequence[int], cardinalities: Sequence[int]
) -> Float[Tensor, "batch *queries card"]:
    """The rows of tables [batch, *evidence_card, card] at each query's states of the parents."""
    card = table.shape[-1]
    rows = table.reshape(len(query), -1, card)
    index = ravel_states(query, parents, cardinalities).reshape(len(query), -1, 1)
    return rows.gather(1, index.expand(-1, -1, card)).reshape(*query.shape[:-1], card)


def sample_rows(net: BayesianNetwork, cpts: Sequence[Tensor], n: int, generator: torch.Generator) -> Context:
    """`n` rows of each of B networks, int64 [B, n, M]; `cpts` as in `Batch`."""
    check_count("n", n)
    batch = len(cpts[0])
    u = torch.rand((net.n_nodes, batch, n), dtype=torch.float64, device=generator.device, generator=generator)
    by_node = torch.zeros((net.n_nodes, batch, n), dtype=torch.int64, device=generator.device)
    rows = by_node.permute(1, 2, 0)  # a view: each node's states lie together, where counting reads them
    for m, card in enumerate(net.cardinalities):
        cdf = cpts[m].reshape(batch, -1, card).cumsum(-1)
        cdf = cdf / cdf[..., -1:]  # ends in 1 to the bit, so a state of probability zero is never drawn
        evidence = ravel_states(rows, net.parents[m], net.cardinalities)
        for k in range(card - 1):
            by_node[m] += u[m] >= cdf[..., k].gather(1, evidence)
    return rows


def forward_sample(net: BayesianNetwork, n: int, seed: Seed = 0) -> Rows:
    """`n` independent rows of one network, int64 [n, M].

    >>> net = BayesianNetwork(("a",), ((),), (2,), cpts=(torch.tensor([0.0, 1.0]),))
    >>> forward_sample(net, n=3, seed=0).flatten()
    tensor([1, 1, 1])
    """
    check_network(net)
    generator = make_generator(seed)
    tables = [table.to(generator.device).unsqueeze(0) for table in net.tables]
    return sample_rows(net, tables, n, generator)[0]


def with_noise(rows: Context, cardinalities: Sequence[int], share: float, seed: Seed = 0) -> Context:
    """`rows` with each value replaced, with probability `share`, by one that is uniform over its node's states.

    >>> with_noise(torch.zeros(1, 5, 1, dtype=torch.int64), (4,), 1.0, seed=0).flatten().unique().numel() > 1
    True
    """
    check_number("share", share, 0, 1)
    generator = make_generator(seed, device=rows.device)
    u = torch.rand((2, *rows.shape), dtype=torch.float64, device=rows.device, generator=generator)
    cards = torch.tensor(cardinalities, device=rows.device)
    return torch.where(u[0] < share, (u[1] * cards).long(), rows)
