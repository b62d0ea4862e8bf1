"""Times and coefficients of all steps together, for the end of the run alone: Gauss-Newton from forward passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ... import kernels
from ...errors import NotFiniteError
from ...kernels.gram import MAX_TENSORS
from ..by_channel import combine_by_channel
from ..pilot import root_mean_square
from ..plan import Channelwise, Coefficient
from .formula import Formula, Run, errors_of, run_all, squared_errors
from .regression import Normal, better, floor_of, losses, mean_power, ridge_solution, trust
from .starts import Groups, Starts

PROBE = 3e-3  # relative change of a state for a derivative: far above float32's rounding, far below its curvature
TIME_PROBE = 0.02  # of the shorter of two gaps
DAMPING, LARGEST_DAMPING = 1e-2, 1e3  # of the first trial; where a search ends
LESS, MORE = 0.25, 6.0  # of the damping, after a trial that gained and one that did not
CLOSEST = 0.05  # a gap shrinks to no less of its length in one trial
TRIALS = 8  # at most, before derivatives are made anew
LEAST_GAIN = 0.01  # relative, of a trial; below it the search with these derivatives ends
SMALLEST = torch.finfo(torch.float64).tiny
WORTHWHILE, PATIENCE = 0.02, 2  # relative gain with one set of derivatives; so often below it, and the search ends
GOLDEN = (math.sqrt(5) - 1) / 2  # sets of starts are shifted by this fraction: no two are alike


@dataclass(frozen=True)
class Place:
    """One free number: the time at which a step asks (``column`` None), or a coefficient, of one channel or of all."""

    step: int
    column: int | None
    channel: int | None = None


def polish(
    formula: Formula, groups: Groups, iterations: int, power: float = 2.0, rows: int = 64
) -> tuple[Formula, Tensor]:
    r"""The formula near this one whose runs end nearest to the exact samples.

    .. math:: \min_p \sum_i |y_{N,i}(p) - x_i^*|^q, \quad p = (t_1, \dots, t_{N-1}, a, w)

    by damped Gauss-Newton steps (Levenberg-Marquardt), reweighted for q < 2. Where :func:`fit_steps` asks every state
    to be near the trajectory, here only the last is asked, and the times move too. Derivatives are differences of runs:
    a number of step n changes nothing before it, so its derivative costs the evaluations after it, N - n, and the
    coefficients of the last step none; about N^3 / 6 evaluations, where all outputs are read. No gradient of the
    network is needed.

    That is done for a few of the starts, drawn anew each time (:func:`drawn`), with steps for as long as they gain
    there (:func:`refined`). Whether the result stays is decided by all fitted starts, and the judging ones choose
    between what stayed.

    Args:
        formula: Where it begins.
        groups: The starts.
        iterations: How often derivatives are made, at most.
        power: q.
        rows: Starts that they are made for.

    Returns:
        The formula, and the squared errors [B] of the judging starts with it.

    Source:
        Levenberg 1944, Q. Appl. Math. 2(2); Holland & Welsch 1977 (reweighting); Broyden 1965 (secants).
    """
    here, damping, vain = Tried.of(formula, groups.fitted), DAMPING, 0
    best, least = formula, errors_of(formula, groups.judging)
    for n in range(iterations):
        some = Sample.drawn(here, power, rows, 0.5 + n * GOLDEN)
        found, damping = refined(some, damping)
        trial = found if some.whole else run_of(found.formula, groups.fitted)
        won = gain(trial.squares, here.squares, power) if trial else 0.0
        if trial and won > 0:
            here, judged = trial, errors_of(trial.formula, groups.judging)
            if better(judged, least, power):
                best, least = here.formula, judged
        vain = 0 if won >= WORTHWHILE else vain + 1
        if vain == (1 if some.whole else PATIENCE):
            break
    return best, least


def refined(some: Sample, damping: float) -> tuple[Tried, float]:
    """The best formula for these runs that derivatives at the first one lead to, and the damping that it took.

    Each run that is tried tells of the derivatives what it can (:class:`Slopes`), at N evaluations.
    """
    here, slopes = some.here, Slopes(some)
    for _ in range(TRIALS):
        change = slopes.change(damping)
        trial = run_of(changed(here.formula, slopes.places, change), some.groups)
        if trial is not None:
            slopes.learn(change, trial.runs)
        won = -1.0 if trial is None else 1 - some.loss(trial.squares) / max(some.loss(here.squares), SMALLEST)
        if trial is None or won <= 0:
            damping *= MORE
            if damping > LARGEST_DAMPING:
                break
            continue
        here = trial
        damping *= LESS
        slopes.stand(here)
        if won < LEAST_GAIN:
            break
    return here, min(damping, DAMPING)


@dataclass(frozen=True)
class Tried:
    """A formula with its runs and their squared errors."""

    formula: Formula
    runs: list[Run]
    squares: Tensor

    @classmethod
    def of(cls, formula: Formula, groups: Sequence[Starts]) -> Tried:
        """Run it."""
        runs = run_all(formula, groups)
        return cls(formula, runs, squared_errors(runs))


def run_of(formula: Formula | None, groups: Sequence[Starts]) -> Tried | None:
    """The formula, run; None if it cannot run."""
    if formula is None:
        return None
    try:
        return Tried.of(formula, groups)
    except NotFiniteError:
        return None


@dataclass(frozen=True)
class Sample:
    """Some of the runs of a formula, which stand for all.

    Attributes:
        here: The formula, and these runs.
        weights: How many of all each stands for.
        floor, power: Squared errors below it count alike, by all of them; and the power that is minimised.
        whole: Whether these are all.
    """

    here: Tried
    weights: Tensor
    floor: float
    power: float
    whole: bool

    @classmethod
    def drawn(cls, of: Tried, power: float, count: int, offset: float) -> Sample:
        """So many, by their errors: see :func:`drawn`."""
        floor = floor_of(of.squares)
        chosen, weights = drawn((of.squares + floor) ** (power / 4), count, offset)
        bounds = list(itertools.accumulate((len(run.states[-1]) for run in of.runs), initial=0))
        rows = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in itertools.pairwise(bounds)]
        runs = [part_of(run, some) for run, some in zip(of.runs, rows, strict=True) if len(some)]
        here = Tried(of.formula, runs, of.squares[chosen])
        return cls(here, weights, floor, power, len(chosen) == len(of.squares))

    @property
    def groups(self) -> list[Starts]:
        """The starts of these runs."""
        return [run.starts for run in self.here.runs]

    def loss(self, squares: Tensor) -> float:
        """What is minimised, of errors with these squares."""
        return mean_power(squares, self.power, self.floor, self.weights)

    def trust(self, squares: Tensor) -> Tensor:
        """Weights by which least squares minimise it."""
        return self.weights * trust(squares, self.power, self.floor)


def gain(new: Tensor, old: Tensor, power: float) -> float:
    """By what share errors with these squares are smaller."""
    now, before = losses([new, old], power)
    return 1 - now / before if before else 0.0


def places_of(formula: Formula) -> list[Place]:
    """Every free number; the first time of the grid and the last are given."""
    channels, places = formula.family.channels, list[Place]()
    for step, row in enumerate(formula.rows):
        places += [Place(step, None)] if step or formula.opening is not None else []
        each = [None] if channels is None else range(channels)
        places += [Place(step, column, channel) for column in range(len(row)) for channel in each]
    return places


def changed(formula: Formula, places: Sequence[Place], change: Sequence[float]) -> Formula | None:
    """The formula with these changes of its numbers; None if its times were no grid, or gaps as good as vanished."""
    times, opening, rows = list(formula.times), formula.opening, [list(row) for row in formula.rows]
    for place, by in zip(places, change, strict=True):
        if not math.isfinite(by):
            return None
        if place.column is not None:
            rows[place.step][place.column] += in_channel(formula, place, by)
        elif place.step or opening is None:
            times[place.step] += by
        else:
            opening = max(opening + by, times[0])
    for n in range(len(rows)):
        if times[n + 1] - times[n] < CLOSEST * (formula.times[n + 1] - formula.times[n]):
            return None
    if opening is not None and times[1] - opening < CLOSEST * (formula.times[1] - times[0]):
        return None
    return replace(formula, rows=tuple(map(tuple, rows))).at(tuple(times), opening)


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
        some: The runs, of a formula at which the derivatives are taken.

    Source:
        Broyden 1965, Math. Comp. 19, equation 4.5.
    """

    def __init__(self, some: Sample) -> None:
        self.some, self.places = some, places_of(some.here.formula)
        self.columns = [[derivative(some.here.formula, run, place).clone() for place in self.places]
                        for run in some.here.runs]  # fmt: skip
        self.stand(some.here)

    def stand(self, here: Tried) -> None:
        """Take these runs as the ones that changes begin from."""
        self.now, self.products = here, None

    def normal(self) -> Normal:
        """The normal equations of the errors as they are now."""
        if self.products is None:
            parts = [gram_of_many(own, run.left) for own, run in zip(self.columns, self.now.runs, strict=True)]
            self.products = Normal.joined(parts)
        return self.products

    def change(self, damping: float) -> list[float]:
        """Of all free numbers: what would leave least of the errors, were the ends linear in them."""
        normal = self.normal()
        trust = self.some.trust(self.now.squares)
        matrix = torch.einsum("b,bij->ij", trust, normal.products)
        return ridge_solution(matrix, trust @ normal.pulls, damping).tolist()

    def learn(self, change: Sequence[float], runs: Sequence[Run]) -> None:
        """From the runs that a change led to."""
        numbers = torch.tensor(change, dtype=torch.float64)
        lengths = self.normal().products.diagonal(dim1=1, dim2=2).sum(0)
        shares = lengths * numbers / (lengths * numbers.square()).sum()
        for own, run, before in zip(self.columns, runs, self.now.runs, strict=True):
            missed = run.states[-1] - before.states[-1]
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


