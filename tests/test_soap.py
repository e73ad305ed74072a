"""SOAP against Adam where they are the same, against its definition written out, and turned with its problem."""

import math

import pytest
import torch
from torch import nn

from bnicl.training import soap
from bnicl.training.soap import SOAP


def gradients(*shape: int, steps: int = 25) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -2, shape[-1])  # some directions count more than others
    return [torch.randn(*shape, generator=generator) * scale for _ in range(steps)]


def path(optimizer: torch.optim.Optimizer, weight: nn.Parameter, given: list[torch.Tensor]) -> torch.Tensor:
    places = []
    for gradient in given:
        weight.grad = gradient.to(weight.dtype)
        optimizer.step()
        places.append(weight.detach().clone())
    return torch.stack(places)


def test_what_is_no_matrix_is_left_to_adam() -> None:
    ours, theirs = (nn.Parameter(torch.ones(6)) for _ in range(2))
    given = gradients(6)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    assert torch.allclose(path(SOAP([ours], lr=0.1), ours, given), path(adam, theirs, given), atol=1e-6)


def written_out(start: torch.Tensor, given: list[torch.Tensor], lr: float) -> torch.Tensor:
    """The definition for one matrix, entry by entry: each gradient's coordinates in the basis are sums over entries."""
    weight, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    left, right = given[0] @ given[0].T, given[0].T @ given[0]
    row_basis, column_basis = torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1]
    places = []
    for t, g in enumerate(given, start=1):
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * torch.einsum("ij,ia,jb->ab", g, row_basis, column_basis) ** 2
        turned = torch.einsum("ij,ia,jb->ab", m / (1 - 0.9**t), row_basis, column_basis)
        ratio = turned / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        weight = weight - lr * torch.einsum("ab,ia,jb->ij", ratio, row_basis, column_basis)
        if t % 10 == 0:
            rows = torch.argsort(torch.stack([c @ left @ c for c in row_basis.T]), descending=True)
            columns = torch.argsort(torch.stack([c @ right @ c for c in column_basis.T]), descending=True)
            v = v[rows][:, columns]
            row_basis = torch.linalg.qr(left @ row_basis[:, rows])[0]
            column_basis = torch.linalg.qr(right @ column_basis[:, columns])[0]
        places.append(weight)
    return torch.stack(places)


def test_a_matrix_against_the_definition_alone_and_in_a_stack() -> None:
    first, second = [g.double() for g in gradients(4, 6)], [g.double().flip(0) for g in gradients(4, 6)]
    weights = [nn.Parameter(torch.zeros(4, 6, dtype=torch.float64)) for _ in range(2)]
    optimizer = SOAP(weights, lr=0.05)
    for a, b in zip(first, second, strict=True):
        weights[0].grad, weights[1].grad = a, b
        optimizer.step()
    for weight, given in zip(weights, (first, second), strict=True):
        expected = written_out(torch.zeros(4, 6, dtype=torch.float64), given, 0.05)
        assert torch.allclose(weight.detach(), expected[-1], atol=1e-9)


def test_its_path_turns_with_the_problem_as_adams_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    turn, other = (torch.linalg.qr(torch.randn(n, n, generator=generator).double())[0] for n in (5, 4))
    given = [g.double() for g in gradients(5, 4)]
    for optimiser, equivariant in ((SOAP, True), (torch.optim.Adam, False)):
        plain, turned = (nn.Parameter(torch.zeros(5, 4, dtype=torch.float64)) for _ in range(2))
        one = path(optimiser([plain], lr=0.1), plain, given)
        two = path(optimiser([turned], lr=0.1), turned, [turn @ g @ other.T for g in given])
        assert torch.allclose(turn @ one @ other.T, two, atol=1e-6) == equivariant


@pytest.mark.parametrize("shape", [(3,), (4, 2), (3, 8, 2), (3, 2, 8)])
def test_heads_are_laid_side_by_side_and_back(shape: tuple[int, ...]) -> None:
    weight = torch.arange(math.prod(shape)).view(shape)
    flat = soap._flat(weight)
    assert flat.ndim <= 2
    assert torch.equal(soap._unflat(flat, weight), weight)
    if len(shape) == 3:  # d_model is one side of the matrix, all heads' d_head the other
        d_model, heads_and_d_head = 8, 6
        assert set(flat.shape) == {d_model, heads_and_d_head}
        assert set(flat[:, 0].tolist() if shape[1] == 8 else flat[0].tolist()) == set(
            (weight[0, :, 0] if shape[1] == 8 else weight[0, 0]).tolist()
        )


def test_a_weight_without_a_gradient_stays() -> None:
    moved, still = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    moved.grad = torch.ones(2, 2)
    SOAP([moved, still], lr=0.1).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))
