"""Multistep DPM-Solver and DPM-Solver++: 2M and 3M, in the clean or the noise estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import register
from .coefficients import kernel_moments, lagrange_weights
from .interval import Form, Interval, check_form, differences, estimate, hold
from .multistep import Multistep, past_times


@register("dpmpp_2m")
@register("dpmpp_3m", solver_order=3)
@register("dpmpp_3m_exact", solver_order=3, curvature="exact", start="accurate")
@register("dpm_solver_2m", form="noise")
@dataclass(frozen=True)
class DPMSolverMultistep(Multistep):
    r"""Exponential Adams-Bashforth steps in the half log-SNR, one evaluation each.

    With the estimate m (clean: DPM-Solver++, noise: DPM-Solver) extrapolated by the polynomial through the last one,
    two or three, in the form of :class:`Interval`:

    .. math:: x' = \alpha' D + \sigma' n + c \sum_{j \ge 1} w_j (m_{-j} - m), \quad
        \sum_j w_j s_j^k = \mu_k, \quad s_j = \tfrac{\lambda_{-j} - \lambda}{h}

    The published methods differ from it in one moment each. 2M "midpoint" has mu_0 / 2 in place of mu_1. 3M has half
    of mu_2, since its :math:`D_2` is half of the second derivative that it is used for; that keeps it at order 2,
    though with a small constant on coarse grids. ``curvature="exact"`` puts the factor right: order 3.

    Attributes:
        solver_order: 1 (DDIM), 2 or 3.
        form: "denoised" (DPM-Solver++) or "noise" (DPM-Solver).
        variant: Of order 2: "midpoint" (default of the authors, who call it "dpmsolver") or "heun" ("taylor": mu_1).
        curvature: Of order 3: "published" or "exact".

    """

    form: Form = "denoised"
    variant: Literal["midpoint", "heun"] = "midpoint"
    curvature: Literal["published", "exact"] = "published"

    source = "Lu et al. 2022b, DPM-Solver++, Algorithm 2 and appendix B; Lu et al. 2022a, DPM-Solver, appendix D"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self.form)
        if self.variant not in ("midpoint", "heun"):
            raise ArgumentError("variant", got=repr(self.variant), expected="'midpoint' or 'heun'")
        if self.curvature not in ("published", "exact"):
            raise ArgumentError("curvature", got=repr(self.curvature), expected="'published' or 'exact'")

    def regular_order(self) -> int:
        """Two for 3M as published."""
        return 2 if self.solver_order == 3 and self.curvature == "published" else self.solver_order

    def step(self, s: StepBuilder) -> None:
        """First order, plus what the past says about the slope and the curvature."""
        m, over = estimate(s, s.x, s.t, self.form), Interval(s.interpolant, s.t, s.t_next, self.form)
        if s.index < self.accurate_steps(s):
            return s.advance(self.accurate_step(s), remember=m)
        x = hold(s, s.x, s.t, s.t_next)
        if over.regular and (past := past_times(s, self.order_of_step(s) - 1)):
            weights = self.weights([over.fraction(t) for t in past], over.y)
            x = x + over.scale * differences(weights, [s.history(k) for k in range(1, len(past) + 1)], m)
        s.advance(x, remember=m)

    def weights(self, past: list[float], y: float) -> tuple[float, ...]:
        """Weights of the past estimates, whose nodes are given, newest first."""
        moments = list(kernel_moments(y, 1 + len(past)))
        if len(past) == 1 and self.variant == "midpoint":
            moments[1] = moments[0] / 2
        if len(past) == 2 and self.curvature == "published":
            moments[2] /= 2
        return lagrange_weights([0.0, *past], moments)[1:]
