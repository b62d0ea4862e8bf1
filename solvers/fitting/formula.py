"""A formula on the linear path while it is being fitted, and its run from known starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models import Interpolant
from ..by_channel import combine_by_channel
from ..ode.adams import adams_weights
from ..ode.fitted import FittedMultistep
from ..pilot import Times
from .family import Family, Row
from .starts import Starts, from_linear

ORDER = 3  # of Adams' and Bashforth's formula that weights are carried along with


@dataclass(frozen=True)
class Formula:
    """Times of the linear path, and the coefficients of each step.

    Attributes:
        family: What the coefficients belong to.
        times: The grid.
        rows: Each step's coefficients: of the state, then of the outputs, the newest first.
        opening: The time at which the first output is asked for; None: the first of the grid.
    """

    family: Family
    times: Times
    rows: tuple[Row, ...]
    opening: float | None = None

    def at(self, times: Times, opening: float | None = None) -> Formula:
        """The formula on other times; its opening stays, unless there is another.

        What weighs velocities stays as far from Adams' and Bashforth's as it is.
        """
        other, rows = replace(self, times=times, opening=self.opening if opening is None else opening), []
        for step, (scale, *weights) in enumerate(self.rows):
            count = min(ORDER, len(weights)) if self.family.quantity == "velocity" else 0
            here, there = (adams_weights(one.asked(step)[:count], *one.times[step : step + 2]) if count else ()
                           for one in (self, other))  # fmt: skip
            moved = [weight + (b - a) for weight, a, b in zip(weights, here, there, strict=False)]
            rows.append((scale, *moved, *weights[count:]))
        return replace(other, rows=tuple(rows))

    def asked(self, step: int) -> Times:
        """When the outputs up to a step's were asked for, the newest first."""
        first = self.times[0] if self.opening is None else self.opening
        return (*self.times[step:0:-1], first)

    def on(self, path: Interpolant, times: Times | None = None) -> FittedMultistep:
        """The solver, for a path; ``times`` are the grid's there, if they are known to the last bit."""
        times = times or tuple(from_linear(path, t) for t in self.times)
        weights, scales = tuple(row[1:] for row in self.rows), tuple(row[0] for row in self.rows)
        opening = None if self.opening in (None, self.times[0]) else from_linear(path, self.opening)
        return FittedMultistep(times, weights, path, scales, self.family.quantity, opening)


class Run:
    """A run from known starts, step by step, as an executor would do it.

    Attributes:
        states: y at the times so far, from the first.
        velocities: u at those times at which the network was asked.
    """

    def __init__(self, starts: Starts, family: Family) -> None:
        self.starts, self.family = starts, family
        self.states, self.velocities, self.outputs = [starts.start], list[Tensor](), list[Tensor]()

    def ask(self, t: float, t_next: float, opening: float | None = None) -> None:
        """Evaluate the network at the state, in the first step at the time of the opening."""
        state, step = self.states[-1], len(self.velocities)
        at = t if step or opening is None else opening
        velocity = self.starts.velocity(state, t, t_next, step, at=at)
        self.velocities.append(velocity)
        self.outputs.append(self.family.observed(state, velocity, at))

    @property
    def columns(self) -> list[Tensor]:
        """What the coefficients of the step multiply."""
        return self.columns_of(len(self.outputs) - 1)

    def columns_of(self, step: int) -> list[Tensor]:
        """What the coefficients of a step, whose output is known, multiply."""
        return self.family.columns(self.states[step], self.outputs[step::-1], step)

    def advance(self, row: Row) -> None:
        """Take the step."""
        self.states.append(self.combined(row))

    def combined(self, row: Row) -> Tensor:
        """What the coefficients make of the columns."""
        (result,) = combine_by_channel(self.columns, (row,))
        return result

    def at(self, step: int, state: Tensor | None = None) -> Run:
        """The run as it was before a step, or as it would be with another state there."""
        other = Run(self.starts, self.family)
        other.states = [*self.states[:step], self.states[step] if state is None else state]
        other.velocities, other.outputs = self.velocities[:step], self.outputs[:step]
        return other

    def finish(self, formula: Formula) -> Run:
        """All the steps that are left."""
        taken = len(self.velocities)
        ahead = list(itertools.pairwise(formula.times))[taken:]
        for row, (t, t_next) in zip(formula.rows[taken:], ahead, strict=True):
            self.ask(t, t_next, formula.opening)
            self.advance(row)
        return self

    @property
    def left(self) -> Tensor:
        """What the last state lacks to the exact samples, float64 [B, *D]."""
        return self.starts.exact.double() - self.states[-1].double()


def squared_errors(runs: Sequence[Run]) -> Tensor:
    """Mean squares of what each sample of all runs lacks, float64 [B], on the CPU."""
    return torch.cat([run.left.flatten(1).square().mean(1).cpu() for run in runs])


def run_all(formula: Formula, groups: Sequence[Starts]) -> list[Run]:
    """Runs from all starts."""
    return [Run(starts, formula.family).finish(formula) for starts in groups]


def errors_of(formula: Formula, groups: Sequence[Starts]) -> Tensor:
    """Squared errors of all samples of all groups."""
    return squared_errors(run_all(formula, groups))
