"""Networks whose graph is not known: a fresh graph, with fresh tables, for every network of a batch.

A network on any graph over the order 0..M-1 is one on the complete graph whose tables do not depend on
predecessors that are no parents. Networks with different graphs are therefore one `Batch` on the complete
graph, and whatever takes such a batch takes them: sampling, the true conditionals, evaluation, training.

If the order is unknown as well, the columns are permuted, for each network anew. The result has a joint
distribution like any other, and its conditionals in the order of the columns are again tables on the complete graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bnicl.averages import Average, EdgeProb, GraphAverage, ModelAverage, check_edge_prob
from bnicl.encoding import Context, Query, check_cardinalities, check_context, check_query, check_tensor
from bnicl.estimators import Probabilities, Unmatched, check_unmatched, normalised, tally
from bnicl.networks import BayesianNetwork
from bnicl.orders import OrderAverage
from bnicl.priors import ALPHA_RANGE, Dirichlet, Prior, Seed, check_count, check_number, make_generator
from bnicl.sampling import Rows, sample_rows

Adjacency = Bool[Tensor, "batch nodes nodes"]  # [b, i, j]: node i is a parent of node j in network b


def check_adjacency(name: str, adjacency: Adjacency) -> Adjacency:
    """`adjacency` if it is bool [batch, M, M]; else a ValueError."""
    check_tensor(name, adjacency)
    if adjacency.dtype != torch.bool or adjacency.ndim != 3 or adjacency.shape[1] != adjacency.shape[2]:
        got = f"{adjacency.dtype} {tuple(adjacency.shape)}"
        raise ValueError(f"{name}: expected torch.bool [batch, nodes, nodes], got {got}")
    return adjacency


def complete_network(cardinalities: Sequence[int]) -> BayesianNetwork:
    """The graph in which every node has all its predecessors as parents.

    >>> complete_network((2, 2, 3)).parents
    ((), (0,), (0, 1))
    """
    cards = check_cardinalities(cardinalities)
    return BayesianNetwork(
        tuple(f"X{m}" for m in range(len(cards))), tuple(tuple(range(m)) for m in range(len(cards))), cards
    )


@runtime_checkable
class Graphs(Protocol):
    """A distribution over graphs of the same nodes, in a topological order."""

    @property
    def cardinalities(self) -> tuple[int, ...]: ...

    def sample(self, batch: int, generator: torch.Generator) -> Adjacency: ...

    def average(self, alpha: float) -> Average: ...


@dataclass(frozen=True)
class RandomGraphs:
    """Erdos-Renyi graphs over the order 0..M-1: each edge i -> j, i < j, with probability p, independently.

    edge_prob: p, or the ends of a range from which each graph draws its own. (Unlike `random_dag` with `connected`, a
    node may stay alone: only so is the exact optimum a sum over the parent sets of one node at a time.)

    >>> RandomGraphs((2, 2, 2), edge_prob=1.0).sample(1, make_generator(0))[0].int()
    tensor([[0, 1, 1],
            [0, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """

    cardinalities: tuple[int, ...]
    edge_prob: EdgeProb = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "cardinalities", check_cardinalities(self.cardinalities))
        check_edge_prob(self.edge_prob)

    def sample(self, batch: int, generator: torch.Generator) -> Adjacency:
        """Adjacency of `batch` graphs."""
        m, (low, high) = len(self.cardinalities), check_edge_prob(self.edge_prob)
        p = low + (high - low) * torch.rand(
            (batch, 1, 1), dtype=torch.float64, device=generator.device, generator=generator
        )
        u = torch.rand((batch, m, m), dtype=torch.float64, device=generator.device, generator=generator)
        return (u < p).triu(1)

    def average(self, alpha: float) -> Average:
        """The exact optimum for Dirichlet(alpha) tables, the order being known."""
        average = ModelAverage(self.cardinalities, alpha, self.edge_prob)
        average.check_size(len(self.cardinalities) - 1)
        return average


@dataclass(frozen=True)
class OneOf:
    """One of a few graphs, each equally likely, such as the paper's mixture of tree, chain and general graph.

    Tables that the networks may have are not used. Raises ValueError for graphs that do not all have the same
    cardinalities.
    """

    graphs: tuple[BayesianNetwork, ...]

    def __post_init__(self) -> None:
        GraphAverage(self.graphs)  # checks them
        object.__setattr__(self, "graphs", tuple(self.graphs))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.graphs[0].cardinalities

    def sample(self, batch: int, generator: torch.Generator) -> Adjacency:
        """Adjacency of `batch` graphs."""
        matrices = torch.zeros(len(self.graphs), *(2 * (len(self.cardinalities),)), dtype=torch.bool)
        for g, net in enumerate(self.graphs):
            for i, j in net.edges:
                matrices[g, i, j] = True
        chosen = torch.randint(len(matrices), (batch,), device=generator.device, generator=generator)
        return matrices.to(generator.device)[chosen]

    def average(self, alpha: float) -> Average:
        """The exact optimum for Dirichlet(alpha) tables, the order being known."""
        return GraphAverage(self.graphs, alpha)


class StructureBatch(NamedTuple):
    """A `Batch` on the complete graph, and the graphs: cpts and rows as there, adjacency bool [B, M, M].

    After a permutation the columns are in no topological order of the graph; the adjacency is that of the columns.
    """

    cpts: tuple[Tensor, ...]
    rows: Rows
    adjacency: Adjacency


@dataclass(frozen=True)
class StructurePrior:
    """A distribution over networks whose graph is unknown, taken wherever a `NetworkPrior` is.

    shuffled: the columns are permuted, for each network anew, so that the order is unknown too.

    >>> prior = StructurePrior(RandomGraphs((2,) * 5, edge_prob=0.5))
    >>> prior.sample(64, 201, seed=0).rows.shape
    torch.Size([64, 201, 5])
    """

    graphs: Graphs
    prior: Prior = field(default_factory=lambda: Dirichlet(0.5))
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.graphs, Graphs):
            raise ValueError(f"graphs: expected RandomGraphs or OneOf, got {self.graphs!r}")
        if not isinstance(self.prior, Prior):
            raise ValueError(f"prior: expected a prior such as Dirichlet(alpha=0.5), got {self.prior!r}")
        cards = self.graphs.cardinalities
        if self.shuffled and len(set(cards)) > 1:
            raise ValueError(f"shuffled: expected the same number of states for every node, got {cards}")
        if (states := math.prod(cards)) > 2**20:
            raise ValueError(f"cardinalities: expected at most {2**20:,} joint states, got {states:.2g}")

    @property
    def net(self) -> BayesianNetwork:
        """The complete graph, on which every one of these networks is a network."""
        return complete_network(self.graphs.cardinalities)

    def optimum(self) -> Average | None:
        """The exact optimum under this distribution; None where no closed form is known.

        Raises ValueError where it is too large a sum.
        """
        if not isinstance(self.prior, Dirichlet):
            return None
        if not self.shuffled:
            return self.graphs.average(self.prior.alpha)
        if isinstance(self.graphs, RandomGraphs):
            return OrderAverage(self.graphs.cardinalities, self.prior.alpha, self.graphs.edge_prob)
        return None

    def sample(self, batch_size: int, n: int, seed: Seed = 0) -> StructureBatch:
        """`batch_size` networks, each with a graph and tables of its own, and `n` rows of each."""
        check_count("batch_size", batch_size)
        check_count("n", n)
        generator, net = make_generator(seed), self.net
        adjacency = self.graphs.sample(batch_size, generator)
        cpts = tuple(
            _ignoring(adjacency[:, :m, m], self.prior.sample((batch_size, *net.evidence_card(m)), card, generator))
            for m, card in enumerate(net.cardinalities)
        )
        if self.shuffled:
            order = torch.rand(adjacency.shape[:2], device=generator.device, generator=generator).argsort(-1)
            cpts = _permuted(cpts, order)
            adjacency = adjacency.gather(1, order[:, :, None].expand_as(adjacency))
            adjacency = adjacency.gather(2, order[:, None].expand_as(adjacency))
        return StructureBatch(cpts, sample_rows(net, cpts, n, generator), adjacency)


def _ignoring(parents: Bool[Tensor, "batch m"], table: Tensor) -> Tensor:
    """The table [batch, d_0, ..., d_{m-1}, d] with the same row whatever the states of those who are no parents."""
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


def _permuted(cpts: Sequence[Tensor], order: Int64[Tensor, "batch nodes"]) -> tuple[Tensor, ...]:
    """Tables on the complete graph of the columns, column c being node order[c]."""
    joint = joint_distribution(cpts)
    cards = joint.shape[1:]
    states = torch.cartesian_prod(*(torch.arange(card, device=joint.device) for card in cards)).reshape(-1, len(cards))
    strides = torch.tensor([math.prod(cards[i + 1 :]) for i in range(len(cards))], device=joint.device)
    index = (states @ strides[order].T).T  # where the row of columns x lies among the nodes' joint states
    return conditionals(joint.flatten(1).gather(1, index).reshape(joint.shape))


# --- predictors with a graph for each context -----------------------------------------------------


class GivenGraphs:
    """MLE or posterior mean of contexts each of which has a graph of its own, [b, i, j]: i is a parent of j.

    alpha: of the Dirichlet prior, for the posterior mean; None for the MLE, for which `unmatched` ("nan", "uniform"
    or "marginal") says what happens where no row matches, as in `MaximumLikelihood`. Parents are taken among the
    predecessors in the order of the columns.

    >>> context, query = torch.tensor([[[0, 0, 1], [1, 0, 0]]]), torch.tensor([[1, 0, 0]])
    >>> only_first = torch.tensor([[[False, False, True], [False, False, False], [False, False, False]]])
    >>> GivenGraphs(only_first, (2, 2, 2)).predict_proba(context, query, 2)
    tensor([[1., 0.]], dtype=torch.float64)
    """

    name = "given graphs"

    def __init__(
        self,
        adjacency: Adjacency,
        cardinalities: Sequence[int],
        alpha: float | None = None,
        unmatched: Unmatched = "marginal",
    ) -> None:
        self.cardinalities, m = check_cardinalities(cardinalities), len(cardinalities)
        self.adjacency = check_adjacency("adjacency", adjacency)
        if adjacency.shape[1] != m:
            raise ValueError(f"adjacency: expected graphs of {m} nodes, got {adjacency.shape[1]}")
        self.alpha = None if alpha is None else check_number("alpha", alpha, *ALPHA_RANGE)
        if check_unmatched(unmatched) == "nearest":
            raise ValueError("unmatched: expected nan, uniform or marginal, got 'nearest'")
        self.unmatched = unmatched

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """Float64 [batch, card[target]]; the batch is that of the graphs."""
        check_context(context, self.cardinalities)
        check_query(context, query, target, self.cardinalities)
        if len(context) != len(self.adjacency):
            raise ValueError(f"context: expected {len(self.adjacency)} of them, one for each graph, got {len(context)}")
        matching = torch.ones_like(context[:, :, 0], dtype=torch.bool)
        for i in range(target):
            matching &= (context[:, :, i] == query[:, i, None]) | ~self.adjacency[:, i, target, None]
        counts = tally(context[:, :, target], matching, self.cardinalities[target])
        if self.alpha is not None:
            return (counts + self.alpha) / (counts + self.alpha).sum(-1, keepdim=True)
        overall = tally(context[:, :, target], torch.ones_like(matching), self.cardinalities[target])
        return normalised(counts, overall, self.unmatched)
