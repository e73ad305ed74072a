"""Interventions on the constructed transformer, where what they must find is known exactly."""

import pytest
import torch

import bnicl
from bnicl.evaluation import mechanism as interventions
from bnicl.evaluation.mechanism import OTHER, PARENT, TARGET

NET = bnicl.load_network("general5")
NETWORKS = bnicl.NetworkPrior(NET)
SEVERAL = [m for m in range(5) if len(NET.parents[m]) > 1]
SOME = {"n": 60, "n_networks": 100, "seed": 3}


@pytest.fixture(scope="module", params=["paper", "causal"])
def constructed(request: pytest.FixtureRequest) -> bnicl.InContextTransformer:
    return bnicl.construct_mle_transformer(NET, epsilon=1e-8, variant=request.param)


@pytest.fixture(scope="module")
def random() -> bnicl.InContextTransformer:
    return bnicl.train(bnicl.TrainingConfig(graph="general5", steps=1, n_heads=4))


def test_there_is_a_target_with_several_parents() -> None:
    assert SEVERAL


@pytest.mark.parametrize("target", SEVERAL)
def test_all_attention_of_the_matching_layer_is_on_matching_rows(
    constructed: bnicl.InContextTransformer, target: int
) -> None:
    table = interventions.attention_by_matches(constructed, NETWORKS, target, **SOME)
    table = table[table["layer"] == 2].set_index("matches")
    most = len(NET.parents[target])
    assert table.loc[most, "mass"] == pytest.approx(1, abs=1e-6)
    assert table["mass"].sum() == pytest.approx(1)
    assert table["rows"].sum() == pytest.approx(1)
    assert (table["to_context"] > 1 - 1e-6).all()
    assert (table["mass_low"] <= table["mass"] + 1e-12).all()


def test_attention_against_a_loop_over_rows(random: bnicl.InContextTransformer) -> None:
    target = SEVERAL[-1]
    table = interventions.attention_by_matches(random, NETWORKS, target, n=20, n_networks=5, seed=1)
    rows = NETWORKS.sample(5, 21, seed=1).rows
    _, cache = random.model.run_with_cache(random.columns(rows[:, :20], rows[:, 20], target))
    pattern = cache["blocks.1.attn.hook_pattern"][:, 3, -1]
    by_hand, found = [0.0] * (len(NET.parents[target]) + 1), 0
    for b in range(5):
        agree = [sum(int(rows[b, i, m] == rows[b, 20, m]) for m in NET.parents[target]) for i in range(20)]
        if len(NET.parents[target]) not in agree:
            continue
        found += 1
        for i in range(20):
            by_hand[agree[i]] += (pattern[b, i] / pattern[b, :20].sum()).item()
    own = table[(table["layer"] == 2) & (table["head"] == 4)]
    assert found > 0
    assert own["mass"].tolist() == pytest.approx([mass / found for mass in by_hand], abs=1e-6)


@pytest.mark.parametrize("target", SEVERAL)
def test_changed_rows_move_the_answer_as_they_move_the_counts(
    constructed: bnicl.InContextTransformer, target: int
) -> None:
    effects = interventions.context_effects(constructed, NETWORKS, target, **SOME)
    assert set(effects["role"]) == ({PARENT, TARGET} if target + 1 == 5 and len(NET.parents[target]) == target else
                                    {PARENT, OTHER, TARGET})  # fmt: skip
    for _, own in effects[effects["role"] != OTHER].groupby("node"):
        slope, r2 = interventions.slope_and_r2(own)
        assert slope == pytest.approx(1, abs=1e-6)
        assert r2 == pytest.approx(1, abs=1e-6)
    others = effects[effects["role"] == OTHER]
    assert others["counted"].abs().max() == 0
    assert others["measured"].abs().max() < 1e-6
    with pytest.raises(ValueError, match="effects: expected changes of the counts, got none"):
        interventions.slope_and_r2(others)


def test_half_of_the_matching_rows_change_and_one_stays() -> None:
    """Counted by hand: flipping the target in k of the matching rows moves the MLE by what the k rows say."""
    effects = interventions.context_effects(bnicl.construct_mle_transformer(NET), NETWORKS, 0, n=5, n_networks=50)
    own = effects[effects["role"] == TARGET]  # no parents: all 5 rows match, and 3 of them change
    fifths = {round(5 * value, 6) for value in own["counted"]}
    assert len(own) == 50
    assert fifths <= {-3, -1, 1, 3}
    assert {-3, 3} & fifths


def test_one_who_pays_no_heed_has_slope_and_r2_of_zero() -> None:
    effects = interventions.context_effects(bnicl.construct_mle_transformer(NET), NETWORKS, 2, n=20, n_networks=50)
    assert interventions.slope_and_r2(effects.assign(measured=0.0)) == (0.0, 0.0)


@pytest.mark.parametrize("target", SEVERAL)
def test_after_layer_1_the_stream_carries_the_parents_and_nothing_else(
    constructed: bnicl.InContextTransformer, target: int
) -> None:
    table = interventions.patched_effects(constructed, NETWORKS, target, **SOME)
    for line in table.itertuples():
        carries = line.head == 0 or line.layer == 2  # the stream after each layer, and the one matching head
        assert line.patched == pytest.approx(line.whole if carries else 0, abs=1e-6)
        assert (line.whole > 0.05) == (line.role == PARENT)


def test_patching_all_of_an_earlier_layer_is_asking_the_other_query(random: bnicl.InContextTransformer) -> None:
    table = interventions.patched_effects(random, NETWORKS, 4, n=20, n_networks=20)
    assert table.groupby(["layer", "head"]).ngroups == 2 * (1 + 4)
    last = table[(table["layer"] == 2) & (table["head"] == 0)]
    assert last["patched"].tolist() == pytest.approx(last["whole"].tolist(), abs=1e-6)
    assert (last["whole"] > 0).all()


