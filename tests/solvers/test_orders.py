from __future__ import annotations

import itertools

import pytest
import torch
from problems import START, STOP, Problem, asymptotic_steps, gaussian_flow, mixture_flow, rms, shows_order

from pushforward import models, solvers
from pushforward.solvers import Executor, FixedGridSolver
from pushforward.solvers.plan import Evaluate

REGISTERED = {name: solver for name, solver in solvers.solvers() if not solver.stochastic}
DETERMINISTIC = {name: solver.at_full_order() for name, solver in REGISTERED.items()}
PATHS = {
    "linear": models.Linear(),
    "trigonometric": models.Trigonometric(),
    "vp": models.VPLinear(),
    "cosine": models.Cosine(),
    "ve": models.VE(),
    "edm": models.EDM(),
}


@pytest.mark.parametrize("problem", [gaussian_flow(), mixture_flow()], ids=str)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order(name: str, problem: Problem) -> None:
    solver = DETERMINISTIC[name]
    errors = [problem.error(solver, steps) for steps in asymptotic_steps(solver)]
    assert errors[-1] > 1e3 * problem.rounding, "so fine a grid measures rounding"
    assert shows_order(errors, solver.order), errors


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_on_a_smooth_non_uniform_grid(name: str) -> None:
    solver = DETERMINISTIC[name]
    errors = [mixture_flow().error(solver, 2 * steps, warp=0.12) for steps in asymptotic_steps(solver)]
    assert shows_order(errors, solver.order, 0.1), errors  # the step ratio varies by 7, so c h^2 is larger too


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_backward_integration_undoes_forward_to_the_order(name: str) -> None:
    """Errors of forth and back need not cancel, but both fall with the order, so the round trip must."""
    solver, problem = DETERMINISTIC[name], gaussian_flow()
    trips = []
    for steps in asymptotic_steps(solver)[:2]:
        grid = [START + (STOP - START) * i / steps for i in range(steps + 1)]
        middle = run(problem, solver, grid, problem.start)
        trips.append(rms(run(problem, solver, grid[::-1], middle) - problem.start))
    assert trips[1] < trips[0] / 2 ** (solver.order - 0.3)


def run(problem: Problem, solver: FixedGridSolver, grid: list[float], x: torch.Tensor) -> torch.Tensor:
    model = problem.oracle.model()
    plan = solvers.plan(solver, grid, problem.oracle.interpolant).lower(model.prediction).optimise()
    return Executor(plan, x).run(model.bind().evaluate)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_converges_to_the_exact_flow_map_on_every_interpolant(name: str, path: str) -> None:
    problem, solver = gaussian_flow(PATHS[path]), REGISTERED[name]  # with their own starts and ends
    coarse, fine = (problem.error(solver, steps) for steps in asymptotic_steps(solver)[1:])
    assert fine < coarse / 2 ** (solver.order - 0.5)
    assert fine < 0.01 * rms(problem.exact - problem.start)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_straight_lines_are_exact(name: str) -> None:
    """A point mass on the linear interpolant: every trajectory is straight, whatever the number of steps."""
    oracle = models.MixtureOracle([1.0], [[0.3, -1.2]], [[[0.0, 0.0], [0.0, 0.0]]])
    x0 = torch.tensor([[1.0, 2.0], [-0.5, 0.1]], dtype=torch.float64)
    model = oracle.model()
    for steps in (1, 2, 3, 5):
        grid = [0.8 * i / steps for i in range(steps + 1)]
        for solver in (REGISTERED[name], DETERMINISTIC[name]):
            plan = solvers.plan(solver, grid).lower(model.prediction).optimise()
            x = Executor(plan, x0).run(model.bind().evaluate)
            exact = 0.2 * x0 + 0.8 * torch.tensor([0.3, -1.2], dtype=torch.float64)
            assert (x - exact).abs().max() < 1e-14


COUNTS = {
    1: "euler ab4 pseudo_corrector ddim dpm_blocks dpmpp_2m dpmpp_3m unipc unipc3 deis_tab3 lms pndm plms",
    2: "heun abm3 dpm_solver2 dpmpp_2s edm_heun dpm2",
    3: "kutta3 dpm_solver3 dpmpp_3s",
    4: "rk4",
}


