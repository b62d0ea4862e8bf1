"""Times of rows and of tokens: float64 on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError

RowTimes: TypeAlias = Sequence[float] | NDArray[np.floating] | Tensor
TokenTimes: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | NDArray[np.floating] | Tensor


def row_times(times: RowTimes, rows: int) -> NDArray[np.float64]:
    """``times`` as a float64 array [rows].

    Raises:
        ArgumentError: A tensor on a device, which would be read back.
        ShapeError: Not one time a row.

    Example:
        >>> row_times([0.25, 0.5], 2)
        array([0.25, 0.5 ])
    """
    found = on_host(times)
    if found.shape != (rows,):
        raise ShapeError("times", got=list(found.shape), expected=f"[{rows}], one for each row")
    return found


def token_times(times: TokenTimes, rows: int) -> NDArray[np.float64]:
    """``times`` as a float64 array [rows, N].

    Raises:
        ArgumentError: A tensor on a device, which would be read back.
        ShapeError: Neither [N] nor [rows, N].

    Example:
        >>> token_times([0.25, 0.5], 2)
        array([[0.25, 0.5 ],
               [0.25, 0.5 ]])
    """
    found = on_host(times)
    if found.ndim == 1:
        found = np.broadcast_to(found, (rows, len(found)))
    if found.ndim != 2 or found.shape[0] != rows:
        raise ShapeError("times", got=list(found.shape), expected=f"[N], or [{rows}, N], one for each token")
    return found


def on_host(times: object) -> NDArray[np.float64]:
    """``times`` as a float64 array.

    Raises:
        ArgumentError: A tensor on a device.
    """
    if isinstance(times, Tensor):
        if not times.is_cpu:
            hint = "Keep the times on the host: a step must not wait for the device"
            raise ArgumentError("times", got=f"a tensor on {times.device}", expected="times on the host", hint=hint)
        times = times.detach().double().numpy()
    return np.asarray(times, dtype=np.float64)
