"""Multistep weights and times made for one model and number of steps, by regression on pilot trajectories."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from .. import kernels
from ..errors import ArgumentError, GridError, NotFiniteError
from ..models import BranchWeights, Interpolant, Model, interpolant_from_config
from .executor import Executor
from .grids import GridFunction, grid
from .grids.optimise import FLOOR, LEAST_GAIN, Runs, Times, check_power, take_rows, with_gaps
from .hooks import Trajectory
from .ode import FittedMultistep, RampedAdamsBashforth, adams_weights
from .solver import plan, solver

Weights = tuple[tuple[float, ...], ...]
PRIOR_POINTS = 3  # of the Adams-Bashforth weights that a fit begins at, and returns if it gains nothing
RIDGE = 1e-7  # pull to those weights, relative to the mean square of the velocities: velocities of a run are much alike
REWEIGHTED = 6  # times that samples are weighted anew in one regression
LARGEST_WARP = 2.0  # gaps at the ends then differ by e^4
WARP = 0.3  # first change of a logarithm of the gaps at the ends of the grid; halved in each round


def fit_multistep(
    model: Model,
    steps: int,
    shape: Sequence[int],
    *,
    base: str | GridFunction | Sequence[float] = "uniform",
    points: int = 4,
    pilot: int = 128,
    held_out: int = 64,
    seed: int = 0,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    power: float = 1.0,
    rounds: int = 3,
    reference_steps: int = 48,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> MultistepFit:
    r"""The multistep formula, and its grid, that stay nearest to the exact trajectories of this model.

    The run itself is fitted as it goes: from the state :math:`y_n` and the velocities u that it has come to, the
    weights of the next step are those that bring it nearest to the exact trajectory,

    .. math:: \min_w \sum_i \big(|y_{n,i} + \textstyle\sum_{j<p} w_j u_{n-j,i} - y_i^*(t_{n+1})|^2
        + \delta^2\big)^{q/2},

    by reweighted least squares, with a weak pull to the Adams-Bashforth weights; so a step also mends what the last
    ones missed. A power q below 2 keeps the few samples that are about to become something else, whose errors are tens
    of times the median, from deciding over all the others. One run is one fit. Outside, a compass search bends the grid
    with two parameters, the slope and the curvature of the logarithms of its gaps, too few to fit chance with.

    The result is judged on held-out starts by the root mean square error; if that is not smaller than of ``ab3_ramp``
    on ``base``, those weights and times are returned. Only the seed decides the result.

    Args:
        model: The network, or an oracle's.
        steps: Steps, and network evaluations, of a run, at least 1.
        shape: Of one sample, without the batch.
        base: The grid to begin at, as in :func:`grid`.
        points: p, the most velocities that a step combines, at least 1.
        pilot, held_out: How many starts are fitted to, and how many judge the result.
        seed: Of the starts, in [0, 2**64).
        guidance, condition, null: As in :func:`pushforward.sample`. Tensors of a condition have 1 row, or
            ``pilot + held_out``.
        power: q in [0, 2]: 2 is the mean square, 1 the mean error, 0 the mean logarithm, which is for the typical
            sample at the cost of the rare one.
        rounds: Of the search over grids, each with half the change of the last: 4 to 20 runs each. 0 keeps ``base``.
        reference_steps: Steps of RK4 for the exact trajectories, at least 4; their states are kept.
        dtype, device: Of the states.

    Raises:
        ArgumentError: A number out of range.
        PushforwardError: What a run on the base grid would raise.

    Source:
        Shaul et al. 2024, Bespoke Non-Stationary Solvers; Frankel et al. 2025, S4S (both find weights and times by
        gradients through whole runs); Holland & Welsch 1977, Commun. Stat. 6(9) (reweighted least squares).

    Example:
        >>> from pushforward.models import reference_mixture
        >>> from pushforward.solvers import fit_multistep
        >>> fit = fit_multistep(reference_mixture().model(), 6, (2,), dtype=torch.float64)
        >>> fit.gain > 2
        True
    """
    for name, value, least in (("steps", steps, 1), ("points", points, 1), ("pilot", pilot, 1),
                               ("held_out", held_out, 1), ("rounds", rounds, 0),
                               ("reference_steps", reference_steps, 4)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(name, got=repr(value), expected=f"an integer, at least {least}")
    check_power(power)
    path, ramp = model.interpolant, RampedAdamsBashforth()
    base_times = grid(base, steps, path)
    noise = kernels.normal(
        (pilot + held_out, *shape), seed=seed, draw=kernels.Draw(kernels.PURPOSE_INITIAL, 0), dtype=dtype, device=device
    )
    trees = (dict(condition or {}), None if null is None else dict(null))
    conditions = [[take_rows(tree, rows, len(noise)) for tree in trees] for rows in (slice(pilot), slice(pilot, None))]
    some = Pilot(model, ramp, noise[:pilot], guidance, conditions[0][0], conditions[0][1])
    others = Pilot(model, ramp, noise[pilot:], guidance, conditions[1][0], conditions[1][1])
    judge_error = others.find_exact(base_times[0], reference_steps)
    reference_error = max(some.find_trajectory(base_times[0], reference_steps), judge_error)
    on_line = tuple(on_linear(path, t) for t in base_times)
    warp, weights = search(some, on_line, points, power, rounds)
    times = tuple(from_linear(path, t) for t in warped(on_line, warp)) if any(warp) else base_times
    plain = FittedMultistep(base_times, tuple(prior(on_line, n, PRIOR_POINTS) for n in range(steps)), path)
    found = FittedMultistep(times, weights, path)
    base_errors, errors = others.sample_errors(plain), others.sample_errors(found)
    rounding = torch.finfo(dtype).eps * root_mean_square(others.exact.double())
    least = max(LEAST_GAIN * root_mean_square(base_errors), reference_error, rounding)
    if not root_mean_square(base_errors) - root_mean_square(errors) > least:
        found, errors = plain, base_errors
    return MultistepFit(
        found,
        base if isinstance(base, str) else str(base) if callable(base) else "the given times",
        root_mean_square(errors),
        root_mean_square(base_errors),
        errors.median().item(),
        base_errors.median().item(),
        reference_error,
        some.calls + others.calls,
    )


@dataclass(frozen=True)
class MultistepFit:
    """What :func:`fit_multistep` found: pass ``solver`` and, as ``grid``, ``times``.

    Attributes:
        solver: The formula, for its own times only.
        base: The grid that it was begun at.
        error, base_error: Root mean square distance to the exact samples on held-out starts, of this formula on its
            times and of ``ab3_ramp`` on the base grid.
        median_error, base_median_error: The same of the median sample.
        reference_error: Of the exact samples, from a run with half as many steps.
        evaluations: Calls of the network for one batch of starts.
    """

    solver: FittedMultistep
    base: str
    error: float
    base_error: float
    median_error: float
    base_median_error: float
    reference_error: float
    evaluations: int

    @property
    def times(self) -> Times:
        """The grid."""
        return self.solver.times

    @property
    def gain(self) -> float:
        """By what factor the error on held-out starts is smaller than the base's; 1 if it is the base."""
        return self.base_error / self.error if self.error else 1.0

    def __str__(self) -> str:
        return (
            f"{self.solver}: error {self.error:.3g} on held-out starts ({self.gain:.2f} times less than ab3_ramp's on "
            f"{self.base}; median {self.median_error:.3g}; reference good to {self.reference_error:.1g})\n"
            + "  ".join(f"{t:.5f}" for t in self.times)
        )

    def to_json(self) -> str:
        """Everything as JSON; :meth:`from_json` is the inverse."""
        values = dataclasses.asdict(self)
        values["solver"]["interpolant"] = self.solver.interpolant.to_config()
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> MultistepFit:
        """Inverse of :meth:`to_json`."""
        values = json.loads(text)
        made = values.pop("solver")
        rows = tuple(tuple(row) for row in made["weights"])
        return cls(FittedMultistep(tuple(made["times"]), rows, interpolant_from_config(made["interpolant"])), **values)


