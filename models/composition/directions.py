"""Directions: further branches whose difference to the unconditional one is added to a guided prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ..branch_weights import UNCONDITIONAL, BranchWeights, finite
from ..guidance import Guidance
from ..interpolants import Interpolant
from ..window import Window, check_unit, times_of


@dataclass(frozen=True, init=False)
class Directions(BranchWeights):
    r"""A guided prediction and directions: :math:`o_{base} + \sum_k \lambda_k 1[t \in W_k] (o_k - o_{null})`.

    K directions cost K rows more, as the null row is shared with the base.

    Args:
        scales: :math:`\lambda_k` by the name of the direction's branch, see :meth:`Model.with_branches`.
        windows: Where each acts, ``(lo, hi)``; everywhere if it is not there.
        in_: Unit of the windows, "t" or "noise_ratio".
        base: The prediction they are added to; a number is a weight of guidance. 0 is the unconditional one, which
            edits of inverted images start from.
        against: The branch that effects are measured from.

    Raises:
        ArgumentError: No direction, a scale that is not finite, a window of a direction that there is not.

    Source:
        Dalva & Yanardag 2023, NoiseCLR, eq. 6 and 7.

    Example:
        >>> Directions({"smile": 2.0, "age": 1.0}, windows={"age": (0.5, 1.0)}, in_="t", base=0.0).weights_at(0.25)
        {'null': -1.0, 'smile': 2.0}
    """

    scales: tuple[tuple[str, float], ...]
    windows: tuple[tuple[str, tuple[float, float]], ...]
    in_: str
    base: BranchWeights
    against: str
    restarts: bool

    def __init__(
        self,
        scales: Mapping[str, float],
        *,
        windows: Mapping[str, tuple[float, float]] | None = None,
        in_: str = "noise_ratio",
        base: float | BranchWeights = 1.0,
        against: str = UNCONDITIONAL,
        restarts: bool = True,
    ) -> None:
        check_unit(in_)
        windows = dict(windows or {})
        if not scales:
            raise ArgumentError("scales", got="none", expected="a scale for each direction")
        if not windows.keys() <= scales.keys():
            raise ArgumentError("windows", got=sorted(windows), expected="windows of " + ", ".join(sorted(scales)))
        for lo, hi in windows.values():
            Window(lo, hi, in_)
        values = {
            "scales": tuple((name, finite(scale, f"scale of {name!r}")) for name, scale in scales.items()),
            "windows": tuple((name, (float(lo), float(hi))) for name, (lo, hi) in windows.items()),
            "in_": in_,
            "base": base if isinstance(base, BranchWeights) else Guidance(base, against=against),
            "against": against,
            "restarts": restarts,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that some time may need."""
        return tuple(dict.fromkeys((*self.base.branches, self.against, *(name for name, _ in self.scales))))

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``."""
        weights, windows = dict(self.base.weights_at(t, interpolant)), dict(self.windows)
        for name, scale in self.scales:
            if name not in windows or Window(*windows[name], self.in_).contains(t, interpolant):
                weights[name] = weights.get(name, 0.0) + scale
                weights[self.against] = weights.get(self.against, 0.0) - scale
        return {name: weight for name, weight in weights.items() if weight != 0}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """Where windows start and end, and the jumps of the base."""
        own = times_of([bound for _, window in self.windows for bound in window], self.in_, interpolant)
        return tuple(sorted({*own, *self.base.breakpoints(interpolant)}))

    def to_config(self) -> dict[str, Any]:
        """See :meth:`BranchWeights.to_config`."""
        return {
            "scales": dict(self.scales),
            "windows": {name: list(window) for name, window in self.windows},
            "in_": self.in_,
            "base": self.base.to_config(),
            "against": self.against,
        }
