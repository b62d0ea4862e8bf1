"""UniPC: exponential predictor and corrector with one evaluation a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder
from ..solver import register
from .coefficients import kernel_moments, lagrange_weights
from .interval import Form, Interval, check_form, estimate, hold
from .multistep import Multistep, past_times

VARIANTS = ("bh1", "bh2", "vary_coeff")


@register("unipc")
@register("unipc3", solver_order=3)
@dataclass(frozen=True)
class UniPC(Multistep):
    r"""Predict with the past, evaluate there, correct with the new estimate, and keep it for the next step.

    .. math:: x' = r x + c \sum_j w_j m_j, \quad \sum_j w_j s_j^k = \mu_k

    in the form of :class:`Interval`. The predictor's nodes are the start of the step and ``solver_order - 1`` past
    times; the corrector's are those and the end of the step, with the estimate at the predicted point, which the next
    step uses as its own. So one evaluation a step gives order p + 1. The variants bh1 and bh2 put B / 2 in place of
    mu_1 where there are two nodes (the predictor of order 2 and the corrector of order 1), with B = y or mu_0;
    "vary_coeff" does not.

    Attributes:
        solver_order: p, 1 to 3; 2 under guidance and 3 otherwise is the advice of the authors.
        form: "denoised" (their default, "predict_x0") or "noise".
        variant: "bh2", "bh1" (for unconditional samples in less than 10 steps) or "vary_coeff".
        predictor: Whether the predictor uses the past; without, it is a first-order step.
        corrector: Whether there is a corrector.
        disable_corrector: Indices of steps without one, for instance (0,) under a large guidance weight.
        lower_order_final: "always" by default: the last step then has order 1 in runs of any length, which caps the
            order of the run at 2.

    """

    lower_order_final: Literal["auto", "always", "never"] = "always"
    form: Form = "denoised"
    variant: Literal["bh1", "bh2", "vary_coeff"] = "bh2"
    predictor: bool = True
    corrector: bool = True
    disable_corrector: tuple[int, ...] = ()

    source = "Zhao et al. 2023, UniPC, Algorithms 1 and 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self.form)
        if self.variant not in VARIANTS:
            raise ArgumentError("variant", got=repr(self.variant), expected=f"one of {VARIANTS}")

    def regular_order(self) -> int:
        """One more than the predictor's, if there is a corrector; its points must be accurate enough for that."""
        predicted = self.solver_order if self.predictor else 1
        return min(self.solver_order, predicted) + 1 if self.corrector else predicted

    def first_step_order(self) -> int:
        """The first step is corrected too, unless that is disabled."""
        return 2 if self.corrector and 0 not in self.disable_corrector else 1

    @property
    def starting_steps(self) -> int:
        """Until there is enough of the past, and a first step that also evaluates at its start."""
        return max(1, self.solver_order - 1)

    def step(self, s: StepBuilder) -> None:
        """Predict; unless it is the last step, evaluate and correct."""
        exact = self.accurate_steps(s)
        kept = self.corrector and s.index > exact
        m = s.history(1) if kept else estimate(s, s.x, s.t, self.form)
        if s.index < exact:
            return s.advance(self.accurate_step(s), remember=(m, m))
        over = Interval(s.interpolant, s.t, s.t_next, self.form)
        times = past_times(s, self.order_of_step(s) - 1) if over.regular else []
        nodes = [0.0, *(over.fraction(t) for t in times)]
        estimates = [m, *(s.history(k, 1) for k in range(1, len(nodes)))]
        predicted = self.predict(s, over, nodes, estimates)
        if not self.corrector or s.index == s.steps - 1:
            return s.advance(predicted, remember=(m, m))
        ahead = estimate(s, predicted, s.t_next, self.form)
        x = predicted
        if over.regular and s.index not in self.disable_corrector:
            nodes, estimates = [*nodes, 1.0], [*estimates, ahead]
            x = over.step(s.x, self.weights(nodes, over.y), estimates)
        s.advance(x, remember=(ahead, m))

    def predict(self, s: StepBuilder, over: Interval, nodes: list[float], estimates: list[Expression]) -> Expression:
        """The state at the end of the step, from what is known at its start."""
        m = estimates[0]
        if not over.regular:
            return over.first_order(s.x, m) if s.index else hold(s, s.x, s.t, s.t_next)
        used = len(nodes) if self.predictor else 1
        return over.step(s.x, self.weights(nodes[:used], over.y), estimates[:used])

    def weights(self, nodes: list[float], y: float) -> tuple[float, ...]:
        """Weights of the estimates at the nodes."""
        moments = list(kernel_moments(y, len(nodes)))
        if len(nodes) == 2 and self.variant != "vary_coeff":
            moments[1] = (y if self.variant == "bh1" else moments[0]) / 2
        return lagrange_weights(nodes, moments)
