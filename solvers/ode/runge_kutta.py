"""Explicit Runge-Kutta methods in the velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..plan import Expression, StepBuilder, weighted
from ..solver import FixedGridSolver, register
from .tableau import Tableau


def runge_kutta_step(s: StepBuilder, tableau: Tableau) -> tuple[Expression, Expression]:
    """The state after one step, and the velocity at its start."""
    stages: list[Expression] = []
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        stages.append(s.velocity(s.x + s.h * weighted(row, stages), s.time(float(node))))
    return s.x + s.h * weighted(tableau.weights, stages), stages[0]


class RungeKutta(FixedGridSolver):
    r"""An explicit Runge-Kutta method: :math:`x' = x + h \sum_i b_i v(x + h \sum_{j<i} a_{ij} k_j, t + c_i h)`."""

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls) -> None:
        cls.order, cls.source = cls.tableau.order, cls.tableau.source

    def step(self, s: StepBuilder) -> None:
        """All stages, then the weighted sum."""
        s.advance(runge_kutta_step(s, self.tableau)[0])


@register("euler")
@dataclass(frozen=True)
class Euler(RungeKutta):
    """Euler's method, order 1: ``x' = x + h v(x, t)``."""

    tableau = Tableau(order=1, a="", b="1", source="Euler 1768, Institutiones calculi integralis")


@register("midpoint")
@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """Explicit midpoint rule, order 2, 2 evaluations a step."""

    tableau = Tableau(order=2, a="1/2", b="0 1", source="Runge 1895, Math. Ann. 46, 167-178")


@register("heun")
@dataclass(frozen=True)
class Heun(RungeKutta):
    """Explicit trapezoidal rule, order 2, 2 evaluations a step."""

    tableau = Tableau(order=2, a="1", b="1/2 1/2", source="Heun 1900, Z. Math. Phys. 45, 23-38")


@register("ralston")
@dataclass(frozen=True)
class Ralston(RungeKutta):
    """The two-stage method of order 2 with the smallest truncation bound."""

    tableau = Tableau(order=2, a="2/3", b="1/4 3/4", source="Ralston 1962, Math. Comp. 16, 431-437")


@register("kutta3")
@dataclass(frozen=True)
class Kutta3(RungeKutta):
    """Kutta's third-order method, 3 evaluations a step."""

    tableau = Tableau(order=3, a="1/2; -1 2", b="1/6 2/3 1/6", source="Kutta 1901, Z. Math. Phys. 46, 435-453")


@register("ssprk3")
@dataclass(frozen=True)
class SSPRK3(RungeKutta):
    """Strong-stability-preserving method of order 3: a convex combination of Euler steps."""

    tableau = Tableau(order=3, a="1; 1/4 1/4", b="1/6 1/6 2/3", source="Shu & Osher 1988, J. Comput. Phys. 77, 439-471")


@register("rk4")
@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical Runge-Kutta method, order 4, 4 evaluations a step."""

    tableau = Tableau(
        order=4, a="1/2; 0 1/2; 0 0 1", b="1/6 1/3 1/3 1/6", source="Kutta 1901, Z. Math. Phys. 46, 435-453"
    )


@register("rk38")
@dataclass(frozen=True)
class RK38(RungeKutta):
    """Kutta's 3/8 rule, order 4, 4 evaluations a step (what torchdiffeq calls rk4)."""

    tableau = Tableau(
        order=4, a="1/3; -1/3 1; 1 -1 1", b="1/8 3/8 3/8 1/8", source="Kutta 1901, Z. Math. Phys. 46, 435-453"
    )
