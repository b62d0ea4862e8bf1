"""Plans that a search runs beside the sampler's own: in another number of steps, or over a part of the time."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from ... import kernels
from ...errors import ArgumentError
from ...models import BranchWeights, Interpolant, Prediction
from ..grids import grid
from ..lowered import lowered_plan
from ..particles import Particles
from ..plan import Plan
from ..solver import FixedGridSolver
from .task import Task


@lru_cache(maxsize=256)
def optimised_plan(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    path: Interpolant,
    prediction: Prediction,
    guidance: BranchWeights | None,
) -> Plan:
    """What :func:`..lowered.lowered_plan` writes, optimised; kept too, as searches solve many times."""
    return lowered_plan(solver, times, path, prediction, guidance).optimise()


def whole_plan(task: Task, steps: int | None) -> Plan:
    """The task's sampler from noise to data in another number of steps; None for its own.

    Raises:
        GridError: The task's grid is a sequence of times, and has another number of steps.
    """
    if steps is None or steps == task.plan.steps:
        return task.plan
    times = grid(task.schedule, steps, task.path)
    return optimised_plan(task.solver, times, task.path, task.model.prediction, task.guidance)


def part_plan(task: Task, start: float, end: float, steps: int) -> Plan:
    r"""The task's solver between two times of its path, on its grid moved there.

    .. math:: t_i = a + (b - a) \frac{g_i - g_0}{g_n - g_0}

    Raises:
        ArgumentError: The solver is made for one grid, from its beginning to its end.
    """
    if task.solver.times_on(task.path) is not None:
        expected = "one for any grid: this method solves parts of the time by themselves"
        raise ArgumentError("solver", got=str(task.solver), expected=expected)
    shape = grid(task.schedule, steps, task.path)
    share = [(g - shape[0]) / (shape[-1] - shape[0]) for g in shape]
    times = (start, *(start + (end - start) * s for s in share[1:-1]), end)
    return optimised_plan(task.solver, times, task.path, task.model.prediction, task.guidance)


def start_of(task: Task, noise: Particles, other: Plan) -> Particles:
    """Noise of the task's first time as noise of another plan's: some grids begin elsewhere with other steps."""
    sigma = task.model.interpolant.sigma
    here, there = task.plan.grid[0], other.grid[0]
    if here == there:
        return noise
    return dataclasses.replace(noise, x=kernels.combine([noise.x], [sigma(there) / sigma(here)]))
