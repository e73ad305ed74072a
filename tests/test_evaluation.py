import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bootstrap, entropy
from torch import Tensor

import bnicl
from bnicl.evaluation.evaluate import AVERAGE, bootstrap_interval


class Truth:
    """Knows the tables of one network."""

    name = "truth"

    def __init__(self, net: bnicl.BayesianNetwork) -> None:
        self.net = net

    def predict_proba(self, context: Tensor, query: Tensor, target: int) -> Tensor:
        cpts = [table.expand(len(query), *table.shape) for table in self.net.tables]
        return bnicl.conditional(self.net, cpts, query, target)


def test_total_variation_and_divergence_against_scipy() -> None:
    p = bnicl.Dirichlet(alpha=1.0).sample([50], 4, bnicl.make_generator(0))
    q = bnicl.Dirichlet(alpha=1.0).sample([50], 4, bnicl.make_generator(1))
    assert bnicl.kl_bits(p, q).tolist() == pytest.approx(entropy(p.numpy(), q.numpy(), base=2, axis=1).tolist())
    worst = torch.stack([(p - q)[:, list(event)].sum(1) for event in ((0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3))])
    assert bnicl.total_variation(p, q).tolist() == pytest.approx(worst.abs().amax(0).tolist())


def test_measures_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    assert bnicl.total_variation(p, q).item() == 0.5
    assert bnicl.kl_bits(q, p).item() == 1.0
    assert bnicl.kl_bits(p, q).item() == math.inf
    assert bnicl.mode_accuracy(torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])).item() == pytest.approx(
        0.45
    )


def test_the_variable_that_is_scored_is_the_one_that_is_hidden() -> None:
    """A predictor that knows the tables is without error at every node, in a file's order of nodes too."""
    for net in (bnicl.load_network("asia"), bnicl.load_network("general7").with_random_cpts(seed=1)):
        table = bnicl.evaluate({"truth": Truth(net)}, net, [1, 5], n_networks=50)
        assert set(table["node"]) == {*net.names, AVERAGE}
        assert table["tv"].max() < 1e-12
        assert table["regret_bits"].abs().max() < 1e-12


def test_an_undefined_prediction_counts_as_the_worst() -> None:
    net = bnicl.load_network("general5")
    learners = {u: bnicl.MaximumLikelihood(net, u) for u in ("nan", "uniform")}
    table = bnicl.evaluate(learners, net, [1], n_networks=400).set_index(["predictor", "node"])
    silent = table.loc[("nan", "X4"), "undefined"]
    assert silent > 0.1
    assert table.loc[("uniform", "X4"), "undefined"] == 0
    assert table.loc[("nan", "X4"), "regret_bits"] == math.inf
    batch = bnicl.NetworkPrior(net).sample(400, 2, seed=0)
    query = batch.rows[:, 1]
    predicted = learners["nan"].predict_proba(batch.rows[:, :1], query, 4)
    tv = bnicl.total_variation(bnicl.conditional(net, batch.cpts, query, 4), predicted)
    assert table.loc[("nan", "X4"), "tv"] == pytest.approx(tv.nan_to_num(1.0).mean().item())
    assert silent == pytest.approx(tv.isnan().double().mean().item())


def test_regret_is_the_divergence_beyond_the_optimums() -> None:
    """Theorem: E KL(p || q) - E KL(p || p*) = E KL(p* || q), here within its sampling error."""
    net = bnicl.load_network("chain5")
    batch = bnicl.NetworkPrior(net).sample(20_000, 6, seed=4)
    context, query = batch.rows[:, :5], batch.rows[:, 5]
    truth = bnicl.conditional(net, batch.cpts, query, 3)
    best = bnicl.PosteriorMean(net).predict_proba(context, query, 3)
    other = bnicl.PosteriorMean(net, alpha=3).predict_proba(context, query, 3)
    excess = bnicl.kl_bits(truth, other) - bnicl.kl_bits(truth, best)
    error = excess.std() / len(excess) ** 0.5
    assert (excess.mean() - bnicl.kl_bits(best, other).mean()).abs() < 4 * error
    table = bnicl.evaluate({"other": bnicl.PosteriorMean(net, alpha=3)}, net, [5], 20_000, targets=[3], seed=4)
    assert table["regret_bits"].iloc[0] == pytest.approx(bnicl.kl_bits(best, other).mean().item())


def test_averages_are_those_of_the_nodes_and_their_intervals_narrower() -> None:
    net = bnicl.load_network("tree5")
    table = bnicl.evaluate({"mean": bnicl.PosteriorMean(net)}, net, [10, 40], n_networks=300)
    width = table["tv_high"] - table["tv_low"]
    for _, part in table.groupby("n_context"):
        nodes = part[part["node"] != AVERAGE]
        average = part[part["node"] == AVERAGE].iloc[0]
        assert average["tv"] == pytest.approx(nodes["tv"].mean())
        assert average["tv_low"] < average["tv"] < average["tv_high"]
        assert width[nodes.index].mean() / 5**0.5 < average["tv_high"] - average["tv_low"] < width[nodes.index].mean()


def test_intervals_are_those_of_scipy() -> None:
    values = torch.rand(3, 200, 2, dtype=torch.float64, generator=bnicl.make_generator(0)) ** 3
    low, high = bootstrap_interval(values)
    other = bootstrap((values.numpy(),), np.mean, axis=1, method="percentile", rng=np.random.default_rng(0))
    width = other.confidence_interval.high - other.confidence_interval.low
    assert np.abs(low.numpy() - other.confidence_interval.low).max() < 0.1 * width.min()
    assert np.abs(high.numpy() - other.confidence_interval.high).max() < 0.1 * width.min()


