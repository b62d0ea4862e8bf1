"""DDIM: the first-order exponential step, deterministic or with noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder
from ..sde.noising import renoise
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

    With ``repeats`` R, a step is followed by R - 1 rounds of the noising process back to ``t`` and the step again, all
    at fresh states: parts of a sample that a transform or a loss holds in place and parts that the network makes up get
    to agree. A step to clean data, or backwards, is made once.

    Attributes:
        eta: Share of noise in [0, 1].
        repeats: R, how often each step is made.

    """

    eta: float = 0.0
    repeats: int = 1

    order = 1
    source = (
        "Song, Meng & Ermon 2021, Denoising Diffusion Implicit Models, equation 12; for repeats, Lugmayr et al. 2022, "
        "RePaint, algorithm 1, and Nair et al. 2023, Steered Diffusion, section 3"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ArgumentError("eta", got=self.eta, expected="a number in [0, 1]")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            raise ArgumentError("repeats", got=self.repeats, expected="an integer of at least 1")

    def step(self, s: StepBuilder) -> None:
        """One linear combination of D, n and noise, as often as ``repeats`` says."""
        x = self.ahead(s, s.x)
        if s.sigma_next != 0 and s.h > 0:
            for _ in range(self.repeats - 1):
                x = self.ahead(s, s.store(renoise(s, s.store(x), s.t_next, s.t)))
        s.advance(x)

    def ahead(self, s: StepBuilder, start: Expression) -> Expression:
        """The step from a state at ``t``."""
        x = s.alpha_next * s.denoised(start, s.t)
        if s.sigma_next != 0:
            fresh = -(self.eta**2) * math.expm1(-2 * abs(s.lam_next - s.lam))
            x = x + s.sigma_next * math.sqrt(1 - fresh) * s.noise_prediction(start, s.t)
            if fresh:
                x = x + s.sigma_next * math.sqrt(fresh) * s.normal()
        return x
