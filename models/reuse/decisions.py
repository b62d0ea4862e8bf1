"""The decisions of one run: a policy, what it remembers, and what it decided."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .outputs import map_tensors, tensors
from .schedule import Schedule

REMEMBERED = 4  # decisions that a stage or a rejected step can go back behind; beyond, the evaluation is computed


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided at one evaluation.

    Attributes:
        index, time: Of the evaluation.
        branches: Of the call.
        fresh: Nothing was reused: the output may be differenced, and judged by an error estimate.
        change: Relative L1 change of the probe that the decision was made with; None if none was looked at.
    """

    index: int
    time: float
    branches: tuple[str, ...]
    fresh: bool
    change: float | None = None


@dataclass(slots=True)
class Memory:
    """What is remembered of one decision: the policy's own, the probe that the next is compared with, its change."""

    index: int
    policy: Any
    reference: Any = None
    change: Pending | None = None


class Pending:
    """A number on its way to the host."""

    def __init__(self, number: Tensor) -> None:
        self.late = number.is_cuda
        if self.late:
            self._number = torch.empty((), dtype=number.dtype, pin_memory=True)
            self._number.copy_(number, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._number = number

    def read(self) -> float:
        """The number; waits for the copy alone."""
        if self.late:
            self._event.synchronize()
        return float(self._number)


class Decisions:
    """Decides for one run, by key: rows of other branches, or of another call, have memories of their own.

    Args:
        schedule: Times and policy.
        lag: Evaluations by which the reading of a probe's change is late: 0 waits for the device, 1 decides with the
            change at the evaluation before, whose copy to the host has had a step's time. None: 0 on a CPU, else 1.
    """

    def __init__(self, schedule: Schedule, lag: int | None = None) -> None:
        self.schedule, self.lag = schedule, lag
        self.log: list[Decision] = []
        self._memories: dict[Hashable, list[Memory]] = {}

    def __call__(self, key: Hashable, branches: tuple[str, ...], index: int, possible: bool, probe: Any = None) -> bool:
        """Whether to compute evaluation ``index``.

        Args:
            key: Whose memory.
            branches: For the log.
            index: Of the evaluation; earlier decisions at or after it are forgotten.
            possible: Whether there is anything to reuse.
            probe: A tree of tensors, for policies that look at one.
        """
        policy, count = self.schedule.policy, len(self.schedule.times)
        memories = self._memories.setdefault(key, [])
        while memories and memories[-1].index >= index:
            memories.pop()
        last = memories[-1] if memories else None
        here = None
        if policy.reference is not None and last is not None and last.reference is not None and probe is not None:
            here = Pending(relative_change(probe, last.reference))
        change = self._read(here, last)
        compute, memory = policy.decide(index, count, last.policy if last else None, change)
        if not compute and not possible:
            compute, memory = policy.decide(0, count, None, None)  # as at the first, where there is nothing either
        reference = last.reference if last else None
        if policy.reference == "last" or (policy.reference == "computed" and compute):
            reference = map_tensors(torch.clone, map_tensors(torch.detach, probe))  # a run writes to its buffers again
        memories.append(Memory(index, memory, reference, here))
        del memories[:-REMEMBERED]
        self.log.append(Decision(index, self.schedule.times[index], branches, compute, change))
        return compute

    def _read(self, here: Pending | None, last: Memory | None) -> float | None:
        """The change to decide with, on the host; None where it is unknown or no number."""
        late = self.lag if self.lag is not None else int(here is not None and here.late)
        told = here if not late else last.change if last is not None else None
        value = None if told is None else told.read()
        return value if value is not None and math.isfinite(value) else None


def relative_change(new: Any, old: Any) -> Tensor:
    r"""``mean |new - old| / mean |old|`` over all elements of both trees, a tensor without dimensions."""
    pairs = list(zip(tensors(new), tensors(old), strict=True))
    wide = torch.float64 if pairs[0][0].dtype == torch.float64 else torch.float32
    top = sum((a.detach() - b).abs().sum(dtype=wide) for a, b in pairs)
    bottom = sum(b.abs().sum(dtype=wide) for _, b in pairs)
    return torch.as_tensor(top) / torch.as_tensor(bottom)
