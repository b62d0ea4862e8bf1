"""The continuous noise schedules of the diffusion literature, as interpolants; their clock is t_c = 1 - t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .interpolants import (
    Coefficients,
    Interpolant,
    VariancePreserving,
    check_found,
    check_noise_ratio,
    check_parameter,
    check_time,
    log_square_sum,
)


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    r"""Variance preserving with a linear beta, on :math:`t_c = 1 - t`.

    .. math:: \log \alpha = -\tfrac14 (\beta_1 - \beta_0) t_c^2 - \tfrac12 \beta_0 t_c, \quad
        \sigma = \sqrt{-\mathrm{expm1}(2 \log \alpha)}

    alpha(0) is not 0 (6.6e-3 by default, nu = 152.2), so noise predictions are usable from t = 0 on; dsigma is
    infinite at t = 1.

    Args:
        beta_min: Noise rate at the data end, 0.1.
        beta_max: Noise rate at the noise end, 20; above ``beta_min``.

    Source:
        Song et al. 2021, appendix B. ``noise_range`` ends at t_c = 1e-3, where they stop.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    name: ClassVar[str] = "vp"

    def __post_init__(self) -> None:
        check_parameter("beta_min", self.beta_min, above=0.0)
        check_parameter("beta_max", self.beta_max, above=self.beta_min)

    def __call__(self, t: float) -> Coefficients:
        """Values and derivatives; dsigma is ``-inf`` at t = 1."""
        tc = 1.0 - check_time(t)
        spread = self.beta_max - self.beta_min
        log_alpha = -(spread * tc / 4 + self.beta_min / 2) * tc
        a, s = math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha))
        da = a * (self.beta_min + spread * tc) / 2
        return Coefficients(a, s, da, -a * da / s if s > 0 else -math.inf)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``t_c = 2 L / (sqrt(beta_0^2 + 2 (beta_1 - beta_0) L) + beta_0)`` with ``L = log(1 + nu^2)``."""
        check_noise_ratio(nu)
        if nu == math.inf:
            return check_found(-math.inf, nu, self)
        spread, rate = self.beta_max - self.beta_min, log_square_sum(nu)
        tc = 2 * rate / (math.sqrt(self.beta_min**2 + 2 * spread * rate) + self.beta_min)
        return check_found(1.0 - tc, nu, self)

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise ratios at t_c = 1e-3 and at t_c = 1."""
        return self.noise_ratio(1 - 1e-3), self.noise_ratio(0.0)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    r"""The cosine schedule in continuous time, on :math:`t_c = 1 - t`.

    .. math:: \alpha = \cos \phi / \cos \phi_0, \quad
        \sigma = \sqrt{\sin(\phi + \phi_0) \sin(\phi - \phi_0)} / \cos \phi_0, \quad
        \phi = \tfrac{\pi}{2} \tfrac{t_c + o}{1 + o}, \; \phi_0 = \phi(t_c = 0)

    The product of sines is 1 - alpha^2 without the cancellation. alpha(0) = 0 and dsigma(1) = -inf. The betas of
    the discrete schedule are clipped at 0.999, so networks have seen noise ratios up to 2.0291e4 only: ``t_min`` is
    the time of that level (3.1e-5), and the formulas hold before it too.

    Args:
        offset: The o above, 0.008; positive.
        nu_max: Largest noise ratio of training; None where there was no clipping (then ``t_min`` is 0).

    Source:
        Nichol & Dhariwal 2021.
    """

    offset: float = 0.008
    nu_max: float | None = 20291.0

    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        check_parameter("offset", self.offset, above=0.0)
        if self.nu_max is not None:
            check_parameter("nu_max", self.nu_max, above=0.0)

    @property
    def _first(self) -> float:
        return math.pi / 2 * self.offset / (1 + self.offset)

    def __call__(self, t: float) -> Coefficients:
        """Values and derivatives; alpha(0) = 0, dsigma is ``-inf`` at t = 1."""
        t, first, rate = check_time(t), self._first, math.pi / 2 / (1 + self.offset)
        turned = rate * (1.0 - t)
        # cos(phi) as the sine of what is missing to a right angle, which is exactly rate * t: exact at alpha = 0.
        scale = math.cos(first)
        a = math.sin(rate * t) / scale if t < 0.5 else math.cos(first + turned) / scale
        s = math.sqrt(math.sin(turned + 2 * first) * math.sin(turned)) / scale
        da = rate * math.sin(first + turned) / scale
        return Coefficients(a, s, da, -a * da / s if s > 0 else -math.inf)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``tan(phi) = sqrt(nu^2 + sin^2 phi_0) / cos(phi_0)``."""
        check_noise_ratio(nu)
        first = self._first
        # tan(phi) cos(phi_0) = sqrt(nu^2 + sin^2 phi_0); the complementary angle is rate * t.
        missing = math.atan2(math.cos(first), math.hypot(nu, math.sin(first)))
        return check_found(missing * (2 / math.pi) * (1 + self.offset), nu, self)

    @property
    def t_min(self) -> float:
        """Time of ``nu_max``."""
        return 0.0 if self.nu_max is None else self.time_at_noise_ratio(self.nu_max)

    @property
    def noise_range(self) -> tuple[float, float]:
        """Noise ratios at t_c = 1e-3 and at ``t_min``."""
        return self.noise_ratio(1 - 1e-3), self.noise_ratio(self.t_min)


@dataclass(frozen=True)
class VE(Interpolant):
    r"""Variance exploding: :math:`\alpha = 1, \; \sigma = \nu_{min} (\nu_{max} / \nu_{min})^{1 - t}`.

    sigma(1) is ``nu_min``, not 0: a run ends with that much noise unless its last value is a denoised estimate.

    Args:
        nu_min: Noise level at t = 1, 0.01; positive.
        nu_max: Noise level at t = 0, 50; above ``nu_min``.

    Source:
        Song & Ermon 2019; Song et al. 2021 (CIFAR-10 values).
    """

    nu_min: float = 0.01
    nu_max: float = 50.0

    name: ClassVar[str] = "ve"

    def __post_init__(self) -> None:
        check_parameter("nu_min", self.nu_min, above=0.0)
        check_parameter("nu_max", self.nu_max, above=self.nu_min)

    def __call__(self, t: float) -> Coefficients:
        """Alpha is 1; sigma falls geometrically."""
        t, rate = check_time(t), math.log(self.nu_max / self.nu_min)
        s = self.nu_min * math.exp(rate * (1.0 - t))
        return Coefficients(1.0, s, 0.0, -rate * s)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``t_c = log(nu / nu_min) / log(nu_max / nu_min)``."""
        check_noise_ratio(nu)
        tc = math.log(nu / self.nu_min) / math.log(self.nu_max / self.nu_min) if nu > 0 else -math.inf
        return check_found(1.0 - tc, nu, self)

    @property
    def noise_range(self) -> tuple[float, float]:
        """``(nu_min, nu_max)``."""
        return self.nu_min, self.nu_max


