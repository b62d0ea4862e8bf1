r"""Embedded stochastic Runge-Kutta methods for additive noise, :math:`dX = f(X, t)\, dt + G(t)\, dW`.

The error estimates are differences to a method of strong order 1 with the same stages, and so cost nothing: what a
method has beyond an Euler-Maruyama step. They are O(h^{3/2}), the local error of that method (Rackauckas & Nie 2017,
Discrete Contin. Dyn. Syst. B 22(7), natural embeddings; Jolicoeur-Martineau et al. 2021, arXiv:2105.14080).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..adaptive.field import own
from ..adaptive.method import Attempt, Live
from ..sde.additive_tableau import SOSRA, SRA1, SRA3, AdditiveTableau
from .field import StochasticField
from .scheme import Brownian, Term, added, noise, register_scheme, sums


def finish(live: Live, state: list[Term], error: list[Term], evaluations: int) -> Attempt:
    """The new state and its error ratio."""
    new, estimate = sums(live.x, state, error)
    return Attempt(new, live.tolerance.ratio(estimate, live.x, new), None, evaluations)


def parts(live: Live) -> StochasticField:
    """The drift and the noise."""
    field = live.field
    assert isinstance(field, StochasticField)
    return field


@register_scheme("heun_em")
@dataclass(frozen=True)
class HeunEulerMaruyama:
    r"""Stochastic Heun with Euler-Maruyama inside; weak order 2 for additive noise, two evaluations.

    .. math:: y = x + h k_1 + G W, \quad x' = x + \tfrac h2 (k_1 + k_2) + \tfrac12 (G + G') W, \quad
        e = \tfrac h2 (k_2 - k_1) + \tfrac12 (G' - G) W, \quad k_2 = f(y, t + h)

    Source: Jolicoeur-Martineau et al. 2021, Gotta Go Fast When Generating Data with Score-Based Models, Algorithm 1;
        there for noise that is drawn anew after a rejection, which changes the law.

    """

    order = 1.5
    area = False
    additive = True

    def attempt(self, live: Live, h: np.ndarray, brownian: Brownian) -> Attempt:
        """Two drifts, one increment."""
        field, x, t = parts(live), live.x, live.t
        w = brownian.increment(t, t + h).w
        scales = [field.scale(x, t), field.scale(x, t + h)]
        first = field(x, t)
        second = own(field(added(x, [(first, h), *noise(scales, (1, 0), w)]), t + h), first)
        half = 0.5 * h
        return finish(
            live,
            [(first, half), (second, half), *noise(scales, (0.5, 0.5), w)],
            [(first, -half), (second, half), *noise(scales, (-0.5, 0.5), w)],
            2,
        )


@register_scheme("sra1", SRA1)
@register_scheme("sra3", SRA3)
@register_scheme("sosra", SOSRA)
@dataclass(frozen=True)
class EmbeddedTableau:
    r"""A method of strong order 1.5 of :class:`~pushforward.solvers.sde.AdditiveTableau`.

    .. math:: e = h \sum_i a_i (k_i - k_1) + I \sum_i e_i G_i, \quad I = \tfrac12 W + H

    what it has beyond :math:`x + h k_1 + W \sum_i b_i G_i`, of strong order 1.

    Source: Roessler 2010; SOSRA and the embedding: Rackauckas & Nie 2017, arXiv:1804.04344.

    """

    tableau: AdditiveTableau
    order = 1.5
    area = True
    additive = True

    def attempt(self, live: Live, h: np.ndarray, brownian: Brownian) -> Attempt:
        """The stages, and two sums of them."""
        field, x, t, tableau = parts(live), live.x, live.t, self.tableau
        w, area = brownian.increment(t, t + h)
        assert area is not None
        scales = [field.scale(x, t + d * h) for d in tableau.nodes]
        drifts: list[Tensor] = []
        rows = zip(((), *tableau.drift), ((), *tableau.noise), tableau.drift_nodes, strict=True)
        for row, spread, node in rows:
            seen = scales[: len(spread)]
            terms = [(k, a * h) for k, a in zip(drifts, row, strict=True) if a != 0]
            terms += noise(seen, spread, w, 0.5) + noise(seen, spread, area)
            stage = added(x, terms) if terms else x
            drifts.append(own(field(stage, t + node * h), drifts[-1] if drifts else stage))
        mean = noise(scales, tableau.area, w, 0.5) + noise(scales, tableau.area, area)
        state = [(k, a * h) for k, a in zip(drifts, tableau.weights, strict=True)]
        error = [(drifts[0], (tableau.weights[0] - 1) * h), *state[1:]]
        return finish(live, [*state, *noise(scales, tableau.increment, w), *mean], [*error, *mean], len(drifts))


@register_scheme("shark")
@dataclass(frozen=True)
class EmbeddedShARK:
    r"""Shifted additive-noise Runge-Kutta: strong order 1.5, two evaluations.

    .. math:: k_1 = f(x + G H, t), \quad k_2 = f(x + \tfrac56 (h k_1 + G W) + G H, t + \tfrac56 h)

    .. math:: x' = x + h (\tfrac25 k_1 + \tfrac35 k_2) + G W + (G' - G)(\tfrac12 W - H), \quad
        e = \tfrac35 h (k_2 - k_1) + (G' - G)(\tfrac12 W - H)

    Source: Foster, dos Reis & Strange 2024, SIAM J. Numer. Anal. 62(6).

    """

    order = 1.5
    area = True
    additive = True

    def attempt(self, live: Live, h: np.ndarray, brownian: Brownian) -> Attempt:
        """Two shifted drifts."""
        field, x, t = parts(live), live.x, live.t
        w, area = brownian.increment(t, t + h)
        assert area is not None
        scales = [field.scale(x, t), field.scale(x, t + h)]
        shift = noise(scales, (1, 0), area)
        stage = added(x, shift)
        first = own(field(stage, t), stage)
        second = field(added(x, [*shift, (first, 5 / 6 * h), *noise(scales, (1, 0), w, 5 / 6)]), t + 5 / 6 * h)
        second = own(second, first)
        slope = noise(scales, (-0.5, 0.5), w) + noise(scales, (1, -1), area)
        return finish(
            live,
            [(first, 0.4 * h), (second, 0.6 * h), *noise(scales, (1, 0), w), *slope],
            [(first, -0.6 * h), (second, 0.6 * h), *slope],
            2,
        )
