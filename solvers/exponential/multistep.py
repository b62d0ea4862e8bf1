"""What the multistep solvers share: how they start, how they end, and where the past lies."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..ode.adams import STARTERS
from ..ode.runge_kutta import runge_kutta_step
from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver

FEW_STEPS = 15  # below it "auto" lowers the order at the end, as diffusers does (the authors of DPM-Solver: 10)


@dataclass(frozen=True)
class Multistep(FixedGridSolver):
    """Options of all multistep solvers.

    One step of order q anywhere leaves an error O(h^(q+1)) that never goes away. Starting with orders 1, 2, ... (the
    custom in diffusion) and ending with ..., 2, 1 therefore cap a method's order at 2; ``order`` says what results.

    Attributes:
        solver_order: The order that the literature calls the method by: estimates in the formula of a regular step.
        lower_order_final: Whether the last steps have orders ..., 2, 1: "auto" in runs of less than 15 steps,
            "always", or "never". A step to sigma = 0 or alpha = 0 has order 1 in any case.
        euler_at_final: Whether the last step has order 1 in runs of any length.
        start: "low_order": orders 1, 2, ... with one evaluation each. "accurate": Runge-Kutta steps of the full order.

    """

    solver_order: int = 2
    lower_order_final: Literal["auto", "always", "never"] = "auto"
    euler_at_final: bool = False
    start: Literal["low_order", "accurate"] = "low_order"

    highest = 3

    def __post_init__(self) -> None:
        if self.solver_order not in range(1, self.highest + 1):
            raise ArgumentError("solver_order", got=self.solver_order, expected=f"1 to {self.highest}")
        if self.lower_order_final not in ("auto", "always", "never"):
            expected = "'auto', 'always' or 'never'"
            raise ArgumentError("lower_order_final", got=repr(self.lower_order_final), expected=expected)
        if self.start not in ("low_order", "accurate"):
            raise ArgumentError("start", got=repr(self.start), expected="'low_order' or 'accurate'")
        object.__setattr__(self, "order", self.converges_with())

    def regular_order(self) -> int:
        """Order of convergence if every step were a regular one."""
        return self.solver_order

    def first_step_order(self) -> int:
        """Order of the first step where ``start`` is "low_order"."""
        return 1

    def converges_with(self) -> int:
        """Order of convergence of the whole run, from 15 steps on."""
        order = self.regular_order()
        if self.start == "low_order":
            order = min(order, self.first_step_order() + 1)
        if self.euler_at_final or self.lower_order_final == "always":
            order = min(order, 2)
        return order

    def at_full_order(self) -> Multistep:
        """With an accurate start, and no order lowered at the end in runs of 15 steps or more."""
        return dataclasses.replace(self, start="accurate", lower_order_final="auto", euler_at_final=False)

    @property
    def starting_steps(self) -> int:
        """One less than the estimates in the formula."""
        return self.solver_order - 1

    def accurate_steps(self, s: StepBuilder) -> int:
        """How many Runge-Kutta steps come first: until the nodes that have a finite lambda suffice."""
        unusable = not math.isfinite(s.interpolant.half_log_snr(s.grid[0]))
        return self.solver_order - 1 + unusable if self.start == "accurate" else 0

    def accurate_step(self, s: StepBuilder) -> Expression:
        """A Runge-Kutta step in the velocity whose error does not show in the order of the run."""
        return runge_kutta_step(s, STARTERS[max(self.regular_order(), 2)])[0]

    def order_of_step(self, s: StepBuilder) -> int:
        """The order that the rules allow in this step, before the past limits it."""
        left = s.steps - s.index
        if left == 1 and self.euler_at_final:
            return 1
        lowered = self.lower_order_final == "always" or (self.lower_order_final == "auto" and s.steps < FEW_STEPS)
        return min(self.solver_order, left) if lowered else self.solver_order


def past_times(s: StepBuilder, count: int) -> list[float]:
    """Times before ``t``, newest first: at most ``count``, as many as were remembered with a finite lambda."""
    times = [s.grid[s.index - k] for k in range(1, min(count, s.remembered) + 1)]
    return [t for t in times if math.isfinite(s.interpolant.half_log_snr(t))]
