"""What a run remembers of its rows by time, for networks that are told and rules that carry on what was before."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from .bound import Index, Times

KEPT = 12  # the twelve stages of order_eight never have more than ten values waiting


class RowMemory:
    """Values of the rows of a run, by name and by when they were made, in runs of either direction.

    A value is asked for as of a time: what was made at that time or later is then forgotten. So a second stage or a
    repeated step replaces what it repeats, and a rejected step leaves nothing behind. Rows have times of their own.

    Args:
        kept: How many values of a row.
        by_time: Whether a value is kept by its time; otherwise the last one is, whenever it was made.
        direction: 1 for runs towards the data, -1 for runs from them; 0: the first time that differs from the one
            before it says so.
        forgotten: What to try where a row goes back to a time whose value is kept no longer, which is an error then;
            None: it has no value there.

    Example:
        >>> memory = RowMemory()
        >>> for t, value in ((0.0, 1.0), (0.5, 2.0)):
        ...     _ = memory.latest("update", t, 2)
        ...     memory.add("update", t, torch.tensor([[value], [-value]]))
        >>> memory.latest("update", np.array([0.6, 0.5]), 2)[0]
        tensor([[ 2.],
                [-1.]])
    """

    def __init__(
        self, kept: int = KEPT, *, by_time: bool = True, direction: float = 0.0, forgotten: str | None = None
    ) -> None:
        self.kept, self.by_time = kept if by_time else 1, by_time
        self.direction, self.forgotten = direction, forgotten
        self.rings: dict[str, Ring] = {}
        self.total = 0
        self.place: NDArray[np.int64] | None = None  # which rows of the rings these are, once there are some

    def latest(self, name: str, t: Times, rows: int) -> tuple[Tensor | None, NDArray[np.bool_] | None]:
        """The latest values made before ``t``, [B, *D], and which rows have one (None: all of them); others are 0.

        Args:
            name: Of the values.
            t: One time, or [B] of them.
            rows: B.

        Raises:
            ShapeError: Another number of rows than before.
            ArgumentError: A value that is kept no longer.
        """
        if self.place is None:
            self.place, self.total = np.arange(rows), rows
        if len(self.place) != rows:
            hint = "What is remembered belongs to the same rows throughout a run; select() takes some of them"
            raise ShapeError("x", got=f"{rows} rows", expected=f"{len(self.place)}, as before", hint=hint)
        ring = self.rings.get(name)
        if ring is None:
            return None, None
        if self.by_time:
            kept = ring.forget(self.place, self._times(t))
            if not kept and self.forgotten is not None:
                expected = "as many values as a step has stages"
                raise ArgumentError("kept", got=self.kept, expected=expected, hint=self.forgotten)
        known = ring.count[self.place] > 0
        if not known.any():
            return None, None
        return ring.last(self.place, known), None if known.all() else known

    def add(self, name: str, t: Times, value: Tensor) -> None:
        """Remember what the rows made at ``t``; :meth:`latest` has been asked as of then."""
        assert self.place is not None, "latest() says which rows there are"
        if name not in self.rings:
            self.rings[name] = Ring(self.total, self.kept, value, self.direction)
        self.rings[name].write(self.place, self._times(t), value, replace=not self.by_time)

    def select(self, index: Index) -> RowMemory:
        """That of some rows: rows chosen once go on as they are, shared with these; a row chosen twice becomes two."""
        other = RowMemory(self.kept, by_time=self.by_time, direction=self.direction, forgotten=self.forgotten)
        if self.place is None:
            return other
        chosen = self.place[torch.as_tensor(index, dtype=torch.int64).cpu().numpy()]
        if len(np.unique(chosen)) == len(chosen):
            other.rings, other.place, other.total = self.rings, chosen, self.total
        else:
            other.rings = {name: ring.rows(chosen) for name, ring in self.rings.items()}
            other.place, other.total = np.arange(len(chosen)), len(chosen)
        return other

    def _times(self, t: Times) -> NDArray[np.float64]:
        assert self.place is not None
        return np.broadcast_to(np.asarray(t, dtype=np.float64), self.place.shape)


class Ring:
    """The last ``kept`` values of each row, in the order in which the run made them.

    Args:
        rows: How many.
        kept: Values of a row.
        like: A tensor [B, *D] whose dtype and device, and shape behind the first, those of the values are.
        direction: As of :class:`RowMemory`.
    """

    def __init__(self, rows: int, kept: int, like: Tensor, direction: float) -> None:
        self.kept, self.direction = kept, direction
        self.count = np.zeros(rows, dtype=np.int64)  # values before now, those that were overwritten included
        self.times = np.full((rows, kept), np.nan)
        self.number = np.zeros((rows, kept), dtype=np.int64)  # which value, from 1, a place holds
        self.values = torch.zeros((kept, rows, *like.shape[1:]), dtype=like.dtype, device=like.device)

    def forget(self, rows: NDArray[np.int64], times: NDArray[np.float64]) -> bool:
        """Forget what the rows made at ``times`` or later; whether all that came before is still kept."""
        count, complete = self.count[rows], True
        self._turn(count > 0, self.times[rows, (count - 1) % self.kept], times)
        while True:
            last = (count - 1) % self.kept
            kept = (count == 0) | (self.number[rows, last] == count)
            if not kept.all():
                count, complete = np.where(kept, count, 0), False
            later = (count > 0) & ((self.times[rows, last] - times) * (self.direction or 1.0) >= 0)
            if not later.any():
                self.count[rows] = count
                return complete
            count = count - later

    def last(self, rows: NDArray[np.int64], known: NDArray[np.bool_]) -> Tensor:
        """The last values of the rows, a copy; 0 where none is known."""
        last, place = self._on_device((self.count[rows] - 1) % self.kept, rows)
        found = self.values[last, place]
        if known.all():
            return found
        (missing,) = self._on_device(~known)
        return found.masked_fill(missing.reshape(-1, *[1] * (found.ndim - 1)), 0)

    def write(
        self, rows: NDArray[np.int64], times: NDArray[np.float64], values: Tensor, *, replace: bool = False
    ) -> None:
        """Remember values made at times after all that is remembered; ``replace`` all, whenever they were made."""
        if replace:
            self.count[rows] = 0
        slot = self.count[rows] % self.kept
        self.count[rows] += 1
        self.times[rows, slot], self.number[rows, slot] = times, self.count[rows]
        at = self._on_device(slot, rows)
        if values.requires_grad or self.values.requires_grad:  # a graph may hold what would be overwritten
            self.values = self.values.index_put(at, values)
        else:
            self.values.index_put_(at, values)

    def rows(self, index: NDArray[np.int64]) -> Ring:
        """A copy of some rows, in that order and as often as they occur."""
        other = object.__new__(Ring)
        other.kept, other.direction = self.kept, self.direction
        other.count, other.times, other.number = self.count[index], self.times[index], self.number[index]
        other.values = self.values[:, self._on_device(index)[0]]
        return other

    def _turn(self, known: NDArray[np.bool_], before: NDArray[np.float64], times: NDArray[np.float64]) -> None:
        """The first time that differs from the one before says which way the run goes."""
        steps = (times - before)[known]
        steps = steps[np.nonzero(steps)]
        if self.direction == 0 and steps.size:
            self.direction = float(np.sign(steps[0]))

    def _on_device(self, *arrays: NDArray[np.int64] | NDArray[np.bool_]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array).to(self.values.device) for array in arrays)
