"""Times of classification: evenly spaced, in an order whose beginnings are spread over all of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, UnknownNameError
from ..interpolants import Interpolant

SPACINGS = ("t", "half_log_snr")
WIDEST = 7.0  # half log-SNR: beyond +-7 noise is nearly all or nothing, and an infinite range cannot be divided evenly


def bit_reversed(count: int) -> NDArray[np.int64]:
    """0 .. count - 1 in the order of their reversed bits, so that each beginning is spread over the whole range.

    Source:
        van der Corput 1935.

    Example:
        >>> bit_reversed(6).tolist()
        [0, 4, 2, 1, 5, 3]
    """
    bits = max(count - 1, 0).bit_length()
    order = np.zeros(1, dtype=np.int64)
    for bit in reversed(range(bits)):
        order = np.concatenate([order, order + (1 << bit)])
    return order[order < count]


def nested_times(
    path: Interpolant,
    count: int,
    *,
    spacing: str = "t",
    noise_range: tuple[float, float] | None = None,
) -> tuple[NDArray[np.float64], float]:
    r"""Midpoints of ``count`` equal cells, of t or of the half log-SNR, in bit-reversed order.

    A run that needs more times than were evaluated before goes on in the list: grids are nested, and nothing is
    evaluated twice or thrown away.

    Args:
        path: The path.
        count: How many, at least 1.
        spacing: What is evenly spaced, "t" or "half_log_snr".
        noise_range: Smallest and largest noise ratio sigma / alpha; by default those of training
            (``path.noise_range``), and in half log-SNR within exp(-7) to exp(7).

    Returns:
        Times [count], float64, and the width of the range in t or in half log-SNR: the mean over the times multiplied
        by it is the midpoint rule.

    Raises:
        ArgumentError: No time; a range that is empty or that the path does not have.
        UnknownNameError: Another spacing.

    Example:
        >>> from pushforward.models import Linear
        >>> nested_times(Linear(), 4)
        (array([0.125, 0.625, 0.375, 0.875]), 1.0)
    """
    if count < 1:
        raise ArgumentError("count", got=count, expected="at least 1")
    if spacing not in SPACINGS:
        raise UnknownNameError("spacing", got=repr(spacing), expected="'t' or 'half_log_snr'")
    low, high = _noise_range(path, spacing, noise_range)
    share = (bit_reversed(count) + 0.5) / count
    if spacing == "t":
        first, last = path.time_at_noise_ratio(high), path.time_at_noise_ratio(low)
        return first + (last - first) * share, last - first
    first, last = -math.log(high), -math.log(low)
    return np.array([path.time_at(first + (last - first) * s) for s in share.tolist()]), last - first


def _noise_range(path: Interpolant, spacing: str, given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None:
        low, high = path.noise_range
        return (low, high) if spacing == "t" else (max(low, math.exp(-WIDEST)), min(high, math.exp(WIDEST)))
    low, high = (float(bound) for bound in given)
    if not 0 <= low < high or (spacing == "half_log_snr" and not 0 < low < high < math.inf):
        expected = "0 <= low < high" if spacing == "t" else "0 < low < high < inf: the half log-SNR is -log of it"
        raise ArgumentError("noise_range", got=given, expected=expected)
    return low, high
