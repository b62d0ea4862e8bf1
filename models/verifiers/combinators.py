"""Rewards made of rewards: weighted sum, product, constraint, step count, negation, affine scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..branch_weights import finite
from .combined import Combined
from .verifier import Verifier, check_reward, name_of, scores


@dataclass(frozen=True, repr=False)
class WeightedSum(Combined):
    r"""A linear combination of rewards, the usual way to ask for several things at once.

    .. math:: r(x) = \sum_k w_k r_k(x)

    Range: that of the terms; -inf if a term of positive weight forbids the sample. A term of weight 0 is not called.
    Differentiable if all terms are.

    Args:
        rewards: At least one.
        weights: One finite number a reward; all 1 by default.

    Raises:
        ArgumentError: No rewards, one that is not callable, a weight that is not finite.
        ShapeError: Not as many weights as rewards.

    Example:
        >>> WeightedSum([lambda x, context: x[:, 0], lambda x, context: x[:, 1]], [1, -2])(torch.tensor([[3.0, 1.0]]))
        tensor([1.], dtype=torch.float64)
    """

    rewards: tuple[Verifier, ...]
    weights: tuple[float, ...]

    def __init__(self, rewards: Sequence[Verifier], weights: Sequence[float] | None = None) -> None:
        """Keeps both as tuples."""
        parts = several(rewards)
        numbers = tuple(float(weight) for weight in ([1.0] * len(parts) if weights is None else weights))
        if len(numbers) != len(parts):
            raise ShapeError("weights", got=f"{len(numbers)}", expected=f"{len(parts)}, one a reward")
        for weight in numbers:
            finite(weight, "weights")
        object.__setattr__(self, "rewards", parts)
        object.__setattr__(self, "weights", numbers)

    @property
    def parts(self) -> tuple[Verifier, ...]:
        """The terms of non-zero weight."""
        return tuple(reward for reward, weight in zip(self.rewards, self.weights, strict=True) if weight)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        for reward, weight in zip(self.rewards, self.weights, strict=True):
            if weight:
                total = total + weight * scores(reward, x, context)
        return total


@dataclass(frozen=True, repr=False)
class Product(Combined):
    r"""A product of rewards that are not negative, such as probabilities: all must be good at once.

    .. math:: r(x) = \prod_k r_k(x), \quad r_k \ge 0

    Range: [0, inf). Differentiable if all factors are. Log-probabilities are added instead (:class:`WeightedSum`).

    Args:
        rewards: At least one.

    Raises:
        ArgumentError: No rewards, one that is not callable; when called, a factor below 0, whose product with another
            would turn worse into better: names it.

    Example:
        >>> Product([lambda x, context: x[:, 0], lambda x, context: x[:, 1]])(torch.tensor([[0.5, 0.25]]))
        tensor([0.1250], dtype=torch.float64)
    """

    rewards: tuple[Verifier, ...]

    def __init__(self, rewards: Sequence[Verifier]) -> None:
        """Keeps them as a tuple."""
        object.__setattr__(self, "rewards", several(rewards))

    @property
    def parts(self) -> tuple[Verifier, ...]:
        """The factors."""
        return self.rewards

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        total = torch.ones(x.shape[0], dtype=torch.float64, device=x.device)
        for reward in self.rewards:
            factor = scores(reward, x, context)
            below = factor < 0
            if bool(below.any()):
                raise ArgumentError(
                    f"factor {name_of(reward)}",
                    got=f"{factor[below][0].item():g}",
                    expected="numbers >= 0",
                    hint="Add logarithms or constraints with WeightedSum",
                )
            total = total * factor
        return total


@dataclass(frozen=True, repr=False)
class Threshold(Combined):
    r"""A hard constraint: forbids samples whose reward is too low and is indifferent to the others.

    .. math:: c(x) = 0 \text{ if } r(x) \ge m, \text{ else } -\infty

    Range: {0, -inf}. A term of a :class:`WeightedSum`, for instance ``WeightedSum([r, Threshold(r, 0.5)])``. Its
    gradient is 0 wherever it exists, so it does not keep a sum from being differentiable.

    Args:
        reward: What is compared.
        minimum: m, finite.

    Raises:
        ArgumentError: ``reward`` is not callable, ``minimum`` is not finite.

    Example:
        >>> Threshold(lambda x, context: x[:, 0], 0.5)(torch.tensor([[0.4], [0.5]]))
        tensor([-inf, 0.], dtype=torch.float64)
    """

    reward: Verifier
    minimum: float

    def __post_init__(self) -> None:
        check_reward(self.reward)
        finite(self.minimum, "minimum")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """0 or -inf, [B], float64."""
        values = scores(self.reward, x, context)
        nothing = 0 * values.masked_fill(values.isinf(), 0)  # 0 with a graph, so that a gradient can be asked for
        return nothing.masked_fill(values < self.minimum, -math.inf)


@dataclass(frozen=True, repr=False)
class StepCount(Combined):
    r"""How many levels a reward has reached: flat between them, or softly.

    .. math:: c(x) = \#\{l : r(x) \ge l\}, \quad \text{or} \quad \sum_l \frac{1}{1 + e^{-(r(x) - l)/w}}
        \text{ for a width } w > 0

    Range: [0, number of levels]; integers if the width is 0, and then not differentiable.

    Args:
        reward: What is compared.
        levels: At least one finite number.
        width: w >= 0, in units of the reward; 0 for hard steps.

    Raises:
        ArgumentError: ``reward`` is not callable, no levels, one that is not finite, a negative width.

    Example:
        >>> StepCount(lambda x, context: x[:, 0], [0.2, 0.8])(torch.tensor([[0.1], [0.5], [0.9]]))
        tensor([0., 1., 2.], dtype=torch.float64)
    """

    reward: Verifier
    levels: tuple[float, ...]
    width: float = 0.0

    def __init__(self, reward: Verifier, levels: Sequence[float], width: float = 0.0) -> None:
        """Keeps the levels as a tuple."""
        check_reward(reward)
        if not len(levels):
            raise ArgumentError("levels", got="none", expected="at least one")
        for level in levels:
            finite(level, "levels")
        if not (math.isfinite(width) and width >= 0):
            raise ArgumentError("width", got=width, expected="a finite number >= 0")
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "levels", tuple(float(level) for level in levels))
        object.__setattr__(self, "width", float(width))

    @property
    def differentiable(self) -> bool | None:
        """As the reward if the steps are soft."""
        return super().differentiable if self.width else False

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Counts [B], float64."""
        values = scores(self.reward, x, context)[:, None]
        levels = torch.tensor(self.levels, dtype=torch.float64, device=x.device)
        if self.width:
            return torch.sigmoid((values - levels) / self.width).sum(1)
        return (values >= levels).sum(1).double().masked_fill(values.isnan()[:, 0], math.nan)


