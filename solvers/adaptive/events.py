"""Events: times at which a function of the state passes through zero, found on the dense output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from .method import Attempt, Live
from .solution import EventRecord

MOST_ITERATIONS = 60


@dataclass(frozen=True)
class Event:
    """A zero of ``function(x, t)``, for each sample on its own.

    Attributes:
        function: Of x [b, *D] and t [b], like a field's; returns [b], continuous. Two zeros within one step cancel and
            are not seen: bound the steps with ``max_step`` where that may happen.
        terminal: Whether it ends the sample's way.
        direction: 1 for zeros where the function increases along the way, -1 where it decreases, 0 for both.

    Raises:
        ArgumentError: Not a function, or another direction.

    """

    function: Callable[[Tensor, Tensor], Tensor]
    terminal: bool = True
    direction: int = 0

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ArgumentError("event", got=type(self.function).__name__, expected="a function of (x, t)")
        if self.direction not in (-1, 0, 1):
            raise ArgumentError("direction", got=self.direction, expected="-1, 0 or 1")

    def values(self, x: Tensor, times: np.ndarray) -> np.ndarray:
        """The function's values on the host."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        result = self.function(x, torch.from_numpy(times).to(device=x.device, dtype=dtype))
        if not isinstance(result, Tensor) or result.shape != x.shape[:1]:
            got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ShapeError("event", got=got, expected=f"{list(x.shape[:1])}, a number for each sample")
        return result.detach().to(torch.float64).cpu().numpy()


@dataclass
class Found:
    """Zeros of one event in one step: the places of the samples, where in the step, and the states."""

    event: int
    rows: np.ndarray
    theta: np.ndarray
    states: Tensor


class EventWatch:
    """Looks for events in accepted steps.

    Args:
        events: What to watch.
        live: The samples at their start. A value of zero there is no event.

    """

    def __init__(self, events: Sequence[Event], live: Live) -> None:
        self.events = tuple(events)
        self.last = [event.values(live.x, live.t) for event in self.events]
        self.found: list[list[tuple[np.ndarray, np.ndarray, Tensor]]] = [[] for _ in self.events]
        self.like = live.x

    def rows(self, index: Tensor) -> None:
        """Forget the samples that are not in ``index``."""
        self.last = [values[index.numpy()] for values in self.last]

    def look(
        self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray
    ) -> list[tuple[Tensor, np.ndarray, Tensor]]:
        """Record the zeros within the accepted steps; return (places, times, states) of samples that end there."""
        found = []
        for number, event in enumerate(self.events):
            new = event.values(attempt.x, after)
            rows = np.flatnonzero(accept & crossed(self.last[number], new, event.direction))
            if len(rows):
                found.append(self.locate(number, rows, new, live, attempt, h))
            self.last[number] = np.where(accept, new, self.last[number])
        end = np.full(len(accept), np.inf)
        for zeros in found:
            if self.events[zeros.event].terminal:
                np.minimum.at(end, zeros.rows, zeros.theta)
        stopped = []
        for zeros in found:
            kept = zeros.theta <= end[zeros.rows]
            rows, theta = zeros.rows[kept], zeros.theta[kept]
            if not len(rows):
                continue
            states = zeros.states[torch.from_numpy(np.flatnonzero(kept)).to(zeros.states.device)]
            t = live.t[rows] + theta * h[rows]
            self.found[zeros.event].append((live.samples[rows], t, states))
            if self.events[zeros.event].terminal:
                stopped.append((torch.from_numpy(rows), t, states))
        return stopped

    def locate(
        self, number: int, rows: np.ndarray, new: np.ndarray, live: Live, attempt: Attempt, h: np.ndarray
    ) -> Found:
        """Zeros by the Illinois method, all samples side by side; to a few units in the last place of the time."""
        if attempt.interpolate is None:
            raise ArgumentError("events", got="a method without dense output", expected="one that has it")
        event, index = self.events[number], torch.from_numpy(rows)
        low, high = np.zeros(len(rows)), np.ones(len(rows))
        at_low, at_high = self.last[number][rows].copy(), new[rows].copy()
        accuracy = 4 * np.spacing(np.maximum(np.abs(live.t[rows]), np.abs(h[rows]))) / np.abs(h[rows])
        side = np.zeros(len(rows), dtype=np.int64)
        for iteration in range(MOST_ITERATIONS):
            if ((high - low <= accuracy) | (at_high == 0)).all():
                break
            with np.errstate(invalid="ignore", divide="ignore"):
                theta = high - at_high * (high - low) / (at_high - at_low)
            middle = 0.5 * (low + high)
            inside = np.isfinite(theta) & (theta > low) & (theta < high)
            theta = np.where(inside & (iteration % 8 != 7), theta, middle)  # a bisection now and then, for hard cases
            states, _ = attempt.interpolate(index, theta)
            value = event.values(states, live.t[rows] + theta * h[rows])
            beyond = (np.sign(value) == np.sign(at_high)) | (value == 0)
            # Illinois: an end that stays twice has its value halved
            at_low = np.where(beyond & (side == 1), 0.5 * at_low, at_low)
            at_high = np.where(~beyond & (side == -1), 0.5 * at_high, at_high)
            high, at_high = np.where(beyond, theta, high), np.where(beyond, value, at_high)
            low, at_low = np.where(beyond, low, theta), np.where(beyond, at_low, value)
            side = np.where(beyond, 1, -1)
        states, _ = attempt.interpolate(index, high)
        return Found(number, rows, high, states)

    def records(self) -> list[EventRecord]:
        """All occurrences."""
        return [
            EventRecord(
                np.concatenate([np.zeros(0, dtype=np.int64), *(samples for samples, _, _ in found)]),
                np.concatenate([np.zeros(0), *(t for _, t, _ in found)]),
                torch.cat([self.like[:0], *(states for _, _, states in found)]),
            )
            for found in self.found
        ]


def crossed(last: np.ndarray, new: np.ndarray, direction: int) -> np.ndarray:
    """Where a function has passed through zero, or reached it."""
    up = (last < 0) & (new >= 0) & (direction >= 0)
    down = (last > 0) & (new <= 0) & (direction <= 0)
    return up | down
