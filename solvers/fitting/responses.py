"""What a solver's run is made of: each state as a combination of the first one and of the outputs so far."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError
from ...models import Interpolant
from ...models import prediction as make_prediction
from ..plan.instructions import Combine, Evaluate
from ..solver import FixedGridSolver, plan

Array = NDArray[np.float64]


def base_coefficients(solver: FixedGridSolver, times: tuple[float, ...], path: Interpolant) -> tuple[Array, ...]:
    r"""A solver's steps in the coordinates of the fit.

    In :math:`y = x / (\alpha + \sigma)` and the velocities u of the linear path, every formula with one evaluation a
    step is :math:`y_{n+1} = a_n y_n + \sum_{j \le n} b_{nj} u_j`, read off the solver's own plan, whatever it is
    written in. A constant y with u = 0 solves the equation, so a = 1 for formulas that are exact there: the exponential
    ones on any path, and all consistent ones on the linear path.

    Args:
        solver: The formula.
        times: Its grid, on ``path``.
        path: Where it is planned.

    Returns:
        For each step the numbers (a, b_n, b_{n-1}, ..., b_0).

    Raises:
        ArgumentError: It draws noise, or evaluates other than once a step, at its beginning.
    """
    prediction = make_prediction("velocity", "linear").on(path)
    program = plan(solver, times, path, prediction=prediction).lower(prediction)
    expected = "a solver with one evaluation a step, at its beginning, and no noise"
    if program.stochastic or [e.time for e in program.evaluations] != list(times[:-1]):
        raise ArgumentError("base", got=f"{solver}, {program.nfe} NFE in {program.steps} steps", expected=expected)
    size = program.steps + 1
    values: dict[int, Array] = {program.start: np.eye(size)[0] * sum_of(path, times[0])}
    states = list[Array]()
    for instruction in program.instructions:
        match instruction:
            case Evaluate():
                states.append(values[instruction.input])  # scaled for a network of the linear path: y
                values[instruction.outs[0]] = np.eye(size)[len(states)]
            case Combine():
                for out, row in zip(instruction.outs, instruction.matrix, strict=True):
                    values[out] = np.array(row) @ np.array([values[r] for r in instruction.inputs])
    states.append(values[program.result] / sum_of(path, times[-1]))
    rows = []
    for n, (state, new) in enumerate(itertools.pairwise(states)):
        scale = new[0] / state[0]
        rows.append(np.array([scale, *(new - scale * state)[n + 1 : 0 : -1]]))
    return tuple(rows)


def sum_of(path: Interpolant, t: float) -> float:
    """Alpha + sigma."""
    alpha, sigma, *_ = path(t)
    return alpha + sigma
