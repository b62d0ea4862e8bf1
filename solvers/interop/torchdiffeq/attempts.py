"""Attempts at steps of a state that is a batch of one, with the graph of what they compute if a gradient is wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...adaptive.explicit import error_ratio, own
from ...adaptive.method import Attempt, Live
from ...adaptive.pairs import Pair
from .problem import Problem
from .stepping import add

NEAR = 16  # units in the last place, float64, within which a time belongs to a stop


@dataclass(frozen=True)
class TimeFirst:
    """``func(t, y)`` as a field of rows.

    Attributes:
        problem: Whose function it is.
        stops: Times at which it may jump. In the state's precision a time just before a stop may be the stop itself:
            the function is given the next representable one on the right side.

    """

    problem: Problem
    stops: tuple[float, ...]

    def __call__(self, x: Tensor, times: np.ndarray) -> Tensor:
        """The slope at a row, as the loop asks for it."""
        return self.at(x, float(times[0]))

    def at(self, x: Tensor, t: float) -> Tensor:
        """The slope at a row."""
        return self.problem.slope(t, x, self.side(t) if self.stops else 0.0)

    def side(self, t: float) -> float:
        """On which side of a stop a time lies that is as good as on it, but not quite."""
        stop = min(self.stops, key=lambda stop: abs(stop - t))
        if t == stop or abs(t - stop) > NEAR * math.ulp(stop) or self.problem.layout.real == torch.float64:
            return 0.0
        return math.copysign(1.0, t - stop)

    def rows(self, index: Tensor) -> TimeFirst:
        """Itself: there is one sample, or none."""
        return self


@dataclass
class OneState:
    r"""An embedded pair for one state, which autograd can follow: no part of a rejected step stays in the graph.

    The last stage is the slope at the new state: where it is not taken there (heun21 and fehlberg21), it is taken at a
    point :math:`O(h^2)` away, so that the order of these pairs, 2, is kept at an evaluation less a step. So does
    torchdiffeq.

    Attributes:
        pair: The method.
        field: What is integrated.
        may_accept_any: Whether the loop may accept a step whose error is too large.
        may_write: Whether the loop may write to new states, as it does where an event ends a step.

    """

    pair: Pair
    field: TimeFirst
    may_accept_any: bool = False
    may_write: bool = False
    keeps_slope = True
    dense = True

    def __post_init__(self) -> None:
        self.fsal, last_is_spared = self.pair.fsal, self.pair.last_is_free_of_error
        self.needed = self.pair.stages - last_is_spared  # stages of a rejected step

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
        pair, x, t, size = self.pair, live.x, float(live.t[0]), float(h[0])
        self.field.problem.tell("callback_step", t, x, size)
        assert live.slope is not None  # keeps_slope
        stages = [live.slope]

        def evaluate(i: int) -> Tensor:
            at = add(x, stages, pair.a[i], size)
            stages.append(own(self.field.at(at, t + pair.c[i] * size), stages[-1]))
            return at

        new = [evaluate(i) for i in range(1, self.needed)][-1]
        if not self.fsal or self.needed < pair.stages:
            new = add(x, stages, pair.b[: self.needed], size)
        constant = [k.detach() for k in stages]
        ratio = error_ratio(pair, live.tolerance, x.detach(), new.detach(), constant, torch.from_numpy(h))
        if not (ratio[0] <= 1 or self.may_accept_any):
            return Attempt(new.detach(), ratio, constant[-1], self.needed - 1)
        for i in range(self.needed, pair.stages):
            evaluate(i)

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return add(x, stages, [polynomial(row, float(theta[0])) for row in pair.dense], size), 0

        return Attempt(new.clone() if self.may_write else new, ratio, stages[-1], pair.stages - 1, interpolate)


def polynomial(coefficients: Sequence[float], theta: float) -> float:
    r""":math:`\sum_q p_q \theta^{q + 1}`."""
    value = 0.0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * theta
    return value


@dataclass
class Outputs:
    """Takes the states at the times asked for from accepted steps, and calls the callbacks of what became of a step.

    Attributes:
        problem: Whose callbacks they are.
        asked: The times.
        states: Rows found so far.

    """

    problem: Problem
    asked: np.ndarray
    states: list[Tensor] = field(default_factory=list)

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Look at an attempt."""
        problem, t, size = self.problem, float(live.t[0]), float(h[0])
        problem.tell("callback_accept_step" if accept[0] else "callback_reject_step", t, live.x, size)
        if not accept[0]:
            return
        end = float(after[0])
        while len(self.states) < len(self.asked):
            at = self.asked[len(self.states)]
            if problem.direction * at > problem.direction * end:
                return
            assert attempt.interpolate is not None  # the step was accepted
            inside = (torch.zeros(1, dtype=torch.int64), np.array([(at - t) / size]))
            self.states.append(attempt.x if at == end else attempt.interpolate(*inside)[0])

    def renew(self, samples: np.ndarray) -> None:
        """A first stage evaluated anew makes no difference to outputs."""
