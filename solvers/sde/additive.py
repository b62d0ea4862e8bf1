"""Stochastic Runge-Kutta methods of strong order 1.5 for the marginal-preserving SDE, whose noise is additive."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UnknownNameError
from ..plan import Expression, StepBuilder
from ..solver import register
from .additive_tableau import SOSRA, SRA1, SRA3, AdditiveTableau
from .diffusion import DiffusionLike
from .marginal_preserving import MarginalPreserving

TABLEAUS: dict[str, AdditiveTableau] = {"sra1": SRA1, "sra3": SRA3, "sosra": SOSRA}


@register("sra1", method="sra1")
@register("sra3", method="sra3")
@register("sosra", method="sosra")
@dataclass(frozen=True)
class StochasticRungeKutta(MarginalPreserving):
    """Stochastic Runge-Kutta for additive noise: strong order 1.5, weak order 2; see :class:`AdditiveTableau`.

    "sra1" has two stages; "sra3" and "sosra" have three, the first with order 3 in the drift, the second with a large
    region of stability. The increment and the time average of one Brownian path enter, so a step draws two normals.

    Attributes:
        method: "sra1", "sra3" or "sosra".
        diffusion: A :class:`Diffusion`, the name of a form, a function of the time, or a constant.

    """

    method: str = "sra1"
    diffusion: DiffusionLike = "sigma"

    order = 2
    strong_order = 1.5
    source = "Roessler 2010, SIAM J. Numer. Anal. 48(3), 922-952; SOSRA: Rackauckas & Nie 2017, arXiv:1804.04344"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in TABLEAUS:
            raise UnknownNameError("method", got=repr(self.method), expected=f"one of {', '.join(TABLEAUS)}")

    def step(self, s: StepBuilder) -> None:
        """Stages in order; each sees the drifts of the earlier ones and its share of the noise."""
        tableau = TABLEAUS[self.method]
        w, area = self.brownian(s)
        average = 0.5 * w + area
        scales = [self.noise_scale(s, s.time(node)) for node in tableau.nodes]
        drifts: list[Expression] = []
        for row, noise, node in zip(((), *tableau.drift), ((), *tableau.noise), tableau.drift_nodes, strict=True):
            stage = s.x + sum(b * g for b, g in zip(noise, scales, strict=False)) * average
            stage = stage + sum((a * k for a, k in zip(row, drifts, strict=False)), Expression({}))
            drifts.append(self.increment(s, stage, s.time(node)))
        x = s.x + sum((a * k for a, k in zip(tableau.weights, drifts, strict=True)), Expression({}))
        x = x + sum(b * g for b, g in zip(tableau.increment, scales, strict=True)) * w
        s.advance(x + sum(e * g for e, g in zip(tableau.area, scales, strict=True)) * average)


@register("shark")
@dataclass(frozen=True)
class ShARK(MarginalPreserving):
    r"""Shifted additive-noise Runge-Kutta: strong order 1.5, weak order 2, two evaluations and small constants.

    .. math:: k_1 = b(x + G H, t), \quad k_2 = b(x + \tfrac56 (h k_1 + G W) + G H, t + \tfrac56 h), \quad
        x' = x + h (\tfrac25 k_1 + \tfrac35 k_2) + G W + (G' - G)(\tfrac12 W - H)

    H is the space-time area of the Brownian path, a normal of variance h/12 independent of the increment W. The last
    term integrates exactly a noise scale that is linear over the step.

    Attributes:
        diffusion: A :class:`Diffusion`, the name of a form, a function of the time, or a constant.

    """

    diffusion: DiffusionLike = "sigma"

    order = 2
    strong_order = 1.5
    source = "Foster, dos Reis & Strange 2024, SIAM J. Numer. Anal. 62(6), High order splitting methods for SDEs"

    def step(self, s: StepBuilder) -> None:
        """Two shifted drifts."""
        w, area = self.brownian(s)
        scale, scale_next = self.noise_scale(s, s.t), self.noise_scale(s, s.t_next)
        shifted = s.x + scale * area
        first = self.increment(s, shifted, s.t)
        second = self.increment(s, shifted + 5 / 6 * (first + scale * w), s.time(5 / 6))
        noise = scale * w + (scale_next - scale) * (0.5 * w - area)
        s.advance(s.x + 0.4 * first + 0.6 * second + noise)
