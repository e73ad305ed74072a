"""Batched forward sampling: many networks of one graph, many rows of each, at once.

Forward (ancestral) sampling draws X_0, X_1, ... in index order, each from its table's row for the
states just drawn for its parents. A batch holds B networks: the tables of node m are then one tensor
[B, *evidence_card, card], the rows [B, L, M]. Everything lives on the device of the generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from bnicl.encoding import check_states, check_target, check_tensor
from bnicl.networks import BayesianNetwork, check_network
from bnicl.priors import Dirichlet, Prior, Seed, check_count, check_number, make_generator

Rows = Int64[Tensor, "batch n nodes"]


class Batch(NamedTuple):
    """B networks of one graph and L rows of each.

    cpts: per node float64 ``[B, *evidence_card, card]``; rows: int64 ``[B, L, M]``.
    """

    cpts: tuple[Tensor, ...]
    rows: Rows


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


def conditional(
    net: BayesianNetwork, cpts: Sequence[Tensor], query: Int64[Tensor, "batch *queries nodes"], target: int
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
    rows = cpts[target].reshape(len(query), -1, card)
    index = ravel_states(query, net.parents[target], net.cardinalities).reshape(len(query), -1, 1)
    return rows.gather(1, index.expand(-1, -1, card)).reshape(*query.shape[:-1], card)


def sample_rows(net: BayesianNetwork, cpts: Sequence[Tensor], n: int, generator: torch.Generator) -> Rows:
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


def forward_sample(net: BayesianNetwork, n: int, seed: Seed = 0) -> Int64[Tensor, "n nodes"]:
    """`n` independent rows of one network, int64 [n, M].

    >>> net = BayesianNetwork(("a",), ((),), (2,), cpts=(torch.tensor([0.0, 1.0]),))
    >>> forward_sample(net, n=3, seed=0).flatten()
    tensor([1, 1, 1])
    """
    check_network(net)
    generator = make_generator(seed)
    tables = [table.to(generator.device).unsqueeze(0) for table in net.tables]
    return sample_rows(net, tables, n, generator)[0]


def with_noise(rows: Rows, cardinalities: Sequence[int], share: float, seed: Seed = 0) -> Rows:
    """`rows` with each value replaced, with probability `share`, by one that is uniform over its node's states.

    >>> with_noise(torch.zeros(1, 5, 1, dtype=torch.int64), (4,), 1.0, seed=0).flatten().unique().numel() > 1
    True
    """
    check_number("share", share, 0, 1)
    generator = make_generator(seed, device=rows.device)
    u = torch.rand((2, *rows.shape), dtype=torch.float64, device=rows.device, generator=generator)
    cards = torch.tensor(cardinalities, device=rows.device)
    return torch.where(u[0] < share, (u[1] * cards).long(), rows)


@dataclass(frozen=True)
class NetworkPrior:
    """A distribution over networks of one graph: tables drawn afresh from `prior` for every network.

    Without a prior, a network that has tables (one from a file, say) is always itself, and a graph alone
    gets tables from Dirichlet(0.5).

    >>> from bnicl import load_network
    >>> NetworkPrior(load_network("chain7")).sample(64, 201, seed=0).rows.shape
    torch.Size([64, 201, 7])
    """

    net: BayesianNetwork
    prior: Prior | None = None

    def __post_init__(self) -> None:
        check_network(self.net)
        if self.prior is not None and not isinstance(self.prior, Prior):
            raise ValueError(f"prior: expected a prior such as Dirichlet(alpha=0.5), got {self.prior!r}")
        if self.prior is None and self.net.cpts is None:
            object.__setattr__(self, "prior", Dirichlet(alpha=0.5))

    def sample(self, batch_size: int, n: int, seed: Seed = 0) -> Batch:
        """`batch_size` networks with fresh tables and `n` rows of each."""
        check_count("batch_size", batch_size)
        check_count("n", n)
        generator = make_generator(seed)
        net = self.net
        if self.prior is None:
            fixed = (table.to(generator.device) for table in net.tables)
            cpts = tuple(table.expand(batch_size, *table.shape) for table in fixed)
        else:
            cpts = tuple(
                self.prior.sample((batch_size, *net.evidence_card(m)), card, generator)
                for m, card in enumerate(net.cardinalities)
            )
        return Batch(cpts, sample_rows(net, cpts, n, generator))


class ContextBatches(IterableDataset[Batch]):
    """An endless stream of batches, each with fresh tables, for a loop or a torch DataLoader.

    The generator is seeded by (seed, worker), so that two workers of one loader never emit the same
    batch, and a second pass over the stream repeats the first.

    >>> from bnicl import load_network
    >>> stream = iter(ContextBatches(NetworkPrior(load_network("chain5")), batch_size=2, n=3, seed=0))
    >>> next(stream).rows.equal(next(stream).rows)
    False
    """

    def __init__(self, networks: NetworkPrior, batch_size: int, n: int, seed: int = 0) -> None:
        self.networks, self.seed = networks, check_count("seed", seed, least=0)
        self.batch_size, self.n = check_count("batch_size", batch_size), check_count("n", n)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        generator = make_generator(self.seed, worker.id if worker else 0)
        while True:
            yield self.networks.sample(self.batch_size, self.n, generator)
