"""The stages of a fit over one set of starts: which grid, which coefficients, and what the judging starts say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ...errors import GridError, NotFiniteError
from ...models import Interpolant
from ..grids.optimise import registered, with_gaps
from ..ode.fitted import FittedMultistep
from ..pilot import Times
from ..solver import FixedGridSolver
from .descent import descend
from .family import Family
from .formula import Formula, errors_of
from .polish import polish
from .regression import FLOOR, loss
from .responses import base_coefficients
from .starts import Groups, from_linear, linear_times
from .stepwise import Stepwise, fit_steps

FIRST_ROWS = 64  # starts of each kind that grids are compared on
POLISHED = 2**16  # elements of the starts that the end of the run is fitted to, but for 96 of them
WARP, LARGEST_WARP = 0.3, 2.0  # first change of a logarithm of the gaps at the ends of a grid, halved a round; the most


@dataclass
class Search:
    """One fit: where it begins, and what it sees.

    Attributes:
        base_solver, path, base_times: Of the base.
        groups: Starts.
        ridges: To choose from.
        power: Of the errors that count.
    """

    base_solver: FixedGridSolver
    path: Interpolant
    base_times: Times
    groups: Groups
    ridges: Sequence[float]
    power: float

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
        known = {linear: t for linear, t in zip(self.linear_base, self.base_times, strict=True)}
        times = tuple([known[t] if t in known else from_linear(self.path, t) for t in formula.times])
        return formula.on(self.path, times)

    # --- stages ------------------------------------------------------------------------------------------------

    def base(self, family: Family) -> Stepwise:
        """The base on its own grid, as coefficients."""
        return self.stepwise(self.linear_base, family, ridges=(float("inf"),))

    def stepwise(
        self, times: Times, family: Family, groups: Groups | None = None, ridges: Sequence[float] | None = None
    ) -> Stepwise:
        """Coefficients for a grid of the linear path."""
        on_path = tuple([from_linear(self.path, t) for t in times[:-1]] + [self.base_times[-1]])
        base = base_coefficients(self.base_solver, on_path, self.path)
        return fit_steps(groups or self.groups, times, family, base, ridges or self.ridges, self.power)

    def polished(self, found: Stepwise, iterations: int) -> Stepwise:
        """Times and coefficients for the end of the run."""
        size = self.groups.fitted[0].noise[0].numel()
        share = max(max(96, POLISHED // size) // len(self.groups.fitted), 1)
        some = self.groups.first(share).fitted
        return Stepwise(polish(found.formula, some, iterations, self.power), found.ridges)

    def descended(
        self, found: Stepwise, iterations: int, seed: int, say: Callable[[str], object] | None = None
    ) -> Stepwise:
        """Where Adam comes to from there."""
        del say
        formula = descend(found.formula, self.groups, iterations, seed=seed, power=self.power)
        return Stepwise(formula, found.ridges)

    def times(self, family: Family, rounds: int) -> Times:
        """The best grid that is found: of those registered, bent with two parameters, too few to fit chance with.

        A compass search over the slope and the curvature of the logarithms of the gaps.
        """
        if not rounds:
            return self.linear_base
        best = min(self.registered(), key=lambda times: self.loss_of_grid(times, family))
        least, warp, change = self.loss_of_grid(best, family), (0.0, 0.0), WARP
        start = best
        for _ in range(rounds if len(best) > 2 else 0):
            moved = True
            while moved:
                moved = False
                for near in around(warp, change):
                    times = bent(start, near)
                    value = self.loss_of_grid(times, family)
                    if value < least:
                        best, least, warp, moved = times, value, near, True
                        break
            change /= 2
        return best

    # --- losses ------------------------------------------------------------------------------------------------

    def registered(self) -> list[Times]:
        """The base's grid, and those of other names, all from one start."""
        others = registered(len(self.base_times) - 1, self.path)
        found = [self.linear_base, *((self.first, *linear_times(self.path, times)[1:]) for times in others)]
        return [times for times in dict.fromkeys(found) if all(np.diff(times) > 0)]

    def loss_of_grid(self, times: Times, family: Family) -> float:
        """What the judging starts of a few say of a grid's own coefficients; infinite where it cannot be run."""
        key = times, family
        if key not in self.tried:
            try:
                formula = self.stepwise(times, family, self.few).formula
                self.tried[key] = self.judge(errors_of(formula, self.few.judging))
            except (NotFiniteError, GridError):
                self.tried[key] = float("inf")
        return self.tried[key]

    @cached_property
    def tried(self) -> dict[tuple[Times, Family], float]:
        """Losses of grids."""
        return {}

    def loss(self, found: Stepwise) -> float:
        """What the judging starts say of a formula."""
        if found.formula not in self.judged:
            self.judged[found.formula] = self.judge(errors_of(found.formula, self.groups.judging))
        return self.judged[found.formula]

    @cached_property
    def judged(self) -> dict[Formula, float]:
        """Losses of formulas."""
        return {}

    def judge(self, squares: torch.Tensor) -> float:
        """The mean power of errors, those far below the base's median alike."""
        return loss(squares, self.power, self.floor)

    @cached_property
    def floor(self) -> float:
        """Of the errors' squares; that of the base's."""
        base = self.stepwise(self.linear_base, Family(), self.few, (float("inf"),)).formula
        return FLOOR**2 * errors_of(base, self.few.judging).median().item() * 1e-2


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
