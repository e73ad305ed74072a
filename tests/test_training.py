"""Training: the loss by hand, resumption to the bit, what is saved and what is refused."""

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import bnicl
from bnicl.training import checkpoint, steps, update
from bnicl.training import loop as training
from bnicl.training.checkpoint import CHECKPOINT, load_trained
from bnicl.training.config import RECIPES, TrainingConfig
from bnicl.training.loop import train
from bnicl.training.trained import TrainedTransformer
from bnicl.transformer import encoding
from bnicl.transformer.construction import START_BETA, START_SCALE

SMALL: dict[str, Any] = {"graph": "general5", "batch": 8, "d_model": 8, "d_mlp": 8, "max_context": 40}


def config(**fields: Any) -> TrainingConfig:
    budget = {} if {"seconds", "recipe"} & set(fields) else {"steps": 12, "records": 4}
    return TrainingConfig(**{**SMALL, **budget, **fields})


def tables_of(examples: steps.Examples) -> Sequence[torch.Tensor]:
    """What is right, where that is tables."""
    assert not callable(examples.tables)
    return examples.tables


def weights(run: TrainedTransformer) -> dict[str, torch.Tensor]:
    return run.model.state_dict()


def same(a: TrainedTransformer, b: TrainedTransformer) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_config_round_trips_and_cannot_be_changed(recipe: Any) -> None:
    made = TrainingConfig(graph="chain7", recipe=recipe, alpha=0.3)
    assert TrainingConfig.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.seed = 1


def test_the_recipe_of_the_paper_is_the_papers() -> None:
    made = TrainingConfig(graph="tree7", recipe="published")
    model = made.build().config
    assert (model.n_layers, model.d_model, model.n_heads, model.layer_norm, model.mask) == (4, 256, 8, True, "none")
    assert (made.steps, made.batch, made.n_tables, made.max_context, made.objective) == (
        100_000,
        64,
        20_000,
        200,
        "tv",
    )
    assert (made.lr, made.warmup, made.final_lr, made.weight_decay, made.clip) == (3e-4, 2000, 1e-6, 1e-2, 1.0)
    assert TrainingConfig(graph="tree7", recipe="published", seconds=60).steps is None  # one's own budget goes first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"graph": "chain8"}, "network: expected a name .* did you mean"),
        ({"lr": 2.0}, "lr\n.*less than or equal to 1"),
        ({"lr": math.nan}, "lr\n.*finite"),
        ({"steps": 0}, "steps\n.*greater than or equal to 1"),
        ({"seconds": -1.0}, "seconds\n.*greater than 0"),
        ({"steps": 5, "seconds": 5.0}, "steps: expected either seconds or steps, got 5.0 and 5"),
        ({"max_context": 10, "min_context": 20}, "max_context: expected at least min_context = 20, got 10"),
        ({"d_model": 33, "n_heads": 2}, "d_model: expected a multiple of n_heads = 2, got 33"),
        ({"final_lr": 0.5}, "final_lr: expected at most lr = 0.01, got 0.5"),
        ({"graph": "child", "prior": "two-bands"}, "prior: expected 'dirichlet' for a graph with more than two states"),
        ({"dropout": 0.1}, "multiset: expected False with dropout"),
        ({"recipe": ["fast"]}, "recipe\n.*'fast', 'optimum', 'structure' or 'published'"),
        ({"objective": "mae"}, "objective\n.*'true', 'optimum', 'drawn', 'mle', 'tv' or 'mse'"),
        ({"recipe": "slow"}, "recipe\n.*'fast', 'optimum', 'structure' or 'published'"),
        ({"device": "tpu"}, "device\n.*pattern"),
        ({"layers": 3}, "layers\n.*not permitted"),
        ({"graph": "child", "gpt2": True}, "gpt2: expected False for 'child', which has more than two states"),
        ({"optimizer": "soap", "weight_decay": 0.1}, "weight_decay: expected 0 with the optimizer 'soap', got 0.1"),
        ({"optimizer": "sgd"}, "optimizer\n.*'adamw' or 'soap'"),
        ({"alpha": 0.0}, "alpha\n.*greater than or equal to 0.000001"),
    ],
)
def test_a_config_that_cannot_be_is_refused_with_field_and_bound(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**{"graph": "chain5", **fields})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="device: expected 'cpu', for there is no CUDA on this machine, got 'cuda'"):
        train(config(device="cuda"))


