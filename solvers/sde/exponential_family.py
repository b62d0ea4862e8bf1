"""The SDE family with noise rate tau, whose linear part exponential steps solve exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ArgumentError, SingularTimeError
from ..plan import Expression, StepBuilder

FEW_STEPS = 15  # below it "auto" lowers the order at the end, as diffusers does (the authors of DPM-Solver: 10)


def check_final(value: str) -> None:
    """Refuse a ``lower_order_final`` that is not one of the three."""
    if value not in ("auto", "always", "never"):
        raise ArgumentError("lower_order_final", got=repr(value), expected="'auto', 'always' or 'never'")


def allowed_at_the_end(s: StepBuilder, lower_order_final: str) -> int:
    """The number of clean estimates that a step may use because of the steps left: ..., 2, 1, or any number."""
    lowered = lower_order_final == "always" or (lower_order_final == "auto" and s.steps < FEW_STEPS)
    return s.steps - s.index if lowered else s.steps + 1


@dataclass(frozen=True)
class ExponentialStep:
    r"""The exact solution between two half log-SNRs, for constant tau and any clean estimate D.

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\tau^2 h} x + \alpha' \int_0^h q e^{-q (h - u)} D(\lambda + u)\, du
        + \sigma' \sqrt{1 - e^{-2 \tau^2 h}}\, z, \quad q = 1 + \tau^2

    All tau have the same marginals: 0 is the flow, 1 the reversal of the noising process. From data to noise (h < 0)
    the drift that pays for the noise changes its sign, that is tau^2 becomes -tau^2 here; with tau = 1, q is then 0 and
    the step is the noising process itself, without D.

    Attributes:
        lam, lam_next: Half log-SNRs at the two ends.
        sigma, alpha_next, sigma_next: The interpolant there.
        tau2: The square of tau, at least 0.

    Source: Xue et al. 2023, SA-Solver, equations 5 and 6; Gonzalez et al. 2023, SEEDS, section 3.
    """

    lam: float
    lam_next: float
    sigma: float
    alpha_next: float
    sigma_next: float
    tau2: float

    @classmethod
    def between(cls, s: StepBuilder, t: float, t_next: float, tau2: float) -> ExponentialStep:
        """The step from ``t`` to ``t_next``.

        Raises:
            SingularTimeError: ``t`` is clean data, or ``t_next`` pure noise.

        """
        path = s.interpolant
        step = cls(
            path.half_log_snr(t),
            path.half_log_snr(t_next),
            path.sigma(t),
            path.alpha(t_next),
            path.sigma(t_next),
            tau2,
        )
        if step.h == -math.inf or math.isnan(step.h):
            end = t if step.sigma == 0 else t_next
            because = "an exponential step from data to noise starts after sigma = 0 and ends before alpha = 0"
            raise SingularTimeError("t", got=end, because=because)
        return step

    @property
    def h(self) -> float:
        """``lam_next - lam``; infinite at pure noise and at clean data."""
        return self.lam_next - self.lam

    @property
    def signed(self) -> float:
        """tau^2 with the sign of h."""
        return math.copysign(self.tau2, self.h)

    @property
    def q(self) -> float:
        """Rate at which the past is forgotten."""
        return 1 + self.signed

    @property
    def y(self) -> float:
        """``q h``, the argument of the moments."""
        return self.q * self.h

    def decay(self, fraction: float = 1.0) -> float:
        """``exp(-tau^2 |h| fraction)``: what is left of noise after that part of the step."""
        return math.exp(-self.tau2 * abs(self.h) * fraction) if self.tau2 and fraction else 1.0

    def fresh(self, fraction: float = 1.0) -> float:
        """``sqrt(1 - exp(-2 tau^2 |h| fraction))``: the deviation of new noise after that part, in units of sigma."""
        return math.sqrt(-math.expm1(-2 * self.tau2 * abs(self.h) * fraction)) if self.tau2 and fraction else 0.0

    def linear(self, x: Expression) -> Expression:
        """The part of the old state."""
        return self.sigma_next / self.sigma * self.decay() * x

    def noise(self, z: Expression, fraction: float = 1.0) -> Expression:
        """New noise made of unit normals."""
        return self.sigma_next * self.fresh(fraction) * z
