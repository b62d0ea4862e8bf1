"""CFG-Zero*: guidance away from the best multiple of the unconditional velocity."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError
from ..spaces import Scalar
from .moments import TINY, Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class CFGZero(GramRule):
    r"""Guidance against the multiple of u that is nearest to c; and nothing at all in the first steps.

    .. math:: a^* = \frac{\langle c, u \rangle}{\lVert u \rVert^2}, \quad q = a^* u + w (c - a^* u)

    so that what guidance adds is orthogonal to u. For velocities: in noise space, a* is about 1 where noise dominates.

    ``hold_until`` is the authors' zero-init: velocities are 0, and no network runs, at times before it. For methods of
    one stage (Euler, DDIM) on a grid that has this node, the states stand still until there; a stage that a longer
    step evaluates beyond moves them. The same for every method, at no cost: hand the noise to a grid that begins there,
    ``pf.sample(model, noise, grid=[0.04, ...])``. On exact fields it is wrong: data N(m, s^2) then arrive with a spread
    1 / nu too wide, :math:`\nu^2 = \alpha^2 s^2 + \sigma^2` at that time. It is a remedy for under-trained ones.

    Args:
        hold_until: In [0, 1); the authors hold about 4 % of all steps.
        space: The quantity that is projected.

    Raises:
        ArgumentError: ``hold_until`` outside [0, 1).

    Source:
        Fan et al. 2025, CFG-Zero*: improved classifier-free guidance for flow matching models.

    Example:
        >>> CFGZero(hold_until=0.04)
        CFGZero(hold_until=0.04, space='velocity')
    """

    hold_until: float = 0.0
    space: str = "velocity"

    def __post_init__(self) -> None:
        check_space(self.space)
        if not 0 <= self.hold_until < 1:
            hint = "It covers every step" if self.hold_until >= 1 else None
            raise ArgumentError("hold_until", got=self.hold_until, expected="a time in [0, 1)", hint=hint)

    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        """``p = (w - 1)(1 - a) / b``, ``m = (w - 1) a``; a is 1 where u is zero."""
        rest = -m.ud / m.uu.clamp_min(TINY)
        excess = weight - 1.0
        return excess * rest, excess * (1 - m.scale * rest)
