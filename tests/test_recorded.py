"""Updates that a GPU replays, against the same ones launched kernel by kernel. Without a GPU nothing is tested here."""

from pathlib import Path
from typing import Any

import pytest
import torch

import bnicl
from bnicl.training import loop
from bnicl.training.config import TrainingConfig
from bnicl.training.update import Update

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL: dict[str, Any] = {"device": "cuda", "d_model": 32, "d_mlp": 64, "steps": 60, "warmup": 5, "records": 3}
MERGED = {"dropout": 0.0, "drop_everywhere": False, "multiset": True}
CASES: dict[str, dict[str, Any]] = {
    "published": {"graph": "chain5", "recipe": "published", **SMALL, "steps": 200},
    "merged": {"graph": "chain5", "recipe": "published", **SMALL, **MERGED, "steps": 200},
    "merged, half": {"graph": "tree7", "recipe": "published", **SMALL, **MERGED, "precision": "bfloat16"},
    "drawn": {"graph": "general5", "recipe": "published", **SMALL, **MERGED, "objective": "drawn"},
    "random": {"graph": "random5", "recipe": "published", **SMALL, **MERGED, "n_tables": None, "shared_graph": True},
    "fast": {"graph": "general5", **SMALL, "max_context": 3},
}


def trained(config: TrainingConfig, recorded: bool, monkeypatch: pytest.MonkeyPatch, out: Path | None = None) -> Any:
    real = Update.__init__

    def set_up(update: Update, *given: Any) -> None:
        real(update, *given)
        update.recorded = update.recorded and recorded

    with monkeypatch.context() as patched:
        patched.setattr(Update, "__init__", set_up)
        return bnicl.train(config, out, progress=False)


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_run_is_the_run(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(**CASES[case])
    one, other = (trained(config, recorded, monkeypatch) for recorded in (False, True))
    at_first = config.build()
    for (name, weight), replayed, before in zip(
        one.model.named_parameters(), other.model.parameters(), at_first.parameters(), strict=True
    ):
        if name.endswith("b_K"):  # adds the same to all scores of a query, and so has a gradient of rounding alone
            continue
        moved = (weight.cpu() - before).norm()
        assert (weight - replayed).norm().cpu() <= 0.02 * moved + 1e-6, name
    for record, again in zip(one.history, other.history, strict=True):
        assert again["loss"] == pytest.approx(record["loss"], rel=1e-3)


def test_a_replayed_run_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(**CASES["published"])
    whole = trained(config, True, monkeypatch)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    real = Update.__call__

    def stop(update: Update, step: int, *given: Any) -> None:
        if step == 120:
            raise KeyboardInterrupt
        real(update, step, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Update, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            bnicl.train(config, tmp_path, progress=False)
    again = bnicl.train(config, tmp_path, progress=False)
    assert again.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-3)
    assert bnicl.load_trained(tmp_path).history == again.history
