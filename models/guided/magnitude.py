"""Magnitude-aware guidance: less of it where the branches disagree strongly."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError
from ..spaces import Scalar
from .moments import TINY, Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class MagnitudeAware(GramRule):
    r"""Weights that fall with the size of the update relative to the unconditional prediction.

    .. math:: q = u + w' (c - u), \quad w' = 1 + (w - 1) \exp(-a \lVert c - u \rVert / \lVert u \rVert)

    Args:
        damping: a >= 0; 0 is plain guidance.
        space: The quantity whose norms are compared.

    Raises:
        ArgumentError: A damping that is negative.

    Source:
        Zhu et al. 2025, MAMBO-G: magnitude-aware mitigation for boosted guidance.

    Example:
        >>> MagnitudeAware(8.0)
        MagnitudeAware(damping=8.0, space='output')
    """

    damping: float = 8.0
    space: str = "output"

    def __post_init__(self) -> None:
        check_space(self.space)
        if not self.damping >= 0:
            raise ArgumentError("damping", got=self.damping, expected="a number >= 0")

    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        """``(0, w' - 1)``."""
        return 0.0, (weight - 1.0) * (-self.damping * m.update_norm / m.uu.clamp_min(TINY).sqrt()).exp()
