"""Rewards of vectors, for which tilted laws are known in closed form: a coordinate, a linear form, agreeing signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..branch_weights import finite
from .describe import Described


@dataclass(frozen=True, repr=False)
class Coordinate(Described):
    r"""One coordinate of the flattened sample.

    .. math:: r(x) = x_j

    Range: the reals. Differentiable. On Gaussian data N(m, C) the law tilted by exp(lam r) is N(m + lam C e_j, C), with
    log Z = lam m_j + lam^2 C_jj / 2.

    Args:
        index: j, counted from 0.

    Raises:
        ArgumentError: A negative or fractional index; when called, one that the samples do not have.

    Example:
        >>> Coordinate(1)(torch.tensor([[3.0, 4.0]]))
        tensor([4.])
    """

    index: int = 0

    differentiable = True

    def __post_init__(self) -> None:
        if not isinstance(self.index, int) or isinstance(self.index, bool) or self.index < 0:
            raise ArgumentError("index", got=repr(self.index), expected="an integer >= 0")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], in the dtype of x."""
        rows = flat(x)
        if self.index >= rows.shape[1]:
            raise ArgumentError("index", got=self.index, expected=f"below {rows.shape[1]}, the size of a sample")
        return rows[:, self.index]


@dataclass(frozen=True, repr=False)
class Linear(Described):
    r"""A linear form of the flattened sample, computed in float64.

    .. math:: r(x) = \sum_j a_j x_j

    Range: the reals. Differentiable. On Gaussian data N(m, C) the law tilted by exp(lam r) is N(m + lam C a, C), with
    log Z = lam a.m + lam^2 a.C a / 2.

    Args:
        weights: a, one finite number a coordinate.

    Raises:
        ArgumentError: No weights, or one that is not finite.
        ShapeError: When called, samples of another size.

    Example:
        >>> Linear([1.0, -2.0])(torch.tensor([[3.0, 4.0]]))
        tensor([-5.], dtype=torch.float64)
    """

    weights: tuple[float, ...]
    row: Tensor = field(init=False, repr=False, compare=False)

    differentiable = True

    def __init__(self, weights: Sequence[float] | Tensor) -> None:
        """Keeps them as a tuple."""
        numbers = tuple(float(weight) for weight in weights)
        if not numbers:
            raise ArgumentError("weights", got="none", expected="one a coordinate")
        for weight in numbers:
            finite(weight, "weights")
        object.__setattr__(self, "weights", numbers)
        object.__setattr__(self, "row", torch.tensor(numbers, dtype=torch.float64))

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        return (coordinates(x, len(self.weights), "weights").double() * self.row.to(x.device)).sum(1)


@dataclass(frozen=True, repr=False)
class SignAgreement(Described):
    r"""Minus the number of coordinates whose sign is not the wanted one: flat with jumps.

    .. math:: r(x) = -\#\{j : x_j z_j < 0\}

    Range: integers in [-d, 0]. Not differentiable. A row with NaN is NaN.

    Args:
        signs: z, each 1 or -1.

    Raises:
        ArgumentError: No signs, or another number.
        ShapeError: When called, samples of another size.

    Example:
        >>> SignAgreement([1, 1, -1])(torch.tensor([[0.2, -3.0, 0.1], [1.0, 0.0, -1.0]]))
        tensor([-2.,  0.], dtype=torch.float64)
    """

    signs: tuple[int, ...]
    row: Tensor = field(init=False, repr=False, compare=False)

    differentiable = False

    def __init__(self, signs: Sequence[int] | Tensor) -> None:
        """Keeps them as a tuple."""
        numbers = tuple(int(sign) if sign in (1, -1) else 0 for sign in signs)
        if not numbers or 0 in numbers:
            raise ArgumentError("signs", got=list(signs), expected="at least one, each 1 or -1")
        object.__setattr__(self, "signs", numbers)
        object.__setattr__(self, "row", torch.tensor(numbers, dtype=torch.float64))

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        agreement = coordinates(x, len(self.signs), "signs").detach().double() * self.row.to(x.device)
        wrong = (agreement < 0).sum(1).double()
        return (0 - wrong).masked_fill(agreement.isnan().any(1), torch.nan)  # 0 - 0 is 0, and -0 would print


def flat(x: Tensor) -> Tensor:
    """Rows of x as vectors, [B, d]."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def coordinates(x: Tensor, size: int, argument: str) -> Tensor:
    """Rows of x as vectors [B, size].

    Raises:
        ShapeError: They have another size; names the argument that says so.
    """
    rows = flat(x)
    if rows.shape[1] != size:
        raise ShapeError("x", got=list(x.shape), expected=f"{size} coordinates a row, as {argument}")
    return rows
