"""A window of time, in times or in noise ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import ArgumentError
from .interpolants import Interpolant

UNITS = ("t", "noise_ratio")


@dataclass(frozen=True)
class Window:
    """Where something acts: ``lo <= t < hi``, or ``lo < nu <= hi`` in noise ratios, which mean the same on every path.

    Raises:
        ArgumentError: ``lo >= hi``, a bound that is NaN or minus infinity, an unknown unit.

    Example:
        >>> from pushforward.models import Linear
        >>> Window(0.25, 0.75).contains(0.25), Window(0.5, 1.0, "noise_ratio").breakpoints(Linear())
        (True, (0.5, 0.6666666666666666))
    """

    lo: float
    hi: float
    in_: str = "t"

    def __post_init__(self) -> None:
        check_unit(self.in_)
        if not self.lo < self.hi or not math.isfinite(self.lo):
            raise ArgumentError("interval", got=(self.lo, self.hi), expected="(lo, hi) with lo < hi")

    def contains(self, t: float, interpolant: Interpolant | None = None) -> bool:
        """Whether it acts at ``t``.

        Raises:
            ArgumentError: The path is missing, and the window is in noise ratios.
        """
        if self.in_ == "t":
            return self.lo <= t < self.hi
        return time_of(self.hi, self.in_, interpolant) <= t < time_of(self.lo, self.in_, interpolant)

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """Times inside (0, 1) at which it starts or ends."""
        return times_of((self.lo, self.hi), self.in_, interpolant)


def times_of(bounds: Sequence[float], in_: str, interpolant: Interpolant) -> tuple[float, ...]:
    """Those of the bounds that are times inside (0, 1), increasing."""
    return tuple(sorted(t for t in (time_of(bound, in_, interpolant) for bound in bounds) if 0 < t < 1))


def time_of(bound: float, in_: str, interpolant: Interpolant | None) -> float:
    """The bound as a time, infinite beyond the path's ends; times are then compared, as they are on a grid.

    Raises:
        ArgumentError: The path is missing, and the bound is a noise ratio.
    """
    if in_ == "t":
        return bound
    if interpolant is None:
        raise ArgumentError("interpolant", got="nothing", expected="the path, since the interval is in noise ratios")
    return time_at(bound, interpolant)


@lru_cache(maxsize=1024)
def time_at(nu: float, interpolant: Interpolant) -> float:
    """The time of a noise ratio; before all times if it is above the path's, after them if it is below."""
    if nu >= interpolant.noise_ratio(0.0):
        return -math.inf
    return math.inf if nu < interpolant.noise_ratio(1.0) else interpolant.time_at_noise_ratio(nu)


def check_unit(in_: str) -> None:
    """Refuse a unit that there is not.

    Raises:
        ArgumentError: Neither "t" nor "noise_ratio".
    """
    if in_ not in UNITS:
        raise ArgumentError("in_", got=repr(in_), expected="'t' or 'noise_ratio'")
