"""Runs of adaptive methods: the state as a batch of one, so that one step size serves all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import ArgumentError
from ...adaptive.controller import Controller
from ...adaptive.events import Event
from ...adaptive.explicit import ExplicitMethod
from ...adaptive.loop import Limits, Run
from ...adaptive.method import Attempt, Live, Method
from ...adaptive.pairs import pair
from ...adaptive.solution import Solution
from ...adaptive.tolerance import tolerance
from .problem import Problem, known_options, number

PAIRS = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
OPTIONS: dict[str, Any] = {
    "first_step": None,
    "min_step": 0.0,
    "max_step": math.inf,
    "step_t": None,
    "jump_t": None,
    "safety": 0.9,
    "ifactor": 10.0,
    "dfactor": 0.2,
    "max_num_steps": 2**31 - 1,
    "dtype": torch.float64,
    "norm": None,
}
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
        """The slope at a row."""
        t = float(times[0])
        return self.problem.slope(t, x) if not self.stops else self.problem.slope(t, x, self.side(t))

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
class ToldMethod:
    """A method that calls the function's callbacks around each attempt.

    Attributes:
        method: What makes the attempts.
        problem: Whose callbacks they are.
        least: Steps this short are accepted.

    """

    method: Method
    problem: Problem
    least: float

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method.name

    @property
    def order(self) -> float:
        """Of the method."""
        return self.method.order

    @property
    def keeps_slope(self) -> bool:
        """Of the method."""
        return self.method.keeps_slope

    @property
    def dense(self) -> bool:
        """Of the method."""
        return self.method.dense

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """The method's attempt, with callbacks before and after."""
        t, size, x = float(live.t[0]), float(h[0]), live.x
        self.problem.tell("callback_step", t, x, size)
        attempt = self.method.attempt(live, h)
        ratio = attempt.ratio[0]
        accepted = ratio <= 1 or (abs(size) <= self.least and math.isfinite(ratio))
        self.problem.tell("callback_accept_step" if accepted else "callback_reject_step", t, x, size)
        return attempt


@dataclass(frozen=True)
class AdaptiveRun:
    """A run of an adaptive method, from torchdiffeq's options.

    Attributes:
        problem: What is integrated.
        method: The embedded pair.
        controller, limits, stops: Of the loop.

    """

    problem: Problem
    method: Method
    controller: Controller
    limits: Limits
    stops: tuple[float, ...]

    def solve(self) -> Tensor:
        """States at the times asked for, [T, 1, n].

        Raises:
            IntegrationError, NotFiniteError: It did not arrive.

        """
        return self.run(self.problem.times[None]).x

    def until(self, event: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, Tensor]:
        """The time at which a function of (t, row) that is positive at the start is no longer, and the row there."""
        problem = self.problem

        def height(x: Tensor, t: Tensor) -> Tensor:
            return event(t[0], x).reshape(1)

        times = np.array([[problem.times[0], problem.direction * math.inf]])
        solution = self.run(times, events=(Event(height, direction=-1),))
        return float(solution.t[0]), solution.final

    @torch.no_grad()
    def run(self, times: np.ndarray, events: Sequence[Event] = ()) -> Solution:
        """Integrate, and raise if that failed."""
        problem = self.problem
        x = problem.x0.detach()
        norm = "rms" if problem.plain else problem.size
        live = Live(
            TimeFirst(problem, self.stops),
            tolerance(problem.rtol, problem.atol, norm, x),
            np.arange(1),
            x,
            times[:, 0].copy(),
        )
        run = Run(self.method, live, times, self.controller, self.limits, stops=self.stops, events=events)
        solution = run.solve()
        if not solution.success.all():
            error = solution.failure(float(run.least_step(solution.t)[0]), self.limits.max_steps)
            assert error is not None  # not a success
            error.x = problem.layout.unpack(solution.final)
            raise error
        return solution


def adaptive_run(problem: Problem, method: str, options: Mapping[str, Any]) -> AdaptiveRun:
    """A run from torchdiffeq's options.

    Raises:
        ArgumentError: An option out of its range.

    """
    given = known_options(options, OPTIONS, method)
    least, most = number(given, "min_step"), number(given, "max_step")
    if not most > 0 or least > most:
        raise ArgumentError(
            "options['max_step']", got=most, expected=f"a positive length, at least min_step, {least:g}"
        )
    first = None if given["first_step"] is None else number(given, "first_step")
    if first == 0:
        raise ArgumentError("options['first_step']", got=0.0, expected="a positive length")
    attempts = int(number(given, "max_num_steps", 1))
    dtype = given["dtype"]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ArgumentError("options['dtype']", got=dtype, expected="a floating-point dtype of times")
    controller = Controller(
        safety=number(given, "safety", 0.01, 1.0),
        max_factor=number(given, "ifactor", 1.0, 1e6),
        min_factor=number(given, "dfactor", 1e-6, 1 - 1e-6),
    )
    limits = Limits(
        first_step=None if first is None else min(max(first, least), most),
        min_step=least or None,
        max_step=most,
        max_steps=min(attempts * max(1, len(problem.times) - 1), 2**62),
        accept_at_min_step=least > 0,
    )
    stops = tuple(time for name in ("step_t", "jump_t") for time in stop_times(given[name], name))
    steps: Method = ExplicitMethod(pair(method))
    if problem.callbacks:
        steps = ToldMethod(steps, problem, least)
    return AdaptiveRun(problem, steps, controller, limits, stops)


def stop_times(given: object, name: str) -> list[float]:
    """Times of an option as numbers.

    Raises:
        ArgumentError: Not a list of finite times.

    """
    if given is None:
        return []
    times = torch.as_tensor(given).detach().to(torch.float64).cpu()
    if times.ndim != 1 or not bool(times.isfinite().all()):
        raise ArgumentError(f"options[{name!r}]", got=given, expected="finite times, in one dimension")
    return times.tolist()
