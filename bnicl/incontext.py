"""A transformer as a predictor: encode context and query, run it, read the target's block.

What hand-built and trained transformers have in common with the estimators: `predict_proba`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bnicl.encoding import ABSENT, Context, Encoding, Query, blocks, encode
from bnicl.estimators import Probabilities
from bnicl.transformer import Hook, Transformer


class InContextTransformer:
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

    def columns(self, context: Context, query: Query, target: int) -> Float[Tensor, "batch pos width"]:
        """The input matrix of `encode`, with the flags of the prompt where the graph is part of it."""
        columns = encode(context, query, target, self.cardinalities, self.dtype, self.encoding)
        if self.parents is None:
            return columns
        flags = columns.new_zeros(*columns.shape[:2], len(self.cardinalities))
        flags[:, -1, list(self.parents[target])] = 1
        return torch.cat([columns, flags], dim=-1)

    def predict_proba(self, context: Context, query: Query, target: int) -> Probabilities:
        """The next value's distribution, [batch, card[target]], rows summing to 1."""
        columns = self.columns(context, query, target)
        step = max(1, 2**24 // columns.shape[1] ** 2)  # patterns of 128 MiB at the most
        with torch.no_grad():
            parts = [self.last_column(columns[i : i + step]) for i in range(0, len(columns), step)]
        return self.read(torch.cat(parts), target)

    def conditioned(self, context: Int64[Tensor, "n nodes"]) -> Callable[[Query, int], Probabilities]:
        """A function of queries [batch, M] and a target, for one context that is read once.

        Raises ValueError where the context attends to the query (mask "none").
        """
        empty = torch.full_like(context[:1], ABSENT)
        with torch.no_grad():
            memory = self.model.remember(self.columns(context[None], empty, 0)[:, :-1])

        def predict(query: Query, target: int) -> Probabilities:
            columns = self.columns(context[None, :1].expand(len(query), -1, -1), query, target)[:, -1]
            with torch.no_grad():
                return self.read(self.model.answer(memory, columns[None])[0], target)

        return predict

    def last_column(
        self, columns: Float[Tensor, "batch pos width"], hook: Hook | None = None
    ) -> Float[Tensor, "batch S"]:
        """The read-out of the query; `hook` sees its activations alone where the context does not see the query."""
        if self.model.config.mask == "none":
            return self.model(columns, hook)[:, -1]
        return self.model.answer(self.model.remember(columns[:, :-1]), columns[:, -1:], hook)[:, 0]

    def read(self, output: Float[Tensor, "batch S"], target: int) -> Probabilities:
        """The target's block of the read-out as a probability vector."""
        block = output[:, self._blocks[target]]
        return block.softmax(-1) if self.readout == "softmax" else block / block.sum(-1, keepdim=True)
