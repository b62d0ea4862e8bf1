"""Grids made for one model, solver and number of steps, by least squares on pilot samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, GridError, NotFiniteError, PushforwardError
from ...models import BranchWeights, Interpolant, Model
from ..pilot import Pilot, Times, take_rows
from ..plan import Plan
from ..solver import FixedGridSolver
from ..solver import solver as solver_of
from .optimised import OptimisedGrid
from .registry import GRIDS, GridFunction, grid

Array = NDArray[np.float64]
PROBE = 0.01  # relative change of a gap for a derivative: far above a network's rounding, far below a grid's scale
LONGEST = 1.0  # of a step of the search: no gap changes by more than a factor e at once
LEAST_GAIN = 0.01  # relative, on held-out starts; below it the base grid is returned
ENOUGH = 1e-3  # relative gain of an iteration of the search below which it ends
SECANTS = 12  # steps at most before derivatives are renewed
FLOOR = 1 / 3  # of the median error: below it errors count alike, or the best samples would decide under a power of 0


def optimise_grid(
    model: Model,
    solver: str | FixedGridSolver,
    steps: int,
    shape: Sequence[int],
    *,
    base: str | GridFunction | Sequence[float] = "uniform",
    pilot: int = 64,
    held_out: int = 64,
    seed: int = 0,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    power: float = 2.0,
    iterations: int = 10,
    starts: int = 2,
    reference_steps: int = 48,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> OptimisedGrid:
    r"""The grid on which ``solver`` comes nearest to the exact samples of this model in ``steps`` steps.

    Where Align Your Steps minimises a bound, this minimises the error itself: of the samples :math:`x(p)` from fixed
    pilot starts against the exact ones, over the logarithms p of the gaps of the grid,

    .. math:: \min_p \sum_i |x_i(p) - x_i^*|^q, \quad t_{j+1} - t_j \propto e^{p_j},

    by damped and reweighted Gauss-Newton steps with a secant term. Derivatives are differences, renewed when secants
    serve no more: steps + 6 or so runs an iteration. Of a network some samples are about to become something else, and
    their errors are tens of times the median: with q = 2 these few decide, and what is found serves no others unless
    there are hundreds of starts. With q = 1 the rest has its say.

    It begins at ``base`` and at the best of all registered grids, so that a bad base costs nothing. The result is the
    best of all on the pilot, if on held-out starts too it is better than the base, by 1 % and by more than the error of
    the exact samples; otherwise it is the base.

    A run costs ``steps`` evaluations of ``pilot`` rows, and the whole some hundred runs: seconds to minutes, once; keep
    the result with ``to_json``. Only the seed decides the result. A guided pair counts as one evaluation.

    Args:
        model: The network, or an oracle's.
        solver: The method, by name or as an object; it must draw no noise.
        steps: Steps of the grid, at least 1.
        shape: Of one sample, without the batch.
        base: The grid to beat, as in :func:`grid`.
        pilot, held_out: How many starts the search sees, and how many judge it.
        seed: Of the starts, in [0, 2**64).
        guidance, condition, null: As in :func:`pushforward.sample`. Tensors of a condition have 1 row, or
            ``pilot + held_out``.
        power: q in [0, 2], the power of the samples' errors that is minimised, and whose mean is reported: 2 the root
            mean square, 1 the mean, 0 the geometric mean.
        iterations: Of the search from one start, at most.
        starts: How many grids the search begins at, at least 1.
        reference_steps: Steps of RK4 for the exact samples, at least 4; see ``reference_error``.
        dtype, device: Of the states.

    Raises:
        ArgumentError: A number out of range, or a solver that draws noise or has a grid of its own.
        PushforwardError: What a run on the base grid would raise.

    Source:
        Sabour et al. 2024, Align Your Steps (that a grid be made for the model); Dennis, Gay & Welsch
        1981, NL2SOL (Gauss-Newton with a secant term).

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> from pushforward.solvers import optimise_grid
        >>> model = GaussianOracle([0.7], [[0.09]]).model()
        >>> found = optimise_grid(model, "midpoint", 3, (1,), pilot=16, held_out=16, dtype=torch.float64)
        >>> found.gain > 1.5
        True
    """
    check_counts(("steps", steps, 1), ("pilot", pilot, 1), ("held_out", held_out, 1), ("iterations", iterations, 0),
                 ("starts", starts, 1), ("reference_steps", reference_steps, 4))  # fmt: skip
    check_power(power)
    method = solver_of(solver)
    if method.times_on(model.interpolant) is not None:
        raise ArgumentError("solver", got=str(method), expected="one for any grid: this one was fitted to its own")
    base_times = grid(base, steps, model.interpolant)
    noise = kernels.normal(
        (pilot + held_out, *shape), seed=seed, draw=kernels.Draw(kernels.PURPOSE_INITIAL, 0), dtype=dtype, device=device
    )
    conditions = (dict(condition or {}), None if null is None else dict(null))
    parts = [
        Runs(
            model,
            method,
            noise[rows],
            guidance,
            *(take_rows(tree, rows, len(noise)) for tree in conditions),
            power=power,
        )
        for rows in (slice(0, pilot), slice(pilot, None))
    ]
    search, judge = parts
    candidates = usable([base_times, *registered(steps, model.interpolant)], search)
    for part in parts:
        part.find_exact(base_times[0], reference_steps)
    reference_error = max(part.exact_to(base_times[0], reference_steps) for part in parts)
    ranked = sorted(candidates, key=search.error)
    best = ranked[0]
    for times in dict.fromkeys([*ranked[: max(starts - 1, 1)], base_times][:starts]):
        found = descend(search, times, iterations)
        best = min(best, found, key=search.error)
    gained = judge.error(base_times) - judge.error(best)
    if not gained > max(LEAST_GAIN * judge.error(base_times), reference_error):
        best = base_times
    return OptimisedGrid(
        best,
        str(method),
        base if isinstance(base, str) else str(base) if callable(base) else "the given times",
        search.plan(best).nfe,
        judge.error(best),
        judge.error(base_times),
        search.error(best),
        search.error(base_times),
        reference_error,
        search.calls + judge.calls,
        model.interpolant,
    )


class Runs(Pilot):
    """Runs of one model and solver from fixed starts: the errors that the search lowers."""

    def __init__(
        self,
        model: Model,
        solver: FixedGridSolver,
        noise: Tensor,
        guidance: float | BranchWeights,
        condition: dict[str, Any] | None,
        null: dict[str, Any] | None,
        power: float = 2.0,
    ) -> None:
        super().__init__(model, noise, guidance, condition, null)
        self.solver, self.power = solver, power
        self.errors: dict[Times, float] = {}

    def plan(self, times: Times) -> Plan:
        """The optimised plan on a grid."""
        return self.program(self.solver, times)

    def run(self, times: Times) -> Tensor:
        """The samples on a grid."""
        return self.samples(self.plan(times))

    def difference(self, times: Times) -> Array:
        """Distances to the exact samples, [B, size]."""
        return (self.run(times) - self.exact).double().flatten(1).cpu().numpy()

    def error(self, times: Times) -> float:
        """Mean distance to the exact samples, of the power asked for; infinite where the run is not finite."""
        if times not in self.errors:
            try:
                self.errors[times] = power_mean(np.square(self.difference(times)).mean(1), self.power)
            except NotFiniteError:
                self.errors[times] = math.inf
        return self.errors[times]


def check_counts(*counts: tuple[str, object, int]) -> None:
    """Refuse numbers that count nothing: (name, value, the least that it may be).

    Raises:
        ArgumentError: Names the first.
    """
    for name, value, least in counts:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(name, got=repr(value), expected=f"an integer, at least {least}")


def check_power(power: float) -> None:
    """Refuse a power of errors that would not be a mean, or that only the largest decides."""
    if not 0 <= power <= 2:
        raise ArgumentError("power", got=power, expected="a number in [0, 2]")


def power_mean(squares: Array, power: float) -> float:
    """``(mean e^q)^(1/q)`` of errors with these squares; the geometric mean where q is 0."""
    if power == 0:
        return math.exp(np.log(np.maximum(squares, np.finfo(float).tiny)).mean() / 2)
    return float(np.mean(squares ** (power / 2)) ** (1 / power))


def registered(steps: int, interpolant: Interpolant) -> list[Times]:
    """The registered grids that need no option and fit the path."""
    found = []
    for name in GRIDS:
        try:
            found.append(grid(name, steps, interpolant))
        except PushforwardError:
            continue
    return found


def usable(grids: list[Times], runs: Runs) -> list[Times]:
    """The grids, all from the first one's start, that the solver can run; the first must be one, or its error is shown.

    Raises:
        PushforwardError: Of the first grid.
    """
    first, *_ = grids[0]
    kept = [grids[0]]
    runs.plan(grids[0])
    for times in grids[1:]:
        moved = (first, *times[1:])
        try:
            runs.plan(moved)
        except PushforwardError:
            continue
        kept.append(moved)
    return list(dict.fromkeys(kept))


def with_gaps(times: Times, change: Array) -> Times:
    """The grid whose gaps are changed by factors exp(change), between the same ends."""
    first, last = times[0], times[-1]
    gaps = np.exp(change) * np.diff(times)
    inner = first + (last - first) * np.cumsum(gaps)[:-1] / gaps.sum()
    return (first, *inner.tolist(), last)


def descend(runs: Runs, times: Times, iterations: int) -> Times:
    """A local minimum of the power of the errors over the gaps, from ``times`` down.

    The Hessian is J'WJ, W the weights that make squares of the samples' powers, and, for the curvature of errors that
    no grid removes, a secant term S (Powell's symmetric update); damping keeps it positive and the steps short. Between
    derivatives by differences J follows by Broyden's update, as long as that gains.
    """
    size = len(times) - 1
    p, damping, curvature = np.zeros(size), 1e-3, np.zeros((size, size))

    def difference_at(change: Array) -> Array:
        return runs.difference(with_gaps(times, change))

    try:
        difference = difference_at(p)
    except NotFiniteError:
        return times
    floor = FLOOR**2 * float(np.median(np.square(difference).mean(1))) + np.finfo(float).tiny

    def powers(difference: Array) -> tuple[float, Array]:
        """The loss, and the weights, [B, 1], with which squares have its slope."""
        squares = np.square(difference).mean(1) + floor
        loss = float((squares ** (runs.power / 2)).mean() if runs.power else np.log(squares).mean())
        weights = squares ** (runs.power / 2 - 1)
        return loss, (weights / weights.mean())[:, None]

    slopes = last = None
    loss, weights = powers(difference)
    for _ in range(iterations if size > 1 else 0):
        before, slopes = slopes, derivatives(difference_at, p, difference)
        if before is not None and last is not None:
            miss = contract(slopes - before, weights * difference) - curvature @ last
            length = last @ last
            curvature += (np.outer(miss, last) + np.outer(last, miss)) / length
            curvature -= (miss @ last) / length**2 * np.outer(last, last)
        begin, at, jacobian = loss, p, slopes
        for attempt in range(SECANTS):
            squares, pull = contract(weights[..., None] * jacobian, jacobian), contract(jacobian, weights * difference)
            hessian, scale = squares + curvature, np.trace(squares) / size + 1e-300
            lowest, gain = np.linalg.eigvalsh(hessian)[0], 0.0
            for _ in range(2 if attempt else 8):
                shift = max(damping * scale, damping * scale - 1.5 * lowest)
                step = np.linalg.solve(hessian + shift * np.eye(size), -pull)
                step -= step.mean()  # a common factor of all gaps changes nothing
                step *= min(1.0, LONGEST / max(np.abs(step).max(), 1e-300))
                try:
                    trial = difference_at(p + step)
                except (NotFiniteError, GridError):
                    damping *= 5
                    continue
                trial_loss, trial_weights = powers(trial)
                if trial_loss < loss:
                    gain = abs(loss - trial_loss)
                    missed = trial - difference - jacobian @ step
                    jacobian = jacobian + missed[..., None] * (step / (step @ step))
                    p, difference, loss, weights, damping = p + step, trial, trial_loss, trial_weights, damping / 5
                    break
                damping *= 5
            if gain < ENOUGH * abs(loss) * 5:
                break
        last = p - at
        if begin - loss < ENOUGH * abs(begin) or not last.any():
            break
    return with_gaps(times, p)


def contract(a: Array, b: Array) -> Array:
    """Sums over samples and elements of products, what is left of a first."""
    return np.tensordot(a, b, ([0, 1], [0, 1]))


def derivatives(function: Callable[[Array], Array], p: Array, value: Array) -> Array:
    """Forward differences, of the shape of the value and, last, that of p."""
    return np.stack([(function(p + PROBE * axis) - value) / PROBE for axis in np.eye(len(p))], -1)
