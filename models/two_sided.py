r"""Two-sided stochastic interpolants: paths between any two distributions, with a latent Gaussian on the way.

.. math:: x_t = a(t)\, x_0 + b(t)\, x_1 + \gamma(t)\, z, \quad z \sim N(0, I), \quad \gamma(0) = \gamma(1) = 0

Of a point x on the path, the velocity :math:`E[\dot x_t | x]`, the drift :math:`v_I = E[\dot a x_0 + \dot b x_1 | x]`,
the denoiser :math:`\eta = E[z | x]` and the score s are related by

.. math:: s = -\eta / \gamma, \quad v = v_I + \dot\gamma \eta = v_I - \gamma \dot\gamma s

A velocity does not determine the score, so networks of such paths have two heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, UnknownNameError
from .interpolants import Coefficients, Interpolant, check_parameter, check_time


class Ends(NamedTuple):
    """Scales of x_0 and x_1 at one time, and their derivatives."""

    a: float
    b: float
    da: float
    db: float


def brownian(t: float) -> tuple[float, float]:
    """``t (1 - t)``, the variance of a Brownian bridge, and its derivative."""
    return t * (1 - t), 1 - 2 * t


def quadratic(t: float) -> tuple[float, float]:
    """``t^2 (1 - t)^2``: gamma is smooth at the ends."""
    return (t * (1 - t)) ** 2, 2 * t * (1 - t) * (1 - 2 * t)


def sine_squared(t: float) -> tuple[float, float]:
    """``sin^4(pi t)``: gamma and its derivative vanish at the ends."""
    s, c = sine(t), math.cos(math.pi * t)
    return s**4, 4 * math.pi * s**3 * c


def sine(t: float) -> float:
    """``sin(pi t)``, 0 at both ends exactly."""
    return math.sin(math.pi * (t if t < 0.5 else 1 - t))


LATENTS: dict[str, Callable[[float], tuple[float, float]]] = {
    "brownian": brownian,
    "quadratic": quadratic,
    "sine_squared": sine_squared,
}


def linear(t: float, variance: float, rate: float) -> Ends:
    """``(1 - t, t)``."""
    return Ends(1 - t, t, -1.0, 1.0)


def trigonometric(t: float, variance: float, rate: float) -> Ends:
    """``sqrt(1 - gamma^2) (cos, sin)(pi t / 2)``: the sum of the three squares is one."""
    r = math.sqrt(1 - variance)
    dr = -rate / r
    c = math.cos(math.pi * t / 2) if t < 0.5 else math.sin(math.pi * (1 - t) / 2)
    s = math.sin(math.pi * t / 2) if t < 0.5 else math.cos(math.pi * (1 - t) / 2)
    turn = r * math.pi / 2
    return Ends(r * c, r * s, dr * c - turn * s, dr * s + turn * c)


def encoding_decoding(t: float, variance: float, rate: float) -> Ends:
    """``cos^2(pi t)`` for x_0 until 1/2, for x_1 from then on: noise alone in the middle. Put a grid time there."""
    c = math.cos(math.pi * t)
    value, slope = c * c, -2 * math.pi * c * sine(t)
    return Ends(value, 0.0, slope, 0.0) if t < 0.5 else Ends(0.0, value, 0.0, slope)


ENDS: dict[str, Callable[[float, float, float], Ends]] = {
    "linear": linear,
    "trigonometric": trigonometric,
    "encoding_decoding": encoding_decoding,
}


@dataclass(frozen=True)
class TwoSided(Interpolant):
    r"""A path :math:`x_t = a x_0 + b x_1 + \gamma z` from any distribution to any other.

    To solvers, ``alpha`` is b and ``sigma`` is gamma, the scale of the Gaussian part, so that the score is minus the
    denoiser over sigma as on every path. There is no signal-to-noise ratio that rises from 0 to infinity: solvers and
    grids that need one are refused; Runge-Kutta, Adams and the marginal-preserving SDE solvers do not.

    Args:
        ends: "linear", "trigonometric" or "encoding_decoding".
        latent: "brownian", "quadratic" or "sine_squared": gamma^2 is ``strength`` times t (1 - t), its square, or
            sin^4(pi t).
        strength: k, at least 0; 2 in the paper. With 0 there is no latent noise: rectified flow of a coupling.

    Raises:
        UnknownNameError: No ends or latent of that name.
        ArgumentError: A negative strength, or one that takes gamma to 1 where the squares must sum to one.

    Source:
        Albergo, Boffi & Vanden-Eijnden 2023, Stochastic Interpolants, sections 2.1 and 4.

    Example:
        >>> path = TwoSided()
        >>> path.ends_at(0.25)
        Ends(a=0.75, b=0.25, da=-1.0, db=1.0)
        >>> path.sigma(0.5), path.sigma_dsigma(0.0)
        (0.7071067811865476, 1.0)

    """

    ends: str = "linear"
    latent: str = "brownian"
    strength: float = 2.0

    name: ClassVar[str] = "two_sided"
    one_sided: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.ends not in ENDS:
            raise UnknownNameError("ends", got=repr(self.ends), expected="one of " + ", ".join(ENDS))
        if self.latent not in LATENTS:
            raise UnknownNameError("latent", got=repr(self.latent), expected="one of " + ", ".join(LATENTS))
        if self.strength != 0:
            check_parameter("strength", self.strength, above=0.0)
        if self.ends == "trigonometric" and self.strength * LATENTS[self.latent](0.5)[0] >= 1:
            below = 1 / LATENTS[self.latent](0.5)[0]
            raise ArgumentError("strength", got=self.strength, expected=f"a number below {below:g} for these ends")

    def variance(self, t: float) -> tuple[float, float]:
        """``gamma^2`` and ``gamma gamma'``, both finite everywhere."""
        value, slope = LATENTS[self.latent](check_time(t))
        return self.strength * value, self.strength * slope / 2

    def ends_at(self, t: float) -> Ends:
        """Scales of x_0 and x_1, and their derivatives."""
        return ENDS[self.ends](check_time(t), *self.variance(t))

    def __call__(self, t: float) -> Coefficients:
        """``(b, gamma, b', gamma')``; gamma' is infinite at the ends of a Brownian latent."""
        variance, rate = self.variance(t)
        gamma, ends = math.sqrt(variance), self.ends_at(t)
        if gamma > 0:
            slope = rate / gamma
        else:  # gamma' has a limit unless gamma is a root there
            slope = math.copysign(math.inf, rate) if rate != 0 else self.end_slope(t)
        return Coefficients(ends.b, gamma, ends.db, slope)

    def end_slope(self, t: float) -> float:
        """``gamma'`` where gamma is 0 and smooth: that of t (1 - t), or 0."""
        quadratic_slope = math.sqrt(self.strength) * (1 - 2 * t)
        return quadratic_slope if self.latent == "quadratic" else 0.0

    def sigma_dsigma(self, t: float) -> float:
        """``gamma gamma'``."""
        return self.variance(t)[1]

    def noise_ratio(self, t: float) -> float:
        """Refused."""
        raise self.refusal()

    def half_log_snr(self, t: float) -> float:
        """Refused."""
        raise self.refusal()

    def time_at_noise_ratio(self, nu: float) -> float:
        """Refused."""
        raise self.refusal()

    def refusal(self) -> ArgumentError:
        """The error of everything that needs a noise level."""
        hint = "Use a grid in time, a Runge-Kutta, Adams or marginal-preserving SDE solver, and start from a tensor"
        return ArgumentError(
            "noise ratio", got="a two-sided path", expected="a path from pure noise to data", hint=hint
        )

    # --- training ----------------------------------------------------------------------------------------------

    def interpolate(self, x0: Tensor, x1: Tensor, z: Tensor, t: float | Tensor) -> Tensor:
        """``a x_0 + b x_1 + gamma z``; ``t`` is a number or [B]."""
        a, b, gamma = self._columns(t, x0, lambda s: (*self.ends_at(s)[:2], self(s).sigma))
        return a * x0 + b * x1 + gamma * z

    def target(self, name: str, x0: Tensor, x1: Tensor, z: Tensor, t: float | Tensor) -> Tensor:
        """What a head regresses on by least squares.

        Args:
            name: "velocity" ``a' x_0 + b' x_1 + gamma' z``, "drift" ``a' x_0 + b' x_1``, "denoiser" ``z``, or "score"
                ``-z / gamma``.
            x0, x1, z: Pairs and latent noise, [B, *D].
            t: A number or [B]; inside (0, 1) for what divides by gamma or contains gamma'. Antithetic pairs z, -z at
                the same t keep the variance of the loss bounded near the ends.

        Raises:
            UnknownNameError: No head of that name.

        """
        if name not in HEADS:
            raise UnknownNameError("name", got=repr(name), expected="one of " + ", ".join(HEADS))
        if name == "denoiser":
            return z
        if name == "score":
            (gamma,) = self._columns(t, z, lambda s: (self(s).sigma,))
            return -z / gamma
        da, db, dgamma = self._columns(t, x0, lambda s: (*self.ends_at(s)[2:], self(s).dsigma))
        return da * x0 + db * x1 + (dgamma * z if name == "velocity" else 0.0)

    def _columns(self, t: float | Tensor, like: Tensor, values: Callable[[float], tuple[float, ...]]) -> list[Tensor]:
        times = t.double().reshape(-1).tolist() if isinstance(t, Tensor) else [float(t)]
        columns = torch.tensor([values(one) for one in times], dtype=like.dtype, device=like.device).t()
        return [column.reshape(-1, *[1] * (like.ndim - 1)) for column in columns]


HEADS = ("velocity", "drift", "denoiser", "score")
