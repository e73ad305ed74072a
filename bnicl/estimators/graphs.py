"""Unknown graphs: distributions over them, and predictors that are given each context's own."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from bnicl.estimators.averages import Average, EdgeProb, ModelAverage, check_edge_prob, edge_probs
from bnicl.estimators.counting import (
    ContextPredictor,
    Probabilities,
    Reading,
    Unmatched,
    check_unmatched,
    normalised,
    tally,
)
from bnicl.estimators.few_graphs import GraphAverage
from bnicl.estimators.orders import OrderAverage
from bnicl.networks.checks import Context, Queries, Query, check_cardinalities, check_number, check_tensor
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.sampling import Adjacency
from bnicl.networks.tables import ALPHA_RANGE, Prior

_LISTED = 6  # nodes, and 2^15 graphs


def check_adjacency(name: str, adjacency: Adjacency) -> Adjacency:
    """`adjacency` if it is bool [batch, M, M]; else a ValueError."""
    check_tensor(name, adjacency)
    if adjacency.dtype != torch.bool or adjacency.ndim != 3 or adjacency.shape[1] != adjacency.shape[2]:
        got = f"{adjacency.dtype} {tuple(adjacency.shape)}"
        raise ValueError(f"{name}: expected torch.bool [batch, nodes, nodes], got {got}")
    return adjacency


@runtime_checkable
class Graphs(Protocol):
    """A distribution over graphs of the same nodes, in a topological order."""

    @property
    def cardinalities(self) -> tuple[int, ...]: ...

    def sample(self, batch: int, generator: torch.Generator) -> Adjacency: ...

    def average(self, prior: Prior, shuffled: bool = False) -> Average | None: ...


@dataclass(frozen=True)
class RandomGraphs:
    """Erdos-Renyi graphs over the order 0..M-1: each edge i -> j, i < j, with probability p, independently.

    edge_prob: p, or the ends of a range from which each graph draws its own. (A node
    may stay isolated: only then is the exact optimum a sum over the parent sets of one node at a time.)
    joined: a node that is alone gets an edge with another, as in the paper. The optimum is then a sum over all graphs,
    of up to five nodes; none is known for more.
    shared: all networks of a batch have one graph, as in the paper; the best answer to each context stays the same.

    >>> RandomGraphs((2, 2, 2), edge_prob=1.0).sample(1, torch.Generator())[0].int()
    tensor([[0, 1, 1],
            [0, 0, 1],
            [0, 0, 0]], dtype=torch.int32)
    """

    cardinalities: tuple[int, ...]
    edge_prob: EdgeProb = 0.5
    joined: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cardinalities", check_cardinalities(self.cardinalities))
        check_edge_prob(self.edge_prob)

    def sample(self, batch: int, generator: torch.Generator) -> Adjacency:
        """Adjacency of `batch` graphs."""
        m, (low, high) = len(self.cardinalities), check_edge_prob(self.edge_prob)
        drawn = 1 if self.shared else batch

        def uniform(*shape: int) -> Tensor:
            return torch.rand((drawn, *shape), dtype=torch.float64, device=generator.device, generator=generator)

        p = low + (high - low) * uniform(1, 1)
        graphs = (uniform(m, m) < p).triu(1)
        if self.joined and m > 1:
            for node in range(m):
                other = uniform(m).index_fill(1, torch.tensor(node, device=p.device), -1.0).argmax(1)
                alone = ~(graphs[:, node].any(1) | graphs[:, :, node].any(1))
                graphs[alone, other[alone].clamp(max=node), other[alone].clamp(min=node)] = True
        return graphs.expand(batch, -1, -1)

    def average(self, prior: Prior, shuffled: bool = False) -> Average | None:
        """The exact optimum for rows from `prior`; the order is known unless `shuffled`.

        None where graphs are joined and too many to be listed (more than five nodes), or also shuffled.
        """
        if self.joined:
            return None if shuffled or len(self.cardinalities) > 5 else self._average_over_graphs(prior)
        if shuffled:
            return OrderAverage(self.cardinalities, edge_prob=self.edge_prob, prior=prior)
        average = ModelAverage(self.cardinalities, edge_prob=self.edge_prob, prior=prior)
        average.check_size(len(self.cardinalities) - 1)
        return average

    def _average_over_graphs(self, prior: Prior) -> GraphAverage:
        probabilities, m = self.probabilities(), len(self.cardinalities)
        names = tuple(f"X{i}" for i in range(m))
        parents = [tuple(tuple(i for i, j in sorted(edges) if j == n) for n in range(m)) for edges in probabilities]
        graphs = [BayesianNetwork(names, own, self.cardinalities) for own in parents]
        return GraphAverage(graphs, prior=prior, probabilities=list(probabilities.values()))

    def probabilities(self) -> dict[frozenset[tuple[int, int]], float]:
        """P(G) of every graph that can be drawn, by its edges; a ValueError for more than `_LISTED` nodes."""
        m = len(self.cardinalities)
        if m > _LISTED:
            raise ValueError(f"cardinalities: expected at most {_LISTED} nodes, whose graphs can be listed, got {m}")
        points, weights = edge_probs(self.edge_prob, m)
        pairs, total = list(itertools.combinations(range(m), 2)), defaultdict[frozenset[tuple[int, int]], float](float)

        def join(edges: frozenset[tuple[int, int]], node: int, p: float) -> None:
            if node == m:
                total[edges] += p
            elif self.joined and m > 1 and all(node not in edge for edge in edges):
                for other in {*range(m)} - {node}:
                    join(edges | {(min(node, other), max(node, other))}, node + 1, p / (m - 1))
            else:
                join(edges, node + 1, p)

        for size in range(len(pairs) + 1):
            p = float((weights * points**size * (1 - points) ** (len(pairs) - size)).sum())
            for edges in itertools.combinations(pairs, size) if p > 0 else ():
                join(frozenset(edges), 0, p)
        return dict(total)


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

    def average(self, prior: Prior, shuffled: bool = False) -> Average | None:
        """The exact optimum for rows from `prior`; None where the order is `shuffled`."""
        return None if shuffled else GraphAverage(self.graphs, prior=prior)


class GivenGraphs(ContextPredictor):
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

    def _read(self, context: Context) -> Reading:
        if len(context) != len(self.adjacency):
            raise ValueError(f"context: expected {len(self.adjacency)} of them, one for each graph, got {len(context)}")

        def answer(query: Queries, target: int) -> Tensor:
            if query.ndim == 2:
                return self._matched(context, query, target)
            return torch.stack([self._matched(context, own, target) for own in query.unbind(1)], dim=1)

        return answer

    def _matched(self, context: Context, query: Query, target: int) -> Probabilities:
        matching = torch.ones_like(context[:, :, 0], dtype=torch.bool)
        for i in range(target):
            matching &= (context[:, :, i] == query[:, i, None]) | ~self.adjacency[:, i, target, None]
        counts = tally(context[:, :, target], matching, self.cardinalities[target])
        if self.alpha is not None:
            return (counts + self.alpha) / (counts + self.alpha).sum(-1, keepdim=True)
        overall = tally(context[:, :, target], torch.ones_like(matching), self.cardinalities[target])
        return normalised(counts, overall, self.unmatched)
