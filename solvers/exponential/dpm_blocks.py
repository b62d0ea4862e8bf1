"""Singlestep DPM-Solver whose stages are the grid's own times: every grid time costs one evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register
from .coefficients import kernel_moments, lagrange_weights
from .interval import Form, Interval, check_form, estimate, hold


@register("dpm_blocks")
@dataclass(frozen=True)
class DPMSolverBlocks(FixedGridSolver):
    r"""Singlestep DPM-Solver over blocks of one, two or three steps of the grid, one evaluation a step.

    Within a block, the state at each inner time is a stage, computed from the block's first state by the rule of lower
    order; the last step of a block computes its result from the same state and all of the block's estimates, whose
    nodes are wherever the grid has them:

    .. math:: x' = r x_0 + c \sum_j w_j m_j, \quad \sum_j w_j s_j^k = \mu_k

    "midpoint" has mu_0 / 2 in place of mu_1 in order 2 and leaves the first inner node out in order 3. n steps cost n
    evaluations ("DPM-Solver-fast"). The last blocks are shorter as in the authors' code, so the order of the run is 2.

    Attributes:
        solver_order: Steps in a block, 1 to 3.
        form: "denoised" (DPM-Solver++) or "noise" (DPM-Solver).
        variant: "midpoint" or "heun" (every moment exact).
        lower_order_final: Whether the last blocks are shortened; without, the number of steps should be a multiple of
            ``solver_order``, and what is left over forms a shorter block.

    """

    solver_order: int = 2
    form: Form = "denoised"
    variant: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True

    source = "Lu et al. 2022a, DPM-Solver, section 3.4 (DPM-Solver-fast)"

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3):
            raise ArgumentError("solver_order", got=self.solver_order, expected="1, 2 or 3")
        check_form(self.form)
        if self.variant not in ("midpoint", "heun"):
            raise ArgumentError("variant", got=repr(self.variant), expected="'midpoint' or 'heun'")
        object.__setattr__(self, "order", min(self.solver_order, 2) if self.lower_order_final else self.solver_order)

    @property
    def starting_steps(self) -> int:
        """So that the regular step is the last of a block."""
        return max(self.solver_order - 2, 0)

    def places(self, steps: int) -> list[int]:
        """For each step its place in its block, from 1: as many estimates as the step uses.

        With ``lower_order_final`` the blocks end in ..., 2, 1 for a multiple of 3, ..., 1, 1 for a multiple of 2, and
        with what is left over otherwise.
        """
        p = self.solver_order
        places = [1 + i % p for i in range(steps)]
        if self.lower_order_final and p > 1 and steps % p == 0:
            places[-1] = 1
        return places

    def step(self, s: StepBuilder) -> None:
        """A stage, or the end of a block."""
        m, place = estimate(s, s.x, s.t, self.form), self.places(s.steps)[s.index]
        back = [s.grid[s.index - k] for k in range(place)]
        over = Interval(s.interpolant, back[-1], s.t_next, self.form)
        if place == 1 or not over.regular:
            return s.advance(hold(s, s.x, s.t, s.t_next), remember=(m, s.x))
        estimates = [s.history(k) for k in range(place - 1, 0, -1)] + [m]
        nodes = [over.fraction(t) for t in back[::-1]]
        if place == 3 and self.variant == "midpoint":
            del nodes[1], estimates[1]
        moments = list(kernel_moments(over.y, len(nodes)))
        if place == 2 and self.variant == "midpoint":
            moments[1] = moments[0] / 2
        start = s.history(place - 1, 1)
        s.advance(over.step(start, lagrange_weights(nodes, moments), estimates), remember=(m, s.x))
