"""DDIM: the first-order exponential step, deterministic or with noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register


@register("ddim")
@dataclass(frozen=True)
class DDIM(FixedGridSolver):
    r"""Hold the clean and the noise estimate over the step; replace a share of the noise by fresh noise.

    .. math:: x' = \alpha' D + \sigma' \sqrt{1 - c}\, n + \sigma' \sqrt{c}\, z, \quad
        c = \eta^2 (1 - e^{-2 |\lambda' - \lambda|})

    With eta = 0 it equals Euler's method on the linear interpolant and Euler in the noise level for EDM. With eta = 1
    it is the ancestral sampler of DDPM with the posterior variance. The paper's variance,
    :math:`\eta^2 (\sigma'^2/\sigma^2)(1 - \alpha^2/\alpha'^2)`, is the variance-preserving case of
    :math:`\sigma'^2 c`; this form holds on every interpolant.

    Attributes:
        eta: Share of noise in [0, 1].

    """

    eta: float = 0.0

    order = 1
    source = "Song, Meng & Ermon 2021, Denoising Diffusion Implicit Models, equation 12"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ArgumentError("eta", got=self.eta, expected="a number in [0, 1]")

    def step(self, s: StepBuilder) -> None:
        """One linear combination of D, n and noise."""
        x = s.alpha_next * s.denoised(s.x, s.t)
        if s.sigma_next != 0:
            fresh = -(self.eta**2) * math.expm1(-2 * abs(s.lam_next - s.lam))
            x = x + s.sigma_next * math.sqrt(1 - fresh) * s.noise_prediction(s.x, s.t)
            if fresh:
                x = x + s.sigma_next * math.sqrt(fresh) * s.normal()
        s.advance(x)
