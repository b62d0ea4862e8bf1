"""Bits per dimension of quantised data, and the noise that makes it continuous."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError
from ...kernels import PURPOSE_USER, Draw, uniform


def bits_per_dimension(
    log_density: Tensor, size: int, *, levels: int = 256, low: float = -1.0, high: float = 1.0
) -> Tensor:
    r"""Bits that a code needs for each dimension of quantised data, from the density of dequantised data.

    .. math:: -\frac{\log_2 p(x)}{d} + \log_2 \frac{\mathrm{levels}}{\mathrm{high} - \mathrm{low}}

    The last term is 7 for 8 bits on [-1, 1]. Averaged over dequantised data it is an upper bound of what the model
    needs for the levels themselves.

    Args:
        log_density: In nats.
        size: d, dimensions of a sample.
        levels: How many there are.
        low, high: Where the first cell begins and the last one ends; see :func:`dequantise`.

    Raises:
        ArgumentError: No dimension, no level or an empty range.

    Source: Theis, van den Oord & Bethge 2016, A note on the evaluation of generative models.

    Example:
        >>> bits_per_dimension(torch.zeros(1), 3)
        tensor([7.])

    """
    if size < 1:
        raise ArgumentError("size", got=size, expected="at least one dimension")
    return -log_density / (size * math.log(2)) + math.log2(levels / checked_range(levels, low, high))


def dequantise(
    values: Tensor,
    *,
    levels: int = 256,
    low: float = -1.0,
    high: float = 1.0,
    seed: int = 0,
    samples: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Levels with uniform noise as wide as a cell: :math:`x = low + (high - low) (k + u) / levels`.

    Where a network was trained on k / 127.5 - 1, its cells end at :math:`\pm 256/255`, not at 1.

    Args:
        values: Integers k in [0, levels), [B, *D].
        levels: How many levels there are.
        low, high: Where the first cell begins and the last one ends.
        seed, samples: Keys of the noise, as of :func:`pushforward.sample`.
        dtype: Of the result.

    Raises:
        DtypeError: Values that are not integers.
        ArgumentError: Values that are no levels; an empty range.

    Source: Uria, Murray & Larochelle 2013, RNADE.

    Example:
        >>> x = dequantise(torch.tensor([[0, 255]]))
        >>> bool(((x >= torch.tensor([-1, 0.992])) & (x <= torch.tensor([-0.992, 1]))).all())
        True

    """
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise DtypeError("values", got=values.dtype, expected="integers: the levels")
    width = checked_range(levels, low, high) / levels
    if values.numel() and not (0 <= int(values.min()) and int(values.max()) < levels):
        got = f"{int(values.min())} to {int(values.max())}"
        raise ArgumentError("values", got=got, expected=f"levels from 0 to {levels - 1}")
    noise = uniform(
        values.shape, seed=seed, draw=Draw(PURPOSE_USER, 0), samples=samples, dtype=dtype, device=values.device
    )
    return low + width * (values.to(dtype) + noise)


def checked_range(levels: int, low: float, high: float) -> float:
    """``high - low``.

    Raises:
        ArgumentError: An empty range, or no level.

    """
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ArgumentError("levels", got=levels, expected="an integer of at least 1")
    if not -math.inf < low < high < math.inf:
        raise ArgumentError("high", got=high, expected=f"a finite number above low, {low}")
    return high - low
