"""Distributions over networks: what training and evaluation draw from.

| prior            | the graph           | the tables                            |
|------------------|---------------------|---------------------------------------|
| `NetworkPrior`   | known               | drawn anew for each network, or fixed |
| `StructurePrior` | drawn, as the order | drawn anew for each network           |
| `Pool`           | as its prior's      | those of a few networks drawn once    |

Each draws a `Batch` and knows the exact `optimum()` under itself and the in-context MLE of a batch, `mle(batch)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from bnicl.estimators.averages import Average
from bnicl.estimators.counting import KnownTables, MaximumLikelihood, PosteriorMean, Predictor
from bnicl.estimators.graphs import GivenGraphs, Graphs
from bnicl.networks.checks import Context, check_count
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.joint import complete_network, ignoring, permuted
from bnicl.networks.sampling import Batch, sample_rows
from bnicl.networks.tables import Dirichlet, Prior, Seed, make_generator


@runtime_checkable
class TablePredictor(Predictor, Protocol):
    """A predictor that can give its answers to all queries as tables, float64 ``[batch, *evidence_card, card]``."""

    def fit(self, context: Context) -> tuple[Tensor, ...]: ...


@runtime_checkable
class Networks(Protocol):
    """A distribution over networks.

    net: the graph on which all of them are networks. graph_is_known: whether it is each network's own.
    """

    @property
    def graph_is_known(self) -> bool: ...

    @property
    def net(self) -> BayesianNetwork: ...

    def sample(self, batch_size: int, n: int, seed: Seed = 0) -> Batch: ...

    def optimum(self) -> TablePredictor | None: ...

    def mle(self, batch: Batch) -> Predictor | None: ...


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
    graph_is_known = True

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

    def optimum(self) -> PosteriorMean | KnownTables:
        """The posterior mean for the prior of the tables; the tables themselves where they are fixed."""
        return KnownTables(self.net) if self.prior is None else PosteriorMean(self.net, prior=self.prior)

    def mle(self, batch: Batch) -> MaximumLikelihood:
        """The in-context MLE for the known graph; NaN where no row matches."""
        return MaximumLikelihood(self.net, "nan")


@dataclass(frozen=True)
class StructurePrior:
    """A distribution over networks whose graph is unknown: a fresh graph, with fresh tables, for every network.

    shuffled: the columns are permuted, for each network anew, so that the order is unknown too.

    >>> from bnicl import RandomGraphs
    >>> prior = StructurePrior(RandomGraphs((2,) * 5, edge_prob=0.5))
    >>> prior.sample(64, 201, seed=0).rows.shape
    torch.Size([64, 201, 5])
    """

    graphs: Graphs
    prior: Prior = field(default_factory=lambda: Dirichlet(0.5))
    shuffled: bool = False
    graph_is_known = False

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

    def sample(self, batch_size: int, n: int, seed: Seed = 0) -> Batch:
        """`batch_size` networks, each with a graph and tables of its own, and `n` rows of each."""
        check_count("batch_size", batch_size)
        check_count("n", n)
        generator, net = make_generator(seed), self.net
        adjacency = self.graphs.sample(batch_size, generator)
        cpts = tuple(
            ignoring(adjacency[:, :m, m], self.prior.sample((batch_size, *net.evidence_card(m)), card, generator))
            for m, card in enumerate(net.cardinalities)
        )
        if self.shuffled:
            order = torch.rand(adjacency.shape[:2], device=generator.device, generator=generator).argsort(-1)
            cpts = permuted(cpts, order)
            adjacency = adjacency.gather(1, order[:, :, None].expand_as(adjacency))
            adjacency = adjacency.gather(2, order[:, None].expand_as(adjacency))
        return Batch(cpts, sample_rows(net, cpts, n, generator), adjacency)

    def optimum(self) -> Average | None:
        """The average over graphs, and orders; None for a few graphs whose order is unknown.

        Raises ValueError where it is too large a sum.
        """
        return self.graphs.average(self.prior, self.shuffled)

    def mle(self, batch: Batch) -> GivenGraphs | None:
        """The MLE given each network's graph; None where the columns are not in an order of it."""
        if self.shuffled or batch.adjacency is None:
            return None
        return GivenGraphs(batch.adjacency, self.graphs.cardinalities, unmatched="nan")


@dataclass(frozen=True)
class Pool:
    """A fixed number of networks, drawn once from a prior; each is as likely as the others.

    n: how many. seed: of the draw.

    >>> from bnicl import load_network
    >>> pool = Pool(NetworkPrior(load_network("chain5")), n=3)
    >>> pool.sample(64, 1, seed=0).cpts[0].unique(dim=0).shape
    torch.Size([3, 2])
    """

    prior: Networks
    n: int
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Networks):
            raise ValueError(f"prior: expected a prior over networks, got {self.prior!r}")
        check_count("n", self.n)

    @property
    def graph_is_known(self) -> bool:
        return self.prior.graph_is_known

    @property
    def net(self) -> BayesianNetwork:
        """The graph on which all of them are networks."""
        return self.prior.net

    @cached_property
    def _drawn(self) -> Batch:
        return self.prior.sample(self.n, 1, self.seed)

    def sample(self, batch_size: int, n: int, seed: Seed = 0) -> Batch:
        """`batch_size` of the networks, with repetition, and `n` new rows of each."""
        check_count("batch_size", batch_size)
        generator, drawn = make_generator(seed), self._drawn
        chosen = torch.randint(self.n, (batch_size,), generator=generator, device=generator.device)
        cpts = tuple(table[chosen] for table in drawn.cpts)
        rows = sample_rows(self.net, cpts, n, generator)
        return Batch(cpts, rows, None if drawn.adjacency is None else drawn.adjacency[chosen])

    def optimum(self) -> None:
        """None: for a known pool the optimum is a mixture over its networks, which is not available."""
        return None

    def mle(self, batch: Batch) -> Predictor | None:
        """As the prior's."""
        return self.prior.mle(batch)


def optimum(networks: Networks) -> TablePredictor | None:
    """The predictor with the smallest expected divergence from the truth; None where no closed form is known.

    >>> from bnicl import load_network
    >>> optimum(NetworkPrior(load_network("chain5"))).name
    'posterior mean'
    """
    return networks.optimum()
