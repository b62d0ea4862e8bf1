"""Time grids: pure functions from a number of steps (and an interpolant) to increasing times, as plain float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..errors import ArgumentError, GridError, UnknownNameError
from ..models import Interpolant

GridFunction: TypeAlias = Callable[[int, Interpolant], tuple[float, ...]]
Kind = TypeVar("Kind", bound=type)

GRIDS: dict[str, type] = {}
UNBOUNDED_RATIO = 80.0  # where an interpolant starts at alpha = 0: EDM's largest noise level (Karras et al. 2022)
SMALLEST_RATIO = 0.002  # where it does not say what the network was trained on: EDM's smallest


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the grid known under ``name``."""

    def add(kind: Kind) -> Kind:
        if name in GRIDS:
            raise ArgumentError("name", got=repr(name), expected="a name that is not registered yet")
        GRIDS[name] = kind
        return kind

    return add


def grid(
    name: str | GridFunction | Sequence[float], steps: int | None, interpolant: Interpolant, **options: object
) -> tuple[float, ...]:
    """Times of a run: a registered grid by name, a grid object, or the times themselves.

    Args:
        name: "uniform", "shifted", "cosine", "karras", "log_snr", a function ``(steps, interpolant) -> times``, or a
            sequence of times, which then decides the number of steps.
        steps: Number of steps, at least 1; with explicit times it may be None and must otherwise agree.
        interpolant: The path; grids of noise levels need it.
        options: Passed to the registered grid.

    Returns:
        ``steps + 1`` times.

    Raises:
        UnknownNameError: No grid has that name.
        ArgumentError: ``steps`` is missing or below 1, or an option is out of range.
        GridError: Explicit times do not fit ``steps``.

    Example:
        >>> from pushforward.models import Linear
        >>> grid("shifted", 4, Linear(), shift=3.0)
        (0.0, 0.1, 0.25, 0.5, 1.0)

    """
    if not isinstance(name, str) and not callable(name):
        times = tuple(float(t) for t in name)
        if steps is not None and steps != len(times) - 1:
            raise GridError("grid", got=f"{len(times)} times", expected=f"{steps + 1} (for {steps} steps)")
        return times
    if steps is None:
        raise ArgumentError("steps", got=None, expected="an integer, at least 1, or explicit times as grid")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ArgumentError("steps", got=repr(steps), expected="an integer, at least 1")
    if not isinstance(name, str):
        return tuple(name(steps, interpolant))
    if name not in GRIDS:
        raise UnknownNameError("grid", got=repr(name), expected=f"one of {', '.join(GRIDS)}, or times")
    try:
        function = GRIDS[name](**options)
    except TypeError as error:
        raise ArgumentError("grid_options", got=sorted(options), expected=f"options of {name}") from error
    return function(steps, interpolant)


def fractions(steps: int) -> list[float]:
    """``i / steps`` for i = 0 .. steps."""
    return [i / steps for i in range(steps + 1)]


@register("uniform")
@dataclass(frozen=True)
class Uniform:
    """``t_i = i / N``."""

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return tuple(fractions(steps))


@register("shifted")
@dataclass(frozen=True)
class Shifted:
    r"""The noise level's odds multiplied by ``shift``: :math:`t' = t / (t + s (1 - t))` of a base grid's times.

    On the linear interpolant it lowers the half log-SNR by log s at every inner time. Resolution rule: s is the root
    of the ratio of token counts; SD3 uses 3 at 1024 x 1024.

    Attributes:
        shift: s > 0; above 1 more steps are spent near the noise.
        base: The grid that is shifted.

    Source: Esser et al. 2024, Scaling rectified flow transformers (SD3), equation 23.

    """

    shift: float = 3.0
    base: GridFunction = Uniform()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.shift) and self.shift > 0):
            raise ArgumentError("shift", got=self.shift, expected="a positive number (SD3 uses 3.0)")

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return tuple(t / (t + self.shift * (1 - t)) for t in self.base(steps, interpolant))


