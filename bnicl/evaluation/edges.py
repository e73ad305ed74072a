"""Which edges a predictor has found: by shuffling columns of its context, and judged against the true graphs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.counting import HasPredictProba, reading
from bnicl.estimators.graphs import check_adjacency
from bnicl.estimators.measures import kl_bits
from bnicl.networks.checks import Context, check_count
from bnicl.networks.sampling import Adjacency
from bnicl.networks.tables import Seed, make_generator


def shuffle_scores(
    predictor: HasPredictProba, context: Context, n_queries: int = 16, seed: Seed = 0
) -> Float[Tensor, "batch nodes nodes"]:
    """How much each prediction leans on each predecessor: an intervention on the context, column by column.

    Entry [b, i, j] is the mean over queries (the first rows of the context) of the divergence, in bits, of the
    prediction for node j after the values of column i were shuffled among the context's rows from that before. A
    predictor that has found the graph leans on parents alone. Zero for i >= j: those are not in the query. Infinite
    where a shuffled context rules out a state that the context did not.

    >>> from bnicl import NetworkPrior, PosteriorMean, load_network
    >>> net = load_network("chain5").with_random_cpts(seed=1)
    >>> rows = NetworkPrior(net).sample(1, 50, seed=0).rows
    >>> scores = shuffle_scores(PosteriorMean(net), rows)[0]
    >>> bool(scores[2, 3] > 0), scores[1, 3].item()  # node 3 has the parent 2
    (True, 0.0)
    """
    batch, n, m = context.shape
    generator = make_generator(seed)
    queries = context[:, : min(check_count("n_queries", n_queries), n)]
    scores = torch.zeros(batch, m, m, dtype=torch.float64)

    answer = reading(predictor, context)
    before = [answer(queries, target).double() for target in range(m)]
    for i in range(m - 1):
        shuffled = context.clone()
        order = torch.rand(batch, n, generator=generator).argsort(-1).to(context.device)
        shuffled[:, :, i] = context[:, :, i].gather(1, order)
        answer = reading(predictor, shuffled)
        for j in range(i + 1, m):
            scores[:, i, j] = kl_bits(before[j], answer(queries, j).double()).mean(1)
    return scores


class EdgeAccuracy(NamedTuple):
    """The share of found edges that exist, the share of existing edges found, and the harmonic mean of the two."""

    precision: float
    recall: float
    f1: float


def edge_accuracy(found: Adjacency, adjacency: Adjacency) -> EdgeAccuracy:
    """Precision, recall and F1 of edges found in networks, all together; NaN where there are none to divide by.

    >>> edge_accuracy(torch.tensor([[[False, True], [False, False]]]), torch.tensor([[[False, True], [False, False]]]))
    EdgeAccuracy(precision=1.0, recall=1.0, f1=1.0)
    """
    check_adjacency("found", found)
    if check_adjacency("adjacency", adjacency).shape != found.shape:
        raise ValueError(f"found: expected the shape {tuple(adjacency.shape)}, got {tuple(found.shape)}")
    right = (found & adjacency).sum()
    precision, recall = right / found.sum(), right / adjacency.sum()
    return EdgeAccuracy(precision.item(), recall.item(), (2 * right / (found.sum() + adjacency.sum())).item())


def best_threshold(scores: Float[Tensor, "batch nodes nodes"], adjacency: Adjacency) -> float:
    """The threshold above which scores make the edges with the largest F1, among possible edges i -> j, i < j.

    Raises ValueError for scores that are not finite.

    >>> best_threshold(torch.tensor([[[0.0, 0.3], [0.0, 0.0]]]), torch.tensor([[[False, True], [False, False]]])) < 0.3
    True
    """
    m = check_adjacency("adjacency", adjacency).shape[-1]
    if scores.shape != adjacency.shape:
        raise ValueError(
            f"scores: expected the shape {tuple(adjacency.shape)}, two nodes at least, got {tuple(scores.shape)}"
        )
    possible = torch.ones(m, m, dtype=torch.bool).triu(1)
    values, order = scores[:, possible].flatten().double().sort(descending=True)
    if not len(values) or not bool(values.isfinite().all()):
        raise ValueError("scores: expected finite numbers, at least one, got others or none")
    there = adjacency[:, possible].flatten()[order]
    f1 = 2 * there.cumsum(0) / (torch.arange(1, len(values) + 1) + there.sum())
    ends = torch.cat([values[1:] < values[:-1], torch.ones(1, dtype=torch.bool)])  # no threshold parts equal scores
    last = int(torch.where(ends, f1, -1.0).argmax())  # the lowest score that is still an edge
    below = values[last + 1] if last + 1 < len(values) else values[last] - 1
    return float((values[last] + below) / 2)
