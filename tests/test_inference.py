"""P(target | any evidence) beside sums over all joint states and pgmpy's variable elimination."""

import warnings

import pytest
import torch
from torch import Tensor

import bnicl
from bnicl.estimators.elimination import WIDEST, Parts, Plan, split
from bnicl.estimators.families import Counts
from bnicl.estimators.inference import FittedNetwork, ImpossibleEvidence
from bnicl.networks.checks import ABSENT
from bnicl.networks.graph import import_pgmpy
from tests.strategies import random_dag


def random_task(seed: int) -> tuple[bnicl.BayesianNetwork, Tensor, torch.Generator]:
    """A network of 2 to 8 nodes with 2 to 4 states, and some of its rows."""
    generator = bnicl.make_generator(seed)
    n_nodes = int(torch.randint(2, 9, (), generator=generator))
    cards = torch.randint(2, 5, (n_nodes,), generator=generator).tolist()
    density = torch.rand((), generator=generator).item()
    net = random_dag(n_nodes, density, cardinalities=cards, seed=generator)
    n = int(torch.randint(1, 300, (), generator=generator))
    return net, bnicl.NetworkPrior(net).sample(1, n, generator).rows[0], generator


def random_question(net: bnicl.BayesianNetwork, generator: torch.Generator) -> tuple[int, Tensor]:
    """A target, and evidence on about half of the other nodes."""
    target = int(torch.randint(net.n_nodes, (), generator=generator))
    evidence = torch.tensor([int(torch.randint(card, (), generator=generator)) for card in net.cardinalities])
    evidence[torch.rand(net.n_nodes, generator=generator) < 0.5] = ABSENT
    evidence[target] = ABSENT
    return target, evidence


