"""Training: a transformer learns to predict from contexts alone, on networks with fresh tables.

A step draws networks, a context of N rows and a few queries from each, and moves the weights against the
gradient of the loss. `recipes` says what it depends on, `trained` what it leaves.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bnicl.encoding import blocks
from bnicl.estimators import MaximumLikelihood, PosteriorMean
from bnicl.evaluation import kl_bits, optimum, total_variation
from bnicl.networks import BayesianNetwork
from bnicl.priors import make_generator
from bnicl.recipes import HELD_OUT, NOISE, POOL, STEP, Objective, TrainingConfig
from bnicl.sampling import Batch, NetworkPrior, conditional, sample_rows, with_noise
from bnicl.soap import SOAP
from bnicl.structures import StructureBatch, conditionals
from bnicl.trained import CHECKPOINT, State, TrainedTransformer, resume_run, save_run
from bnicl.transformer import Hook, Transformer

_SECONDS_BETWEEN_CHECKPOINTS = 10.0

# --- one step -------------------------------------------------------------------------------------


class _Examples(NamedTuple):
    """What a step learns from: contexts, queries, the targets asked, and the tables that say what is right."""

    context: Tensor
    queries: Tensor
    targets: list[int]
    tables: Sequence[Tensor]


def pool_of(config: TrainingConfig) -> Batch | StructureBatch | None:
    """The networks that a run with `n_tables` draws from, one row of each; None where every batch has new ones."""
    if config.n_tables is None:
        return None
    return config.networks.sample(config.n_tables, 1, make_generator(config.seed, POOL, device=config.device))


class _Stream:
    """The examples of each step; step i's are the same whatever was drawn before, and others in each process."""

    def __init__(self, config: TrainingConfig, process: int = 0) -> None:
        self.process = process
        self.config, self.networks, self.net = config, config.networks, config.networks.net
        self.pool = pool_of(config)

    def _generator(self, *stream: int) -> torch.Generator:
        return make_generator(self.config.seed, *stream, device=self.config.device)

    def step(self, step: int, progress: float) -> _Examples:
        config, m = self.config, self.net.n_nodes
        dice = make_generator(config.seed, STEP, step)
        low, high = math.log(config.min_context), math.log(config.max_context)
        u = float(torch.rand((), dtype=torch.float64, generator=dice))
        n = round(math.exp(low + (high - low) * u**config.short_contexts))
        askable = min(m, 1 + int(2 * progress * m)) if config.curriculum else m
        targets = [int(torch.randint(askable, (), generator=dice))] if config.one_target else list(range(askable))
        batch = self._draw(self._generator(STEP, step, 1 + 2 * self.process), config.batch, n + config.n_queries)
        context = batch.rows[:, :n]
        if config.noise:
            cards = self.net.cardinalities
            context = with_noise(context, cards, config.noise, self._generator(STEP, step, 2 + 2 * self.process, NOISE))
        return _Examples(context, batch.rows[:, n:], targets, self._right(batch, context))

    def _right(self, batch: Batch | StructureBatch, context: Tensor) -> Sequence[Tensor]:
        """The tables that the objective takes for right."""
        if self.config.objective == "mle":
            return MaximumLikelihood(self.net, "nan").fit(context)
        if self.config.objective != "optimum":
            return batch.cpts
        if isinstance(self.networks, NetworkPrior):
            return PosteriorMean(self.net, self.config.alpha).fit(context)
        average = self.networks.optimum()
        assert average is not None  # the configuration is checked
        return conditionals(average.joint(context))

    def _draw(self, generator: torch.Generator, batch: int, n: int) -> Batch | StructureBatch:
        if self.pool is None:
            return self.networks.sample(batch, n, generator)
        chosen = torch.randint(len(self.pool.rows), (batch,), generator=generator, device=generator.device)
        cpts = tuple(table[chosen] for table in self.pool.cpts)
        rows = sample_rows(self.net, cpts, n, generator)
        if isinstance(self.pool, StructureBatch):
            return StructureBatch(cpts, rows, self.pool.adjacency[chosen])
        return Batch(cpts, rows)

    def held_out(self) -> _Examples:
        n = min(max(100, self.config.min_context), self.config.max_context)
        batch = self.networks.sample(64, n + 1, self._generator(HELD_OUT))
        return _Examples(batch.rows[:, :n], batch.rows[:, n:], list(range(self.net.n_nodes)), batch.cpts)


def _loss(net: BayesianNetwork, objective: Objective, outputs: Tensor, examples: _Examples) -> Tensor:
    """The objective, averaged over contexts, queries and targets; a query without an MLE does not count."""
    _, queries, targets, tables = examples
    most = max(net.cardinalities[m] for m in targets)
    own = [[*range(block.start, block.stop)] for block in (blocks(net.cardinalities)[m] for m in targets)]
    index = torch.tensor([[*units, *[-1] * (most - len(units))] for units in own], device=outputs.device)
    index = index.expand(*outputs.shape[:3], most)  # [batch, n_queries, targets, states], -1 beyond a target's own
    logits = outputs.float().gather(-1, index.clamp(min=0)).masked_fill(index < 0, -math.inf)
    log_p = logits.log_softmax(-1)
    if objective == "drawn":
        return -log_p.gather(-1, queries[..., targets, None]).mean()
    rows = [conditional(net, tables, queries, m).to(log_p.dtype) for m in targets]
    wanted = torch.stack([torch.nn.functional.pad(row, (0, most - row.shape[-1])) for row in rows], dim=2)
    if objective != "mle":
        return -(wanted * log_p.masked_fill(index < 0, 0.0)).sum(-1).mean()
    distance = (log_p.exp() - wanted).abs().sum(-1)
    return distance[~distance.isnan()].sum() / (~distance.isnan()).sum().clamp(min=1)