@pytest.mark.parametrize(("name", "count"), [(name, n) for n, names in COUNTS.items() for name in names.split()])
def test_evaluations_per_step(name: str, count: int) -> None:
    assert solvers.solver(name).evaluations_per_step == count


def test_pseudo_corrector_visits_the_points_of_adams_bashforth_2() -> None:
    problem, grid = mixture_flow(), [0.1 + 0.8 * i / 20 for i in range(21)]
    seen = {}
    for name in ("pseudo_corrector", "ab2"):
        model = problem.oracle.model()
        plan = solvers.plan(solvers.solver(name), grid).lower(model.prediction).optimise()
        executor, network = Executor(plan, problem.start), model.bind()
        seen[name] = []
        for request in executor:
            seen[name].append(request.input.clone())
            executor.supply(network.evaluate(request.input, request.time, request.branches))
    pairs = list(itertools.zip_longest(seen["pseudo_corrector"][:20], seen["ab2"]))
    assert len(pairs) == 20
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-13


@pytest.mark.parametrize("nfe", [10, 20])
def test_pseudo_corrector_error_at_equal_evaluations(nfe: int) -> None:
    """FlowTurbo's claim on the whole range [0, 1] of a mixture: at most 0.6 of Heun's error, 0.4 of Euler's."""
    oracle = models.reference_mixture()
    x0 = torch.randn(256, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model = oracle.model()

    def solve(solver: FixedGridSolver, steps: int) -> torch.Tensor:
        plan = solvers.plan(solver, [i / steps for i in range(steps + 1)]).lower(model.prediction).optimise()
        assert steps > 500 or len([i for i in plan.instructions if isinstance(i, Evaluate)]) == nfe
        return Executor(plan, x0).run(model.bind().evaluate)

    exact = solve(solvers.solver("rk4"), 1000)
    pseudo = rms(solve(solvers.solver("pseudo_corrector", terminal="cached"), nfe) - exact)
    assert pseudo <= 0.6 * rms(solve(solvers.solver("heun"), nfe // 2) - exact)
    assert pseudo <= 0.4 * rms(solve(solvers.solver("euler"), nfe) - exact)


def test_pseudo_corrector_with_the_cached_end_is_adams_bashforth_2() -> None:
    """Its last state is a predicted point, and those are Adams-Bashforth's: the corrector then acts on nothing."""
    problem, cached = mixture_flow(), solvers.solver("pseudo_corrector", terminal="cached")
    assert (problem.solve(cached, 12) - problem.solve(solvers.solver("ab2"), 12)).abs().max() < 1e-13


def test_pseudo_corrector_terminal_rules() -> None:
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    counts = {}
    for terminal in ("auto", "cached", "evaluate"):
        counts[terminal] = solvers.plan(solvers.solver("pseudo_corrector", terminal=terminal), grid).nfe
    assert counts == {"auto": 5, "cached": 4, "evaluate": 5}
    denoised = models.prediction("denoised", models.Linear())
    assert solvers.plan(solvers.solver("pseudo_corrector"), grid, prediction=denoised).nfe == 4


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_weights_have_exact_moments(order: int) -> None:
    nodes, start, stop = [0.5, 0.42, 0.31, 0.11][:order], 0.5, 0.63
    weights = solvers.ode.adams_weights(nodes, start, stop)
    for k in range(order):
        exact = (stop ** (k + 1) - start ** (k + 1)) / (k + 1)
        assert sum(w * u**k for w, u in zip(weights, nodes, strict=True)) == pytest.approx(exact, abs=1e-14)


def test_adams_weights_on_a_uniform_grid_are_the_classical_ones() -> None:
    classical = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for order, expected in classical.items():
        assert solvers.ode.adams_weights([-float(k) for k in range(order)], 0.0, 1.0) == pytest.approx(
            expected, abs=1e-13
        )
    assert solvers.ode.adams_weights([1.0, 0.0, -1.0], 0.0, 1.0) == pytest.approx([5 / 12, 8 / 12, -1 / 12], abs=1e-14)