def test_a_name_is_no_config(unchecked_shapes: None) -> None:
    with pytest.raises(ValueError, match="config: expected a TrainingConfig, got 'chain5'"):
        train("chain5")  # type: ignore[arg-type]


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["rows", "prefix", "none"])
@pytest.mark.parametrize("recipe", [{}, {"encoding": "raw"}])
def test_packed_queries_are_answered_as_one_at_a_time_and_states_with_counts_as_rows(
    mask: Any, recipe: dict[str, Any]
) -> None:
    packed = train(config(mask=mask, n_queries=3, steps=2, **recipe))
    listed = TrainedTransformer(packed.model, config(mask=mask, multiset=False, **recipe))
    rows = bnicl.NetworkPrior(packed.net).sample(4, 43, seed=1).rows
    context, queries = rows[:, :40], rows[:, 40:]  # 40 rows, 32 states: counted
    with torch.no_grad():
        together = packed.outputs(context, queries, [1, 4])
    for q in range(3):
        for i, target in enumerate((1, 4)):
            predicted = packed.read(together[:, q, i], target)
            assert torch.allclose(predicted, packed.predict_proba(context, queries[:, q], target), atol=1e-6)
            assert torch.allclose(predicted, listed.predict_proba(context, queries[:, q], target), atol=1e-5)
    answer = packed.given(context)
    for target in range(5):
        every = answer(queries, target)
        assert torch.allclose(every[:, 0], packed.predict_proba(context, queries[:, 0], target), atol=1e-6)
        assert torch.allclose(every[:, 2], answer(queries[:, 2], target), atol=1e-6)


def test_values_from_the_target_on_are_not_read() -> None:
    run = train(config(steps=2))
    rows = bnicl.NetworkPrior(run.net).sample(4, 11, seed=1).rows
    hidden = rows[:, 10].clone()
    hidden[:, 2:] = bnicl.ABSENT
    assert torch.equal(run.predict_proba(rows[:, :10], rows[:, 10], 2), run.predict_proba(rows[:, :10], hidden, 2))


@pytest.mark.parametrize("mask", ["rows", "prefix", "none"])
def test_absent_columns_are_blocks_of_zeros(mask: Any) -> None:
    run = train(config(mask=mask, steps=2))
    rows = bnicl.NetworkPrior(run.net).sample(3, 41, seed=1).rows
    rows[:, :, 3:] = bnicl.ABSENT
    context, query = rows[:, :40], rows[:, 40]
    by_hand = run.model(
        torch.cat(
            [
                encoding.context_columns(context, run.cardinalities),
                encoding.query_columns(query, [2], run.cardinalities),
            ],
            dim=1,
        )
    )
    assert torch.allclose(run.predict_proba(context, query, 2), run.read(by_hand[:, -1], 2), atol=1e-6)
    whole = run.predict_proba(bnicl.NetworkPrior(run.net).sample(3, 40, seed=1).rows, query, 2)
    assert not torch.allclose(whole, run.predict_proba(context, query, 2), atol=1e-6)


UNKNOWN: dict[str, Any] = {"graph": "random4", "mask": "prefix", "per_target": True, "steps": 2}


@pytest.mark.parametrize(
    ("fields", "up_to"),
    [
        ({}, (1, 2, 3, 4)),
        ({"edge_prob": (0.2, 0.9)}, (1, 2, 3, 4)),
        ({"graph": "general5"}, (1, 2, 3, 4, 5)),
        ({"mask": "rows"}, (1, 2, 3, 4)),
        ({"mask": "none"}, (1, 2, 3, 4)),
        ({"multiset": False}, (1, 2, 3, 4)),
        ({"shuffled": True}, (4, 4, 4, 4)),  # who the others' parents are says in which order the columns are
        ({"graph": "tree5+chain5+general5"}, (5, 5, 5, 5, 5)),  # and of which graph they are
    ],
)
def test_a_context_read_for_a_target_is_its_columns_up_to_it_with_its_flag(
    fields: dict[str, Any], up_to: tuple[int, ...]
) -> None:
    run = train(config(**{**UNKNOWN, **fields}))
    n_nodes, cards = run.net.n_nodes, run.cardinalities
    assert tuple(run.read_up_to(target) for target in range(n_nodes)) == up_to
    rows = run.config.networks.sample(3, 41, seed=1).rows
    context, query = rows[:, :40], rows[:, 40]
    every = run.given(context)
    for target in range(n_nodes):
        seen = context.clone()
        seen[..., up_to[target] :] = bnicl.ABSENT
        columns = encoding.context_columns(seen, cards)
        columns[..., sum(cards) + target] = 1
        asked = encoding.query_columns(query, [target], cards)
        by_hand = run.read(run.model(torch.cat([columns, asked], dim=1))[:, -1], target)
        assert torch.allclose(run.predict_proba(context, query, target), by_hand, atol=1e-6)
        assert torch.allclose(every(query, target), by_hand, atol=1e-6)
        assert torch.equal(run.columns(context, query, target), torch.cat([columns, asked], dim=1))
        assert torch.allclose(run.given(context[1:2])(query[1:2], target)[0], by_hand[1], atol=1e-6)


