"""What training leaves: a transformer with trained weights as a predictor, and the file that keeps it.

A context is a multiset of rows. With `multiset` each is read once, with its count, and the numbers are the same (see
`transformer`): where rows attend to themselves alone, every joint state of the network, read once for all contexts,
if there are at most twice as many as rows; elsewhere the distinct rows of each context.
A checkpoint also holds what the run needs to go on: the optimiser's state and how far it is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.encoding import ABSENT, Context, Query, check_context, check_query, context_columns, query_columns
from bnicl.estimators import Probabilities
from bnicl.incontext import InContextTransformer
from bnicl.networks import BayesianNetwork
from bnicl.recipes import TrainingConfig
from bnicl.sampling import ravel_states
from bnicl.soap import FACTORS
from bnicl.transformer import Hook, Memory, Transformer


class TrainedTransformer(InContextTransformer):
    """A transformer with trained weights, as a predictor.

    config: what it was trained with. history: about `config.records` records, evenly spread over the run, the last at
    its end: the step, the seconds so far, the mean loss since the last record, and on 64 held-out networks with N
    rows (100, or what is nearest to that in training) the mean total variation to the truth, that of the posterior
    mean and the regret in bits (both NaN where the posterior mean has no closed form).
    """

    def __init__(self, model: Transformer, config: TrainingConfig, history: Sequence[Mapping[str, float]] = ()) -> None:
        net = config.networks.net
        super().__init__(model, net.cardinalities, readout="softmax", encoding=config.encoding)
        self.net, self.config, self.history = net, config, [dict(record) for record in history]

    @property
    def device(self) -> torch.device:
        return self.model.W_E.device

    def columns(self, context: Context, query: Query, target: int) -> Float[Tensor, "batch pos width"]:
        """The input matrix of `encode`, its context read for the target where the recipe says so."""
        columns = super().columns(context, query, target)
        if not self.config.per_target:
            return columns
        told = self._columns(context[..., : self.read_up_to(target)], target)
        return torch.cat([told, columns[:, -1:]], dim=1)

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1.

        Values may be ABSENT: of nodes that a smaller network does not have, for example.
        """
        check_context(context, self.cardinalities, absent=True)
        check_query(context, query, target, self.cardinalities, absent=True)
        return self.read(self._last_columns(context, query, [target])[:, 0], target)

    def predict_all(self, context: Context, query: Query) -> list[Probabilities]:
        """`predict_proba` for every target, the context being read once (or once for each, with `per_target`)."""
        check_context(context, self.cardinalities, absent=True)
        last = len(self.cardinalities) - 1
        check_query(context, query, last, self.cardinalities, absent=True)
        read_out = self._last_columns(context, query, range(last + 1))
        return [self.read(read_out[:, target], target) for target in range(last + 1)]

    def _last_columns(self, context: Context, query: Query, targets: Sequence[int]) -> Float[Tensor, "batch targets S"]:
        step = max(1, min(256, 2**24 // context.shape[1] ** 2))
        with torch.no_grad():
            parts = [
                self.outputs(context[i : i + step].to(self.device), query[i : i + step, None].to(self.device), targets)
                for i in range(0, len(context), step)
            ]
        return torch.cat(parts)[:, 0].to(context.device)

    def conditioned(self, context: Int64[Tensor, "n nodes"]) -> Callable[[Query, int], Probabilities]:
        """As for any transformer, on the device of the weights; the context is read once (for each target)."""
        rows = context.to(self.device)[None]

        @cache
        def memory(told: int | None) -> Memory:
            with torch.no_grad():
                return self.model.remember(*self._read(rows, told))

        def predict(query: Query, target: int) -> Probabilities:
            asked = query_columns(query.to(self.device), [target], self.cardinalities, self.dtype, self.encoding)
            with torch.no_grad():
                answer = self.model.answer(memory(target if self.config.per_target else None), asked[None, :, 0])
            return self.read(answer[0], target).to(context.device)

        return predict

    def outputs(
        self,
        context: Context,
        queries: Int64[Tensor, "batch n_queries nodes"],
        targets: Sequence[int],
        hook: Hook | None = None,
    ) -> Float[Tensor, "batch n_queries targets S"]:
        """The read-out for each target of each query; queries share a reading where the mask allows it."""
        if self.config.per_target:
            return torch.cat([self._answers(context, queries, [target], target, hook) for target in targets], dim=2)
        return self._answers(context, queries, targets, None, hook)

    def _answers(
        self, context: Context, queries: Tensor, targets: Sequence[int], told: int | None, hook: Hook | None
    ) -> Float[Tensor, "batch n_queries targets S"]:
        """The read-out for each target, after a reading of the context for the target `told`, or for all (None)."""
        asked = query_columns(queries, targets, self.cardinalities, self.dtype, self.encoding).flatten(1, 2)
        columns, counts = self._read(context, told)
        if self.config.mask != "none":
            memory = self.model.remember(columns, counts, hook)
            return self.model.answer(memory, asked, hook).unflatten(1, (-1, len(targets)))
        batch, n, _ = asked.shape  # each query is a sequence of its own
        repeated = columns.expand(batch, -1, -1).repeat_interleave(n, 0)
        counts = None if counts is None else counts.repeat_interleave(n, 0)
        whole = self.model(torch.cat([repeated, asked.flatten(0, 1)[:, None]], dim=1), hook, counts)
        return whole[:, -1].unflatten(0, (batch, -1, len(targets)))

    def read_up_to(self, target: int) -> int:
        """How many of the first columns of the context are read for the target: all, or none that follow it.

        Where every graph keeps to the order of the columns and nodes get their parents independently, what follows a
        target says nothing about it. It says next to nothing where random graphs draw the probability of their edges
        from a range, and is not read there either. Of several given graphs it says which it is, of permuted columns in
        which order they are: then all are read, as always without `per_target`.
        """
        config = self.config
        follows = config.per_target and not config.shuffled and len(config.sources) == 1
        return target + 1 if follows else len(self.cardinalities)

    def _read(
        self, context: Context, told: int | None
    ) -> tuple[Float[Tensor, "any rows width"], Int64[Tensor, "batch rows"] | None]:
        """The columns to be read, for all contexts or for each, and how often each of them stands in each context."""
        first = len(self.cardinalities) if told is None else self.read_up_to(told)
        rows, counts = self._read_once(context[..., :first], self.cardinalities[:first])
        return self._columns(rows, told), counts

    def _columns(self, first: Context, told: int | None) -> Float[Tensor, "any rows width"]:
        """The columns of rows of the first nodes, with the flag of the target that they are read for."""
        rows = torch.nn.functional.pad(first, (0, len(self.cardinalities) - first.shape[-1]), value=ABSENT)
        columns = context_columns(rows, self.cardinalities, self.dtype, self.encoding)
        if told is not None:
            columns[..., sum(self.cardinalities) + told] = 1
        return columns

    def _read_once(
        self, context: Context, cards: Sequence[int]
    ) -> tuple[Int64[Tensor, "any rows nodes"], Int64[Tensor, "batch rows"] | None]:
        """The rows to be read, for all contexts or for each, and how often each of them stands in each context."""
        states, mask = math.prod(cards), self.config.mask
        ordered = mask == "causal" or self.config.positions
        most = 2 * context.shape[1] if mask == "rows" else _MOST_STATES
        if not self.config.multiset or ordered or states > most or bool((context == ABSENT).any()):
            return context, None
        every, counts = _multiset(context, cards)
        if mask == "rows":
            return every, counts
        counts, index = counts.topk(int((counts > 0).sum(1).max()))
        return every[0][index], counts


_MOST_STATES = 2**12  # counting the rows of more joint states would take longer than reading them twice


def _multiset(
    context: Context, cardinalities: Sequence[int]
) -> tuple[Int64[Tensor, "one states nodes"], Int64[Tensor, "batch states"]]:
    """Every joint state once, [1, prod(cards), M], and how often it stands in each context."""
    states = torch.cartesian_prod(*(torch.arange(card, device=context.device) for card in cardinalities))
    states = states.reshape(-1, len(cardinalities))
    index = ravel_states(context, range(len(cardinalities)), cardinalities)
    counts = torch.zeros(len(context), len(states), dtype=torch.int64, device=context.device)
    return states[None], counts.scatter_add_(1, index, torch.ones_like(index))


# --- checkpoints ----------------------------------------------------------------------------------

_FORMAT = "bnicl training checkpoint 1"
CHECKPOINT = "checkpoint.safetensors"


class State(NamedTuple):
    """How far a run is: steps, seconds, and the sum and number of the losses since the last record."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    losses: int = 0


def save_run(out: Path, run: TrainedTransformer, optimizer: torch.optim.Optimizer, state: State) -> None:
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


def resume_run(folder: Path, run: TrainedTransformer, optimizer: torch.optim.Optimizer) -> State:
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
        if not written.is_file():
            _write(written, json.dumps(here, indent=2).encode())
        return State()
    about, tensors = _read(path)
    _restore(path, run, about, tensors)
    for name, weight in run.model.named_parameters():
        factors = FACTORS if run.config.optimizer == "soap" and weight.ndim > 1 else ()
        keys = ("step", "exp_avg", "exp_avg_sq", *factors)
        own = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
        if any(value is None for value in own.values()):
            raise ValueError(f"checkpoint: expected the optimiser's state of {name} in {path}, got none")
        optimizer.state[weight] = {key: value.to(run.device) for key, value in own.items() if value is not None}
    run.history = json.loads(about["history"])
    return State(*json.loads(about["state"]))
