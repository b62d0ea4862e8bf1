"""Plant an error in each coefficient of a solver's step, one at a time, and ask whether its tests notice.

A mutant multiplies one weight of one combination by 1.05 in every regular step, as a wrong digit in the source would.
Run ``python tests/support/mutation.py`` for a report over all registered solvers.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import brownian
import linear_response
from consistency import statistics
from problems import START, STOP, Problem, asymptotic_steps, gaussian_flow, mixture_flow, shows_order, shows_weak_order

from pushforward import solvers
from pushforward.models import GaussianOracle, Linear
from pushforward.solvers import FixedGridSolver, StepBuilder
from pushforward.solvers.plan import Combine

FACTOR = 1.05
SCALAR = GaussianOracle([0.7], [[0.09]])


@dataclass(frozen=True)
class Place:
    """A coefficient: which combination of the step, which output, which input or draw."""

    combination: int
    output: int
    term: int


@dataclass(frozen=True)
class Mutant(FixedGridSolver):
    """The solver with one coefficient changed in every step whose combinations have that place."""

    original: FixedGridSolver
    place: Place
    factor: float = FACTOR

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.original.order

    @property
    def starting_steps(self) -> int:
        return self.original.starting_steps

    @property
    def consistency(self) -> bool:  # type: ignore[override]
        return self.original.consistency

    source = "mutation"

    def step(self, s: StepBuilder) -> None:
        before = len(s.instructions)
        self.original.step(s)
        positions = [i for i in range(before, len(s.instructions)) if isinstance(s.instructions[i], Combine)]
        if s.index >= self.original.starting_steps and self.place.combination < len(positions):
            position = positions[self.place.combination]
            s.instructions[position] = changed(s.instructions[position], self.place, self.factor)


def changed(combine: Combine, place: Place, factor: float) -> Combine:
    """The combination with one weight multiplied, if it has that place."""
    rows = [list(row) for row in combine.matrix]
    scales = [list(row) for row in combine.scales]
    inputs = len(combine.inputs)
    if place.output >= len(rows) or place.term >= inputs + len(combine.draws):
        return combine
    target, term = (rows, place.term) if place.term < inputs else (scales, place.term - inputs)
    target[place.output][term] *= factor
    return dataclasses.replace(combine, matrix=tuple(map(tuple, rows)), scales=tuple(map(tuple, scales)))


def places(solver: FixedGridSolver) -> Iterator[Place]:
    """Every coefficient of a regular step."""
    builder = StepBuilder(Linear(), [0.1 + 0.04 * i for i in range(19)], SCALAR.model().prediction, None)
    for _ in range(solver.starting_steps + 1):
        solver.step(builder)
        builder.next_step()
    before = len(builder.instructions)
    solver.step(builder)
    combinations = [i for i in builder.instructions[before:] if isinstance(i, Combine)]
    for index, combine in enumerate(combinations):
        terms = len(combine.inputs) + len(combine.draws)
        yield from (Place(index, o, k) for o, k in itertools.product(range(len(combine.outs)), range(terms)))


def shows_its_order(solver: FixedGridSolver, steps: tuple[int, ...] | None = None, tolerance: float = 0.05) -> bool:
    """The verdict of the order tests: on both problems, or by exact variance for stochastic solvers."""
    steps = steps or asymptotic_steps(solver)
    original = getattr(solver, "original", solver)
    if original.stochastic:
        weak = shows_weak_order(variance_errors(solver, steps), solver.order, 2 * tolerance)
        return weak and (not hasattr(original, "strong_order") or brownian.shows_strong_order(solver, SCALAR))
    return all(falls_with_order(p, solver, steps, tolerance) for p in (gaussian_flow(), mixture_flow()))


def falls_with_order(problem: Problem, solver: FixedGridSolver, steps: tuple[int, ...], tolerance: float) -> bool:
    """The verdict of ``shows_order``, without the finest run where no result of it could still be accepted.

    |fine - p| < 0.3 and |2 fine - coarse - p| < tolerance together need |coarse - p| < 0.6 + tolerance.
    """
    errors = [problem.error(solver, n) for n in steps[:2]]
    if abs(math.log2(errors[0] / errors[1]) - solver.order) > 0.6 + tolerance:
        return False
    return shows_order([*errors, problem.error(solver, steps[2])], solver.order, tolerance)


def variance_errors(solver: FixedGridSolver, steps: tuple[int, ...], oracle: GaussianOracle = SCALAR) -> list[float]:
    """Error of the output variance on scalar Gaussian data, exactly."""
    errors = []
    for n in steps:
        grid = [START + (STOP - START) * i / n for i in range(n + 1)]
        variance = statistics(solver, grid, oracle)[1]
        errors.append(abs(variance - linear_response.marginal(oracle, grid[-1])[1]))
    return errors


def survivors(solver: FixedGridSolver) -> list[Place]:
    """Planted errors that no test notices; there must be none."""
    return [place for place in places(solver) if shows_its_order(Mutant(solver, place))]


def main() -> None:
    """Report for each solver how many planted errors were noticed."""
    for name, solver in solvers.solvers():
        planted, alive = list(places(solver)), survivors(solver)
        print(f"{name:18} {len(planted) - len(alive):2} of {len(planted):2} planted errors noticed", *alive)


if __name__ == "__main__":
    main()
