"""What a rule with momentum remembers of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bound import Index, Times

KEPT = 8  # a step of Dormand and Prince asks at six times: after it is rejected, the one before it is still there


@dataclass(frozen=True)
class Update:
    """An update [B, *D] and when it was made; NaN for rows whose time has been repeated since."""

    time: Times
    value: Tensor


class Updates:
    """Updates by time, for runs in either direction; those at or after the time that is asked for are forgotten."""

    def __init__(self, entries: tuple[Update, ...] = (), direction: float = 0.0) -> None:
        self.entries, self.direction = list(entries), direction

    def before(self, t: Times) -> tuple[Tensor | None, NDArray[np.bool_] | None]:
        """The latest update before ``t``, and which rows have one (None: all of them)."""
        self._turn(t)
        if not any(isinstance(time, np.ndarray) for time in (t, *(entry.time for entry in self.entries))):
            while self.entries and not self._earlier(self.entries[-1].time, t):
                self.entries.pop()
            return (self.entries[-1].value if self.entries else None), None
        return self._rows_before(t)

    def _rows_before(self, t: Times) -> tuple[Tensor | None, NDArray[np.bool_] | None]:
        if not self.entries:
            return None, None
        rows = len(self.entries[0].value)
        times = np.stack([np.broadcast_to(np.asarray(entry.time, dtype=np.float64), (rows,)) for entry in self.entries])
        times = np.where(self._earlier(times, t), times, np.nan)
        self.entries = [Update(time, e.value) for time, e in zip(times, self.entries, strict=True)]
        usable = ~np.isnan(times)
        known = usable.any(0)
        latest = np.where(known, len(times) - 1 - usable[::-1].argmax(0), 0)
        if not known.any():
            self.entries.clear()
            return None, None
        if (latest == latest[0]).all() and known.all():
            return self.entries[latest[0]].value, None
        value = self.entries[0].value
        stacked = torch.stack([entry.value for entry in self.entries])
        which = torch.from_numpy(latest).to(value.device)
        return stacked[which, torch.arange(rows, device=value.device)], None if known.all() else np.asarray(known)

    def add(self, t: Times, value: Tensor) -> None:
        """Remember the update made at ``t``."""
        self.entries.append(Update(t.copy() if isinstance(t, np.ndarray) else t, value))
        del self.entries[:-KEPT]

    def select(self, index: Index) -> Updates:
        """The memory of rows ``index``."""
        chosen = torch.as_tensor(index, dtype=torch.int64)

        def gather(entry: Update) -> Update:
            time = entry.time[chosen.cpu().numpy()] if isinstance(entry.time, np.ndarray) else entry.time
            return Update(time, entry.value.index_select(0, chosen.to(entry.value.device)))

        return Updates(tuple(gather(entry) for entry in self.entries), self.direction)

    def _earlier(self, time: Times, t: Times) -> bool | NDArray[np.bool_]:
        return (np.asarray(time) - t) * (self.direction or 1.0) < 0

    def _turn(self, t: Times) -> None:
        """The first time that differs from the one before says which way the run goes."""
        if self.direction == 0 and self.entries:
            steps = np.ravel(np.asarray(t) - self.entries[-1].time)
            steps = steps[np.nonzero(steps)]
            self.direction = float(np.sign(steps[0])) if steps.size else 0.0
