"""Integrators of the marginal-preserving SDE ``dx = (v + g s) dt + sqrt(2 g) dW`` of any velocity or score model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .diffusion import Diffusion


class MarginalPreserving(FixedGridSolver):
    """Shared by the integrators: the drift, and the denoising last step (the score is singular at sigma = 0)."""

    diffusion: Diffusion | str | float
    stochastic = True
    denoises_last = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "diffusion", Diffusion.of(self.diffusion))

    def g(self, s: StepBuilder, t: float) -> float:
        """The diffusion coefficient at ``t``."""
        return Diffusion.of(self.diffusion)(t, s.interpolant)

    def increment(self, s: StepBuilder, x: Expression, t: float) -> Expression:
        """``h v + |h| g s`` at (x, t): the noise that a step adds is paid back by the score in either direction."""
        g = self.g(s, t)
        drift = s.h * s.velocity(x, t)
        return drift + abs(s.h) * g * s.score(x, t) if g else drift


@register("euler_maruyama")
@dataclass(frozen=True)
class EulerMaruyama(MarginalPreserving):
    r"""Euler-Maruyama: :math:`x' = x + h (v + g s) + \sqrt{2 g h}\, z`; weak order 1, strong order 1.

    Attributes:
        diffusion: A :class:`Diffusion`, the name of a form, or a constant.

    """

    diffusion: Diffusion | str | float = "sigma"

    order = 1
    source = "Maruyama 1955, Rend. Circ. Mat. Palermo 4, 48-90; for flows: Ma et al. 2024, SiT, section 3.3"

    def step(self, s: StepBuilder) -> None:
        """Drift and noise at the start of the step."""
        noise = math.sqrt(2 * self.g(s, s.t) * abs(s.h)) * s.normal()
        s.advance(s.x + self.increment(s, s.x, s.t) + noise)


@register("stochastic_heun")
@dataclass(frozen=True)
class StochasticHeun(MarginalPreserving):
    r"""Heun in the drift and the trapezoidal rule in the noise; weak order 2, since the noise is additive.

    .. math:: y = x + h b(x, t) + G z, \quad x' = x + \tfrac h2 [b(x, t) + b(y, t')] + \tfrac12 (G + G') z, \quad
        b = v + g s, \; G = \sqrt{2 g h}

    Both stages share their noise.

    Attributes:
        diffusion: A :class:`Diffusion`, the name of a form, or a constant.

    """

    diffusion: Diffusion | str | float = "sigma"

    order = 2
    source = "Kloeden & Platen 1992, Numerical Solution of Stochastic Differential Equations, section 15.1"

    def step(self, s: StepBuilder) -> None:
        """Two drifts, one noise."""
        z = s.normal()
        scale, scale_next = (math.sqrt(2 * self.g(s, t) * abs(s.h)) for t in (s.t, s.t_next))
        first = self.increment(s, s.x, s.t)
        second = self.increment(s, s.x + first + scale * z, s.t_next)
        s.advance(s.x + 0.5 * (first + second) + 0.5 * (scale + scale_next) * z)
