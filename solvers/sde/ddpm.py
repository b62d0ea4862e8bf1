"""DDPM's ancestral sampler with its two fixed variances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import StepBuilder
from ..solver import FixedGridSolver, register
from .noising import noise_shares


@register("ddpm")
@dataclass(frozen=True)
class DDPM(FixedGridSolver):
    r"""The posterior mean of the reversed noising chain, and noise of a fixed variance.

    .. math:: x' = \alpha' D + \sigma' e^{-h} n + v\, z, \quad h = |\lambda' - \lambda|

    ``fixed_small``: :math:`v^2 = \sigma'^2 (1 - e^{-2h})`, the variance of the posterior given x_1
    (:math:`\tilde\beta`), which makes the step DDIM's with eta = 1. ``fixed_large``: :math:`\beta`, that of the
    noising step, :math:`v^2 = \sigma^2 (1 - e^{-2h}) (\alpha'^2 + \sigma'^2) / (\alpha^2 + \sigma^2)`; the last factor
    is 1 for variance-preserving paths and makes the sampler the same on all others. The two are right for data at one
    point and for unit normal data; both have weak order 1. No noise is added on arrival at clean data.

    Attributes:
        variance: "fixed_small" or "fixed_large".

    """

    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"

    order = 1
    source = "Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models, equations 6, 7 and section 3.2"
    stochastic = True

    def __post_init__(self) -> None:
        if self.variance not in ("fixed_small", "fixed_large"):
            raise ArgumentError("variance", got=repr(self.variance), expected="'fixed_small' or 'fixed_large'")

    def step(self, s: StepBuilder) -> None:
        """One evaluation."""
        x = s.alpha_next * s.denoised(s.x, s.t)
        if s.sigma_next != 0:
            kept, fresh = noise_shares(s, s.t, s.t_next)
            x = x + s.sigma_next * kept * s.noise_prediction(s.x, s.t)
            scale = s.sigma_next
            if self.variance == "fixed_large":
                scale = s.sigma * math.hypot(s.alpha_next, s.sigma_next) / math.hypot(s.alpha, s.sigma)
            x = x + scale * fresh * s.normal()
        s.advance(x)