def test_what_follows_a_target_of_a_random_graph_says_next_to_nothing_about_it() -> None:
    """The exact average over the first columns against that over all, where it is the wide range of edges that ties."""
    networks = bnicl.StructurePrior(bnicl.RandomGraphs((2,) * 4, (0.1, 0.8)))
    rows = networks.sample(200, 21, seed=0).rows
    context, query = rows[:, :20], rows[:, 20]
    for target in range(4):
        first = bnicl.ModelAverage((2,) * (target + 1), edge_prob=(0.1, 0.8))
        some = first.predict_proba(context[..., : target + 1], query[:, : target + 1], target)
        whole = bnicl.ModelAverage((2,) * 4, edge_prob=(0.1, 0.8)).predict_proba(context, query, target)
        lost = bnicl.kl_bits(whole, some).mean().item()
        assert lost < 5e-4
        assert (lost < 1e-12) == (target in (0, 3))  # the first has no parents, and nothing follows the last


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (torch.zeros(2, 9, 6, dtype=torch.int64), "context: expected 5 columns, one for each node, got 6"),
        (torch.full((2, 9, 5), 2), r"context: expected states of node 0 in 0..1, got 2"),
        (torch.full((2, 9, 5), -2), r"context: expected states of node 0 in 0..1, got -2"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_more_variables_or_states_than_it_was_trained_on_are_refused(states: torch.Tensor, message: str) -> None:
    run = train(config(steps=1))
    with pytest.raises(ValueError, match=message):
        run.predict_proba(states, states[:, 0], 1)


def test_a_scaled_init_shrinks_what_layers_add_and_nothing_else() -> None:
    plain, calm = (config(scaled_init=value, n_layers=3).build() for value in (False, True))
    for (name, usual), smaller in zip(plain.named_parameters(), calm.parameters(), strict=True):
        factor = 6**-0.5 if name.endswith(("W_O", "W_out")) else 1
        assert torch.allclose(smaller, factor * usual), name


def test_the_objectives_against_the_definitions() -> None:
    run = train(config(steps=2, n_queries=2))
    net, prior = run.net, bnicl.NetworkPrior(run.net)
    batch = prior.sample(6, 5, seed=2)
    context, queries, targets = batch.rows[:, :3], batch.rows[:, 3:], [0, 2, 4]
    outputs = run.outputs(context, queries, targets)
    sums: dict[Any, list[float]] = {"true": [], "optimum": [], "drawn": [], "mle": []}
    for q in range(2):
        for m in targets:
            p = run.predict_proba(context, queries[:, q], m).double()
            truth = bnicl.conditional(net, batch.cpts, queries[:, q], m)
            mle = bnicl.MaximumLikelihood(net).predict_proba(context, queries[:, q], m)
            sums["true"] += (-(truth * p.log()).sum(-1)).tolist()
            mean = bnicl.PosteriorMean(net, 0.5).predict_proba(context, queries[:, q], m)
            sums["optimum"] += (-(mean * p.log()).sum(-1)).tolist()
            sums["drawn"] += (-p.gather(1, queries[:, q, m, None]).log()).flatten().tolist()
            sums["mle"] += [value for value in (p - mle).abs().sum(-1).tolist() if not math.isnan(value)]
    assert 0 < len(sums["mle"]) < len(sums["true"])  # some queries match no row: they do not count
    for objective, values in sums.items():
        tables = steps.Stream(config(objective=objective))._right(batch, context)
        examples = steps.Examples(context, queries, targets, tables)
        loss = steps.loss_of(net, objective, outputs, targets, examples.wanted(net, objective)).item()
        assert loss == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_each_step_has_new_networks_and_the_same_whenever_it_is_drawn() -> None:
    stream, again = steps.Stream(config()), steps.Stream(config())
    first = [stream.step(i, 0.0) for i in range(3)]
    late = again.step(2, 0.0)
    assert torch.equal(late.context, first[2].context)
    assert torch.equal(tables_of(late)[2], tables_of(first[2])[2])
    tables = torch.cat([tables_of(examples)[2].flatten() for examples in first])
    assert len(tables.unique()) == len(tables)


def test_a_pool_repeats_its_tables() -> None:
    stream = steps.Stream(config(n_tables=3))
    tables = torch.cat([tables_of(stream.step(i, 0.0))[0][:, 0] for i in range(5)])
    assert len(tables.unique()) == 3


def test_the_curriculum_reveals_one_target_after_the_other() -> None:
    stream = steps.Stream(config(curriculum=True))
    assert [stream.step(0, share).targets[-1] for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9)] == [0, 1, 2, 3, 4, 4]
    single = steps.Stream(config(one_target=True))
    assert {tuple(single.step(i, 0.5).targets) for i in range(60)} == {(m,) for m in range(5)}


