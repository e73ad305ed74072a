"""Priors over the rows of conditional probability tables, and the generators from which all chance comes.

A prior is a batch sampler: any number of independent rows at once, on the device of the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.networks.checks import check_number

Seed = int | torch.Generator


def make_generator(seed: Seed, *stream: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A random generator of its own for `seed` and, within it, for each `stream` of integers.

    Different streams of one seed are independent (NumPy's SeedSequence mixes them), so worker 1 of
    seed 0 never repeats worker 0 of seed 1. Stream 0 is that of the seed alone. A generator is handed back as it is.

    Raises ValueError for a seed that is negative or no integer.

    >>> torch.rand(2, generator=make_generator(0)).equal(torch.rand(2, generator=make_generator(0)))
    True
    """
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: expected a non-negative integer or a torch.Generator, got {seed!r}")
    mixed = np.random.SeedSequence([int(seed), *stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


@runtime_checkable
class Prior(Protocol):
    """A distribution over the rows of conditional probability tables."""

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        """Independent rows, float64 [*shape, card]; each sums to 1."""
        ...


ALPHA_RANGE = (1e-6, 1e6)  # of a Dirichlet prior: wide enough for any use, exact in float64 throughout


@dataclass(frozen=True)
class Dirichlet:
    """Rows from the symmetric Dirichlet(alpha, ..., alpha); for two states that is Beta(alpha, alpha).

    `Dirichlet(alpha=1)` is uniform on the simplex, hence U(0, 1) for two states.

    >>> Dirichlet(alpha=0.5).sample([2], 3, make_generator(0)).shape
    torch.Size([2, 3])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, *ALPHA_RANGE)

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        parameters = torch.full((*shape, card), self.alpha, dtype=torch.float64, device=generator.device)
        return draw_dirichlet(parameters, generator)


def draw_dirichlet(
    parameters: Float[Tensor, "*batch card"], generator: torch.Generator
) -> Float[Tensor, "*batch card"]:
    """One draw from each Dirichlet distribution, float64; parameters may differ and be small."""
    # Normalised gammas, by their logarithms: for small parameters the gammas themselves are zero in float64.
    # Gamma(a) is Gamma(a + 1) U^(1 / a). torch.distributions takes no generator; this is its kernel.
    log_gamma = torch._standard_gamma(parameters + 1, generator=generator).log_()
    u = torch.rand(parameters.shape, dtype=torch.float64, device=generator.device, generator=generator)
    return (log_gamma + torch.log1p(-u) / parameters).softmax(-1)


@dataclass(frozen=True)
class TwoBands:
    """The prior of the paper's first version, for two states: P(X = 0) ~ U(0.15, 0.30) or U(0.70, 0.85).

    Both bands are equally likely. Raises ValueError for any other number of states.
    """

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        if card != 2:
            raise ValueError(f"TwoBands: expected 2 states for every node, got {card}")
        u = torch.rand((2, *shape), dtype=torch.float64, device=generator.device, generator=generator)
        low = 0.15 + 0.15 * u[0]
        p = torch.where(u[1] < 0.5, low, 1 - low)
        return torch.stack([p, 1 - p], dim=-1)
