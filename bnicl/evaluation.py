"""How far a predictor is from the truth, from the best possible and from the in-context MLE.

With p the true conditional of a query, q the predicted one and p* the exact optimum's:

- total variation  1/2 sum_k |p_k - q_k|, a probability;
- regret           sum_k p*_k log2(p*_k / q_k) in bits: what the prediction costs beyond the optimum's.
                   Averaged over the prior, it is the predictor's expected divergence from the truth
                   minus the optimum's, with far less noise;
- mode accuracy    the probability that the state predicted as the most likely is the one drawn.

Means over networks come with 95 % intervals of the percentile bootstrap, the networks being resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.encoding import Context, check_target
from bnicl.estimators import MaximumLikelihood, PosteriorMean, Predictor
from bnicl.networks import BayesianNetwork
from bnicl.priors import Dirichlet, Seed, check_count, make_generator
from bnicl.sampling import Batch, NetworkPrior, conditional
from bnicl.structures import Adjacency, GivenGraphs, StructureBatch, StructurePrior, check_adjacency

if TYPE_CHECKING:
    import pandas as pd

N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)  # the paper's
AVERAGE = "average"

Networks = NetworkPrior | StructurePrior  # known graph or not
Maker = Callable[[Any], Predictor]

Distributions = Float[Tensor, "*batch card"]


def total_variation(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """``1/2 sum_k |p_k - q_k|``, in [0, 1]; NaN where q is undefined.

    >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """
    return (p - q).abs().sum(-1) / 2


def kl_bits(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """sum_k p_k log2(p_k / q_k) in bits; infinite where q rules out a state that p allows.

    >>> kl_bits(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(1.)
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1) / torch.log(torch.tensor(2.0, dtype=p.dtype))