def test_the_length_of_the_context_is_drawn_within_its_bounds() -> None:
    stream = steps.Stream(config(min_context=3, max_context=40, short_contexts=1.0))
    lengths = [stream.step(i, 0.0).context.shape[1] for i in range(200)]
    assert min(lengths) == 3
    assert max(lengths) == 40
    fixed = steps.Stream(config(min_context=7, max_context=7))
    assert {fixed.step(i, 0.0).context.shape[1] for i in range(10)} == {7}


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "drawn"},
        {"objective": "mle", "curriculum": True},
        {"mask": "causal"},
        {"mask": "prefix", "positions": True},
        {"prior": "two-bands", "objective": "optimum"},
        {"prior": "one-band", "graph": "random4", "recipe": "structure"},
        {"precision": "bfloat16"},
        {"graph": "asia", "max_context": 300},
        {"optimizer": "soap", "per_target": True},
        {"graph": "cancer", "n_tables": 5, "dropout": 0.2, "multiset": False, "layer_norm": True, "activation": "gelu"},
    ],
)
def test_every_option_trains_and_answers_with_probability_vectors(fields: dict[str, Any]) -> None:
    run = train(config(steps=3, **fields))
    rows = bnicl.NetworkPrior(run.net).sample(3, 31, seed=0).rows
    for target in range(run.net.n_nodes):
        p = run.predict_proba(rows[:, :30], rows[:, 30], target)
        assert torch.allclose(p.sum(-1), torch.ones(3))
    assert math.isfinite(run.history[-1]["tv"])


def test_training_comes_near_the_optimum() -> None:
    run = train(TrainingConfig(graph="chain5", steps=400, records=4))
    assert run.history[-1]["regret_bits"] < 0.03
    assert run.history[0]["regret_bits"] > 3 * run.history[-1]["regret_bits"]
    table = bnicl.evaluate({"transformer": run, "naive": bnicl.NaiveFrequency((2,) * 5, "marginal")},
                           run.config.networks, [20], 200).set_index(["predictor", "node"])  # fmt: skip
    assert table.loc[("transformer", "average"), "tv"] < table.loc[("naive", "average"), "tv"]
    new = bnicl.generate(run, bnicl.NetworkPrior(run.net).sample(1, 50, seed=3).rows[0], 20)
    assert tuple(new.shape) == (20, 5)


def test_the_recipe_of_the_paper_trains() -> None:
    run = train(
        config(recipe="published", steps=2, batch=4, d_model=16, d_mlp=16, n_tables=50, records=1, max_context=200)
    )
    assert run.history[-1]["step"] == 2
    assert run.config.recipe == "published"


# --- runs that are killed, and what they leave ----------------------------------------------------

LOOP = """
import sys, bnicl, bnicl.training.loop
bnicl.training.loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
config = bnicl.TrainingConfig.model_validate_json(sys.argv[1])
print("started", flush=True)
bnicl.train(config, sys.argv[2])
"""


