"""Interpolants: the scalar functions alpha and sigma of a path from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

import dataclasses
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..errors import ArgumentError, SingularTimeError, UnknownNameError

INTERPOLANTS: dict[str, type[Interpolant]] = {}

# Rounding may carry the inverse of a time this far past an end of [0, 1]; anything further is another noise level.
SLACK = 1e-12


class Coefficients(NamedTuple):
    """Values and time derivatives at one time; ``dsigma`` is ``-inf`` where sigma falls like a square root to 0."""

    alpha: float
    sigma: float
    dalpha: float
    dsigma: float


@dataclass(frozen=True)
class Interpolant(ABC):
    r"""A path :math:`x_t = \alpha(t) x_1 + \sigma(t) x_0` with t = 0 at noise, t = 1 at data, and rising SNR.

    Everything is a Python float in float64, computed on the host before a network runs. Instances are immutable,
    hashable and equal by value.

    Source:
        Albergo, Boffi & Vanden-Eijnden 2023 (one-sided interpolants); the half log-SNR as in Lu et al. 2022.
    """

    name: ClassVar[str]
    one_sided: ClassVar[bool] = True
    """Whether the path starts at Gaussian noise, so that velocity, D, n and score determine one another."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in cls.__dict__:
            INTERPOLANTS[cls.name] = cls

    @abstractmethod
    def __call__(self, t: float) -> Coefficients:
        """``(alpha, sigma, dalpha/dt, dsigma/dt)`` at ``t``, with exact limits at the ends.

        Raises:
            ArgumentError: ``t`` is NaN, outside [0, 1], or not a number on the host.
        """

    @abstractmethod
    def time_at_noise_ratio(self, nu: float) -> float:
        """Time at which sigma / alpha is ``nu`` in [0, inf]; exact to the spacing of floats at that time.

        Raises:
            ArgumentError: The path never has this noise ratio.
        """

    def alpha(self, t: float) -> float:
        """Scale of the data at ``t``."""
        return self(t).alpha

    def sigma(self, t: float) -> float:
        """Scale of the noise at ``t``."""
        return self(t).sigma

    def noise_ratio(self, t: float) -> float:
        """``nu = sigma / alpha``, the noise level of EDM and k-diffusion; ``inf`` where alpha is 0."""
        a, s, _, _ = self(t)
        return s / a if a > 0 else math.inf

    def half_log_snr(self, t: float) -> float:
        """``lam = log(alpha / sigma)``; ``-inf`` where alpha is 0, ``inf`` where sigma is 0."""
        a, s, _, _ = self(t)
        if s == 0:
            return math.inf
        return math.log(a / s) if a > 0 else -math.inf

    def time_at(self, half_log_snr: float) -> float:
        """Inverse of :meth:`half_log_snr`.

        Raises:
            ArgumentError: NaN, or the path never has this signal-to-noise ratio.
        """
        if half_log_snr != half_log_snr:
            raise ArgumentError("half_log_snr", got=half_log_snr, expected="a number or an infinity")
        return self.time_at_noise_ratio(math.exp(-half_log_snr) if half_log_snr > -700 else math.inf)

    def sigma_dsigma(self, t: float) -> float:
        """``sigma * dsigma/dt``, finite also where dsigma alone is infinite (half the rate of the noise variance)."""
        _, s, _, ds = self(t)
        return s * ds

    @property
    def t_min(self) -> float:
        """The time at which a run from noise should begin: 0, or the first time inside the range of training."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The time at which a run to data ends."""
        return 1.0

    @property
    def noise_range(self) -> tuple[float, float]:
        """Smallest and largest noise ratio that networks of this path are trained on; (0, inf) if all are.

        Grids that are defined in the noise ratio start at the second and end at the first, then go on to t = 1.
        """
        return 0.0, math.inf

    def to_config(self) -> dict[str, Any]:
        """Name and parameters, ready for JSON; :func:`interpolant_from_config` is the inverse."""
        return {"name": self.name} | {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class VariancePreserving(Interpolant):
    """A path with ``alpha^2 + sigma^2 = 1``."""

    def sigma_dsigma(self, t: float) -> float:
        """``-alpha * dalpha/dt``, which needs no dsigma."""
        a, _, da, _ = self(t)
        return -a * da


def equal_noise(path: Interpolant, t: float, other: Interpolant) -> tuple[float, float]:
    r"""Time on ``other`` with the noise ratio of ``path`` at ``t``, and the multiple of the state that lies there.

    .. math:: \tilde\sigma(\tilde t) / \tilde\alpha(\tilde t) = \sigma(t) / \alpha(t), \quad
        \tilde x = c x, \; c = \tilde\sigma / \sigma = \tilde\alpha / \alpha

    Raises:
        SingularTimeError: ``other`` never has this noise ratio.

    Example:
        >>> equal_noise(interpolant("edm", sigma_max=2.0), 0.5, Linear())  # nu = 1
        (0.5, 0.5)
    """
    try:
        time = other.time_at_noise_ratio(path.noise_ratio(t))
    except ArgumentError as error:
        hint = "Start or end the grid where both paths have the noise level"
        raise SingularTimeError(
            "t", got=t, because=f"{other} does not reach this noise level ({error})", hint=hint
        ) from error
    here, there = path(t), other(time)
    # sigma / sigma where alpha is small or 0, alpha / alpha where sigma is.
    return time, there.sigma / here.sigma if here.sigma > here.alpha else there.alpha / here.alpha


def check_time(t: float) -> float:
    """``t`` as a float in [0, 1].

    Raises:
        ArgumentError: NaN, out of range, or not a number on the host (a tensor would be read back from its device).
    """
    if not isinstance(t, numbers.Real):
        raise ArgumentError("t", got=type(t).__name__, expected="a float", hint="Times are numbers on the host")
    if not 0.0 <= t <= 1.0:
        raise ArgumentError("t", got=t, expected="0 (noise) <= t <= 1 (data)")
    return float(t)


def check_found(t: float, nu: float, path: Interpolant) -> float:
    """``t`` clipped into [0, 1] if only rounding carried it outside.

    Raises:
        ArgumentError: ``t`` is clearly outside, so that ``path`` never has the noise ratio ``nu``.
    """
    if not -SLACK <= t <= 1 + SLACK:
        low, high = path.noise_ratio(1.0), path.noise_ratio(0.0)
        raise ArgumentError("noise ratio", got=nu, expected=f"{low:.6g} <= nu <= {high:.6g}, the range of {path}")
    return min(max(t, 0.0), 1.0)


def check_parameter(name: str, value: float, *, above: float = -math.inf, below: float = math.inf) -> None:
    """Refuse anything but a finite number in the open range."""
    if not isinstance(value, numbers.Real) or not above < value < below:
        expected = f"a finite number above {above:g}" + (f" and below {below:g}" if below < math.inf else "")
        raise ArgumentError(name, got=repr(value), expected=expected)


def check_noise_ratio(nu: float) -> None:
    """Refuse NaN and negative noise ratios."""
    if not nu >= 0:
        raise ArgumentError("noise ratio", got=nu, expected="nu >= 0")


def interpolant(name: str | Interpolant, **options: Any) -> Interpolant:
    """The interpolant of that name, or the instance itself.

    Args:
        name: "linear", "trigonometric", "vp", "cosine", "ve", "edm", "ddpm", or an :class:`Interpolant`.
        **options: The parameters of the class.

    Raises:
        UnknownNameError: No interpolant has this name; lists those that are registered.
        ArgumentError: A parameter is unknown or out of range.

    Example:
        >>> interpolant("vp", beta_max=15.0)
        VPLinear(beta_min=0.1, beta_max=15.0)
    """
    if isinstance(name, Interpolant):
        if options:
            raise ArgumentError("options", got=sorted(options), expected=f"none beside an instance ({name})")
        return name
    if name not in INTERPOLANTS:
        raise UnknownNameError("interpolant", got=repr(name), expected="one of " + ", ".join(sorted(INTERPOLANTS)))
    cls = INTERPOLANTS[name]
    known = {field.name for field in dataclasses.fields(cls)}
    if not options.keys() <= known:
        expected = ", ".join(sorted(known)) or "none"
        raise ArgumentError(f"options of interpolant {name!r}", got=sorted(options.keys() - known), expected=expected)
    return cls(**options)


def interpolant_from_config(config: Mapping[str, Any]) -> Interpolant:
    """Inverse of :meth:`Interpolant.to_config`, also after a trip through JSON.

    Raises:
        ArgumentError: The mapping has no name, or names what :func:`interpolant` refuses.

    Example:
        >>> interpolant_from_config(Linear().to_config())
        Linear()
    """
    if "name" not in config:
        raise ArgumentError("config", got=sorted(config), expected="a mapping with 'name' and the parameters")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return interpolant(str(options.pop("name")), **options)


@dataclass(frozen=True)
class Linear(Interpolant):
    r"""Rectified flow: :math:`\alpha = t, \; \sigma = 1 - t`.

    Source:
        Lipman et al. 2023; Liu et al. 2023.

    Example:
        >>> Linear()(0.25)
        Coefficients(alpha=0.25, sigma=0.75, dalpha=1.0, dsigma=-1.0)
    """

    name: ClassVar[str] = "linear"

    def __call__(self, t: float) -> Coefficients:
        """``(t, 1 - t, 1, -1)``."""
        t = check_time(t)
        return Coefficients(t, 1.0 - t, 1.0, -1.0)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``t = 1 / (1 + nu)``."""
        check_noise_ratio(nu)
        return 1.0 / (1.0 + nu)


@dataclass(frozen=True)
class Trigonometric(Interpolant):
    r"""Variance preserving with constant angular speed: :math:`\alpha = \sin(\pi t / 2), \; \sigma = \cos(\pi t / 2)`.

    Source:
        Albergo & Vanden-Eijnden 2023; "GVP" of Ma et al. 2024 (SiT).
    """

    name: ClassVar[str] = "trigonometric"

    def __call__(self, t: float) -> Coefficients:
        """Sine and cosine, and their derivatives; exact at both ends."""
        t, rate = check_time(t), math.pi / 2
        # The sine of the nearer end's angle: sigma keeps its relative accuracy near t = 1, and the ends are exact.
        a = math.sin(rate * t) if t < 0.5 else math.cos(rate * (1 - t))
        s = math.cos(rate * t) if t < 0.5 else math.sin(rate * (1 - t))
        return Coefficients(a, s, rate * s, -rate * a)

    def time_at_noise_ratio(self, nu: float) -> float:
        """``t = 2 / pi * atan(1 / nu)``."""
        check_noise_ratio(nu)
        return math.atan2(1.0, nu) * (2 / math.pi)


def log_square_sum(nu: float) -> float:
    """``log(1 + nu^2)`` without overflow, which is ``-2 log(alpha)`` on a variance-preserving path."""
    return math.log1p(nu * nu) if nu < 1 else 2 * math.log(nu) + math.log1p(1 / (nu * nu))
