"""Weak orders of the samplers by the exact variance of their results; those with a diffusion have their own tests."""

from __future__ import annotations

import linear_response
import pytest
from consistency import statistics
from mutation import SCALAR, variance_errors
from problems import shows_weak_order

from pushforward import solvers
from pushforward.solvers import FixedGridSolver

NODES = ((2, 0, False), (2, 0, True), (3, 0, True), (2, 2, True), (2, 3, False), (3, 4, True))
STOCHASTIC = [
    *(s for name, s in solvers.solvers() if s.stochastic and not hasattr(s, "diffusion") and name != "restart"),
    *(solvers.solver(name, eta=0.5) for name in ("euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral")),
    solvers.solver("ddpm", variance="fixed_large"),
    solvers.solver("dpmpp_2m_sde", solver_type="heun"),
    solvers.solver("dpmpp_2m_sde", eta=0.4),
    solvers.solver("dpmpp_3m_sde", curvature="exact"),
    solvers.solver("dpmpp_sde", eta=0.6, r=0.7),
    solvers.solver("seeds2", tau=0.6, c=0.7),
    *(solvers.solver("sa_solver", tau=1.0, predictor=p, corrector=c, few_steps=few) for p, c, few in NODES),
]
# Noise between fixed levels, wherever the grid points are: errors at those levels jump as the grid is refined.
BETWEEN_LEVELS = [
    *(solvers.solver(name, s_churn=20.0, s_tmin=0.3, s_tmax=6.0) for name in ("edm_stochastic", "euler_churn")),
    *(solvers.solver("restart", intervals=i) for i in (((0.3, 1.09, 2),), ((0.5, 2.0, 3), (0.3, 0.7, 1)))),
]
STEPS = (32, 64, 128)


@pytest.mark.parametrize("solver", [*STOCHASTIC, *BETWEEN_LEVELS], ids=str)
def test_weak_order_by_exact_variance(solver: FixedGridSolver) -> None:
    errors = variance_errors(solver, (64, 128, 256) if solver in BETWEEN_LEVELS else STEPS)
    assert shows_weak_order(errors, solver.order), errors


@pytest.mark.parametrize("solver", [*STOCHASTIC, *BETWEEN_LEVELS], ids=str)
def test_mean_is_transported_exactly_on_the_linear_interpolant(solver: FixedGridSolver) -> None:
    """The mean trajectory is a straight line, along which the noise estimate is constant."""
    grid = [0.1 + 0.8 * i / 40 for i in range(41)]
    mean, _ = statistics(solver, grid, SCALAR)
    assert abs(mean - linear_response.marginal(SCALAR, 0.9)[0]) < 1e-13


@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_weak_order_backwards(solver: FixedGridSolver) -> None:
    """From data to noise the same SDE, reversed, has the same marginals."""
    errors = []
    for n in STEPS:
        grid = [0.9 - 0.8 * i / n for i in range(n + 1)]
        variance = statistics(solver, grid, SCALAR)[1]
        errors.append(abs(variance - linear_response.marginal(SCALAR, 0.1)[1]))
    assert shows_weak_order(errors, solver.order, excess=1.25), errors  # the midpoint rule in nu shows 3 here
