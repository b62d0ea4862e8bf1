"""The stages of a fit over one set of starts: which grid, which coefficients, and what the judging starts say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...errors import GridError, NotFiniteError
from ...models import Interpolant
from ..grids.optimise import registered, with_gaps
from ..ode.fitted import FittedMultistep
from ..pilot import Times
from ..solver import FixedGridSolver
from .descent import descend
from .family import Family
from .formula import Formula, errors_of
from .measured import squared_errors as solver_errors
from .polish import polish
from .regression import better, losses
from .responses import base_coefficients
from .starts import Groups, from_linear, linear_times
from .stepwise import Stepwise, fit_steps

FIRST_ROWS = 24  # starts of each kind that grids are compared on
TYPICAL = 1.0  # the largest power of their errors: a mean square of so few starts is that of the one or two worst
POLISHED, LEAST_POLISHED = 2**15, 48  # elements of the starts whose ends are differentiated; and starts
OPENINGS = (0.0, 0.25, 0.5)  # of the first step
ALIKE = 0.1  # of a mean step: grids that are nearer lead to the same fit
NEVER = torch.full((1,), float("inf"), dtype=torch.float64)  # the squared errors of a grid that cannot be run
WARP, LARGEST_WARP = 0.3, 2.0  # first change of a logarithm of the gaps at the ends of a grid, halved a round; the most


@dataclass
class Search:
    """One fit: where it begins, and what it sees.

    Attributes:
        base_solver, path, base_times: Of the base.
        groups: Starts.
        ridges: To choose from.
        power: Of the errors that count.
        known: Errors of grids, families and openings that were tried.
    """

    base_solver: FixedGridSolver
    path: Interpolant
    base_times: Times
    groups: Groups
    ridges: Sequence[float]
    power: float
    known: dict[tuple[Times, Family, float], Tensor] = field(default_factory=dict)

    @property
    def first(self) -> float:
        """Where runs begin, on the linear path."""
        return self.linear_base[0]

    @cached_property
    def linear_base(self) -> Times:
        """The base's grid on the linear path."""
        return linear_times(self.path, self.base_times)

    @cached_property
    def few(self) -> Groups:
        """Some of the starts, to compare grids on."""
        share = max(FIRST_ROWS // len(self.groups.fitted), 1)
        return self.groups.first(share)

    def on_path(self, formula: Formula) -> FittedMultistep:
        """A formula as a solver for the path; on the base's grid with its very times."""
        return formula.on(self.path, self.times_on_path(formula.times))

    def times_on_path(self, times: Times) -> Times:
        """Times of the linear path on the model's; those of the base's grid to the last bit."""
        known = dict(zip(self.linear_base, self.base_times, strict=True))
        return tuple([known[t] if t in known else from_linear(self.path, t) for t in times])

    # --- stages ------------------------------------------------------------------------------------------------

    def base(self, family: Family) -> Stepwise:
        """The base on its own grid, as coefficients."""
        return self.stepwise(self.linear_base, family, ridges=(float("inf"),))

    def stepwise(
        self,
        times: Times,
        family: Family,
        groups: Groups | None = None,
        ridges: Sequence[float] | None = None,
        opening: float | None = None,
    ) -> Stepwise:
        """Coefficients for a grid of the linear path."""
        base = base_coefficients(self.base_solver, self.times_on_path(times), self.path)
        return fit_steps(groups or self.groups, times, family, base, ridges or self.ridges, self.power, opening)

    def opened(self, times: Times, family: Family) -> Stepwise:
        """Coefficients for a grid, with the opening that a few starts like best."""
        values = losses([self.errors_on_grid(times, family, share) for share in OPENINGS], min(self.power, TYPICAL))
        _, share = min(zip(values, OPENINGS, strict=True))
        return self.stepwise(times, family, opening=opening_of(times, share))

    def polished(self, found: Stepwise, iterations: int) -> Stepwise:
        """Times and coefficients for the end of the run."""
        size = self.groups.fitted[0].noise[0].numel()
        fitted = sum(len(starts.noise) for starts in self.groups.fitted)
        rows = max(LEAST_POLISHED, POLISHED // size, fitted // 8)
        return Stepwise(*polish(found.formula, self.groups, iterations, self.power, rows), found.ridges)

    def descended(self, found: Stepwise, iterations: int, seed: int) -> Stepwise:
        """Where Adam comes to from there."""
        return self.judged(descend(found.formula, self.groups, iterations, seed=seed, power=self.power), found)

    def judged(self, formula: Formula, of: Stepwise) -> Stepwise:
        """Another formula with what the judging starts say."""
        return Stepwise(formula, errors_of(formula, self.groups.judging), of.ridges)

    def promising(self, found: Sequence[Stepwise]) -> Stepwise:
        """Where to begin with the end of the run: what comes nearest when that is tried on a few starts.

        From there, if more starts agree that the trial was a gain.
        """
        if len(found) == 1:
            return found[0]
        power = min(self.power, TYPICAL)
        tried = [polish(each.formula, self.few, 1, power, FIRST_ROWS) for each in found]
        values = losses([judged for _, judged in tried], power)
        _, (formula, _), of = min(zip(values, tried, found, strict=True), key=lambda triple: triple[0])
        return self.best([of, self.judged(formula, of)])

    def grids(self, family: Family, rounds: int, tries: int) -> list[Times]:
        """Grids that are worth a fit, at most ``tries``: the best that is found, the best for the base, then others.

        A grid that is good where each step mends what the last one missed need not be good for the end of the run.
        """
        if not rounds:
            return [self.linear_base]
        power = min(self.power, TYPICAL)
        tried = {times: self.errors_on_grid(times, family) for times in self.registered()}
        of_base = self.least({times: self.errors_of_base(times) for times in tried}, power)
        order = sorted(zip(losses(list(tried.values()), power), tried, strict=True))
        found = [self.bent_grid(family, rounds, power, tried), of_base, *(times for _, times in order)]
        return unalike(found)[:tries]

    def bent_grid(self, family: Family, rounds: int, power: float, known: Mapping[Times, Tensor]) -> Times:
        """The best grid that is found: of those known, bent with two parameters, too few to fit chance with.

        A compass search over the slope and the curvature of the logarithms of the gaps.
        """
        tried = dict(known)
        start = best = self.least(tried, power)
        warp, change = (0.0, 0.0), WARP
        for _ in range(rounds if len(best) > 2 else 0):
            moved = True
            while moved:
                moved = False
                for near in around(warp, change):
                    times = bent(start, near)
                    if times in tried:
                        continue
                    tried[times] = self.errors_on_grid(times, family)
                    if better(tried[times], tried[best], power):
                        best, warp, moved = times, near, True
                        break
            change /= 2
        return best

    # --- losses ------------------------------------------------------------------------------------------------

    def registered(self) -> list[Times]:
        """The base's grid, and those of other names, all from one start."""
        others = registered(len(self.base_times) - 1, self.path)
        found = [self.linear_base, *((self.first, *linear_times(self.path, times)[1:]) for times in others)]
        return [times for times in dict.fromkeys(found) if all(np.diff(times) > 0)]

    def errors_on_grid(self, times: Times, family: Family, share: float = OPENINGS[1]) -> Tensor:
        """Squared errors of a few judging starts with a grid's own coefficients; infinite where it cannot run."""
        key = times, family, share
        if key not in self.known:
            try:
                self.known[key] = self.stepwise(times, family, self.few, opening=opening_of(times, share)).judged
            except (NotFiniteError, GridError):
                self.known[key] = NEVER
        return self.known[key]

    def errors_of_base(self, times: Times) -> Tensor:
        """Those of the base; infinite where it cannot run."""
        found = solver_errors(self.base_solver, self.times_on_path(times), self.few.judging)
        return NEVER if found is None else found

    def least(self, tried: Mapping[Times, Tensor], power: float) -> Times:
        """The grid with the least errors."""
        values = losses(list(tried.values()), power)
        return min(zip(tried, values, strict=True), key=lambda pair: pair[1])[0]

    def best(self, found: Sequence[Stepwise]) -> Stepwise:
        """The formula that the judging starts like best."""
        values = losses([each.judged for each in found], self.power)
        return min(zip(found, values, strict=True), key=lambda pair: pair[1])[0]


def opening_of(times: Times, share: float) -> float:
    """A time within the first step."""
    return times[0] + share * (times[1] - times[0])


def unalike(grids: Sequence[Times]) -> list[Times]:
    """Those that are not like an earlier one, to a part of a mean step."""
    found = list[Times]()
    for times in grids:
        if all(np.abs(np.subtract(times, other)).max() > ALIKE / (len(times) - 1) for other in found):
            found.append(times)
    return found


def around(warp: tuple[float, float], change: float) -> Iterator[tuple[float, float]]:
    """Warps a step away in each direction."""
    slope, bend = warp
    for near in ((slope + change, bend), (slope - change, bend), (slope, bend + change), (slope, bend - change)):
        if max(map(abs, near)) <= LARGEST_WARP:
            yield near


def bent(times: Times, warp: tuple[float, float]) -> Times:
    """The times with the logarithms of their gaps changed by a line and a parabola over the steps, -1 to 1."""
    place = np.linspace(-1, 1, len(times) - 1)
    return with_gaps(times, warp[0] * place + warp[1] * place**2)
