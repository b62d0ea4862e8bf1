"""Attempts at steps of a state that is a batch of one, with the graph of what they compute if a gradient is wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...adaptive.explicit import (
    ExplicitMethod,
    complete,
    dense_weights,
    ends_with_slope,
    error_ratio,
    take_step,
    weighted,
)
from ...adaptive.method import Attempt, Live
from ...adaptive.pairs import Pair
from .problem import Problem

NEAR = 16  # units in the last place, float64, within which a time belongs to a stop


@dataclass
class TimeFirst:
    """``func(t, y)`` as a field of rows.

    Attributes:
        problem: Whose function it is.
        stops: Times at which it may jump. In the state's precision a time just before a stop may be the stop itself:
            the function is given the next representable one on the right side.
        watches: Whether to find out if the function depends on something that requires a gradient. Until that has been
            seen it is called with gradients recorded, which costs nothing where none is required.
        found: Whether it does, or the state does.

    """

    problem: Problem
    stops: tuple[float, ...]
    watches: bool
    found: bool

    def __call__(self, x: Tensor, times: np.ndarray) -> Tensor:
        """The slope at a row."""
        t = float(times[0])
        beside = self.side(t) if self.stops else 0.0
        if self.found or not self.watches:
            return self.problem.slope(t, x, beside)
        with torch.enable_grad():
            slope = self.problem.slope(t, x, beside)
        self.found = slope.requires_grad
        return slope if torch.is_grad_enabled() else slope.detach()

    def side(self, t: float) -> float:
        """On which side of a stop a time lies that is as good as on it, but not quite."""
        stop = min(self.stops, key=lambda stop: abs(stop - t))
        if t == stop or abs(t - stop) > NEAR * math.ulp(stop) or self.problem.layout.real == torch.float64:
            return 0.0
        return math.copysign(1.0, t - stop)

    def rows(self, index: Tensor) -> TimeFirst:
        """Itself: there is one sample, or none."""
        return self


@dataclass(frozen=True)
class OneState:
    r"""An embedded pair for one state.

    What autograd needs is kept of accepted steps only, from the first slope on that requires a gradient.

    The last stage is the slope at the new state: where it is not taken there (heun21 and fehlberg21), it is taken at a
    point :math:`O(h^2)` away, so that the order of these pairs, 2, is kept at an evaluation less a step. So does
    torchdiffeq.

    Attributes:
        pair: The method.
        problem: What is integrated; its ``callback_step`` is called.
        may_accept_any: Whether the loop may accept a step whose error is too large.

    """

    pair: Pair
    problem: Problem
    may_accept_any: bool
    keeps_slope = True
    dense = True

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.pair.name

    @property
    def order(self) -> float:
        """Of the advancing row."""
        return self.pair.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Try a step."""
        self.problem.tell("callback_step", float(live.t[0]), live.x, float(h[0]))
        right = live.field
        assert isinstance(right, TimeFirst)
        if ends_with_slope(self.pair) and not right.found:
            with torch.no_grad():
                attempt = ExplicitMethod(self.pair).attempt(live, h)
            if not right.found:  # otherwise the step is taken again, with its graph
                return attempt
        return self.recorded(live, h)

    def recorded(self, live: Live, h: np.ndarray) -> Attempt:
        """The same with torch operations that autograd knows, and with the slope at the new state whatever the pair."""
        pair, x, t = self.pair, live.x, live.t
        assert live.slope is not None  # keeps_slope
        stages, new = take_step(pair, live.field, x, live.slope, t, h)
        with torch.no_grad():
            constant = [k.detach() for k in stages]
            ratio = error_ratio(pair, live.tolerance, x.detach(), new.detach(), constant, torch.from_numpy(h))
        if ratio[0] <= 1 or self.may_accept_any:  # a last stage that no estimate uses is left out until here
            stages = complete(pair, live.field, x, stages, t, h)
            slope = stages[-1]
        else:  # nothing of a rejected step may stay in the graph
            new, slope = new.detach(), stages[-1].detach()

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return weighted(x, stages, torch.from_numpy(dense_weights(pair, h, theta))), 0

        return Attempt(new, ratio, slope, len(stages) - 1, interpolate)


@dataclass
class Outputs:
    """Takes the states at the times asked for from accepted steps, and calls the callbacks of what became of a step.

    Attributes:
        problem: Whose times and callbacks they are.
        states: Rows found so far, from that of the first time on.

    """

    problem: Problem
    states: list[Tensor] = field(default_factory=list)

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Look at an attempt."""
        problem, t, length = self.problem, float(live.t[0]), float(h[0])
        problem.tell("callback_accept_step" if accept[0] else "callback_reject_step", t, live.x, length)
        if not accept[0]:
            return
        asked, way, end = problem.times, problem.direction, float(after[0])
        while len(self.states) < len(asked) and way * asked[len(self.states)] <= way * end:
            at = asked[len(self.states)]
            if at == end:
                self.states.append(attempt.x)
                continue
            assert attempt.interpolate is not None  # pairs have dense output
            self.states.append(attempt.interpolate(torch.zeros(1, dtype=torch.int64), np.array([(at - t) / length]))[0])

    def renew(self, samples: np.ndarray) -> None:
        """A first stage evaluated anew makes no difference to outputs."""
