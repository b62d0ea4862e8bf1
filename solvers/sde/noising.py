"""What stochastic samplers share: the noising process, its reversal's share of fresh noise, and steps in nu.

All in the coordinates of any interpolant, in terms of the clean estimate D and the noise estimate n, so that nothing
is divided by alpha or sigma: with ``x = alpha (x_1 + nu x_0)``, a step in ``x / alpha`` is a step here.
"""

from __future__ import annotations

import math

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a number outside [low, high], and NaN."""
    if not (isinstance(value, int | float) and low <= value <= high):
        expected = f"a number in [{low:g}, {high:g}]" if high < math.inf else f"a number, at least {low:g}"
        raise ArgumentError(name, got=value, expected=expected)


def flow_to(s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
    """``alpha' D + sigma' n``: Euler's step of the flow in nu, which is DDIM's (Song et al. 2021, equation 12)."""
    alpha, sigma = s.interpolant.alpha(t_next), s.interpolant.sigma(t_next)
    clean = alpha * s.denoised(x, t)
    return clean + sigma * s.noise_prediction(x, t) if sigma else clean


def heun_to(s: StepBuilder, x: Expression, t: float, t_next: float) -> Expression:
    r"""Heun's step of the flow in the noise ratio nu, :math:`\alpha' D + \sigma' n + \alpha' (\nu' - \nu)(n' - n) / 2`.

    Euler's where nu is infinite or nu' is 0 (Karras et al. 2022, EDM, algorithm 1).
    """
    ahead = flow_to(s, x, t, t_next)
    nu, nu_next = s.interpolant.noise_ratio(t), s.interpolant.noise_ratio(t_next)
    if nu_next == 0 or not math.isfinite(nu):
        return ahead
    change = s.noise_prediction(ahead, t_next) - s.noise_prediction(x, t)
    return ahead + 0.5 * s.interpolant.alpha(t_next) * (nu_next - nu) * change


def renoise(s: StepBuilder, x: Expression, t: float, t_noisier: float, s_noise: float = 1.0) -> Expression:
    r"""The noising process from ``t`` back to a noisier time, exactly.

    .. math:: x^\circ = \tfrac{\alpha^\circ}{\alpha} x + \sigma^\circ \sqrt{1 - (\nu / \nu^\circ)^2}\, z
    """
    alpha, alpha_noisier = s.interpolant.alpha(t), s.interpolant.alpha(t_noisier)
    ratio = s.interpolant.noise_ratio(t) / s.interpolant.noise_ratio(t_noisier)
    added = s.interpolant.sigma(t_noisier) * math.sqrt((1 - ratio) * (1 + ratio))
    return alpha_noisier / alpha * x + s_noise * added * s.normal()


def noise_shares(s: StepBuilder, t: float, t_next: float, eta: float = 1.0) -> tuple[float, float]:
    r"""Roots of the shares of the noise variance that a reversal keeps and renews: :math:`\sqrt{1 - c}, \sqrt{c}`.

    .. math:: c = \eta^2 (1 - e^{-2 |\lambda' - \lambda|}), \quad
        1 - c = (1 - \eta^2) + \eta^2 e^{-2 |\lambda' - \lambda|}

    With eta = 1 those of the reversal of the noising process. Without a difference of squares, which for cosine
    schedules in float32 goes below zero, or of nearly equal numbers on long steps.
    """
    h = abs(s.interpolant.half_log_snr(t_next) - s.interpolant.half_log_snr(t))
    kept = (1 - eta) * (1 + eta) + eta**2 * math.exp(-2 * h)
    return math.sqrt(kept), eta * math.sqrt(-math.expm1(-2 * h))
