"""Which tokens go through the network: priorities from what was seen of each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ... import kernels

FLOOR = 1e-12
"""Of a score, relative to the largest of a sample: a token that stands still has a finite priority."""
PURPOSE = 0x524153  # of the draws of `random_tokens`, apart from those of solvers


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is known of the tokens before an evaluation.

    Attributes:
        output: The last output of each, [branches, B, N, C]; kept ones are as old as ``age``.
        change: Size of its last observed change, for each evaluation that it took, [B, N].
        age: Evaluations since it was last active, 0 where it was at the last one; [B, N].
        evaluation: Which evaluation of the run comes.
        seed: Of random choices.
    """

    output: Tensor
    change: Tensor
    age: Tensor
    evaluation: int
    seed: int


Selector: TypeAlias = Callable[[Tokens], Tensor]
"""Logarithms of scores, [B, N]: tokens of high ones are active. Ages are added by the caller."""


def most_changed(tokens: Tokens) -> Tensor:
    r"""Tokens whose output was last seen to change fastest.

    .. math:: \log \frac{\lVert o_i - o_i' \rVert}{a_i + 1}

    with the output o, the one before it o', and the number a of evaluations between them at which it was kept. On the
    linear path a token of known end has a constant velocity along its trajectory: it is kept at no cost.
    """
    return log_share(tokens.change)


def most_drifted(tokens: Tokens) -> Tensor:
    r"""Tokens whose output must have changed most since it was last seen, if it goes on as fast as it did.

    .. math:: \log \left[(a_i + 1) \frac{\lVert o_i - o_i' \rVert}{a_i' + 1}\right]

    with the age a now and a' when the change was observed: the error of keeping the token once more, to first order.
    """
    return log_share(tokens.change) + torch.log(tokens.age + 1)


def least_active(tokens: Tokens) -> Tensor:
    r"""Tokens whose output has the smallest standard deviation over its entries, as the paper ranks them.

    .. math:: -\log \mathrm{std}(o_i)

    Source: Liu et al. 2025, where the deviation is over channels, averaged over the pixels of a token; over all
    entries of a token it is the same for networks of one channel as for those of many.
    """
    squares = tokens.output.var(dim=-1, correction=0).mean(dim=0)
    return -0.5 * log_share(squares)


def random_tokens(tokens: Tokens) -> Tensor:
    """Tokens by lot: Gumbel variables keyed by (seed, row, evaluation), the same on every device."""
    draw = kernels.Draw(purpose=PURPOSE, step=tokens.evaluation)
    shape, device = tuple(tokens.age.shape), tokens.age.device
    return -torch.log(-torch.log(kernels.uniform(shape, seed=tokens.seed, draw=draw, device=device)))


SELECTORS: dict[str, Selector] = {
    "change": most_changed,
    "drift": most_drifted,
    "std": least_active,
    "random": random_tokens,
}


def log_share(score: Tensor) -> Tensor:
    """Logarithm of the share of the largest score of a row, at least that of :data:`FLOOR`.

    Example:
        >>> log_share(torch.tensor([[1.0, 0.0, 2.0]])).exp()
        tensor([[5.0000e-01, 1.0000e-12, 1.0000e+00]])
    """
    top = score.amax(dim=1, keepdim=True)
    share = score / torch.where(top > 0, top, torch.ones_like(top))
    return share.clamp_min(FLOOR).log()


def choose(priority: Tensor, count: int) -> Tensor:
    """The ``count`` tokens of highest priority of each row, [B, count], ascending; of equal ones the first.

    Stays on the device: nothing is read by the host.

    Example:
        >>> choose(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), 2)
        tensor([[1, 2]])
    """
    best = torch.sort(priority, dim=1, descending=True, stable=True).indices
    return best[:, :count].sort(dim=1).values
