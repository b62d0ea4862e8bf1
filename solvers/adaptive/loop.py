"""The adaptive loop: every sample with a time and a step size of its own, one host read an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .controller import Controller
from .events import Event, EventWatch
from .first_step import first_step
from .method import Attempt, Live, Method
from .solution import DenseOutput, Solution, Status

MOST_NOT_FINITE = 40  # attempts in a row, each with half the step: then it is not the step
STRETCH = 1.01  # a step that would leave less than this share of itself takes the rest as well
ULPS_OF_STOP = 4


@dataclass(frozen=True)
class Limits:
    """Bounds of steps; see :func:`pushforward.solve_ode`."""

    first_step: float | None = None
    min_step: float | None = None
    max_step: float = np.inf
    max_steps: int = 10_000
    accept_at_min_step: bool = False


@dataclass
class Progress:
    """Where each live sample is; every array has one row for each.

    Attributes:
        h: Step size to try next, positive.
        target: Where the next step must end at the latest.
        history: Error ratios of its last two accepted steps.
        rejected: Whether its last attempt failed.
        not_finite: How many attempts in a row had an error that was not finite.
        attempts: How many there were.
        output: Index of the next requested time.

    """

    h: np.ndarray
    target: np.ndarray
    history: np.ndarray
    rejected: np.ndarray
    not_finite: np.ndarray
    attempts: np.ndarray
    output: np.ndarray

    def rows(self, keep: np.ndarray) -> Progress:
        """Some of the samples."""
        return Progress(**{name: value[keep] for name, value in vars(self).items()})


class Run:
    """One adaptive integration.

    Args:
        method: Makes the steps.
        live: All samples, at their first times.
        times: Requested times, float64 [B, T], strictly monotone along T, all in one direction.
        controller, limits: Choose the step sizes.
        stops: Times at which a step must end and the field may jump, in the order of integration.
        events: What to watch.
        dense: Whether to keep the solution as a function of time.

    """

    def __init__(
        self,
        method: Method,
        live: Live,
        times: np.ndarray,
        controller: Controller,
        limits: Limits,
        *,
        stops: Sequence[float] = (),
        events: Sequence[Event] = (),
        dense: bool = False,
    ) -> None:
        self.method, self.live, self.times = method, live, times
        self.controller, self.limits = controller, limits
        count, length = times.shape
        self.direction = -1.0 if length > 1 and count and times[0, -1] < times[0, 0] else 1.0
        x = live.x
        self.final, self.final_t = x.clone(), times[:, 0].copy()
        self.status = np.full(count, Status.SUCCESS, dtype=np.int64)
        self.nfe, self.accepted, self.rejected = (np.zeros(count, dtype=np.int64) for _ in range(3))
        self.calls = self.host_reads = 0
        self.states = x.new_full((length, *x.shape), torch.nan)
        self.states[0] = x
        self.dense = DenseOutput(x.clone(), times[:, 0].copy()) if dense else None
        self.ends = times[:, -1]
        self.stops = sorted(self.direction * float(s) for s in stops)
        self.watch = EventWatch(events, live) if events else None
        self.progress = Progress(
            h=np.zeros(count),
            target=np.zeros(count),
            history=np.ones((count, 2)),
            rejected=np.zeros(count, dtype=bool),
            not_finite=np.zeros(count, dtype=np.int64),
            attempts=np.zeros(count, dtype=np.int64),
            output=np.ones(count, dtype=np.int64),
        )

    def solve(self) -> Solution:
        """Integrate until every sample has arrived or failed."""
        if self.times.shape[1] > 1 and len(self.live.samples):
            self.begin()
            while len(self.live.samples):
                self.advance()
        records = self.watch.records() if self.watch else []
        return Solution(
            self.times,
            self.states,
            self.final,
            self.final_t,
            self.status,
            self.nfe,
            self.accepted,
            self.rejected,
            self.calls,
            self.host_reads,
            records,
            self.dense,
        )

    # --- start -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """First slopes and step sizes."""
        live, limits, progress = self.live, self.limits, self.progress
        if self.method.keeps_slope:
            self.live = live = replace(live, slope=live.field(live.x, live.t))
            self.count(1)
        way = self.direction * (self.times[:, -1] - live.t)
        if limits.first_step is not None:
            progress.h = np.minimum(np.full(len(way), float(limits.first_step)), way)
        elif live.slope is not None:
            progress.h = first_step(live, self.direction, way, self.method.order)
            self.count(1)
            self.host_reads += 3
        else:
            progress.h = 0.01 * way
        if not np.isfinite(progress.h).all():  # the slope is not finite: a state to report, not a step to try
            self.finish(np.where(np.isfinite(progress.h), -1, Status.NOT_FINITE))
        self.aim()

    def aim(self) -> None:
        """Set the targets: the end, or the next stop before it, or without dense output the next requested time."""
        live, progress, way = self.live, self.progress, self.direction
        target = self.ends[live.samples]
        if not self.method.dense:
            target = self.times[live.samples, progress.output]
        for stop in reversed(self.stops):
            before = ulps(way * stop, -way * ULPS_OF_STOP)
            ahead = (way * live.t < way * before) & (way * before < way * target)
            target = np.where(ahead, before, target)
        progress.target = target

    # --- one attempt -------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Try a step of every live sample, and keep those that pass."""
        live, progress, limits = self.live, self.progress, self.limits
        way = np.abs(progress.target - live.t)
        wanted = np.minimum(progress.h, limits.max_step)
        arrives = wanted * STRETCH >= way
        size = np.where(arrives, np.where(way > limits.max_step, 0.5 * way, way), wanted)
        arrives &= size == way
        attempt = self.method.attempt(live, self.direction * size)
        self.host_reads += 1
        self.count(attempt.evaluations)
        with np.errstate(invalid="ignore"):
            accept = attempt.ratio <= 1.0
        if limits.accept_at_min_step and limits.min_step is not None:
            accept |= (size <= limits.min_step) & np.isfinite(attempt.ratio)
        progress.attempts += 1
        after = np.where(accept, np.where(arrives, progress.target, live.t + self.direction * size), live.t)
        ended = np.full(len(accept), -1, dtype=np.int64)
        if self.watch:
            for index, t, states in self.watch.look(live, attempt, accept, self.direction * size, after):
                attempt.x[index.to(attempt.x.device)] = states
                after[index.numpy()] = t
                ended[index.numpy()] = Status.EVENT
            self.host_reads += 1
        self.write_outputs(live, attempt, accept, after, self.direction * size)
        if self.dense is not None and attempt.interpolate is not None:
            place = np.flatnonzero(accept)
            self.dense.pieces.append(
                (live.samples[place], live.t[place], (self.direction * size)[place], place, attempt.interpolate)
            )
        self.accepted[live.samples] += accept
        self.rejected[live.samples] += ~accept
        self.choose(attempt.ratio, accept, size, wanted, arrives)
        self.live = self.commit(attempt, accept, after)
        self.judge(accept, ended, attempt.slope is not None)

    def choose(
        self, ratio: np.ndarray, accept: np.ndarray, size: np.ndarray, wanted: np.ndarray, arrives: np.ndarray
    ) -> None:
        """The next step sizes."""
        progress, controller, order = self.progress, self.controller, self.method.order
        passed = np.where(accept, np.minimum(ratio, 1.0), 1.0)
        factor = controller.factor(passed, progress.history, order)
        factor = np.where(progress.rejected, np.minimum(factor, 1.0), factor)
        grown = size * factor
        grown = np.where(arrives, np.maximum(grown, wanted), grown)  # cut short by a target, not by the error
        progress.h = np.where(accept, grown, size * controller.shrink(ratio, order))
        latest = np.stack([np.maximum(passed, 1e-10), progress.history[:, 0]], axis=1)
        progress.history = np.where(accept[:, None], latest, progress.history)
        progress.rejected = ~accept
        progress.not_finite = np.where(np.isfinite(ratio) | accept, 0, progress.not_finite + 1)

    def commit(self, attempt: Attempt, accept: np.ndarray, after: np.ndarray) -> Live:
        """The samples after the attempt: rejected ones keep state and slope."""
        live, x, slope = self.live, attempt.x, attempt.slope
        if not accept.all():
            back = torch.from_numpy(np.flatnonzero(~accept)).to(x.device)
            x.index_copy_(0, back, live.x.index_select(0, back))
            if slope is not None and live.slope is not None:
                slope = slope.index_copy(0, back, live.slope.index_select(0, back))
        if slope is None and self.method.keeps_slope:
            slope = live.slope  # of rejected samples; the others' follows
        return replace(live, x=x, t=after, slope=slope)

    def judge(self, accept: np.ndarray, ended: np.ndarray, has_slope: bool) -> None:
        """End the samples that have arrived or cannot go on; prepare the rest for their next step."""
        live, progress, limits = self.live, self.progress, self.limits
        reached = accept & (live.t == progress.target)
        ended = np.where((ended < 0) & reached & (live.t == self.ends[live.samples]), 0, ended)
        least = self.least_step(live.t)
        stuck = ~accept & (progress.not_finite >= MOST_NOT_FINITE)
        ended = np.where((ended < 0) & stuck, Status.NOT_FINITE, ended)
        small = ~accept & (progress.h < least) & ~limits.accept_at_min_step
        why = np.where(progress.not_finite > 0, Status.NOT_FINITE, Status.STEP_TOO_SMALL)
        ended = np.where((ended < 0) & small, why, ended)
        if limits.min_step is not None and limits.accept_at_min_step:
            progress.h = np.maximum(progress.h, limits.min_step)
        ended = np.where((ended < 0) & (progress.attempts >= limits.max_steps), Status.TOO_MANY_STEPS, ended)
        fresh = accept & (self.method.keeps_slope and not has_slope)
        if self.stops:
            passed = reached & (ended < 0) & self.at_stop(live.t)
            live.t[passed] = ulps(live.t[passed], self.direction * 2 * ULPS_OF_STOP)
            fresh |= passed
        keep = ended < 0
        if not keep.all():
            self.finish(ended)
            fresh = fresh[keep]
        if reached.any():
            self.aim()
        if len(self.live.samples) and fresh.any():
            self.renew(fresh)

    def at_stop(self, t: np.ndarray) -> np.ndarray:
        """Which times are those just before a stop."""
        way = self.direction
        return np.isin(t, [ulps(way * stop, -way * ULPS_OF_STOP) for stop in self.stops])

    def least_step(self, t: np.ndarray) -> np.ndarray:
        """Sixteen units in the last place of the time, or what the user said."""
        if self.limits.min_step is not None:
            return np.full(len(t), float(self.limits.min_step))
        return 16 * np.spacing(np.abs(t))

    def renew(self, fresh: np.ndarray) -> None:
        """Slopes at new states, where the method's last stage is not one."""
        live = self.live
        if fresh.all() or live.slope is None:
            self.live = replace(live, slope=live.field(live.x, live.t))
            self.count(1)
            return
        index = torch.from_numpy(np.flatnonzero(fresh))
        place = index.to(live.x.device)
        slope = live.field.rows(index)(live.x.index_select(0, place), live.t[fresh])
        self.live = replace(live, slope=live.slope.index_copy(0, place, slope))
        self.calls += 1
        self.nfe[live.samples[fresh]] += 1

    # --- results -----------------------------------------------------------------------------------------------

    def write_outputs(self, live: Live, attempt: Attempt, accept: np.ndarray, after: np.ndarray, h: np.ndarray) -> None:
        """States at the requested times that accepted steps have passed."""
        progress, way, length = self.progress, self.direction, self.times.shape[1]
        while True:
            asked = self.times[live.samples, np.minimum(progress.output, length - 1)]
            due = accept & (progress.output < length) & (way * asked <= way * after)
            if not due.any():
                return
            at_end = due & (asked == after)
            for rows, ends in ((np.flatnonzero(at_end), True), (np.flatnonzero(due & ~at_end), False)):
                if not len(rows):
                    continue
                index = torch.from_numpy(rows)
                if ends:
                    states = attempt.x.index_select(0, index.to(attempt.x.device))
                else:
                    theta = np.clip((asked[rows] - live.t[rows]) / h[rows], 0.0, 1.0)
                    assert attempt.interpolate is not None  # otherwise requested times are targets
                    states, spent = attempt.interpolate(index, theta)
                    self.calls += spent
                    self.nfe[live.samples[rows]] += spent
                k, s = (torch.from_numpy(i).to(states.device) for i in (progress.output[rows], live.samples[rows]))
                self.states.index_put_((k, s), states)
            progress.output = progress.output + due

    def finish(self, ended: np.ndarray) -> None:
        """Take out the samples whose ``ended`` is a status; the field sees them no more."""
        live, gone, keep = self.live, ended >= 0, ended < 0
        samples = live.samples[gone]
        index = torch.from_numpy(np.flatnonzero(gone)).to(live.x.device)
        self.final.index_copy_(0, torch.from_numpy(samples).to(live.x.device), live.x.index_select(0, index))
        self.final_t[samples] = live.t[gone]
        self.status[samples] = ended[gone]
        rest = torch.from_numpy(np.flatnonzero(keep))
        place = rest.to(live.x.device)
        count = len(live.samples)
        self.live = Live(
            field=live.field.rows(rest),
            tolerance=live.tolerance.rows(rest, count, live.x.ndim),
            samples=live.samples[keep],
            x=live.x.index_select(0, place),
            t=live.t[keep],
            slope=None if live.slope is None else live.slope.index_select(0, place),
        )
        self.progress = self.progress.rows(keep)
        if self.watch:
            self.watch.rows(rest)

    def count(self, evaluations: int | np.ndarray) -> None:
        """Add evaluations of all live samples."""
        self.nfe[self.live.samples] += evaluations
        self.calls += int(np.max(evaluations, initial=0))


def ulps(t: np.ndarray | float, count: float) -> np.ndarray:
    """The time a few units in the last place further on."""
    return np.asarray(t) + count * np.spacing(np.abs(t))
