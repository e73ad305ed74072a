"""Every predictor on the same contexts and queries: total variation, regret and accuracy (`estimators.measures`).

Means over networks come with 95 % intervals of the percentile bootstrap, the networks being resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.counting import HasPredictProba, PosteriorMean, Predictor, Reading, reading
from bnicl.estimators.measures import Distributions, kl_bits, mode_accuracy, total_variation
from bnicl.estimators.priors import NetworkPrior, Networks
from bnicl.networks.checks import Query, check_count, check_target
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.sampling import Batch, rows_of
from bnicl.networks.tables import Seed, make_generator

if TYPE_CHECKING:
    import pandas as pd

N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)  # the paper's
AVERAGE = "average"
_SMALL = 2**22  # cells of all contexts together
Maker = Callable[[Batch], Predictor]


def evaluate(
    predictors: Mapping[str, HasPredictProba | Maker],
    networks: Networks | BayesianNetwork,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    targets: Sequence[int] | None = None,
    seed: Seed = 0,
    against: str | None = None,
) -> pd.DataFrame:
    """Every predictor on the same contexts and queries, per node and on average.

    predictors: by name; in place of one, a function that makes it from the batch of networks drawn, if it is given
    more than the context: `lambda batch: GivenGraphs(batch.adjacency, cards)` knows the graphs.
    networks: a prior over networks, of known or unknown graph, or one network as `NetworkPrior` takes it.
    n_contexts: numbers of rows N; a context of N rows is the first N of the longest.
    n_networks: how many contexts are drawn, each with a query from the same network.
    targets: nodes, by default all.
    seed: of the networks, their rows, and the resamples.
    against: the name of one of the predictors, to which all are compared on each context.

    Returns a table with one row for each predictor, n_context and node (and node "average" over the targets), of means
    over contexts:

    tv: the total variation to the truth, a probability. regret_bits: the regret against the optimum, in bits.
    mode_accuracy, optimal_accuracy: the probability of drawing the state that is predicted as the most likely, and that
    of a predictor that knows the tables.
    tv_to_mle: the total variation to the in-context MLE, over the queries where that is defined.
    undefined, ruled_out: the shares of queries where the prediction is NaN, and where it gives no probability to a
    state that the truth allows.
    tv_low, tv_high, regret_low, regret_high: the bounds of 95 % intervals.
    tv_more, tv_more_low, tv_more_high (with `against`): the mean of the differences in total variation to that
    predictor, and its 95 % interval, which is narrower than those of the two since both err on the same contexts.

    The optimum and the in-context MLE are those of the prior (`optimum()`, `mle(batch)`): where it has none, the column
    is NaN. An undefined prediction counts as a total variation of 1, a mode accuracy of 0 and an infinite regret; to
    change that, give the estimator another `unmatched` policy. Raises ValueError for predictions that are no
    probability vectors.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> net = load_network("chain5").with_random_cpts(seed=0)
    >>> evaluate({"MLE": MaximumLikelihood(net)}, net, [10], n_networks=8, targets=[1]).shape
    (2, 14)
    """
    import pandas as pd

    if isinstance(networks, BayesianNetwork):
        networks = NetworkPrior(networks)
    if not isinstance(networks, Networks):
        raise ValueError(f"networks: expected a prior over networks, or one network, got {networks!r}")
    net = networks.net
    if not isinstance(predictors, Mapping) or not predictors:
        raise ValueError(f"predictors: expected at least one, by name, got {predictors!r}")
    n_contexts = [check_count("n_contexts", n) for n in n_contexts]
    chosen = list(range(net.n_nodes) if targets is None else targets)
    for target in chosen:
        check_target(target, net.cardinalities)
    for name, values in (("n_contexts", n_contexts), ("targets", chosen)):
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}: expected different numbers, at least one, got {values}")
    if AVERAGE in net.names:
        raise ValueError(f"names: expected no node called {AVERAGE!r}, which stands for all of them, got one")

    if against is not None and against not in predictors:
        raise ValueError(f"against: expected one of {', '.join(predictors)}, got {against!r}")

    batch = networks.sample(check_count("n_networks", n_networks), max(n_contexts) + 1, seed)
    made = {name: _made(p, batch) for name, p in predictors.items()}
    with one_thread() if batch.rows.numel() < _SMALL else nullcontext():
        measured = torch.cat([_measured(made, networks, batch, n, chosen) for n in n_contexts])
        low, high = bootstrap_interval(measured[..., :2], seed)
    nodes = [*(net.names[m] for m in chosen), AVERAGE]
    labels = [(name, n, node) for n in n_contexts for name in made for node in nodes]
    table = pd.DataFrame(labels, columns=["predictor", "n_context", "node"])
    table[list(_MEASURES)] = measured.nanmean(1).numpy()
    table[["tv_low", "regret_low"]], table[["tv_high", "regret_high"]] = low.numpy(), high.numpy()
    if against is not None:
        tv = measured[..., 0].unflatten(0, (len(n_contexts), len(made), len(nodes)))
        more = (tv - tv[:, [list(made).index(against)]]).flatten(0, 2)[..., None]
        table["tv_more"] = more.mean(1).numpy()
        table["tv_more_low"], table["tv_more_high"] = (bound.numpy() for bound in bootstrap_interval(more, seed))
    return table


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors on one thread: a second gains nothing, and has to wait when another process is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(
    predictors: Mapping[str, HasPredictProba], networks: Networks, batch: Batch, n: int, targets: Sequence[int]
) -> Float[Tensor, "rows batch measures"]:
    """The measures of each query after n rows: for each predictor, the targets and their average."""
    net, query, context = networks.net, batch.rows[:, -1], batch.rows[:, :n]
    truth = _stacked([rows_of(batch.cpts[m], query, net.parents[m], net.cardinalities) for m in targets])
    unknown = torch.full_like(truth, torch.nan)
    best, frequencies = (
        unknown if who is None else _answers(reading(who, context, checked=True), query, targets, net)
        for who in (networks.optimum(), networks.mle(batch))
    )
    found = []
    for name, predictor in predictors.items():
        predicted = _answers(reading(predictor, context, checked=True), query, targets, net, name)
        own = _measure(truth, best, frequencies, predicted)
        found += [own, own.nanmean(0, keepdim=True)]
    return torch.cat(found)


def _made(predictor: HasPredictProba | Maker, batch: Batch) -> HasPredictProba:
    return predictor(batch) if not hasattr(predictor, "predict_proba") and callable(predictor) else predictor


def _answers(
    answer: Reading, query: Query, targets: Sequence[int], net: BayesianNetwork, name: str | None = None
) -> Float[Tensor, "targets batch states"]:
    """The answers for all targets; those of a predictor that has a name are checked."""
    answers = []
    for target in targets:
        p = answer(query, target)
        if name is not None:
            _check_prediction(name, p, torch.Size((len(query), net.cardinalities[target])))
        answers.append(p.double())
    return _stacked(answers)


def _stacked(distributions: Sequence[Distributions]) -> Float[Tensor, "targets *batch states"]:
    """Distributions over different numbers of states as one tensor; the states that a node lacks have probability 0."""
    most = max(p.shape[-1] for p in distributions)
    return torch.stack([torch.nn.functional.pad(p, (0, most - p.shape[-1])) for p in distributions])


_MEASURES = ("tv", "regret_bits", "mode_accuracy", "optimal_accuracy", "tv_to_mle", "undefined", "ruled_out")


def bootstrap_interval(
    values: Float[Tensor, "*rows sample measures"], seed: Seed = 0, n_resamples: int = 1000
) -> tuple[Float[Tensor, "*rows measures"], Float[Tensor, "*rows measures"]]:
    """The 95 % percentile bootstrap interval of means over `sample`; every row has the same resamples.

    >>> low, high = bootstrap_interval(torch.tensor([[0.0], [1.0]]).double())
    >>> low, high
    (tensor([0.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    low, high = _middle(_resampled_means(values, seed, n_resamples))
    endless = values.isinf().any(-2)  # 0 x infinity is no number
    return low.masked_fill(endless, torch.inf), high.masked_fill(endless, torch.inf)


def _resampled_means(values: Tensor, seed: Seed, n_resamples: int = 1000) -> Tensor:
    """Means of bootstrap resamples, [..., n_resamples, measures]: multinomial weights, one matrix product."""
    n = values.shape[-2]
    generator = make_generator(seed if isinstance(seed, int) else 0, 1)
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    weights = torch.zeros(n_resamples, n, dtype=values.dtype).scatter_add_(1, drawn, torch.ones_like(drawn).to(values))
    return weights / n @ values


def _middle(resampled: Tensor) -> tuple[Tensor, Tensor]:
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=resampled.dtype), dim=-2)
    return low, high


def share_of_the_gap(
    predictors: Mapping[str, HasPredictProba],
    networks: Networks,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    seed: Seed = 0,
    ends: tuple[HasPredictProba, HasPredictProba] | None = None,
) -> pd.DataFrame:
    """Which estimator a predictor follows: 0 is the curve of the in-context MLE, 1 that of the posterior mean.

    predictors: by name.
    networks: a prior over networks.
    n_contexts: numbers of rows N.
    n_networks: how many contexts are drawn, each with a query.
    seed: of the networks, their rows, and the resamples.
    ends: two predictors in place of MLE and posterior mean.

    With q the prediction, f the MLE and p* the posterior mean, or two other `ends`, the least-squares fit of
    q = f + s (p* - f) over all queries where f is defined, and all nodes::

        s = sum <q - f, p* - f> / sum |p* - f|^2

    Returns a table with one row for each predictor and n_context: `share` with the bounds `share_low` and
    `share_high` of its 95 % bootstrap interval, and `off_the_line`, the root mean square of
    ``|q - f - s (p* - f)|``. The share is NaN where f and p* are the same in all queries.

    Raises ValueError for networks whose graph is not known or whose tables are fixed, without other `ends`, and for
    predictions that are no probability vectors.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> prior = NetworkPrior(load_network("chain5"))
    >>> share_of_the_gap({"MLE": MaximumLikelihood(prior.net)}, prior, [5], n_networks=8)["share"].tolist()
    [0.0]
    """
    import pandas as pd

    if not predictors or not n_contexts:
        raise ValueError(f"predictors, n_contexts: expected at least one each, got {predictors!r} and {n_contexts!r}")
    n_contexts = [check_count("n_contexts", n) for n in n_contexts]
    net, batch = networks.net, networks.sample(check_count("n_networks", n_networks), max(n_contexts) + 1, seed)
    start, end = ends or _ends(networks, batch)
    query, records = batch.rows[:, -1], []
    for n in n_contexts:
        context = batch.rows[:, :n]
        f, best, *answers = (reading(p, context, checked=True) for p in (start, end, *predictors.values()))
        sums = {name: torch.zeros(n_networks, 4, dtype=torch.float64) for name in predictors}
        for target in range(net.n_nodes):
            mle = f(query, target)
            gap = best(query, target) - mle
            for name, answer in zip(predictors, answers, strict=True):
                predicted = answer(query, target)
                _check_prediction(name, predicted, mle.shape)
                if bool((predicted.isnan() & ~mle.isnan()).any()):
                    raise ValueError(f"predictor {name!r}: expected a prediction where the MLE is defined, got NaN")
                off = predicted.double() - mle
                products = torch.stack([(off * gap).sum(-1), (gap * gap).sum(-1), (off * off).sum(-1)], dim=-1)
                defined = ~products.isnan().any(-1, keepdim=True)
                sums[name] += torch.cat([products.nan_to_num(0.0), torch.ones_like(defined).double()], -1) * defined
        for name, own in sums.items():
            of_gap, gaps, offs, queries = own.sum(0).tolist()
            resampled = _resampled_means(own, seed)
            low, high = _middle(resampled[:, :1] / resampled[:, 1:2])
            share = of_gap / gaps if gaps else float("nan")
            off_the_line = max(0.0, offs - (share * of_gap if gaps else 0.0)) / max(1.0, queries)
            records.append((name, n, share, low.item(), high.item(), off_the_line**0.5))
    return pd.DataFrame(records, columns=["predictor", "n_context", "share", "share_low", "share_high", "off_the_line"])


def _ends(networks: Networks, batch: Batch) -> tuple[Predictor, Predictor]:
    """MLE and posterior mean of a known graph."""
    start, end = networks.mle(batch), networks.optimum()
    if not networks.graph_is_known:
        raise ValueError(f"networks: expected a NetworkPrior, or other ends, got {type(networks).__name__}")
    if start is None or not isinstance(end, PosteriorMean):
        raise ValueError(f"networks: expected a prior over tables, or other ends, got {networks!r}")
    return start, end


def _check_prediction(name: str, predicted: Tensor, shape: torch.Size) -> None:
    """Raises ValueError unless a predictor's rows are probability vectors, or NaN throughout."""
    if not isinstance(predicted, Tensor) or predicted.shape != shape:
        got = tuple(predicted.shape) if isinstance(predicted, Tensor) else type(predicted).__name__
        raise ValueError(f"predictor {name!r}: expected a tensor of shape {tuple(shape)}, got {got}")
    defined = predicted[~predicted.isnan().all(-1)]
    if not bool((defined >= 0).all() & ((defined.sum(-1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            f"predictor {name!r}: expected probability vectors, got others, the first {defined[0].tolist()}"
        )


def _measure(truth: Tensor, best: Tensor, frequencies: Tensor, predicted: Tensor) -> Tensor:
    """The measures of each query, float64 [batch, 7]."""
    undefined = predicted.isnan().any(-1)
    predicted = predicted.double()
    tv = torch.where(undefined, 1.0, total_variation(truth, predicted))
    regret = torch.where(undefined, torch.inf, kl_bits(best, predicted))
    accuracy = torch.where(undefined, 0.0, mode_accuracy(truth, predicted))
    to_mle = torch.where(undefined & ~frequencies.isnan().any(-1), 1.0, total_variation(frequencies, predicted))
    ruled_out = ((predicted == 0) & (truth > 0)).any(-1)
    return torch.stack([tv, regret, accuracy, truth.amax(-1), to_mle, undefined.double(), ruled_out.double()], dim=-1)
