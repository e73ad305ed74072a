"""Tables from bands: the posterior mean and the evidence against exact fractions, quadrature and sums by hand."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from scipy.integrate import quad

import bnicl
from bnicl.estimators.few_graphs import GraphAverage

BANDS = {
    "one": bnicl.Bands(),
    "two": bnicl.TwoBands(),
    "all": bnicl.Bands(((0.0, 1.0),)),
    "uneven": bnicl.Bands(((0.0, 0.1), (0.4, 0.5), (0.9, 1.0))),
}
COUNTS = [(0, 0), (1, 0), (0, 4), (7, 3), (30, 70), (120, 80), (0, 200)]


def masses(bands: bnicl.Bands, zeros: int, ones: int) -> Fraction:
    """The integral of p^zeros (1 - p)^ones over the bands, exactly: a difference of incomplete beta functions."""

    def up_to(x: Fraction) -> Fraction:
        return sum(
            (Fraction((-1) ** k * math.comb(ones, k), zeros + k + 1) * x ** (zeros + k + 1) for k in range(ones + 1)),
            Fraction(0),
        )

    return sum((up_to(Fraction(str(high))) - up_to(Fraction(str(low))) for low, high in bands.bands), Fraction(0))


@pytest.mark.parametrize("bands", BANDS.values(), ids=BANDS)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_mean_and_evidence_are_those_of_incomplete_beta_functions(bands: bnicl.Bands, counts: tuple[int, int]) -> None:
    zeros, ones = counts
    found = torch.tensor([counts])
    whole = masses(bands, zeros, ones)
    assert bands.mean(found)[0, 0].item() == pytest.approx(float(masses(bands, zeros + 1, ones) / whole), rel=1e-12)
    assert bands.mean(found).sum().item() == pytest.approx(1)
    evidence = whole / masses(bands, 0, 0)
    log_evidence = math.log(evidence.numerator) - math.log(evidence.denominator)
    assert bands.log_evidence(found).item() == pytest.approx(log_evidence, abs=1e-11)


def test_the_case_worked_out_by_hand() -> None:
    """Seven and three: by the referee's quadrature 0.7610 for the two bands."""
    assert bnicl.TwoBands().mean(torch.tensor([7.0, 3.0]))[0].item() == pytest.approx(0.7610, abs=5e-5)


@pytest.mark.parametrize("counts", [(10_000, 0), (400_000, 600_000), (0, 10**6)], ids=str)
def test_many_rows_neither_underflow_nor_cancel(counts: tuple[int, int]) -> None:
    """Where rows are many, the mean is the frequency, or the end of the band that is nearest."""
    zeros, ones = counts
    low, high = 0.1, 0.9
    p = bnicl.Bands().mean(torch.tensor([counts]))[0, 0].item()
    peak = min(max(zeros / (zeros + ones), low), high)

    def density(x: float) -> float:
        return math.exp(zeros * math.log(x / peak) + ones * math.log((1 - x) / (1 - peak)))

    width = 0.01 if low < peak < high else 50 / max(counts)  # a bell, or a slope at the end of the band
    near = [max(low, peak - width), min(high, peak + width)]
    wanted = quad(lambda x: x * density(x), *near, points=[peak])[0] / quad(density, *near, points=[peak])[0]
    assert p == pytest.approx(wanted, rel=1e-8)


def test_rows_lie_in_the_bands_and_are_uniform_there() -> None:
    for bands in BANDS.values():
        p = bands.sample([40_000], 2, bnicl.make_generator(0))[:, 0]
        length = sum(high - low for low, high in bands.bands)
        for low, high in bands.bands:
            inside = p[(p >= low) & (p <= high)]
            assert len(inside) / len(p) == pytest.approx((high - low) / length, abs=0.01)
            assert inside.mean().item() == pytest.approx((low + high) / 2, abs=0.005)
        assert all(any(low <= value <= high for low, high in bands.bands) for value in p[:500].tolist())


def test_no_smoothing_is_better_in_expectation() -> None:
    """The optimum of its prior: posterior means for other priors have a larger divergence from the truth."""
    prior = bnicl.NetworkPrior(bnicl.load_network("general5"), bnicl.Bands())
    best = bnicl.optimum(prior)
    assert best is not None
    others = {f"alpha {a}": bnicl.PosteriorMean(prior.net, a) for a in (0.5, 1.0, 2.0)}
    table = bnicl.evaluate({"best": best, **others}, prior, [3, 30], 4000)
    average = table[table["node"] == "average"].set_index("predictor")
    assert (average.loc["best", "regret_bits"] == 0).all()
    batch = prior.sample(4000, 31, seed=0)
    for n in (3, 30):
        losses = {}
        for name, predictor in {"best": best, **others}.items():
            answer = predictor.given(batch.rows[:, :n])
            truths = [bnicl.conditional(prior.net, batch.cpts, batch.rows[:, -1], m) for m in range(5)]
            log_loss = [bnicl.kl_bits(truth, answer(batch.rows[:, -1], m)) for m, truth in enumerate(truths)]
            losses[name] = torch.stack(log_loss).mean().item()
        assert min(losses, key=losses.__getitem__) == "best"


def test_an_average_over_graphs_takes_any_prior_of_the_rows() -> None:
    """By brute force: every graph's probability times its prediction, with the evidence row after row."""
    cards, bands = (2, 2, 2), bnicl.TwoBands()
    rows = bnicl.StructurePrior(bnicl.RandomGraphs(cards, 0.3), bands).sample(1, 9, seed=4).rows
    context, query = rows[:, :8], rows[:, 8]
    pairs = [(0, 1), (0, 2), (1, 2)]
    weights, answers = [], []
    for chosen in itertools.product([False, True], repeat=3):
        edges = [pair for pair, is_edge in zip(pairs, chosen, strict=True) if is_edge]
        parents = tuple(tuple(i for i, j in edges if j == m) for m in range(3))
        net = bnicl.BayesianNetwork(("a", "b", "c"), parents, cards)
        told = bnicl.PosteriorMean(net, prior=bands)
        seen = torch.cat([context, query[:, None]], 1)[0]
        probability = 0.3 ** len(edges) * 0.7 ** (3 - len(edges))
        for n in range(9):  # of the query, only what stands before the target
            for m in range(3 if n < 8 else 2):
                probability *= told.predict_proba(seen[None, :n], seen[None, n], m)[0, seen[n, m]].item() if n else 0.5
        weights.append(probability)
        answers.append(told.predict_proba(context, query, 2)[0])
    by_hand = torch.tensor(weights, dtype=torch.float64) @ torch.stack(answers) / sum(weights)
    average = bnicl.ModelAverage(cards, edge_prob=0.3, prior=bands)
    assert average.predict_proba(context, query, 2)[0].tolist() == pytest.approx(by_hand.tolist(), abs=1e-10)


def test_a_few_graphs_with_banded_tables() -> None:
    graphs = [bnicl.load_network("chain5"), bnicl.load_network("tree5")]
    mixture = bnicl.StructurePrior(bnicl.OneOf(tuple(graphs)), bnicl.Bands())
    best = mixture.optimum()
    assert isinstance(best, GraphAverage)
    others = {"Dirichlet": GraphAverage(graphs, 0.5), "uniform": GraphAverage(graphs, 1.0)}
    table = bnicl.evaluate({"bands": best, **others}, mixture, [10], 3000)
    regret = table[table["node"] == "average"].set_index("predictor")["regret_bits"]
    assert regret["bands"] == 0 < regret["uniform"] < regret["Dirichlet"]