def joint(net: bnicl.BayesianNetwork, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All joint states and their probabilities."""
    states = torch.cartesian_prod(*(torch.arange(card) for card in net.cardinalities))
    p = torch.ones(len(states), dtype=torch.float64)
    for m in range(net.n_nodes):
        p *= tables[m][tuple(states[:, i] for i in (*net.parents[m], m))]
    return states, p


def by_enumeration(net: bnicl.BayesianNetwork, tables: list[Tensor], target: int, evidence: Tensor) -> Tensor:
    states, p = joint(net, tables)
    agrees = ((states == evidence) | (evidence == ABSENT)).all(1)
    total = torch.zeros(net.cardinalities[target], dtype=torch.float64).index_add_(0, states[:, target], p * agrees)
    return total / total.sum()


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_the_posterior_is_the_sum_over_all_joint_states(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of any kind, descendants included; what is refused has no answer in the sum either, or no row."""
    monkeypatch.setattr("bnicl.estimators.inference.DRAWS", 5)
    direct, exact = 0, 0
    for seed in range(first, first + 25):
        net, rows, generator = random_task(seed)
        counts = Counts.of([rows], net)
        mle, mean = bnicl.MaximumLikelihood(net, "nearest"), bnicl.PosteriorMean(net, 0.5)
        for fitted, learner in ((FittedNetwork(counts), mle), (FittedNetwork(counts, "posterior-mean"), mean)):
            tables = [table[0] for table in learner.fit(rows[None])]
            for _ in range(2):
                target, evidence = random_question(net, generator)
                expected = by_enumeration(net, tables, target, evidence)
                try:
                    found = fitted.posterior(target, evidence[None])
                except ImpossibleEvidence:
                    seen_alone = [
                        table[0].nan_to_num() for table in bnicl.MaximumLikelihood(net, "nan").fit(rows[None])
                    ]
                    assert fitted.estimator == "mle"
                    parents = list(net.parents[target])
                    unseen = bool((evidence[parents] != ABSENT).all()) and counts.matching(evidence[None], target) == 0
                    assert unseen or bool(by_enumeration(net, seen_alone, target, evidence).isnan().any())
                    continue
                assert (found.probabilities[0] - expected).abs().max() < 1e-9
                direct, exact = direct + bool(found.direct), exact + (not found.direct)
    assert direct > 10
    assert exact > 40


@pytest.mark.parametrize("name", ["asia", "child", "insurance", "alarm"])
def test_the_posterior_is_that_of_pgmpy(name: str) -> None:
    net = bnicl.load_network(name)
    rows = bnicl.forward_sample(net, 3000, seed=0)
    fitted = FittedNetwork(Counts.of([rows], net), "posterior-mean", 0.5)
    tables = tuple(table[0] for table in bnicl.PosteriorMean(net, 0.5).fit(rows[None]))
    model = bnicl.BayesianNetwork(net.names, net.parents, net.cardinalities, tables).to_pgmpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = import_pgmpy().inference.VariableElimination(model)
        for seed in range(12):
            generator = bnicl.make_generator(seed)
            target, evidence = random_question(net, generator)
            drawn = bnicl.forward_sample(net, 1, generator)[0]
            evidence = torch.where(evidence == ABSENT, ABSENT, drawn)
            given = {net.names[m]: int(evidence[m]) for m in range(net.n_nodes) if evidence[m] != ABSENT}
            expected = peer.query([net.names[target]], given, show_progress=False)
            expected.normalize()
            found = fitted.posterior(target, evidence[None]).probabilities[0]
            assert torch.allclose(found, torch.from_numpy(expected.values).double(), atol=1e-6)


def test_a_descendant_changes_the_answer_and_a_node_behind_the_parents_does_not() -> None:
    net = bnicl.load_network("asia")
    fitted = FittedNetwork(Counts.of([bnicl.forward_sample(net, 5000, seed=0)], net))
    lung, smoke, xray, asia = map(net.names.index, ("lung", "smoke", "xray", "asia"))

    def ask(**values: int) -> Tensor:
        evidence = torch.full((1, net.n_nodes), ABSENT)
        for name, value in values.items():
            evidence[0, net.names.index(name)] = value
        return fitted.posterior(lung, evidence).probabilities[0]

    assert {net.states[m] for m in (lung, smoke, xray, asia)} == {("yes", "no")}
    assert ask(smoke=0)[0] < 0.15 < 0.6 < ask(smoke=0, xray=0)[0]
    assert torch.equal(ask(smoke=0, asia=0), ask(smoke=0))


def test_what_matters_by_hand() -> None:
    # a -> b -> c -> d, and e -> d
    net = bnicl.BayesianNetwork(tuple("abecd"), ((), (0,), (), (1,), (2, 3)), (2,) * 5)
    a, b, e, c, d = range(5)
    assert split(net, c, {b}) == Parts([c], set(), [[a, b]])
    assert split(net, c, set()) == Parts([a, b, c], {a, b}, [])
    assert split(net, c, {b, d}) == Parts([e, c, d], {e}, [[a, b]])
    assert split(net, a, {c}) == Parts([a, b, c], {b}, [])
    assert split(net, e, {b}) == Parts([e], set(), [[a, b]])


def test_a_batch_of_queries_is_the_queries_one_by_one() -> None:
    net, rows, generator = random_task(11)
    fitted = FittedNetwork(Counts.of([rows], net), "posterior-mean")
    target = net.n_nodes - 1
    evidence = bnicl.NetworkPrior(net).sample(1, 40, generator).rows[0]
    evidence[torch.rand(evidence.shape, generator=generator) < 0.4] = ABSENT
    evidence[:, target] = ABSENT
    together = fitted.posterior(target, evidence)
    for i, query in enumerate(evidence):
        alone = fitted.posterior(target, query[None])
        assert torch.allclose(alone.probabilities[0], together.probabilities[i], atol=1e-12)
        assert (alone.direct[0], alone.rows[0]) == (together.direct[i], together.rows[i])


def test_impossible_evidence_is_named() -> None:
    net = bnicl.BayesianNetwork(("a", "b", "c"), ((), (0,), ()), (2, 2, 2), states=(("no", "yes"),) * 3)
    rows = torch.tensor([[0, 0, 0], [1, 1, 0], [1, 1, 1]])
    fitted = FittedNetwork(Counts.of([rows], net))
    for target, evidence in ((2, [0, 1, ABSENT]), (0, [ABSENT, 1, 1])):
        if target == 2:
            with pytest.raises(ImpossibleEvidence, match=r"got a=no, b=yes: its probability is 0 .* posterior-mean"):
                fitted.posterior(target, torch.tensor([evidence]))
        else:
            assert fitted.posterior(target, torch.tensor([evidence])).probabilities.tolist() == [[0, 1]]
    many = torch.tensor([[0, 0, ABSENT], [0, 1, ABSENT]])
    with pytest.raises(ImpossibleEvidence) as caught:
        fitted.posterior(2, many)
    assert caught.value.query == 1
    smooth = FittedNetwork(Counts.of([rows], net), "posterior-mean")
    assert torch.isfinite(smooth.posterior(2, many).probabilities).all()


def test_an_answer_that_no_row_speaks_of_is_refused_and_a_part_of_one_is_told() -> None:
    net = bnicl.BayesianNetwork(("a", "b", "c"), ((), (), (0, 1)), (2, 2, 2))
    rows = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]])
    fitted = FittedNetwork(Counts.of([rows], net))
    with pytest.raises(ImpossibleEvidence, match="got a=1, b=1, which none has: the MLE of c is not defined there"):
        fitted.posterior(2, torch.tensor([[1, 1, ABSENT]]))
    found = fitted.posterior(2, torch.tensor([[1, ABSENT, ABSENT]]))
    assert found.unseen.item() == pytest.approx(1 / 4)  # b is 1 in one row of four