@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path, optimizer: Any) -> None:
    made = config(steps=600, records=7, n_tables=40, dropout=0.1, multiset=False, layer_norm=True, optimizer=optimizer)
    whole = train(made)
    process = subprocess.Popen([sys.executable, "-c", LOOP, made.model_dump_json(), str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / CHECKPOINT).exists() or step_of(tmp_path) < 30:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert 30 <= step_of(tmp_path) < 600
    resumed = train(made, tmp_path)
    assert same(resumed, whole)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]
    assert same(load_trained(tmp_path), whole)
    assert same(train(made, tmp_path), whole)  # a run that has ended is read, not repeated
    assert TrainingConfig.model_validate_json((tmp_path / "config.json").read_text()) == made


def step_of(folder: Path) -> int:
    """The step of a checkpoint that another process may replace: of a copy, for its reader opens the file twice."""
    copy = Path(shutil.copy(folder / CHECKPOINT, folder.parent / "copy.safetensors"))
    return int(json.loads(checkpoint._read(copy)[0]["state"])[0])


TOGETHER = """
import sys, torch.distributed, bnicl
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
config = bnicl.TrainingConfig.model_validate_json(sys.argv[3])
run = bnicl.train(config, f"{folder}/out")
torch.save(run.model.state_dict(), f"{folder}/{rank}.pt")
print(run.history[-1]["step"])
torch.distributed.destroy_process_group()
"""


def train_together(made: TrainingConfig, folder: Path) -> list[int]:
    """Two processes; how many steps each has taken."""
    (folder / "meet").unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", TOGETHER]
    started = [
        subprocess.Popen([*command, str(rank), str(folder), made.model_dump_json()], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [int(text) for text in said]


def test_two_processes_train_one_transformer_on_twice_the_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(steps=5)
    assert train_together(made, tmp_path) == [5, 5]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], value) for name, value in weights(load_trained(tmp_path / "out")).items())
    real = steps.Stream.step

    def both(stream: steps.Stream, step: int, progress: float) -> steps.Examples:
        one, other = (real(steps.Stream(made, process), step, progress) for process in range(2))
        tables = [torch.cat(parts) for parts in zip(tables_of(one), tables_of(other), strict=True)]
        context, queries = (torch.cat(rows) for rows in zip(one[:2], other[:2], strict=True))
        return steps.Examples(context, queries, one.targets, tables)

    monkeypatch.setattr(steps.Stream, "step", both)
    alone = weights(train(made))
    assert all(torch.allclose(first[name], value, atol=1e-5) for name, value in alone.items())


def test_two_processes_by_the_clock_take_the_same_steps(tmp_path: Path) -> None:
    steps = train_together(config(seconds=0.5), tmp_path)
    assert steps[0] == steps[1] == step_of(tmp_path / "out")


def test_another_run_is_not_continued(tmp_path: Path) -> None:
    train(config(), tmp_path)
    with pytest.raises(
        ValueError, match=r"expected a folder of this run, got .* whose graph is 'general5', not 'tree5'"
    ):
        train(config(graph="tree5"), tmp_path)
    with pytest.raises(ValueError, match=r"a run whose lr is 0.01, not 0.02"):
        train(config(lr=0.02), tmp_path)


