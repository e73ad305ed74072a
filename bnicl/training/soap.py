"""SOAP: Adam, run in the eigenbasis of each matrix's gradients.

The gradient G of a weight is a matrix. Two moving averages, of G G^T and of G^T G, say along which directions of its
rows and columns gradients vary together; Adam divides by the gradient's size along these directions instead of along
the coordinates. From Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (2024). Here the matrices
of one shape are worked on as one stack: for small transformers a step costs a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

FACTORS = ("rows", "columns", "row_basis", "column_basis")  # in the state of a matrix, in addition to Adam's entries

_FACTOR_DECAY = 0.95  # of the averages of G G^T and G^T G
_STEPS_BETWEEN_BASES = 10


class SOAP(torch.optim.Optimizer):
    """The optimiser; vectors (most biases, layer norms) are left to plain Adam.

    With Q_1, Q_2 the bases of rows and columns, m the average of G and v that of the square of Q_1^T G Q_2, a step is
    W <- W - lr Q_1 [(Q_1^T m Q_2) / (sqrt(v) + eps)] Q_2^T, with Adam's corrections for the first steps. The bases are
    refreshed every 10 steps. Heads' weights are one matrix: [head, d_model, d_head] side by side, and those of W_O,
    [head, d_head, d_model], one below the other; their tau are one row.

    >>> weight = nn.Parameter(torch.eye(3))
    >>> optimizer = SOAP([weight], lr=0.1)
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     (weight**2).sum().backward()
    ...     optimizer.step()
    >>> bool(weight.norm() < 0.5)
    True
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8
    ) -> None:
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    stacks.setdefault(_flat(weight).shape, []).append(weight)
            for weights in stacks.values():
                self._move(weights, group["lr"], group["betas"], group["eps"])

    def _move(self, weights: list[nn.Parameter], lr: float, betas: tuple[float, float], eps: float) -> None:
        """One step of weights of one shape."""
        gradients = torch.stack([_flat(weight.grad) for weight in weights if weight.grad is not None])
        for weight, gradient in zip(weights, gradients, strict=True):
            if not self.state[weight]:
                self.state[weight] = _first_state(gradient)
        keys = self.state[weights[0]]
        now = {key: torch.stack([self.state[weight][key] for weight in weights]) for key in keys}
        now["step"] += 1
        shape = (-1,) + (1,) * (gradients.ndim - 1)
        first, second = (1 - beta ** now["step"].view(shape) for beta in betas)
        now["exp_avg"].lerp_(gradients, 1 - betas[0])
        if "rows" in now:
            now["rows"].lerp_(gradients @ gradients.mT, 1 - _FACTOR_DECAY)
            now["columns"].lerp_(gradients.mT @ gradients, 1 - _FACTOR_DECAY)
        now["exp_avg_sq"].lerp_(_turn(now, gradients).square(), 1 - betas[1])
        size = (now["exp_avg_sq"] / second).sqrt() + eps
        moves = _turn_back(now, _turn(now, now["exp_avg"] / first) / size)
        for weight, move in zip(weights, moves, strict=True):
            weight.sub_(lr * _unflat(move, weight))
        if "rows" in now and int(now["step"][0]) % _STEPS_BETWEEN_BASES == 0:
            _refresh(now)
        for i, weight in enumerate(weights):
            self.state[weight] = {key: now[key][i] for key in keys}


def _first_state(gradient: Tensor) -> dict[str, Tensor]:
    state = {key: torch.zeros_like(gradient) for key in ("exp_avg", "exp_avg_sq")}
    state["step"] = gradient.new_zeros(())
    if gradient.ndim == 2:
        state["rows"], state["columns"] = gradient @ gradient.mT, gradient.mT @ gradient
        for side in ("row", "column"):
            state[f"{side}_basis"] = torch.linalg.eigh(state[f"{side}s"]).eigenvectors
    return state


def _turn(now: dict[str, Tensor], stack: Tensor) -> Tensor:
    """The stack in the bases."""
    return now["row_basis"].mT @ stack @ now["column_basis"] if "rows" in now else stack


def _turn_back(now: dict[str, Tensor], stack: Tensor) -> Tensor:
    return now["row_basis"] @ stack @ now["column_basis"].mT if "rows" in now else stack


def _refresh(now: dict[str, Tensor]) -> None:
    """One step of orthogonal iteration towards the eigenvectors, the largest eigenvalue first."""
    for key, side, axis in (("rows", "row_basis", 1), ("columns", "column_basis", 2)):
        basis = now[side]
        order = (basis.mT @ now[key] @ basis).diagonal(dim1=1, dim2=2).argsort(descending=True)
        along = order[:, :, None] if axis == 1 else order[:, None]
        now["exp_avg_sq"] = now["exp_avg_sq"].gather(axis, along.expand_as(now["exp_avg_sq"]))
        now[side] = torch.linalg.qr(now[key] @ basis.gather(2, order[:, None].expand_as(basis))).Q


def _flat(weight: Tensor) -> Tensor:
    """A weight as one matrix: [head, d_model, d_head] side by side, [head, d_head, d_model] one below the other."""
    if weight.ndim < 3:
        return weight.detach()
    _, rows, columns = weight.shape
    return weight.detach().flatten(0, 1) if rows < columns else weight.detach().transpose(0, 1).flatten(1)


def _unflat(matrix: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim < 3:
        return matrix
    heads, rows, columns = weight.shape
    return matrix.view(weight.shape) if rows < columns else matrix.unflatten(1, (heads, columns)).transpose(0, 1)
