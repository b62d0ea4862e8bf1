"""The resolution shift of times, one map for sampling grids and for training-time samplers."""

from __future__ import annotations

import math
import numbers
from typing import TypeVar

from torch import Tensor

from ..errors import ArgumentError

Time = TypeVar("Time", float, Tensor)


def shift_time(t: Time, shift: float) -> Time:
    r"""The odds of the noise level k = 1 - t multiplied by ``shift``: :math:`t' = t / (t + s (1 - t))`.

    In noise time, :math:`k' = s k / (1 + (s - 1) k)`. On the linear interpolant the half log-SNR falls by log s at
    every inner time; shifts compose by multiplication and 0, 1 stay where they are.

    Args:
        t: Time in [0, 1], 0 = noise: a number or a tensor.
        shift: s > 0. For m tokens against the n of training, sqrt(m / n); SD3 uses 3 at 1024 x 1024.

    Raises:
        ArgumentError: ``shift`` is not a positive number.

    Source:
        Esser et al. 2024, Scaling rectified flow transformers (SD3), equation 23.

    Example:
        >>> shift_time(0.5, 3.0)
        0.25
    """
    check_shift(shift)
    return t / (t + shift * (1 - t))


def check_shift(shift: float) -> None:
    """Refuse anything but a finite number above 0.

    Raises:
        ArgumentError: Anything else.
    """
    if not isinstance(shift, numbers.Real) or not (math.isfinite(shift) and shift > 0):
        hint = "It is sqrt(target tokens / reference tokens); SD3 uses 3.0"
        raise ArgumentError("shift", got=repr(shift), expected="a positive number", hint=hint)
