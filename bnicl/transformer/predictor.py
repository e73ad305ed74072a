"""A transformer as a predictor: encode context and query, run it, read the target's block.

Hand-built and trained transformers share `predict_proba` and `given` with the estimators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bnicl.estimators.counting import ContextPredictor, Reading, anew
from bnicl.networks.checks import Context, Queries, Query
from bnicl.transformer.encoding import Encoding, blocks, context_columns, encode, query_columns
from bnicl.transformer.model import Hook, Transformer

SCORES = 2**24  # of a pattern held at once: 128 MiB
Decoder = Callable[[Float[Tensor, "batch n_queries nodes"], int], Float[Tensor, "batch n_queries S"]]


class InContextTransformer(ContextPredictor):
    """A transformer as a predictor: encode context and query, run, read the target's block.

    readout "share" divides the block by its sum (the constructed transformers average one-hot values),
    "softmax" takes it for logits: either way the prediction is a probability vector. With `parents`, the
    query carries the flags of its target's parents (the graph in the prompt).
    """

    name = "transformer"

    def __init__(
        self,
        model: Transformer,
        cardinalities: Sequence[int],
        readout: Literal["share", "softmax"] = "share",
        parents: Sequence[Sequence[int]] | None = None,
        encoding: Encoding = "one-hot",
    ) -> None:
        self.model, self.cardinalities, self.readout, self.parents = model, tuple(cardinalities), readout, parents
        self.encoding = encoding
        self._blocks = blocks(cardinalities)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.W_E.dtype

    @property
    def device(self) -> torch.device:
        return self.model.W_E.device

    def _read(self, context: Context) -> Reading:
        n = context.shape[1]
        step = max(1, SCORES // (n if self.model.config.mask == "rows" else n**2))
        with torch.no_grad():
            decoders = [self._prefilled(part) for part in context.split(step)]

        def answer(query: Queries, target: int) -> Tensor:
            queries = query if query.ndim == 3 else query[:, None]
            with torch.no_grad():
                parts = zip(decoders, queries.split(step), strict=True)
                out = torch.cat([decode(own, target) for decode, own in parts])
            p = self.read(out, target)
            return p if query.ndim == 3 else p[:, 0]

        return answer

    def _prefilled(self, context: Context) -> Decoder:
        """What `_read` does for contexts that are taken together: the read-outs of queries [batch, n_queries, M]."""
        if self.model.config.mask == "none":  # the context sees the query
            return anew(lambda rows, query, target: self.last_column(self.columns(rows, query, target)), context)
        columns = context_columns(context, self.cardinalities, self.dtype, self.encoding)
        cache = self.model.prefill(self._prompted(columns))
        return lambda queries, target: self.model.decode(cache, self._asked(queries, target))

    def _asked(self, queries: Tensor, target: int) -> Float[Tensor, "batch n_queries width"]:
        columns = query_columns(queries, [target], self.cardinalities, self.dtype, self.encoding)[..., 0, :]
        return self._prompted(columns, [target] * queries.shape[1])

    def _prompted(
        self, columns: Float[Tensor, "batch n width"], targets: Sequence[int] = ()
    ) -> Float[Tensor, "batch n more"]:
        """With the flags of the parents of each column's target, where the graph is part of the prompt."""
        if self.parents is None:
            return columns
        flags = columns.new_zeros(*columns.shape[:-1], len(self.cardinalities))
        for i, target in enumerate(targets):
            flags[:, i, list(self.parents[target])] = 1
        return torch.cat([columns, flags], dim=-1)

    def columns(self, context: Context, query: Query, target: int) -> Float[Tensor, "batch pos width"]:
        """The input matrix of `encode`, with the flags of the prompt where the graph is part of it."""
        columns = encode(context, query, target, self.cardinalities, self.dtype, self.encoding)
        return torch.cat([self._prompted(columns[:, :-1]), self._prompted(columns[:, -1:], [target])], dim=1)

    def last_column(
        self, columns: Float[Tensor, "batch pos width"], hook: Hook | None = None
    ) -> Float[Tensor, "batch S"]:
        """The read-out of the query; `hook` sees its activations alone where the context does not see the query."""
        if self.model.config.mask == "none":
            return self.model(columns, hook)[:, -1]
        return self.model.decode(self.model.prefill(columns[:, :-1]), columns[:, -1:], hook)[:, 0]

    def read(self, output: Float[Tensor, "*batch S"], target: int) -> Float[Tensor, "*batch card"]:
        """The target's block of the read-out as a probability vector."""
        block = output[..., self._blocks[target]]
        return block.softmax(-1) if self.readout == "softmax" else block / block.sum(-1, keepdim=True)
