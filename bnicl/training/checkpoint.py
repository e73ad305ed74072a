"""The file that keeps a run: its weights and what it needs to resume, the optimiser's state and its progress."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.writing import whole_bytes
from bnicl.training.config import TrainingConfig
from bnicl.training.soap import FACTORS
from bnicl.training.trained import TrainedTransformer

_FORMAT = "bnicl training checkpoint 1"
CHECKPOINT, SUFFIX = "checkpoint.safetensors", ".safetensors"
WEIGHTS_FOLDER = Path(__file__).resolve().parents[2] / "results" / "weights"


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
    whole_bytes(
        out / CHECKPOINT, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, about)
    )


def _graph(net: BayesianNetwork) -> str:
    """The parts of a network that a file named in the config must still agree with."""
    return json.dumps([net.names, net.parents, net.cardinalities])


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A checkpoint's metadata and its tensors; a ValueError for a file that is not a checkpoint of this version."""
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


def save_weights(run: TrainedTransformer, path: str | os.PathLike[str]) -> None:
    """Writes a trained transformer to one safetensors file: its weights, configuration and last record."""
    from safetensors.torch import save

    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in run.model.state_dict().items()}
    about = {"format": _FORMAT, "config": run.config.model_dump_json(), "network": _graph(run.net),
             "history": json.dumps(run.history[-1:])}  # fmt: skip
    whole_bytes(Path(path), save(tensors, about))


def load_trained(source: str | os.PathLike[str]) -> TrainedTransformer:
    """A trained transformer, on the CPU.

    source: the name of one in results/weights ("general5"), a folder in which training left its checkpoint, or a
    safetensors file that `save_weights` wrote.

    Raises ValueError if there is none (with the names that exist), and for one of another version or of another
    network (its .bif file has changed since).
    """
    path = _found(source)
    about, tensors = _read(path)
    config = TrainingConfig.model_validate_json(about["config"])
    run = TrainedTransformer(config.build(), config, json.loads(about["history"]))
    _restore(path, run, about, tensors)
    return run


def _found(source: str | os.PathLike[str]) -> Path:
    """The file that `load_trained` reads."""
    given = Path(source)
    if given.is_dir() or (given / CHECKPOINT).is_file():
        if not (given / CHECKPOINT).is_file():
            raise ValueError(f"checkpoint: expected {CHECKPOINT} in {str(source)!r}, got none")
        return given / CHECKPOINT
    named = given if given.suffix == SUFFIX else WEIGHTS_FOLDER / f"{given}{SUFFIX}"
    if not named.is_file():
        known = ", ".join(sorted(path.stem for path in WEIGHTS_FOLDER.glob(f"*{SUFFIX}"))) or "none"
        raise ValueError(f"weights: expected a folder with {CHECKPOINT}, a {SUFFIX} file or a name of results/weights "
                         f"({known}), got {str(source)!r}")  # fmt: skip
    return named


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
            whole_bytes(written, json.dumps(here, indent=2).encode())
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