def test_what_is_no_checkpoint_of_this_version_and_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint: expected checkpoint.safetensors in .* got none"):
        load_trained(tmp_path)
    train(config(), tmp_path)
    path = tmp_path / CHECKPOINT
    about, tensors = checkpoint._read(path)[0], load_file(path)
    save_file(tensors, path, {**about, "format": "bnicl training checkpoint 0"})
    with pytest.raises(
        ValueError, match=r"expected 'bnicl training checkpoint 1' in .*, got 'bnicl training checkpoint 0'"
    ):
        load_trained(tmp_path)
    save_file(tensors, path, {**about, "config": config(graph="chain7").model_dump_json()})
    with pytest.raises(ValueError, match=r"checkpoint: expected the network chain7, .*X6.* got .*X4"):
        load_trained(tmp_path)
    save_file({name: value for name, value in tensors.items() if name != "optimizer.exp_avg.W_U"}, path, about)
    with pytest.raises(ValueError, match=r"checkpoint: expected the optimiser's state of W_U in .*, got none"):
        train(config(), tmp_path)
    save_file({**tensors, "model.W_E": tensors["model.W_E"][:5].clone()}, path, about)
    with pytest.raises(ValueError, match=r"checkpoint: expected W_E of shape \(16, 8\) for general5, got \(5, 8\)"):
        load_trained(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="checkpoint: expected a safetensors file, got"):
        train(config(), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    real, calls = steps.loss_of, []

    def break_down(*args: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args) * (math.nan if len(calls) == 8 else 1.0)

    monkeypatch.setattr(update, "loss_of", break_down)
    with pytest.raises(
        FloatingPointError, match=r"loss: expected a finite number, got nan in step 7; .* is the last good checkpoint"
    ):
        train(config(), tmp_path)
    assert step_of(tmp_path) == 7
    assert all(bool(value.isfinite().all()) for value in weights(load_trained(tmp_path)).values())


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    real = os.fsync
    written: list[int] = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 4:  # config.json and two checkpoints fitted
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(config(), tmp_path)
    assert step_of(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "config.json"]
    monkeypatch.undo()
    assert same(train(config(), tmp_path), train(config()))


def test_a_gradient_that_is_not_finite_stops_the_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps.loss_of
    monkeypatch.setattr(update, "loss_of", lambda *args: torch.sqrt(real(*args) * 0.0))  # 0, with an endless slope
    with pytest.raises(FloatingPointError, match=r"gradient: expected a finite number, got nan in step 0$"):
        train(config())


@pytest.mark.parametrize("records", [1, 3, 500])
def test_the_clock_ends_a_run_with_a_record_and_a_checkpoint(records: int, tmp_path: Path) -> None:
    begin = time.monotonic()
    run = train(config(seconds=0.5, records=records), tmp_path)
    assert 0.4 < time.monotonic() - begin < 10
    assert run.history[-1]["seconds"] >= 0.5
    assert run.history[-1]["step"] == step_of(tmp_path)
    assert same(run, load_trained(tmp_path))


def test_a_run_by_the_clock_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    real, calls = steps.loss_of, []

    def stop(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    made = config(seconds=1.0, records=10)
    monkeypatch.setattr(update, "loss_of", stop)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path)
    assert step_of(tmp_path) == 4
    monkeypatch.setattr(update, "loss_of", real)
    run = train(made, tmp_path)
    assert run.history[-1]["step"] > 4
    assert [r["seconds"] for r in run.history] == sorted(r["seconds"] for r in run.history)


def test_a_plus_in_the_path_of_a_file_joins_no_graphs(tmp_path: Path) -> None:
    path = tmp_path / "a+b.bif"
    bnicl.write_bif(path, bnicl.load_network("general5"))
    made = bnicl.TrainingConfig(graph=str(path), steps=1)
    assert made.networks.net.parents == bnicl.load_network("general5").parents
    assert len(bnicl.TrainingConfig(graph="tree5+chain5", steps=1).sources) == 2


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    made = config(lr=0.01, final_lr=0.001, warmup=10)
    assert training._learning_rate(made, 0, 0.0) == pytest.approx(0.001)
    assert training._learning_rate(made, 9, 0.0) == pytest.approx(0.01)
    assert training._learning_rate(made, 50, 0.5) == pytest.approx(0.0055)
    assert training._learning_rate(made, 99, 1.0) == pytest.approx(0.001)


def test_dropout_zeroes_its_share_and_scales_up_the_rest() -> None:
    drop = steps.dropout(config(dropout=0.25, multiset=False), bnicl.make_generator(0))
    assert drop is not None
    dropped = drop("blocks.0.hook_mlp_out", torch.ones(100_000))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop("blocks.0.mlp.hook_pre", dropped), dropped)
    assert steps.dropout(config(), bnicl.make_generator(0)) is None


