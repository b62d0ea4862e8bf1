from __future__ import annotations

import linear_response
import pytest
from mutation import SCALAR, variance_errors
from problems import shows_weak_order

from pushforward import models, solvers
from pushforward.solvers import Diffusion, FixedGridSolver

FORMS = ["constant", "sigma", "linear", "square", "decreasing", "increasing_decreasing", "reversal"]
OWN_LISTS = ("euler_maruyama", "stochastic_heun", "restart")
NODES = ((2, 0, False), (2, 0, True), (3, 0, True), (2, 2, True), (2, 3, False), (3, 4, True))
STOCHASTIC = [
    *(solvers.solver(name, diffusion=form) for name in OWN_LISTS[:2] for form in FORMS),
    *(solvers.solver("ddim", eta=eta) for eta in (0.5, 1.0)),
    *(solver for name, solver in solvers.solvers() if solver.stochastic and name not in OWN_LISTS),
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
    mean, _ = linear_response.statistics(solver, grid, SCALAR)
    assert abs(mean - linear_response.marginal(SCALAR, 0.9)[0]) < 1e-13


@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_weak_order_backwards(solver: FixedGridSolver) -> None:
    """From data to noise the same SDE, reversed, has the same marginals."""
    errors = []
    for n in STEPS:
        grid = [0.9 - 0.8 * i / n for i in range(n + 1)]
        variance = linear_response.statistics(solver, grid, SCALAR)[1]
        errors.append(abs(variance - linear_response.marginal(SCALAR, 0.1)[1]))
    assert shows_weak_order(errors, solver.order, excess=1.25), errors  # the midpoint rule in nu shows 3 here


@pytest.mark.parametrize("path", [models.VPLinear(), models.Trigonometric(), models.VE(), models.EDM()], ids=str)
def test_ddim_with_full_noise_is_the_ancestral_step(path: models.Interpolant) -> None:
    """Posterior of the Markov noising process: mean alpha' D + sigma' e^-h n, variance sigma'^2 (1 - e^-2h)."""
    t, t_next = 0.4, 0.5
    plan = solvers.plan(solvers.solver("ddim", eta=1.0), [t, t_next], path)
    (combine,) = [i for i in plan.instructions if hasattr(i, "matrix")]
    decay = (path.alpha(t) / path.sigma(t)) / (path.alpha(t_next) / path.sigma(t_next))
    weights = dict(zip(combine.inputs, combine.matrix[0], strict=True))
    labels = dict(zip(plan.evaluations[0].outs, plan.evaluations[0].labels, strict=True))
    by_label = {labels[register]: weight for register, weight in weights.items()}
    assert by_label["denoised"] == pytest.approx(path.alpha(t_next), rel=1e-14)
    assert by_label["noise"] == pytest.approx(path.sigma(t_next) * decay, rel=1e-12)
    assert combine.scales[0][0] ** 2 == pytest.approx(path.sigma(t_next) ** 2 * (1 - decay**2), rel=1e-12)


def test_variance_errors_equal_those_of_an_independent_recursion() -> None:
    """N(1.5, 0.25), 320 uniform steps on [0, 0.9], noise amplitude 3 (1 - t)^2; figures of an independent recursion."""
    oracle = models.GaussianOracle([1.5], [[0.25]])
    grid = [0.9 * i / 320 for i in range(321)]
    for name, error in (("euler_maruyama", 1.30e-4), ("stochastic_heun", 1.96e-6)):
        solver = solvers.solver(name, diffusion=Diffusion("square", scale=4.5))
        plan = solvers.plan(solver, grid).lower(oracle.model().prediction)
        mean, variance = linear_response.response(plan, oracle)
        assert abs(mean - 1.35) < 1e-12
        assert abs(variance - 0.2125) == pytest.approx(error, rel=0.05)
