"""Restart sampling: now and then go back up with a large amount of noise, and integrate the flow down again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ..plan import Expression, StepBuilder
from ..solver import FixedGridSolver, register
from .noising import check_range, heun_to, renoise

RHO = 7.0


@dataclass(frozen=True)
class RestartInterval:
    """One restart interval, in noise ratios.

    Attributes:
        nu_min: Where the restarts begin; the nearest grid point inside the grid takes its place.
        nu_max: Up to where noise is added; above ``nu_min``.
        times: How many times, K.
        nodes: Noise levels of the way down, both ends included (N of the paper, which makes N - 1 steps). None: as many
            as the grid itself has there, so that a finer grid makes the restarts finer too.

    """

    nu_min: float
    nu_max: float
    times: int = 1
    nodes: int | None = None

    def __post_init__(self) -> None:
        check_range("nu_min", self.nu_min, 0)
        if not self.nu_min < self.nu_max < float("inf"):
            raise ArgumentError("nu_max", got=self.nu_max, expected=f"a finite number above nu_min = {self.nu_min}")
        if self.times < 1:
            raise ArgumentError("times", got=self.times, expected="at least 1")
        if self.nodes is not None and self.nodes < 2:
            raise ArgumentError("nodes", got=self.nodes, expected="at least 2 (the two ends), or None")

    @classmethod
    def of(cls, value: RestartInterval | Sequence[Any]) -> RestartInterval:
        """An interval itself, or one from its arguments."""
        return value if isinstance(value, RestartInterval) else cls(*value)


CIFAR10 = (RestartInterval(0.06, 0.30, 2, 3),)
IMAGENET64 = (
    RestartInterval(19.35, 40.79, 1, 4),
    RestartInterval(1.09, 1.92, 1, 4),
    RestartInterval(0.59, 1.09, 5, 4),
    RestartInterval(0.30, 0.59, 5, 4),
    RestartInterval(0.06, 0.30, 6, 6),
)


@register("restart")
@dataclass(frozen=True)
class Restart(FixedGridSolver):
    r"""Heun in nu on the grid; where it reaches ``nu_min``, K times add noise up to ``nu_max`` and come down again.

    .. math:: x \leftarrow x + \sqrt{\nu_\text{max}^2 - \nu_\text{min}^2}\, z \quad (\text{in } x / \alpha), \qquad
        \nu_k = \left( \nu_\text{max}^{1/7} + \tfrac{k}{N_r - 1}
        (\nu_\text{min}^{1/7} - \nu_\text{max}^{1/7}) \right)^7

    The noise makes up for the errors so far: it contracts them, on Gaussian data of deviation c by
    :math:`\sqrt{(\nu_\text{min}^2 + c^2) / (\nu_\text{max}^2 + c^2)}` a restart, at no stochastic discretisation error.
    Evaluations: 2N - 1 on a grid of N steps ending at clean data, and :math:`2 K (N_r - 1)` for each interval.

    Attributes:
        intervals: :class:`RestartInterval` objects, or tuples of their arguments. :data:`CIFAR10` (18 steps) and
            :data:`IMAGENET64` (36 steps, 203 evaluations, with s_noise 1.003) are the paper's, for EDM's grid. The
            default covers the middle of the latter's range.
        s_noise: Factor of the added noise.

    Raises:
        ArgumentError: When planned: an interval begins below the last noise level of the grid before clean data, ends
            above the first, or ends at the grid point that it begins at.

    """

    intervals: tuple[RestartInterval, ...] = (RestartInterval(0.30, 1.09, 2),)
    s_noise: float = 1.0

    order = 2
    source = "Xu, Deng, Cheng, Tian, Liu & Jaakkola 2023, Restart Sampling, algorithm 2"
    stochastic = True

    def __post_init__(self) -> None:
        check_range("s_noise", self.s_noise, 0)
        object.__setattr__(self, "intervals", tuple(RestartInterval.of(interval) for interval in self.intervals))

    def step(self, s: StepBuilder) -> None:
        """Heun, then the restarts that begin at the new time."""
        x = heun_to(s, s.x, s.t, s.t_next)
        for interval in self.intervals:
            if begins_at(s, interval) == s.index + 1:
                levels = descent(s, interval)
                for _ in range(interval.times):
                    x = self.again(s, s.store(x), levels)
        s.advance(x)

    def again(self, s: StepBuilder, x: Expression, levels: list[float]) -> Expression:
        """One restart from ``t_next`` through the times ``levels`` back to it."""
        x = renoise(s, x, s.t_next, levels[0], self.s_noise)
        for t, t_next in itertools.pairwise(levels):
            x = heun_to(s, s.store(x), t, t_next)
        return x


def begins_at(s: StepBuilder, interval: RestartInterval) -> int:
    """The inner grid point nearest to ``nu_min``."""
    nus = [s.interpolant.noise_ratio(t) for t in s.grid]
    lowest = min(nu for nu in nus if nu > 0)
    if not lowest <= interval.nu_min * (1 + 1e-9) or interval.nu_max > max(nus) * (1 + 1e-9):
        expected = f"inside the grid's noise ratios, {lowest:.6g} to {max(nus):.6g}"
        raise ArgumentError("interval", got=(interval.nu_min, interval.nu_max), expected=expected)
    return min((i for i, nu in enumerate(nus) if nu > 0), key=lambda i: abs(nus[i] - interval.nu_min))


def descent(s: StepBuilder, interval: RestartInterval) -> list[float]:
    """Times of the way down, from ``nu_max`` to the grid point that stands for ``nu_min``."""
    low, high = s.interpolant.noise_ratio(s.t_next), interval.nu_max
    if not low < high:
        raise ArgumentError("nu_max", got=high, expected=f"above {low:.6g}, the grid point nearest to nu_min")
    inside = sum(low <= s.interpolant.noise_ratio(t) <= high for t in s.grid)
    nodes = interval.nodes or max(inside, 2)
    first, last = high ** (1 / RHO), low ** (1 / RHO)
    nus = [(first + k / (nodes - 1) * (last - first)) ** RHO for k in range(nodes - 1)]
    return [*(s.interpolant.time_at_noise_ratio(nu) for nu in nus), s.t_next]
