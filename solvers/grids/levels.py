"""Grids that are written in the noise level: Karras, exponential, beta, arctan."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from scipy.special import betaincinv

from ...errors import ArgumentError, UnknownNameError
from ...models import Interpolant
from .registry import fractions, register

UNBOUNDED_RATIO = 80.0  # where an interpolant starts at alpha = 0: EDM's largest noise level (Karras et al. 2022)
SMALLEST_RATIO = 0.002  # where it does not say what the network was trained on: EDM's smallest
Level = Literal["noise_ratio", "time"]


@dataclass(frozen=True)
class LevelGrid(ABC):
    """Noise levels along a curve from the largest to the smallest, then t = 1.

    With ``over="noise_ratio"`` the level is nu = sigma / alpha, whatever the interpolant. With ``over="time"`` it is
    1 - t, which on the linear interpolant is sigma: how diffusers' flow-matching schedulers use these curves.

    Attributes:
        largest, smallest: First and last level before t = 1. By default the interpolant's own range of nu, and
            (80, 0.002) where it has none; or all times from the interpolant's first, with no extra node before t = 1.
        over: What the curve is written in.

    """

    _: KW_ONLY
    largest: float | None = None
    smallest: float | None = None
    over: Level = "noise_ratio"

    smallest_time: ClassVar[float] = 0.0

    @abstractmethod
    def level(self, u: float, largest: float, smallest: float) -> float:
        """The level at u in [0, 1]: ``largest`` at 0, ``smallest`` at 1."""

    def __call__(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times.

        Raises:
            ArgumentError: The range is empty, or outside the interpolant.
        """
        if self.over == "noise_ratio":
            return self.ratios(steps, interpolant)
        if self.over != "time":
            raise UnknownNameError("over", got=repr(self.over), expected="'noise_ratio' or 'time'")
        largest = 1 - interpolant.t_min if self.largest is None else self.largest
        smallest = self.smallest_time if self.smallest is None else self.smallest
        if not self.smallest_time <= smallest < largest <= 1 - interpolant.t_min:
            expected = f"{1 - interpolant.t_min} >= largest > smallest >= {self.smallest_time}"
            raise ArgumentError("noise range", got=f"({largest}, {smallest})", expected=expected)
        extra = smallest > 0
        inner = fractions(max(steps - extra, 1))[: steps + (not extra)]
        times = [1 - self.level(u, largest, smallest) for u in inner]
        times[0] = 1 - largest
        return (*times, 1.0) if extra else (*times[:-1], 1.0)

    def ratios(self, steps: int, interpolant: Interpolant) -> tuple[float, ...]:
        """The times of the noise ratios; ends that are the interpolant's own are hit exactly."""
        largest, smallest = noise_range(interpolant, self.largest, self.smallest)
        clean = interpolant.sigma(1.0) == 0
        inner = fractions(max(steps - clean, 1))[: steps + 1 - clean]
        times = [interpolant.time_at_noise_ratio(self.level(u, largest, smallest)) for u in inner]
        if largest == interpolant.noise_ratio(interpolant.t_min):
            times[0] = interpolant.t_min
        if clean:
            return (*times, 1.0)
        return (*times[:-1], 1.0) if smallest == interpolant.noise_ratio(1.0) else tuple(times)


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


