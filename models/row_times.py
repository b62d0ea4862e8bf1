"""Times of rows: float64 on the host, one for each row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError

RowTimes: TypeAlias = Sequence[float] | NDArray[np.floating] | Tensor


def row_times(times: RowTimes, rows: int) -> NDArray[np.float64]:
    """``times`` as a float64 array [rows].

    Raises:
        ArgumentError: A tensor on a device, which would be read back.
        ShapeError: Not one time a row.

    Example:
        >>> row_times([0.25, 0.5], 2)
        array([0.25, 0.5 ])
    """
    if isinstance(times, Tensor):
        if not times.is_cpu:
            hint = "Keep the times on the host: a step must not wait for the device"
            raise ArgumentError("times", got=f"a tensor on {times.device}", expected="times on the host", hint=hint)
        times = times.detach().double().numpy()
    found = np.asarray(times, dtype=np.float64)
    if found.shape != (rows,):
        raise ShapeError("times", got=list(found.shape), expected=f"[{rows}], one for each row")
    return found
