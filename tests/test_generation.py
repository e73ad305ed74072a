import math

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

import bnicl
from bnicl.networks.graph import import_pgmpy
from bnicl.networks.sampling import ravel_states
from bnicl.transformer.mle_transformer import Variant

ASIA = bnicl.load_network("asia")
CONTEXT = bnicl.forward_sample(ASIA, 500, seed=3)


def joint(net: bnicl.BayesianNetwork) -> Tensor:
    """The probability of every joint state, by the product of the tables."""
    states = torch.cartesian_prod(*(torch.arange(card) for card in net.cardinalities))
    p = torch.ones(len(states), dtype=torch.float64)
    for m in range(net.n_nodes):
        p *= bnicl.conditional(net, [t.expand(len(states), *t.shape) for t in net.tables], states, m).gather(
            1, states[:, m : m + 1]
        )[:, 0]
    return p


def fitted_bypgmpy() -> bnicl.BayesianNetwork:
    import pandas as pd

    names = ASIA.names
    model = import_pgmpy().models.DiscreteBayesianNetwork([(names[p], names[c]) for p, c in ASIA.edges])
    data = pd.DataFrame(CONTEXT.numpy(), columns=list(names))
    estimator = import_pgmpy().estimators.MaximumLikelihoodEstimator(
        model, data, state_names={n: [0, 1] for n in names}
    )
    model.add_cpds(*estimator.get_parameters())
    fitted = bnicl.BayesianNetwork.from_pgmpy(model)
    order = [fitted.names.index(name) for name in names]  # back to the order of the context's columns
    where = {old: new for new, old in enumerate(order)}
    parents = tuple(tuple(where[p] for p in fitted.parents[old]) for old in order)
    return bnicl.BayesianNetwork(
        names, parents, tuple(fitted.cardinalities[old] for old in order), tuple(fitted.tables[old] for old in order)
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("variant", ["causal", "paper"])
def test_generated_rows_have_the_joint_distribution_of_the_network_that_pgmpy_fits(variant: Variant) -> None:
    n = 200_000
    fitted = fitted_bypgmpy()
    predictor = bnicl.construct_mle_transformer(ASIA, max_context=500, variant=variant)
    rows = bnicl.generate(predictor, CONTEXT, n=n, seed=1)
    p = joint(fitted)
    index = ravel_states(rows, range(8), ASIA.cardinalities)
    observed = torch.bincount(index, minlength=len(p)) / n
    tv = bnicl.total_variation(p, observed).item()
    # What exact sampling gives: the same distance for multinomial counts of the same size.
    exact = torch.stack(
        [bnicl.total_variation(p, torch.bincount(
            ravel_states(bnicl.forward_sample(fitted, n, seed=s), range(8), ASIA.cardinalities), minlength=len(p)) / n)
         for s in range(20)]
    )  # fmt: skip
    assert tv < exact.mean() + 3 * exact.std()
    # and family by family
    for m, parents in enumerate(ASIA.parents):
        family = ravel_states(rows, parents, ASIA.cardinalities)
        for state in family.unique():
            values = torch.bincount(rows[family == state, m], minlength=2).double()
            first = rows[family == state][:1]
            expected = bnicl.conditional(fitted, [t.unsqueeze(0) for t in fitted.tables], first, m)[0] * values.sum()
            possible = expected > 0
            assert values[~possible].sum() == 0
            if possible.sum() > 1:
                assert chisquare(values[possible].numpy(), expected[possible].numpy()).pvalue > 1e-5


def test_generated_rows_come_from_their_seed() -> None:
    predictor = bnicl.construct_mle_transformer(ASIA, variant="causal")
    first, again, other = (bnicl.generate(predictor, CONTEXT, n=200, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_variant_and_the_counting_mle_generate_the_same_rows() -> None:
    mle = bnicl.generate(bnicl.MaximumLikelihood(ASIA, "nearest"), CONTEXT, n=300, seed=5)
    for variant in ("paper", "causal", "heads", "prompt"):
        predictor = bnicl.construct_mle_transformer(ASIA, 1e-10, variant=variant)
        assert torch.equal(bnicl.generate(predictor, CONTEXT, n=300, seed=5), mle)


def test_the_context_is_read_once_for_all_targets_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = bnicl.construct_mle_transformer(ASIA, variant="causal")
    calls = []
    remember = bnicl.Transformer.prefill

    def counted(self: bnicl.Transformer, context: Tensor) -> object:
        calls.append(1)
        return remember(self, context)

    monkeypatch.setattr(bnicl.Transformer, "prefill", counted)
    bnicl.generate(predictor, CONTEXT, n=50, seed=0)
    assert len(calls) == 1


def test_generated_rows_of_a_random_network_follow_its_tables() -> None:
    net = bnicl.load_network("general7").with_random_cpts(alpha=1.0, seed=2)
    context = bnicl.forward_sample(net, 5000, seed=0)
    rows = bnicl.generate(bnicl.PosteriorMean(net), context, n=20_000, seed=0)
    for m in range(7):
        both = torch.stack([torch.bincount(r[:, m], minlength=2) for r in (rows, bnicl.forward_sample(net, 20_000, 1))])
        assert chi2_contingency(both.numpy()).pvalue > 1e-6 or (both[0] - both[1]).abs().max() < 0.03 * 20_000


@pytest.mark.usefixtures("unchecked_shapes")
def test_bad_input_is_refused() -> None:
    net = bnicl.load_network("general5")
    mle = bnicl.MaximumLikelihood(net)
    one_row = torch.zeros(1, 5, dtype=torch.int64)
    two = torch.tensor([[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    with pytest.raises(
        ValueError, match=r"predictor 'MLE': expected a distribution for every query, got NaN for node 2"
    ):
        bnicl.generate(mle, two, n=100)
    for context, n, message in (
        (one_row[None], 5, r"context: expected the rows \[n, nodes\] of one network, got shape \(1, 1, 5\)"),
        (one_row[:, :4], 5, r"context: expected 5 columns, one for each node, got 4"),
        (one_row[:0], 5, r"context: expected at least one row"),
        (one_row.float(), 5, r"context: expected integer states"),
        (one_row, 0, r"n: expected an integer of at least 1, got 0"),
        ([[0] * 5], 5, r"context: expected a torch tensor, got list"),
    ):
        for predictor in (mle, bnicl.construct_mle_transformer(net, variant="causal")):
            with pytest.raises(ValueError, match=message):
                bnicl.generate(predictor, context, n=n)  # type: ignore[arg-type]
    assert math.isfinite(bnicl.generate(mle, one_row, n=2).sum().item())