def test_credible_intervals_hold_the_share_that_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over networks from the prior: the true conditional lies in the interval 95 times of 100, direct or not."""
    monkeypatch.setattr("bnicl.estimators.inference.DRAWS", 400)
    net = bnicl.BayesianNetwork(("cause", "effect"), ((), (0,)), (2, 2))
    drawn = bnicl.NetworkPrior(net, bnicl.Dirichlet(1.0)).sample(400, 20, seed=0)
    inside = torch.zeros(2)
    for i in range(400):
        fitted = FittedNetwork(Counts.of([drawn.rows[i]], net), "posterior-mean", 1.0)
        p, q = drawn.cpts[0][i, 1], drawn.cpts[1][i, :, 1]
        cause = p * q[1] / (p * q[1] + (1 - p) * q[0])
        for k, (target, evidence, true) in enumerate(((1, [1, ABSENT], q[1]), (0, [ABSENT, 1], cause))):
            found = fitted.posterior(target, torch.tensor([evidence]), seed=i)
            inside[k] += float(found.low[0, 1] <= true <= found.high[0, 1])
    assert (inside / 400 > 0.92).all()
    assert (inside / 400 < 0.98).all()


def test_the_interval_of_one_table_is_that_of_its_beta_distribution() -> None:
    from scipy.stats import beta

    net = bnicl.BayesianNetwork(("a",), ((),), (2,))
    fitted = FittedNetwork(Counts.of([torch.tensor([[0]] * 7 + [[1]] * 3)], net), "posterior-mean", 0.5)
    found = fitted.posterior(0, torch.tensor([[ABSENT]]))
    assert found.low[0, 0].item() == pytest.approx(beta.ppf(0.025, 7.5, 3.5))
    assert found.high[0, 0].item() == pytest.approx(beta.ppf(0.975, 7.5, 3.5))


def test_samples_agree_with_the_exact_answer_within_their_standard_error() -> None:
    net = bnicl.load_network("asia")
    fitted = FittedNetwork(Counts.of([bnicl.forward_sample(net, 2000, seed=0)], net))
    evidence = torch.full((1, 8), ABSENT)
    evidence[0, net.names.index("xray")] = 0
    lung = net.names.index("lung")
    exact = fitted.posterior(lung, evidence).probabilities[0]
    scores = []
    for seed in range(100):
        found = fitted.posterior(lung, evidence, samples=2000, seed=seed)
        scores.append(((found.probabilities[0, 0] - exact[0]) / found.error[0, 0]).item())
    assert abs(torch.tensor(scores).mean()) < 0.4
    assert 0.8 < torch.tensor(scores).std() < 1.25


def test_a_state_that_no_sample_has_is_not_certain_not_to_be() -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    rows = torch.tensor([[0, 0]] * 999 + [[1, 0]] + [[0, 1]] * 500)
    fitted = FittedNetwork(Counts.of([rows], net))
    for n in (1, 50):
        found = fitted.posterior(0, torch.tensor([[ABSENT, 0]]), samples=n)
        assert found.probabilities[0, 1] == 0
        assert found.error[0, 1] > 0.005


def test_samples_tell_of_unseen_parents_too() -> None:
    net = bnicl.BayesianNetwork(("a", "b", "c", "d"), ((), (), (0, 1), (2,)), (2, 2, 2, 2))
    rows = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1]])
    fitted = FittedNetwork(Counts.of([rows], net))
    evidence = torch.tensor([[1, ABSENT, ABSENT, ABSENT]])
    sampled, exact = fitted.posterior(3, evidence, samples=20_000), fitted.posterior(3, evidence)
    assert sampled.unseen.item() == pytest.approx(exact.unseen.item(), abs=0.02)
    with pytest.raises(ImpossibleEvidence, match="none of 500 has parents in states that a row has"):
        fitted.posterior(3, torch.tensor([[1, 1, ABSENT, ABSENT]]), samples=500)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.5])
def test_an_interval_is_there_for_the_smallest_alpha(alpha: float) -> None:
    net = bnicl.BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    fitted = FittedNetwork(Counts.of([torch.tensor([[0, 0], [1, 0]])], net), "posterior-mean", alpha)
    found = fitted.posterior(0, torch.tensor([[ABSENT, 1]]))
    assert (found.low <= found.high).all()
    assert not found.low.isnan().any()


def wide_network() -> tuple[bnicl.BayesianNetwork, Tensor]:
    """Thirty causes of one effect."""
    net = bnicl.BayesianNetwork(tuple(f"n{i}" for i in range(31)), (*((),) * 30, tuple(range(30))), (2,) * 31)
    return net, torch.randint(2, (200, 31), generator=bnicl.make_generator(0))


def test_a_sum_that_is_too_wide_is_refused_with_its_size_before_it_begins() -> None:
    net, rows = wide_network()
    fitted = FittedNetwork(Counts.of([rows], net), "posterior-mean")
    none = torch.full((1, 31), ABSENT)
    with pytest.raises(ValueError, match=rf"at most {WIDEST:,} joint states at once, got 2,147,483,648 .*--samples"):
        fitted.posterior(30, none)
    found = fitted.posterior(30, none, samples=500)
    assert found.probabilities.sum() == pytest.approx(1)
    assert found.error.max() < 0.1
    assert fitted.posterior(0, none).direct.all()  # the rest is barren


def test_many_unknown_parents_take_the_memory_of_their_table() -> None:
    """Sixteen parents of one effect, 3,000 rows: nearly all states of the parents are unseen."""
    net = bnicl.BayesianNetwork(tuple(f"n{i}" for i in range(17)), (*((),) * 16, tuple(range(16))), (2,) * 17)
    rows = torch.randint(2, (3000, 17), generator=bnicl.make_generator(0))
    fitted = FittedNetwork(Counts.of([rows], net))
    evidence = torch.full((1, 17), ABSENT)
    evidence[0, 16] = 1
    found = fitted.posterior(0, evidence)
    tables = [t[0] for t in bnicl.MaximumLikelihood(net, "nan").fit(rows[None])]
    grid = torch.cartesian_prod(*[torch.arange(2)] * 16)
    p = torch.stack([tables[m][grid[:, m]] for m in range(16)]).prod(0) * fitted.counts.mle_of_parents(grid, 16)[:, 1]
    assert found.probabilities[0, 1].item() == pytest.approx((p[grid[:, 0] == 1].sum() / p.sum()).item(), abs=1e-9)
    assert 0.9 < found.unseen.item() < 1


def test_hundreds_of_observations_do_not_underflow() -> None:
    """A hidden Markov chain of 600 steps, whose evidence has a probability far below the smallest float64."""
    m = 600
    names = tuple(f"{kind}{i}" for i in range(m) for kind in "zx")
    parents = tuple(p for i in range(m) for p in ((() if i == 0 else (2 * i - 2,)), (2 * i,)))
    net = bnicl.BayesianNetwork(names, parents, (2, 4) * m)
    rows = bnicl.forward_sample(net.with_random_cpts(seed=0), 50, seed=0)
    fitted = FittedNetwork(Counts.of([rows], net), "posterior-mean")
    evidence = torch.full((1, 2 * m), ABSENT)
    evidence[0, 1::2] = rows[0, 1::2]
    plan = Plan(net, list(range(2 * m)), 0, {2 * i + 1 for i in range(m)})
    p, log_z = plan.total(fitted._rows_of, evidence)
    assert log_z.item() < -500
    forward = torch.ones(1, dtype=torch.float64)  # by hand: messages from the last step to the first
    message = torch.ones(2, dtype=torch.float64)
    for i in reversed(range(m)):
        both = torch.full((2, 2 * m), ABSENT)
        both[:, 2 * i] = torch.arange(2)
        message = message * fitted.conditionals(both, 2 * i + 1)[:, int(evidence[0, 2 * i + 1])]
        message = message / message.sum()
        if i:
            both[:, 2 * i - 2] = torch.arange(2)
            message = fitted.conditionals(both, 2 * i) @ message
        else:
            message = fitted.conditionals(both[:1], 0)[0] * message
    assert torch.allclose(p[0], message / message.sum() * forward, atol=1e-10)


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_refused() -> None:
    net = bnicl.load_network("chain3")
    counts = Counts.of([torch.zeros(2, 3, dtype=torch.int64)], net)
    fitted = FittedNetwork(counts)
    none = torch.full((1, 3), ABSENT)
    for call, message in (
        (lambda: FittedNetwork(counts, "map"), "estimator: expected one of mle, posterior-mean, got 'map'"),  # type: ignore[arg-type]
        (lambda: FittedNetwork(counts, "mle", -1.0), r"alpha: expected a number in \[1e-06, 1e\+06\], got -1"),
        (lambda: fitted.posterior(3, none), r"target: expected a node in 0\.\.2, got 3"),
        (lambda: fitted.posterior(0, none + 3), r"evidence: expected states of node 0 in 0\.\.1, got 2"),
        (lambda: fitted.posterior(0, none + 1), "evidence: expected none on the target X0, got some"),
        (lambda: fitted.posterior(0, none, samples=0), "samples: expected an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
