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
from ...adaptive.control import Limits
from ...adaptive.controller import Controller
from ...adaptive.events import Event
from ...adaptive.loop import Run
from ...adaptive.method import Live
from ...adaptive.pairs import Pair, pair
from ...adaptive.solution import Solution
from ...adaptive.tolerance import tolerance
from .attempts import Course, OneState, TimeFirst
from .moving import along_flow
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


@dataclass(frozen=True)
class AdaptiveRun:
    """A run of an adaptive method, from torchdiffeq's options.

    Attributes:
        problem: What is integrated.
        pair: The method.
        controller, limits, stops: Of the loop.

    """

    problem: Problem
    pair: Pair
    controller: Controller
    limits: Limits
    stops: tuple[float, ...]

    def solve(self) -> Tensor:
        """States at the times asked for, [T, 1, n].

        Raises:
            IntegrationError, NotFiniteError: It did not arrive.

        """
        problem = self.problem
        first = problem.x0[None]
        if len(problem.times) == 1:
            return first
        _, method = self.run(problem.times[None, [0, -1]], problem.times[1:])
        rows = torch.stack(method.states)
        if torch.is_grad_enabled() and problem.t.requires_grad:
            rows = along_flow(problem, rows, problem.t[1:])
        return torch.cat([first, rows])

    def until(self, event: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, Tensor]:
        """The time at which a function of (t, row) that is positive at the start is no longer, and the row there."""
        problem = self.problem

        def height(x: Tensor, t: Tensor) -> Tensor:
            return event(t[0], x).reshape(1)

        times = np.array([[problem.times[0], problem.direction * math.inf]])
        solution, method = self.run(times, times[0, :0], events=(Event(height, direction=-1),))
        time = float(solution.t[0])
        return time, method.state_at(time)

    def run(self, times: np.ndarray, asked: np.ndarray, events: Sequence[Event] = ()) -> tuple[Solution, OneState]:
        """Integrate, and raise if that failed; the method has the states at the times asked for."""
        problem, limits, records = self.problem, self.limits, torch.is_grad_enabled()
        x, t = problem.x0, problem.t[:1]
        if records and t.requires_grad:
            x = along_flow(problem, x[None], t, backwards=True)[0]
        field = TimeFirst(problem, self.stops, Course(x, x, x.data_ptr()), records)
        method = OneState(self.pair, field, asked, may_accept_any=limits.accept_at_min_step)
        with torch.no_grad():
            start = x.detach()  # at the same address
            sizes = tolerance(problem.rtol, problem.atol, "rms" if problem.plain else problem.size, start)
            live = Live(field, sizes, np.arange(1), start, times[:, 0].copy())
            options = {"stops": self.stops, "events": events, "recorder": method}
            solution = Run(method, live, times, self.controller, limits, **options).solve()
        if not solution.success.all():
            error = solution.failure(float(limits.least(solution.t)[0]), limits.max_steps)
            assert error is not None  # not a success
            error.x = problem.layout.unpack(solution.final)
            raise error
        return solution, method


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
    return AdaptiveRun(problem, pair(method), controller, limits, stops)


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
