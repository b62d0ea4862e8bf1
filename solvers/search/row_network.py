"""RowNetwork: the network for rows of requests, whatever their times, their number, and what it can take at once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ...models.bound import Bound

KEPT = 8  # arrangements of conditions: a search comes back to a few of them


@dataclass
class RowNetwork:
    """Calls a bound model for rows that belong to requests.

    Attributes:
        network: Bound to the conditions of the requests.
        requests: Their number S.
        grid: Times of the sampler's steps, for errors.
        batch: Rows of a call, at most; None: all.
        pad: Fill every call up to ``batch`` rows, with copies of its last.

    """

    network: Bound
    requests: int
    grid: NDArray[np.float64]
    batch: int | None = None
    pad: bool = False
    _selected: OrderedDict[bytes, Bound] = field(default_factory=OrderedDict, repr=False)

    def __call__(
        self, x: Tensor, times: NDArray[np.float64] | float, branches: tuple[str, ...], request: Tensor
    ) -> tuple[Tensor, ...]:
        """Raw outputs, one tensor a branch.

        Args:
            x: The network's inputs, [R, *D].
            times: Solver times, one for all rows or [R].
            branches: Of guidance.
            request: Which request a row belongs to, int64 [R], on the CPU.

        Raises:
            ShapeError: The network returned another shape, dtype or device than its input's; names step and time.
        """
        rows, size = len(x), self.batch or max(len(x), 1)
        if rows == 0:
            return tuple(x for _ in branches)
        told = np.broadcast_to(np.asarray(times, dtype=np.float64), (rows,))
        alike = self.network.model.time_shape in ("batch", "token")  # else the network takes one time for all rows
        groups = [np.arange(rows)] if alike else [np.flatnonzero(told == t) for t in np.unique(told)]
        pieces = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
        if len(pieces) == 1:
            return self._call(x, told, branches, request)
        outputs = tuple(torch.empty_like(x) for _ in branches)
        for index in map(torch.from_numpy, pieces):
            here = index.to(x.device)
            found = self._call(x[here], told[index.numpy()], branches, request[index])
            for output, part in zip(outputs, found, strict=True):
                output[here] = part  # copied before the next call, as captured networks return the same memory again
        return outputs

    def _call(
        self, x: Tensor, times: NDArray[np.float64], branches: tuple[str, ...], request: Tensor
    ) -> tuple[Tensor, ...]:
        rows = len(x)
        if self.pad and self.batch and rows < self.batch:
            index = torch.arange(self.batch).clamp(max=rows - 1)
            x, times, request = x[index.to(x.device)], times[index.numpy()], request[index]
        outputs = self._bound(request).evaluate_rows(x, times, branches)
        step = int(np.searchsorted(self.grid, times[0], side="right")) - 1
        where = f"network output at step {step}, t = {times[0]:.4g}"
        for output in outputs:
            if output.shape != x.shape or output.dtype != x.dtype or output.device != x.device:
                got, expected = (f"{o.dtype} {list(o.shape)} on {o.device}" for o in (output, x))
                raise ShapeError(where, got=got, expected=f"{expected}, as its input")
        if x.numel() and len({output.data_ptr() for output in outputs}) < len(outputs):
            got, hint = "both branches in the same memory", "Clone the output of a compiled or graph-captured network."
            raise ArgumentError(where, got=got, expected="a tensor for each", hint=hint)
        return tuple(output[:rows] for output in outputs)

    def _bound(self, request: Tensor) -> Bound:
        """The network with the conditions of these rows; the last few arrangements are kept."""
        if self.requests == 1:
            return self.network
        key = request.numpy().tobytes()
        if key not in self._selected:
            if len(self._selected) >= KEPT:
                self._selected.popitem(last=False)
            self._selected[key] = self.network.select(request)
        self._selected.move_to_end(key)
        return self._selected[key]
