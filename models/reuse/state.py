"""What taps remember of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import ArgumentError, ShapeError
from .outputs import tensors
from .taps import Call

Slot = tuple[tuple[str, ...], str, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """One remembered output of a tapped module.

    Attributes:
        index: The evaluation that made it.
        variable: Where that evaluation stands on the axis of extrapolation.
        value: The output, or whatever the mode keeps.
        rows: First dimension of the call's first tensor; None if it had none.
        versions: Of the value's tensors, so that a later write in place is noticed.
    """

    index: int
    variable: float
    value: Any
    rows: int | None
    versions: tuple[int, ...]


class RunState:
    """Outputs by (branches, tap, number of the call): nothing of a run lies on a module, and two runs share nothing.

    An evaluation has an index in its run. One with an index at or before that of what is remembered replaces it
    (second stages, rejected steps); a later one advances.

    Args:
        keep: How many outputs a slot remembers; one more than the order of an extrapolation.

    Raises:
        ArgumentError: ``keep`` below 1; use after :meth:`close`.
    """

    def __init__(self, keep: int = 1) -> None:
        if keep < 1:
            raise ArgumentError("keep", got=keep, expected="at least 1")
        self.keep = keep
        self.branches: tuple[str, ...] = ("cond",)
        self.index = 0
        self.places: tuple[float, ...] = (0.0,)
        self.rows: int | None = None
        self._slots: dict[Slot, list[Kept]] = {}
        self._closed = False

    def begin(
        self,
        branches: tuple[str, ...] = ("cond",),
        index: int = 0,
        variable: float | Sequence[float] = 0.0,
        rows: int | None = None,
    ) -> None:
        """Say where the next evaluation stands; forgets what was remembered of it and of later ones.

        Args:
            branches: The branches of the call: rows of other branches are other rows.
            index: Of the evaluation in its run.
            variable: Where it stands on the axis of extrapolation, for instance its half log-SNR; several places for
                several evaluations in one call, of rows (branch, evaluation, sample).
            rows: Samples of such a call; where it is not said, all rows of an evaluation are one branch.
        """
        self._check()
        self.branches, self.index, self.rows = branches, index, rows
        self.places = (variable,) if isinstance(variable, float | int) else tuple(variable)
        for (owner, _, _), kept in self._slots.items():
            if owner == branches:
                while kept and kept[-1].index >= index:
                    kept.pop()

    def latest(self, branches: tuple[str, ...]) -> int | None:
        """Index of the newest evaluation of these branches that is remembered; None if there is none."""
        found = [kept[-1].index for (owner, _, _), kept in self._slots.items() if owner == branches and kept]
        return max(found, default=None)

    def remembers(self, name: str, number: int) -> bool:
        """Whether an output of this tap and call is remembered, for the branches of this evaluation."""
        return bool(self._slots.get((self.branches, name, number)))

    def newest(self, name: str, number: int) -> Any:
        """The newest value of this tap and call that is remembered, for the branches of this evaluation."""
        return self._slots[self.branches, name, number][-1].value

    def put(self, call: Call, value: Any) -> None:
        """Remember ``value`` for this call; the oldest is forgotten beyond ``keep``."""
        self._check()
        leaves = (value,) if isinstance(value, Tensor) else tensors(value)
        versions = tuple([0 if leaf.is_inference() else leaf._version for leaf in leaves])
        kept = self._slots.setdefault((self.branches, call.name, call.number), [])
        while kept and kept[-1].index >= self.index:
            kept.pop()
        kept.append(Kept(self.index, self.places[0], value, call.rows, versions))
        del kept[: -self.keep]

    def get(self, call: Call) -> list[Kept]:
        """What is remembered for this call, the newest last; never empty.

        Raises:
            ArgumentError: Nothing is remembered; a tensor was written to since.
            ShapeError: The call has another number of rows.
        """
        self._check()
        kept = self._slots.get((self.branches, call.name, call.number))
        if not kept:
            hint = "Record an evaluation of these branches first"
            raise ArgumentError(f"tap {call.name!r}", got=f"nothing cached for {self.branches}", hint=hint)
        rows, repeats = kept[-1].rows, len(self.places)
        if rows is not None and call.rows is not None and call.rows != rows * repeats:
            raise ShapeError(
                f"tap {call.name!r}",
                got=f"a cache that holds {rows * repeats} rows, and a call that has {call.rows}",
                expected="the same rows in every evaluation",
                hint="A run state belongs to one run: bind the model again for other rows",
            )
        for leaf, version in zip(tensors(kept[-1].value), kept[-1].versions, strict=True):
            if not leaf.is_inference() and leaf._version != version:
                hint = "Record it with copy=True"
                raise ArgumentError(f"tap {call.name!r}", got="a cached output that was written to since", hint=hint)
        return kept

    def owns(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in the memory of a remembered one."""
        place = tensor.untyped_storage().data_ptr()
        values = (entry.value for kept in self._slots.values() for entry in kept)
        return any(leaf.untyped_storage().data_ptr() == place for value in values for leaf in tensors(value))

    def close(self) -> None:
        """Let go of everything; any further use is an error."""
        self._slots.clear()
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise ArgumentError("run state", got="a use after close()", expected="a state of a run that goes on")
