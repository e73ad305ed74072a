"""Algorithm 1 of the paper: new rows, one node after the other, from any predictor.

For m = 0, 1, ..., M - 1 the predictor is asked for the distribution of X_m given the context and the values
drawn so far; one value is drawn and becomes part of the next query. With the in-context MLE as predictor
this is forward sampling from the network that is fitted to the context.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from bnicl.estimators.counting import Predictor, reading
from bnicl.evaluation.evaluate import one_thread
from bnicl.networks.checks import ABSENT, check_count, check_tensor
from bnicl.networks.tables import Seed, make_generator


def generate(
    predictor: Predictor, context: Int64[Tensor, "rows nodes"], n: int = 1000, seed: Seed = 0
) -> Int64[Tensor, "new nodes"]:
    """`n` new rows [n, M], each value drawn from the predictor's distribution given those before it.

    context: the rows [L, M] of one network, which are read once. A predictor is asked once for each different beginning
    of a row. Where no context
    row matches, the values are those of the predictor's own policy; a prediction that is NaN raises a ValueError.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> context = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    >>> new = generate(MaximumLikelihood(load_network("chain5")), context, n=100, seed=0)
    >>> sorted(set(map(tuple, new.tolist())))
    [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1)]
    """
    check_tensor("context", context)
    if context.ndim != 2:
        raise ValueError(f"context: expected the rows [n, nodes] of one network, got shape {tuple(context.shape)}")
    with one_thread():
        answer = reading(predictor, context[None])
        return generate_from(lambda query, m: answer(query[None], m)[0], context.shape[1], n, seed, predictor.name)


def generate_from(
    predict: Callable[[Tensor, int], Tensor], n_nodes: int, n: int = 1000, seed: Seed = 0, name: str = ""
) -> Int64[Tensor, "new nodes"]:
    """`generate` for a function of queries [batch, M] and a target, such as `MLETransformer.counted` returns."""
    generator = make_generator(seed)
    rows = torch.full((n_nodes, check_count("n", n)), ABSENT).t()  # a node's values lie together
    which, distinct = torch.zeros(n, dtype=torch.int64), 1  # rows with the same beginning have the same number
    for target in range(n_nodes):
        first = torch.zeros(distinct, dtype=torch.int64).scatter_(0, which, torch.arange(n))
        p = predict(rows[first] if distinct < n else rows, target).to("cpu", torch.float64)
        if bool(p.isnan().any()):
            raise ValueError(
                f"predictor {name!r}: expected a distribution for every query, got NaN for node {target}: "
                f"no context row matches; give it another `unmatched` policy"
            )
        cdf = p.cumsum(-1)
        cdf = (cdf / cdf[:, -1:])[which]  # ends in 1 to the bit: a value of probability zero is never drawn
        u = torch.rand(n, 1, dtype=torch.float64, generator=generator)
        rows[:, target] = (u >= cdf).sum(-1)
        if distinct == n:
            continue
        if 2 * distinct > n:  # most differ: to tell them apart costs more than to ask for each
            which, distinct = torch.arange(n), n
        else:
            which = (which * p.shape[1] + rows[:, target]).unique(return_inverse=True)[1]
            distinct = int(which.max()) + 1
    return rows.contiguous()
