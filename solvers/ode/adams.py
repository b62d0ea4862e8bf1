"""Adams methods on any grid: weights are integrals of the polynomial through past velocities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder, weighted
from ..solver import FixedGridSolver, register
from .runge_kutta import RK4, Euler, Kutta3, runge_kutta_step

STARTERS = {2: Euler.tableau, 3: Kutta3.tableau, 4: RK4.tableau}
SOURCE = "Hairer, Norsett & Wanner 1993, Solving Ordinary Differential Equations I, sections III.1 and III.5"


def adams_weights(nodes: Sequence[float], start: float, stop: float) -> tuple[float, ...]:
    r"""Weights :math:`w_j = \int_{start}^{stop} \ell_j(t)\, dt` of the Lagrange basis on ``nodes``.

    They make the quadrature exact for polynomials of degree below the number of nodes: the moments in
    :math:`u = (t - start)/(stop - start)` are :math:`\sum_j w_j u_j^k = (stop - start)/(k+1)`.

    Example:
        >>> [round(12 * w, 12) for w in adams_weights([2.0, 1.0, 0.0], 2.0, 3.0)]
        [23.0, -16.0, 5.0]

    """
    h = stop - start
    u = (np.asarray(nodes, dtype=np.float64) - start) / h
    powers = np.arange(len(u))
    weights = np.linalg.solve(u[None, :] ** powers[:, None], 1.0 / (powers + 1.0))
    return tuple(float(h * w) for w in weights)


class AdamsMethod(FixedGridSolver):
    """Shared by both families: history, and the Runge-Kutta steps before there is enough of it.

    A start of lower order would cap the whole method: one step of order q leaves an error O(h^(q+1)) that never
    goes away. Euler suffices for order 2, then Kutta's third-order method and the classical one.
    """

    order: int
    source = SOURCE

    def __post_init__(self) -> None:
        if self.order not in STARTERS:
            raise ArgumentError("order", got=self.order, expected="2, 3 or 4")

    @property
    def starting_steps(self) -> int:
        """The Runge-Kutta steps."""
        return self.order - 1

    @abstractmethod
    def next_state(self, s: StepBuilder, past: Sequence[Expression]) -> Expression:
        """The state at ``t_next`` from the velocities at ``t`` and the ``order - 1`` times before it."""

    def step(self, s: StepBuilder) -> None:
        """A starting step, or a multistep one; either remembers the velocity at its start."""
        if s.remembered < self.order - 1:
            x, v = runge_kutta_step(s, STARTERS[self.order])
        else:
            v = s.velocity(s.x, s.t)
            x = self.next_state(s, [v, *(s.history(k) for k in range(1, self.order))])
        s.advance(x, remember=v)


@register("ab4", order=4)
@register("ab3", order=3)
@register("ab2", order=2)
@dataclass(frozen=True)
class AdamsBashforth(AdamsMethod):
    r"""Explicit Adams method of order p: :math:`x' = x + \sum_{j<p} w_j v_{n-j}`, one evaluation a step.

    Uniform grid: (3, -1)/2, (23, -16, 5)/12, (55, -59, 37, -9)/24.
    """

    order: int = 2

    def next_state(self, s: StepBuilder, past: Sequence[Expression]) -> Expression:
        """Extrapolate the velocity over the step."""
        nodes = s.grid[s.index - self.order + 1 : s.index + 1][::-1]
        return s.x + weighted(adams_weights(nodes, s.t, s.t_next), past)


@register("abm4", order=4)
@register("abm3", order=3)
@register("abm2", order=2)
@dataclass(frozen=True)
class AdamsBashforthMoulton(AdamsMethod):
    r"""Adams predictor and corrector of order p in PECE mode, two evaluations a step.

    Predict with the explicit method, evaluate, correct with :math:`x' = x + \sum_{j<p} w_j v_{n+1-j}` whose first
    node is the new time; the next step evaluates again at the corrected point.
    """

    order: int = 2

    def next_state(self, s: StepBuilder, past: Sequence[Expression]) -> Expression:
        """Predict, evaluate, correct."""
        nodes = s.grid[s.index - self.order + 1 : s.index + 2][::-1]
        predicted = s.x + weighted(adams_weights(nodes[1:], s.t, s.t_next), past)
        ahead = s.velocity(predicted, s.t_next)
        return s.x + weighted(adams_weights(nodes[:-1], s.t, s.t_next), [ahead, *past[:-1]])