@pytest.mark.parametrize("target", SEVERAL)
def test_the_parents_values_alone_can_be_read_after_layer_1(
    constructed: bnicl.InContextTransformer, target: int
) -> None:
    table = interventions.probes(constructed, NETWORKS, target, n=5, n_networks=2000, seed=1).set_index(
        ["role", "depth"]
    )
    before, after = table.xs(0, level="depth"), table.xs(1, level="depth")
    assert (before["accuracy"] == 1).all()
    assert (after.loc[[PARENT], "accuracy"] == 1).all()
    if target > 2:  # most functions of two binary values are linear
        assert (table["control"] < 0.95).all()
    if OTHER in after.index:  # what is left is what the parents say about it
        assert (after.loc[[OTHER], "accuracy"] < 0.95).all()


def test_ablating_the_one_matching_head_takes_the_answer_away(constructed: bnicl.InContextTransformer) -> None:
    table = interventions.ablated_heads(constructed, NETWORKS, 0, **SOME).set_index(["layer", "by"])
    assert table.loc[(2, "mean"), "moved"] > 0.05
    assert set(table.index.get_level_values("by")) == {"zero", "mean"}


def test_ablation_against_weights_set_to_zero(random: bnicl.InContextTransformer) -> None:
    table = interventions.ablated_heads(random, NETWORKS, 4, n=20, n_networks=10, seed=2)
    rows = NETWORKS.sample(10, 21, seed=2).rows
    before = random.predict_proba(rows[:, :20], rows[:, 20], 4)
    weight = random.model.blocks[1].attn.W_O  # type: ignore[union-attr]
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[2] = 0  # head 3 of the last layer, for the query: rows' own last layer is not read
    moved = bnicl.total_variation(before, random.predict_proba(rows[:, :20], rows[:, 20], 4)).mean().item()
    with torch.no_grad():
        weight.copy_(kept)
    own = table[(table["layer"] == 2) & (table["head"] == 3) & (table["by"] == "zero")]
    assert own["moved"].item() == pytest.approx(moved, abs=1e-6)
    assert moved > 0


def test_slopes_in_short(constructed: bnicl.InContextTransformer) -> None:
    effects = interventions.context_effects(constructed, NETWORKS, 3, **SOME).assign(predictor="constructed")
    table = interventions.slopes(effects).set_index("node")
    assert table["predictor"].unique().tolist() == ["constructed"]
    assert table.loc[["X0", "X2", "X3"], "slope"].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert table.loc[["X1", "X4"], ["slope", "r2", "smoothed_slope", "smoothed_r2"]].isna().all(axis=None)
    assert table.loc["X1", "moved"] < 1e-6 < 0.01 < table.loc["X3", "moved"]


def test_smoothed_changes_are_those_of_the_posterior_mean() -> None:
    """A root whose state flips in 3 of 5 rows: (k + 1/2) / 6 moves by 5/6 of what k / 5 moves by."""
    effects = interventions.context_effects(bnicl.construct_mle_transformer(NET), NETWORKS, 0, n=5, n_networks=50)
    own = effects[effects["role"] == TARGET]
    assert own["smoothed"].tolist() == pytest.approx((own["counted"] * 5 / 6).tolist(), abs=1e-12)
    assert interventions.slope_and_r2(own, "smoothed") == pytest.approx((1.2, 1))


def test_selectivity_is_the_best_heads_mass_and_its_control_the_share_of_rows(
    random: bnicl.InContextTransformer,
) -> None:
    found = interventions.selectivity(random, NETWORKS, n=30, n_networks=40, seed=2)
    tables = [interventions.attention_by_matches(random, NETWORKS, m, 30, 40, 2) for m in range(5) if NET.parents[m]]
    for layer in (1, 2):
        best = []
        for table in tables:
            own = table[(table["layer"] == layer) & (table["matches"] == table["matches"].max())]
            best.append(max(own["mass"]))
        assert found[f"layer {layer}"] == pytest.approx(sum(best) / len(best))
    assert 0 < found["rows"] < 1


def test_distances_against_the_shares_by_hand() -> None:
    naive, exact = bnicl.NaiveFrequency(NET.cardinalities, "uniform"), bnicl.MaximumLikelihood(NET, "uniform")
    table = interventions.distances(exact, {"itself": exact, "naive": naive}, NETWORKS, n=20, n_networks=30, seed=4)
    rows = NETWORKS.sample(30, 21, seed=4).rows
    apart = [exact.predict_proba(rows[:, :20], rows[:, 20], m) - naive.predict_proba(rows[:, :20], rows[:, 20], m)
             for m in range(5)]  # fmt: skip
    by_hand = torch.stack([a.abs().sum(-1).mean() / 2 for a in apart]).mean().item()
    assert table.set_index("to")["tv"].to_dict() == pytest.approx({"itself": 0, "naive": by_hand})
    assert (table["tv_low"] <= table["tv"]).all()


def test_bad_input_is_refused(constructed: bnicl.InContextTransformer, unchecked_shapes: None) -> None:
    with pytest.raises(ValueError, match=r"target: expected a node in 0\.\.4, got 5"):
        interventions.probes(constructed, NETWORKS, 5)
    unknown = bnicl.StructurePrior(bnicl.RandomGraphs((2,) * 5))
    with pytest.raises(ValueError, match="networks: expected a NetworkPrior, whose graph is known, got StructurePrior"):
        interventions.context_effects(constructed, unknown, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_networks: expected"):
        interventions.patched_effects(constructed, NETWORKS, 2, n_networks=1)