def test_paired_differences_are_those_of_the_contexts() -> None:
    """On one network a context is its own sample: the means differ by the mean difference, with scipy's interval."""
    prior = bnicl.NetworkPrior(bnicl.load_network("chain5"))
    pair = {"mean": bnicl.PosteriorMean(prior.net), "MLE": bnicl.MaximumLikelihood(prior.net, "uniform")}
    table = bnicl.evaluate(pair, prior, [3, 20], 40, targets=[2], seed=5, against="mean")
    by = table.set_index(["predictor", "n_context", "node"])
    assert (by.loc["mean"][["tv_more", "tv_more_low", "tv_more_high"]] == 0).all(axis=None)
    batch = prior.sample(40, 21, 5)
    truth = bnicl.conditional(prior.net, batch.cpts, batch.rows[:, -1], 2)
    for n in (3, 20):
        far = [
            bnicl.total_variation(truth, p.predict_proba(batch.rows[:, :n], batch.rows[:, -1], 2))
            for p in pair.values()
        ]
        differences = (far[1] - far[0]).numpy()
        own = by.loc[("MLE", n, "X2")]
        assert own["tv_more"] == pytest.approx(differences.mean())
        wanted = bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
        assert [own["tv_more_low"], own["tv_more_high"]] == pytest.approx([*wanted], abs=0.15 * (wanted[1] - wanted[0]))


def test_a_comparison_needs_a_predictor_of_that_name() -> None:
    net = bnicl.load_network("chain5")
    with pytest.raises(ValueError, match="against: expected one of MLE, got 'naive'"):
        bnicl.evaluate({"MLE": bnicl.MaximumLikelihood(net)}, net, [5], 8, against="naive")


def test_the_distance_to_the_mle_counts_where_that_is_defined() -> None:
    net = bnicl.load_network("chain5")
    learners = {"MLE": bnicl.MaximumLikelihood(net), "uniform": bnicl.MaximumLikelihood(net, "uniform")}
    table = bnicl.evaluate({**learners, "mean": bnicl.PosteriorMean(net)}, net, [1, 20], n_networks=200)
    assert (table.loc[table["predictor"] != "mean", "tv_to_mle"] == 0).all()
    own = table[(table["predictor"] == "mean") & (table["node"] == "X0")].set_index("n_context")["tv_to_mle"]
    assert own[1] == pytest.approx(1 - 0.75)  # one row: the MLE is (1, 0), the posterior mean (1.5, 0.5) / 2
    assert own[20] < 0.02


def test_the_optimal_accuracy_is_that_of_the_tables_themselves() -> None:
    net = bnicl.load_network("tree5").with_random_cpts(seed=1)
    table = bnicl.evaluate({"truth": Truth(net), "MLE": bnicl.MaximumLikelihood(net, "uniform")}, net, [5], 100)
    truth, mle = (table[table["predictor"] == name].reset_index() for name in ("truth", "MLE"))
    assert truth["mode_accuracy"].tolist() == pytest.approx(truth["optimal_accuracy"].tolist())
    assert mle["optimal_accuracy"].tolist() == truth["optimal_accuracy"].tolist()
    assert bool((mle["mode_accuracy"] <= mle["optimal_accuracy"] + 1e-12).all())


def test_evaluation_comes_from_its_seed() -> None:
    net = bnicl.load_network("chain5")
    first, again, other = (bnicl.evaluate(bnicl.baselines(net), net, [5], 20, seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_a_prior_without_closed_form_has_no_regret_to_report() -> None:
    net = bnicl.load_network("chain5")
    pool = bnicl.Pool(bnicl.NetworkPrior(net), 10)
    table = bnicl.evaluate({"mean": bnicl.PosteriorMean(net)}, pool, [5], 20)
    assert table["regret_bits"].isna().all()
    assert table["tv"].notna().all()


class Between:
    """A given share of the way from the MLE to the posterior mean, uniform where there is no MLE."""

    name = "between"

    def __init__(self, net: bnicl.BayesianNetwork, share: float) -> None:
        self.mle, self.mean, self.share = bnicl.MaximumLikelihood(net, "uniform"), bnicl.PosteriorMean(net), share

    def predict_proba(self, context: Tensor, query: Tensor, target: int) -> Tensor:
        f, p = (e.predict_proba(context, query, target) for e in (self.mle, self.mean))
        return (1 - self.share) * f + self.share * p


def test_the_share_of_the_gap_is_found() -> None:
    prior = bnicl.NetworkPrior(bnicl.load_network("general5"))
    table = bnicl.share_of_the_gap({str(s): Between(prior.net, s) for s in (0, 0.3, 1)}, prior, [1, 10], 100)
    assert table["share"].tolist() == pytest.approx([0, 0.3, 1, 0, 0.3, 1])
    assert table["share_low"].tolist() == pytest.approx(table["share_high"].tolist())
    assert table["off_the_line"].max() < 1e-6
    other = bnicl.share_of_the_gap({"other": bnicl.PosteriorMean(prior.net, 5)}, prior, [10], 100).iloc[0]
    assert other["share_low"] < other["share"] < other["share_high"]
    assert other["share"] > 1
    assert other["off_the_line"] > 0.01
    with pytest.raises(ValueError, match="networks: expected a prior over tables"):
        bnicl.share_of_the_gap({"mean": Between(prior.net, 1)}, bnicl.Pool(prior, 3))
