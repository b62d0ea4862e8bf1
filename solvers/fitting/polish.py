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
from .regression import FLOOR, Normal, better, losses, ridge_solution, trust
from .starts import Starts

PROBE = 3e-3  # relative change of a state for a derivative: far above float32's rounding, far below its curvature
TIME_PROBE = 0.02  # of the shorter of two gaps
DAMPING, LARGEST_DAMPING = 1e-2, 1e3  # of the first trial; where a search ends
LESS, MORE = 0.25, 6.0  # of the damping, after a trial that gained and one that did not
CLOSEST = 0.05  # a gap shrinks to no less of its length in one trial
TRIALS = 8  # at most, before derivatives are made anew
LEAST_GAIN = 0.01  # relative, of a trial; below it derivatives are made anew
WORTHWHILE = 0.1  # relative, of all trials with the same derivatives; below it the search ends


@dataclass(frozen=True)
class Place:
    """One free number: the time of a step (``column`` None), or a coefficient, of one channel or of all."""

    step: int
    column: int | None
    channel: int | None = None


def polish(formula: Formula, groups: Sequence[Starts], iterations: int, power: float = 2.0, rows: int = 64) -> Formula:
    r"""The formula near this one whose runs end nearest to the exact samples.

    .. math:: \min_p \sum_i |y_{N,i}(p) - x_i^*|^q, \quad p = (t_1, \dots, t_{N-1}, a, w)

    by damped Gauss-Newton steps (Levenberg-Marquardt), reweighted for q < 2. Where :func:`fit_steps` asks every state
    to be near the trajectory, here only the last is asked, and the times move too. Derivatives are differences of runs:
    a number of step n changes nothing before it, so its derivative costs the evaluations after it, N - n, and the
    coefficients of the last step none; about N^3 / 6 evaluations, where all outputs are read, for a few of the starts
    (:func:`drawn`). Between, each run that is tried tells of them what it can (:class:`Slopes`), at N evaluations. No
    gradient of the network is needed.

    Args:
        formula: Where it begins.
        groups: The starts.
        iterations: How often derivatives are made, at most.
        power: q.
        rows: Starts that they are made for.

    Source:
        Levenberg 1944, Q. Appl. Math. 2(2); Holland & Welsch 1977 (reweighting); Broyden 1965 (secants).
    """
    runs = run_all(formula, groups)
    squares, damping = squared_errors(runs), DAMPING
    for _ in range(iterations):
        slopes, began = Slopes(formula, runs, squares, power, rows), squares
        for _ in range(TRIALS):
            change = slopes.change(damping)
            trial = run_of(changed(formula, slopes.places, change), groups)
            if trial is not None:
                slopes.learn(change, trial[1])
            if trial is None or not better(trial[2], squares, power):
                damping *= MORE
                if damping > LARGEST_DAMPING:
                    break
                continue
            before, (formula, runs, squares) = squares, trial
            damping *= LESS
            slopes.stand(runs, squares)
            if gain(squares, before, power) < LEAST_GAIN:
                break
        if gain(squares, began, power) < WORTHWHILE:
            break
    return formula


def run_of(formula: Formula | None, groups: Sequence[Starts]) -> tuple[Formula, list[Run], Tensor] | None:
    """The formula with its runs and its squared errors; None if it cannot run."""
    if formula is None:
        return None
    try:
        runs = run_all(formula, groups)
    except NotFiniteError:
        return None
    return formula, runs, squared_errors(runs)


def gain(new: Tensor, old: Tensor, power: float) -> float:
    """By what share errors with these squares are smaller."""
    now, before = losses([new, old], power)
    return 1 - now / before if before else 0.0


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


