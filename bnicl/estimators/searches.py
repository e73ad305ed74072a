"""What practitioners do when the graph is not known: search one in the context, then fit it.

The searches are pgmpy's, with its defaults, one context at a time. Edges go along the order of the variables, which the
exact optimum is given too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from bnicl.estimators.counting import ContextPredictor, Reading
from bnicl.estimators.graphs import GivenGraphs
from bnicl.networks.checks import Context, check_cardinalities, check_context, check_number
from bnicl.networks.sampling import Adjacency
from bnicl.networks.tables import ALPHA_RANGE

Search = Literal["bdeu", "bic", "pc"]


def search_graphs(context: Context, cardinalities: Sequence[int], search: Search = "bdeu") -> Adjacency:
    """The graph that pgmpy finds in each context, bool [batch, M, M].

    search: hill climbing on the score "bdeu" (equivalent sample size 10) or "bic", edges against the order being
    forbidden; or "pc", the skeleton that chi-square tests at the level 0.01 leave, each edge directed by the order. The
    scores know only states that occur. A constant column has no edges: pgmpy's test is undefined there, which pgmpy
    takes for dependence.

    >>> copies = torch.tensor([[[0, 0], [1, 1]] * 20])
    >>> search_graphs(copies, (2, 2), "bic")[0].int()
    tensor([[0, 1],
            [0, 0]], dtype=torch.int32)
    """
    import pandas as pd

    with warnings.catch_warnings():  # of pgmpy about its own parts
        warnings.simplefilter("ignore")
        from pgmpy.causal_discovery import PC, ExpertKnowledge, HillClimbSearch

    _check_search(search)
    check_context(context, check_cardinalities(cardinalities))
    names = [f"X{m}" for m in range(len(cardinalities))]
    place = {name: m for m, name in enumerate(names)}
    against = ExpertKnowledge(forbidden_edges=[(b, a) for m, a in enumerate(names) for b in names[m + 1 :]])
    found = torch.zeros(len(context), len(names), len(names), dtype=torch.bool)
    if context.shape[1] == 1:
        return found.to(context.device)  # one row tells nothing, and pgmpy refuses it
    for graph, rows in zip(found, context.cpu().numpy(), strict=True):
        data = pd.DataFrame(rows, columns=names)
        if search == "pc":
            edges = PC("orig", "chi_square", n_jobs=1, show_progress=False).fit(data).skeleton_.edges()
        else:
            score = {"bdeu": "bdeu", "bic": "bic-d"}[search]
            climb = HillClimbSearch(score, expert_knowledge=against, return_type="dag", show_progress=False)
            edges = climb.fit(data).causal_graph_.edges()
        for one, other in edges:
            i, j = sorted((place[one], place[other]))
            graph[i, j] = True
    varies = (context != context[:, :1]).any(1)
    return found.to(context.device) & varies[:, :, None] & varies[:, None, :]


def _check_search(search: Search) -> Search:
    if search not in get_args(Search):
        raise ValueError(f"search: expected one of {', '.join(get_args(Search))}, got {search!r}")
    return search


class SearchedGraph(ContextPredictor):
    """The graph that `search_graphs` finds in each context, then fitted to it: the posterior mean for alpha."""

    name = "searched graph"

    def __init__(self, cardinalities: Sequence[int], search: Search = "bdeu", alpha: float = 0.5) -> None:
        self.cardinalities, self.search = check_cardinalities(cardinalities), _check_search(search)
        self.alpha = check_number("alpha", alpha, *ALPHA_RANGE)

    def _read(self, context: Context) -> Reading:
        graphs = search_graphs(context, self.cardinalities, self.search)
        return GivenGraphs(graphs, self.cardinalities, self.alpha)._read(context)