@dataclass(frozen=True)
class EDM(Interpolant):
    r"""EDM's coordinates: :math:`\alpha = 1, \; \sigma = \sigma_{max} (1 - t)`, linear in the noise level.

    So Euler's rule in t is Euler's rule in EDM's noise level, as Karras et al. integrate. The run starts at
    ``sigma_max`` times a standard normal and ends at sigma = 0.

    Args:
        sigma_min: Smallest noise level of training, 0.002: where grids in the noise level stop before t = 1.
        sigma_max: Noise level at t = 0, 80; above ``sigma_min``.

    Source:
        Karras et al. 2022.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    name: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        check_parameter("sigma_min", self.sigma_min, above=0.0)
        check_parameter("sigma_max", self.sigma_max, above=self.sigma_min)

    def __call__(self, t: float) -> Coefficients:
        """Alpha is 1; sigma falls on a line."""
        return Coefficients(1.0, self.sigma_max * (1.0 - check_time(t)), 0.0, -self.sigma_max)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``t = 1 - nu / sigma_max``."""
        check_noise_ratio(nu)
        return check_found(1.0 - nu / self.sigma_max, nu, self)

    @property
    def noise_range(self) -> tuple[float, float]:
        """``(sigma_min, sigma_max)``."""
        return self.sigma_min, self.sigma_max