@dataclass(frozen=True)
class Fitted:
    """Weights for one grid, and how far their run ends from the exact samples, for each sample."""

    weights: Weights
    errors: Tensor


class Pilot(Runs):
    """Starts whose exact trajectories are known all the way, on the linear path.

    Attributes:
        start: The states that runs begin with, on that path.
        spline: Through the exact states, from a time there to float64, [B * size].
        ends: The exact samples, float64 [B, size].
    """

    start: Tensor
    spline: CubicSpline
    ends: Tensor

    def find_trajectory(self, first: float, steps: int) -> float:
        """Make the exact samples and a spline through the states that lead to them; a bound of their error."""
        states, begin = Trajectory(), on_linear(self.model.interpolant, first)
        error = self.find_exact(first, steps, [states])
        self.start, self.ends = self.noise * (1 - begin), self.exact.double().flatten(1).cpu()
        knots = torch.stack([state.double().flatten().cpu() for state in (self.start, *states.states)])
        self.spline = CubicSpline([begin, *states.times], knots.numpy(), axis=0)
        return error

    def at(self, t: float) -> Tensor:
        """The exact states, float64, shape [B, size]."""
        return torch.from_numpy(self.spline(t)).view(len(self.noise), -1)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Of the linear path, from the clean estimate, float64, shape [B, size]."""
        network, prediction = self.linear
        program = plan(solver("euler"), (t, 1.0), prediction.interpolant, prediction=prediction, last_step="denoise")
        with torch.no_grad():
            clean = Executor(program.lower(prediction, self.guidance).optimise(), x).run(network.evaluate)
        self.calls += 1
        return ((clean.double() - x.double()) / (1 - t)).flatten(1).cpu()

    def sample_errors(self, made: FittedMultistep) -> Tensor:
        """Distance of each sample of a run with this formula to the exact one, root mean square, float64 [B]."""
        run = Runs(self.model, made, self.noise, self.guidance or 1.0, *self.condition)
        difference = run.run(made.times).double() - self.exact.double()
        self.calls += run.calls
        return difference.flatten(1).square().mean(1).sqrt()

    def fit(self, times: Times, points: int, power: float) -> Fitted:
        """Weights for a grid on the linear path, step by step along the run that they make."""
        y, past, rows = self.start.double().flatten(1).cpu(), [], []
        for n, (t, stop) in enumerate(itertools.pairwise(times)):
            past.insert(0, self.velocity(y.view(self.noise.shape).to(self.noise), t))
            del past[points:]
            columns = torch.stack(past, -1)
            goal = self.ends if n == len(times) - 2 else self.at(stop)
            row = regress(columns, goal - y, torch.tensor(prior(times, n, points)), power)
            y = y + columns @ row
            rows.append(tuple(row.tolist()))
        return Fitted(tuple(rows), (y - self.ends).square().mean(1).sqrt())


def regress(columns: Tensor, goal: Tensor, near: Tensor, power: float) -> Tensor:
    """Weights w, [p], with ``columns @ w`` near the goal, [B, size]: the least power of the samples' errors."""
    weights = torch.nn.functional.pad(near.double(), (0, columns.shape[-1] - len(near)))
    first, trust = weights, torch.ones(len(goal), dtype=torch.float64)
    for _ in range(REWEIGHTED):
        matrix = torch.einsum("b,bpi,bpj->ij", trust, columns, columns)
        pull = torch.einsum("b,bpi,bp->i", trust, columns, goal - columns @ first)
        shift = RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
        weights = first + torch.linalg.solve(matrix + shift, pull)
        squares = (goal - columns @ weights).square().mean(1)
        trust = (squares + FLOOR**2 * squares.median() + torch.finfo(torch.float64).tiny) ** (power / 2 - 1)
        trust /= trust.mean()
    return weights


