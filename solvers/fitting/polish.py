"""Times and coefficients of all steps together, for the end of the run alone: Gauss-Newton from forward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import kernels
from ...errors import NotFiniteError
from ...kernels.gram import MAX_TENSORS
from ..pilot import root_mean_square
from ..plan import Channelwise, Coefficient
from .formula import Formula, Run, run_all, squared_errors
from .regression import Normal, better, losses, ridge_solution, trust
from .starts import Starts

PROBE = 3e-3  # relative change of a state for a derivative: far above float32's rounding, far below its curvature
TIME_PROBE = 0.02  # of the shorter of two gaps
DAMPING, LARGEST_DAMPING = 1e-2, 1e3  # of the first iteration; where a search ends
CLOSEST = 0.05  # a gap shrinks to no less of its length in one iteration
LEAST_GAIN = 0.01  # relative, of an iteration; below it the search ends


@dataclass(frozen=True)
class Place:
    """One free number: the time of a step (``column`` None), or a coefficient, of one channel or of all."""

    step: int
    column: int | None
    channel: int | None = None


def polish(formula: Formula, groups: Sequence[Starts], iterations: int, power: float = 2.0) -> Formula:
    r"""The formula near this one whose runs end nearest to the exact samples.

    .. math:: \min_p \sum_i |y_{N,i}(p) - x_i^*|^q, \quad p = (t_1, \dots, t_{N-1}, a, w)

    by damped Gauss-Newton steps (Levenberg-Marquardt), reweighted for q < 2. Where :func:`fit_steps` asks every state
    to be near the trajectory, here only the last is asked, and the times move too. Derivatives are differences of runs:
    a number of step n changes nothing before it, so its derivative costs the evaluations after it, N - n, and the
    coefficients of the last step none; about N^3 / 6 evaluations an iteration, where all outputs are read. No gradient
    of the network is needed.

    Args:
        formula: Where it begins.
        groups: The starts.
        iterations: At most.
        power: q.

    Source:
        Levenberg 1944, Q. Appl. Math. 2(2); Holland & Welsch 1977 (reweighting).
    """
    places = places_of(formula)
    runs = run_all(formula, groups)
    squares = squared_errors(runs)
    damping = DAMPING
    for _ in range(iterations):
        normal = Normal.joined([derivatives(formula, run, places) for run in runs])
        weights = trust(normal.squares, power)
        matrix, pull = torch.einsum("b,bij->ij", weights, normal.products), weights @ normal.pulls
        gained = None
        while gained is None and damping <= LARGEST_DAMPING:
            moved = changed(formula, places, ridge_solution(matrix, pull, damping).tolist())
            gained = better_runs(moved, groups, squares, power)
            damping *= 0.25 if gained else 6
        if gained is None:
            break
        formula, runs, new = gained
        now, before = losses([new, squares], power)
        squares = new
        if now > before * (1 - LEAST_GAIN):
            break
    return formula


def better_runs(
    formula: Formula | None, groups: Sequence[Starts], squares: Tensor, power: float
) -> tuple[Formula, list[Run], Tensor] | None:
    """The formula with its runs and its squared errors, if these are smaller."""
    if formula is None:
        return None
    try:
        runs = run_all(formula, groups)
    except NotFiniteError:
        return None
    found = squared_errors(runs)
    return (formula, runs, found) if better(found, squares, power) else None


def places_of(formula: Formula) -> list[Place]:
    """Every free number; the first time and the last are given."""
    channels, places = formula.family.channels, list[Place]()
    for step, row in enumerate(formula.rows):
        places += [Place(step, None)] if step else []
        each = [None] if channels is None else range(channels)
        places += [Place(step, column, channel) for column in range(len(row)) for channel in each]
    return places


def changed(formula: Formula, places: Sequence[Place], change: Sequence[float]) -> Formula | None:
    """The formula with these changes of its numbers; None if its times were no grid, or gaps as good as vanished."""
    times, rows = list(formula.times), [list(row) for row in formula.rows]
    for place, by in zip(places, change, strict=True):
        if not math.isfinite(by):
            return None
        if place.column is None:
            times[place.step] += by
        else:
            rows[place.step][place.column] += in_channel(formula, place, by)
    for n in range(len(rows)):
        if times[n + 1] - times[n] < CLOSEST * (formula.times[n + 1] - formula.times[n]):
            return None
    return Formula(formula.family, tuple(times), tuple(map(tuple, rows)))


def in_channel(formula: Formula, place: Place, by: float) -> Coefficient:
    """A number for all, or for one channel and 0 for the others."""
    if place.channel is None:
        return by
    return Channelwise([by if c == place.channel else 0.0 for c in range(formula.family.channels or 0)])


def derivatives(formula: Formula, run: Run, places: Sequence[Place]) -> Normal:
    """The normal equations of the end of a run, in all free numbers."""
    return gram_of_many([derivative(formula, run, place) for place in places], run.left)


def derivative(formula: Formula, run: Run, place: Place) -> Tensor:
    """Of the last state by one number: a difference of runs."""
    if place.column is None:
        before, t, after = formula.times[place.step - 1 : place.step + 2]
        size = TIME_PROBE * min(t - before, after - t)
        times = (*formula.times[: place.step], t + size, *formula.times[place.step + 1 :])
        other = run.at(place.step).finish(Formula(formula.family, times, formula.rows))
        return (other.states[-1] - run.states[-1]) / size
    column = run.columns_of(place.step)[place.column]
    if place.channel is not None:
        whole, column = column, torch.zeros_like(column)
        column[:, place.channel] = whole[:, place.channel]
    if place.step + 1 == len(formula.rows):
        return column
    end, tiny = run.states[place.step + 1], torch.finfo(column.dtype).tiny
    size = PROBE * root_mean_square(end) / max(root_mean_square(column), tiny)
    (state,) = kernels.combine([end, column], [[1.0, size]])
    other = run.at(place.step + 1, state).finish(formula)
    return (other.states[-1] - run.states[-1]) / size


def gram_of_many(columns: Sequence[Tensor], error: Tensor) -> Normal:
    """The normal equations of any number of columns: inner products of blocks that one pass reads."""
    tensors = [*columns, error.to(columns[0].dtype)]
    width = MAX_TENSORS // 2
    blocks = [list(range(i, min(i + width, len(tensors)))) for i in range(0, len(tensors), width)]
    products = torch.empty(len(error), len(tensors), len(tensors), dtype=torch.float64)
    for pair in itertools.combinations(blocks, 2) if len(blocks) > 1 else [blocks]:
        some = torch.tensor([i for block in pair for i in block])
        products[:, some[:, None], some] = kernels.gram([tensors[i] for i in some.tolist()]).products.cpu()
    return Normal.cut(products)
