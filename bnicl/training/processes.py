"""Several processes that train one transformer together, for example one per GPU (torch.distributed, torchrun)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bnicl.transformer.model import Transformer


class Processes:
    """Those that train together under torch.distributed; without it, this one alone."""

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
