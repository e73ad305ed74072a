"""The small trained transformers in results/weights: each is found by its name, and has a card."""

import json
from pathlib import Path

import pytest
import torch

import bnicl
from bnicl.batch.parameters import RESULTS

WEIGHTS = sorted((RESULTS / "weights").glob("*.safetensors"))


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_a_trained_transformer_is_small_has_a_card_and_is_near_the_optimum(path: Path) -> None:
    assert path.stat().st_size <= 200_000
    card = path.with_suffix(".md").read_text()
    run = bnicl.load_trained(path.stem)
    assert f"{run.history[-1]['step']:.0f} steps" in card
    assert json.loads(card.split("configuration: `")[1].split("`")[0])["graph"] == run.config.graph
    assert f"for contexts of {run.config.min_context} to {run.config.max_context} rows" in card
    assert "not for other graphs" in card
    networks = run.config.networks
    table = bnicl.evaluate({"it": run, "naive": bnicl.NaiveFrequency(run.cardinalities, "marginal")}, networks, [100])
    regret = table[table["node"] == "average"].set_index("predictor")["regret_bits"]
    assert regret["it"] < 1e-3 < regret["naive"]


def test_weights_that_are_written_are_those_that_are_read(tmp_path: Path) -> None:
    run = bnicl.train(bnicl.TrainingConfig(graph="chain3", steps=3, records=1))
    bnicl.save_weights(run, tmp_path / "mine.safetensors")
    again = bnicl.load_trained(tmp_path / "mine.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))
    assert again.history == run.history[-1:]


def test_a_name_that_is_none_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"weights: expected .* name of results/weights .* got .nothing."):
        bnicl.load_trained("nothing")
