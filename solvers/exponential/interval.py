"""One step of the exact solution in the half log-SNR, in either of its two forms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ...models import Interpolant
from ..plan import Expression, StepBuilder, weighted

Form = Literal["denoised", "noise"]


@dataclass(frozen=True)
class Interval:
    r"""The probability flow from one time to another, over a clean or a noise estimate m as a function of lambda.

    .. math:: x' = r\, x + c \int_0^1 y\, e^{-y (1 - s)}\, m(\lambda + s h)\, ds, \quad h = \lambda' - \lambda

    "denoised": r = sigma' / sigma, c = alpha', y = h (DPM-Solver++). "noise": r = alpha' / alpha, c = sigma', y = -h
    (DPM-Solver). The two are mirror images: exchanging data and noise turns lambda into -lambda.

    Attributes:
        path: The interpolant.
        start, stop: Times.
        form: Which estimate is integrated.

    Source: Lu et al. 2022a, DPM-Solver, equation 3.4; Lu et al. 2022b, DPM-Solver++, equation 8.

    """

    path: Interpolant
    start: float
    stop: float
    form: Form = "denoised"

    @property
    def lam(self) -> float:
        """Half log-SNR at the start."""
        return self.path.half_log_snr(self.start)

    @property
    def h(self) -> float:
        """Length in the half log-SNR; infinite where one end is singular."""
        return self.path.half_log_snr(self.stop) - self.lam

    @property
    def regular(self) -> bool:
        """Whether no end is singular, so that more than a first-order step exists."""
        return math.isfinite(self.h)

    @property
    def ratio(self) -> float:
        """r, the weight of the state; needs a start that is not singular in this form."""
        scale = self.path.sigma if self.form == "denoised" else self.path.alpha
        return scale(self.stop) / scale(self.start)

    @property
    def scale(self) -> float:
        """c, the scale of the integral."""
        return self.path.alpha(self.stop) if self.form == "denoised" else self.path.sigma(self.stop)

    @property
    def y(self) -> float:
        """The exponent of the kernel."""
        return self.h if self.form == "denoised" else -self.h

    def fraction(self, t: float) -> float:
        """Where a time lies: 0 at the start, 1 at the stop, negative before; infinite at a singular end."""
        return (self.path.half_log_snr(t) - self.lam) / self.h

    def first_order(self, x: Expression, m: Expression) -> Expression:
        r""":math:`r x + c \mu_0 m`, written without an exponential: finite at a singular stop too.

        :math:`c \mu_0 = c - r b` with b the scale of the estimate at the start, alpha for the clean one.
        """
        before = self.path.alpha(self.start) if self.form == "denoised" else self.path.sigma(self.start)
        return self.ratio * x + (self.scale - self.ratio * before) * m

    def step(self, x: Expression, weights: Iterable[float], estimates: Iterable[Expression]) -> Expression:
        """``ratio * x + scale * sum_j w_j m_j``."""
        return self.ratio * x + self.scale * weighted(weights, estimates)


def check_form(form: str) -> None:
    """Refuse anything but the two estimates."""
    if form not in ("denoised", "noise"):
        raise ArgumentError("form", got=repr(form), expected="'denoised' or 'noise'")


def estimate(s: StepBuilder, x: Expression, t: float, form: Form) -> Expression:
    """The clean or the noise estimate at (x, t)."""
    return s.denoised(x, t) if form == "denoised" else s.noise_prediction(x, t)


def hold(s: StepBuilder, x: Expression, start: float, stop: float) -> Expression:
    r"""Hold both estimates at (x, start): :math:`x' = \alpha' D + \sigma' n`, the first-order step of either form.

    It divides by nothing, so it also begins at alpha = 0 and ends at sigma = 0. Since the weights of any exponential
    step sum to :math:`\mu_0`, every step is this one plus weighted differences of estimates (DDIM, Song et al. 2021).
    """
    alpha, sigma = s.interpolant.alpha(stop), s.interpolant.sigma(stop)
    held = alpha * s.denoised(x, start) if alpha else Expression({})
    return held + sigma * s.noise_prediction(x, start) if sigma else held


def differences(weights: Iterable[float], estimates: Iterable[Expression], first: Expression) -> Expression:
    """``sum_j w_j (m_j - m_0)``: what a step adds to :func:`hold`."""
    return weighted(weights, (m - first for m in estimates))
