"""Tempering ladders: how the strength of a reward grows from nothing to all of it over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ArgumentError

BISECTIONS = 40


@dataclass(frozen=True)
class Ladder:
    r"""Shares :math:`0 \le \beta_0 \le \dots \le \beta_K = 1` of the strength.

    Particles at step k are weighted by :math:`e^{\beta_k \lambda r}`.

    Attributes:
        shares: One for each time of the grid, K + 1 of them.

    Raises:
        ArgumentError: Shares that fall, leave [0, 1], or do not end at 1.

    Source: Kim, Kim & Park 2025, Test-time alignment of diffusion models without reward over-optimization (DAS).

    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        rising = all(a <= b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or self.shares[-1] != 1.0 or not (rising and self.shares[0] >= 0):
            raise ArgumentError("ladder", got=self.shares, expected="shares that rise from 0 or more to exactly 1")

    @classmethod
    def exponential(cls, steps: int, gamma: float | None = None) -> Ladder:
        r""":math:`\beta_k = \min((1 + \gamma)^k - 1, 1)`; by default 1 is reached at 87 % of the steps.

        Example:
            >>> ladder = Ladder.exponential(100, 0.008).shares
            >>> round(ladder[50], 3), ladder[86] < 1.0, ladder[88]
            (0.489, True, 1.0)
        """
        gamma = 2 ** (1 / (0.87 * steps)) - 1 if gamma is None else gamma
        if not gamma > 0:
            raise ArgumentError("gamma", got=gamma, expected="a positive number")
        return cls((*(min((1 + gamma) ** k - 1, 1.0) for k in range(steps)), 1.0))

    @classmethod
    def polynomial(cls, steps: int, gamma: float | None = None, power: float = 1.0) -> Ladder:
        r""":math:`\beta_k = \min((\gamma k)^p, 1)`; by default :math:`\gamma = 1 / K`.

        Example:
            >>> Ladder.polynomial(4).shares
            (0.0, 0.25, 0.5, 0.75, 1.0)
        """
        gamma = 1 / steps if gamma is None else gamma
        if not (gamma > 0 and power > 0):
            raise ArgumentError("gamma, power", got=(gamma, power), expected="positive numbers")
        return cls((*(min((gamma * k) ** power, 1.0) for k in range(steps)), 1.0))

    @classmethod
    def of(cls, value: str | Sequence[float] | Ladder | None, steps: int) -> Ladder:
        """A ladder by name ("exponential", "polynomial"), from its shares, or without tempering from None.

        Raises:
            ArgumentError: Another name, or another number of shares than ``steps + 1``.
        """
        if value is None:
            return cls((1.0,) * (steps + 1))
        if isinstance(value, str):
            if value not in ("exponential", "polynomial"):
                raise ArgumentError("ladder", got=repr(value), expected="'exponential', 'polynomial' or 'adaptive'")
            return cls.exponential(steps) if value == "exponential" else cls.polynomial(steps)
        ladder = value if isinstance(value, Ladder) else cls(tuple(value))
        if len(ladder.shares) != steps + 1:
            raise ArgumentError(
                "ladder", got=f"{len(ladder.shares)} shares", expected=f"{steps + 1}, one for each time"
            )
        return ladder


def tempered(reward: Tensor, share: Tensor) -> Tensor:
    """Rewards [S, N] times the shares [S]; without a share -inf counts nothing either."""
    return torch.where(share[:, None] == 0, 0.0, share[:, None] * reward)


def next_share(log_weights: Tensor, level: Tensor, reward: Tensor, share: Tensor, ess: float) -> Tensor:
    r"""The largest share up to 1 at which the effective sample size is still ``ess``, for each request.

    The weights are the cumulative ones, :math:`\log w + \beta \lambda r - L`; the size falls as the share grows from
    the one at hand, so that bisection finds the place.

    Args:
        log_weights: [S, N].
        level: What they hold already, L, [S, N].
        reward: :math:`\lambda r`, [S, N].
        share: The last shares, [S].
        ess: The size wanted, in particles.
    """
    low, high = share.clone(), torch.ones_like(share)

    def size(at: Tensor) -> Tensor:
        w = torch.where(level == -torch.inf, level, log_weights + tempered(reward, at) - level)
        return (2 * w.logsumexp(1) - (2 * w).logsumexp(1)).exp()

    reached = size(high) >= ess
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        enough = size(middle) >= ess
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(reached, torch.ones_like(share), low)
