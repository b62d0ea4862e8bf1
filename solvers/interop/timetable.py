"""The timesteps that a pipeline is given, and which of them it gives back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class Timetable:
    """Which entry of a list of timesteps a timestep is, without reading it from the device.

    An element of the tensor is known by its place in memory. The tensor is kept, so that no other one gets its place;
    a copy of the table goes with a copy of the tensor.

    Args:
        entries: The list, one-dimensional and contiguous.
        times: The same numbers.

    Attributes:
        addresses: Of the entries, and None for what comes after the last one.

    """

    __slots__ = ("addresses", "entries", "start", "times", "width")

    def __init__(self, entries: Tensor, times: Sequence[float]) -> None:
        self.entries, self.times = entries, tuple(times)
        self.start, self.width = entries.data_ptr(), entries.element_size()
        self.addresses = (*[self.start + self.width * place for place in range(len(self.times))], None)

    def __reduce__(self) -> tuple[type[Timetable], tuple[Tensor, tuple[float, ...]]]:
        """How copies and pickles are made: with an address of their own."""
        return Timetable, (self.entries, self.times)

    def index(self, timestep: float | Tensor, expected: int | None = None) -> int | None:
        """The entry; of numbers by value, the ``expected`` one of several that are equal. None if it is none of them.

        Example:
            >>> import torch
            >>> entries = torch.tensor([900, 900, 500])
            >>> table = Timetable(entries, [900.0, 900.0, 500.0])
            >>> table.index(entries[1]), table.index(500), table.index(900, expected=1)
            (1, 2, 1)
            >>> table.index(entries[1].clone())

        """
        if isinstance(timestep, Tensor):
            place = (timestep.data_ptr() - self.start) // self.width
            return place if 0 <= place < len(self.times) else None
        if expected is not None and expected < len(self.times) and self.times[expected] == timestep:
            return expected
        return self.times.index(timestep) if timestep in self.times else None
