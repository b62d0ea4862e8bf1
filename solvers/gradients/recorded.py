"""The graph of a run, recorded as it goes: no step is computed twice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..adaptive.explicit import ExplicitMethod, dense_weights, stage_work
from ..adaptive.field import Field, own
from ..adaptive.method import Attempt, Live
from .replay import complete, picked, take_step, weighted
from .tape import StepRecorder


class GraphRecorder(StepRecorder):
    """Follows a run with states that have a graph; rejected rows of an attempt have no part in what comes of it.

    Args:
        method: Makes the steps.
        field: Of all samples, with gradients.
        x0: First states [B, *D], with their graph.
        times: Requested times, float64 [B, T].

    Attributes:
        slots: Of each row of `states_at`: k B + b for the state of sample b at time k.
        states_at: States at the requested times, in the order in which they were reached.
        broken: Whether a rejected row was not finite beside an accepted one. Its graph would turn gradients of
            parameters into NaN, as zero times NaN is NaN: then the steps have to be replayed.

    """

    def __init__(self, method: ExplicitMethod, field: Field, x0: Tensor, times: np.ndarray) -> None:
        super().__init__(len(x0))
        self.method, self.field, self.times = method, field, times
        self.x, self.slope = x0, torch.zeros_like(x0)
        self.samples = np.arange(len(x0))
        self.started = False
        self.output = np.ones(len(x0), dtype=np.int64)
        self.slots: list[np.ndarray] = []
        self.states_at: list[Tensor] = []
        self.broken = False
        self.stages: list[Tensor] = []
        self.new = x0

    def renew(self, live: Live, fresh: np.ndarray) -> Tensor | None:
        """Evaluate the first stage of the next step of these samples, once for the run and the graph."""
        super().renew(live, fresh)
        if self.broken:
            return None
        rows = np.flatnonzero(fresh)
        with torch.enable_grad():
            self.follow(live)
            some = self.field if len(rows) == len(fresh) else self.field.rows(torch.from_numpy(rows))
            slope = own(some(picked(self.x, rows), torch.from_numpy(live.t[rows])), self.slope)
            self.slope = slope if len(rows) == len(fresh) else put(self.slope, rows, slope)
        return slope.detach()

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """What the method would do, with a graph that is kept here."""
        if self.broken:
            return self.method.attempt(live, h)
        with torch.enable_grad():
            self.follow(live)
            if not self.started:
                self.slope, self.started = self.field(self.x, torch.from_numpy(live.t.copy())), True
            self.stages, self.new = take_step(self.method, self.field, self.x, self.slope, live.t, h)
        work = stage_work(live.x, torch.from_numpy(h), torch.from_numpy(live.t))
        for stage in self.stages:
            work.add(stage.detach())
        new = self.new.detach()
        ratio = self.method.error_ratio(work, new, live.tolerance)
        passed = bool((ratio <= 1).all())

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return self.interpolate(index.numpy(), theta, live, h)

        slope = self.stages[-1].detach() if self.method.ends_at_new_state else None
        # The loop writes over rejected rows: of a copy.
        return Attempt(new if passed else new.clone(), ratio, slope, len(self.method.rows), interpolate)

    def follow(self, live: Live) -> None:
        """Let go of samples that have left."""
        if len(live.samples) < len(self.samples):
            place = np.searchsorted(self.samples, live.samples)
            self.x, self.slope = picked(self.x, place), picked(self.slope, place)
            self.field, self.samples = self.field.rows(torch.from_numpy(place)), live.samples

    def interpolate(self, rows: np.ndarray, theta: np.ndarray, live: Live, h: np.ndarray) -> tuple[Tensor, int]:
        """States at the next requested times of some samples, which are noted here."""
        missing = self.method.pair.all_stages - len(self.stages)
        with torch.enable_grad():
            x, *stages = (picked(k, rows) for k in (self.x, *self.stages))
            if missing:
                field = self.field.rows(torch.from_numpy(rows))
                stages = complete(self.method.pair, field, x, stages, live.t[rows], h[rows])
            states = weighted(x, stages, dense_weights(self.method.pair, h[rows], theta))
        self.note(rows, states)
        return states.detach(), missing

    def note(self, rows: np.ndarray, states: Tensor) -> None:
        """These are the states of some samples at their next requested times."""
        samples = self.samples[rows]
        self.slots.append(self.output[samples] * len(self.times) + samples)
        self.states_at.append(states)
        self.output[samples] += 1

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Go on from what was accepted."""
        super().step(live, attempt, accept, h, after)
        rows = np.flatnonzero(accept)
        if self.broken or not len(rows):
            return
        if not np.isfinite(attempt.ratio[~accept]).all():
            self.broken = True
            self.slots, self.states_at, self.stages = [], [], []
            self.x = self.slope = self.new = self.new.detach()
            return
        with torch.enable_grad():
            whole = len(rows) == len(accept)
            self.x = self.new if whole else put(self.x, rows, picked(self.new, rows))
            if self.method.ends_at_new_state:
                last = self.stages[-1]
                self.slope = last if whole else put(self.slope, rows, picked(last, rows))
            samples, length = live.samples[rows], self.times.shape[1]
            following = self.times[samples, np.minimum(self.output[samples], length - 1)]
            ends = rows[(self.output[samples] < length) & (following == after[rows])]
            if len(ends):
                self.note(ends, picked(self.new, ends))
        self.stages = []


class RecordedMethod:
    """The method of a run whose graph is recorded."""

    keeps_slope = True
    dense = True

    def __init__(self, recorder: GraphRecorder) -> None:
        self.recorder = recorder

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.recorder.method.name

    @property
    def order(self) -> float:
        """Of the pair."""
        return self.recorder.method.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """The recorder's."""
        return self.recorder.attempt(live, h)


def put(x: Tensor, rows: np.ndarray, values: Tensor) -> Tensor:
    """A copy of x with other rows in some places."""
    return x.index_copy(0, torch.from_numpy(rows).to(x.device), values)
