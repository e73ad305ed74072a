"""One update of the weights: read-outs, loss, gradient, its norm clipped, and a step of the optimiser.

On a GPU an update with AdamW is recorded once for each shape of its inputs, as a CUDA graph, and replayed from then on.
The numbers are those of the same kernels launched one by one; but a small transformer has hundreds of them, of some
microseconds each, and launching them takes many times as long as they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bnicl.networks.tables import mixed
from bnicl.training.config import STEP, TrainingConfig
from bnicl.training.processes import Processes
from bnicl.training.soap import SOAP
from bnicl.training.steps import Examples, dropout, loss_of
from bnicl.training.trained import Pass, TrainedTransformer
from bnicl.transformer.model import Transformer


def optimizer_of(config: TrainingConfig, model: Transformer) -> torch.optim.Optimizer:
    """The optimiser that the configuration names."""
    betas = (0.9, config.beta_2)
    if config.optimizer == "soap":
        return SOAP(model.parameters(), config.lr, betas)
    on_gpu = model.W_E.is_cuda
    lr = torch.tensor(config.lr, device=model.W_E.device) if on_gpu else config.lr  # a replay reads it where it lies
    return torch.optim.AdamW(
        model.parameters(), lr, betas, weight_decay=config.weight_decay, fused=True, capturable=on_gpu
    )


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    passes: list[Pass]
    wanted: Tensor


class Update:
    """Takes one step of the optimiser at each call.

    total: the sum of the losses since it was set to zero, float64. norm: of the last gradient, before it was clipped.
    recorded: whether updates are replayed; there is then no need to wait for the GPU in each step.
    """

    def __init__(self, run: TrainedTransformer, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
        config, device = run.config, run.device
        self.run, self.optimizer, self.processes = run, optimizer, processes
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.norm = torch.zeros((), device=device)
        self.recorded = device.type == "cuda" and config.optimizer == "adamw" and processes.size == 1
        self._generator = torch.Generator(device)
        self._hook = dropout(config, self._generator)
        self._examples: Examples | None = None
        self._recordings: dict[object, _Recording | None] = {}
        self._stream = torch.cuda.Stream(device) if self.recorded else None

    def __call__(self, step: int, lr: float, examples: Examples) -> None:
        config = self.run.config
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._generator.manual_seed(mixed(config.seed, STEP, step, 2 + 2 * self.processes.rank))
        if examples is not self._examples:  # the same batch may be used again
            self._examples = examples
            self._passes = self.run.passes(*examples[:3])
            self._wanted = self.run.here(examples.wanted(self.run.net, config.objective))
        if self.recorded:
            self._replay(examples.targets)
        else:
            self._take(examples.targets, self._passes, self._wanted)

    def _take(self, targets: Sequence[int], passes: Sequence[Pass], wanted: Tensor) -> None:
        """The update itself."""
        config, model = self.run.config, self.run.model
        precise = config.precision == "float32"
        with torch.autocast(self.total.device.type, torch.bfloat16, not precise, cache_enabled=not self.recorded):
            outputs = self.run.read_outs(passes, self._hook)
        loss = loss_of(self.run.net, config.objective, outputs, targets, wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.processes.average_gradients(model)
        self.norm.copy_(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip))
        self.total += loss.detach()
        self.optimizer.step()

    def _replay(self, targets: Sequence[int]) -> None:
        """The update by the recording for these shapes: the first of a shape is taken as it is, the second recorded."""
        passes, wanted = self._passes, self._wanted
        tensors = [tensor for read in passes for tensor in read if tensor is not None]
        key = (tuple(targets), wanted.shape, *(tensor.shape for tensor in tensors))
        if key not in self._recordings:
            assert self._stream is not None
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._take(targets, passes, wanted)
            torch.cuda.current_stream().wait_stream(self._stream)
            self._recordings[key] = None
            return
        recording = self._recordings[key]
        if recording is None:
            recording = self._recordings[key] = self._record(targets)
        else:
            own = [tensor for read in recording.passes for tensor in read if tensor is not None]
            for held, given in zip((*own, recording.wanted), (*tensors, wanted), strict=True):
                held.copy_(given)
        recording.graph.replay()

    def _record(self, targets: Sequence[int]) -> _Recording:
        passes = [
            Pass(columns.clone(), None if counts is None else counts.clone(), asked.clone())
            for columns, counts, asked in self._passes
        ]
        recording = _Recording(torch.cuda.CUDAGraph(), passes, self._wanted.clone())
        if self._hook is not None:
            recording.graph.register_generator_state(self._generator)
        with torch.cuda.graph(recording.graph, stream=self._stream):
            self._take(targets, recording.passes, recording.wanted)
        return recording
