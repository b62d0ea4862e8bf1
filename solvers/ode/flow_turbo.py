"""FlowTurbo: Heun steps, then pseudo-corrector steps, then steps of a small network that corrects velocities."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError, PlanError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register


@register("flow_turbo")
@dataclass(frozen=True)
class FlowTurbo(FixedGridSolver):
    r"""Blocks of steps that cost less and less: two, one, and next to no evaluations of the network.

    All of them are the trapezoidal rule with an Euler prediction,

    .. math:: y = x + h d, \quad x' = x + \tfrac{h}{2} (d + d'),

    and differ in where the two velocities come from:

    - "heun": :math:`d = v(x, t)`, :math:`d' = v(y, t')`; :math:`d'` is passed on;
    - "pseudo-corrector": d is what was passed on, :math:`d' = v(y, t')`; :math:`d'` is passed on;
    - "refine": with c passed on, :math:`d = c + R(x, t, c)`, :math:`d' = d + R(y, t', d)`; d is passed on.

    R is the refiner of a :class:`~pushforward.models.RefinedModel`, which estimates the change of a velocity. With the
    exact change, "refine" is "heun". Without "refine" the order is 2; with it, what the refiner has learnt.

    Passed on by "heun" and "pseudo-corrector" is a velocity at the end of the step (near the state where it ends), by
    "refine" one at its start: what a refiner is asked for lies a step or less ahead, as in training.

    Attributes:
        heun: Steps of the first block.
        pseudo: Steps of the second; None for all that the others leave.
        refine: Steps of the last block; they need a model with a refiner.
        reach: Longest step in t that "refine" may take: the longest gap that the refiner was trained on.

    Raises:
        ArgumentError: A negative number of steps, a reach that is not positive; "refine" with no step before it.

    Source:
        Zhao et al. 2024, section 3.2 and algorithm 1; (2, 4, 3) is the default of the authors' code.

    """

    heun: int = 1
    pseudo: int | None = None
    refine: int = 0
    reach: float = 0.12

    order = 2
    source = "Zhao, Shi, Yu, Zhou & Lu 2024, FlowTurbo, sections 3.1 and 3.2"

    def __post_init__(self) -> None:
        for name, count in (("heun", self.heun), ("pseudo", self.pseudo), ("refine", self.refine)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                raise ArgumentError(name, got=repr(count), expected="a number of steps, 0 or more")
        if not self.reach > 0:
            raise ArgumentError("reach", got=self.reach, expected="a positive time")
        if self.refine and self.heun == self.pseudo == 0:
            raise refiner_first()

    @property
    def starting_steps(self) -> int:
        """Those of the first block, or the one that fills the cache of the second."""
        return max(self.heun, 1)

    def step(self, s: StepBuilder) -> None:
        """One step of the block that its place in the run belongs to."""
        name = self.block_at(s)
        s.block(name)
        if name == "refine":
            return self.refined_step(s)
        d = s.history(1) if name == "pseudo-corrector" and s.remembered else s.velocity(s.x, s.t)
        ahead = s.velocity(s.x + s.h * d, s.t_next)
        s.advance(s.x + 0.5 * s.h * (d + ahead), remember=ahead)

    def refined_step(self, s: StepBuilder) -> None:
        """Heun's step in corrected velocities."""
        if not s.remembered:
            raise refiner_first()
        if not 0 < s.h <= self.reach * (1 + 1e-9):  # rounding of a grid is no longer step
            got, hint = f"h = {s.h:.4g} in step {s.step}", "Take more steps, or fewer of them with refine"
            raise PlanError("grid", got=got, expected=f"refined steps of 0 < h <= {self.reach:g}", hint=hint)
        d = s.velocity(s.x, s.t, s.history(1))
        ahead = s.velocity(s.x + s.h * d, s.t_next, d)
        s.advance(s.x + 0.5 * s.h * (d + ahead), remember=d)

    def block_at(self, s: StepBuilder) -> str:
        """The block of the current step.

        Raises:
            PlanError: The grid has other than the steps that all blocks say, or fewer than those of two.
        """
        total = s.step - s.index + s.steps
        pseudo = total - self.heun - self.refine if self.pseudo is None else self.pseudo
        if self.pseudo is not None and self.heun + pseudo + self.refine != total:
            expected = f"{self.heun} + {self.pseudo} + {self.refine}, heun + pseudo + refine"
            raise PlanError("steps", got=total, expected=expected)
        if s.step < self.heun and s.step < total - self.refine:
            return "heun"
        return "pseudo-corrector" if s.step < total - self.refine else "refine"


def refiner_first() -> PlanError:
    """The error of a correction with nothing to correct."""
    because = "the refiner corrects a previous velocity: the schedule must start with heun or pseudo-corrector steps"
    return PlanError("refine", got="no velocity yet", expected="one to correct", hint=because)
