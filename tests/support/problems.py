"""Problems with known answers, and the order of convergence that a solver shows on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from scipy.integrate import solve_ivp

from pushforward import solvers
from pushforward.models import GaussianOracle, Interpolant, Linear, MixtureOracle, Trigonometric

START, STOP = 0.1, 0.8
LINEAR, TRIGONOMETRIC = Linear(), Trigonometric()


@dataclass(frozen=True)
class Problem:
    """A flow from ``START`` to ``STOP`` with a reference solution at the end.

    The fixed starts lie where the flow really goes: exact samples of its marginal at ``START``.
    """

    name: str
    oracle: GaussianOracle | MixtureOracle
    samples: int = 8

    @cached_property
    def start(self) -> torch.Tensor:
        return self.oracle.sample(self.samples, seed=11, t=START)

    @cached_property
    def exact(self) -> torch.Tensor:
        if isinstance(self.oracle, GaussianOracle):
            return self.oracle.flow_map(self.start, START, STOP)
        return reference_solution(self.oracle, self.start, START, STOP)

    @property
    def rounding(self) -> float:
        """Size of float64 rounding of the answer."""
        return torch.finfo(torch.float64).eps * self.exact.abs().max().item()

    @cached_property
    def errors(self) -> dict[tuple[solvers.FixedGridSolver, int, float], float]:
        """What :meth:`error` has found so far: several tests ask for the same runs."""
        return {}

    def error(self, solver: solvers.FixedGridSolver, steps: int, warp: float = 0.0) -> float:
        """RMS error at the end on a uniform grid, or on a smooth non-uniform one."""
        key = (solver, steps, warp)
        if key not in self.errors:
            self.errors[key] = rms(self.solve(solver, steps, warp) - self.exact)
        return self.errors[key]

    def solve(self, solver: solvers.FixedGridSolver, steps: int, warp: float = 0.0) -> torch.Tensor:
        """The solver's answer."""
        grid = [START + (STOP - START) * warped(i / steps, warp) for i in range(steps + 1)]
        model = self.oracle.model()
        plan = solvers.plan(solver, grid, self.oracle.interpolant).lower(model.prediction).optimise()
        return solvers.Executor(plan, self.start).run(model.bind().evaluate)

    def __str__(self) -> str:
        return self.name


def warped(u: float, amount: float) -> float:
    """A smooth strictly increasing map of [0, 1] onto itself for ``amount`` below 1 / (2 pi)."""
    return u + amount * math.sin(2 * math.pi * u)


def rms(difference: torch.Tensor) -> float:
    """Root of the mean square."""
    return difference.square().mean().sqrt().item()


def reference_solution(oracle: MixtureOracle, start: torch.Tensor, t0: float, t1: float) -> torch.Tensor:
    """DOP853 at rtol 1e-12 from each start."""

    def field(t: float, flat: np.ndarray) -> np.ndarray:
        return oracle.velocity(torch.from_numpy(flat).reshape(start.shape), t).numpy().ravel()

    solution = solve_ivp(field, (t0, t1), start.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(solution.y[:, -1].copy()).reshape(start.shape)


@cache
def gaussian_flow(interpolant: Interpolant = TRIGONOMETRIC) -> Problem:
    """Anisotropic Gaussian data in the plane.

    Not on the linear interpolant, where it flatters: its trajectories are so symmetric that the midpoint rule shows
    order 3.
    """
    return Problem("gaussian", GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]], interpolant))


@cache
def mixture_flow(interpolant: Interpolant = LINEAR) -> Problem:
    """Three modes in the plane, so wide that coarse grids are asymptotic: nonlinear, not symmetric."""
    weights, means = [0.3, 0.5, 0.2], [[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]]
    covariances = [[[0.6, 0.2], [0.2, 0.4]], [[0.32, -0.12], [-0.12, 0.8]], [[0.4, 0.0], [0.0, 0.2]]]
    return Problem("mixture", MixtureOracle(weights, means, covariances, interpolant))


# Asymptotic by then, and still far above rounding.
STEPS = {1: (32, 64, 128), 2: (32, 64, 128), 3: (64, 128, 256), 4: (32, 64, 128)}


def asymptotic_steps(solver: solvers.FixedGridSolver) -> tuple[int, ...]:
    """Numbers of steps at which the solver's order can be read off; extrapolation over four nodes sets in late."""
    return (96, 192, 384) if solver.order == 4 and solver.starting_steps else STEPS[solver.order]


def shows_weak_order(errors: list[float], order: int, tolerance: float = 0.1, excess: float = 0.75) -> bool:
    """Whether errors of the exact variance fall with the order.

    As :func:`shows_order`, but a weak order is a bound: on Gaussian data a three-step method of order 2 falls nearly
    with its third power, until its noise term takes over on grids too fine to be worth computing. A consistency sampler
    has no error at all.
    """
    if max(errors) < 1e-12:
        return True
    coarse, fine = math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])
    return -tolerance < 2 * fine - coarse - order < excess and fine > order - 0.3


def shows_order(errors: list[float], order: int, tolerance: float = 0.05) -> bool:
    """Whether errors on three grids, each twice as fine, fall with the order.

    The slope p(h) = p + c h + O(h^2) is extrapolated to 2 p(h/2) - p(h), which removes c h; the finer slope itself must
    not be far either, or a combination of two wrong slopes could pass.
    """
    coarse, fine = math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])
    return abs(2 * fine - coarse - order) < tolerance and abs(fine - order) < 0.3
