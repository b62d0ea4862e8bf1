"""Where a likelihood run begins and ends, and what is known there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ...errors import ArgumentError, GridError, ShapeError, SingularTimeError
from ...models import Model
from ...models.capabilities import check_no_memory
from ...models.two_heads import TwoSidedModel

LogDensityFunction: TypeAlias = Callable[[Tensor], Tensor]

LEAST_NOISE_RATIO = 1e-3  # at the data: smoothing by nu changes a log-density by O(nu^2)
MOST_NOISE_RATIO = 1e4  # at the noise: the data that is left shifts a log-density by O(1 / nu)
FROM_END = 1e-3  # of two-sided paths whose velocity is infinite at an end


@dataclass(frozen=True)
class Ends:
    r"""The two ends of the way.

    Attributes:
        data, base: Their times.
        scale: The state at ``data`` is this times the data.
        noise_ratio: sigma / alpha at ``data``: the density is that of data with so much noise; 0 for data itself.
        sigma: Standard deviation of the base; None where it is not a centred Gaussian.

    """

    data: float
    base: float
    scale: float = 1.0
    noise_ratio: float = 0.0
    sigma: float | None = 1.0


def ends(field: object, times: Sequence[float] | None) -> Ends:
    """The ends of a way; those of a function's are 1 and 0 unless given, a model's as its path has them.

    Raises:
        GridError: Times that are no pair of different numbers.

    """
    check_no_memory(field, "a likelihood")
    pair = None if times is None else checked_pair(times)
    if isinstance(field, TwoSidedModel):
        data, base = pair or (near(field, 1.0, 1 - FROM_END), near(field, 0.0, FROM_END))
        return Ends(data, base, sigma=None)
    if not isinstance(field, Model):
        return Ends(*(pair or (1.0, 0.0)))
    path = field.interpolant
    gaussian = math.isinf(field.prediction.dimensions) and field.prediction.source_is_noise
    if pair is not None:
        return Ends(*pair, sigma=path.sigma(pair[1]) if gaussian and 0 <= pair[1] <= 1 else None)
    low, high = path.noise_range
    data = 1.0
    if field.prediction.kind != "velocity" or not determined(field, 1.0):
        data = path.time_at_noise_ratio(max(low, LEAST_NOISE_RATIO))
    base = path.t_min
    if not determined(field, base):
        base = path.time_at_noise_ratio(min(high, MOST_NOISE_RATIO))
    alpha, sigma, _, _ = path(data)
    return Ends(data, base, alpha, sigma / alpha, path.sigma(base) if gaussian else None)


def checked_pair(times: Sequence[float]) -> tuple[float, float]:
    """Times as two floats.

    Raises:
        GridError: Not two, not finite, or equal.

    """
    found = [float(t) for t in times]
    if len(found) != 2 or not all(map(math.isfinite, found)) or found[0] == found[1]:
        raise GridError("times", got=found, expected="two different numbers: that of the data, that of the base")
    return found[0], found[1]


def near(field: TwoSidedModel, end: float, instead: float) -> float:
    """An end, or a time near it where the end is singular."""
    return end if determined(field, end) else instead


def determined(field: Model | TwoSidedModel, t: float) -> bool:
    """Whether the network determines the velocity at t."""
    try:
        field.prediction.quantity("velocity", t)
    except SingularTimeError:
        return False
    return True


def base_log_density(base: LogDensityFunction | None, sigma: float | None, x: Tensor) -> Tensor:
    """Log-densities of the base, float64 [B]; those of N(0, sigma^2) by default.

    Raises:
        ArgumentError: No base is known: of a two-sided path, or with noise that is not Gaussian.
        ShapeError: A base that does not return one number a sample.

    """
    if base is None:
        if sigma is None or sigma <= 0:
            raise no_base()
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:])).to(torch.float64)
        return -0.5 * (flat / sigma).square().sum(1) - flat.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(sigma))
    found = base(x)
    if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ShapeError("base", got=got, expected=f"{list(x.shape[:1])}, a log-density for each sample")
    return found.to(torch.float64)


def no_base() -> ArgumentError:
    """The error of a distribution that nobody has said."""
    hint = "Pass base=, a function from states [B, *D] to log-densities [B]"
    return ArgumentError(
        "base", got="None, where the path does not start from Gaussian noise", expected="one", hint=hint
    )
