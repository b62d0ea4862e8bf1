"""Grids that are written in time: uniform, denser at the ends, denser near the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import ArgumentError
from ...models import Interpolant
from .registry import fractions, register

LARGEST_SWAY = 2 / (math.pi - 2)  # beyond it, or below -1, the map is not monotone


@register("uniform")
@dataclass(frozen=True)
class Uniform:
    """``t_i = i / N``."""

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return tuple(fractions(steps))


UNIFORM = Uniform()  # the base of grids that move another's times


@register("cosine")
@dataclass(frozen=True)
class Cosine:
    """``t_i = sin^2(pi i / 2N)``, Chebyshev-like: short steps at both ends."""

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return (*(math.sin(math.pi * u / 2) ** 2 for u in fractions(steps)[:-1]), 1.0)


@register("circular")
@dataclass(frozen=True)
class Circular:
    r"""Along a quarter circle, :math:`1 - t = \sqrt{1 - u^2}`: short steps where the noise is, long ones at the data.

    Meant for the VP interpolant, to search with: ten steps stay where the noise ratio is above 0.5 until the last.

    Source: Kim et al. 2025, Inference-time scaling for flow models, section 4 (and its code).

    Example:
        >>> from pushforward.models import VPLinear
        >>> [round(1 - t, 3) for t in Circular()(10, VPLinear())][:4]
        [1.0, 0.995, 0.98, 0.954]
    """

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return tuple(1 - math.sqrt((1 - u) * (1 + u)) for u in fractions(steps))


@register("sway")
@dataclass(frozen=True)
class Sway:
    r"""Uniform times swayed towards an end: :math:`t = u + c (\cos(\pi u / 2) - 1 + u)`.

    Attributes:
        coefficient: c in [-1, 2 / (pi - 2)]; below 0 more steps are spent near the noise; -1 is
            :math:`t = 1 - \cos(\pi u / 2)`.

    Raises:
        ArgumentError: A coefficient outside that interval, where t(u) is not monotone.

    Source: Chen et al. 2024, F5-TTS, equation 8 (sway sampling).

    Example:
        >>> from pushforward.models import Linear
        >>> [round(t, 3) for t in Sway()(4, Linear())]
        [0.0, 0.076, 0.293, 0.617, 1.0]
    """

    coefficient: float = -1.0

    def __post_init__(self) -> None:
        if not -1 <= self.coefficient <= LARGEST_SWAY:
            expected = f"a number in [-1, {LARGEST_SWAY:.4f}], where t(u) is monotone"
            raise ArgumentError("coefficient", got=self.coefficient, expected=expected)

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        # cos - 1 = -2 sin^2 of half the angle: no cancellation near u = 0, where c = -1 leaves only this term.
        swayed = ((1 + self.coefficient) * u - 2 * self.coefficient * math.sin(math.pi * u / 4) ** 2
                  for u in fractions(steps)[:-1])  # fmt: skip
        return (*swayed, 1.0)