def mode_accuracy(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """The probability under p of q's most likely state; q's ties are broken at random.

    >>> mode_accuracy(torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]))
    tensor(0.5000)
    """
    mode = (q == q.amax(-1, keepdim=True)).to(p.dtype)
    return (p * mode).sum(-1) / mode.sum(-1)


def optimum(networks: Networks) -> Predictor | None:
    """The predictor with the smallest expected divergence from the truth; None where no closed form is known.

    That is the posterior mean for a known graph with Dirichlet tables and an average over graphs (`averages`) for an
    unknown one. Raises ValueError where the average is too large a sum.

    >>> from bnicl import load_network
    >>> optimum(NetworkPrior(load_network("chain5"))).name
    'posterior mean'
    """
    if isinstance(networks, StructurePrior):
        return networks.optimum()
    return PosteriorMean(networks.net, networks.prior.alpha) if isinstance(networks.prior, Dirichlet) else None


def evaluate(
    predictors: Mapping[str, Predictor | Maker],
    networks: Networks | BayesianNetwork,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    targets: Sequence[int] | None = None,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Every predictor on the same contexts and queries, per node and on average.

    predictors: by name; in place of one, a function that makes it of the batch of networks drawn, for those who are
    told more than the context: `lambda batch: GivenGraphs(batch.adjacency, cards)` knows the graphs. networks: a prior
    over networks, of known or unknown graph, or one network as `NetworkPrior` takes it. n_networks contexts are
    drawn, each with a query from the same network; a context of N rows is the first N of the longest. targets: nodes,
    by default all.

    Returns a table with one row for each predictor, n_context and node (and node "average" over the
    targets): the means over contexts of `tv`, `regret_bits` and `mode_accuracy`, of `optimal_accuracy` (of one
    who knows the tables) and of `tv_to_mle`, the total variation to the in-context MLE over the queries where
    that is defined; `undefined` and `ruled_out` are the shares of queries where the prediction is NaN and
    where it gives no probability to a state that the truth allows. `tv_low`, `tv_high`, `regret_low` and
    `regret_high` bound the 95 % intervals of the first two.

    The optimum is that of `optimum`, the truth for one fixed network; where no closed form is at hand `regret_bits`
    is NaN. The in-context MLE knows the graphs; it is NaN where the columns are permuted. An undefined prediction
    counts as a total variation of 1, a mode accuracy of 0 and an infinite regret: give the estimator another
    `unmatched` policy to have it otherwise.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> net = load_network("chain5").with_random_cpts(seed=0)
    >>> evaluate({"MLE": MaximumLikelihood(net)}, net, [10], n_networks=8, targets=[1]).shape
    (2, 14)
    """
    import pandas as pd

    if isinstance(networks, BayesianNetwork):
        networks = NetworkPrior(networks)
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

    batch = networks.sample(check_count("n_networks", n_networks), max(n_contexts) + 1, seed)
    query = batch.rows[:, -1]
    mle, best_predictor = _in_context_mle(networks, batch), optimum(networks)
    made: dict[str, Predictor] = {name: p if isinstance(p, Predictor) else p(batch) for name, p in predictors.items()}
    tables = []
    for n in n_contexts:
        context = batch.rows[:, :n]
        measured: dict[str, list[Tensor]] = {name: [] for name in predictors}
        for target in chosen:
            truth = conditional(net, batch.cpts, query, target)
            if best_predictor is not None:
                best = best_predictor.predict_proba(context, query, target)
            else:
                best = truth if networks.prior is None else torch.full_like(truth, torch.nan)
            unknown = torch.full_like(truth, torch.nan)
            frequencies = mle.predict_proba(context, query, target) if mle is not None else unknown
            for name, predictor in made.items():
                predicted = predictor.predict_proba(context, query, target)
                _check_prediction(name, predicted, truth.shape)
                measured[name].append(_measure(truth, best, frequencies, predicted))
        for per_node in measured.values():
            per_node.append(torch.stack(per_node).nanmean(0))
        nodes = [*(net.names[target] for target in chosen), AVERAGE]
        labels = [(name, n, node) for name in predictors for node in nodes]
        stacked = torch.stack([each for per_node in measured.values() for each in per_node])
        table = pd.DataFrame(labels, columns=["predictor", "n_context", "node"])
        table[list(_MEASURES)] = stacked.nanmean(1).numpy()
        low, high = bootstrap_interval(stacked[..., :2], seed)
        table[["tv_low", "regret_low"]], table[["tv_high", "regret_high"]] = low.numpy(), high.numpy()
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _in_context_mle(networks: Networks, batch: Batch | StructureBatch) -> Predictor | None:
    """The MLE of those who know the graphs; None where the columns are in no order of them."""
    if isinstance(networks, NetworkPrior):
        return MaximumLikelihood(networks.net, "nan")
    assert isinstance(batch, StructureBatch)
    return None if networks.shuffled else GivenGraphs(batch.adjacency, networks.net.cardinalities, unmatched="nan")


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
    predictors: Mapping[str, Predictor],
    networks: Networks,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    seed: Seed = 0,
    ends: tuple[Predictor, Predictor] | None = None,
) -> pd.DataFrame:
    """Whose curve a predictor follows: 0 is that of the in-context MLE, 1 that of the posterior mean.

    With q the prediction, f the MLE and p* the posterior mean, or two other `ends`, the least-squares fit of
    q = f + s (p* - f) over all queries where f is defined, and all nodes::

        s = sum <q - f, p* - f> / sum |p* - f|^2

    Returns a table with one row for each predictor and n_context: `share` with the bounds `share_low` and
    `share_high` of its 95 % bootstrap interval, and `off_the_line`, the root mean square of
    ``|q - f - s (p* - f)|``. The share is NaN where f and p* are the same in all queries.

    Raises ValueError for a prior other than Dirichlet and for predictions that are no probability vectors.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> prior = NetworkPrior(load_network("chain5"))
    >>> share_of_the_gap({"MLE": MaximumLikelihood(prior.net)}, prior, [5], n_networks=8)["share"].tolist()
    [0.0]
    """
    import pandas as pd

    net = networks.net
    if ends is None:
        if not isinstance(networks, NetworkPrior):
            raise ValueError(f"networks: expected a NetworkPrior, or other ends, got {type(networks).__name__}")
        if not isinstance(networks.prior, Dirichlet):
            raise ValueError(f"networks: expected a Dirichlet prior, got {networks.prior!r}")
        ends = MaximumLikelihood(net, "nan"), PosteriorMean(net, networks.prior.alpha)
    if not predictors or not n_contexts:
        raise ValueError(f"predictors, n_contexts: expected at least one each, got {predictors!r} and {n_contexts!r}")
    n_contexts = [check_count("n_contexts", n) for n in n_contexts]
    start, end = ends
    batch = networks.sample(check_count("n_networks", n_networks), max(n_contexts) + 1, seed)
    query, records = batch.rows[:, -1], []
    for n in n_contexts:
        context = batch.rows[:, :n]
        sums = {name: torch.zeros(n_networks, 4, dtype=torch.float64) for name in predictors}
        for target in range(net.n_nodes):
            f = start.predict_proba(context, query, target)
            gap = end.predict_proba(context, query, target) - f
            for name, predictor in predictors.items():
                predicted = predictor.predict_proba(context, query, target)
                _check_prediction(name, predicted, f.shape)
                if bool((predicted.isnan() & ~f.isnan()).any()):
                    raise ValueError(f"predictor {name!r}: expected a prediction where the MLE is defined, got NaN")
                off = predicted.double() - f
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


def shuffle_scores(
    predictor: Predictor, context: Context, n_queries: int = 16, seed: Seed = 0
) -> Float[Tensor, "batch nodes nodes"]:
    """How much each prediction leans on each predecessor: an intervention on the context, column by column.

    Entry [b, i, j] is the mean over queries (the first rows of the context) of the divergence, in bits, of the
    prediction for node j after the values of column i were shuffled among the context's rows from that before. A
    predictor that has found the graph leans on parents alone. Zero for i >= j: those are not in the query. Infinite
    where a shuffled context rules out a state that the context did not.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> net = load_network("chain5").with_random_cpts(seed=1)
    >>> rows = NetworkPrior(net).sample(1, 50, seed=0).rows
    >>> scores = shuffle_scores(PosteriorMean(net), rows)[0]
    >>> bool(scores[2, 3] > 0), scores[1, 3].item()  # node 3 has the parent 2
    (True, 0.0)
    """
    batch, n, m = context.shape
    generator = make_generator(seed)
    queries = context[:, : min(check_count("n_queries", n_queries), n)]
    many = queries.shape[1]
    asked = queries.flatten(0, 1)
    scores = torch.zeros(batch, m, m, dtype=torch.float64)

    def answers(rows: Tensor, target: int) -> Tensor:
        return predictor.predict_proba(rows.repeat_interleave(many, 0), asked, target).double()

    before = [answers(context, target) for target in range(m)]
    for i in range(m - 1):
        shuffled = context.clone()
        order = torch.rand(batch, n, generator=generator).argsort(-1).to(context.device)
        shuffled[:, :, i] = context[:, :, i].gather(1, order)
        for j in range(i + 1, m):
            scores[:, i, j] = kl_bits(before[j], answers(shuffled, j)).unflatten(0, (batch, many)).mean(1)
    return scores


class EdgeAccuracy(NamedTuple):
    """How many of the edges found are there, how many that are there were found, and the harmonic mean of the two."""

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
