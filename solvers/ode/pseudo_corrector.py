"""FlowTurbo's pseudo-corrector: Heun's update at one evaluation a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register


@register("pseudo_corrector")
@dataclass(frozen=True)
class PseudoCorrector(FixedGridSolver):
    r"""Euler prediction, trapezoidal correction, and the velocity of the predicted point kept for the next step.

    .. math:: y' = x + h d, \quad d' = v(y', t'), \quad x' = x + \tfrac{h}{2} (d + d')

    Order 2 on any grid of bounded step ratio; n + 1 evaluations for n steps. On a uniform grid the predicted points
    are those of Adams-Bashforth 2 started by Euler, :math:`y' = y + \tfrac h2 (3 d - d_{-1})`.

    Attributes:
        terminal: What the last step does. "evaluate": as every step. "cached": ``x' = x + h d`` without an
            evaluation, so n evaluations for n steps; on a uniform grid that end is the one of Adams-Bashforth 2.
            "auto": "cached" only where the network cannot be called.

    """

    terminal: Literal["auto", "cached", "evaluate"] = "auto"

    order = 2
    source = "Zhao, Shi, Yu, Zhou & Lu 2024, FlowTurbo, section 3.2"

    def __post_init__(self) -> None:
        if self.terminal not in ("auto", "cached", "evaluate"):
            raise ArgumentError("terminal", got=repr(self.terminal), expected="'auto', 'cached' or 'evaluate'")

    @property
    def starting_steps(self) -> int:
        """The first step, which has no cache yet."""
        return 1

    def step(self, s: StepBuilder) -> None:
        """Predict with the cache, evaluate there, correct, keep."""
        d = s.history(1) if s.remembered else s.velocity(s.x, s.t)
        predicted = s.x + s.h * d
        if s.index == s.steps - 1 and self.ends_without_evaluation(s):
            return s.advance(predicted)
        ahead = s.velocity(predicted, s.t_next)
        s.advance(s.x + 0.5 * s.h * (d + ahead), remember=ahead)

    def ends_without_evaluation(self, s: StepBuilder) -> bool:
        """Whether the last step uses the cache alone."""
        return self.terminal == "cached" or (self.terminal == "auto" and not s.evaluable("velocity", s.t_next))
