"""DDPM's ancestral sampler, with a variance that is fixed or that the network says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError, PlanError
from ..plan import Expression, StepBuilder
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

    ``learned``: between the two, element by element, where the network's second half :math:`u \in [-1, 1]` says so,
    :math:`\log v^2 = \tfrac{1 + u}{2} \log \beta + \tfrac{1 - u}{2} \log \tilde\beta`. The model is a network of 2C
    channels adapted with ``split_variance=True``; under guidance the conditional branch says it.

    Attributes:
        variance: "fixed_small", "fixed_large" or "learned".

    Raises:
        ArgumentError: Another variance; when called, "learned" with a model that has none.
        PlanError: When planned, "learned" from data to noise.

    """

    variance: Literal["fixed_small", "fixed_large", "learned"] = "fixed_small"

    order = 1
    source = (
        "Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models, equations 6, 7 and section 3.2; "
        "Nichol & Dhariwal 2021, Improved Denoising Diffusion Probabilistic Models, equation 15"
    )
    stochastic = True

    def __post_init__(self) -> None:
        if self.variance not in ("fixed_small", "fixed_large", "learned"):
            expected = "'fixed_small', 'fixed_large' or 'learned'"
            raise ArgumentError("variance", got=repr(self.variance), expected=expected)

    def step(self, s: StepBuilder) -> None:
        """One evaluation."""
        x = s.alpha_next * s.denoised(s.x, s.t)
        if s.sigma_next != 0:
            kept, fresh = noise_shares(s, s.t, s.t_next)
            x = x + s.sigma_next * kept * s.noise_prediction(s.x, s.t)
            small = s.sigma_next * fresh
            large = s.sigma * math.hypot(s.alpha_next, s.sigma_next) / math.hypot(s.alpha, s.sigma) * fresh
            if self.variance == "learned":
                x = x + self.learned(s, small, large)
            else:
                x = x + (small if self.variance == "fixed_small" else large) * s.normal()
        s.advance(x)

    def learned(self, s: StepBuilder, small: float, large: float) -> Expression:
        """Noise of scales between the two: their geometric mean, times the exponential of u times half their ratio."""
        if s.h < 0:
            expected = "times from noise to data, for which the variance was learned"
            raise PlanError("grid", got=f"a step from t = {s.t:.4g} to {s.t_next:.4g}", expected=expected)
        log_scale = 0.5 * math.log(large / small) * s.variance(s.x, s.t)
        return math.sqrt(small * large) * s.scaled_normal(log_scale)
