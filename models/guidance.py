"""Classifier-free guidance as weights that are known before a network runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .branch_weights import CONDITIONAL, UNCONDITIONAL, BranchWeights, finite, to_json
from .interpolants import Interpolant
from .window import Window, check_unit


@dataclass(frozen=True)
class Guidance(BranchWeights):
    r"""Guidance of one branch against another: :math:`w\,o_{cond} + (1 - w)\,o_{null}`.

    w = 1 costs one row a sample, and so does w = 0. Any real weight is legal; the paper's scale is w - 1, that of
    diffusers is w. Outside the interval the weight is 1.

    Autoguidance is the same formula against a worse network under the same condition: ``against`` names its branch in
    :func:`composed`. For Gaussian data of spread s and a worse network that takes it for s0, samples have the spread
    :math:`s^w s_0^{1-w}`.

    Args:
        weight: A number, or a function of t in [0, 1].
        interval: ``(lo, hi)`` where guidance acts: ``lo <= t < hi``, or ``lo < nu <= hi`` in noise ratios, which
            mean the same on every path. None: everywhere.
        in_: Unit of the interval, "t" or "noise_ratio".
        against: The branch to move away from.
        restarts: Whether multistep solvers forget their history where the interval starts and ends.

    Raises:
        ArgumentError: A weight or bound that is NaN or infinite, ``lo >= hi``, an unknown unit.

    Source:
        Ho & Salimans 2022; the interval is Kynkaanniemi et al. 2024; autoguidance Karras et al. 2024.

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
    against: str = UNCONDITIONAL
    restarts: bool = False

    def __post_init__(self) -> None:
        if not callable(self.weight):
            object.__setattr__(self, "weight", finite(self.weight, "weight"))
        check_unit(self.in_)
        if self.against == CONDITIONAL:
            raise ArgumentError("against", got=repr(self.against), expected="another branch than it guides")
        if self.interval is not None:
            lo, hi = (float(bound) for bound in self.interval)
            Window(lo, hi, self.in_)
            object.__setattr__(self, "interval", (lo, hi))

    @property
    def window(self) -> Window | None:
        """The interval; None where guidance acts everywhere."""
        return None if self.interval is None else Window(*self.interval, self.in_)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that some time may need."""
        return (CONDITIONAL,) if self.weight == 1 else (CONDITIONAL, self.against)

    def weight_at(self, t: float, interpolant: Interpolant | None = None) -> float:
        """The weight of the conditional branch at ``t``.

        Args:
            t: Time in [0, 1].
            interpolant: The solver's path; needed where the interval is in noise ratios.

        Raises:
            ArgumentError: The weight function returned NaN or infinity, or the path is missing.
        """
        window = self.window
        if window is not None and not window.contains(t, interpolant):
            return 1.0
        return finite(self.weight(t), f"weight at t = {t:.4g}") if callable(self.weight) else self.weight

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``, "cond" first; they sum to one."""
        weight = self.weight_at(t, interpolant)
        return {name: w for name, w in ((CONDITIONAL, weight), (self.against, 1.0 - weight)) if w != 0.0}

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
        columns = {CONDITIONAL: weights, self.against: 1.0 - weights}
        return {branch: column for branch, column in columns.items() if column.any()}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """Times inside (0, 1) at which the interval starts or ends: put grid nodes there to keep a solver's order."""
        return () if self.window is None else self.window.breakpoints(interpolant)

    def check_acts(self, times: tuple[float, ...], interpolant: Interpolant) -> None:
        """See :meth:`BranchWeights.check_acts`."""
        window = self.window
        if window is None or any(window.contains(t, interpolant) for t in times[:-1]):
            return
        ends = (times[0], times[-2]) if self.in_ == "t" else (interpolant.noise_ratio(t) for t in (times[0], times[-2]))
        low, high = sorted(ends)
        got, hint = f"{self.interval} in {self.in_}", "Guidance would never act"
        expected = f"an interval with the start of a step: on this grid they lie from {low:.4g} to {high:.4g}"
        raise ArgumentError("guidance interval", got=got, expected=expected, hint=hint)

    def to_config(self) -> dict[str, Any]:
        """Fields, ready for JSON; :meth:`from_config` is the inverse.

        Raises:
            ArgumentError: The weight is a function, which JSON cannot hold.
        """
        return {
            "weight": to_json(self.weight),
            "interval": None if self.interval is None else list(self.interval),
            "in_": self.in_,
            "against": self.against,
            "restarts": self.restarts,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Guidance:
        """Inverse of :meth:`to_config`, also after a trip through JSON."""
        interval = config.get("interval")
        return cls(
            config["weight"],
            None if interval is None else tuple(interval),
            config.get("in_", "t"),
            config.get("against", UNCONDITIONAL),
            config.get("restarts", False),
        )


def as_guidance(guidance: float | BranchWeights) -> BranchWeights | None:
    """None for weight 1, which needs no second branch."""
    if isinstance(guidance, BranchWeights):
        return guidance
    return None if guidance == 1 else Guidance(guidance)
