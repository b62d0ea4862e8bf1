"""Runs of fixed-step methods: their grids, states at the times asked for, and events."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import ArgumentError, GridError, IntegrationError, UnknownNameError
from .problem import Problem, Time, known_options, number
from .stepping import TABLEAUS, AdamsStepper, RungeKuttaStepper, Step, Stepper

ADAMS = {"explicit_adams": False, "implicit_adams": True, "fixed_adams": True}  # by whether they correct
OPTIONS: dict[str, Any] = {
    "step_size": None,
    "grid_constructor": None,
    "interp": "linear",
    "perturb": False,
    "norm": None,
}
ADAMS_OPTIONS: dict[str, Any] = OPTIONS | {"max_order": 12, "max_iters": 4}
ULPS = 4
MOST_STEPS_TO_EVENT = 20_000


@dataclass
class FixedRun:
    """A run of a fixed-step method.

    Attributes:
        problem: What is integrated.
        stepper: The method.
        interp: "linear" or "cubic": what is between the ends of a step.
        step_size: Length of the steps, if it was given.
        grid_constructor: Function of (func, y0, t) that returns the ends of the steps, or None.

    """

    problem: Problem
    stepper: Stepper
    interp: str
    step_size: float | None
    grid_constructor: Callable[..., Tensor] | None

    # --- times ---------------------------------------------------------------------------------------------------

    def grid(self) -> Tensor:
        """Ends of the steps, [N], from the first time to the last."""
        t, size = self.problem.t, self.step_size
        if size is not None:
            count = math.ceil(float((abs(t[-1] - t[0]) / size + 1).detach()))
            signed = self.problem.direction * size
            inner = torch.arange(0, count, dtype=t.dtype, device=t.device) * signed + t[0]
            return torch.cat([inner[:-1], t[-1:]])
        if self.grid_constructor is None:
            return t
        start = self.problem.layout.unpack(self.problem.x0)
        grid = self.grid_constructor(self.problem.func, start, t)
        if not isinstance(grid, Tensor) or grid.ndim != 1 or len(grid) < 1:
            got = list(grid.shape) if isinstance(grid, Tensor) else type(grid).__name__
            raise GridError("options['grid_constructor']", got=got, expected="a tensor [N] of times")
        ends = grid.detach()[[0, -1]].to(t)
        if not torch.equal(ends, t.detach()[[0, -1]]):
            got, expected = ends.tolist(), t.detach()[[0, -1]].tolist()
            raise GridError("options['grid_constructor']", got=got, expected=f"times from t[0] to t[-1], {expected}")
        if bool((torch.diff(grid.detach()) * self.problem.direction < 0).any()):
            raise GridError("options['grid_constructor']", got="times that turn back", expected="monotone times")
        return grid

    def steps(self) -> Iterator[Step]:
        """The steps of the grid; an end within rounding of the next is none, as where a grid meets the last time."""
        grid = self.grid()
        numbers = grid.detach().to(torch.float64).tolist()
        times: list[Time] = list(grid.unbind()) if grid.requires_grad else numbers
        rounding = ULPS * torch.finfo(grid.dtype).eps * max(map(abs, numbers))
        ends = [
            i for i in range(len(numbers)) if i in (0, len(numbers) - 1) or abs(numbers[i + 1] - numbers[i]) > rounding
        ]
        for i, j in itertools.pairwise(ends):
            yield Step(times[i], times[j], times[j] - times[i], numbers[i], numbers[j])

    # --- runs ----------------------------------------------------------------------------------------------------

    def solve(self) -> Tensor:
        """States at the times asked for, [T, 1, n]."""
        problem, x, slope = self.problem, self.problem.x0, None
        way, asked, found = problem.direction, problem.times, [problem.x0]
        moves = self.interp == "cubic" and problem.t.requires_grad  # an output moves along its slope, at an end as well
        for step in self.steps() if len(asked) > 1 else ():
            problem.tell("callback_step", step.t0, x, step.h)
            new, first = self.stepper.step(x, step, slope)
            slope = None
            while len(found) < len(asked) and way * asked[len(found)] <= way * step.stop:
                if asked[len(found)] == step.stop and not moves:
                    found.append(new)
                    continue
                slope = self.slope_at_end(new, step, slope)
                found.append(self.between(step, x, first, new, slope, problem.t[len(found)]))
            slope = self.kept(slope)
            x = new
        return torch.stack(found)

    def slope_at_end(self, new: Tensor, step: Step, known: Tensor | None) -> Tensor | None:
        """The slope that cubic interpolation needs, evaluated once a step; it is the first of the next step."""
        return self.problem.slope(step.t1, new) if known is None and self.interp == "cubic" else known

    def kept(self, slope: Tensor | None) -> Tensor | None:
        """The slope at the end of a step for the next one, unless that starts elsewhere."""
        return None if getattr(self.stepper, "perturb", False) else slope

    def between(self, step: Step, x: Tensor, first: Tensor, new: Tensor, last: Tensor | None, t: Time) -> Tensor:
        """The state within a step: on a line, or on the cubic with the slopes at both ends."""
        share = (t - step.t0) / step.h
        if isinstance(share, Tensor):
            share = share.to(x.dtype)
        if self.interp == "linear":
            return x + share * (new - x)
        assert last is not None  # slope_at_end gave it
        rest, h = 1 - share, step.h.to(x.dtype) if isinstance(step.h, Tensor) else step.h
        value = (1 + 2 * share) * rest * rest * x + share * share * (3 - 2 * share) * new
        return value + share * rest * h * (rest * first - share * last)

    def until(self, event: Callable[[Time, Tensor], Tensor]) -> tuple[float, Tensor]:
        """The time at which a function of (t, row) that is positive at the start is no longer, and the row there."""
        if self.step_size is None:
            expected = "options={'step_size': ...}: events end the run, so t gives no grid"
            raise ArgumentError("options", got="no step_size, with event_fn", expected=expected)
        from scipy.optimize import brentq  # here, as it takes a third of a second to import

        problem, x, h = self.problem, self.problem.x0, self.problem.direction * self.step_size
        t, slope = problem.times[0].item(), None
        origin: Time = problem.t[0] if problem.t.requires_grad else t
        for taken in range(1, MOST_STEPS_TO_EVENT + 1):
            step = Step(origin + (t - problem.times[0]), origin + (t + h - problem.times[0]), h, t, t + h)
            new, first = self.stepper.step(x, step, slope)
            if float(event(step.t1, new).detach()) <= 0:
                last = self.slope_at_end(new, step, None)

                def at(share: float, step: Step = step, x: Tensor = x, first: Tensor = first) -> tuple[float, Tensor]:
                    when = step.start + share * h
                    return when, self.between(step, x, first, new, last, when)  # noqa: B023

                def height(share: float) -> float:
                    with torch.no_grad():
                        return float(event(*at(share)))

                share: Any = brentq(height, 0.0, 1.0, xtol=1e-15, rtol=np.float64(1e-15)) if height(1.0) < 0 else 1.0
                return at(float(share))
            t, x, slope = problem.times[0].item() + taken * h, new, None
        raise IntegrationError(
            f"event_fn within {MOST_STEPS_TO_EVENT} steps of {self.step_size:g} from t = {problem.times[0]:g}",
            got="no zero",
            expected="one",
        )


def fixed_run(problem: Problem, method: str, options: Mapping[str, Any]) -> FixedRun:
    """A run from torchdiffeq's options.

    Raises:
        ArgumentError, UnknownNameError: An option out of its range, or ``step_size`` beside ``grid_constructor``.

    """
    given = known_options(options, ADAMS_OPTIONS if method in ADAMS else OPTIONS, method)
    size = given["step_size"]
    if size is not None:
        if given["grid_constructor"] is not None:
            expected = "one of step_size and grid_constructor"
            raise ArgumentError("options", got="both step_size and grid_constructor", expected=expected)
        size = number(given, "step_size")
        if not 0 < size < math.inf:
            raise ArgumentError("options['step_size']", got=size, expected="a positive length")
    if given["interp"] not in ("linear", "cubic"):
        raise UnknownNameError("options['interp']", got=repr(given["interp"]), expected="'linear' or 'cubic'")
    perturb = bool(given["perturb"])
    if method in ADAMS:
        order, iterations = number(given, "max_order", 1, 12), number(given, "max_iters", 1)
        stepper: Stepper = AdamsStepper(problem, ADAMS[method], int(order), int(iterations), perturb)
    else:
        stepper = RungeKuttaStepper(problem, TABLEAUS[method], perturb)
    return FixedRun(problem, stepper, given["interp"], size, given["grid_constructor"])
