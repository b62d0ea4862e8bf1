"""Where every live sample is, and how far its next attempt goes; in NumPy, and in the compiled module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ...kernels.dispatch import native_module, native_runs
from .controller import LEAST_RATIO, Controller
from .solution import Status

MOST_NOT_FINITE = 40  # attempts in a row, each with half the step: then it is not the step
STRETCH = 1.01  # a step that would leave less than this share of itself takes the rest as well


@dataclass(frozen=True)
class Limits:
    """Bounds of steps; see :func:`pushforward.solve_ode`."""

    first_step: float | np.ndarray | None = None  # an array has one for each sample
    min_step: float | None = None
    max_step: float = np.inf
    max_steps: int = 10_000
    accept_at_min_step: bool = False

    def least(self, t: np.ndarray) -> np.ndarray:
        """The least step: as given, or sixteen units in the last place of the time."""
        return 16 * np.spacing(np.abs(t)) if self.min_step is None else np.full(len(t), float(self.min_step))


class Decision(NamedTuple):
    """How many samples rejected their attempt, ended, reached their target, passed a requested time."""

    rejected: int
    ended: int
    reached: int
    due: int


class Results(NamedTuple):
    """How the samples of the whole batch ended; numbers of those that have not yet are those of the start.

    Attributes:
        t: Where they got to.
        status: A `Status` for each.
        attempts, accepted, nfe: Counts.

    """

    t: np.ndarray
    status: np.ndarray
    attempts: np.ndarray
    accepted: np.ndarray
    nfe: np.ndarray


class StepControl(Protocol):
    """Arrays with one number for each live sample; written to by its methods, and by the loop where it says so.

    Attributes:
        t, after: Time now, and after the attempt.
        target, end: Where the next step must end at the latest, and where the way ends.
        h: Length of the next step, positive.
        signed_size: The attempt's step, cut off at the target.
        next_output: The next requested time; the end once there is none.
        samples: Places in the whole batch.
        attempts, accepted, nfe, output: Counts, and the index of the next requested time.
        accept: 1 where the attempt was good enough.
        ended: A `Status`, or negative while under way.

    """

    t: np.ndarray
    after: np.ndarray
    target: np.ndarray
    end: np.ndarray
    h: np.ndarray
    signed_size: np.ndarray
    next_output: np.ndarray
    samples: np.ndarray
    attempts: np.ndarray
    accepted: np.ndarray
    nfe: np.ndarray
    output: np.ndarray
    accept: np.ndarray
    ended: np.ndarray

    @property
    def results(self) -> Results | tuple[np.ndarray, ...]:
        """`Results` of the samples that have left."""
        ...

    def __len__(self) -> int: ...

    def propose(self) -> None:
        """Fill in `signed_size`."""
        ...

    def decide(self, ratio: np.ndarray, evaluations: int) -> tuple[int, int, int, int]:
        """Fill in `accept`, `after` and `ended` from error ratios [b], choose `h`; count. See `Decision`."""
        ...

    def move(self) -> None:
        """Times become `after`."""
        ...

    def leave(self) -> None:
        """Write down the results of the samples that have ended, and forget them."""
        ...


class NumpyControl:
    """`StepControl` in NumPy: the definition of what the compiled one does."""

    def __init__(
        self, controller: Controller, limits: Limits, order: float, direction: float, start: np.ndarray, end: np.ndarray
    ) -> None:
        self.controller, self.limits, self.order, self.direction = controller, limits, order, direction
        count = len(start)
        self.t, self.after = start.copy(), start.copy()
        self.end, self.target, self.next_output = end.copy(), end.copy(), end.copy()
        self.h, self.signed_size = np.zeros(count), np.zeros(count)
        self.history = np.ones((count, 2))
        self.samples, self.output = np.arange(count), np.ones(count, dtype=np.int64)
        self.attempts, self.accepted, self.nfe, self.not_finite = (np.zeros(count, dtype=np.int64) for _ in range(4))
        self.accept, self.rejected, self.arrives = (np.zeros(count, dtype=np.int8) for _ in range(3))
        self.ended = np.full(count, -1, dtype=np.int8)
        self.results = Results(start.copy(), *(np.zeros(count, dtype=np.int64) for _ in range(4)))

    def __len__(self) -> int:
        return len(self.t)

    def propose(self) -> None:
        """Cut the wanted step off at the target, or stretch it a little to get there."""
        way = np.abs(self.target - self.t)
        wanted = np.minimum(self.h, self.limits.max_step)
        near = wanted * STRETCH >= way
        size = np.where(near, np.where(way > self.limits.max_step, 0.5 * way, way), wanted)
        self.arrives = (near & (size == way)).astype(np.int8)
        self.signed_size = self.direction * size

    def decide(self, ratio: np.ndarray, evaluations: int) -> tuple[int, int, int, int]:
        """Accept, reject, choose the next step, end."""
        limits, controller, size = self.limits, self.controller, np.abs(self.signed_size)
        finite = np.isfinite(ratio)
        with np.errstate(invalid="ignore"):
            accept = ratio <= 1.0
        forced = limits.min_step is not None and limits.accept_at_min_step
        if forced:
            accept |= finite & (size <= float(limits.min_step or 0))
        self.attempts += 1
        self.nfe += evaluations
        passed = np.where(accept, np.clip(ratio, LEAST_RATIO, 1.0), 1.0)
        factor = controller.factor(passed, self.history, self.order)
        factor = np.where((self.rejected != 0) & (factor > 1), 1.0, factor)
        grown = size * factor
        wanted = np.minimum(self.h, limits.max_step)
        grown = np.where(self.arrives != 0, np.maximum(grown, wanted), grown)  # cut short by a target, not by the error
        self.h = np.where(accept, grown, size * controller.shrink(ratio, self.order))
        self.history = np.where(accept[:, None], np.stack([passed, self.history[:, 0]], axis=1), self.history)
        self.not_finite = np.where(finite | accept, 0, self.not_finite + 1)
        self.accepted += accept
        self.rejected = (~accept).astype(np.int8)
        arrived = np.where(self.arrives != 0, self.target, self.t + self.signed_size)
        self.after = np.where(accept, arrived, self.t)
        reached = accept & (self.after == self.target)
        due = accept & (self.direction * self.next_output <= self.direction * self.after)
        ended = np.where(reached & (self.after == self.end), np.int8(Status.SUCCESS), np.int8(-1))
        small = ~accept & (self.h < limits.least(self.t)) & (not limits.accept_at_min_step)
        why = np.where(self.not_finite > 0, Status.NOT_FINITE, Status.STEP_TOO_SMALL)
        ended = np.where(small, why, ended)
        ended = np.where(~accept & ~small & (self.not_finite >= MOST_NOT_FINITE), Status.NOT_FINITE, ended)
        if forced:
            self.h = np.maximum(self.h, float(limits.min_step or 0))
        ended = np.where((ended < 0) & (self.attempts >= limits.max_steps), Status.TOO_MANY_STEPS, ended)
        self.accept, self.ended = accept.astype(np.int8), ended.astype(np.int8)
        return tuple(int(np.count_nonzero(flags)) for flags in (~accept, ended >= 0, reached, due))  # pyright: ignore

    def move(self) -> None:
        """Times become `after`."""
        self.t = self.after.copy()

    def leave(self) -> None:
        """Write down the results of the samples that have ended, and forget them."""
        kept = self.ended < 0
        samples = self.samples[~kept]
        now = Results(self.t, self.ended, self.attempts, self.accepted, self.nfe)
        for result, value in zip(self.results, now, strict=True):
            result[samples] = value[~kept]
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[kept])


def step_control(
    controller: Controller, limits: Limits, order: float, direction: float, start: np.ndarray, end: np.ndarray
) -> StepControl:
    """The compiled one, if it may be used."""
    if not native_runs("rk_step"):
        return NumpyControl(controller, limits, order, direction, start, end)
    p, i, d = controller.proportional, controller.integral, controller.derivative
    return native_module.StepControl(
        direction,
        (-(p + i + d) / order, (p + 2 * d) / order, -d / order),
        -1.0 / order,
        controller.safety,
        controller.min_factor,
        controller.max_factor,
        limits.max_step,
        np.nan if limits.min_step is None else float(limits.min_step),
        limits.max_steps,
        limits.accept_at_min_step,
        np.ascontiguousarray(start),
        np.ascontiguousarray(end),
    )


def restore_rejected(control: StepControl, out: Tensor, source: Tensor) -> None:
    """Rows of ``source`` in place of those of ``out`` whose attempt was rejected; both contiguous."""
    if out.is_cpu and not isinstance(control, NumpyControl) and out.is_contiguous() and source.is_contiguous():
        rows = out.shape[0]
        row_bytes = out.element_size() * (out.numel() // rows) if rows else 0
        control.restore(out.data_ptr(), source.data_ptr(), row_bytes)  # pyright: ignore[reportAttributeAccessIssue]
        return
    back = torch.from_numpy(np.flatnonzero(control.accept == 0)).to(out.device)
    out.index_copy_(0, back, source.index_select(0, back))