def test_the_bar_shows_loss_and_regret(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run = train(config())
    last = run.history[-1]
    assert "training general5: 100%" in screen.getvalue()
    assert f"loss {last['loss']:.3f}, regret {1000 * last['regret_bits']:.2f} mbit" in screen.getvalue()
    before = screen.getvalue()
    train(config(), progress=False)
    assert screen.getvalue() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_training_runs_unchanged_on_cuda(tmp_path: Path) -> None:
    run = train(TrainingConfig(graph="chain5", steps=300, device="cuda", records=4), tmp_path)
    assert run.device.type == "cuda"
    assert run.history[-1]["regret_bits"] < 0.1
    rows = bnicl.NetworkPrior(run.net).sample(3, 31, seed=0).rows
    there, here = (r.predict_proba(rows[:, :30], rows[:, 30], 4) for r in (run, load_trained(tmp_path)))
    assert torch.allclose(there, here, atol=1e-4)
    assert bnicl.generate(run, rows[0], 5).device.type == "cpu"


# --- what the ablations change ----------------------------------------------------------------------


@pytest.mark.parametrize(("graph", "n_heads"), [("general5", 1), ("general5", 2), ("tree7", 2), ("chain3", 1)])
def test_a_start_at_the_construction_is_the_constructed_transformer(graph: str, n_heads: int) -> None:
    net = bnicl.load_network(graph)
    begin = TrainingConfig(graph=graph, steps=1, start="construction", n_heads=n_heads, d_model=64, n_layers=3)
    run = TrainedTransformer(begin.build(), begin)
    exact = bnicl.construct_mle_transformer(net, beta=START_BETA, variant="causal")
    rows = bnicl.NetworkPrior(net).sample(40, 31, seed=0).rows
    for target in range(net.n_nodes):
        shares = exact.predict_proba(rows[:, :30], rows[:, 30], target)
        logits = START_SCALE * shares
        assert torch.allclose(
            run.predict_proba(rows[:, :30], rows[:, 30], target).double(), logits.softmax(-1), atol=1e-5
        )
    moved = train(begin.model_copy(update={"steps": 3, "records": 1}))
    still = [name for name, value in weights(moved).items() if torch.equal(value, begin.build().state_dict()[name])]
    assert still == []  # all of it can learn


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 30}, "d_model: expected at least 32 for the construction, got 30"),
        ({"d_model": 32, "n_heads": 4}, "d_head: expected at least 11 for the construction, got 8"),
        ({"n_layers": 1}, "n_layers: expected at least 2"),
        ({"d_mlp": 19}, "d_mlp: expected at least 20"),
        ({"layer_norm": True}, "start: expected one-hot columns, relu and no layer norm"),
        ({"encoding": "raw"}, "start: expected one-hot columns, relu and no layer norm"),
        ({"graph": "random5"}, "start: expected 'random' for 'random5', whose graph is not known"),
    ],
)
def test_a_transformer_without_room_for_the_construction_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(**{"graph": "general5", "steps": 1, "start": "construction", **fields})


def test_noise_changes_the_context_of_training_and_nothing_else() -> None:
    clean, noisy = (steps.Stream(config(noise=noise)).step(3, 0.1) for noise in (0.0, 0.5))
    assert torch.equal(clean.queries, noisy.queries)
    assert all(torch.equal(a, b) for a, b in zip(tables_of(clean), tables_of(noisy), strict=True))
    changed = (clean.context != noisy.context).double().mean().item()
    assert 0.15 < changed < 0.35  # half of the values are drawn anew, and half of these come out as they were
    for objective in ("optimum", "mle"):
        with pytest.raises(ValidationError, match="objective: expected 'true' or 'drawn' with noise"):
            config(noise=0.1, objective=objective)


def test_a_graph_of_the_paper_takes_any_number_of_states() -> None:
    run = train(config(n_states=3, steps=2))
    assert run.cardinalities == (3,) * 5
    assert run.net.parents == bnicl.load_network("general5").parents


def test_a_pool_holds_the_networks_that_training_draws_from() -> None:
    small = config(n_tables=3)
    pool = steps.networks_of(small)
    drawn = tables_of(steps.Stream(small).step(5, 0.1))
    for table, own in zip(pool.sample(100, 1, seed=0).cpts, drawn, strict=True):
        flat = {tuple(row) for row in table.flatten(1).tolist()}
        assert {tuple(row) for row in own.flatten(1).tolist()} <= flat
    assert type(steps.networks_of(config())) is bnicl.NetworkPrior


def test_what_watches_the_training_stands_in_its_history(tmp_path: Path) -> None:
    seen: list[int] = []

    def watch(run: TrainedTransformer) -> dict[str, float]:
        seen.append(len(run.history))
        return {"records before": float(len(run.history))}

    run = train(config(), tmp_path, watch=watch)
    assert seen == [0, 1, 2, 3]
    assert [record["records before"] for record in run.history] == [0, 1, 2, 3]
    assert load_trained(tmp_path).history == run.history
    assert same(run, train(config()))  # a watch changes nothing
