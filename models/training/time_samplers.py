"""Which times a network is trained at: the densities of SD3 and their company, to draw from and to weigh with.

Drawing t from a density pi is, in expectation, the uniform objective weighted by pi. Time is ours, 0 = noise: a
logit-normal that SD3 prints with location m has location -m here.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...errors import ArgumentError
from ...kernels import PURPOSE_USER, Draw, uniform
from ..interpolants import check_parameter
from ..registry import made, registration
from ..shift import check_shift, shift_time

Kind = TypeVar("Kind", bound="type[TimeSampler]")
TIME_SAMPLERS: dict[str, type[TimeSampler]] = {}
LARGEST_MODE_SCALE = 2 / (math.pi - 2)
HALVINGS = 54  # of [0, 1]: to the spacing of float64 near 1


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the sampler known under ``name``."""
    return registration(TIME_SAMPLERS, name)


def time_sampler(name: str, **options: Any) -> TimeSampler:
    """The registered sampler of that name: "uniform", "logit_normal", "mode", "cosmap" or "histogram".

    Raises:
        UnknownNameError: No sampler has this name.
        ArgumentError: An option it does not have, or out of range.

    Example:
        >>> time_sampler("mode", scale=0.81)
        ModeTimes(scale=0.81)
    """
    return made(TIME_SAMPLERS, "time sampler", name, options)


class TimeSampler(ABC):
    """A density of times in (0, 1), given by its quantile function."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The time below which lies the share ``u`` of the draws, elementwise; u in [0, 1], float64."""

    @abstractmethod
    def cdf(self, t: Tensor) -> Tensor:
        """Inverse of :meth:`quantile`, elementwise; t in [0, 1]."""

    @abstractmethod
    def log_prob(self, t: Tensor) -> Tensor:
        """Logarithm of the density at t in (0, 1), elementwise."""

    def sample(self, count: int, *, seed: int, step: int = 0) -> Tensor:
        """Times of one batch, [count], float64; the i-th is the same in any batch of this seed and step.

        Args:
            count: How many, at least 0.
            seed: In [0, 2**64).
            step: The training step, so that each has its own draws.

        Example:
            >>> time_sampler("logit_normal").sample(2, seed=0, step=7).dtype
            torch.float64
        """
        return self.quantile(self._uniform(count, seed, step, stage=0))

    def weighted(self, count: int, *, seed: int, step: int = 0, importance: bool = False) -> tuple[Tensor, Tensor]:
        r"""Times of one batch and the weights of their losses, [count] each, float64.

        Args:
            count, seed, step: As in :meth:`sample`.
            importance: Whether the weights are :math:`1 / \pi(t)`, which give the uniform objective with another
                variance; else they are 1, and the density is the emphasis that it was chosen for.

        Raises:
            ArgumentError: Importance weights of a density that is 0 in places: no weights make up for times that are
                never drawn.
        """
        t = self.sample(count, seed=seed, step=step)
        if not importance:
            return t, torch.ones_like(t)
        if not self.positive:
            raise ArgumentError("importance", got=self, expected="a density that is positive between its ends")
        return t, torch.exp(-self.log_prob(t))

    @property
    def positive(self) -> bool:
        """Whether the density vanishes at single points at most; formulas' do."""
        return True

    def shifted(self, shift: float) -> ShiftedTimes:
        """The same density for another resolution: every time moved by :func:`pushforward.models.shift_time`."""
        return ShiftedTimes(self, shift)

    def mixed(self, share: float) -> MixedTimes:
        """The same density with a share of uniform times."""
        return MixedTimes(self, share)

    @staticmethod
    def _uniform(count: int, seed: int, step: int, stage: int) -> Tensor:
        return uniform((count,), seed=seed, draw=Draw(PURPOSE_USER, step, stage), dtype=torch.float64)


@register("uniform")
@dataclass(frozen=True)
class UniformTimes(TimeSampler):
    """``t = u``: rectified flow as first published (Liu et al. 2023)."""

    def quantile(self, u: Tensor) -> Tensor:
        """``u``."""
        return u

    def cdf(self, t: Tensor) -> Tensor:
        """``t``."""
        return t

    def log_prob(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)