def _dropout(share: float, generator: torch.Generator) -> Hook | None:
    """Zeroes a share of what attention and feed-forward networks write, and scales up the rest."""
    if share == 0:
        return None

    def drop(name: str, activation: Tensor) -> Tensor:
        if not name.endswith(("hook_attn_out", "hook_mlp_out")):
            return activation
        kept = torch.rand(activation.shape, generator=generator, device=activation.device) >= share
        return activation * kept / (1 - share)

    return drop


# --- several processes ----------------------------------------------------------------------------


class _Processes:
    """Those that train together under torch.distributed, one a GPU for example; without it, this one alone."""

    def __init__(self, device: torch.device) -> None:
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.size = torch.distributed.get_world_size() if together else 1
        self.device = device

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """The first process goes through the block, then all others."""
        if self.rank > 0:
            self.agree(0.0)
        yield
        if self.rank == 0:
            self.agree(0.0)

    def agree(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return shared.item()

    def average_gradients(self, model: Transformer) -> None:
        """Replaces each gradient by its mean over the processes: one message a step."""
        if self.size == 1:
            return
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        message = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(message)
        means = (message / self.size).split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


# --- the loop -------------------------------------------------------------------------------------


def train(
    config: TrainingConfig,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    watch: Callable[[TrainedTransformer], Mapping[str, float]] | None = None,
) -> TrainedTransformer:
    """A transformer trained as `config` says.

    out: a folder for config.json and checkpoint.safetensors. A run that was killed goes on from its last
    checkpoint when it is called again, and one that has ended is read from there. progress: a bar with loss,
    regret (in thousandths of a bit) and the time left, on a terminal. watch: measures the transformer at each record;
    what it returns stands in the record too.

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
    optimizer = _optimizer(config, model)
    folder = None if out is None else Path(out)
    processes = _Processes(run.device)
    with processes.one_before_the_others():
        state = State() if folder is None else resume_run(folder, run, optimizer)
    stream, net = _Stream(config, processes.rank), run.net
    held_out = stream.held_out()
    begin, saved, share = time.perf_counter() - state.seconds, state.seconds, _share(config, state)

    bar = tqdm(total=1.0, initial=share, disable=None if progress and processes.rank == 0 else True,
               bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", desc=f"training {config.graph}")  # fmt: skip
    with bar:
        while share < 1:
            step = state.step
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, step, share)
            examples = stream.step(step, share)
            hook = _dropout(
                config.dropout, make_generator(config.seed, STEP, step, 2 + 2 * processes.rank, device=config.device)
            )
            with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                outputs = run.outputs(examples.context, examples.queries, examples.targets, hook)
            loss = _loss(net, config.objective, outputs, examples)
            optimizer.zero_grad()
            loss.backward()
            processes.average_gradients(model)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            _check_finite(step, folder, loss=loss.item(), gradient=norm.item())
            optimizer.step()
            seconds = processes.agree(time.perf_counter() - begin)
            state = State(step + 1, seconds, state.loss + loss.item(), state.losses + 1)
            share = _share(config, state)
            if share >= (len(run.history) + 1) / config.records or share >= 1:
                record = _record(run, held_out, state) | dict(watch(run) if watch else {})
                _check_finite(step, folder, **{"total variation": record["tv"]})
                run.history.append(record)
                state = State(state.step, state.seconds)
                bar.update(share - bar.n)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, regret {1000 * record['regret_bits']:.2f} mbit")
            if folder and processes.rank == 0 and (share >= 1 or state.seconds - saved > _SECONDS_BETWEEN_CHECKPOINTS):
                save_run(folder, run, optimizer, state)
                saved = state.seconds
    return run


def _optimizer(config: TrainingConfig, model: Transformer) -> torch.optim.Optimizer:
    betas = (0.9, config.beta_2)
    if config.optimizer == "soap":
        return SOAP(model.parameters(), config.lr, betas)
    return torch.optim.AdamW(model.parameters(), config.lr, betas, weight_decay=config.weight_decay, fused=True)


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


def _record(run: TrainedTransformer, held_out: _Examples, state: State) -> dict[str, float]:
    """A record of the history; see `TrainedTransformer`."""
    context, queries, targets, tables = held_out
    with torch.no_grad():
        outputs = run.outputs(context, queries, targets).flatten(0, 1)
    best_predictor = optimum(run.config.networks)
    n = queries.shape[1]
    repeated, asked = context.repeat_interleave(n, 0), queries.flatten(0, 1)
    regret, tv, floor = [], [], []
    for i, m in enumerate(targets):
        truth, predicted = conditional(run.net, tables, queries, m).flatten(0, 1), run.read(outputs[:, i].double(), m)
        best = best_predictor.predict_proba(repeated, asked, m) if best_predictor else torch.full_like(truth, torch.nan)
        regret.append(kl_bits(best, predicted))
        tv.append(total_variation(truth, predicted))
        floor.append(total_variation(truth, best))
    regret_bits, to_truth, of_best = (torch.stack(values).mean().item() for values in (regret, tv, floor))
    about = {"step": state.step, "seconds": state.seconds, "loss": state.loss / max(1, state.losses)}
    return {**about, "regret_bits": regret_bits, "tv": to_truth, "tv_floor": of_best}
