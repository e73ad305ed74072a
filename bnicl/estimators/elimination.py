"""Which part of a network matters for a question, and in which order its tables are summed.

Only a part of the network matters: the ancestors of the target and of the evidence (other nodes are *barren*), less
those that the evidence cuts off from the target in the moral graph (*d-separation*). This leaves a product
of tables, summed over the unknown nodes: one einsum, whose order opt_einsum chooses and whose width is known before it
begins. Reference: D. Koller and N. Friedman, Probabilistic Graphical Models (2009), chapters 3.3 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from bnicl.networks.checks import ABSENT
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.states import states_of

Evidence = Int64[Tensor, "batch nodes"]
Conditionals = Callable[[Tensor, int], Tensor]

WIDEST = 2**25  # joint states of the largest clique: 256 MiB
_ROWS = 2**16  # of a table, at once


class Parts(NamedTuple):
    """The tables that matter.

    factors: the nodes whose tables the answer is made of. hidden: the unknown nodes among them, less the target.
    elsewhere: tables that bear on the evidence alone and have unknown nodes, one list for each part that the evidence
    cuts off.
    """

    factors: list[int]
    hidden: set[int]
    elsewhere: list[list[int]]


def ancestors(net: BayesianNetwork, nodes: Iterable[int]) -> set[int]:
    """The nodes and all that lead to them."""
    found, todo = set[int](), list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(net.parents[node])
    return found


def split(net: BayesianNetwork, target: int, known: set[int]) -> Parts:
    """The part of the network that matters for P(target | known), and the part that bears on the evidence alone.

    Two ancestors belong together if they share a table and neither is known: the parts of the moral graph without the
    known nodes.

    >>> split(BayesianNetwork(("a", "b", "c"), ((), (0,), (1,)), (2, 2, 2)), 2, {1})
    Parts(factors=[2], hidden=set(), elsewhere=[[0, 1]])
    """
    import networkx as nx

    graph = nx.Graph()
    relevant = sorted(ancestors(net, [target, *known]))
    for m in relevant:
        table = ("table", m)
        graph.add_node(table)
        graph.add_edges_from((table, node) for node in (m, *net.parents[m]) if node not in known)
    factors: list[int] = []
    hidden: set[int] = set()
    elsewhere = []
    for part in nx.connected_components(graph):
        tables = sorted(node[1] for node in part if isinstance(node, tuple))
        if target in part:
            factors, hidden = tables, {node for node in part if not isinstance(node, tuple)} - {target}
        elif len(part) > len(tables) and any(m in known for m in tables):
            elsewhere.append(tables)
    return Parts(factors, hidden, sorted(elsewhere))


class Plan:
    """A sum of products of tables, for queries that know the same nodes: in which order it is done.

    width: the joint states of the largest clique of the elimination: the product of the cardinalities that meet in one
    step.
    """

    def __init__(self, net: BayesianNetwork, factors: Sequence[int], target: int | None, known: set[int]) -> None:
        import opt_einsum

        self.net, self.factors, self.known = net, factors, known
        scope = sorted({node for m in factors for node in self._free(m)})
        symbol = {node: opt_einsum.get_symbol(i + 2) for i, node in enumerate(scope)}  # a is for draws, b for the batch
        self.terms = ["".join(symbol[node] for node in self._free(m)) for m in factors]
        self.out = "" if target is None else symbol[target]
        shapes = [tuple(net.cardinalities[node] for node in self._free(m)) for m in factors]
        self.path, about = opt_einsum.contract_path(",".join(self.terms) + "->" + self.out, *shapes, shapes=True)
        size = {symbol[node]: net.cardinalities[node] for node in scope}
        steps = [set(step[2].partition("->")[0]) - {","} for step in about.contraction_list]
        self.width = max(math.prod(size[s] for s in step) for step in steps)

    def check_width(self) -> None:
        """Raises ValueError with the size of a sum that is too wide, and the way out."""
        if self.width > WIDEST:
            raise ValueError(
                f"evidence: expected a sum over at most {WIDEST:,} joint states at once, got {self.width:,} (the "
                f"largest clique of {len(self.factors)} tables); --samples 100000 gives the answer with its standard "
                f"error"
            )

    def _free(self, m: int) -> list[int]:
        """The unknown nodes of a table, in the order of its axes."""
        return [node for node in (*self.net.parents[m], m) if node not in self.known]

    def total(self, conditionals: Conditionals, evidence: Evidence, draws: int | None = None) -> tuple[Tensor, Tensor]:
        """The target's distribution [(draws,) batch, card], and the logarithm of the sum, -inf where it is 0.

        conditionals: of queries and a node, [batch, card], or [draws, batch, card] where `draws` are given.
        """
        step = max(1, WIDEST // (self.width * (draws or 1)))
        parts = [self._sum(conditionals, part, draws) for part in evidence.split(step)]
        total = torch.cat([part for part, _ in parts], dim=-2)
        z = total.sum(-1)
        return total / z[..., None], z.log() + torch.cat([scale for _, scale in parts], dim=-1)

    def _sum(self, conditionals: Conditionals, evidence: Evidence, draws: int | None) -> tuple[Tensor, Tensor]:
        """The answer up to a factor, [(draws,) batch, card or 1], and the logarithm of that factor.

        Each step divides by its largest number: a product of hundreds of probabilities leaves float64.
        """
        import opt_einsum

        lead = {"a": draws} if draws else {}
        sizes = {**lead, "b": len(evidence)}
        work = []
        for m, term in zip(self.factors, self.terms, strict=True):
            batched = not self.known.isdisjoint((m, *self.net.parents[m]))
            work.append(("".join(lead) + "b" * batched + term, self._factor(m, batched, conditionals, evidence)))
        log_scale = torch.zeros(tuple(sizes.values()), dtype=torch.float64)
        for step in self.path:
            chosen = [work.pop(i) for i in sorted(step, reverse=True)]
            met, wanted = ({s for term, _ in some for s in term} for some in (chosen, work))
            inner = sorted((met & (wanted | set(self.out))) - {*"ab"})
            outer = [s for s in sizes if s in met]
            term = "".join(outer + inner)
            value = opt_einsum.contract(",".join(t for t, _ in chosen) + "->" + term, *(x for _, x in chosen))
            top = value.flatten(len(outer)).amax(-1) if inner else value
            top = torch.where(top > 0, top, 1.0)
            log_scale = log_scale + top.log().reshape([n if s in outer else 1 for s, n in sizes.items()])
            work.append((term, value / top[(..., *[None] * len(inner))]))
        ((term, value),) = work
        value = value if self.out else value[..., None]
        value = value if "b" in term else value.unsqueeze(-2)
        return value.expand(*sizes.values(), -1), log_scale

    def _factor(self, m: int, batched: bool, conditionals: Conditionals, evidence: Evidence) -> Tensor:
        """A table at the evidence: [(draws,) (batch,) *free parents, card if m is free]."""
        parents = self.net.parents[m]
        free = [i for i, node in enumerate(parents) if node not in self.known]
        cards = [self.net.cardinalities[parents[i]] for i in free]
        own = evidence if batched else evidence[:1]
        n = math.prod(cards)
        parts = []
        for codes in torch.arange(len(own) * n).split(_ROWS):  # the joint states of the free parents, for each query
            asked = own[codes // n][:, list(parents)]
            asked[:, free] = states_of(codes % n, cards)
            p = conditionals(asked, m)
            if m in self.known:
                at = own[codes // n, m].expand(*p.shape[:-1])[..., None]
                p = p.gather(-1, at)[..., 0]
            parts.append(p)
        p = torch.cat(parts, dim=-1 if m in self.known else -2)
        if m in self.known:
            return p.reshape(*p.shape[:-1], -1, *cards)
        p = p.reshape(*p.shape[:-2], -1, *cards, self.net.cardinalities[m])
        return p if batched else p.squeeze(p.ndim - len(cards) - 2)


def known_in(query: Int64[Tensor, " nodes"]) -> list[int]:
    return [int(m) for m in (query != ABSENT).nonzero()[:, 0]]
