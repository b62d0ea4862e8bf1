"""DPM-Solver++ for the SDE: two- and three-step multistep methods, and the two-stage method of k-diffusion."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..exponential.coefficients import kernel_moments
from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .exponential_family import ExponentialStep, allowed_at_the_end, check_final
from .noising import check_range, noise_shares


@dataclass(frozen=True)
class MultistepSDE(FixedGridSolver):
    r"""Exponential steps whose clean estimate is extrapolated from the last ones.

    Attributes:
        eta: :math:`\tau^2` of :class:`ExponentialStep`, at least 0, as k-diffusion's eta: 1 (default) reverses the
            noising process, 0 is the deterministic method.
        s_noise: Factor of the added noise.
        lower_order_final: Whether the last step has order 1 and the one before at most 2: "auto" in runs of fewer than
            15 steps, "always", or "never". A step to clean data has order 1 in any case: it is infinitely long.

    """

    eta: float = 1.0
    s_noise: float = 1.0
    lower_order_final: Literal["auto", "always", "never"] = "auto"

    stochastic = True

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0)
        check_range("s_noise", self.s_noise, 0)
        check_final(self.lower_order_final)

    @property
    def starting_steps(self) -> int:
        """The steps before there are enough clean estimates."""
        return self.memory - 1

    @property
    @abstractmethod
    def memory(self) -> int:
        """Clean estimates that a regular step uses."""

    def step(self, s: StepBuilder) -> None:
        """One evaluation."""
        d = s.denoised(s.x, s.t)
        e = ExponentialStep.between(s, s.t, s.t_next, self.eta)
        available = min(self.memory, s.remembered + 1, allowed_at_the_end(s, self.lower_order_final))
        if not math.isfinite(e.h):
            available = 1
        x = e.linear(s.x) + s.alpha_next * self.drift(s, e, d, available)
        if e.fresh() and self.s_noise and s.sigma_next:
            x = x + self.s_noise * e.noise(s.normal())
        s.advance(x, remember=d)

    @abstractmethod
    def drift(self, s: StepBuilder, e: ExponentialStep, d: Expression, available: int) -> Expression:
        """The integral of the weighted clean estimate, from that many of its values."""

    def slope(self, s: StepBuilder, e: ExponentialStep, k: int, d: Expression, before: Expression) -> Expression:
        """``h (D_{-k} - D_{-k-1}) / (lam_{-k} - lam_{-k-1})``, the divided difference k steps ago."""
        lam, last = (s.interpolant.half_log_snr(s.grid[s.index - k - j]) for j in (0, 1))
        return (e.h / (lam - last)) * (d - before)


@register("dpmpp_2m_sde")
@dataclass(frozen=True)
class DPMSolverPP2MSDE(MultistepSDE):
    r"""Two-step exponential rule for the SDE: weak order 2, one evaluation a step.

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\eta h} x + \alpha' \left[ \mu_0 D + w D_1 \right]
        + \sigma' \sqrt{1 - e^{-2 \eta h}}\, z, \quad D_1 = \tfrac{h}{h_{-1}} (D - D_{-1}), \quad
        w = \tfrac12 \mu_0 \text{ or } \mu_1, \quad \mu_k = \mu_k((1 + \eta) h)

    Attributes:
        eta, s_noise, lower_order_final: See :class:`MultistepSDE`.
        solver_type: "midpoint", w = mu_0 / 2, or "heun", the exact weight mu_1 of a line; the moments mu_k are those of
            :func:`kernel_moments`.

    """

    solver_type: Literal["midpoint", "heun"] = "midpoint"

    order = 2
    source = "Lu et al. 2022, DPM-Solver++, section 6 and appendix A; Crowson 2022, k-diffusion (sample_dpmpp_2m_sde)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver_type not in ("midpoint", "heun"):
            raise ArgumentError("solver_type", got=repr(self.solver_type), expected="'midpoint' or 'heun'")

    @property
    def memory(self) -> int:
        """Two."""
        return 2

    def drift(self, s: StepBuilder, e: ExponentialStep, d: Expression, available: int) -> Expression:
        """The formula's bracket."""
        m0, m1 = kernel_moments(e.y, 2)
        if available < 2:
            return m0 * d
        weight = 0.5 * m0 if self.solver_type == "midpoint" else m1
        return m0 * d + weight * self.slope(s, e, 0, d, s.history(1))