def drawn(sizes: Tensor, count: int, offset: float = 0.5) -> tuple[Tensor, Tensor]:
    """Some rows, with a probability in proportion to size, and weights that make sums over them the whole's.

    The large ones are all there: rows that end far from where they should decide a mean square, and are few. Sampling
    is systematic, without a random number: another offset, of which the fraction counts, draws others.

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
    places = torch.arange(count, dtype=sizes.dtype) + offset % 1
    rows = torch.searchsorted(chance.cumsum(0), places).clamp_max(len(sizes) - 1).unique()
    return rows, 1 / chance[rows]


def derivative(formula: Formula, run: Run, place: Place) -> Tensor:
    """Of the last state by one number: a difference of runs.

    A time takes the coefficients of the steps around it along (:meth:`Formula.at`), so that it is felt but little.
    """
    if place.column is None and not place.step:
        opening = formula.asked(0)[0]
        size = TIME_PROBE * (formula.times[1] - opening)
        other = run.at(0).finish(formula.at(formula.times, opening + size))
        return (other.states[-1] - run.states[-1]) / size
    if place.column is None:
        before, t, after = formula.times[place.step - 1 : place.step + 2]
        size = TIME_PROBE * min(t - before, after - t)
        moved = formula.at((*formula.times[: place.step], t + size, *formula.times[place.step + 1 :]))
        (state,) = combine_by_channel(run.columns_of(place.step - 1), (moved.rows[place.step - 1],))
        other = run.at(place.step, state).finish(moved)
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
