"""Attempts at steps of a state that is a batch of one, with the graph of what they compute if a gradient is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...adaptive.explicit import explicit_method, stage_work
from ...adaptive.method import Attempt, Live
from ...adaptive.pairs import Pair
from .problem import Problem
from .stepping import add

NEAR = 16  # units in the last place, float64, within which a time belongs to a stop


@dataclass
class Course:
    """An accepted state with its graph, which the loop does not see: it works with constants.

    Attributes:
        x: The state, a row.
        slope: The slope there.
        address: Where the loop has the same state.
        step: Time, signed length, state and stages of the step that led there.

    """

    x: Tensor
    slope: Tensor
    address: int
    step: tuple[float, float, Tensor, list[Tensor]] | None = None


@dataclass(frozen=True)
class TimeFirst:
    """``func(t, y)`` as a field of rows.

    Attributes:
        problem: Whose function it is.
        stops: Times at which it may jump. In the state's precision a time just before a stop may be the stop itself:
            the function is given the next representable one on the right side.
        course: The state whose slope is kept with its graph when the loop asks for it.
        records: Whether there is a graph.

    """

    problem: Problem
    stops: tuple[float, ...]
    course: Course
    records: bool

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        """The slope at a row, without a graph, as the loop asks for it: at the state of the course, or elsewhere."""
        t = float(times[0])
        if x.data_ptr() != self.course.address:
            return self.problem.slope(t, x, self.side(t))
        slope = self.at(self.course.x, t)
        self.course.slope = slope if slope.requires_grad else slope.clone()  # the function may write over it
        return slope.detach()

    def at(self, x: Tensor, t: float) -> Tensor:
        """The slope at a row, with its graph."""
        with torch.set_grad_enabled(self.records):
            return self.problem.slope(t, x, self.side(t))

    def side(self, t: float) -> float:
        """On which side of a stop a time lies that is as good as on it, but not quite; else 0."""
        if not self.stops or self.problem.layout.real == torch.float64:
            return 0.0
        stop = min(self.stops, key=lambda stop: abs(stop - t))
        return 0.0 if t == stop or abs(t - stop) > NEAR * math.ulp(stop) else math.copysign(1.0, t - stop)

    def rows(self, index: Tensor) -> TimeFirst:
        """Itself: there is one sample, or none."""
        return self


class OneState:
    r"""An embedded pair for one state, which autograd can follow: no part of a rejected step stays in the graph.

    The last stage is the slope at the new state: where it is not taken there (heun21 and fehlberg21), it is taken at a
    point :math:`O(h^2)` away, so that the order of these pairs, 2, is kept at an evaluation less a step. So does
    torchdiffeq.

    It is the loop's recorder as well: it takes down the states at the times asked for, and calls the callbacks.

    Args:
        pair: The method.
        field: What is integrated.
        asked: Times whose states are wanted.
        may_accept_any: Whether the loop may accept a step whose error is too large.

    Attributes:
        states: Rows at the times asked for that have been passed.

    """

    keeps_slope = True
    dense = True

    def __init__(self, pair: Pair, field: TimeFirst, asked: np.ndarray, *, may_accept_any: bool) -> None:
        self.pair, self.field, self.asked, self.may_accept_any = pair, field, asked, may_accept_any
        self.method = explicit_method(pair)
        self.needed = len(self.method.rows) + 1  # stages of a rejected step
        self.states: list[Tensor] = []
        self.new, self.stages = field.course.x, [field.course.slope]

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.pair.name

    @property
    def order(self) -> float:
        """Of the advancing row."""
        return self.pair.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Evaluate the stages, the new state and its error; the last stage only if it is needed."""
        pair, x, t, size = self.pair, self.field.course.x, float(live.t[0]), float(h[0])
        self.field.problem.tell("callback_step", t, live.x, size)
        self.stages = stages = [self.field.course.slope]

        def evaluate(i: int) -> Tensor:
            at = add(x, stages, pair.a[i], size)
            slope = self.field.at(at, t + pair.c[i] * size)
            stages.append(slope.clone() if slope.data_ptr() == stages[-1].data_ptr() else slope)
            return at

        with torch.set_grad_enabled(self.field.records):
            new = [evaluate(i) for i in range(1, self.needed)][-1]
            if not self.method.ends_at_new_state:
                new = add(x, stages, self.method.weights, size)
        # The loop writes to new states where it rejects or meets an event, and the error is formed in such a place.
        constant = new.detach().clone()
        work = stage_work(live.x, torch.from_numpy(h), torch.from_numpy(live.t))
        for stage in stages:
            work.add(stage.detach())
        ratio = self.method.error_ratio(work, constant, live.tolerance)
        if ratio[0] <= 1 or self.may_accept_any:
            with torch.set_grad_enabled(self.field.records):
                for i in range(self.needed, pair.stages):
                    evaluate(i)
        self.new = new

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return within(pair, x.detach(), stages, size, float(theta[0])).detach(), 0

        return Attempt(constant, ratio, stages[-1].detach(), len(stages) - 1, interpolate)

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Go on from an accepted step."""
        problem, course, t, size = self.field.problem, self.field.course, float(live.t[0]), float(h[0])
        problem.tell("callback_accept_step" if accept[0] else "callback_reject_step", t, live.x, size)
        if not accept[0]:
            return
        course.step = (t, size, course.x, self.stages)
        end = float(after[0])
        while len(self.states) < len(self.asked):
            at = float(self.asked[len(self.states)])
            if problem.direction * at > problem.direction * end:
                break
            self.states.append(self.new if at == end else self.state_at(at))
        course.x, course.slope, course.address = self.new, self.stages[-1], attempt.x.data_ptr()

    def state_at(self, t: float) -> Tensor:
        """The state at a time within the last step, with its graph."""
        assert self.field.course.step is not None  # a step was accepted
        start, size, x, stages = self.field.course.step
        with torch.set_grad_enabled(self.field.records):
            return within(self.pair, x, stages, size, (t - start) / size)

    def renew(self, live: Live, fresh: np.ndarray) -> Tensor:
        """The slope behind a jump, which the field keeps with its graph."""
        return self.field(live.x, torch.from_numpy(live.t))


def within(pair: Pair, x: Tensor, stages: Sequence[Tensor], h: float, theta: float) -> Tensor:
    """The state at a share of a step."""
    return add(x, stages, [polynomial(row, theta) for row in pair.dense], h)


def polynomial(coefficients: Sequence[float], theta: float) -> float:
    r""":math:`\sum_q p_q \theta^{q + 1}`."""
    value = 0.0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * theta
    return value