class Slopes:
    r"""Derivatives of the ends of some runs by all free numbers, J_i, and what later runs tell of them.

    A change p of the numbers moves the end of run i by d_i. What of it was not foreseen is shared out,

    .. math:: J_{ik} \leftarrow J_{ik} + (d_i - J_i p)\, S_k p_k / \textstyle\sum_l S_l p_l^2,

    with :math:`S_k = \sum_i |J_{ik}|^2`, by the least change of J, relative to its columns' lengths, that would have
    foreseen it.

    Args:
        formula: Where the derivatives are taken.
        runs, squares: Its runs, and their squared errors.
        power: Of the errors that are minimised.
        rows: How many runs to know.

    Source:
        Broyden 1965, Math. Comp. 19, equation 4.5.
    """

    def __init__(self, formula: Formula, runs: Sequence[Run], squares: Tensor, power: float, rows: int) -> None:
        self.places, self.power = places_of(formula), power
        self.products: Normal | None = None
        self.chosen, self.weights = drawn((squares + FLOOR**2 * squares.median()) ** (power / 4), rows)
        parts = [part_of(run, some) for run, some in zip(runs, self.split(runs), strict=True) if len(some)]
        self.columns = [[derivative(formula, part, place).clone() for place in self.places] for part in parts]
        self.stand(runs, squares)

    def split(self, runs: Sequence[Run]) -> list[Tensor]:
        """The chosen rows of each run."""
        bounds = list(itertools.accumulate((len(run.states[-1]) for run in runs), initial=0))
        pairs = itertools.pairwise(bounds)
        return [self.chosen[(self.chosen >= first) & (self.chosen < last)] - first for first, last in pairs]

    def ends(self, runs: Sequence[Run]) -> list[tuple[Tensor, Tensor]]:
        """Where the chosen runs end, and what they lack."""
        pairs = [(run, some.to(run.states[-1].device)) for run, some in zip(runs, self.split(runs), strict=True)]
        return [(run.states[-1][some], run.left[some]) for run, some in pairs if len(some)]

    def stand(self, runs: Sequence[Run], squares: Tensor) -> None:
        """Take these runs as the ones that changes begin from."""
        self.now = self.ends(runs)
        self.trust = trust(squares, self.power)[self.chosen] * self.weights
        self.products = None

    def normal(self) -> Normal:
        """The normal equations of the errors as they are now."""
        if self.products is None:
            parts = [gram_of_many(own, left) for own, (_, left) in zip(self.columns, self.now, strict=True)]
            self.products = Normal.joined(parts)
        return self.products

    def change(self, damping: float) -> list[float]:
        """Of all free numbers: what would leave least of the errors, were the ends linear in them."""
        normal = self.normal()
        matrix = torch.einsum("b,bij->ij", self.trust, normal.products)
        return ridge_solution(matrix, self.trust @ normal.pulls, damping).tolist()

    def learn(self, change: Sequence[float], runs: Sequence[Run]) -> None:
        """From the runs that a change led to."""
        numbers = torch.tensor(change, dtype=torch.float64)
        lengths = self.normal().products.diagonal(dim1=1, dim2=2).sum(0)
        shares = lengths * numbers / (lengths * numbers.square()).sum()
        for own, (end, _), (before, _) in zip(self.columns, self.ends(runs), self.now, strict=True):
            missed = end - before
            for column, by in zip(own, change, strict=True):
                missed.sub_(column, alpha=by)
            for column, share in zip(own, shares.tolist(), strict=True):
                column.add_(missed, alpha=share)
        self.products = None


def part_of(run: Run, rows: Tensor) -> Run:
    """The run of some of its starts, without asking the network again; the very one, if these are all."""
    if len(rows) == len(run.states[-1]):
        return run
    rows = rows.to(run.states[-1].device)
    part = Run(run.starts.rows(rows), run.family)
    part.states, part.velocities, part.outputs = (
        [tensor[rows] for tensor in known] for known in (run.states, run.velocities, run.outputs)
    )
    return part


def drawn(sizes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Some rows, with a probability in proportion to size, and weights that make sums over them the whole's.

    The large ones are all there: rows that end far from where they should decide a mean square, and are few. Sampling
    is systematic, without a random number.

    Returns:
        Rows, increasing, and one over their probabilities.

    Source:
        Madow 1949, Ann. Math. Stat. 20(3); Hansen & Hurwitz 1943 (probabilities by size).
    """
    if count >= len(sizes):
        return torch.arange(len(sizes)), torch.ones_like(sizes)
    chance, certain = sizes * (count / sizes.sum()), torch.zeros(len(sizes), dtype=torch.bool)
    while bool((chance[~certain] > 1).any()):
        certain |= chance >= 1
        chance = torch.where(certain, 1.0, sizes * ((count - certain.sum()) / sizes[~certain].sum()))
    places = torch.arange(count, dtype=sizes.dtype) + 0.5
    rows = torch.searchsorted(chance.cumsum(0), places).clamp_max(len(sizes) - 1).unique()
    return rows, 1 / chance[rows]


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