@register("dpmpp_3m_sde")
@dataclass(frozen=True)
class DPMSolverPP3MSDE(MultistepSDE):
    r"""Three-step exponential rule for the SDE: weak order 2, one evaluation a step.

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\eta h} x + \alpha' \left[ \mu_0 D + \mu_1 D_1 + c \mu_2 C \right]
        + \sigma' \sqrt{1 - e^{-2 \eta h}}\, z

    with :math:`h D' \approx D_1` and :math:`h^2 D'' \approx 2 C` of the parabola through the last three estimates.
    A parabola needs c = 1; the published formula, and the implementations that follow it, have c = 1/2 and ignore half
    of the curvature. For eta = 0 the former has order 3 and the latter 2; noise leaves order 2 to both.

    Attributes:
        eta, s_noise, lower_order_final: See :class:`MultistepSDE`.
        curvature: "published" (c = 1/2) or "exact" (c = 1).

    """

    curvature: Literal["published", "exact"] = "published"

    order = 2
    source = "Lu et al. 2022, DPM-Solver++, appendix; Crowson 2023, k-diffusion (sample_dpmpp_3m_sde)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curvature not in ("published", "exact"):
            raise ArgumentError("curvature", got=repr(self.curvature), expected="'published' or 'exact'")

    @property
    def memory(self) -> int:
        """Three."""
        return 3

    def drift(self, s: StepBuilder, e: ExponentialStep, d: Expression, available: int) -> Expression:
        """The formula's bracket; with two estimates, that of the exact two-step rule."""
        m0, m1, m2 = kernel_moments(e.y, 3)
        if available < 2:
            return m0 * d
        last = self.slope(s, e, 0, d, s.history(1))
        if available < 3:
            return m0 * d + m1 * last
        lam, lam_1, lam_2 = (s.interpolant.half_log_snr(s.grid[s.index - j]) for j in range(3))
        bend = (e.h / (lam - lam_2)) * (last - self.slope(s, e, 1, s.history(1), s.history(2)))
        tangent = last + ((lam - lam_1) / e.h) * bend
        return m0 * d + m1 * tangent + (1 if self.curvature == "exact" else 0.5) * m2 * bend


@register("dpmpp_sde")
@dataclass(frozen=True)
class DPMSolverPPSDE(FixedGridSolver):
    r"""k-diffusion's two-stage SDE method: both stages are ancestral steps on one Brownian path. Weak order 2.

    .. math:: u = \alpha_1 D + \sigma_1 \sqrt{1 - c_1}\, n + \sigma_1 \sqrt{c_1}\, z_1, \quad
        x' = \alpha' \bar D + \sigma' \sqrt{1 - c}\, \bar n + \sigma' \sqrt{c}\, (\rho z_1 + \sqrt{1 - \rho^2} z_2)

    u lies at :math:`\lambda + r h`, :math:`\bar D = (1 - \tfrac{1}{2r}) D + \tfrac{1}{2r} D(u)`,
    :math:`\bar n = (x - \alpha \bar D) / \sigma`, and the shares c are those of :class:`Ancestral`. Both noises are
    increments of one Brownian motion in the clock nu, over the first part of the step and over all of it:
    :math:`\rho^2 = (\nu - \nu_1) / (\nu - \nu')`. With independent noises the order would be 1.

    Attributes:
        eta: Share of noise in [0, 1], as of :class:`Ancestral`.
        s_noise: Factor of the added noise.
        r: Where the inner stage lies, in (0, 1].

    """

    eta: float = 1.0
    s_noise: float = 1.0
    r: float = 0.5

    order = 2
    source = "Crowson 2022, k-diffusion (sample_dpmpp_sde), after Lu et al. 2022, DPM-Solver++ 2S"
    stochastic = True

    def __post_init__(self) -> None:
        check_range("eta", self.eta, 0, 1)
        check_range("s_noise", self.s_noise, 0)
        if not 0 < self.r <= 1:
            raise ArgumentError("r", got=self.r, expected="a number in (0, 1]")

    def step(self, s: StepBuilder) -> None:
        """Two evaluations; one where the step is infinitely long."""
        lam, lam_next = s.lam, s.lam_next
        if not math.isfinite(lam_next - lam):
            x = s.alpha_next * s.denoised(s.x, s.t)
            if s.sigma_next:
                x = x + self.ancestral(s, s.t_next, s.normal())
            return s.advance(x)
        middle = s.t_next if self.r == 1 else s.interpolant.time_at(lam + self.r * (lam_next - lam))
        z1, z2 = s.normal(), s.normal()
        d, alpha = s.denoised(s.x, s.t), s.interpolant.alpha(middle)
        change = s.denoised(alpha * d + self.ancestral(s, middle, z1), middle) - d
        nu, nu_middle, nu_next = (s.interpolant.noise_ratio(t) for t in (s.t, middle, s.t_next))
        rho2 = (nu - nu_middle) / (nu - nu_next)
        x = s.alpha_next * d + self.ancestral(s, s.t_next, math.sqrt(rho2) * z1 + math.sqrt(1 - rho2) * z2)
        weight = s.alpha_next - s.sigma_next * noise_shares(s, s.t, s.t_next, self.eta)[0] / nu
        s.advance(x + weight / (2 * self.r) * change)

    def ancestral(self, s: StepBuilder, t: float, z: Expression) -> Expression:
        """The noise of an ancestral step to ``t``: what it keeps of n, and what it adds."""
        (kept, fresh), sigma = noise_shares(s, s.t, t, self.eta), s.interpolant.sigma(t)
        return sigma * kept * s.noise_prediction(s.x, s.t) + self.s_noise * sigma * fresh * z
