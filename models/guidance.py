"""Classifier-free guidance as weights that are known before a network runs."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .interpolants import Interpolant

CONDITIONAL, UNCONDITIONAL = "cond", "null"
UNITS = ("t", "noise_ratio")


@dataclass(frozen=True)
class Guidance:
    r"""Weights of the branches: :math:`w\,o_{cond} + (1 - w)\,o_{null}`.

    They sum to one, so guided velocities, noises, denoised estimates and raw outputs are all the same field. A
    branch of weight 0 is not evaluated: w = 1 costs one row a sample, and so does w = 0. Any real weight is legal;
    the paper's scale is w - 1, that of diffusers is w.

    Outside the interval the weight is 1. A solver reads the weight at the start of a step for all its stages.

    Args:
        weight: A number, or a function of t in [0, 1].
        interval: ``(lo, hi)`` where guidance acts: ``lo <= t < hi``, or ``lo < nu <= hi`` in noise ratios, which
            mean the same on every path. None: everywhere.
        in_: Unit of the interval, "t" or "noise_ratio".

    Raises:
        ArgumentError: A weight or bound that is NaN or infinite, ``lo >= hi``, an unknown unit.

    Source:
        Ho & Salimans 2022; the interval is Kynkaanniemi et al. 2024.

    Example:
        >>> from pushforward.models import Linear
        >>> guidance = Guidance(4.0, interval=(0.25, 0.75))
        >>> guidance.weights_at(0.5, Linear())
        {'cond': 4.0, 'null': -3.0}
        >>> guidance.weights_at(0.75, Linear())
        {'cond': 1.0}
    """

    weight: float | Callable[[float], float] = 1.0
    interval: tuple[float, float] | None = None
    in_: str = "t"

    def __post_init__(self) -> None:
        if not callable(self.weight):
            object.__setattr__(self, "weight", _weight(self.weight, "weight"))
        if self.in_ not in UNITS:
            raise ArgumentError("in_", got=repr(self.in_), expected="'t' or 'noise_ratio'")
        if self.interval is not None:
            lo, hi = (float(bound) for bound in self.interval)
            if not lo < hi or not math.isfinite(lo):
                raise ArgumentError("interval", got=self.interval, expected="(lo, hi) with lo < hi")
            object.__setattr__(self, "interval", (lo, hi))

    def weight_at(self, t: float, interpolant: Interpolant | None = None) -> float:
        """The weight of the conditional branch at ``t``.

        Args:
            t: Time in [0, 1].
            interpolant: The solver's path; needed where the interval is in noise ratios.

        Raises:
            ArgumentError: The weight function returned NaN or infinity, or the path is missing.
        """
        if not self._acts(t, interpolant):
            return 1.0
        return _weight(self.weight(t), f"weight at t = {t:.4g}") if callable(self.weight) else self.weight

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``, "cond" first; they sum to one."""
        weight = self.weight_at(t, interpolant)
        return {name: w for name, w in ((CONDITIONAL, weight), (UNCONDITIONAL, 1.0 - weight)) if w != 0.0}

    def branches_at(self, t: float, interpolant: Interpolant | None = None) -> tuple[str, ...]:
        """Names of the branches that are evaluated at ``t``."""
        return tuple(self.weights_at(t, interpolant))

    def columns_at(
        self, times: NDArray[np.float64], interpolant: Interpolant | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """:meth:`weights_at` for many times: a column for each branch that some time needs, zero where none is.

        Example:
            >>> Guidance(4.0, interval=(0.25, 0.75)).columns_at(np.array([0.5, 0.75]))
            {'cond': array([4., 1.]), 'null': array([-3.,  0.])}
        """
        if callable(self.weight) or self.interval is not None:
            each = [self.weight_at(t, interpolant) for t in times.tolist()]
        else:
            each = [self.weight] * len(times)
        weights = np.array(each, dtype=np.float64)
        columns = {CONDITIONAL: weights, UNCONDITIONAL: 1.0 - weights}
        return {branch: column for branch, column in columns.items() if column.any()}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """Times inside (0, 1) at which the interval starts or ends: put grid nodes there to keep a solver's order."""
        if self.interval is None:
            return ()
        times = sorted(self.interval)
        if self.in_ == "noise_ratio":
            low, high = interpolant.noise_ratio(1.0), interpolant.noise_ratio(0.0)
            times = [interpolant.time_at_noise_ratio(nu) for nu in reversed(self.interval) if low < nu < high]
        return tuple(t for t in times if 0 < t < 1)

    def to_config(self) -> dict[str, Any]:
        """Fields, ready for JSON; :meth:`from_config` is the inverse.

        Raises:
            ArgumentError: The weight is a function, which JSON cannot hold.
        """
        if callable(self.weight):
            hint = "A lowered plan holds the weights themselves, and can be written"
            raise ArgumentError("weight", got="a function", expected="a number, to be written as JSON", hint=hint)
        return {
            "weight": self.weight,
            "interval": None if self.interval is None else list(self.interval),
            "in_": self.in_,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Guidance:
        """Inverse of :meth:`to_config`, also after a trip through JSON."""
        interval = config.get("interval")
        return cls(config["weight"], None if interval is None else tuple(interval), config.get("in_", "t"))

    def _acts(self, t: float, interpolant: Interpolant | None) -> bool:
        if self.interval is None:
            return True
        lo, hi = self.interval
        if self.in_ == "t":
            return lo <= t < hi
        if interpolant is None:
            raise ArgumentError(
                "interpolant", got="nothing", expected="the path, since the interval is in noise ratios"
            )
        return lo < interpolant.noise_ratio(t) <= hi


def as_guidance(guidance: float | Guidance) -> Guidance | None:
    """None for weight 1, which needs no second branch."""
    if isinstance(guidance, Guidance):
        return guidance
    return None if guidance == 1 else Guidance(guidance)


def _weight(value: Any, name: str) -> float:
    """A finite float."""
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ArgumentError(name, got=repr(value), expected="a finite number")
    return float(value)
