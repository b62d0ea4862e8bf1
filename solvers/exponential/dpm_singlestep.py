"""Singlestep DPM-Solver and DPM-Solver++: exponential Runge-Kutta steps with nodes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register
from .coefficients import kernel_moments, lagrange_weights
from .interval import Form, Interval, check_form, differences, estimate, hold


@register("dpm_solver2", solver_order=2)
@register("dpm_solver3", solver_order=3)
@register("dpmpp_2s", form="denoised", solver_order=2)
@register("dpmpp_3s", form="denoised", solver_order=3)
@dataclass(frozen=True)
class DPMSolverSinglestep(FixedGridSolver):
    r"""Stages at fixed fractions of the step in the half log-SNR, as many evaluations as the order.

    .. math:: u_j = \text{hold}_{t \to t_j} + c_j \sum_{0 < i < j} w_{ji} (m_i - m_0), \quad
        \lambda_j = \lambda + r_j h

    Order 2 has one inner node (1/2), order 3 two (1/3, 2/3), of which "midpoint" uses only the last in the final sum.
    Each sum has the moments of the kernel, with mu_0 / 2 in place of mu_1 in the "midpoint" of order 2. A step that
    begins or ends at a singular time has order 1.

    Attributes:
        solver_order: 1 (DDIM), 2 or 3, which is also the order of convergence.
        form: "noise" (DPM-Solver) or "denoised" (DPM-Solver++).
        variant: "midpoint" (the authors' "dpmsolver") or "heun" ("taylor": every moment exact).
        r: Inner nodes in (0, 1), increasing; (1/2) or (1/3, 2/3) by default. The second of order 3 must be 2/3: the
            first inner estimate has an error O(h^2), and its weight is O(h^2) instead of O(h) only then.

    """

    solver_order: int = 2
    form: Form = "noise"
    variant: Literal["midpoint", "heun"] = "midpoint"
    r: tuple[float, ...] | None = None

    source = "Lu et al. 2022a, DPM-Solver, Algorithms 1 and 2; Lu et al. 2022b, DPM-Solver++, Algorithm 1"

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3):
            raise ArgumentError("solver_order", got=self.solver_order, expected="1, 2 or 3")
        check_form(self.form)
        if self.variant not in ("midpoint", "heun"):
            raise ArgumentError("variant", got=repr(self.variant), expected="'midpoint' or 'heun'")
        nodes = self.nodes
        if len(nodes) != self.solver_order - 1 or not all(a < b for a, b in zip((0, *nodes), (*nodes, 1), strict=True)):
            expected = f"{self.solver_order - 1} increasing numbers in (0, 1)"
            raise ArgumentError("r", got=self.r, expected=expected)
        object.__setattr__(self, "order", self.solver_order)
        if self.solver_order == 3 and abs(nodes[-1] - 2 / 3) > 1e-12:
            raise ArgumentError("r", got=self.r, expected="2/3 as the second node of order 3")

    @property
    def nodes(self) -> tuple[float, ...]:
        """Inner nodes as fractions of the step."""
        return self.r if self.r is not None else ((), (1 / 2,), (1 / 3, 2 / 3))[self.solver_order - 1]

    def step(self, s: StepBuilder) -> None:
        """All stages, then the weighted sum."""
        path, whole = s.interpolant, Interval(s.interpolant, s.t, s.t_next, self.form)
        x = hold(s, s.x, s.t, s.t_next)
        if self.solver_order == 1 or not whole.regular:
            return s.advance(x)
        m, times, inner = estimate(s, s.x, s.t, self.form), [], []
        for r in self.nodes:
            times.append(path.time_at(whole.lam + r * whole.h))
            part = Interval(path, s.t, times[-1], self.form)
            u = hold(s, s.x, s.t, times[-1])
            if inner:
                fractions = [0.0, *(part.fraction(t) for t in times[:-1])]
                weights = lagrange_weights(fractions, kernel_moments(part.y, len(fractions)))
                u = u + part.scale * differences(weights[1:], inner, m)
            inner.append(estimate(s, u, times[-1], self.form))
        if self.variant == "midpoint":
            times, inner = times[-1:], inner[-1:]
        moments = list(kernel_moments(whole.y, 1 + len(inner)))
        if self.solver_order == 2 and self.variant == "midpoint":
            moments[1] = moments[0] / 2
        weights = lagrange_weights([0.0, *(whole.fraction(t) for t in times)], moments)
        s.advance(x + whole.scale * differences(weights[1:], inner, m))
