"""Grids that are lists: published tables, training indices, and levels that the user gives."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError, GridError, UnknownNameError
from ...models import Interpolant
from .registry import fractions, register

# Noise ratios, ten steps and then 0: appendix of Sabour et al. 2024.
ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@register("ays")
@dataclass(frozen=True)
class AlignYourSteps:
    """Noise ratios published for a model, then t = 1; for a model of your own see :func:`optimise_grid`.

    The tables have ten steps; for other numbers log nu is interpolated linearly in the fraction of steps.

    Attributes:
        table: "sd15", "sdxl" or "svd".

    Raises:
        UnknownNameError: No such table.

    Source: Sabour et al. 2024, Align Your Steps.

    Example:
        >>> from pushforward.models import EDM
        >>> [round(EDM().noise_ratio(t), 3) for t in AlignYourSteps("sdxl")(10, EDM())][-3:]
        [0.234, 0.113, 0.0]
    """

    table: str = "sd15"

    def __post_init__(self) -> None:
        if self.table not in ALIGN_YOUR_STEPS:
            raise UnknownNameError("table", got=repr(self.table), expected="one of " + ", ".join(ALIGN_YOUR_STEPS))

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        table, places = ALIGN_YOUR_STEPS[self.table], fractions(max(steps - 1, 1))[:steps]
        levels = [interpolated(table, u * (len(table) - 1)) for u in places]
        return (*(interpolant.time_at_noise_ratio(nu) for nu in levels), 1.0)


def interpolated(levels: tuple[float, ...], place: float) -> float:
    """The level at a place between two nodes, linear in the logarithm; at a node that node's."""
    low = min(int(place), len(levels) - 2)
    share = place - low
    if abs(share - round(share)) < 1e-12:
        return levels[low + round(share)]
    return levels[low] * (levels[low + 1] / levels[low]) ** share


@register("indices")
@dataclass(frozen=True)
class Indices:
    """Whole indices of a discrete training schedule, then t = 1; index i of M is the time 1 - (i + 1) / M.

    Which indices is a matter of history. For N steps, M = 1000:

    - "trailing": ``round(M - i M / N) - 1``, which starts at the last index, pure noise; the one to use;
    - "linspace": N of them from M - 1 to 0 ("ddim"), or N + 1 without the smallest ("dpm");
    - "leading": multiples of M // N ("ddim") or of M // (N + 1) without 0 ("dpm"), plus ``offset``. It starts well
      below pure noise, where the model then is fed what it has never seen (Lin et al. 2024).

    Attributes:
        spacing: See above.
        family: "ddim" or "dpm": the two counts that diffusers' schedulers use.
        levels: M.
        offset: Added to "leading" indices; Stable Diffusion uses 1.

    Raises:
        UnknownNameError: A spacing or family that does not exist.
        ArgumentError: More steps than levels, or an offset that leaves the schedule.

    Source: Lin et al. 2024, Common diffusion noise schedules and sample steps are flawed, table 2.

    Example:
        >>> from pushforward.models import DiscreteDDPM
        >>> path = DiscreteDDPM.linear()
        >>> [round(path.index_of_time(t)) for t in Indices("linspace", "dpm")(4, path)[:-1]]
        [999, 749, 500, 250]
    """

    spacing: Literal["trailing", "linspace", "leading"] = "trailing"
    family: Literal["ddim", "dpm"] = "ddim"
    levels: int = 1000
    offset: int = 0

    def __post_init__(self) -> None:
        if self.spacing not in ("trailing", "linspace", "leading"):
            raise UnknownNameError("spacing", got=repr(self.spacing), expected="'trailing', 'linspace' or 'leading'")
        if self.family not in ("ddim", "dpm"):
            raise UnknownNameError("family", got=repr(self.family), expected="'ddim' or 'dpm'")

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        indices = self.indices(steps)
        if indices[0] >= self.levels or indices[-1] < 0 or any(a <= b for a, b in itertools.pairwise(indices)):
            expected = f"{steps} different ones in [0, {self.levels})"
            raise ArgumentError("indices", got=f"{indices[0]} .. {indices[-1]}", expected=expected)
        return (*(1 - (i + 1) / self.levels for i in indices), 1.0)

    def indices(self, steps: int) -> list[int]:
        """The indices, falling."""
        top, more = self.levels - 1, steps + (self.family == "dpm")
        if self.spacing == "trailing":
            return [round(self.levels - i * self.levels / steps) - 1 for i in range(steps)]
        if self.spacing == "leading":
            first = more - steps
            return [k * (self.levels // more) + self.offset for k in reversed(range(first, more))]
        # One point of a line is taken at its noisy end: np.linspace(0, M - 1, 1) would be clean data.
        return [round(top * (1 - i / max(more - 1, 1))) for i in range(steps)]


@dataclass(frozen=True)
class NoiseRatios:
    """Noise ratios sigma / alpha of your own, falling: the ``sigmas`` of EDM, k-diffusion and diffusers.

    A last 0 is t = 1. Without one, t = 1 is not added: the run ends where the list does.

    Attributes:
        levels: At least two, strictly falling, none below 0.

    Raises:
        GridError: Not so; names the first offender. When called for another number of steps than it has.

    Example:
        >>> from pushforward.models import Linear
        >>> NoiseRatios((3.0, 1.0, 0.0))(2, Linear())
        (0.25, 0.5, 1.0)
    """

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", falling("levels", self.levels))

    @property
    def steps(self) -> int:
        """How many steps the list has."""
        return len(self.levels) - 1

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        check_steps(steps, self.steps)
        return tuple(interpolant.time_at_noise_ratio(nu) for nu in self.levels)


@dataclass(frozen=True)
class Timesteps:
    """Training indices of your own, falling, then t = 1: the ``timesteps`` of diffusers.

    Attributes:
        indices: Strictly falling, in [0, M - 1]; they need not be whole.
        levels: M, how many indices there are; index i is the time 1 - (i + 1) / M.

    Raises:
        GridError: Not so; names the first offender. When called for another number of steps than it has.

    Example:
        >>> from pushforward.models import Linear
        >>> Timesteps((999, 499))(2, Linear())
        (0.0, 0.5, 1.0)
    """

    indices: tuple[float, ...]
    levels: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", falling("indices", self.indices, above=self.levels - 1, least=1))

    @property
    def steps(self) -> int:
        """How many steps the list has."""
        return len(self.indices)

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times."""
        check_steps(steps, self.steps)
        return (*(1 - (i + 1) / self.levels for i in self.indices), 1.0)


def falling(name: str, values: tuple[float, ...], *, above: float = math.inf, least: int = 2) -> tuple[float, ...]:
    """The values as floats, if they fall strictly within [0, above].

    Raises:
        GridError: They do not; names the first offender.
    """
    numbers = tuple(float(value) for value in values)
    if len(numbers) < least:
        raise GridError(name, got=f"{len(numbers)} values", expected=f"at least {least}")
    for index, value in enumerate(numbers):
        if not 0 <= value <= above:
            raise GridError(f"{name}[{index}]", got=value, expected=f"a number in [0, {above:g}]")
        if index and value >= numbers[index - 1]:
            raise GridError(f"{name}[{index}]", got=f"{value} after {numbers[index - 1]}", expected="falling values")
    return numbers


def check_steps(asked: int, given: int) -> None:
    """Refuse to run a list for another number of steps than it has.

    Raises:
        GridError: The numbers differ.
    """
    if asked != given:
        raise GridError("steps", got=asked, expected=f"{given}, which this grid has (or None)")