@register("logit_normal")
@dataclass(frozen=True)
class LogitNormalTimes(TimeSampler):
    r"""The logit of t is normal: :math:`t = \mathrm{sigmoid}(m + s z)`.

    .. math:: \log \pi(t) = -\frac{(\mathrm{logit}\, t - m)^2}{2 s^2} - \log(s \sqrt{2 \pi}\, t (1 - t))

    The density vanishes at both ends: t = 0, where sampling starts, is never trained; see :meth:`TimeSampler.mixed`.
    EDM's training levels are this density with m = 1.2, s = 1.2.

    Attributes:
        location: m in our time; SD3's location is -m, and its lognorm(0.5, .) favours noise.
        scale: s, above 0.

    Raises:
        ArgumentError: A value that is not finite, or a scale that is not positive.

    Source:
        Esser et al. 2024 (SD3), equation 19.

    Example:
        >>> LogitNormalTimes().quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).round(decimals=3)
        tensor([0.2170, 0.5000, 0.7830], dtype=torch.float64)
    """

    location: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_parameter("location", self.location)
        check_parameter("scale", self.scale, above=0.0)

    def quantile(self, u: Tensor) -> Tensor:
        """Sigmoid of the normal quantile."""
        return torch.sigmoid(self.location + self.scale * torch.special.ndtri(u))

    def cdf(self, t: Tensor) -> Tensor:
        """Normal distribution function of the standardised logit."""
        return torch.special.ndtr((torch.logit(t) - self.location) / self.scale)

    def log_prob(self, t: Tensor) -> Tensor:
        """The formula above; -inf at the ends."""
        inside = (t > 0) & (t < 1)
        logit = torch.log(t) - torch.log1p(-t)
        value = -((logit - self.location) ** 2) / (2 * self.scale**2) - torch.log(t) - torch.log1p(-t)
        return torch.where(inside, value - math.log(self.scale * math.sqrt(2 * math.pi)), -torch.inf)


