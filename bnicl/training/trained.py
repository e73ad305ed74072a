"""What training leaves: a transformer with trained weights, as a predictor.

A context is a multiset of rows. With `multiset` each is read once, with its count, and the numbers are the same (see
`transformer`): where rows attend to themselves alone, every joint state of the network, read once for all contexts,
if there are few, or at most twice as many as rows; elsewhere the distinct rows of each context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.networks.checks import ABSENT, Context, Query
from bnicl.networks.states import every_state, ravel_states
from bnicl.training.config import TrainingConfig
from bnicl.transformer.encoding import context_columns, query_columns
from bnicl.transformer.model import Hook, KVCache, Transformer
from bnicl.transformer.predictor import Decoder, InContextTransformer


class Pass(NamedTuple):
    """One pass of the transformer: the context's columns, how often each stands there (None: once), the queries'."""

    columns: Float[Tensor, "any rows width"]
    counts: Int64[Tensor, "batch rows"] | None
    asked: Float[Tensor, "batch n_queries targets width"]


class TrainedTransformer(InContextTransformer):
    """A transformer with trained weights, as a predictor.

    config: what it was trained with. history: about `config.records` records, evenly spread over the run, the last at
    its end: the step, the seconds so far, the mean loss since the last record, and on 64 held-out networks with N
    rows (100, or what is nearest to that in training) the mean total variation to the truth, that of the optimum
    and the regret in bits (both NaN where the optimum has no closed form).
    Values may be ABSENT: of nodes that a smaller network does not have, for example.
    """

    gaps = True

    def __init__(self, model: Transformer, config: TrainingConfig, history: Sequence[Mapping[str, float]] = ()) -> None:
        net = config.networks.net
        super().__init__(model, net.cardinalities, readout="softmax", encoding=config.encoding)
        self.net, self.config, self.history = net, config, [dict(record) for record in history]

    def columns(self, context: Context, query: Query, target: int) -> Float[Tensor, "batch pos width"]:
        """The input matrix of `encode`, its context read for the target where the recipe says so."""
        columns = super().columns(context, query, target)
        if not self.config.per_target:
            return columns
        read = self._columns(context[..., : self.read_up_to(target)], target)
        return torch.cat([read, columns[:, -1:]], dim=1)

    def _prefilled(self, context: Context) -> Decoder:
        rows = context.to(self.device)

        @cache
        def prefilled(read_for: int | None) -> KVCache:
            return self.model.prefill(*self._rows_to_read(rows, read_for))

        def decode(queries: Tensor, target: int) -> Tensor:
            asked = queries.to(self.device)
            if self.config.mask == "none":
                out = self.outputs(rows, asked, [target])[:, :, 0]
            else:
                kv = prefilled(target if self.config.per_target else None)
                out = self.model.decode(kv, self._asked(asked, target))
            return out.to(context.device)

        return decode

    def outputs(
        self,
        context: Context,
        queries: Int64[Tensor, "batch n_queries nodes"],
        targets: Sequence[int],
        hook: Hook | None = None,
    ) -> Float[Tensor, "batch n_queries targets S"]:
        """The read-out for each target of each query; queries share a reading where the mask allows it."""
        return self.read_outs(self.passes(context, queries, targets), hook)

    def passes(
        self, context: Context, queries: Int64[Tensor, "batch n_queries nodes"], targets: Sequence[int]
    ) -> list[Pass]:
        """What the transformer reads for the targets: one pass for all of them, or each its own with `per_target`."""
        if self.config.per_target:
            return [self._pass(context, queries, [target], target) for target in targets]
        return [self._pass(context, queries, targets, None)]

    def _pass(self, context: Context, queries: Tensor, targets: Sequence[int], read_for: int | None) -> Pass:
        asked = query_columns(queries, targets, self.cardinalities, self.dtype, self.encoding)
        columns, counts = self._rows_to_read(context, read_for)
        return Pass(self.here(columns), None if counts is None else self.here(counts), self.here(asked))

    def here(self, given: Tensor) -> Tensor:
        """On the transformer's device; a GPU fetches it while the CPU goes on."""
        if given.device == self.device:
            return given
        return (given.pin_memory() if self.device.type == "cuda" else given).to(self.device, non_blocking=True)

    def read_outs(self, passes: Sequence[Pass], hook: Hook | None = None) -> Float[Tensor, "batch n_queries targets S"]:
        """The read-out for each target of each query, by passes over what `passes` says."""
        return torch.cat([self._read_out(*read, hook) for read in passes], dim=2)

    def _read_out(self, columns: Tensor, counts: Tensor | None, asked: Tensor, hook: Hook | None) -> Tensor:
        if self.config.mask != "none":
            kv = self.model.prefill(columns, counts, hook)
            return self.model.decode(kv, asked.flatten(1, 2), hook).unflatten(1, asked.shape[1:3])
        each = asked.flatten(0, 2)[:, None]  # each query is a sequence of its own
        n = len(each) // len(asked)
        repeated = columns.expand(len(asked), -1, -1).repeat_interleave(n, 0)
        counts = None if counts is None else counts.repeat_interleave(n, 0)
        whole = torch.cat([repeated, each], dim=1)
        # the same numbers up to rounding; the second made the tables of transformers that do not read per target
        last = self.model.answer if self.config.per_target else lambda *given: self.model(*given)[:, -1]
        return last(whole, hook, counts).unflatten(0, asked.shape[:3])

    def read_up_to(self, target: int) -> int:
        """How many of the first columns of the context are read for the target: all, or none that follow it.

        Where every graph keeps to the order of the columns and nodes get their parents independently, what follows a
        target says nothing about it. It says next to nothing where random graphs draw the probability of their edges
        from a range, and is not read there either. It does say which of several given graphs applies, and in
        which order permuted columns are: then all are read, as always without `per_target`. The paper's raw rows never
        show it.
        """
        config = self.config
        silent = config.encoding == "raw" or (not config.shuffled and len(config.sources) == 1)
        return target + 1 if config.per_target and silent else len(self.cardinalities)

    def _rows_to_read(
        self, context: Context, read_for: int | None
    ) -> tuple[Float[Tensor, "any rows width"], Int64[Tensor, "batch rows"] | None]:
        """The columns to be read, for all contexts or for each, and how often each of them stands in each context."""
        first = len(self.cardinalities) if read_for is None else self.read_up_to(read_for)
        rows, counts = self._read_once(context[..., :first], self.cardinalities[:first])
        return self._columns(rows, read_for), counts

    def _columns(self, first: Context, read_for: int | None) -> Float[Tensor, "any rows width"]:
        """The columns of rows of the first nodes, with the flag of the target that they are read for."""
        rows = torch.nn.functional.pad(first, (0, len(self.cardinalities) - first.shape[-1]), value=ABSENT)
        columns = context_columns(rows, self.cardinalities, self.dtype, self.encoding)
        if read_for is not None:
            if self.encoding == "raw":
                columns[..., -1] = read_for
            else:
                columns[..., sum(self.cardinalities) + read_for] = 1
        return columns

    def _read_once(
        self, context: Context, cards: Sequence[int]
    ) -> tuple[Int64[Tensor, "any rows nodes"], Int64[Tensor, "batch rows"] | None]:
        """The rows to be read, for all contexts or for each, and how often each of them stands in each context."""
        states, mask = math.prod(cards), self.config.mask
        ordered = mask == "causal" or self.config.positions
        most = max(2 * context.shape[1], _FEW_STATES) if mask == "rows" else _MOST_STATES
        if not self.config.multiset or ordered or states > most or bool((context == ABSENT).any()):
            return context, None
        every, counts = _multiset(context, cards)
        if mask == "rows":
            return every, counts
        # on a GPU as many for any data (some with a count of zero), so that all passes of a length have one shape
        most = min(context.shape[1], states) if self.device.type == "cuda" else int((counts > 0).sum(1).max())
        counts, index = counts.topk(most)
        return every[0][index], counts


_FEW_STATES = 2**8  # joint states that are read whole, once for all contexts, however short these are
_MOST_STATES = 2**12  # counting the rows of more joint states would take longer than reading them twice


def _multiset(
    context: Context, cardinalities: Sequence[int]
) -> tuple[Int64[Tensor, "one states nodes"], Int64[Tensor, "batch states"]]:
    """Every joint state once, [1, prod(cards), M], and how often it stands in each context."""
    states = every_state(cardinalities, context.device)
    index = ravel_states(context, range(len(cardinalities)), cardinalities)
    counts = torch.zeros(len(context), len(states), dtype=torch.int64, device=context.device)
    return states[None], counts.scatter_add_(1, index, torch.ones_like(index))
