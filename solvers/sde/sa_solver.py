"""SA-Solver: stochastic Adams methods, with a noise rate that depends on time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..exponential.coefficients import kernel_moments, lagrange_weights
from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .exponential_family import ExponentialStep, allowed_at_the_end, check_final
from .noising import check_range


@dataclass(frozen=True)
class Tau:
    """A noise rate that is ``value`` for ``start <= t <= stop`` and 0 elsewhere.

    Attributes:
        value: At least 0; 1 reverses the noising process.
        start, stop: Times in [0, 1].

    Example:
        >>> Tau(0.8)(0.5), Tau(0.8)(0.9)
        (0.8, 0.0)

    """

    value: float = 1.0
    start: float = 0.2
    stop: float = 0.8

    def __post_init__(self) -> None:
        check_range("value", self.value, 0)
        check_range("start", self.start, 0, 1)
        check_range("stop", self.stop, self.start, 1)

    def __call__(self, t: float) -> float:
        """The rate at ``t``."""
        return self.value if self.start <= t <= self.stop else 0.0

    @classmethod
    def of(cls, value: Tau | Callable[[float], float] | float) -> Callable[[float], float]:
        """A function itself, or a constant as a function."""
        return value if callable(value) else cls(value, 0.0, 1.0)


@register("sa_solver")
@dataclass(frozen=True)
class SASolver(FixedGridSolver):
    r"""Stochastic Adams predictor and corrector in PEC mode: one evaluation a step.

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\tau^2 h} x + \alpha' \sum_j w_j D_j
        + \sigma' \sqrt{1 - e^{-2 \tau^2 h}}\, z,
        \quad w_j = \int_0^h (1 + \tau^2) e^{-(1 + \tau^2)(h - u)} l_j(u)\, du

    The predictor interpolates the last ``predictor`` clean estimates, the corrector the one at the predicted state and
    the last ``corrector - 1``; both add the same noise. tau is that of the time at the end of the step.

    Weak order 2 from two nodes on, since noise caps it; more nodes make the error smaller. With tau = 0 the order is
    that of the corrector, if the first steps were exact. One node and tau = 0 is DDIM; two are DPM-Solver++ 2M.

    Attributes:
        predictor, corrector: Nodes of the two, 1 to 4; corrector 0 leaves it out. The paper recommends 3 and 4, and 2
            and 2 under strong guidance; the orders rise from 1 over the first steps.
        tau: A constant, a :class:`Tau`, or a function of t in [0, 1].
        few_steps: Two-node formulas use q h / 2 for the moment mu_1, which the paper prefers for few steps.
        lower_order_final: Whether orders fall to 1 towards the last step: "always", "auto" in runs of fewer than 15
            steps, or "never".

    """

    predictor: int = 3
    corrector: int = 4
    tau: Callable[[float], float] | float = Tau()
    few_steps: bool = True
    lower_order_final: Literal["auto", "always", "never"] = "always"

    order = 2
    source = "Xue, Yi, Luo, Zhang, Sun, Li & Ma 2023, SA-Solver, equations 14 to 18 and appendix D"
    stochastic = True

    def __post_init__(self) -> None:
        for name, lowest in (("predictor", 1), ("corrector", 0)):
            if getattr(self, name) not in range(lowest, 5):
                raise ArgumentError(name, got=getattr(self, name), expected=f"an integer, {lowest} to 4")
        check_final(self.lower_order_final)
        if not callable(self.tau):
            check_range("tau", self.tau, 0)
        object.__setattr__(self, "tau", Tau.of(self.tau))

    @property
    def starting_steps(self) -> int:
        """The steps of rising order."""
        return max(self.predictor - 1, self.corrector - 2, 0)

    def step(self, s: StepBuilder) -> None:
        """Predict, evaluate there, correct; the last step only predicts."""
        first = () if s.remembered else (s.denoised(s.x, s.t),)
        tau = Tau.of(self.tau)(s.t_next)
        check_range("tau", tau, 0)
        e = ExponentialStep.between(s, s.t, s.t_next, tau**2)
        z = s.normal()
        remaining = allowed_at_the_end(s, self.lower_order_final)
        past = list(first or [*(s.history(k) for k in range(1, s.remembered + 1)), s.history(s.remembered, 1)])[:4]
        nodes = [s.interpolant.half_log_snr(s.grid[s.index - k]) - e.lam if k else 0.0 for k in range(len(past))]
        usable = sum(map(math.isfinite, nodes)) if math.isfinite(e.h) else 1

        count = min(self.predictor, remaining, usable)
        predicted = self.moved(s, e, nodes[:count], past[:count], z)
        if s.index == s.steps - 1:
            return s.advance(predicted)
        ahead = s.denoised(predicted, s.t_next)
        count = min(self.corrector, remaining + 1, usable + 1)
        x = predicted
        if count and math.isfinite(e.h):
            x = self.moved(s, e, [e.h, *nodes[: count - 1]], [ahead, *past[: count - 1]], z)
        s.advance(x, remember=(ahead, *first))

    def moved(
        self, s: StepBuilder, e: ExponentialStep, nodes: Sequence[float], values: Sequence[Expression], z: Expression
    ) -> Expression:
        """The formula, with clean estimates ``values`` at the half log-SNRs ``nodes`` (from the start of the step)."""
        moments = list(kernel_moments(e.y, len(nodes)))
        if self.few_steps and len(nodes) == 2:
            moments[1] = e.y / 2
        weights = lagrange_weights([node / e.h for node in nodes], moments) if len(nodes) > 1 else moments
        x = e.linear(s.x) + e.noise(z)
        return x + sum(s.alpha_next * w * value for w, value in zip(weights, values, strict=True))