@register("mode")
@dataclass(frozen=True)
class ModeTimes(TimeSampler):
    r"""A heavy-tailed density with its mode in the middle: :math:`t = u + s (\cos^2(\pi u / 2) - 1 + u)`.

    .. math:: \pi(t) = \frac{1}{1 + s (1 - \frac{\pi}{2} \sin \pi u)}

    Symmetric under t -> 1 - t, positive at both ends.

    Attributes:
        scale: s in [-1, 2 / (pi - 2)]; above 0 it favours the middle, below 0 the ends, 0 is uniform. SD3: 1.29.

    Raises:
        ArgumentError: A scale outside that interval, where t(u) is not monotone.

    Source:
        Esser et al. 2024 (SD3), equation 20.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= LARGEST_MODE_SCALE:
            expected = f"a number in [-1, {LARGEST_MODE_SCALE:.4f}]; outside it t(u) is not monotone"
            raise ArgumentError("mode scale", got=self.scale, expected=expected)

    def quantile(self, u: Tensor) -> Tensor:
        """The formula above, rising in u."""
        # cos^2(x) - 1 = -sin^2(x): no cancellation near u = 0.
        return u + self.scale * (u - torch.sin(torch.pi / 2 * u) ** 2)

    def cdf(self, t: Tensor) -> Tensor:
        """The u of a t, by bisection."""
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = self.quantile(middle) < t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def log_prob(self, t: Tensor) -> Tensor:
        """The formula above at the u of t."""
        slope = 1 + self.scale * (1 - torch.pi / 2 * torch.sin(torch.pi * self.cdf(t)))
        return -torch.log(slope.clamp(min=0.0))


@register("cosmap")
@dataclass(frozen=True)
class CosMapTimes(TimeSampler):
    r"""The times at which a linear path has the log-SNR of the cosine schedule at a uniform time.

    .. math:: t = \frac{1}{1 + \cot(\pi u / 2)}, \quad \pi(t) = \frac{2}{\pi (1 - 2 t + 2 t^2)}

    Symmetric under t -> 1 - t.

    Source:
        Esser et al. 2024 (SD3), equation 21.
    """

    def quantile(self, u: Tensor) -> Tensor:
        """Rising in u; finite at both ends."""
        sine, cosine = torch.sin(torch.pi / 2 * u), torch.sin(torch.pi / 2 * (1 - u))
        return sine / (sine + cosine)

    def cdf(self, t: Tensor) -> Tensor:
        """``2 / pi * atan(t / (1 - t))``."""
        return torch.atan2(t, 1 - t) * (2 / torch.pi)

    def log_prob(self, t: Tensor) -> Tensor:
        """The formula above."""
        return math.log(2 / math.pi) - torch.log(1 - 2 * t + 2 * t * t)


@register("histogram")
@dataclass(frozen=True)
class HistogramTimes(TimeSampler):
    r"""A density that is constant between edges: :math:`\pi(t) = p_k / (e_{k+1} - e_k)`.

    Attributes:
        edges: Increasing times in [0, 1]; those outside are never drawn.
        shares: p_k, of each cell; at least 0, scaled to sum to one.

    Raises:
        ArgumentError: Edges that do not increase in [0, 1], shares that are not one less, negative or all zero.

    Example:
        >>> HistogramTimes((0.0, 0.5, 1.0), (3.0, 1.0)).quantile(torch.tensor([0.375, 0.875], dtype=torch.float64))
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    edges: tuple[float, ...] = (0.0, 1.0)
    shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        edges, shares = tuple(map(float, self.edges)), tuple(map(float, self.shares))
        rising = all(a < b for a, b in itertools.pairwise(edges))
        if len(edges) < 2 or not rising or min(edges) < 0 or max(edges) > 1:
            raise ArgumentError("edges", got=self.edges, expected="two increasing times in [0, 1], or more")
        if len(shares) != len(edges) - 1:
            raise ArgumentError("shares", got=f"{len(shares)}", expected=f"{len(edges) - 1}, one a cell")
        total = math.fsum(shares)
        if not all(0 <= share < math.inf for share in shares) or not total > 0:
            raise ArgumentError("shares", got=self.shares, expected="finite numbers of at least 0, not all 0")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "shares", tuple(share / total for share in shares))

    @property
    def positive(self) -> bool:
        """Whether every cell has a share."""
        return 0.0 not in self.shares

    def quantile(self, u: Tensor) -> Tensor:
        """Linear within each cell."""
        edges, levels, shares = self._tables(u)
        cell = (torch.searchsorted(levels, u.contiguous(), right=True) - 1).clamp(0, len(shares) - 1)
        inside = (u - levels[cell]) / shares[cell]
        return torch.lerp(edges[cell], edges[cell + 1], inside.nan_to_num(0.0).clamp(0.0, 1.0))

    def cdf(self, t: Tensor) -> Tensor:
        """Linear within each cell."""
        edges, levels, shares = self._tables(t)
        cell = self._cell(t)
        inside = ((t - edges[cell]) / (edges[cell + 1] - edges[cell])).clamp(0.0, 1.0)
        return levels[cell] + shares[cell] * inside

    def log_prob(self, t: Tensor) -> Tensor:
        """Of the cell; -inf outside the edges."""
        edges, _, shares = self._tables(t)
        cell = self._cell(t)
        value = torch.log(shares[cell] / (edges[cell + 1] - edges[cell]))
        return torch.where((t >= edges[0]) & (t <= edges[-1]), value, -torch.inf)

    def _cell(self, t: Tensor) -> Tensor:
        edges = self._tables(t)[0]
        return (torch.searchsorted(edges, t.contiguous(), right=True) - 1).clamp(0, len(self.shares) - 1)

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Edges, distribution function at them, shares."""
        edges, shares = (torch.tensor(one, dtype=like.dtype, device=like.device) for one in (self.edges, self.shares))
        return edges, torch.cat([torch.zeros_like(shares[:1]), shares.cumsum(0)]), shares


@dataclass(frozen=True)
class ShiftedTimes(TimeSampler):
    r"""Times of another density, moved by the resolution shift s.

    .. math:: \pi_s(t) = \pi(t_0) \frac{s}{(1 - t + s t)^2}, \quad t_0 = \frac{s t}{1 - t + s t}

    A logit-normal of location m becomes one of location m - log s; shifts compose by multiplication.

    Attributes:
        base: The density that is moved.
        shift: s > 0, sqrt(target tokens / reference tokens); above 1 it favours noise.

    Source:
        Esser et al. 2024 (SD3), equation 23.
    """

    base: TimeSampler
    shift: float

    def __post_init__(self) -> None:
        check_shift(self.shift)

    def quantile(self, u: Tensor) -> Tensor:
        """The base's, moved."""
        return shift_time(self.base.quantile(u), self.shift)

    def cdf(self, t: Tensor) -> Tensor:
        """The base's where t came from."""
        return self.base.cdf(shift_time(t, 1 / self.shift))

    def log_prob(self, t: Tensor) -> Tensor:
        """The base's where t came from, and the logarithm of the map's slope."""
        slope = math.log(self.shift) - 2 * torch.log1p((self.shift - 1) * t)
        return self.base.log_prob(shift_time(t, 1 / self.shift)) + slope


@dataclass(frozen=True)
class MixedTimes(TimeSampler):
    """A share of uniform times among those of another density: ends that it never draws are trained too.

    Attributes:
        base: The density.
        share: Of the uniform times, in [0, 1].
    """

    base: TimeSampler
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ArgumentError("share", got=self.share, expected="a number in [0, 1]")

    def sample(self, count: int, *, seed: int, step: int = 0) -> Tensor:
        """As in :meth:`TimeSampler.sample`; a second draw decides which density a time comes from."""
        u, coin = (self._uniform(count, seed, step, stage) for stage in (0, 1))
        return torch.where(coin < self.share, u, self.base.quantile(u))

    def quantile(self, u: Tensor) -> Tensor:
        """By bisection of the distribution function."""
        low, high = torch.zeros_like(u), torch.ones_like(u)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = self.cdf(middle) < u
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def cdf(self, t: Tensor) -> Tensor:
        """The weighted sum."""
        return self.share * t + (1 - self.share) * self.base.cdf(t)

    def log_prob(self, t: Tensor) -> Tensor:
        """Logarithm of the weighted sum."""
        return torch.log(self.share + (1 - self.share) * self.base.log_prob(t).exp())
