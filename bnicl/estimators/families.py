"""How often each family, a node with its parents, was seen: all that an estimator takes from rows.

Only what occurs is kept, so that counts grow with the rows and not with the product of the cardinalities: a node may
have seventy parents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.networks.checks import ABSENT, Query, Rows, check_states, check_target
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.states import WIDE, ravel_states, row_codes, states_of, unique_rows

_LARGEST = 2**27  # cells of a whole table: 1 GiB
_CHUNK = 2**24  # comparisons at once, in the search for the nearest rows


class Family(NamedTuple):
    """What was seen of a node and its parents.

    evidence: the joint states of the parents that occur, each once and sorted, int64 ``[seen, parents]``.
    counts: how often each of the node's states came with them, float64 ``[seen, card]`` (expected counts are not
    integers).
    """

    evidence: Int64[Tensor, "seen parents"]
    counts: Float[Tensor, "seen card"]


@dataclass(frozen=True)
class Counts:
    """The counts of every family of `net` among `n` rows. A row counts for a family if it has a value for all of it.

    That is all that MLE and posterior mean, and so the constructed transformer, take from the rows.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> Counts.of([torch.tensor([[0, 1], [0, 1], [1, 0]])], net).families[1].counts
    tensor([[0., 2.],
            [1., 0.]], dtype=torch.float64)
    """

    net: BayesianNetwork
    n: int
    families: tuple[Family, ...]

    @classmethod
    def of(cls, blocks: Iterable[Int64[Tensor, "_ nodes"]], net: BayesianNetwork) -> Counts:
        """The counts of blocks of rows, int64 [n, M] each; ABSENT is a cell without a value."""
        check_network(net)
        n, parts = 0, list[list[Family]]([] for _ in range(net.n_nodes))
        for block in blocks:
            check_states("rows", block, net.cardinalities, absent=True)
            n, gaps = n + len(block), bool((block == ABSENT).any())
            for m, seen in enumerate(parts):
                seen.append(_family(block, net, m, gaps))
                if len(seen) > 1:
                    seen[:] = [_joined(seen)]
        return cls(net, n, tuple(family for (family,) in parts))

    @property
    def tables(self) -> tuple[Float[Tensor, "*family"], ...]:
        """The counts as whole tables, float64 ``[*evidence_card, card]`` each; ValueError where one is huge."""
        found = []
        for m, (evidence, counts) in enumerate(self.families):
            shape = (*self.net.evidence_card(m), self.net.cardinalities[m])
            if (cells := math.prod(shape)) > _LARGEST:
                raise ValueError(f"tables: expected at most {_LARGEST:,} cells for {self.net.names[m]}, got {cells:,}")
            table = counts.new_zeros(math.prod(shape[:-1]), shape[-1])
            (codes,) = row_codes([evidence], shape[:-1])
            found.append(table.index_copy_(0, codes, counts).reshape(shape))
        return tuple(found)

    def asked(self, query: Query, target: int) -> Int64[Tensor, "batch parents"]:
        """The states of the target's parents in each query [batch, M]; raises ValueError for one that is none."""
        check_target(target, self.net.cardinalities)
        asked = query[:, list(self.net.parents[target])]
        check_states("query", asked, self.net.evidence_card(target))
        return asked

    def look_up(
        self, table: Float[Tensor, "seen card"], asked: Int64[Tensor, "batch parents"], target: int
    ) -> Float[Tensor, "batch card"]:
        """The row of `table` for each state of the parents; it has one for each of ``families[target].evidence``.

        Zeros where the parents' state was not seen.
        """
        evidence = self.families[target].evidence
        if not len(evidence):
            return table.new_zeros(len(asked), table.shape[1])
        known, codes = row_codes([evidence, asked], self.net.evidence_card(target))
        at = torch.searchsorted(known, codes).clamp(max=len(known) - 1)
        return table[at] * (known[at] == codes)[:, None]

    def given(self, query: Query, target: int) -> Float[Tensor, "batch card"]:
        """n_k: how many rows agree with each query on the target's parents and have state k of the target."""
        return self.of_parents(self.asked(query, target), target)

    def of_parents(self, asked: Int64[Tensor, "batch parents"], target: int) -> Float[Tensor, "batch card"]:
        """`given`, of the states of the parents."""
        return self.look_up(self.families[target].counts, asked, target)

    def evidence_rows(self, target: int) -> Rows:
        """The joint states of the target's parents that were seen as rows [seen, M], ABSENT elsewhere."""
        evidence = self.families[target].evidence
        rows = torch.full((len(evidence), self.net.n_nodes), ABSENT)
        rows[:, list(self.net.parents[target])] = evidence
        return rows

    def matching(self, query: Query, target: int) -> Float[Tensor, " batch"]:
        """How many rows agree with each query on the target's parents."""
        return self.given(query, target).sum(-1)

    def mle(self, query: Query, target: int) -> Float[Tensor, "batch card"]:
        """n_k / n for each query; where no row agrees on the parents, that of the rows that agree on the most of them.

        This is what the constructed transformer computes. Raises ValueError where no row has a value for the family.
        """
        return self.mle_of_parents(self.asked(query, target), target)

    def mle_of_parents(self, asked: Int64[Tensor, "batch parents"], target: int) -> Float[Tensor, "batch card"]:
        """`mle`, of the states of the parents."""
        counts = self.of_parents(asked, target)
        alone = (counts.sum(-1) == 0).nonzero()[:, 0]
        if len(alone):
            counts[alone] = self._nearest(asked[alone], target)
        return counts / counts.sum(-1, keepdim=True)

    def shares(self, node: int) -> Float[Tensor, " card"]:
        """How frequent each state of the node is among the rows that count for its family."""
        counts = self.families[node].counts.sum(0)
        return counts / counts.sum()

    def family_rows(self, target: int) -> tuple[Rows, Float[Tensor, " n"]]:
        """The states seen of the target's family, as rows [seen, M], ABSENT elsewhere, and how often each was seen."""
        evidence, counts = self.families[target]
        at, state = counts.nonzero().unbind(1)
        rows = torch.full((len(at), self.net.n_nodes), ABSENT)
        rows[:, list(self.net.parents[target])] = evidence[at]
        rows[:, target] = state
        return rows, counts[at, state]

    def _nearest(self, asked: Int64[Tensor, "batch parents"], target: int) -> Float[Tensor, "batch card"]:
        """The counts of the rows that agree on the most of the parents."""
        evidence, counts = self.families[target]
        if not len(evidence):
            raise ValueError(f"rows: expected one with a value for {self.net.names[target]} and its parents, got none")
        cards = self.net.evidence_card(target)
        if not cards:
            return counts.sum(0).expand(len(asked), -1)
        seen, found = _one_hot(evidence, cards).t(), []
        for part in asked.split(max(1, _CHUNK // len(evidence))):
            agreeing = _one_hot(part, cards) @ seen  # small integers: exact in float32
            found.append((agreeing == agreeing.amax(1, keepdim=True)).double() @ counts)
        return torch.cat(found)


def _one_hot(states: Int64[Tensor, "n nodes"], cardinalities: Sequence[int]) -> Float[Tensor, "n S"]:
    own = (torch.nn.functional.one_hot(column, card) for column, card in zip(states.t(), cardinalities, strict=True))
    return torch.cat([*own], dim=1).float()


def _family(block: Rows, net: BayesianNetwork, node: int, gaps: bool) -> Family:
    """The counts of one node's family among rows of known states."""
    parents, card = list(net.parents[node]), net.cardinalities[node]
    if gaps:
        block = block[(block[:, [*parents, node]] != ABSENT).all(1)]
    cards = net.evidence_card(node)
    cells = math.prod(cards)
    if cells >= WIDE:
        evidence, which = unique_rows(block[:, parents])
    else:
        code = ravel_states(block, parents, net.cardinalities)
        if cells <= 4 * len(block):  # few: counted in place; many: sorted
            counts = torch.bincount(card * code + block[:, node], minlength=card * cells).reshape(-1, card).double()
            seen = counts.sum(1).nonzero()[:, 0]
            return Family(states_of(seen, cards), counts[seen])
        seen, which = code.unique(return_inverse=True)
        evidence = states_of(seen, cards)
    counts = torch.zeros(len(evidence), card, dtype=torch.float64)
    ones = counts.new_ones(len(block))
    return Family(evidence, counts.index_put_((which, block[:, node]), ones, accumulate=True))


def _joined(parts: Sequence[Family]) -> Family:
    """The counts of several blocks as one."""
    evidence, which = unique_rows(torch.cat([part.evidence for part in parts]))
    counts = torch.cat([part.counts for part in parts])
    return Family(evidence, counts.new_zeros(len(evidence), counts.shape[1]).index_add_(0, which, counts))