@register("cosine")
@dataclass(frozen=True)
class Cosine:
    """``t_i = sin^2(pi i / 2N)``, Chebyshev-like: short steps at both ends."""

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        return (*(math.sin(math.pi * u / 2) ** 2 for u in fractions(steps)[:-1]), 1.0)


def noise_range(interpolant: Interpolant, largest: float | None, smallest: float | None) -> tuple[float, float]:
    """Largest and smallest noise ratio of a grid: as asked, else the interpolant's own, else EDM's (80, 0.002).

    Raises:
        ArgumentError: The range is empty, or a ratio lies outside the interpolant.

    """
    trained_smallest, trained_largest = interpolant.noise_range
    start = interpolant.noise_ratio(interpolant.t_min)
    if largest is None:
        largest = trained_largest if math.isfinite(trained_largest) else UNBOUNDED_RATIO
    if smallest is None:
        smallest = trained_smallest if trained_smallest > 0 else SMALLEST_RATIO
    if not 0 < smallest < largest <= start:
        raise ArgumentError(
            "noise range",
            got=f"({largest}, {smallest})",
            expected=f"{start} >= largest > smallest > 0 on {interpolant.name}",
        )
    return largest, smallest


def noise_grid(
    steps: int,
    interpolant: Interpolant,
    largest: float | None,
    smallest: float | None,
    ratio: Callable[[float, float, float], float],
) -> tuple[float, ...]:
    """Times of the noise ratios ``ratio(u, largest, smallest)`` for u uniform in [0, 1], ending at t = 1.

    Where the interpolant reaches sigma = 0, t = 1 follows the smallest ratio as one more time. Ends that are the
    interpolant's own are hit exactly.
    """
    largest, smallest = noise_range(interpolant, largest, smallest)
    clean = interpolant.sigma(1.0) == 0
    inner = fractions(max(steps - clean, 1))[: steps + 1 - clean]
    times = [interpolant.time_at_noise_ratio(ratio(u, largest, smallest)) for u in inner]
    if largest == interpolant.noise_ratio(interpolant.t_min):
        times[0] = interpolant.t_min
    if clean:
        return (*times, 1.0)
    return (*times[:-1], 1.0) if smallest == interpolant.noise_ratio(1.0) else tuple(times)


@register("karras")
@dataclass(frozen=True)
class Karras:
    r"""Noise ratios uniform in their root, then t = 1.

    .. math:: \nu_i = \left( \nu_0^{1/\rho} + \tfrac{i}{N-1} (\nu_{N-1}^{1/\rho} - \nu_0^{1/\rho}) \right)^\rho

    Attributes:
        rho: At least 1; 7 by default, 1 is uniform in the noise ratio.
        largest, smallest: First and last noise ratio before t = 1; by default the interpolant's own range, and
            (80, 0.002) where it has none.

    Source: Karras et al. 2022, EDM, equation 5.

    """

    rho: float = 7.0
    largest: float | None = None
    smallest: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 1):
            raise ArgumentError("rho", got=self.rho, expected="a number, at least 1")

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""

        def ratio(u: float, largest: float, smallest: float) -> float:
            high, low = largest ** (1 / self.rho), smallest ** (1 / self.rho)
            return (high + u * (low - high)) ** self.rho

        return noise_grid(steps, interpolant, self.largest, self.smallest, ratio)


@register("log_snr")
@dataclass(frozen=True)
class LogSNR:
    """Half log-SNR uniform from the largest noise ratio to the smallest, then t = 1.

    Attributes:
        largest, smallest: As in :class:`Karras`, whose limit for infinite rho this is.

    Source: Lu et al. 2022, DPM-Solver, section 3.3.

    """

    largest: float | None = None
    smallest: float | None = None

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""

        def ratio(u: float, largest: float, smallest: float) -> float:
            return largest * (smallest / largest) ** u

        return noise_grid(steps, interpolant, self.largest, self.smallest, ratio)
