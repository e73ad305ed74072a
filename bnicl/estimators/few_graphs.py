"""The exact optimum when the graph is one of a few: their posterior means, weighted by the graphs' posterior.

A product over nodes (see `averages`), in which graphs share the parent sets that they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.averages import Average
from bnicl.estimators.counting import PosteriorMean, Reading, cell_counts
from bnicl.networks.checks import Context, Queries, check_context, check_number
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.tables import Prior, rows_prior


class GraphAverage(Average):
    """The exact optimum when the graph is one of a few.

    P(context | g) is the product over nodes of L_m(Pa_g(m)); the prediction is the average of the graphs' posterior
    means, weighted by their probabilities and by what context and query say about g. Tables that the networks may have
    are not used.

    probabilities: of the graphs, a priori; all the same if not given. Each set of parents is counted once, however
    many graphs have it.

    >>> graphs = [BayesianNetwork(("a", "b"), parents, (2, 2)) for parents in (((), ()), ((), (0,)))]
    >>> GraphAverage(graphs).graph_posterior(torch.tensor([[[0, 0], [1, 1], [0, 0], [1, 1]]]))
    tensor([[0.1429, 0.8571]], dtype=torch.float64)
    """

    name = "graph average"

    def __init__(
        self,
        graphs: Sequence[BayesianNetwork],
        alpha: float = 0.5,
        prior: Prior | None = None,
        probabilities: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(graphs, Sequence) or not graphs:
            raise ValueError(f"graphs: expected a sequence of at least one, got {graphs!r}")
        for net in graphs:
            check_network(net)
            if (cards := net.cardinalities) != graphs[0].cardinalities:
                raise ValueError(f"graphs: expected the cardinalities {graphs[0].cardinalities} in all, got {cards}")
        self.graphs, self.prior = tuple(graphs), rows_prior(alpha, prior)
        self.cardinalities = graphs[0].cardinalities
        self._log_prior = None if probabilities is None else _log_probabilities(probabilities, len(self.graphs))
        self._cover, self._own = _parent_sets(self.graphs)

    def graph_posterior(self, context: Context) -> Float[Tensor, "batch graphs"]:
        """P(g | context), float64 [batch, graphs]."""
        check_context(context, self.cardinalities)
        return self._log_weights(context).softmax(-1)

    def edge_posterior(self, context: Context) -> Float[Tensor, "batch nodes nodes"]:
        """The probability that i is a parent of j, float64 [batch, M, M]."""
        posterior, m = self.graph_posterior(context), len(self.cardinalities)
        edges = torch.zeros(len(context), m, m, dtype=torch.float64, device=context.device)
        for g, net in enumerate(self.graphs):
            for i, j in net.edges:
                edges[:, i, j] += posterior[:, g]
        return edges

    def _log_weights(self, context: Tensor) -> Tensor:
        """log P(context, g), up to what is the same for all, [batch, graphs]."""
        evidence = [
            torch.stack([self._evidence(context, (*net.parents[m], m)) for net in self._cover[m]])
            for m in range(len(self.cardinalities))
        ]
        each = (zip(evidence, sets, strict=True) for sets in torch.stack(self._own, dim=1).tolist())
        scores = torch.stack([torch.stack([own[i] for own, i in of_graph]).sum(0) for of_graph in each], dim=1)
        return scores if self._log_prior is None else scores + self._log_prior.to(context.device)

    def _evidence(self, context: Tensor, family: tuple[int, ...]) -> Tensor:
        counts = cell_counts(context, family, self.cardinalities)
        return self.prior.log_evidence(counts).reshape(len(context), -1).sum(1)

    def _read(self, context: Context) -> Reading:
        score = self._log_weights(context)
        readings = [[PosteriorMean(net, prior=self.prior)._read(context) for net in own] for own in self._cover]

        def means_of(query: Queries, m: int) -> Tensor:
            """The posterior means of the node, for each of its sets of parents: [..., sets, card]."""
            return torch.stack([mean(query, m) for mean in readings[m]], dim=-2)

        def answer(query: Queries, target: int) -> Tensor:
            own = score.reshape(len(score), *(1,) * (query.ndim - 2), -1)
            for m in range(target):  # the query's values tell about the graph too
                value = query[..., None, m : m + 1].expand(*query.shape[:-1], len(readings[m]), 1)
                seen = means_of(query, m).gather(-1, value).squeeze(-1).log()
                own = own + seen[..., self._own[m].to(query.device)]
            means = means_of(query, target)[..., self._own[target].to(query.device), :]
            return (own.softmax(-1).unsqueeze(-1) * means).sum(-2)

        return answer

    def _joint(self, context: Context) -> Tensor:
        weights = self._log_weights(context).softmax(-1)
        total = torch.zeros(len(context), *self.cardinalities, dtype=torch.float64, device=context.device)
        tables = [[PosteriorMean(net, prior=self.prior).fit_node(context, m) for net in own]
                  for m, own in enumerate(self._cover)]  # fmt: skip
        for g, net in enumerate(self.graphs):
            joint = torch.ones(len(context), dtype=torch.float64, device=context.device)
            for m, index in enumerate(self._own):
                table = tables[m][int(index[g])]
                shape = [card if i in net.parents[m] else 1 for i, card in enumerate(self.cardinalities[:m])]
                joint = joint.unsqueeze(-1) * table.reshape(len(context), *shape, self.cardinalities[m])
            total += weights[:, g].reshape(-1, *(1,) * len(self.cardinalities)) * joint
        return total


def _log_probabilities(probabilities: Sequence[float], n: int) -> Tensor:
    if not isinstance(probabilities, Sequence) or len(probabilities) != n:
        raise ValueError(f"probabilities: expected {n} numbers, one for each graph, got {probabilities!r}")
    p = torch.tensor([check_number("probabilities", value, 0, 1) for value in probabilities], dtype=torch.float64)
    if not bool((p > 0).all()) or abs(float(p.sum()) - 1) > 1e-9:
        raise ValueError(f"probabilities: expected positive numbers with the sum 1, got {probabilities!r}")
    return p.log()


def _parent_sets(graphs: Sequence[BayesianNetwork]) -> tuple[list[list[BayesianNetwork]], list[Tensor]]:
    """For each node, a graph for each of its different sets of parents; and which of these each graph has."""
    cover, own = list[list[BayesianNetwork]](), list[Tensor]()
    for m in range(graphs[0].n_nodes):
        first: dict[tuple[int, ...], BayesianNetwork] = {}
        for net in graphs:
            first.setdefault(net.parents[m], net)
        sets = list(first)
        cover.append(list(first.values()))
        own.append(torch.tensor([sets.index(net.parents[m]) for net in graphs]))
    return cover, own
