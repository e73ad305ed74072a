"""One step of training: its examples, and their loss.

A step draws networks, a context of N rows and a few queries from each. The loss compares the read-outs with what the
objective takes for right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.counting import MaximumLikelihood, Reading
from bnicl.estimators.graphs import GivenGraphs
from bnicl.estimators.priors import Networks, Pool
from bnicl.networks.checks import Context
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.sampling import Batch, rows_of, with_noise
from bnicl.networks.tables import make_generator
from bnicl.training.config import DISTANCES, HELD_OUT, NOISE, POOL, STEP, Objective, TrainingConfig
from bnicl.transformer.encoding import blocks
from bnicl.transformer.model import Hook


class Examples(NamedTuple):
    """What a step learns from: contexts, queries, the targets asked, and the right answers, as tables or a function."""

    context: Context
    queries: Context
    targets: list[int]
    tables: Sequence[Tensor] | Reading

    def right(self, net: BayesianNetwork, target: int) -> Float[Tensor, "batch n_queries card"]:
        """The probabilities that are right for each query."""
        if callable(self.tables):
            return self.tables(self.queries, target)
        return rows_of(self.tables[target], self.queries, net.parents[target], net.cardinalities)

    def wanted(self, net: BayesianNetwork, objective: Objective) -> Float[Tensor, "batch n_queries targets states"]:
        """What the loss compares the answers with: the drawn values, or what is right; 0 beyond a target's states."""
        most = max(net.cardinalities[m] for m in self.targets)
        if objective == "drawn":
            return torch.nn.functional.one_hot(self.queries[..., self.targets], most).float()
        right = [self.right(net, m).float() for m in self.targets]
        return torch.stack([torch.nn.functional.pad(p, (0, most - p.shape[-1])) for p in right], dim=2)


def networks_of(config: TrainingConfig) -> Networks:
    """What training draws from: the prior, or with `n_tables` a pool of networks from it."""
    if config.n_tables is None:
        return config.networks
    return Pool(config.networks, config.n_tables, make_generator(config.seed, POOL))


class Stream:
    """The examples of each step; step i's are the same whatever was drawn before, and differ between processes.

    They are drawn on the CPU, the same for a transformer on any device.
    """

    def __init__(self, config: TrainingConfig, process: int = 0) -> None:
        self.config, self.process = config, process
        self.networks, self.net, self.drawn_from = config.networks, config.networks.net, networks_of(config)
        self.optimum = config.networks.optimum() if config.objective == "optimum" else None
        self._last: tuple[tuple[int, float], Examples] | None = None  # drawn for these; a batch may be used again

    def _generator(self, *stream: int) -> torch.Generator:
        return make_generator(self.config.seed, *stream)

    def step(self, step: int, progress: float) -> Examples:
        config, m = self.config, self.net.n_nodes
        step -= step % config.repeats
        askable = min(m, 1 + int(2 * progress * m)) if config.curriculum else m
        if self._last is not None and self._last[0] == (step, askable):
            return self._last[1]
        shared = make_generator(config.seed, STEP, step)
        low, high = math.log(config.min_context), math.log(config.max_context)
        u = float(torch.rand((), dtype=torch.float64, generator=shared))
        n = round(math.exp(low + (high - low) * u**config.short_contexts))
        if config.even_contexts:
            n = config.min_context + int(u * (config.max_context - config.min_context + 1))
        targets = [int(torch.randint(askable, (), generator=shared))] if config.one_target else list(range(askable))
        generator = self._generator(STEP, step, 1 + 2 * self.process)
        batch = self.drawn_from.sample(config.batch, n + config.n_queries, generator)
        context = batch.rows[:, :n]
        if config.noise:
            cards = self.net.cardinalities
            context = with_noise(context, cards, config.noise, self._generator(STEP, step, 2 + 2 * self.process, NOISE))
        examples = Examples(context, batch.rows[:, n:], targets, self._right(batch, context))
        self._last = (step, askable), examples
        return examples

    def _right(self, batch: Batch, context: Tensor) -> Sequence[Tensor] | Reading:
        """The tables that the objective counts as right, or the MLE given each network's graph."""
        if self.config.objective in DISTANCES:
            if batch.adjacency is not None:
                cards = self.net.cardinalities
                return GivenGraphs(batch.adjacency, cards, unmatched=self.config.unmatched).given(context)
            return MaximumLikelihood(self.net, self.config.unmatched).fit(context)
        return batch.cpts if self.optimum is None else self.optimum.fit(context)

    def held_out(self) -> Examples:
        n = min(max(100, self.config.min_context), self.config.max_context)
        batch = self.networks.sample(64, n + 1, self._generator(HELD_OUT))
        return Examples(batch.rows[:, :n], batch.rows[:, n:], list(range(self.net.n_nodes)), batch.cpts)


def loss_of(
    net: BayesianNetwork,
    objective: Objective,
    outputs: Float[Tensor, "batch n_queries targets S"],
    targets: Sequence[int],
    wanted: Float[Tensor, "batch n_queries targets states"],
) -> Float[Tensor, ""]:
    """The objective, averaged over contexts, queries and targets; a query without an MLE (NaN) does not count."""
    units = _units(net.cardinalities, tuple(targets), outputs.device)
    index = units.expand(*outputs.shape[:3], -1)  # [batch, n_queries, targets, states], -1 beyond a target's own
    logits = outputs.float().gather(-1, index.clamp(min=0)).masked_fill(index < 0, -math.inf)
    log_p = logits.log_softmax(-1)
    if objective not in DISTANCES:
        return -(wanted * log_p.masked_fill(index < 0, 0.0)).sum(-1).mean()
    counts = ~wanted.isnan().any(-1)
    apart = log_p.exp() - wanted.nan_to_num()
    distance = (apart.square() if objective == "mse" else apart.abs()).sum(-1) * DISTANCES[objective]
    return torch.where(counts, distance, 0.0).sum() / counts.sum().clamp(min=1)


@lru_cache
def _units(cardinalities: tuple[int, ...], targets: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each target's states lie in the read-out, [targets, states]; -1 beyond its own."""
    own = [[*range(block.start, block.stop)] for block in (blocks(cardinalities)[m] for m in targets)]
    most = max(map(len, own))
    return torch.tensor([[*units, *[-1] * (most - len(units))] for units in own], device=device)


def dropout(config: TrainingConfig, generator: torch.Generator) -> Hook | None:
    """Zeroes a share of what attention and feed-forward networks write, and scales up the rest.

    With `drop_everywhere`, also a share of the embedding and of the attention weights.
    """
    share = config.dropout
    if share == 0:
        return None
    writes = ("hook_attn_out", "hook_mlp_out")
    sites = (*writes, "attn.hook_pattern", "blocks.0.hook_resid_pre") if config.drop_everywhere else writes

    def drop(name: str, activation: Tensor) -> Tensor:
        if not name.endswith(sites):
            return activation
        kept = torch.rand(activation.shape, generator=generator, device=activation.device) >= share
        return activation * kept / (1 - share)

    return drop
