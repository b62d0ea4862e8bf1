"""Integrators of the marginal-preserving SDE ``dx = (v + g s) dt + sqrt(2 g) dW`` of any velocity or score model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .diffusion import Diffusion, DiffusionLike


class MarginalPreserving(FixedGridSolver):
    """Shared by the integrators: drift, noise, and the denoising last step (the score is singular at sigma = 0).

    The noise is additive, its scale a function of time alone, so Ito's and Stratonovich's readings agree, and
    Milstein's method is Euler-Maruyama: the derivative of the noise by the state, which it adds, is zero. For noise
    that depends on the state see :func:`integrate_diagonal`.

    Attributes:
        strong_order: Order of the path-wise error for a given Brownian path.

    """

    diffusion: DiffusionLike
    strong_order: ClassVar[float]
    stochastic = True
    denoises_last = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "diffusion", Diffusion.of(self.diffusion))

    def g(self, s: StepBuilder, t: float) -> float:
        """The diffusion coefficient at ``t``."""
        return Diffusion.of(self.diffusion)(t, s.interpolant)

    def noise_scale(self, s: StepBuilder, t: float) -> float:
        """``G(t) = sqrt(2 g(t))``, the factor of the Brownian motion."""
        return math.sqrt(2 * self.g(s, t))

    def brownian(self, s: StepBuilder) -> tuple[Expression, Expression]:
        r"""Increment :math:`W` of the step's Brownian path, variance |h|, and its space-time area, variance |h|/12.

        The area is the mean over the step of the path minus the chord, independent of the increment.
        """
        length = abs(s.h)
        return math.sqrt(length) * s.normal(), math.sqrt(length / 12) * s.normal()

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
        diffusion: A :class:`Diffusion`, the name of a form, a function of the time, or a constant.

    """

    diffusion: DiffusionLike = "sigma"

    order = 1
    strong_order = 1.0
    source = "Maruyama 1955, Rend. Circ. Mat. Palermo 4, 48-90; for flows: Ma et al. 2024, SiT, section 3.3"

    def step(self, s: StepBuilder) -> None:
        """Drift and noise at the start of the step."""
        noise = self.noise_scale(s, s.t) * math.sqrt(abs(s.h)) * s.normal()
        s.advance(s.x + self.increment(s, s.x, s.t) + noise)


@register("stochastic_heun")
@dataclass(frozen=True)
class StochasticHeun(MarginalPreserving):
    r"""Heun in the drift and the trapezoidal rule in the noise; weak order 2, since the noise is additive.

    .. math:: y = x + h b(x, t) + G z, \quad x' = x + \tfrac h2 [b(x, t) + b(y, t')] + \tfrac12 (G + G') z, \quad
        b = v + g s, \; G = \sqrt{2 g h}

    Both stages share their noise.

    Attributes:
        diffusion: A :class:`Diffusion`, the name of a form, a function of the time, or a constant.

    """

    diffusion: DiffusionLike = "sigma"

    order = 2
    strong_order = 1.0
    source = "Kloeden & Platen 1992, Numerical Solution of Stochastic Differential Equations, section 15.1"

    def step(self, s: StepBuilder) -> None:
        """Two drifts, one noise."""
        w = math.sqrt(abs(s.h)) * s.normal()
        scale, scale_next = self.noise_scale(s, s.t), self.noise_scale(s, s.t_next)
        first = self.increment(s, s.x, s.t)
        second = self.increment(s, s.x + first + scale * w, s.t_next)
        s.advance(s.x + 0.5 * (first + second) + 0.5 * (scale + scale_next) * w)


@dataclass(frozen=True)
class NoiseFirstHeun(MarginalPreserving):
    r"""Noise at the start of the step, then Heun's rule; weak order 1 only, kept because SiT samples with it.

    .. math:: \hat x = x + G(t) W, \quad y = \hat x + h b(\hat x, t), \quad
        x' = \hat x + \tfrac h2 [b(\hat x, t) + b(y, t')]

    The noise of the whole step is added before any of it is paid back. Prefer :class:`StochasticHeun`, which costs the
    same; this one has no registered name, and is used as an object: ``sample(..., solver=NoiseFirstHeun())``.

    Attributes:
        diffusion: A :class:`Diffusion`, the name of a form, a function of the time, or a constant.

    """

    diffusion: DiffusionLike = "sigma"

    order = 1
    strong_order = 1.0
    source = "Ma et al. 2024, SiT, the Heun sampler of the released code"

    def step(self, s: StepBuilder) -> None:
        """One noise, two drifts."""
        noisy = s.x + self.noise_scale(s, s.t) * math.sqrt(abs(s.h)) * s.normal()
        first = self.increment(s, noisy, s.t)
        second = self.increment(s, noisy + first, s.t_next)
        s.advance(noisy + 0.5 * (first + second))
