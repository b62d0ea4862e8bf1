"""The first step size, for each sample."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from ...kernels import combine
from .method import Live


def first_step(live: Live, direction: float, most: np.ndarray, order: float) -> tuple[np.ndarray, torch.Tensor]:
    r"""Hairer's guess from the slope and a difference of slopes; one evaluation.

    .. math:: h_0 = 0.01\, d_0 / d_1,\; d_2 = |v(x + h_0 v_0) - v_0| / h_0,\;
        h = \min\big( 100 h_0, (0.01 / \max(d_1, d_2))^{1/k} \big)

    with norms over the tolerance at x. The probe stays within the interval.

    Args:
        live: Samples with their slopes.
        direction: 1 or -1.
        most: Length of the way ahead, float64 [b], positive.
        order: k.

    Returns:
        Step sizes, float64 [b], positive, not finite where a slope is not; and what the field returned.

    Source: Hairer, Norsett & Wanner 1993, II.4, "Starting step size".

    """
    x, slope = live.x, live.slope
    assert slope is not None
    d0, d1 = size(x, live), size(slope, live)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = np.minimum(h0, most)
        table = torch.from_numpy(np.stack([np.ones_like(h0), direction * h0], axis=1))
        at = cast(torch.Tensor, combine([x, slope], table))
        probe = live.field(at, torch.from_numpy(live.t + direction * h0))
        d2 = size(probe - slope, live) / h0
        rate = np.maximum(d1, d2)
        h1 = np.where(rate <= 1e-15, np.maximum(1e-6, 1e-3 * h0), (0.01 / rate) ** (1.0 / order))
        return np.minimum(np.minimum(100 * h0, h1), most), probe


def size(value: torch.Tensor, live: Live) -> np.ndarray:
    """Norm of a tensor like the state over the tolerance at the state."""
    return live.tolerance.ratio(value, live.x, live.x)