@register("karras")
@dataclass(frozen=True)
class Karras(LevelGrid):
    r"""Noise levels uniform in their root, then t = 1; options of the range as in :class:`LevelGrid`.

    .. math:: \nu_i = \left( \nu_0^{1/\rho} + \tfrac{i}{N-1} (\nu_{N-1}^{1/\rho} - \nu_0^{1/\rho}) \right)^\rho

    ``Karras(rho=2, over="time")`` is DDIM's and DEIS's quadratic spacing; ``Karras(rho=1, over="time",
    smallest=1e-3)`` the grid of diffusers' flow-matching schedulers.

    Attributes:
        rho: At least 1; 7 by default, 1 is uniform in the level.

    Source: Karras et al. 2022, EDM, equation 5.

    Example:
        >>> from pushforward.models import EDM
        >>> [round(EDM().noise_ratio(t), 3) for t in Karras()(4, EDM())]
        [80.0, 9.723, 0.47, 0.002, 0.0]
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 1):
            raise ArgumentError("rho", got=self.rho, expected="a number, at least 1")

    def level(self, u: float, largest: float, smallest: float) -> float:
        """Uniform in the root."""
        high, low = largest ** (1 / self.rho), smallest ** (1 / self.rho)
        return (high + u * (low - high)) ** self.rho


@register("exponential")
@register("log_snr")
@dataclass(frozen=True)
class LogSNR(LevelGrid):
    r"""Half log-SNR uniform from the largest noise ratio to the smallest, then t = 1; ranges as in :class:`LevelGrid`.

    .. math:: \log \nu_i = \log \nu_{N-1} + (1 - \tfrac{i}{N-1})^p \log(\nu_0 / \nu_{N-1})

    Attributes:
        power: p > 0; 1 by default, others are the "polyexponential" grids of k-diffusion.

    Source: Lu et al. 2022, DPM-Solver, section 3.3; the limit of :class:`Karras` for infinite rho.

    """

    smallest_time: ClassVar[float] = 1e-3  # a logarithm does not reach 0: the last node of a 1000-step training

    power: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.power) and self.power > 0):
            raise ArgumentError("power", got=self.power, expected="a positive number")

    def level(self, u: float, largest: float, smallest: float) -> float:
        """Uniform in the logarithm."""
        if self.power == 1:
            return largest * (smallest / largest) ** u
        return smallest * (largest / smallest) ** ((1 - u) ** self.power)


@register("beta")
@dataclass(frozen=True)
class Beta(LevelGrid):
    r"""Levels at equal quantiles of a beta distribution: short steps at both ends for a, b below 1.

    .. math:: k_i = k_{N} + (k_0 - k_{N}) F^{-1}_{a,b}(1 - i / N)

    Over times, as published; diffusers uses the curve over nu on diffusion paths, ``Beta(over="noise_ratio")``, where
    almost all steps then lie at high noise.

    Attributes:
        a, b: Parameters of the distribution, positive; 0.6 as published. 1, 1 is uniform.

    Source: Lee et al. 2024, Beta Sampling is All You Need, section 4.

    Example:
        >>> from pushforward.models import Linear
        >>> [round(t, 4) for t in Beta()(4, Linear())]
        [0.0, 0.1757, 0.5, 0.8243, 1.0]
    """

    a: float = 0.6
    b: float = 0.6
    _: KW_ONLY
    over: Level = "time"

    def __post_init__(self) -> None:
        for name, value in (("a", self.a), ("b", self.b)):
            if not (math.isfinite(value) and value > 0):
                raise ArgumentError(name, got=value, expected="a positive number")

    def level(self, u: float, largest: float, smallest: float) -> float:
        """The quantile at 1 - u, scaled to the range."""
        return smallest + float(betaincinv(self.a, self.b, 1 - u)) * (largest - smallest)


@register("arctan")
@dataclass(frozen=True)
class Arctan(LevelGrid):
    r"""Equal angles :math:`\theta = \arctan(\nu / c)`: the best grid of DDIM, and of Euler in nu, on N(0, c^2).

    One step there scales a sample, relative to the exact flow, by the cosine of its angle; the product of the cosines
    is largest for equal angles, :math:`\cos(\Theta / N)^N`.

    Attributes:
        scale: c, the standard deviation of the data, above 0; 0.5 by default, that of images in [-1, 1].

    Source: The closed form behind Sabour et al. 2024, Align Your Steps, section 3.

    """

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ArgumentError("scale", got=self.scale, expected="a positive number")

    def level(self, u: float, largest: float, smallest: float) -> float:
        """The tangent of equal angles; both ends exactly."""
        if u in (0.0, 1.0):
            return smallest if u else largest
        high, low = math.atan(largest / self.scale), math.atan(smallest / self.scale)
        return self.scale * math.tan(high + u * (low - high))
