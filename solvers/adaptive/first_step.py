"""The first step size, for each sample."""

from __future__ import annotations

import numpy as np
import torch

from .explicit import stage_work
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
    x, slope, sizes = live.x, live.slope, live.tolerance.sizes
    assert slope is not None
    d0, d1 = sizes(x, [x, slope], ((1.0, 0.0), (0.0, 1.0)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        h0 = np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = np.minimum(h0, most)
        work = stage_work(x, torch.from_numpy(direction * h0), torch.from_numpy(live.t))
        work.add(slope)
        probe = live.field(*work.stage((1.0,), 1.0))
        (difference,) = sizes(x, [probe, slope], ((1.0, -1.0),))
        rate = np.maximum(d1, difference / h0)
        h1 = np.where(rate <= 1e-15, np.maximum(1e-6, 1e-3 * h0), (0.01 / rate) ** (1.0 / order))
        return np.minimum(np.minimum(100 * h0, h1), most), probe
