"""Coefficients of one step after the other, each by least squares along the run that the earlier ones make."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray
from torch import Tensor

from ..pilot import Times
from .family import Family, Row
from .formula import Formula, Run, squared_errors
from .regression import RIDGES, Normal, choose, ridge_solution
from .starts import Groups

EXACT = 1e-12  # a ridge that is none


@dataclass(frozen=True)
class Stepwise:
    """What :func:`fit_steps` found.

    Attributes:
        formula: The coefficients.
        judged: Squared errors of the judging starts, [B].
        ridges: The ridge of each step, of channels the strongest; infinity where the base's coefficients stayed.
    """

    formula: Formula
    judged: Tensor
    ridges: tuple[float, ...]


def fit_steps(
    groups: Groups,
    times: Times,
    family: Family,
    base: Sequence[NDArray],
    ridges: Sequence[float] = RIDGES,
    power: float = 2.0,
    opening: float | None = None,
) -> Stepwise:
    r"""From the state that the formula itself has come to, the step that brings it nearest to the exact trajectory.

    .. math:: \min_{a, w} \sum_i \big|a\, y_{n,i} + \textstyle\sum_j w_j q_{n-j,i} - y_i^*(t_{n+1})\big|^q
        + \text{ridge towards the base's step}

    So a step also mends what the last ones missed, and one run of the starts is one fit.

    Args:
        groups: The starts.
        times: The grid, on the linear path.
        family: Which coefficients are free.
        base: Of each step of the base, in all outputs; see :func:`base_coefficients`.
        ridges: To choose from, on the judging starts.
        power: q.
        opening: The time at which the first output is asked for; None: the first of the grid.

    Raises:
        NotFiniteError: An output of the network is not finite.
    """
    runs = [[Run(starts, family) for starts in some] for some in (groups.fitted, groups.judging)]
    rows, used = list[Row](), list[float]()
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        for run in itertools.chain(*runs):
            run.ask(t, t_next, opening)
        prior = family.holds(base[step].tolist(), step) or projected(runs[0], base[step])
        fitted, judging = ([normal(run, prior, t_next) for run in some] for some in runs)
        parts = zip(by_part(fitted, family), by_part(judging, family), strict=True)
        chosen = [choose(*both, ridges, power) for both in parts]
        changes = family.row([change.tolist() for change, _ in chosen])
        row = tuple([p + d for p, d in zip(prior, changes, strict=True)])
        for run in itertools.chain(*runs):
            run.advance(row)
        rows.append(row)
        used.append(max(ridge for _, ridge in chosen))
    return Stepwise(Formula(family, tuple(times), tuple(rows), opening), squared_errors(runs[1]), tuple(used))


def normal(run: Run, prior: Row, t_next: float) -> Normal:
    """The normal equations of what the prior's step would lack."""
    goal = run.starts.exact if t_next == 1 else run.starts.at(t_next)
    return of_parts(run, goal.double() - run.combined(prior).double())


def of_parts(run: Run, error: Tensor) -> Normal:
    """The normal equations of an error, in the columns of the step: a row a sample, or a sample and channel."""
    parts = run.family.parts
    return Normal.of([parts(column) for column in run.columns], parts(error))


def by_part(normals: Sequence[Normal], family: Family) -> list[Normal]:
    """All samples', for all, or for each channel."""
    return Normal.joined(normals).channels(family.channels)


def projected(runs: Sequence[Run], base: NDArray) -> Row:
    """The step of the family that is nearest to the base's step, which it does not hold: along these runs."""
    parts = []
    for run in runs:
        step = base[0] * run.states[-1].double()
        for velocity, weight in zip(run.velocities[::-1], base[1:], strict=True):
            step.add_(velocity.double(), alpha=float(weight))
        parts.append(of_parts(run, step))
    family = runs[0].family
    every = by_part(parts, family)
    return family.row([ridge_solution(n.products.sum(0), n.pulls.sum(0), EXACT).tolist() for n in every])
