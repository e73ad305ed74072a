"""Priors over the rows of conditional probability tables, and the generators from which all chance comes.

A prior is a batch sampler: any number of independent rows at once, on the device of the generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from bnicl.networks.checks import check_number

Seed = int | torch.Generator


def make_generator(seed: Seed, *stream: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A separate random generator for each `seed` and, within it, for each `stream` of integers.

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
    return torch.Generator(device).manual_seed(mixed(seed, *stream))


def mixed(seed: int | np.integer, *stream: int) -> int:
    """The seed of PyTorch's generator for a stream of a seed, below 2^64."""
    return int(np.random.SeedSequence([int(seed), *stream]).generate_state(1, np.uint64)[0])


@runtime_checkable
class Prior(Protocol):
    """A distribution over the rows of conditional probability tables, which knows what counts tell about a row."""

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        """Independent rows, float64 [*shape, card]; each sums to 1."""
        ...

    def mean(self, counts: Num[Tensor, "*rows card"]) -> Float[Tensor, "*rows card"]:
        """The mean of a row given how often each of its states was seen, float64."""
        ...

    def log_evidence(self, counts: Num[Tensor, "*rows card"]) -> Float[Tensor, "*rows"]:
        """The log of the probability of seeing states, in one order, as often as `counts` says; float64."""
        ...


def rows_prior(alpha: float, prior: Prior | None) -> Prior:
    """The prior of the rows: `prior` if it is given, else Dirichlet(alpha)."""
    if prior is not None and not isinstance(prior, Prior):
        raise ValueError(f"prior: expected a prior such as Dirichlet(alpha=0.5), got {prior!r}")
    return Dirichlet(alpha) if prior is None else prior


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

    def mean(self, counts: Num[Tensor, "*rows card"]) -> Float[Tensor, "*rows card"]:
        """(n_k + alpha) / (n + d alpha)."""
        smoothed = counts.double() + self.alpha
        return smoothed / smoothed.sum(-1, keepdim=True)

    def log_evidence(self, counts: Int64[Tensor, "*rows card"]) -> Float[Tensor, "*rows"]:
        """log B(n + alpha) / B(alpha), B the multivariate beta function."""
        d, totals = counts.shape[-1], counts.sum(-1)
        # Small integers: two short tables hold log Gamma(n + a) - log Gamma(a), as sums, which lose no digits.
        steps = torch.arange(int(totals.amax()), dtype=torch.float64, device=counts.device)
        rising, falling = (
            torch.cat([steps.new_zeros(1), (steps + a).log().cumsum(0)]) for a in (self.alpha, d * self.alpha)
        )
        return rising[counts].sum(-1) - falling[totals]


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
class Bands:
    """Rows of two states with P(X = 0) uniform on a union of intervals, such as the paper's ((0.1, 0.9),).

    The posterior after n_0 and n_1 is a beta distribution cut off outside the bands, and its mean a ratio of incomplete
    beta functions B(x; a, b) = integral_0^x t^(a - 1) (1 - t)^(b - 1) dt::

        E[P(X = 0)] = sum_j [B(.; n_0 + 2, n_1 + 1)]_{l_j}^{u_j} / sum_j [B(.; n_0 + 1, n_1 + 1)]_{l_j}^{u_j}

    for the bands [l_j, u_j]. Differences of B vanish in float64 where rows are many, so the integrals are taken by
    quadrature around each band's highest point, to ten digits for any number of rows.

    >>> Bands().mean(torch.tensor([[7.0, 3.0]]))
    tensor([[0.6618, 0.3382]], dtype=torch.float64)
    """

    bands: tuple[tuple[float, float], ...] = ((0.1, 0.9),)

    def __post_init__(self) -> None:
        edges = [edge for band in self.bands for edge in band]
        if not edges or len(edges) != 2 * len(self.bands) or edges != sorted({*edges}) or edges[0] < 0 or edges[-1] > 1:
            raise ValueError(f"bands: expected intervals apart from one another in [0, 1], ascending, got {self.bands}")

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        check_two_states(card)
        low, high = torch.tensor(self.bands, dtype=torch.float64, device=generator.device).unbind(1)
        u = torch.rand(tuple(shape), dtype=torch.float64, device=generator.device, generator=generator)
        past = (high - low).cumsum(0)  # how much of the union lies in the bands so far
        at = u * past[-1]
        band = torch.searchsorted(past, at).clamp(max=len(past) - 1)
        p = high[band] - (past[band] - at)
        return torch.stack([p, 1 - p], dim=-1)

    def mean(self, counts: Num[Tensor, "*rows 2"]) -> Float[Tensor, "*rows 2"]:
        p = self._posterior(counts)[0]
        return torch.stack([p, 1 - p], dim=-1)

    def log_evidence(self, counts: Num[Tensor, "*rows 2"]) -> Float[Tensor, "*rows"]:
        return self._posterior(counts)[1]

    def _posterior(self, counts: Num[Tensor, "*rows 2"]) -> tuple[Tensor, Tensor]:
        """The mean of P(X = 0) and the log evidence, [*rows] both."""
        check_two_states(counts.shape[-1])
        whole, largest = counts.long(), int(counts.sum(-1).amax()) if counts.numel() else 0
        if largest > _TABULATED or not torch.equal(whole.to(counts.dtype), counts):
            return _within(self.bands, counts.double())
        table = _tabulated(self.bands, 1 << (largest - 1).bit_length(), counts.device)
        mean, log_evidence = table[:, whole[..., 0], whole[..., 1]]
        return mean, log_evidence


