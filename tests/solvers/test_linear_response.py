from __future__ import annotations

import linear_response
import pytest
from mutation import SCALAR, variance_errors
from problems import shows_order

from pushforward import models, solvers
from pushforward.errors import ArgumentError
from pushforward.solvers import Diffusion, FixedGridSolver
from pushforward.solvers.sde.diffusion import FORMS

# With the factor 1 the leading term of the error all but vanishes on this problem, and the slope is another's.
ACCIDENTS = {("sra1", "square"): 1.5}
STOCHASTIC = [
    *(
        solvers.solver(name, diffusion=Diffusion(form, ACCIDENTS.get((name, form), 1.0)))
        for name, solver in solvers.solvers()
        if hasattr(solver, "diffusion")
        for form in (FORMS if name == "stochastic_heun" else ("constant", "sigma", "square", "reversal"))
    ),
    *(solvers.solver("ddim", eta=eta) for eta in (0.5, 1.0)),
    solvers.sde.NoiseFirstHeun("sigma"),
]
STEPS = (64, 128, 256)


@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_weak_order_by_exact_variance(solver: FixedGridSolver) -> None:
    assert shows_order(variance_errors(solver, STEPS), solver.order, 0.1)


@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_mean_is_transported_exactly_on_the_linear_interpolant(solver: FixedGridSolver) -> None:
    """The mean trajectory is a straight line, along which the noise estimate is constant."""
    grid = [0.1 + 0.8 * i / 40 for i in range(41)]
    mean, _ = linear_response.response(solvers.plan(solver, grid).lower(SCALAR.model().prediction), SCALAR)
    assert abs(mean - linear_response.marginal(SCALAR, 0.9)[0]) < 1e-13


@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_weak_order_backwards(solver: FixedGridSolver) -> None:
    """From data to noise the same SDE, reversed, has the same marginals."""
    errors = []
    for n in STEPS:
        grid = [0.9 - 0.8 * i / n for i in range(n + 1)]
        plan = solvers.plan(solver, grid).lower(SCALAR.model().prediction)
        variance = linear_response.response(plan, SCALAR)[1]
        errors.append(abs(variance - linear_response.marginal(SCALAR, 0.1)[1]))
    if str(solver) == "ddim(eta=1.0)":
        assert max(errors) < 1e-14  # that step is the noising process itself, without an error
    else:
        assert shows_order(errors, solver.order, 0.1), errors


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
    """N(1.5, 0.25), 320 uniform steps on [0, 0.9], noise amplitudes 1 - t and 3 (1 - t)^2; figures of an independent
    recursion.
    """
    oracle = models.GaussianOracle([1.5], [[0.25]])
    grid = [0.9 * i / 320 for i in range(321)]
    half, square = Diffusion("sigma_squared", 0.5), Diffusion("square", 4.5)
    for kind, diffusion, error in (
        (solvers.sde.EulerMaruyama, half, 9.99e-4),
        (solvers.sde.NoiseFirstHeun, half, 1.45e-4),
        (solvers.sde.StochasticHeun, half, 1.56e-6),
        (solvers.sde.EulerMaruyama, square, 1.30e-4),
        (solvers.sde.NoiseFirstHeun, square, 1.73e-4),
        (solvers.sde.StochasticHeun, square, 1.96e-6),
    ):
        plan = solvers.plan(kind(diffusion), grid).lower(oracle.model().prediction)
        mean, variance = linear_response.response(plan, oracle)
        assert abs(mean - 1.35) < 1e-12
        assert abs(variance - 0.2125) == pytest.approx(error, rel=0.05)


def test_a_function_of_the_time_may_be_the_diffusion() -> None:
    named, own = (solvers.solver("sra1", diffusion=d) for d in ("linear", lambda t: 1 - t))
    assert variance_errors(named, (8,)) == variance_errors(own, (8,))
    with pytest.raises(ArgumentError, match=r"diffusion\(0.2\): got -1"):
        solvers.plan(solvers.solver("sra1", diffusion=lambda t: -1.0), [0.1, 0.2])
