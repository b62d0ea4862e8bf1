"""DEIS and LMS: Adams-Bashforth in an estimate as a polynomial of a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ...models import Interpolant
from ..ode.adams import adams_weights
from ..plan import StepBuilder
from ..solver import register
from .coefficients import clock_weights, exponential_weights
from .interval import Form, Interval, check_form, differences, estimate, hold
from .multistep import Multistep

CLOCKS = ("t", "nu", "lambda")


@register("deis_tab1")
@register("deis_tab2", solver_order=3)
@register("deis_tab3", solver_order=4)
@register("lms", clock="nu", solver_order=4, lower_order_final="never")
@dataclass(frozen=True)
class ClockAdams(Multistep):
    r"""Extrapolate an estimate by the polynomial, in a clock tau, through its last values; one evaluation a step.

    .. math:: x' = \alpha' D + \sigma' n + c \sum_{j \ge 1} w_j (m_{-j} - m), \quad
        w_j = \int_0^1 y\, e^{-y (1 - s)}\, \ell_j(\tau(s))\, ds

    in the form of :class:`Interval`. The clock t on a schedule's own time is DEIS' tAB; nu = sigma / alpha is its rhoAB
    and LMS (Adams-Bashforth in x / alpha); lambda is the exponential Adams method, which is what diffusers calls DEIS.

    Attributes:
        solver_order: Estimates in the formula, 1 to 4: tAB-r of the paper has r + 1. LMS has 4.
        clock: "t", "nu" or "lambda".
        form: "noise" or "denoised".

    """

    clock: Literal["t", "nu", "lambda"] = "t"
    form: Form = "noise"

    highest = 4
    source = "Zhang & Chen 2023, DEIS, section 3 and appendix B; LMS: Katherine Crowson 2022, k-diffusion"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self.form)
        if self.clock not in CLOCKS:
            raise ArgumentError("clock", got=repr(self.clock), expected=f"one of {CLOCKS}")

    def step(self, s: StepBuilder) -> None:
        """First order, plus what the past says about the slope and higher derivatives."""
        m = estimate(s, s.x, s.t, self.form)
        if s.index < self.accurate_steps(s):
            return s.advance(self.accurate_step(s), remember=m)
        weights = self.weights(s, self.order_of_step(s) - 1)
        past = [s.history(k) for k in range(1, len(weights) + 1)]
        s.advance(hold(s, s.x, s.t, s.t_next) + differences(weights, past, m), remember=m)

    def weights(self, s: StepBuilder, count: int) -> tuple[float, ...]:
        """Scaled weights of at most ``count`` past estimates, newest first."""
        path, over = s.interpolant, Interval(s.interpolant, s.t, s.t_next, self.form)
        times = [s.grid[s.index - k] for k in range(min(count, s.remembered) + 1)]
        nodes = [tau for tau in (self.time(path, t) for t in times) if math.isfinite(tau)]
        if self.clock == "nu" and self.form == "noise":  # Adams-Bashforth of x / alpha, which also ends at nu = 0
            stop = path.noise_ratio(s.t_next)
            finite = math.isfinite(nodes[0] if nodes else math.inf) and math.isfinite(stop)
            return tuple(path.alpha(s.t_next) * w for w in adams_weights(nodes, nodes[0], stop)[1:]) if finite else ()
        if not over.regular:
            return ()
        if self.clock == "lambda":
            weights = exponential_weights([over.fraction(t) for t in times[: len(nodes)]], over.y)
        else:

            def tau(fraction: float) -> float:
                lam = over.lam + fraction * over.h
                return path.time_at(lam) if self.clock == "t" else math.exp(-lam)

            weights = clock_weights(nodes, tau, over.y)
        return tuple(over.scale * w for w in weights[1:])

    def time(self, path: Interpolant, t: float) -> float:
        """The clock at a time."""
        if self.clock == "t":
            return t
        return path.noise_ratio(t) if self.clock == "nu" else path.half_log_snr(t)