class TwoBands(Bands):
    """The prior of the paper's first version: P(X = 0) in 0.15 to 0.30 or 0.70 to 0.85."""

    def __init__(self) -> None:
        super().__init__(((0.15, 0.30), (0.70, 0.85)))

    def sample(self, shape: Sequence[int], card: int, generator: torch.Generator) -> Float[Tensor, "*shape card"]:
        check_two_states(card)
        u = torch.rand((2, *shape), dtype=torch.float64, device=generator.device, generator=generator)
        low = 0.15 + 0.15 * u[0]
        p = torch.where(u[1] < 0.5, low, 1 - low)  # the bands mirror one another
        return torch.stack([p, 1 - p], dim=-1)


def check_two_states(card: int) -> None:
    if card != 2:
        raise ValueError(f"Bands: expected 2 states for every node, got {card}")


_TABULATED = 1024  # rows: up to them the answers to all pairs of counts are integrated once, in seconds


@lru_cache
def _tabulated(bands: tuple[tuple[float, float], ...], largest: int, device: torch.device) -> Float[Tensor, "2 n n"]:
    """`_within` of every pair of counts with at most `largest` rows; NaN beyond."""
    table = torch.full((2, largest + 1, largest + 1), math.nan, dtype=torch.float64, device=device)
    for zeros in range(largest + 1):
        ones = torch.arange(largest + 1.0 - zeros, dtype=torch.float64, device=device)
        pairs = torch.stack([torch.full_like(ones, zeros), ones], dim=-1)
        table[:, zeros, : len(ones)] = torch.stack(_within(bands, pairs))
    return table


_POINTS, _WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(64))
_NOTHING = 40.0  # e^-40 of the highest point is nothing in float64


def _within(bands: Sequence[tuple[float, float]], n: Float[Tensor, "*rows 2"]) -> tuple[Tensor, Tensor]:
    """Mean of p and log evidence, p uniform on the bands a priori: integrals over where the density is not nothing."""
    edges = torch.tensor(bands, dtype=torch.float64, device=n.device)
    low, high = edges.t().reshape(2, -1, *(1,) * n.ndim)  # [bands, ..., 1]; the last axis is that of the points
    zeros, ones = n.split(1, dim=-1)
    total = zeros + ones

    peak = ((zeros + 1e-9) / (total + 2e-9)).clamp(low, high)
    highest = torch.xlogy(zeros, peak) + torch.xlogy(ones, 1 - peak)
    # It falls at least as the exponent of Bernstein's inequality, n t^2 / 2 (v + 4 t / 3) at the distance t from the
    # peak, v = peak (1 - peak); and, being log-concave, at least by its slope there, where the peak is a band's edge.
    linear = _NOTHING * 4 / 3
    by_variance = (linear + (linear**2 + 2 * _NOTHING * total * peak * (1 - peak)).sqrt()) / total
    slope = zeros / peak.clamp(min=1e-300) - ones / (1 - peak).clamp(min=1e-300)
    reach = torch.minimum(by_variance, _NOTHING / slope.abs())
    start, stop = torch.maximum(low, peak - reach), torch.minimum(high, peak + reach)
    half = (stop - start) / 2
    p = start + half * (1 + _POINTS.to(n.device))
    density = _WEIGHTS.to(n.device) * (zeros * p.log() + ones * torch.log1p(-p) - highest).exp()
    mass = density.sum(-1)
    log_mass = (highest + half.log())[..., 0] + mass.log()
    mean = (log_mass.softmax(0) * (density * p).sum(-1) / mass).sum(0)
    return mean, log_mass.logsumexp(0) - (high - low).sum().log()
