"""Training: a transformer learns to predict from contexts alone, on networks of one graph with fresh tables.

A step draws networks, a context of N rows and a few queries from each, and moves the weights against the
gradient of the loss. `recipes` says what it depends on.
A context is a multiset of rows. With `multiset`, and where the network has at most twice as many joint states as
the context has rows, each state is read once, with its count. The numbers are the same (see `transformer`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.encoding import (
    Context,
    Query,
    blocks,
    check_context,
    check_query,
    context_columns,
    query_columns,
)
from bnicl.estimators import MaximumLikelihood, PosteriorMean, Probabilities
from bnicl.evaluation import kl_bits, total_variation
from bnicl.networks import BayesianNetwork, load_network, make_generator
from bnicl.recipes import HELD_OUT, POOL, STEP, Objective, TrainingConfig
from bnicl.sampling import Batch, conditional, ravel_states, sample_rows
from bnicl.transformer import Hook, InContextTransformer, Transformer

# --- the predictor --------------------------------------------------------------------------------


class TrainedTransformer(InContextTransformer):
    """A transformer with trained weights, as a predictor.

    config: what it was trained with. history: about `config.records` records, evenly spread over the run, the last at
    its end: the step, the seconds so far, the mean loss since the last record, and on 64 held-out networks with N
    rows (100, or what is nearest to that in training) the mean total variation to the truth, that of the posterior
    mean and the regret in bits (both NaN where the posterior mean has no closed form).
    """

    def __init__(self, model: Transformer, config: TrainingConfig, history: Sequence[Mapping[str, float]] = ()) -> None:
        net = load_network(config.graph)
        super().__init__(model, net.cardinalities, readout="softmax", encoding=config.encoding)
        self.net, self.config, self.history = net, config, [dict(record) for record in history]

    @property
    def device(self) -> torch.device:
        return self.model.W_E.device

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1."""
        check_context(context, self.cardinalities)
        check_query(context, query, target, self.cardinalities)
        known = query.clone()
        known[:, target:] = 0  # not read; any state will do
        step = max(1, 2**24 // context.shape[1] ** 2)
        with torch.no_grad():
            parts = [
                self.outputs(context[i : i + step].to(self.device), known[i : i + step, None].to(self.device), [target])
                for i in range(0, len(context), step)
            ]
        return self.read(torch.cat(parts)[:, 0, 0], target).to(context.device)

    def conditioned(self, context: Int64[Tensor, "n nodes"]) -> Callable[[Query, int], Probabilities]:
        """As for any transformer, on the device of the weights."""
        answer = super().conditioned(context.to(self.device))
        return lambda query, target: answer(query.to(self.device), target).to(context.device)

    def outputs(
        self,
        context: Context,
        queries: Int64[Tensor, "batch n_queries nodes"],
        targets: Sequence[int],
        hook: Hook | None = None,
    ) -> Float[Tensor, "batch n_queries targets S"]:
        """The read-out for each target of each query, the context being read once where the mask allows it."""
        cards, encoding = self.cardinalities, self.encoding
        asked = query_columns(queries, targets, cards, self.dtype, encoding).flatten(1, 2)
        rows, counts = _multiset(context, cards) if self._counted(context.shape[1]) else (context, None)
        columns = context_columns(rows, cards, self.dtype, encoding)
        if self.config.mask != "none":
            return self.model.answer(self.model.remember(columns, counts, hook), asked, hook).unflatten(
                1, (-1, len(targets))
            )
        batch, n, _ = asked.shape  # each query is a sequence of its own
        repeated = columns.expand(batch, -1, -1).repeat_interleave(n, 0)
        counts = None if counts is None else counts.repeat_interleave(n, 0)
        whole = self.model(torch.cat([repeated, asked.flatten(0, 1)[:, None]], dim=1), hook, counts)
        return whole[:, -1].unflatten(0, (batch, -1, len(targets)))

    def _counted(self, n: int) -> bool:
        """Whether a context of n rows is read as joint states with their counts."""
        ordered = self.config.mask == "causal" or self.config.positions
        return self.config.multiset and not ordered and math.prod(self.cardinalities) <= 2 * n


def _multiset(
    context: Context, cardinalities: Sequence[int]
) -> tuple[Int64[Tensor, "one states nodes"], Int64[Tensor, "batch states"]]:
    """Every joint state once, [1, prod(cards), M], and how often it stands in each context."""
    states = torch.cartesian_prod(*(torch.arange(card, device=context.device) for card in cardinalities))
    states = states.reshape(-1, len(cardinalities))
    index = ravel_states(context, range(len(cardinalities)), cardinalities)
    counts = torch.zeros(len(context), len(states), dtype=torch.int64, device=context.device)
    return states[None], counts.scatter_add_(1, index, torch.ones_like(index))


# --- one step -------------------------------------------------------------------------------------


class _Examples(NamedTuple):
    """What a step learns from: contexts, queries, the targets asked, and the networks' own tables."""

    context: Tensor
    queries: Tensor
    targets: list[int]
    cpts: Sequence[Tensor]


class _Stream:
    """The examples of each step; step i's are the same whatever was drawn before."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config, self.networks, self.net = config, config.networks, config.networks.net
        self.pool: tuple[Tensor, ...] | None = None
        if config.n_tables is not None:
            self.pool = self.networks.sample(config.n_tables, 1, self._generator(POOL)).cpts

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
        batch = self._draw(self._generator(STEP, step, 1), config.batch, n + config.n_queries)
        return _Examples(batch.rows[:, :n], batch.rows[:, n:], targets, batch.cpts)

    def _draw(self, generator: torch.Generator, batch: int, n: int) -> Batch:
        if self.pool is None:
            return self.networks.sample(batch, n, generator)
        chosen = torch.randint(len(self.pool[0]), (batch,), generator=generator, device=generator.device)
        cpts = tuple(table[chosen] for table in self.pool)
        return Batch(cpts, sample_rows(self.net, cpts, n, generator))

    def held_out(self) -> _Examples:
        n = min(max(100, self.config.min_context), self.config.max_context)
        batch = self.networks.sample(64, n + 1, self._generator(HELD_OUT))
        return _Examples(batch.rows[:, :n], batch.rows[:, n:], list(range(self.net.n_nodes)), batch.cpts)


def _loss(net: BayesianNetwork, objective: Objective, outputs: Tensor, examples: _Examples) -> Tensor:
    """The objective, averaged over contexts, queries and targets; a query without an MLE does not count."""
    context, queries, targets, cpts = examples
    most = max(net.cardinalities[m] for m in targets)
    own = [[*range(block.start, block.stop)] for block in (blocks(net.cardinalities)[m] for m in targets)]
    index = torch.tensor([[*units, *[-1] * (most - len(units))] for units in own], device=outputs.device)
    index = index.expand(*outputs.shape[:3], most)  # [batch, n_queries, targets, states], -1 beyond a target's own
    logits = outputs.float().gather(-1, index.clamp(min=0)).masked_fill(index < 0, -math.inf)
    log_p = logits.log_softmax(-1)
    if objective == "drawn":
        return -log_p.gather(-1, queries[..., targets, None]).mean()
    tables = MaximumLikelihood(net, "nan").fit(context) if objective == "mle" else cpts
    rows = [conditional(net, tables, queries, m).to(log_p.dtype) for m in targets]
    wanted = torch.stack([torch.nn.functional.pad(row, (0, most - row.shape[-1])) for row in rows], dim=2)
    if objective == "true":
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


# --- checkpoints ----------------------------------------------------------------------------------

_FORMAT = "bnicl training checkpoint 1"
CHECKPOINT = "checkpoint.safetensors"
_SECONDS_BETWEEN_CHECKPOINTS = 10.0


class _State(NamedTuple):
    """How far a run is: steps, seconds, and the sum and number of the losses since the last record."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    losses: int = 0


def _save(out: Path, run: TrainedTransformer, optimizer: torch.optim.Optimizer, state: _State) -> None:
    """Replaces the checkpoint in one move: a full disk or a lost process leaves the one before."""
    from safetensors.torch import save

    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for name, weight in run.model.named_parameters():
        tensors |= {f"optimizer.{key}.{name}": value for key, value in optimizer.state[weight].items()}
    about = {"format": _FORMAT, "config": run.config.model_dump_json(), "network": _graph(run.net),
             "history": json.dumps(run.history), "state": json.dumps(state)}  # fmt: skip
    _write(out / CHECKPOINT, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, about))