def search(pilot: Pilot, times: Times, points: int, power: float, rounds: int) -> tuple[tuple[float, float], Weights]:
    """The warp of the times whose fitted run ends best, by steps along the two parameters, and its weights.

    The loss is the mean power of the samples' errors, above a third of the unwarped grid's median.
    """
    fitted = pilot.fit(times, points, power)
    floor = (FLOOR * fitted.errors.median()).square()

    def loss(fitted: Fitted) -> float:
        squares = fitted.errors.square() + floor
        return (squares ** (power / 2) if power else squares.log()).mean().item()

    best, least, tried = (0.0, 0.0), loss(fitted), {(0.0, 0.0)}
    change = WARP
    for _ in range(rounds if len(times) > 2 else 0):
        moved = True
        while moved:
            moved = False
            slope, bend = best
            for warp in (
                (slope + change, bend),
                (slope - change, bend),
                (slope, bend + change),
                (slope, bend - change),
            ):
                if warp in tried or max(map(abs, warp)) > LARGEST_WARP:
                    continue
                tried.add(warp)
                try:
                    trial = pilot.fit(warped(times, warp), points, power)
                except (NotFiniteError, GridError):
                    continue
                if loss(trial) < least:
                    best, least, fitted, moved = warp, loss(trial), trial, True
                    break
        change /= 2
    return best, fitted.weights


def warped(times: Times, warp: tuple[float, float]) -> Times:
    """The times with the logarithms of their gaps changed by a line and a parabola over the steps, -1 to 1."""
    place = np.linspace(-1, 1, len(times) - 1)
    return with_gaps(times, warp[0] * place + warp[1] * place**2)


def prior(times: Times, n: int, points: int) -> tuple[float, ...]:
    """Adams-Bashforth weights of step n, of as many velocities as there are, at most three."""
    nodes = times[max(n + 1 - min(points, PRIOR_POINTS), 0) : n + 1][::-1]
    return tuple(adams_weights(nodes, times[n], times[n + 1]))


def on_linear(path: Interpolant, t: float) -> float:
    """The time of the linear path with the same noise ratio."""
    alpha, sigma, *_ = path(t)
    return alpha / (alpha + sigma)


def from_linear(path: Interpolant, t: float) -> float:
    """Inverse of :func:`on_linear`."""
    return path.time_at_noise_ratio((1 - t) / t) if t else path.t_min


def root_mean_square(values: Tensor) -> float:
    """Root mean square of all values."""
    return values.square().mean().sqrt().item()
