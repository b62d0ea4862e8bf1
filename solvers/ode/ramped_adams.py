"""Adams-Bashforth for few steps: every evaluation advances time, and the order rises with the history."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError
from ..plan import StepBuilder, weighted
from ..solver import FixedGridSolver, register
from .adams import SOURCE, AdamsBashforth, adams_weights


@register("ab4_ramp", points=4)
@register("ab3_ramp", points=3)
@dataclass(frozen=True)
class RampedAdamsBashforth(FixedGridSolver):
    r"""Adams-Bashforth through the last p velocities, or as many as there are: Euler, then two points, then three ...

    :math:`x' = x + \sum_{j<q} w_j v_{n-j}, \; q = \min(n + 1, p)`, one evaluation a step from the first step on.

    The Euler step leaves an error O(h^2) that never goes away, so the order is 2, as of two points. But with ten
    evaluations in all the six of a Runge-Kutta start for three points (:class:`AdamsBashforth`) cost more than that
    error, above all on rectified flows, whose trajectories begin straight.

    Attributes:
        points: p, at least 3: two points are ``ab2``.
    """

    points: int = 3

    order, source = 2, SOURCE

    def __post_init__(self) -> None:
        if self.points not in (3, 4):
            raise ArgumentError("points", got=self.points, expected="3 or 4 (2 points are the solver 'ab2')")

    @property
    def starting_steps(self) -> int:
        """How many steps use fewer points than a regular one."""
        return self.points - 1

    def at_full_order(self) -> AdamsBashforth:
        """The same formula after a start of its own order."""
        return AdamsBashforth(self.points)

    def step(self, s: StepBuilder) -> None:
        """Extrapolate the velocity over the step from all there are, up to p."""
        count = min(s.remembered + 1, self.points)
        v = s.velocity(s.x, s.t)
        nodes = s.grid[s.index - count + 1 : s.index + 1][::-1]
        past = [v, *(s.history(k) for k in range(1, count))]
        s.advance(s.x + weighted(adams_weights(nodes, s.t, s.t_next), past), remember=v)
