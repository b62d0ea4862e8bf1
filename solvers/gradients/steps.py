"""Discretise, then optimise: gradients of the steps that were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..adaptive.events import Event
from ..adaptive.explicit import ExplicitMethod
from ..adaptive.field import Field
from ..adaptive.solution import EventRecord, Solution, Status
from .recorded import GraphRecorder
from .replay import Checkpoint, Replay
from .tape import StepRecorder, groups, hand_out, passages


@dataclass
class Slots:
    """States of the result, found piece by piece, as rows of one tensor.

    Attributes:
        first: Row 0 on: the states at the first time, [B, *D].
        numbers: Slot of each row that follows.
        states: The rows.

    """

    first: Tensor
    numbers: list[np.ndarray]
    states: list[Tensor]

    def gather(self, slots: np.ndarray) -> Tensor:
        """The states of some slots, [len(slots), *D]; NaN where there is none; a slot below B is a first state."""
        known = np.concatenate([np.arange(len(self.first)), *self.numbers])
        nothing = self.first.new_full((1, *self.first.shape[1:]), torch.nan)
        table = torch.cat([self.first, *self.states, nothing])
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known[order], slots), len(known) - 1)
        rows = np.where(known[order][place] == slots, order[place], len(known))
        return table.index_select(0, torch.from_numpy(rows).to(table.device))


def as_recorded(solution: Solution, recorder: GraphRecorder, x0: Tensor) -> None:
    """Give the states of a solution the graph that was recorded with them."""
    length, batch = len(solution.x), len(x0)
    slots = np.arange(length * batch).reshape(length, batch)
    finish(solution, Slots(x0, recorder.slots, recorder.states_at), slots)


def finish(solution: Solution, found: Slots, slots: np.ndarray) -> None:
    """Replace the states at the requested times, of slots [T, B], and the last ones."""
    stuck = solution.final
    solution.x = found.gather(slots.ravel()).reshape(solution.x.shape)
    solution.final = rewritten(found.gather(slots[-1]), ~solution.success, stuck)


def through_steps(
    solution: Solution,
    recorder: StepRecorder,
    method: ExplicitMethod,
    field: Field,
    x0: Tensor,
    times: Tensor | None,
    grid: np.ndarray,
    events: Sequence[Event],
    checkpoint: Checkpoint,
) -> None:
    r"""Give the states of a solution the graph of its steps.

    Times that a gradient is wanted for move the outputs along the slope, :math:`\partial x(t_k) / \partial t_k =
    \dot x(t_k)`, and the start against it; times of events move as the event does,
    :math:`dt = -dg / (\partial_x g \cdot \dot x + \partial_t g)`, to first order.

    Args:
        solution: Its states and events are replaced; those of samples that failed are NaN, and `final` has no graph
            there.
        recorder: What took down its steps.
        method, field: The method, and the field with gradients.
        x0: First states [B, *D].
        times: The requested times as they were given, if gradients are wanted for them.
        grid: The requested times, float64 [B, T].
        events: What was watched.
        checkpoint: See :class:`Replay`.

    """
    steps = recorder.steps()
    batch, length = grid.shape
    grouped = groups(steps, batch)
    when = None if times is None else times.to(torch.float64).cpu().expand(grid.shape)
    slots = np.arange(length)[None] * batch + np.arange(batch)[:, None]
    which, theta = passages(steps, np.repeat(np.arange(batch), length - 1), grid[:, 1:].ravel())
    hand_out(grouped, steps, which, theta, slots[:, 1:].ravel(), slope=when is not None)
    offset = length * batch
    for record in solution.events:
        which, theta = passages(steps, record.samples, record.t)
        hand_out(grouped, steps, which, theta, offset + np.arange(len(record.t)), slope=True)
        offset += len(record.t)
    start = x0
    if when is not None:
        slope = field(x0, torch.from_numpy(grid[:, 0].copy()))
        start = moved(x0, slope, -difference(when[:, 0]))
    pieces = iter(Replay(method, field, grouped, checkpoint).run(start))
    found = Slots(x0, [], [])
    slopes = Slots(x0, [], [])
    for wanted in (wanted for group in grouped for wanted in group.wanted):
        state = next(pieces)
        if wanted.slope:
            slope = next(pieces)
            is_output = wanted.slots < length * batch
            if when is not None and is_output.all():
                k, b = (torch.from_numpy(i) for i in np.divmod(wanted.slots, batch))
                state = moved(state, slope, difference(when[b, k]))
            slopes.numbers.append(wanted.slots)
            slopes.states.append(slope)
        found.numbers.append(wanted.slots)
        found.states.append(state)
    finish(solution, found, slots.T)
    offset = length * batch
    for event, record in zip(events, solution.events, strict=True):
        numbers = offset + np.arange(len(record.t))
        offset += len(record.t)
        if len(record.t):
            implicit(event, record, found.gather(numbers), slopes.gather(numbers).detach())
        if event.terminal:
            last = record.t == solution.t[record.samples]
            last &= solution.status[record.samples] == Status.EVENT
            index = torch.from_numpy(record.samples[last]).to(x0.device)
            states = record.x.index_select(0, torch.from_numpy(np.flatnonzero(last)).to(x0.device))
            solution.final = solution.final.index_copy(0, index, states)


def rewritten(x: Tensor, where: np.ndarray, by: Tensor) -> Tensor:
    """Some rows of x by those of another tensor."""
    index = torch.from_numpy(np.flatnonzero(where)).to(x.device)
    return x.index_copy(0, index, by.index_select(0, index)) if len(index) else x


def difference(t: Tensor) -> Tensor:
    """Zero, with the gradient of t."""
    return t - t.detach()


def moved(x: Tensor, slope: Tensor, by: Tensor) -> Tensor:
    """``x + slope by``, for a number ``by`` for each sample."""
    return x + slope * by.to(device=x.device, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def implicit(event: Event, record: EventRecord, x: Tensor, slope: Tensor) -> None:
    """Give an event's times and states the gradients of the implicit function theorem."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    t = torch.from_numpy(record.t).to(device=x.device, dtype=dtype)
    value = event.function(x, t)
    record.x, record.time = x, t
    if not value.requires_grad:
        return
    at, now = x.detach().requires_grad_(), t.clone().requires_grad_()
    along = torch.autograd.grad(event.function(at, now).sum(), (at, now), allow_unused=True)
    rate = sum(
        (g * d).reshape(len(d), -1).sum(1)
        for g, d in zip(along, (slope, torch.ones_like(t)), strict=True)
        if g is not None
    )
    by = -(value - value.detach()) / rate
    record.time = t + by
    record.x = moved(x, slope, by)
