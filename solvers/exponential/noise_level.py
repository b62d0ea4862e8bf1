r"""Methods in the noise level: with y = x / alpha and nu = sigma / alpha, every probability flow is dy/dnu = n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .interval import Interval, hold

ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def move(s: StepBuilder, x: Expression, noise: Expression, start: float, stop: float) -> Expression:
    r"""A straight line in y(nu): :math:`x' = r x + (\sigma' - r \sigma) n, \; r = \alpha' / \alpha`."""
    return Interval(s.interpolant, start, stop, "noise").first_order(x, noise)


@register("edm_heun")
@dataclass(frozen=True)
class EDMHeun(FixedGridSolver):
    r"""Heun's rule in the noise level, on any interpolant; Euler where the noise level reaches 0.

    .. math:: y' = y + \tfrac{\nu' - \nu}{2} \left[ n(y, \nu) + n(y + (\nu' - \nu) n(y, \nu), \nu') \right]

    With y = x / alpha; on the EDM interpolant this is Heun's rule itself. Order 2, 2n - 1 evaluations for n steps.
    """

    order = 2
    source = "Karras et al. 2022, EDM, Algorithm 1"
    denoises_last = True

    def step(self, s: StepBuilder) -> None:
        """Euler, evaluate there, average; a step from alpha = 0 is the first-order one, which is all there is."""
        if s.alpha == 0:
            return s.advance(hold(s, s.x, s.t, s.t_next))
        n = s.noise_prediction(s.x, s.t)
        ahead = s.noise_prediction(move(s, s.x, n, s.t, s.t_next), s.t_next)
        s.advance(move(s, s.x, 0.5 * (n + ahead), s.t, s.t_next))


@register("dpm2")
@dataclass(frozen=True)
class DPM2(FixedGridSolver):
    r"""Midpoint rule in the noise level with the midpoint at its geometric mean, half-way in lambda.

    .. math:: y' = y + (\nu' - \nu)\, n(y + (\nu_m - \nu) n(y, \nu), \nu_m), \quad \nu_m = \sqrt{\nu \nu'}

    With y = x / alpha. Order 2, 2n - 1 evaluations for n steps to clean data. Diffusers calls it KDPM2.
    """

    order = 2
    source = "Karras et al. 2022, EDM, section 3, with DPM-Solver-2's midpoint; Katherine Crowson 2022, k-diffusion"

    def step(self, s: StepBuilder) -> None:
        """Half-way in lambda by Euler, evaluate there, and over the whole step with that."""
        over = Interval(s.interpolant, s.t, s.t_next, "noise")
        if not over.regular:
            return s.advance(hold(s, s.x, s.t, s.t_next))
        middle = s.interpolant.time_at(over.lam + over.h / 2)
        inner = move(s, s.x, s.noise_prediction(s.x, s.t), s.t, middle)
        s.advance(move(s, s.x, s.noise_prediction(inner, middle), s.t, s.t_next))


@register("pndm")
@register("plms", start="average")
@dataclass(frozen=True)
class PNDM(FixedGridSolver):
    r"""Mix noise estimates with the Adams-Bashforth weights of equal steps, then take one first-order step with it.

    .. math:: n = \tfrac{1}{24} (55 n_0 - 59 n_{-1} + 37 n_{-2} - 9 n_{-3}), \quad
        x' = \tfrac{\alpha'}{\alpha} x + (\sigma' - \tfrac{\alpha'}{\alpha} \sigma) n

    The weights are those of equal steps whatever the grid, and the step is not linear in the time that they assume:
    order 2, whatever the number of estimates.

    Attributes:
        start: "prk": three pseudo-Runge-Kutta steps of four evaluations each (PNDM). "average": estimates at both ends
            of the first step are averaged, at one more evaluation, then 2, 3 and 4 estimates are mixed (PLMS, which
            Stable Diffusion used). "ramp": 1, 2, 3 and 4 estimates (improved PNDM).

    """

    start: Literal["prk", "average", "ramp"] = "prk"

    order = 2
    source = "Liu, Ren, Lin & Zhao 2022, PNDM, equations 9, 12 and 13, Algorithm 2"

    def __post_init__(self) -> None:
        if self.start not in ("prk", "average", "ramp"):
            raise ArgumentError("start", got=repr(self.start), expected="'prk', 'average' or 'ramp'")

    @property
    def starting_steps(self) -> int:
        """Until there are four estimates."""
        return len(ADAMS) - 1

    def step(self, s: StepBuilder) -> None:
        """A starting step, or a multistep one; either remembers the estimate at its start."""
        n = s.noise_prediction(s.x, s.t)
        if s.alpha == 0:
            return s.advance(hold(s, s.x, s.t, s.t_next), remember=n)
        if s.index < self.starting_steps and self.start == "prk":
            mix = self.runge_kutta(s, n)
        elif s.index == 0 and self.start == "average":
            mix = 0.5 * (n + s.noise_prediction(move(s, s.x, n, s.t, s.t_next), s.t_next))
        else:
            mix = self.adams([n, *(s.history(k) for k in range(1, min(s.remembered, 3) + 1))])
        s.advance(move(s, s.x, mix, s.t, s.t_next), remember=n)

    def runge_kutta(self, s: StepBuilder, n: Expression) -> Expression:
        """The classical rule's stages and weights; every stage starts at x with one estimate held."""
        middle, stages = s.time(0.5), [n]
        for time in (middle, middle, s.t_next):
            stages.append(s.noise_prediction(move(s, s.x, stages[-1], s.t, time), time))
        first, second, third, last = stages
        return (1 / 6) * (first + 2 * second + 2 * third + last)

    def adams(self, estimates: Sequence[Expression]) -> Expression:
        """The mix, newest estimate first."""
        return sum((w * n for w, n in zip(ADAMS[len(estimates) - 1], estimates, strict=True)), Expression({}))
