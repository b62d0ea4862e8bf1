"""Coefficients of one step after the other, each by least squares along the run that the earlier ones make."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from ... import kernels
from ..pilot import Times
from .family import Family, Row
from .formula import Formula, Run
from .regression import RIDGES, Normal, choose, ridge_solution
from .starts import Groups


@dataclass(frozen=True)
class Stepwise:
    """What :func:`fit_steps` found.

    Attributes:
        formula: The coefficients.
        ridges: The ridge of each step; infinity where the base's coefficients stayed.
    """

    formula: Formula
    ridges: tuple[float, ...]


def fit_steps(
    groups: Groups,
    times: Times,
    family: Family,
    base: Sequence[NDArray],
    ridges: Sequence[float] = RIDGES,
    power: float = 1.0,
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

    Raises:
        NotFiniteError: An output of the network is not finite.
    """
    runs = [[Run(starts, family) for starts in some] for some in (groups.fitted, groups.judging)]
    rows, used = list[Row](), list[float]()
    for step, (t, t_next) in enumerate(itertools.pairwise(times)):
        for run in itertools.chain(*runs):
            run.ask(t, t_next)
        prior = family.holds(base[step], step) or projected(runs[0], base[step])
        fitted, judging = ([normal(run, prior, t_next) for run in some] for some in runs)
        change, ridge = choose(Normal.joined(fitted), Normal.joined(judging), ridges, power)
        row = tuple([p + d for p, d in zip(prior, change.tolist(), strict=True)])
        for run in itertools.chain(*runs):
            run.advance(row)
        rows.append(row)
        used.append(ridge)
    return Stepwise(Formula(family, tuple(times), tuple(rows)), tuple(used))


def normal(run: Run, prior: Row, t_next: float) -> Normal:
    """The normal equations of what the prior's step would lack."""
    columns = run.columns
    goal = run.starts.exact if t_next == 1 else run.starts.at(t_next)
    return Normal.of(columns, goal.double() - kernels.combine(columns, list(prior)).double())


def projected(runs: Sequence[Run], base: NDArray) -> Row:
    """The step of the family that is nearest to the base's step, which it does not hold: along these runs."""
    parts = []
    for run in runs:
        step = base[0] * run.states[-1].double()
        for velocity, weight in zip(run.velocities[::-1], base[1:], strict=True):
            step.add_(velocity.double(), alpha=float(weight))
        parts.append(Normal.of(run.columns, step))
    every = Normal.joined(parts)
    return tuple(ridge_solution(every.products.sum(0), every.pulls.sum(0), 1e-12).tolist())
