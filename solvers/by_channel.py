"""Combinations whose coefficients differ by channel, as the kernels take them: a row for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels.operators import tracing
from .plan.channelwise import Channelwise, Rows, channels_of


def combine_by_channel(
    inputs: Sequence[Tensor],
    weights: Rows,
    *,
    out: Sequence[Tensor] | None = None,
    noise: Sequence[kernels.Noise] | None = None,
    scale: Rows | None = None,
) -> tuple[Tensor, ...]:
    r""":func:`kernels.combine`, whose coefficients may differ by channel, in the same one pass.

    .. math:: \mathrm{out}_{o,bc} = \sum_k w_{okc}\, x_{k,bc} + \sum_d s_{odc}\, z_{d,bc}

    Every element is summed as :func:`kernels.combine` sums it with the numbers of its channel, to the same bits.

    Args:
        inputs, out, noise: As in :func:`kernels.combine`, of states [B, C, *D].
        weights, scale: [O][K] and [O][D] coefficients, numbers or :class:`Channelwise`.

    Raises:
        ShapeError: States without C channels, and what :func:`kernels.combine` raises.
    """
    table, scales, groups = arguments(weights, scale, *inputs[:1], *(out or ())[:1])
    results: Any = kernels.combine(inputs, table, out=out, noise=noise, scale=scales, groups=groups)
    return results


def prepare_by_channel(
    inputs: Sequence[Tensor | None],
    weights: Rows,
    outs: Sequence[Tensor],
    *,
    noise: Sequence[kernels.Noise] | None = None,
    scale: Rows | None = None,
) -> kernels.PreparedCombine:
    """:func:`kernels.prepare`, whose coefficients may differ by channel; see :func:`combine_by_channel`."""
    table, scales, groups = arguments(weights, scale, outs[0])
    return kernels.prepare(inputs, table, outs, noise=noise, scale=scales, groups=groups)


@dataclass(frozen=True)
class CombinationByChannel:
    """:func:`combine_by_channel` with the coefficients settled, as :func:`kernels.combination` is of ``combine``.

    Attributes:
        weights, noise, scale: As there.

    """

    weights: Rows
    noise: Sequence[kernels.Noise] | None = None
    scale: Rows | None = None

    def __call__(self, *tensors: Tensor) -> Any:
        """The new tensor, or a tuple of them if there are several rows of weights."""
        results = combine_by_channel(tensors, self.weights, noise=self.noise, scale=self.scale)
        return results[0] if len(self.weights) == 1 else results


def arguments(weights: Rows, scale: Rows | None, *tensors: Tensor) -> tuple[Any, Any, Tensor | None]:
    """What the kernels take as weights, scale and groups: tables, or the coefficients where all are numbers."""
    channels = channels_of(weights, scale or ())
    if channels is None or not tensors:
        return weights, scale, None
    like = tensors[0]
    # A copy of memory that the host may change cannot be captured in a CUDA graph: what warm-up runs left is used then.
    of, where = coefficient_table, channel_groups
    if tracing():  # what is made in a trace must not be met outside of it
        of, where = of.__wrapped__, where.__wrapped__
    device = like.device if like.is_cuda else torch.device("cpu")
    scales = None if scale is None else of(tuple(scale), channels, device)
    return of(tuple(weights), channels, device), scales, where(channels, like.ndim, like.device)


@lru_cache(maxsize=256)
def coefficient_table(rows: tuple[Sequence[Any], ...], channels: int, device: torch.device) -> Tensor:
    """The coefficients of every channel, float64 [C, O, K]."""
    numbers = [
        [[w.values[c] if isinstance(w, Channelwise) else float(w) for w in row] for row in rows]
        for c in range(channels)
    ]
    with torch.inference_mode(False):  # kept for runs with gradients too
        return torch.tensor(numbers, dtype=torch.float64).to(device)


@lru_cache(maxsize=64)
def channel_groups(channels: int, ndim: int, device: torch.device) -> Tensor:
    """The channel of every element, int64 [1, C, 1, ...]."""
    with torch.inference_mode(False):
        return torch.arange(channels).reshape(1, channels, *[1] * (ndim - 2)).to(device)
