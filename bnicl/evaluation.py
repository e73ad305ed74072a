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

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.encoding import check_target
from bnicl.estimators import MaximumLikelihood, PosteriorMean, Predictor
from bnicl.networks import BayesianNetwork
from bnicl.priors import Dirichlet, Seed, check_count, make_generator
from bnicl.sampling import NetworkPrior, conditional

if TYPE_CHECKING:
    import pandas as pd

N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)  # the paper's
AVERAGE = "average"

Distributions = Float[Tensor, "*batch card"]


def total_variation(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """1/2 sum_k |p_k - q_k|, in [0, 1]; NaN where q is undefined.

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


def evaluate(
    predictors: Mapping[str, Predictor],
    networks: NetworkPrior | BayesianNetwork,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    targets: Sequence[int] | None = None,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Every predictor on the same contexts and queries, per node and on average.

    networks: a prior over networks, or one network as `NetworkPrior` takes it. n_networks contexts are drawn, each with
    a query from the same network; a context of N rows is the first N of the longest. targets: nodes, by
    default all.

    Returns a table with one row for each predictor, n_context and node (and node "average" over the
    targets): the means over contexts of `tv`, `regret_bits` and `mode_accuracy`, of `optimal_accuracy` (of one
    who knows the tables) and of `tv_to_mle`, the total variation to the in-context MLE over the queries where
    that is defined; `undefined` and `ruled_out` are the shares of queries where the prediction is NaN and
    where it gives no probability to a state that the truth allows. `tv_low`, `tv_high`, `regret_low` and
    `regret_high` bound the 95 % intervals of the first two.

    The optimum is PosteriorMean for a Dirichlet prior, the truth for one fixed network; for other priors
    no closed form is at hand and `regret_bits` is NaN. An undefined prediction counts as a total
    variation of 1, a mode accuracy of 0 and an infinite regret: give the estimator another `unmatched`
    policy to have it otherwise.

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
    mle = MaximumLikelihood(net, "nan")
    tables = []
    for n in n_contexts:
        context = batch.rows[:, :n]
        measured: dict[str, list[Tensor]] = {name: [] for name in predictors}
        for target in chosen:
            truth = conditional(net, batch.cpts, query, target)
            if isinstance(networks.prior, Dirichlet):
                best = PosteriorMean(net, networks.prior.alpha).predict_proba(context, query, target)
            else:
                best = truth if networks.prior is None else torch.full_like(truth, torch.nan)
            frequencies = mle.predict_proba(context, query, target)
            for name, predictor in predictors.items():
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
    networks: NetworkPrior,
    n_contexts: Sequence[int] = N_CONTEXTS,
    n_networks: int = 256,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Whose curve a predictor follows: 0 is that of the in-context MLE, 1 that of the posterior mean.

    With q the prediction, f the MLE and p* the posterior mean, the least-squares fit of q = f + s (p* - f) over
    all queries whose MLE is defined, and all nodes:

        s = sum <q - f, p* - f> / sum |p* - f|^2

    Returns a table with one row for each predictor and n_context: `share` with the bounds `share_low` and
    `share_high` of its 95 % bootstrap interval, and `off_the_line`, the root mean square of |q - f - s (p* - f)|. The
    share is NaN where f and p* are the same in all queries. Raises ValueError for a prior other than Dirichlet and for
    predictions that are no probability vectors.

    >>> from bnicl import MaximumLikelihood, load_network
    >>> prior = NetworkPrior(load_network("chain5"))
    >>> share_of_the_gap({"MLE": MaximumLikelihood(prior.net)}, prior, [5], n_networks=8)["share"].tolist()
    [0.0]
    """
    import pandas as pd

    net = networks.net
    if not isinstance(networks.prior, Dirichlet):
        raise ValueError(f"networks: expected a Dirichlet prior, whose posterior mean is known, got {networks.prior!r}")
    if not predictors or not n_contexts:
        raise ValueError(f"predictors, n_contexts: expected at least one each, got {predictors!r} and {n_contexts!r}")
    n_contexts = [check_count("n_contexts", n) for n in n_contexts]
    mle, mean = MaximumLikelihood(net, "nan"), PosteriorMean(net, networks.prior.alpha)
    batch = networks.sample(check_count("n_networks", n_networks), max(n_contexts) + 1, seed)
    query, records = batch.rows[:, -1], []
    for n in n_contexts:
        context = batch.rows[:, :n]
        sums = {name: torch.zeros(n_networks, 4, dtype=torch.float64) for name in predictors}
        for target in range(net.n_nodes):
            f = mle.predict_proba(context, query, target)
            gap = mean.predict_proba(context, query, target) - f
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
            off_the_line = max(0.0, offs - share * of_gap) / max(1.0, queries)
            records.append((name, n, share, low.item(), high.item(), off_the_line**0.5))
    return pd.DataFrame(records, columns=["predictor", "n_context", "share", "share_low", "share_high", "off_the_line"])


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