@dataclass(frozen=True, repr=False)
class Negated(Combined):
    r"""A loss as a reward.

    .. math:: r(x) = -\ell(x)

    Range: that of the loss, mirrored; a loss of +inf forbids the sample. Differentiable if the loss is.

    Args:
        loss: A function of (x, context), lower is better.

    Raises:
        ArgumentError: It is not callable.

    Example:
        >>> Negated(lambda x, context: x.square().sum(1))(torch.tensor([[1.0, 2.0]]))
        tensor([-5.], dtype=torch.float64)
    """

    loss: Verifier

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ArgumentError("loss", got=type(self.loss).__name__, expected="a function of (x, context)")

    @property
    def parts(self) -> tuple[Verifier, ...]:
        """The loss."""
        return (self.loss,)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        return -scores(self.loss, x, context)


def lower_is_better(loss: Verifier) -> Negated:
    """The reward whose maximum is the loss's minimum.

    Example:
        >>> lower_is_better(lambda x, context: x[:, 0])(torch.tensor([[2.0]]))
        tensor([-2.], dtype=torch.float64)
    """
    return Negated(loss)


@dataclass(frozen=True, repr=False)
class Scaled(Combined):
    r"""A reward in other units: brings rewards of different spread together before they are summed or tempered.

    .. math:: r'(x) = a \, r(x) + b, \quad a > 0

    Range: that of the reward, transformed. Differentiable if the reward is.

    Args:
        reward: What is scaled.
        scale: a, positive and finite.
        offset: b, finite.

    Raises:
        ArgumentError: ``reward`` is not callable, ``scale`` is not positive, ``offset`` is not finite.

    Example:
        >>> Scaled(lambda x, context: x[:, 0], 2.0, 1.0)(torch.tensor([[3.0]]))
        tensor([7.], dtype=torch.float64)
    """

    reward: Verifier
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_reward(self.reward)
        if not (math.isfinite(self.scale) and self.scale > 0):
            hint = "Negated turns a reward round"
            raise ArgumentError("scale", got=self.scale, expected="a finite number > 0", hint=hint)
        finite(self.offset, "offset")

    @classmethod
    def standardised(cls, reward: Verifier, values: Tensor) -> Scaled:
        """The reward with mean 0 and standard deviation 1 on a sample of its values.

        Args:
            reward: What is scaled.
            values: Its values on plain samples of the model, [n], n >= 2; those that are -inf are left out.

        Raises:
            ArgumentError: Fewer than two finite values, or no spread among them.
        """
        known = values.double()[values.isfinite()]
        spread = float(known.std()) if len(known) > 1 else 0.0
        if spread == 0:
            raise ArgumentError("values", got=f"{len(known)} finite values without spread", expected="values that vary")
        return cls(reward, 1 / spread, -float(known.mean()) / spread)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        return self.scale * scores(self.reward, x, context) + self.offset


def several(rewards: Sequence[Verifier]) -> tuple[Verifier, ...]:
    """A tuple of at least one reward.

    Raises:
        ArgumentError: None, or one that is not callable or a loss.
    """
    if callable(rewards) or not len(rewards):
        got = "one reward" if callable(rewards) else "none"
        raise ArgumentError("rewards", got=got, expected="a list of at least one")
    for index, reward in enumerate(rewards):
        check_reward(reward, f"rewards[{index}]")
    return tuple(rewards)
