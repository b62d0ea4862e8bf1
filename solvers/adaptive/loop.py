"""The adaptive loop: every sample with a time and a step size of its own, one host read an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .compiled import compiled_run
from .control import Limits, restore_rejected, step_control
from .controller import Controller
from .events import Event, EventWatch
from .first_step import first_step
from .method import Attempt, Live, Method
from .observers import Jumps, Recorder
from .solution import DenseOutput, Solution, Status

ULPS_OF_STOP = 4


class Run:
    """One adaptive integration.

    Args:
        method: Makes the steps.
        live: All samples, at their first times.
        times: Requested times, float64 [B, T], strictly monotone along T, all in one direction.
        controller, limits: Choose the step sizes.
        stops: Times at which a step must end and the field may jump.
        events: What to watch.
        dense: Whether to keep the solution as a function of time.
        recorder: Is told of every accepted step.
        jumps: Times of single samples at which their steps end and their states change.

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
        recorder: Recorder | None = None,
        jumps: Jumps | None = None,
    ) -> None:
        self.method, self.live, self.times, self.limits = method, live, times, limits
        self.recorder, self.jumps = recorder, jumps
        count, length = times.shape
        self.direction = -1.0 if length > 1 and count and times[0, -1] < times[0, 0] else 1.0
        self.control = step_control(controller, limits, method.order, self.direction, times[:, 0], times[:, -1])
        x = live.x
        self.final = x.clone()
        self.jacobians, self.products = (np.zeros(count, dtype=np.int64) for _ in range(2))
        self.calls = self.host_reads = 0
        self.arrived: list[tuple[np.ndarray, Tensor]] = []
        self.states = x.new_full((length, *x.shape), torch.nan)
        self.states[0] = x
        self.dense = DenseOutput(x.clone(), times[:, 0].copy()) if dense else None
        self.clearance = ulps_of_stop(x)
        self.stops = [ulps(float(s), -self.direction * self.clearance) for s in stops]
        self.watch = EventWatch(events, live) if events else None
        # A step that nobody interpolates may write over the arrays of the last one.
        self.snapshot = dense or bool(events)

    def solve(self) -> Solution:
        """Integrate until every sample has arrived or failed."""
        if self.times.shape[1] > 1 and len(self.live.samples):
            self.begin()
            observed = self.snapshot or self.stops or self.recorder or self.jumps
            compiled = None if observed else compiled_run(self.method, self.live, self.control)
            if compiled is not None:
                attempts = compiled.solve(self.control, self.final, self.write_outputs)
                self.host_reads += attempts
                self.calls += attempts * compiled.evaluations
            else:
                while len(self.live.samples):
                    self.advance()
            self.gather_final_states()
        records = self.watch.records() if self.watch else []
        t, status, attempts, accepted, nfe = (numbers.copy() for numbers in self.control.results)
        linear = (self.jacobians, self.products)
        counts = (status, nfe, accepted, attempts - accepted, self.calls, self.host_reads)
        return Solution(self.times, self.states, self.final, t, *counts, records, self.dense, *linear)

    # --- start -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """First slopes and step sizes."""
        live, limits, control = self.live, self.limits, self.control
        first = None
        if self.method.keeps_slope:
            first = live.field(live.x, torch.from_numpy(live.t))
            self.live = live = replace(live, slope=first.clone(), one_buffer=limits.first_step is not None)
            self.count(1)
        way = self.direction * (self.times[:, -1] - live.t)
        if limits.first_step is not None:
            h = np.minimum(limits.first_step, way)
        elif live.slope is not None and first is not None:
            h, probe = first_step(live, self.direction, way, self.method.order)
            self.live = live = replace(live, one_buffer=probe.data_ptr() == first.data_ptr() and probe.numel() > 0)
            self.count(1)
            self.host_reads += 2 if live.tolerance.plain else 3
        else:
            h = 0.01 * way
        control.h[:] = h
        control.next_output[:] = self.requested(live.samples, control.output)
        if not np.isfinite(h).all():  # the slope is not finite: a state to report, not a step to try
            control.ended[:] = np.where(np.isfinite(h), -1, Status.NOT_FINITE)
            self.finish()
        self.aim()

    def aim(self) -> None:
        """Set the targets: the end, or the next stop before it, or without dense output the next requested time."""
        control, way = self.control, self.direction
        target = control.end
        if not self.method.dense:
            target = np.where(np.isfinite(control.next_output), control.next_output, target)
        for stop in sorted(self.stops, key=lambda stop: -way * stop):
            ahead = (way * control.t < way * stop) & (way * stop < way * target)
            target = np.where(ahead, stop, target)
        if self.jumps is not None:
            target = way * np.minimum(way * target, way * self.jumps.ahead(self.live.samples))
        control.target[:] = target

    # --- one attempt -------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Try a step of every live sample, and keep those that pass."""
        live, control = self.live, self.control
        control.propose()
        h = control.signed_size
        if self.snapshot:
            h, live = h.copy(), replace(live, t=live.t.copy())
        attempt = self.method.attempt(live, h)
        self.host_reads += attempt.reads
        spent = attempt.evaluations
        if isinstance(spent, np.ndarray):
            control.nfe[:] += spent
            self.calls += int(spent.max())
            self.jacobians[live.samples] += attempt.jacobians
            self.products[live.samples] += attempt.products
            spent = 0
        self.calls += spent
        rejected, ended, reached, due = control.decide(attempt.ratio, spent)
        if self.watch:
            ended += self.look_for_events(self.watch, live, attempt, h)
        if due:
            self.write_outputs(live, attempt, h)
        if self.dense is not None and attempt.interpolate is not None:
            place = np.flatnonzero(control.accept)
            pieces = (live.samples[place], live.t[place], h[place], place, attempt.interpolate)
            self.dense.pieces.append(pieces)
        fresh = None
        if self.method.keeps_slope and attempt.slope is None:
            fresh = control.accept != 0
        if self.recorder is not None:
            self.recorder.step(live, attempt, control.accept != 0, h, control.after)
        control.move()
        self.commit(attempt, rejected)
        if reached and self.stops:
            passed = (control.accept != 0) & (control.ended < 0) & np.isin(control.t, self.stops)
            control.t[passed] = ulps(control.t[passed], self.direction * 2 * self.clearance)
            fresh = passed if fresh is None else fresh | passed
        if reached and self.jumps is not None:
            jumped = self.jumps.apply(self.live, (control.accept != 0) & (control.ended < 0))
            if self.method.keeps_slope:
                fresh = jumped if fresh is None else fresh | jumped
        if ended:
            fresh = None if fresh is None else fresh[control.ended < 0]
            self.finish()
        if reached and len(self.live.samples) and (self.stops or self.jumps is not None or not self.method.dense):
            self.aim()
        if fresh is not None and fresh.any():
            self.renew(fresh)

    def commit(self, attempt: Attempt, rejected: int) -> None:
        """The samples after the attempt: rejected ones keep state and slope."""
        live, x, slope = self.live, attempt.x, attempt.slope
        if rejected:
            restore_rejected(self.control, x, live.x)
            if slope is not None and live.slope is not None:
                slope = slope.clone()
                restore_rejected(self.control, slope, live.slope)
        if slope is None:
            slope = live.slope  # of rejected samples; the others' follows
        self.live = Live(live.field, live.tolerance, live.samples, x, self.control.t, slope, live.one_buffer)

    def look_for_events(self, watch: EventWatch, live: Live, attempt: Attempt, h: np.ndarray) -> int:
        """Move samples that a terminal event stops back to where it happened; how many did not end anyway."""
        control, more = self.control, 0
        for index, t, states in watch.look(live, attempt, control.accept != 0, h, control.after):
            rows = index.numpy()
            attempt.x[index.to(attempt.x.device)] = states
            control.after[rows] = t
            more += int(np.count_nonzero(control.ended[rows] < 0))
            control.ended[rows] = Status.EVENT
        self.host_reads += 1
        return more

    def renew(self, fresh: np.ndarray) -> None:
        """Slopes at new states, where the method's last stage is not one."""
        live = self.live
        slope = None if self.recorder is None else self.recorder.renew(live, fresh)
        if fresh.all() or live.slope is None:
            slope = live.evaluate(live.x, torch.from_numpy(live.t)) if slope is None else slope
            self.live = replace(live, slope=slope)
            self.count(1)
            return
        index = torch.from_numpy(np.flatnonzero(fresh))
        place = index.to(live.x.device)
        if slope is None:
            slope = live.field.rows(index)(live.x.index_select(0, place), torch.from_numpy(live.t[fresh]))
        self.live = replace(live, slope=live.slope.index_copy(0, place, slope))
        self.calls += 1
        self.control.nfe[fresh] += 1

    # --- results -----------------------------------------------------------------------------------------------

    def write_outputs(self, live: Live, attempt: Attempt, h: np.ndarray) -> None:
        """States at the requested times that accepted steps have passed."""
        control, way = self.control, self.direction
        accept = control.accept != 0
        while True:
            asked = control.next_output
            due = accept & (way * asked <= way * control.after)
            if not due.any():
                return
            at_end = due & (asked == control.after)
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
                    control.nfe[rows] += spent
                k, s = (torch.from_numpy(i).to(states.device) for i in (control.output[rows], live.samples[rows]))
                self.states.index_put_((k, s), states)
            control.output[:] += due
            control.next_output[:] = self.requested(live.samples, control.output)

    def requested(self, samples: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Requested times by index; infinity for the last one, whose states are the final ones."""
        last = self.times.shape[1] - 1
        return np.where(output < last, self.times[samples, np.minimum(output, last)], self.direction * np.inf)

    def finish(self) -> None:
        """Take out the samples that have ended; the field sees them no more."""
        live, control = self.live, self.control
        keep = control.ended < 0
        leaving = np.flatnonzero(~keep)
        index = torch.from_numpy(leaving).to(live.x.device)
        self.arrived.append((live.samples[leaving], live.x.index_select(0, index)))
        rest = torch.from_numpy(np.flatnonzero(keep))
        place = rest.to(live.x.device)
        control.leave()
        self.live = Live(
            field=live.field.rows(rest),
            tolerance=live.tolerance.rows(rest, len(keep), live.x.ndim),
            samples=live.samples[keep],
            x=live.x.index_select(0, place),
            t=control.t,
            slope=None if live.slope is None else live.slope.index_select(0, place),
            one_buffer=live.one_buffer,
        )
        if self.watch:
            self.watch.rows(rest)

    def gather_final_states(self) -> None:
        """Put the last states of all samples in their places, and those that arrived among the requested ones."""
        if self.arrived:
            samples = torch.from_numpy(np.concatenate([samples for samples, _ in self.arrived])).to(self.final.device)
            self.final.index_copy_(0, samples, torch.cat([x for _, x in self.arrived]))
        _, status, *_ = self.control.results
        there = status == Status.SUCCESS
        if there.all():
            self.states[-1] = self.final
        else:
            rows = torch.from_numpy(np.flatnonzero(there)).to(self.final.device)
            self.states[-1, rows] = self.final[rows]

    def count(self, evaluations: int) -> None:
        """Add evaluations of all live samples."""
        self.control.nfe[:] += evaluations
        self.calls += evaluations


def ulps_of_stop(x: Tensor) -> float:
    """How far from a stop steps of this state end and begin, in units in the last place of the time.

    Fields of narrower states than float64 see times in single precision, in which the two sides must differ too.
    """
    return ULPS_OF_STOP if x.dtype == torch.float64 else ULPS_OF_STOP * 2**29


def ulps(t: np.ndarray | float, count: float) -> np.ndarray:
    """The time a few units in the last place further on."""
    return np.asarray(t) + count * np.spacing(np.abs(t))
