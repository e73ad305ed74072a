"""Real rows: their distribution is unknown, so a context of some rows is judged by how well it predicts others.

A predictor gives row x, node by node, the probability q(x_m | x_0 .. x_{m-1}, context). Its log-loss is

    -log2 q(x_m | ...)  in bits,

a proper score: in expectation the true conditional has the smallest, and no table has to be fitted to the test rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.estimators.counting import HasPredictProba, MaximumLikelihood, reading
from bnicl.estimators.measures import total_variation
from bnicl.evaluation.evaluate import AVERAGE, N_CONTEXTS
from bnicl.networks.checks import Rows, check_context, check_count
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.sampling import conditional
from bnicl.networks.tables import Seed, make_generator

if TYPE_CHECKING:
    import pandas as pd


UNIFORM = 0.01  # the share of the uniform distribution in `mixed`
_MEASURES = ("log_loss", "mixed", "tv", "ruled_out")


def held_out(
    predictors: Mapping[str, HasPredictProba],
    net: BayesianNetwork,
    rows: Rows,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_splits: int = 16,
    n_test: int = 64,
    seed: Seed = 0,
    contexts_from: Int64[Tensor, "others nodes"] | None = None,
) -> pd.DataFrame:
    """How well contexts of some rows predict others, per node and on average.

    The rows are permuted `n_splits` times. Each time the last `n_test` are asked about, and the first N are the
    context.

    predictors: by name.
    net: the network whose nodes the rows have; its graph is that of the fit, its tables are not used.
    rows: int64 [n, M].
    n_contexts: numbers of rows N.
    n_splits, n_test: how often the rows are split, and how many of them are then asked about.
    seed: of the splits.
    contexts_from: rows of another origin, of which the contexts are then made.

    Returns a table with one row for each predictor, n_context and node (and node "average"): the mean over test rows
    and splits of `log_loss` in bits (infinite where a state that came was ruled out); of `mixed`, the log-loss after
    1 % of the uniform distribution was mixed into each prediction, which is always finite; and of `tv`, the total
    variation to the network's tables as fitted to all of `rows`. `ruled_out` is the share of test values that had
    probability 0. There are no intervals: the splits share rows, so that a bootstrap over them would be too narrow.
    To see the variation, use other rows, for example from another condition.

    Raises ValueError for too few rows and for a prediction that is NaN.

    >>> from bnicl import PosteriorMean, forward_sample, load_network
    >>> net = load_network("chain5").with_random_cpts(seed=0)
    >>> table = held_out({"posterior mean": PosteriorMean(net)}, net, forward_sample(net, 300, seed=1), [10, 200])
    >>> average = table[table["node"] == "average"].set_index("n_context")["log_loss"]
    >>> bool(average[200] < average[10])
    True
    """
    import pandas as pd

    check_network(net)
    for name, given in (("predictors", predictors), ("n_contexts", n_contexts)):
        if not given:
            raise ValueError(f"{name}: expected at least one, got {given!r}")
    n_contexts = [check_count("n_contexts", n) for n in n_contexts]
    contexts, queries = _split(net, rows, contexts_from, max(n_contexts), n_splits, n_test, seed)
    fitted = MaximumLikelihood(net, "uniform").fit(rows[None])
    truths = [conditional(net, fitted, queries.flatten(0, 1)[None], m)[0] for m in range(net.n_nodes)]
    tables = []
    for n in n_contexts:
        for name, predictor in predictors.items():
            answer = reading(predictor, contexts[:, :n], checked=True)
            measured = [_measure(answer(queries, m).double(), truth, queries[..., m]) for m, truth in enumerate(truths)]
            stacked = torch.stack([*measured, torch.stack(measured).mean(0)])  # [nodes + 1, splits, measures]
            table = pd.DataFrame({"predictor": name, "n_context": n, "node": [*net.names, AVERAGE]})
            for i, measure in enumerate(_MEASURES):
                table[measure] = stacked[..., i].mean(1).numpy()
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _split(
    net: BayesianNetwork, rows: Tensor, others: Tensor | None, longest: int, n_splits: int, n_test: int, seed: Seed
) -> tuple[Int64[Tensor, "splits longest nodes"], Int64[Tensor, "splits n_test nodes"]]:
    """Contexts and test rows of every split, without a row in common."""
    generator = make_generator(seed)
    needed = check_count("n_test", n_test) + (longest if others is None else 0)
    for name, given, least in (("rows", rows, needed), ("contexts_from", others, longest)):
        if given is not None:
            check_context(given[None], net.cardinalities)
            if len(given) < least:
                raise ValueError(
                    f"{name}: expected at least {least:,} for these contexts and tests, got {len(given):,}"
                )
    contexts, queries = [], []
    for _ in range(check_count("n_splits", n_splits)):
        own = rows[torch.randperm(len(rows), generator=generator)]
        source = own if others is None else others[torch.randperm(len(others), generator=generator)]
        contexts.append(source[:longest])
        queries.append(own[len(own) - n_test :])
    return torch.stack(contexts), torch.stack(queries)


def _measure(p: Tensor, truth: Tensor, came: Tensor) -> Float[Tensor, "splits measures"]:
    """Means over the test rows of `_MEASURES`."""
    if bool(p.isnan().any()):
        raise ValueError(
            "predictors: expected a distribution for every query, got NaN; give another `unmatched` policy"
        )
    own = p.gather(-1, came[..., None])[..., 0]
    mixed = (1 - UNIFORM) * own + UNIFORM / p.shape[-1]
    tv = total_variation(truth.view_as(p), p)
    return torch.stack([-own.log2(), -mixed.log2(), tv, (own == 0).double()], dim=-1).mean(1)
