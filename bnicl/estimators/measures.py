"""How far one distribution over a node's states is from another.

With p the true conditional of a query, q the predicted one and p* the exact optimum's:

- total variation  1/2 sum_k |p_k - q_k|, a probability;
- regret           sum_k p*_k log2(p*_k / q_k) in bits: what the prediction costs beyond the optimum's.
                   Averaged over the prior, it is the predictor's expected divergence from the truth
                   minus the optimum's, with far less noise;
- mode accuracy    the probability that the state predicted as the most likely is the one drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    pass


Distributions = Float[Tensor, "*batch card"]


def total_variation(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """``1/2 sum_k |p_k - q_k|``, in [0, 1]; NaN where q is undefined.

    >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    tensor(0.5000)
    """
    return (p - q).abs().sum(-1) / 2


def kl_bits(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """sum_k p_k log2(p_k / q_k) in bits; infinite where q rules out a state that p allows.

    >>> kl_bits(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(1.)
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1) / torch.log(torch.tensor(2.0, dtype=p.dtype))


def mode_accuracy(p: Distributions, q: Distributions) -> Float[Tensor, "*batch"]:
    """The probability under p of q's most likely state; q's ties are broken at random.

    >>> mode_accuracy(torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]))
    tensor(0.5000)
    """
    mode = (q == q.amax(-1, keepdim=True)).to(p.dtype)
    return (p * mode).sum(-1) / mode.sum(-1)