def _graph(net: BayesianNetwork) -> str:
    """What a file that the config names must still say."""
    return json.dumps([net.names, net.parents, net.cardinalities])


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a checkpoint says of itself, and its tensors; a ValueError for what is no checkpoint of this version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about, names = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"checkpoint: expected a safetensors file, got {path} ({error})") from error
    if about.get("format") != _FORMAT:
        raise ValueError(f"checkpoint: expected {_FORMAT!r} in {path}, got {about.get('format')!r}")
    return about, tensors


def load_trained(out: str | os.PathLike[str]) -> TrainedTransformer:
    """The transformer whose training left its checkpoint in the folder `out`, on the CPU.

    Raises ValueError where there is no checkpoint, or one of another version or of another network (its .bif file
    has changed since).
    """
    path = Path(out) / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"checkpoint: expected {CHECKPOINT} in {str(out)!r}, got none")
    about, tensors = _read(path)
    config = TrainingConfig.model_validate_json(about["config"])
    run = TrainedTransformer(config.build(), config, json.loads(about["history"]))
    _restore(path, run, about, tensors)
    return run


def _restore(path: Path, run: TrainedTransformer, about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    if about.get("network") != _graph(run.net):
        raise ValueError(
            f"checkpoint: expected the network {run.config.graph}, {_graph(run.net)}, got {about.get('network')} "
            f"in {path}"
        )
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    expected = {name: tuple(value.shape) for name, value in run.model.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in weights.items()}
    if got != expected:
        name = min(key for key in {*expected, *got} if expected.get(key) != got.get(key))
        raise ValueError(
            f"checkpoint: expected {name} of shape {expected.get(name)} for {run.config.graph}, got {got.get(name)} "
            f"in {path}"
        )
    run.model.load_state_dict(weights)


# --- the loop -------------------------------------------------------------------------------------


def train(
    config: TrainingConfig, out: str | os.PathLike[str] | None = None, progress: bool = True
) -> TrainedTransformer:
    """A transformer trained as `config` says.

    out: a folder for config.json and checkpoint.safetensors. A run that was killed goes on from its last
    checkpoint when it is called again, and one that has ended is read from there. progress: a bar with loss,
    regret (in thousandths of a bit) and the time left, on a terminal.

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
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, config.beta_2), weight_decay=config.weight_decay, fused=True
    )
    folder = None if out is None else Path(out)
    state = _State() if folder is None else _resume(folder, run, optimizer)
    stream, net = _Stream(config), run.net
    held_out = stream.held_out()
    begin, saved, share = time.perf_counter() - state.seconds, state.seconds, _share(config, state)

    bar = tqdm(total=1.0, initial=share, disable=None if progress else True,
               bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}", desc=f"training {config.graph}")  # fmt: skip
    with bar:
        while share < 1:
            step = state.step
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, step, share)
            examples = stream.step(step, share)
            hook = _dropout(config.dropout, make_generator(config.seed, STEP, step, 2, device=config.device))
            with torch.autocast(run.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                outputs = run.outputs(examples.context, examples.queries, examples.targets, hook)
            loss = _loss(net, config.objective, outputs, examples)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            _check_finite(step, folder, loss=loss.item(), gradient=norm.item())
            optimizer.step()
            state = _State(step + 1, time.perf_counter() - begin, state.loss + loss.item(), state.losses + 1)
            share = _share(config, state)
            if share >= (len(run.history) + 1) / config.records or share >= 1:
                record = _record(run, held_out, state)
                _check_finite(step, folder, **{"total variation": record["tv"]})
                run.history.append(record)
                state = _State(state.step, state.seconds)
                bar.update(share - bar.n)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, regret {1000 * record['regret_bits']:.2f} mbit")
            if folder and (share >= 1 or state.seconds - saved > _SECONDS_BETWEEN_CHECKPOINTS):
                _save(folder, run, optimizer, state)
                saved = state.seconds
    return run


def _check_finite(step: int, folder: Path | None, **measured: float) -> None:
    """Raises FloatingPointError for a number that is not finite."""
    for name, value in measured.items():
        if not math.isfinite(value):
            kept = folder is not None and (folder / CHECKPOINT).exists()
            hint = f"; {folder}/{CHECKPOINT} is the last good checkpoint" if kept else ""
            raise FloatingPointError(f"{name}: expected a finite number, got {value} in step {step}{hint}")


def _share(config: TrainingConfig, state: _State) -> float:
    """How much of the run is done."""
    done = state.seconds / config.seconds if config.seconds is not None else state.step / (config.steps or 1)
    return min(1.0, done)


def _learning_rate(config: TrainingConfig, step: int, share: float) -> float:
    cosine = config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * share)) / 2
    return cosine * min(1.0, (step + 1) / max(1, config.warmup))


def _record(run: TrainedTransformer, held_out: _Examples, state: _State) -> dict[str, float]:
    """A record of the history; see `TrainedTransformer`."""
    context, queries, targets, cpts = held_out
    with torch.no_grad():
        outputs = run.outputs(context, queries, targets).flatten(0, 1)
    fitted = PosteriorMean(run.net, run.config.alpha).fit(context) if run.config.prior == "dirichlet" else None
    regret, tv, floor = [], [], []
    for i, m in enumerate(targets):
        truth, predicted = conditional(run.net, cpts, queries, m).flatten(0, 1), run.read(outputs[:, i].double(), m)
        best = conditional(run.net, fitted, queries, m).flatten(0, 1) if fitted else torch.full_like(truth, torch.nan)
        regret.append(kl_bits(best, predicted))
        tv.append(total_variation(truth, predicted))
        floor.append(total_variation(truth, best))
    regret_bits, to_truth, of_best = (torch.stack(values).mean().item() for values in (regret, tv, floor))
    about = {"step": state.step, "seconds": state.seconds, "loss": state.loss / max(1, state.losses)}
    return {**about, "regret_bits": regret_bits, "tv": to_truth, "tv_floor": of_best}


def _resume(folder: Path, run: TrainedTransformer, optimizer: torch.optim.Optimizer) -> _State:
    """How far the run of this folder is; weights and the optimiser's state are read, if they are there."""
    path, written = folder / CHECKPOINT, folder / "config.json"
    here = json.loads(run.config.model_dump_json())
    if written.is_file() and (there := json.loads(written.read_text())) != here:
        name = next(key for key in {**here, **there} if there.get(key) != here.get(key))
        raise ValueError(
            f"out: expected a folder of this run, got {str(folder)!r} with a run whose {name} is {there.get(name)!r}, "
            f"not {here.get(name)!r}"
        )
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _write(written, json.dumps(here, indent=2).encode())
        return _State()
    about, tensors = _read(path)
    _restore(path, run, about, tensors)
    for name, weight in run.model.named_parameters():
        own = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if any(value is None for value in own.values()):
            raise ValueError(f"checkpoint: expected the optimiser's state of {name} in {path}, got none")
        optimizer.state[weight] = {key: value.to(run.device) for key, value in own.items() if value is not None}
    run.history = json.loads(about["history"])
    return _State(*json.loads(about["state"]))
