"""Training: a transformer learns to predict from contexts alone, on networks with fresh tables.

A step draws networks, a context of N rows and a few queries from each, and moves the weights against the
gradient of the loss. `config` says what it depends on, `trained` what it leaves.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bnicl.estimators.measures import kl_bits, total_variation
from bnicl.training.checkpoint import CHECKPOINT, State, resume_run, save_run
from bnicl.training.config import TrainingConfig
from bnicl.training.processes import Processes
from bnicl.training.steps import Examples, Stream
from bnicl.training.trained import TrainedTransformer
from bnicl.training.update import Update, optimizer_of

_SECONDS_BETWEEN_CHECKPOINTS = 10.0


def train(
    config: TrainingConfig,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    watch: Callable[[TrainedTransformer], Mapping[str, float]] | None = None,
) -> TrainedTransformer:
    """A transformer trained as `config` says.

    config: all that the run depends on.
    out: a folder for config.json and checkpoint.safetensors. A run that was killed goes on from its last checkpoint
    when it is called again, and one that has ended is read from there.
    progress: a bar with loss, regret (in thousandths of a bit) and the time left, on a terminal.
    watch: measures the transformer at each record; its result is added to the record.

    Where torch.distributed is initialised (by torchrun, say, and with the device "cuda" after torch.cuda.set_device),
    its processes train one transformer together: each draws config.batch contexts of its own, the gradients are
    averaged, and the first writes to `out`, which all read.

    Raises ValueError for a device that is not there and for a folder that holds another run, OSError where a
    checkpoint cannot be written, and FloatingPointError where the loss is no longer finite: the last good
    checkpoint is then kept.

    >>> run = train(TrainingConfig(graph="chain5", steps=3, records=1))
    >>> run.predict_proba(torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64), 2).shape
    torch.Size([1, 2])
    """
    from tqdm import tqdm

    if not isinstance(config, TrainingConfig):
        raise ValueError(f"config: expected a TrainingConfig, got {config!r}")
    if config.device != "cpu" and torch.device(config.device).index not in (None, *range(torch.cuda.device_count())):
        raise ValueError(f"device: expected one of {torch.cuda.device_count()} CUDA devices, got {config.device!r}")
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device: expected 'cpu', for there is no CUDA on this machine, got {config.device!r}")
    model = config.build().to(config.device)
    run = TrainedTransformer(model, config)
    optimizer = optimizer_of(config, model)
    folder = None if out is None else Path(out)
    processes = Processes(run.device)
    with processes.one_before_the_others():
        state = State() if folder is None else resume_run(folder, run, optimizer)
    stream, update = Stream(config, processes.rank), Update(run, optimizer, processes)
    update.total.fill_(state.loss)
    held_out = stream.held_out()
    begin, saved, share = time.perf_counter() - state.seconds, state.seconds, _share(config, state)

    bar = tqdm(total=1.0, initial=share, disable=None if progress and processes.rank == 0 else True,
               bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", desc=f"training {config.graph}")  # fmt: skip
    with bar:
        while share < 1:
            step = state.step
            update(step, _learning_rate(config, step, share), stream.step(step, share))
            seconds = processes.agree(time.perf_counter() - begin)
            state = State(step + 1, seconds, state.loss, state.losses + 1)
            share = _share(config, state)
            noted = share >= (len(run.history) + 1) / config.records or share >= 1
            kept = bool(folder) and (share >= 1 or seconds - saved > _SECONDS_BETWEEN_CHECKPOINTS)
            if noted or kept or not update.recorded:  # else there is no waiting for the GPU
                state = state._replace(loss=update.total.item())
                _check_finite(step, folder, loss=state.loss, gradient=update.norm.item())
            if noted:
                record = _record(run, held_out, state) | dict(watch(run) if watch else {})
                _check_finite(step, folder, **{"total variation": record["tv"]})
                run.history.append(record)
                state = State(state.step, state.seconds)
                update.total.zero_()
                bar.update(share - bar.n)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, regret {1000 * record['regret_bits']:.2f} mbit")
            if folder and kept:
                if processes.rank == 0:
                    save_run(folder, run, optimizer, state)
                saved = seconds
    return run


def _check_finite(step: int, folder: Path | None, **measured: float) -> None:
    """Raises FloatingPointError for a number that is not finite."""
    for name, value in measured.items():
        if not math.isfinite(value):
            kept = folder is not None and (folder / CHECKPOINT).exists()
            hint = f"; {folder}/{CHECKPOINT} is the last good checkpoint" if kept else ""
            raise FloatingPointError(f"{name}: expected a finite number, got {value} in step {step}{hint}")


def _share(config: TrainingConfig, state: State) -> float:
    """How much of the run is done."""
    done = state.seconds / config.seconds if config.seconds is not None else state.step / (config.steps or 1)
    return min(1.0, done)


def _learning_rate(config: TrainingConfig, step: int, share: float) -> float:
    cosine = config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * share)) / 2
    return cosine * min(1.0, (step + 1) / max(1, config.warmup))


def _record(run: TrainedTransformer, held_out: Examples, state: State) -> dict[str, float]:
    """A record of the history; see `TrainedTransformer`."""
    context, queries, targets, _ = held_out
    with torch.no_grad():
        outputs = run.outputs(context, queries, targets).cpu()
    optimum = run.config.networks.optimum()
    best_of = None if optimum is None else optimum.given(context)
    regret, tv, floor = [], [], []
    for i, m in enumerate(targets):
        predicted = run.read(outputs[:, :, i].double(), m)
        truth = held_out.right(run.net, m)
        best = torch.full_like(truth, torch.nan) if best_of is None else best_of(queries, m)
        regret.append(kl_bits(best, predicted))
        tv.append(total_variation(truth, predicted))
        floor.append(total_variation(truth, best))
    regret_bits, to_truth, of_best = (torch.stack(values).mean().item() for values in (regret, tv, floor))
    about = {"step": state.step, "seconds": state.seconds, "loss": state.loss / max(1, state.losses)}
    return {**about, "regret_bits": regret_bits, "tv": to_truth, "tv_floor": of_best}
