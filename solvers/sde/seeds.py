"""SEEDS: exponential Runge-Kutta methods for the SDE, with the exact covariance of the noise of their stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ArgumentError
from ..exponential.coefficients import kernel_moments
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register
from .exponential_family import ExponentialStep
from .noising import check_range


@dataclass(frozen=True)
class SEEDS(FixedGridSolver):
    """What the methods of all orders share.

    Attributes:
        tau: Noise rate of :class:`ExponentialStep`, at least 0; 1 reverses the noising process, 0 is the flow.
        s_noise: Factor of the added noise.

    """

    tau: float = 1.0
    s_noise: float = 1.0

    source = "Gonzalez, Fernandez, Tran, Gherbi, Hajri & Masmoudi 2023, SEEDS, algorithms 1 and 2"
    stochastic = True

    def __post_init__(self) -> None:
        check_range("tau", self.tau, 0)
        check_range("s_noise", self.s_noise, 0)

    def first_order(self, s: StepBuilder, e: ExponentialStep) -> None:
        """Hold the clean estimate over the step."""
        (m0,) = kernel_moments(e.y, 1)
        x = e.linear(s.x) + s.alpha_next * m0 * s.denoised(s.x, s.t)
        if e.fresh() and s.sigma_next:
            x = x + self.s_noise * e.noise(s.normal())
        s.advance(x)


@register("seeds1")
@dataclass(frozen=True)
class SEEDS1(SEEDS):
    r"""First-order exponential step of the SDE: weak order 1; with tau = 1 it is DDIM with eta = 1.

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\tau^2 h} x + \alpha' \mu_0(q h) D
        + \sigma' \sqrt{1 - e^{-2 \tau^2 h}}\, z,
        \quad q = 1 + \tau^2

    Options are those of :class:`SEEDS`.
    """

    order = 1

    def step(self, s: StepBuilder) -> None:
        """One evaluation."""
        self.first_order(s, ExponentialStep.between(s, s.t, s.t_next, self.tau**2))


@register("seeds2")
@dataclass(frozen=True)
class SEEDS2(SEEDS):
    r"""Two-stage exponential method of the SDE: weak order 2.

    .. math:: u = \tfrac{\sigma_1}{\sigma} e^{-\tau^2 c h} x + \alpha_1 \mu_0(q c h) D
        + \sigma_1 \sqrt{1 - e^{-2 \tau^2 c h}}\, z_1

    .. math:: x' = \tfrac{\sigma'}{\sigma} e^{-\tau^2 h} x
        + \alpha' \mu_0(q h) \left[ D + \tfrac{1}{2c} (D(u) - D) \right]
        + \sigma' \left[ e^{-\tau^2 (1 - c) h} \sqrt{1 - e^{-2 \tau^2 c h}}\, z_1
        + \sqrt{1 - e^{-2 \tau^2 (1 - c) h}}\, z_2 \right]

    u lies at :math:`\lambda + c h`. Both stages see the same path: with fresh noise in the second the order would be 1.

    Attributes:
        tau, s_noise: See :class:`SEEDS`.
        c: Where the inner stage lies, in (0, 1].

    """

    c: float = 0.5

    order = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.c <= 1:
            raise ArgumentError("c", got=self.c, expected="a number in (0, 1]")

    def step(self, s: StepBuilder) -> None:
        """Two evaluations; one where the step is infinitely long."""
        e = ExponentialStep.between(s, s.t, s.t_next, self.tau**2)
        if not math.isfinite(e.h):
            return self.first_order(s, e)
        c = self.c
        middle = s.t_next if c == 1 else s.interpolant.time_at(e.lam + c * e.h)
        part = ExponentialStep.between(s, s.t, middle, self.tau**2)
        z1, z2 = s.normal(), s.normal()
        d = s.denoised(s.x, s.t)
        (m0,), (m0_part,) = kernel_moments(e.y, 1), kernel_moments(part.y, 1)
        u = part.linear(s.x) + part.alpha_next * m0_part * d + self.s_noise * part.noise(z1)
        change = s.denoised(u, middle) - d
        noise = e.decay(1 - c) * e.noise(z1, c) + e.noise(z2, 1 - c)
        s.advance(e.linear(s.x) + s.alpha_next * m0 * (d + (0.5 / c) * change) + self.s_noise * noise)
