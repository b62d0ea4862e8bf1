"""One step's coefficients by regularised least squares, from inner products alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import kernels

RIDGES = (math.inf, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12)
REWEIGHTED = 6  # times that samples are weighted anew in one regression
FLOOR = 1 / 3  # of the median error: below it errors count alike, or the best samples would decide under a power of 0
ENOUGH = 1e-3  # relative: what a weaker ridge has to gain on the starts that choose it


@dataclass(frozen=True)
class Normal:
    r"""The normal equations of :math:`\min_\delta \sum_b w_b |e_b - C_b \delta|^2`, sample by sample.

    Attributes:
        products: :math:`C_b^T C_b`, float64 [B, K, K].
        pulls: :math:`C_b^T e_b`, [B, K].
        squares: :math:`|e_b|^2`, [B].
    """

    products: Tensor
    pulls: Tensor
    squares: Tensor

    @classmethod
    def of(cls, columns: Sequence[Tensor], error: Tensor) -> Normal:
        """From the tensors, each read once; no tall matrix is ever made.

        Where they are float32 the error is one too: what is lost by that is far below what it still has to lose.
        """
        return cls.cut(kernels.gram([*columns, error.to(columns[0].dtype)]).products.cpu())

    @classmethod
    def cut(cls, products: Tensor) -> Normal:
        """From inner products whose last row is the error's."""
        return cls(products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1])

    def channels(self, count: int | None) -> list[Normal]:
        """Those of each channel, where rows are samples and channels; else itself."""
        if count is None:
            return [self]
        split = [value.unflatten(0, (-1, count)).unbind(1) for value in (self.products, self.pulls, self.squares)]
        return [Normal(*values) for values in zip(*split, strict=True)]

    @classmethod
    def joined(cls, parts: Sequence[Normal]) -> Normal:
        """The samples of all."""
        products, pulls, squares = zip(*((p.products, p.pulls, p.squares) for p in parts), strict=True)
        return cls(torch.cat(products), torch.cat(pulls), torch.cat(squares))

    def left(self, change: Tensor) -> Tensor:
        """The squared errors [B] that are left with these changes of the coefficients."""
        quadratic = torch.einsum("i,bij,j->b", change, self.products, change)
        return (self.squares - 2 * self.pulls @ change + quadratic).clamp_min(0)


def solve(normal: Normal, ridge: float, power: float) -> Tensor:
    r"""Changes of the coefficients that leave least of the error, :math:`\sum_b |e_b|^q`, [K].

    The ridge adds :math:`\lambda \sum_k S_{kk} \delta_k^2`, S the weighted sum of the products: relative to each
    column's own size, so that units do not matter. With q below 2, samples are weighted by their errors' power q - 2
    and the equations solved again (Holland & Welsch 1977, Commun. Stat. 6(9)).
    """
    size = normal.products.shape[-1]
    if math.isinf(ridge):
        return torch.zeros(size, dtype=torch.float64)
    weights, change = torch.ones_like(normal.squares), torch.zeros(size, dtype=torch.float64)
    for _ in range(REWEIGHTED if power < 2 else 1):
        matrix = torch.einsum("b,bij->ij", weights, normal.products)
        change = ridge_solution(matrix, weights @ normal.pulls, ridge)
        left = normal.left(change)
        weights = trust(left, power, floor_of(left))
    return change


def ridge_solution(matrix: Tensor, pull: Tensor, ridge: float) -> Tensor:
    """``(S + ridge diag S)^-1 pull``, in columns of unit length: the condition is then below 1 / ridge."""
    length = matrix.diagonal().sqrt()
    length = torch.where(length > 0, length, torch.ones_like(length))
    scaled = matrix / length / length[:, None]
    scaled = scaled + ridge * torch.eye(len(length), dtype=torch.float64)
    return torch.linalg.lstsq(scaled, (pull / length)[:, None], driver="gelsd").solution[:, 0] / length


def floor_of(squares: Tensor) -> float:
    """The square of a third of the median error, below which errors count alike.

    Else, under a small power, the samples that are best anyway would decide.
    """
    return FLOOR**2 * squares.median().item() + torch.finfo(torch.float64).tiny


def trust(squares: Tensor, power: float, floor: float) -> Tensor:
    """Weights of samples by which least squares minimise a lower power of the errors."""
    return (squares + floor) ** (power / 2 - 1)


def mean_power(squares: Tensor, power: float, floor: float, weights: Tensor | None = None) -> float:
    """Of errors with these squares; of a power of 0 the geometric mean of the squares.

    Args:
        squares: [B].
        power: In [0, 2]; the floor does not count at 2.
        floor: See :func:`floor_of`.
        weights: [B], of any sum.
    """
    shares = torch.full_like(squares, 1 / len(squares)) if weights is None else weights / weights.sum()
    if power == 2:
        return (shares @ squares).item()
    floored = squares + floor
    return (shares @ floored.log()).exp().item() if power == 0 else (shares @ floored ** (power / 2)).item()


def losses(candidates: Sequence[Tensor], power: float) -> list[float]:
    """The mean power of errors with these squares, for each of several sets that are compared."""
    floor = min(map(floor_of, candidates))
    return [mean_power(squares, power, floor) for squares in candidates]


def better(new: Tensor, old: Tensor, power: float) -> bool:
    """Whether errors with these squares are smaller."""
    now, before = losses([new, old], power)
    return now < before


def choose(fitted: Normal, judged: Normal, ridges: Sequence[float], power: float) -> tuple[Tensor, float]:
    """The changes of the coefficients, and the ridge, that leave least on starts that were not fitted to.

    Of ridges that do nearly as well, the strongest.
    """
    found = [(solve(fitted, ridge, power), ridge) for ridge in sorted(ridges, reverse=True)]
    left = losses([judged.left(change) for change, _ in found], power)
    least = min(left)
    return next(pair for pair, value in zip(found, left, strict=True) if value <= least * (1 + ENOUGH))
