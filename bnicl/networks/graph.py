"""Bayesian networks: a graph whose index order is topological, and a table for every node.

A network over M discrete variables X_0, ..., X_{M-1} has the joint distribution

    P(x) = prod_m P(x_m | x_Pa(m)),    Pa(m) a subset of {0, ..., m-1}.

A *conditional probability table* (CPT) of node m is a tensor [*evidence_card, card]: one axis per
parent, in the order of ``parents[m]``, then the node's own states. Where only the graph is known,
``cpts`` is None.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.networks.checks import check_count
from bnicl.networks.tables import Dirichlet, Prior, Seed, make_generator

if TYPE_CHECKING:
    from pgmpy.models import DiscreteBayesianNetwork


Table = Float[Tensor, "*evidence card"]


@dataclass(frozen=True, eq=False)
class BayesianNetwork:
    """A discrete Bayesian network whose index order is topological.

    names: one per node. parents: the indices of each node's parents, all smaller than its own, in any
    order. cardinalities: the number of states of each node, two or more; they may differ. cpts: per
    node a float64 tensor ``[*evidence_card, card]`` whose last axis sums to 1, or None where only the graph
    is known. states: the names of each node's states, by default 0, 1, ...

    Rows are divided by their sum, so that a table written with seven digits sums to 1 exactly.
    Raises ValueError where the parts do not fit each other.

    >>> net = BayesianNetwork(("rain", "wet"), ((), (0,)), (2, 2))
    >>> net.edges
    ((0, 1),)
    """

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    cardinalities: tuple[int, ...]
    cpts: tuple[Tensor, ...] | None = None
    states: tuple[tuple[Hashable, ...], ...] = ()

    def __post_init__(self) -> None:
        for field in ("names", "parents", "cardinalities", "states"):
            if not isinstance(getattr(self, field), tuple):
                raise ValueError(f"{field}: expected a tuple, got {getattr(self, field)!r}")
        if not self.states:
            own = tuple(tuple(range(check_count("cardinality", card, 2))) for card in self.cardinalities)
            object.__setattr__(self, "states", own)
        self._check_graph()
        if self.cpts is not None:
            if len(self.cpts) != self.n_nodes:
                raise ValueError(f"cpts: expected {self.n_nodes} tables, got {len(self.cpts)}")
            object.__setattr__(self, "cpts", tuple(self._checked_table(m) for m in range(self.n_nodes)))

    def _check_graph(self) -> None:
        m = self.n_nodes
        if m == 0:
            raise ValueError("names: expected at least one node, got none")
        for field in ("parents", "cardinalities", "states"):
            if len(getattr(self, field)) != m:
                raise ValueError(f"{field}: expected one entry for each of {m} nodes, got {len(getattr(self, field))}")
        if len(set(self.names)) != m:
            raise ValueError(f"names: expected {m} different names, got {self.names}")
        for child, (name, parents, card) in enumerate(zip(self.names, self.parents, self.cardinalities, strict=True)):
            for index in parents:
                check_count(f"parents of {name}", index, least=0)
            check_count(f"cardinality of {name}", card, least=2)
            if len(set(parents)) != len(parents):
                raise ValueError(f"parents of {name}: expected each parent once, got {parents}")
            if any(not 0 <= parent < child for parent in parents):
                raise ValueError(
                    f"parents of {name}: expected indices in 0..{child - 1} (index order is topological, "
                    f"so the graph has no cycle), got {parents}; BayesianNetwork.from_edges sorts the nodes"
                )
            if len(set(self.states[child])) != card or len(self.states[child]) != card:
                raise ValueError(f"states of {name}: expected {card} different names, got {self.states[child]}")

    def _checked_table(self, node: int) -> Table:
        assert self.cpts is not None
        table = torch.as_tensor(self.cpts[node], dtype=torch.float64)
        name, expected = self.names[node], (*self.evidence_card(node), self.cardinalities[node])
        if tuple(table.shape) != expected:
            raise ValueError(f"CPT of {name}: expected shape {expected}, got {tuple(table.shape)}")
        if not bool(torch.isfinite(table).all()) or bool((table < 0).any()):
            bad = table[~torch.isfinite(table) | (table < 0)][0].item()
            raise ValueError(f"CPT of {name}: expected probabilities in [0, 1], got {bad}")
        total = table.sum(-1, keepdim=True)
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        if abs(worst - 1) > 1e-6:
            raise ValueError(f"CPT of {name}: expected every row to sum to 1 within 1e-6, got a row sum of {worst:.9g}")
        return table / total

    @property
    def n_nodes(self) -> int:
        """M, the number of variables."""
        return len(self.names)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All (parent, child) pairs, by child."""
        return tuple((parent, child) for child, parents in enumerate(self.parents) for parent in parents)

    def evidence_card(self, node: int) -> tuple[int, ...]:
        """The cardinalities of the node's parents, in the order of ``parents[node]``."""
        return tuple(self.cardinalities[parent] for parent in self.parents[node])

    def with_random_cpts(
        self, alpha: float | None = None, *, prior: Prior | None = None, seed: Seed = 0
    ) -> BayesianNetwork:
        """The same graph with tables drawn from `prior`, by default Dirichlet(alpha=0.5).

        >>> from bnicl import load_network
        >>> load_network("chain5").with_random_cpts(seed=1).cpts[1].shape
        torch.Size([2, 2])
        """
        if alpha is not None and prior is not None:
            raise ValueError(f"with_random_cpts: expected alpha or prior, got both ({alpha!r} and {prior!r})")
        rows = prior or Dirichlet(alpha=0.5 if alpha is None else alpha)
        generator = make_generator(seed)
        tables = (rows.sample(self.evidence_card(m), card, generator) for m, card in enumerate(self.cardinalities))
        return replace(self, cpts=tuple(tables))

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        cardinalities: Mapping[str, int] | int = 2,
        nodes: Sequence[str] = (),
        states: Mapping[str, Sequence[Hashable]] | None = None,
    ) -> BayesianNetwork:
        """A graph from (parent, child) names, its nodes sorted topologically.

        Ties keep the order of `nodes`, then of first appearance in `edges`. Raises ValueError for a
        cyclic graph and names the cycle.

        >>> BayesianNetwork.from_edges([("b", "c"), ("a", "c")]).names
        ('b', 'a', 'c')
        """
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from(nodes)
        graph.add_edges_from(edges)
        try:
            cycle = nx.find_cycle(graph)
        except nx.NetworkXNoCycle:
            pass
        else:
            path = " -> ".join(str(edge[0]) for edge in [*cycle, cycle[0]])
            raise ValueError(f"edges: expected a graph without cycles, got the cycle {path}")
        rank = {name: i for i, name in enumerate(graph.nodes)}
        names = tuple(nx.lexicographical_topological_sort(graph, key=rank.__getitem__))
        index = {name: i for i, name in enumerate(names)}
        cards = dict.fromkeys(names, cardinalities) if isinstance(cardinalities, int) else cardinalities
        missing = [name for name in names if name not in cards]
        if missing:
            raise ValueError(f"cardinalities: expected one for each node, got none for {', '.join(missing)}")
        return cls(
            names=names,
            parents=tuple(tuple(sorted(index[p] for p in graph.predecessors(name))) for name in names),
            cardinalities=tuple(cards[name] for name in names),
            states=tuple(tuple(states[name]) for name in names) if states else (),
        )

    @classmethod
    def from_pgmpy(cls, model: DiscreteBayesianNetwork) -> BayesianNetwork:
        """The same network, nodes sorted topologically, each table's parents in pgmpy's order.

        State names are kept. A table may list the states of a parent in another order than the parent
        itself does; its axes are then reordered.
        """
        cpds = {name: model.get_cpds(name) for name in model.nodes}
        without = [str(name) for name, cpd in cpds.items() if cpd is None]
        if without:
            raise ValueError(f"pgmpy model: expected a table for every node, got none for {', '.join(without)}")
        states = {name: list(cpd.state_names[name]) for name, cpd in cpds.items()}
        for name, cpd in cpds.items():
            if set(cpd.variables[1:]) != set(model.get_parents(name)):
                raise ValueError(
                    f"pgmpy model: expected the table of {name} to have the parents {model.get_parents(name)}, "
                    f"got {cpd.variables[1:]}"
                )
            for variable in cpd.variables:
                if sorted(map(str, cpd.state_names[variable])) != sorted(map(str, states[variable])):
                    raise ValueError(
                        f"pgmpy model: expected the table of {name} to have the states {states[variable]} of "
                        f"{variable}, got {cpd.state_names[variable]}"
                    )
        skeleton = cls.from_edges(
            model.edges,
            {name: len(own) for name, own in states.items()},
            nodes=list(model.nodes),
            states=states,
        )
        index = {name: i for i, name in enumerate(skeleton.names)}
        tables = []
        for name in skeleton.names:
            cpd = cpds[name]
            values = np.asarray(cpd.values)
            for axis, variable in enumerate(cpd.variables):
                order = [list(cpd.state_names[variable]).index(state) for state in states[variable]]
                values = values.take(order, axis=axis)
            tables.append(torch.as_tensor(np.moveaxis(values, 0, -1).copy()))
        parents = tuple(tuple(index[p] for p in cpds[name].variables[1:]) for name in skeleton.names)
        return replace(skeleton, parents=parents, cpts=tuple(tables))

    def to_pgmpy(self) -> DiscreteBayesianNetwork:
        """The same network as a pgmpy model, with state names. Raises ValueError without tables."""
        pgmpy, tables = import_pgmpy(), self.tables
        model = pgmpy.models.DiscreteBayesianNetwork()
        model.add_nodes_from(self.names)
        model.add_edges_from((self.names[parent], self.names[child]) for parent, child in self.edges)
        for m, name in enumerate(self.names):
            evidence = [self.names[p] for p in self.parents[m]]
            card = self.cardinalities[m]
            model.add_cpds(
                pgmpy.factors.discrete.TabularCPD(
                    name,
                    card,
                    tables[m].reshape(-1, card).T.numpy(),
                    evidence=evidence,
                    evidence_card=list(self.evidence_card(m)),
                    state_names={self.names[i]: list(self.states[i]) for i in (m, *self.parents[m])},
                )
            )
        return model

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """``cpts``, or a ValueError where only the graph is known."""
        if self.cpts is None:
            raise ValueError("cpts: expected a network with tables, got a graph alone; use with_random_cpts first")
        return self.cpts


