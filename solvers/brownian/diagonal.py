r"""Steps for noise that depends on the state, element by element: :math:`dX = f(X, t)\, dt + g(X, t) \odot dW` (Ito).

A step is a function of tensors, differentiable, for the drop-in of torchsde; :class:`Doubled` makes an adaptive method
of one. Here h is a number, or a tensor that broadcasts to the state where samples have steps of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from torch import Tensor

from ..adaptive.method import Attempt, Live
from .additive import parts
from .scheme import Brownian, column, register_scheme
from .tree import Increment

Length: TypeAlias = "float | Tensor"


class Diagonal(Protocol):
    """An SDE at a point of a step: times are fractions of the step from its start."""

    def drift(self, x: Tensor, node: float) -> Tensor:
        """F at x."""
        ...

    def scale(self, x: Tensor, node: float) -> Tensor:
        """G at x."""
        ...


Step: TypeAlias = Callable[[Diagonal, Tensor, Length, Increment], Tensor]


def euler_step(sde: Diagonal, x: Tensor, h: Length, path: Increment) -> Tensor:
    """``x + h f + g W``: strong order 1/2 (Maruyama 1955)."""
    return x + sde.drift(x, 0.0) * h + sde.scale(x, 0.0) * path.w


def milstein_step(sde: Diagonal, x: Tensor, h: Length, path: Increment) -> Tensor:
    r"""Strong order 1, without a derivative (Kloeden & Platen 1992, equation 11.1.3).

    .. math:: x' = x + h f + g W + \frac{g(x + h f + g \sqrt h) - g}{2 \sqrt h} (W^2 - h)
    """
    drift, scale, root = sde.drift(x, 0.0) * h, sde.scale(x, 0.0), h**0.5
    support = sde.scale(x + drift + scale * root, 0.0)
    return x + drift + scale * path.w + (support - scale) * (path.w**2 - h) / (2 * root)


# Roessler 2010, SIAM J. Numer. Anal. 48(3), SRI2: order 3 without noise, strong order 1.5 with one noise an element.
NODES = ((0.0, 1.0, 0.5, 0.0), (0.0, 0.25, 1.0, 0.25))
DRIFT = (((), (1.0,), (0.25, 0.25), (0.0, 0.0, 0.0)), ((), (0.25,), (1.0, 0.0), (0.0, 0.0, 0.25)))
NOISE = (((), (0.0,), (1.0, 0.5), (0.0, 0.0, 0.0)), ((), (-0.5,), (1.0, 0.0), (2.0, -1.0, 0.5)))
WEIGHTS = (1 / 6, 1 / 6, 2 / 3, 0.0)
NOISE_WEIGHTS = (
    (-1.0, 4 / 3, 2 / 3, 0.0),
    (1.0, -4 / 3, 1 / 3, 0.0),
    (2.0, -4 / 3, -2 / 3, 0.0),
    (-2.0, 5 / 3, -2 / 3, 1.0),
)


def srk_step(sde: Diagonal, x: Tensor, h: Length, path: Increment) -> Tensor:
    r"""Stochastic Runge-Kutta of strong order 1.5: three drifts, four noise scales.

    .. math:: Y_i = x + h \sum_j A^0_{ij} f(Y_j) + I \sum_j B^0_{ij} g(Z_j), \quad
        Z_i = x + h \sum_j A^1_{ij} f(Y_j) + \sqrt h \sum_j B^1_{ij} g(Z_j)

    .. math:: x' = x + h \sum_i a_i f(Y_i) + \sum_i \Big( b_i W + b'_i \frac{W^2 - h}{2 \sqrt h} + b''_i I
        + b'''_i \frac{W^3 - 3 h W}{6 h} \Big) g(Z_i), \quad I = \tfrac12 W + H

    Source: Roessler 2010, SIAM J. Numer. Anal. 48(3), 922-952, method SRI2.
    """
    w, area, root = path.w, path.h, h**0.5
    assert area is not None
    mean = 0.5 * w + area
    moments = (w, (w**2 - h) / (2 * root), mean, (w**3 - 3 * h * w) / (6 * h))
    drifts: list[Tensor] = []
    scales: list[Tensor] = []
    result = x
    for i in range(4):
        for_drift = for_scale = x
        for j in range(i):
            if DRIFT[0][i][j] or NOISE[0][i][j]:
                for_drift = for_drift + DRIFT[0][i][j] * drifts[j] * h + NOISE[0][i][j] * scales[j] * mean
            if DRIFT[1][i][j] or NOISE[1][i][j]:
                for_scale = for_scale + DRIFT[1][i][j] * drifts[j] * h + NOISE[1][i][j] * scales[j] * root
        if WEIGHTS[i]:
            drifts.append(sde.drift(for_drift, NODES[0][i]))
            result = result + WEIGHTS[i] * drifts[i] * h
        scales.append(sde.scale(for_scale, NODES[1][i]))
        result = result + sum(NOISE_WEIGHTS[m][i] * moments[m] for m in range(4)) * scales[i]
    return result


@dataclass(frozen=True)
class _Placed:
    """The field of live samples within a step from t to t + h."""

    live: Live
    t: np.ndarray
    h: np.ndarray

    def drift(self, x: Tensor, node: float) -> Tensor:
        return self.live.field(x, self.t + node * self.h)  # pyright: ignore[reportArgumentType]

    def scale(self, x: Tensor, node: float) -> Tensor:
        return column(parts(self.live).scale(x, self.t + node * self.h), x)


@register_scheme("euler_maruyama", euler_step, 1.0, 1, False)
@register_scheme("milstein", milstein_step, 1.5, 1, False)
@register_scheme("srk", srk_step, 2.0, 3, True)
@dataclass(frozen=True)
class Doubled:
    r"""A step against two of half its length along the same path; the latter advance.

    .. math:: e = x_{h/2, h/2} - x_h, \qquad W = W_1 + W_2, \quad H = \tfrac12 (H_1 + H_2) + \tfrac14 (W_1 - W_2)

    Attributes:
        step: A step for diagonal Ito noise.
        order: Strong order and a half: that of its local error in the mean square.
        stages: Evaluations of the drift in one step.
        area: Whether the step reads the space-time area.

    """

    step: Step
    order: float
    stages: int
    area: bool
    additive = False

    def attempt(self, live: Live, h: np.ndarray, brownian: Brownian) -> Attempt:
        """Three steps."""
        t, half, middle = live.t, 0.5 * h, live.t + 0.5 * h
        first, second = brownian.increment(t, middle), brownian.increment(middle, t + h)
        area = None
        if first.h is not None and second.h is not None:
            area = 0.5 * (first.h + second.h) + 0.25 * (first.w - second.w)
        length, whole = column(half, live.x), column(h, live.x)
        coarse = self.step(_Placed(live, t, h), live.x, whole, Increment(first.w + second.w, area))
        fine = self.step(_Placed(live, t, half), live.x, length, first)
        fine = self.step(_Placed(live, middle, half), fine, length, second)
        fine = fine.clone() if fine.data_ptr() == live.x.data_ptr() else fine
        return Attempt(fine, live.tolerance.ratio(fine - coarse, live.x, fine), None, 3 * self.stages)
