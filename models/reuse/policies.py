"""When to compute and when to reuse: decisions about the evaluations of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from ...errors import ArgumentError

FASTER_DIFFUSION_KEYS = (0, 1, 2, 3, 5, 10, 15, 25, 35)
"""Key steps for 50 steps of Stable Diffusion (Li et al. 2023, Faster Diffusion, authors' code)."""


Reference: TypeAlias = Literal["last", "computed"] | None


class ReusePolicy(Protocol):
    """Decides evaluation by evaluation; immutable, what it remembers is passed in and out.

    Attributes:
        reference: What the change of the probe is measured against: the probe of the last evaluation, of the last
            "computed" one, or None for policies that look at nothing.
    """

    reference: ClassVar[Reference]

    def check(self, count: int) -> None:
        """Refuse a run of ``count`` evaluations that the policy was not made for."""
        ...

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """Whether to compute, and what to remember.

        Args:
            index, count: Which evaluation of how many.
            memory: What the policy returned at the evaluation before; None at first.
            change: Relative L1 change of the probe; None where nothing is known yet.
        """
        ...


@dataclass(frozen=True)
class Static:
    """Compute at the given evaluations, reuse at all others.

    Args:
        steps: Indices, from 0; must include 0.

    Raises:
        ArgumentError: No 0, or indices that are negative or twice there; one beyond the end of a run.

    Example:
        >>> Static((0, 3)).decide(1, 5, None, None)
        (False, None)
    """

    steps: tuple[int, ...]
    reference: ClassVar[Reference] = None

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        if any(isinstance(i, bool) or not isinstance(i, int | np.integer) or i < 0 for i in steps):
            raise ArgumentError("steps", got=steps, expected="indices of evaluations, from 0")
        if len(set(steps)) != len(steps):
            raise ArgumentError("steps", got=steps, expected="each index once")
        if 0 not in steps:
            raise ArgumentError("steps", got=steps, expected="a set with 0", hint="The first step has nothing cached")
        object.__setattr__(self, "steps", tuple(sorted(map(int, steps))))

    def check(self, count: int) -> None:
        """Refuse indices beyond the end."""
        if self.steps[-1] >= count:
            raise ArgumentError("steps", got=self.steps[-1], expected=f"indices of {count} evaluations, from 0")

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """See :meth:`ReusePolicy.decide`."""
        return index in self.steps, None


@dataclass(frozen=True)
class Interval:
    """Compute the first ``warmup`` evaluations and every ``every``-th one after, from the start of the run.

    ``Interval(1)`` computes always.

    Args:
        every: At least 1.
        warmup: At least 0.

    Raises:
        ArgumentError: A number below that.

    Example:
        >>> [Interval(3).decide(i, 7, None, None)[0] for i in range(7)]
        [True, False, False, True, False, False, True]
    """

    every: int
    warmup: int = 0
    reference: ClassVar[Reference] = None

    def __post_init__(self) -> None:
        for name, value, least in (("every", self.every, 1), ("warmup", self.warmup, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(name, got=value, expected=f"an integer, at least {least}")

    def check(self, count: int) -> None:
        """Any run will do."""

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """See :meth:`ReusePolicy.decide`."""
        return index < self.warmup or index % self.every == 0, None


@dataclass(frozen=True)
class Accumulated:
    r"""Compute when the changes since the last computed evaluation add up to a threshold.

    .. math:: a \leftarrow a + \max(P(m_k), 0), \quad m_k = \operatorname{mean}|p_k - p_{k-1}| /
        \operatorname{mean}|p_{k-1}|; \quad \text{compute, and } a \leftarrow 0, \text{ if } a \ge \delta

    The probe p is compared with that of the evaluation before, computed or not. The first and the last evaluation are
    computed. A negative P(m), which the polynomial of a checkpoint may have between its fitted points, counts as 0.

    Args:
        threshold: delta, at least 0; 0 computes always.
        polynomial: Coefficients of P, highest power first. They belong to one checkpoint and resolution.

    Raises:
        ArgumentError: A negative threshold; coefficients that are not finite.

    Source:
        Liu et al. 2024, TeaCache, Algorithm 1.
    """

    threshold: float
    polynomial: tuple[float, ...] = (1.0, 0.0)
    reference: ClassVar[Reference] = "last"

    def __post_init__(self) -> None:
        _at_least_zero("threshold", self.threshold)
        object.__setattr__(self, "polynomial", tuple(map(float, self.polynomial)))
        if not self.polynomial or not all(map(math.isfinite, self.polynomial)):
            raise ArgumentError("polynomial", got=self.polynomial, expected="finite coefficients")

    def check(self, count: int) -> None:
        """Any run will do."""

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """See :meth:`ReusePolicy.decide`."""
        if index in (0, count - 1) or change is None:
            return True, 0.0
        total = (memory or 0.0) + max(float(np.polyval(self.polynomial, change)), 0.0)
        return (True, 0.0) if total >= self.threshold else (False, total)


@dataclass(frozen=True)
class FirstBlock:
    """Compute when the probe differs from that of the last computed evaluation by the threshold, relatively in L1.

    The first and the last evaluation are computed.

    Args:
        threshold: At least 0; 0 computes always.

    Raises:
        ArgumentError: A negative threshold.

    Source:
        First-Block Cache (ParaAttention, 2025), where the probe is the residual of the first block.
    """

    threshold: float
    reference: ClassVar[Reference] = "computed"

    def __post_init__(self) -> None:
        _at_least_zero("threshold", self.threshold)

    def check(self, count: int) -> None:
        """Any run will do."""

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """See :meth:`ReusePolicy.decide`."""
        return index in (0, count - 1) or change is None or change >= self.threshold, None


@dataclass(frozen=True)
class MagnitudeRatio:
    r"""Reuse while tabulated ratios of residual magnitudes say that the error is small.

    .. math:: a \leftarrow a\,g_k, \quad e \leftarrow e + |1 - a|; \quad \text{reuse if } e < \delta
        \text{ and at most } K \text{ in a row}

    Args:
        table: g_k, the mean magnitude of the residual at evaluation k over that at k - 1; g_0 is not used. Made by
            :meth:`.stacks.BoundResiduals.magnitude_ratios` on one run without reuse.
        threshold: delta, at least 0; 0 computes always.
        longest: K, the longest row of reused evaluations.
        warmup: Share of the run, from its start, that is computed.
        interpolate: Consent to a table of another length than the run, read in between.

    Raises:
        ArgumentError: No table, or one that is not positive; a table of another length without ``interpolate``.

    Source:
        Ma et al. 2025, MagCache.
    """

    table: Sequence[float] = ()
    threshold: float = 0.06
    longest: int = 3
    warmup: float = 0.2
    interpolate: bool = False
    reference: ClassVar[Reference] = None

    def __post_init__(self) -> None:
        if not len(self.table):
            hint = "Measure one: ResidualCache with measure=True, a run, and BoundResiduals.magnitude_ratios()"
            raise ArgumentError("table", got="nothing", expected="ratios, one for each evaluation", hint=hint)
        table = tuple(map(float, self.table))
        if len(table) < 2 or not all(math.isfinite(g) and g > 0 for g in table[1:]):
            raise ArgumentError("table", got=table, expected="at least two positive ratios")
        object.__setattr__(self, "table", table)
        _at_least_zero("threshold", self.threshold)
        _at_least_zero("longest", self.longest)
        if not 0 <= self.warmup <= 1:
            raise ArgumentError("warmup", got=self.warmup, expected="a share in [0, 1]")

    def check(self, count: int) -> None:
        """Refuse a table of another length, unless it may be read in between."""
        if len(self.table) != count and not self.interpolate:
            raise ArgumentError(
                "table", got=f"{len(self.table)} ratios", expected=f"{count}, as the run", hint="Or interpolate=True"
            )

    def decide(self, index: int, count: int, memory: Any, change: float | None) -> tuple[bool, Any]:
        """See :meth:`ReusePolicy.decide`."""
        product, error, row = memory or (1.0, 0.0, 0)
        product *= self.ratio(index, count)
        error, row = error + abs(1 - product), row + 1
        if index == 0 or index < self.warmup * count or error >= self.threshold or row > self.longest:
            return True, (1.0, 0.0, 0)
        return False, (product, error, row)

    def ratio(self, index: int, count: int) -> float:
        """The table at one of ``count`` evaluations.

        A table of another length is a function of the place in the run, read by linear interpolation of the
        logarithm, to the power that keeps the product over the run.
        """
        size = len(self.table)
        if index == 0:
            return 1.0
        if size == count:
            return float(self.table[index])
        logs = np.concatenate([[0.0], np.cumsum(np.log(np.asarray(self.table[1:])))])
        place = np.asarray([index - 1, index]) * (size - 1) / (count - 1)
        before, after = np.interp(place, np.arange(size), logs)
        return math.exp(after - before)


def _at_least_zero(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not value >= 0 or not math.isfinite(value):
        raise ArgumentError(name, got=value, expected="a finite number, at least 0")