def kahn_order(net: BayesianNetwork) -> tuple[int, ...]:
    """The nodes in the order in which Kahn's algorithm takes them from a stack, as the paper's code has its columns.

    >>> from bnicl import load_network
    >>> kahn_order(load_network("tree7"))
    (0, 2, 6, 5, 1, 4, 3)
    """
    waiting = [set(parents) for parents in net.parents]
    stack, order = [m for m, parents in enumerate(waiting) if not parents], []
    while stack:
        order.append(node := stack.pop())
        for m, parents in enumerate(waiting):
            if node in parents:
                parents.remove(node)
                stack += [] if parents else [m]
    return tuple(order)


def reordered(net: BayesianNetwork, order: Sequence[int]) -> BayesianNetwork:
    """The same graph, without its tables, with its nodes in another topological order."""
    place = {node: i for i, node in enumerate(order)}
    return BayesianNetwork(
        tuple(net.names[m] for m in order),
        tuple(tuple(place[p] for p in net.parents[m]) for m in order),
        tuple(net.cardinalities[m] for m in order),
        states=tuple(net.states[m] for m in order) if net.states else (),
    )


def check_network(net: BayesianNetwork) -> None:
    """Raises ValueError unless `net` is a BayesianNetwork (not its name)."""
    if not isinstance(net, BayesianNetwork):
        raise ValueError(f"net: expected a BayesianNetwork (see load_network), got {net!r}")


def import_pgmpy() -> Any:
    """pgmpy, imported where it is used; its warnings about its own parts are not the reader's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pgmpy.factors.discrete
        import pgmpy.inference
        import pgmpy.models
        import pgmpy.readwrite
    return pgmpy
