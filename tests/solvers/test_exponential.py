"""Exponential solvers without a network: moments, weights, polynomials that are reproduced, ends, and options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from numpy.polynomial import Polynomial
from problems import gaussian_flow, mixture_flow, rms, shows_order
from scipy.integrate import quad

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, PlanError
from pushforward.solvers import FixedGridSolver, Plan
from pushforward.solvers.exponential import (
    Interval,
    clock_weights,
    exponential_weights,
    kernel_moments,
    lagrange_weights,
)
from pushforward.solvers.plan import Boundary, Combine, Evaluate, StepBuilder

VP = models.VPLinear()
GRID = [0.2, 0.27, 0.36, 0.43, 0.52, 0.6, 0.71, 0.8, 0.86, 0.95]


def make(text: str) -> FixedGridSolver:
    """A solver from ``name key=value ...``."""
    name, *options = text.split()
    pairs = (option.split("=") for option in options)
    return solvers.solver(name, **{key: int(value) if value.isdigit() else value for key, value in pairs})


# --- coefficients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [1e-9, -1e-9, 0.01, -0.4, 0.999, 1.0, -1.0, 3.0, -3.0, 20.0, -20.0])
def test_kernel_moments_are_their_integrals(y: float) -> None:
    """The recursion loses 4! eps at |y| = 1, the series nothing; the integrals are good to 1e-13."""
    for k, moment in enumerate(kernel_moments(y, 5)):
        exact = quad(lambda s, k=k: y * math.exp(-y * (1 - s)) * s**k, 0, 1, epsabs=0, epsrel=1e-13)[0]
        assert moment == pytest.approx(exact, rel=1e-12)


def test_kernel_moments_do_not_jump_where_the_series_ends() -> None:
    """Both sides of |y| = 1 are the same smooth function: their slopes are below 1, so 1e-12 apart is 1e-12 apart."""
    for side in (1.0, -1.0):
        inside, outside = kernel_moments(side * (1 - 1e-12), 5), kernel_moments(side, 5)
        assert max(abs(a - b) for a, b in zip(inside, outside, strict=True)) < 5e-12


def test_kernel_moments_at_infinity_and_nowhere() -> None:
    assert kernel_moments(math.inf, 3) == (1.0, 1.0, 1.0)
    assert kernel_moments(0.0, 3) == (0.0, 0.0, 0.0)
    for y in (math.nan, -math.inf):
        with pytest.raises(ArgumentError, match="y: got"):
            kernel_moments(y, 2)


@pytest.mark.parametrize("y", [0.3, -0.3, 2.0, -2.0])
def test_weights_integrate_polynomials_exactly(y: float) -> None:
    nodes = [0.0, -0.4, -1.1, 1.0]
    for weights in (exponential_weights(nodes, y), clock_weights(nodes, lambda s: s, y)):
        for moment, k in zip(kernel_moments(y, 4), range(4), strict=True):
            assert sum(w * s**k for w, s in zip(weights, nodes, strict=True)) == pytest.approx(moment, abs=1e-13)


def test_clock_weights_integrate_polynomials_of_the_clock() -> None:
    y, clock = 0.8, lambda s: math.exp(-0.7 * s)
    nodes = [clock(s) for s in (0.0, -0.5, -1.2)]
    weights = clock_weights(nodes, clock, y)
    for k in range(3):
        exact = quad(lambda s, k=k: y * math.exp(-y * (1 - s)) * clock(s) ** k, 0, 1, epsabs=0, epsrel=1e-13)[0]
        assert sum(w * node**k for w, node in zip(weights, nodes, strict=True)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: lagrange_weights([0.0, 0.0], [1.0, 1.0]), "nodes"),
        (lambda: lagrange_weights([0.0, -math.inf], [1.0, 1.0]), "nodes"),
        (lambda: lagrange_weights([0.0, 1.0], [1.0]), "moments"),
        (lambda: clock_weights([0.0, 0.0], lambda s: s, 1.0), "nodes"),
        (lambda: clock_weights([0.0, 1.0], lambda s: s, math.inf), "y"),
    ],
)
def test_coefficients_that_do_not_exist_are_refused(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        call()


# --- polynomials -----------------------------------------------------------------------------------------------


def states(plan: Plan, form: str, value: Callable[[float], float]) -> list[float]:
    """The state at every grid time where one estimate is a function of time alone, and x is a number."""
    path, values, found = plan.interpolant, {plan.start: 0.7}, [0.7]
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            alpha, sigma, dalpha, dsigma = path(instruction.time)
            x, given = values[instruction.input], value(instruction.time)
            denoised = given if form == "denoised" else (x - sigma * given) / alpha
            noise = given if form == "noise" else (x - alpha * given) / sigma
            quantities = {"denoised": denoised, "noise": noise, "velocity": dalpha * denoised + dsigma * noise}
            values.update((r, quantities[q]) for r, q in zip(instruction.outs, instruction.labels, strict=True))
        elif isinstance(instruction, Combine):
            for out, row in zip(instruction.outs, instruction.matrix, strict=True):
                values[out] = sum(w * values[r] for w, r in zip(row, instruction.inputs, strict=True))
        elif isinstance(instruction, Boundary):
            found.append(values[instruction.state])
    return found


def exact_step(x: float, start: float, stop: float, form: str, value: Callable[[float], float]) -> float:
    """The flow's own solution, by quadrature in lambda."""
    over = Interval(VP, start, stop, form)  # type: ignore[arg-type]

    def integrand(s: float) -> float:
        return over.y * math.exp(-over.y * (1 - s)) * value(VP.time_at(over.lam + s * over.h))

    return over.ratio * x + over.scale * quad(integrand, 0, 1, epsabs=1e-14, epsrel=1e-13)[0]


CLOCKS = {"lambda": VP.half_log_snr, "nu": VP.noise_ratio, "t": lambda t: t}
# What each reproduces exactly: solver, form, clock of the polynomial, its degree.
REPRODUCED = [
    *((name, form, "lambda", 0) for name, form in itertools.product(
        ["ddim", "dpmpp_2m", "dpmpp_3m", "dpmpp_2s", "dpmpp_3s", "unipc", "unipc3 form=noise", "dpm_solver3", "lms",
         "dpm_solver_2m", "deis_tab3", "edm_heun", "dpm2", "pndm", "plms", "dpm_blocks solver_order=3"],
        ["denoised", "noise"])),
    ("dpmpp_2m variant=heun lower_order_final=never", "denoised", "lambda", 1),
    ("dpm_solver_2m variant=heun lower_order_final=never", "noise", "lambda", 1),
    ("dpmpp_3m lower_order_final=never", "denoised", "lambda", 1),
    ("dpmpp_3m_exact lower_order_final=never", "denoised", "lambda", 2),
    ("dpmpp_3m_exact form=noise lower_order_final=never", "noise", "lambda", 2),
    ("dpmpp_2s variant=heun", "denoised", "lambda", 1),
    ("dpm_solver2 variant=heun", "noise", "lambda", 1),
    ("dpmpp_3s", "denoised", "lambda", 1),
    ("dpmpp_3s variant=heun", "denoised", "lambda", 2),
    ("dpm_solver3 variant=heun", "noise", "lambda", 2),
    ("unipc variant=vary_coeff lower_order_final=never", "denoised", "lambda", 2),
    ("unipc3 lower_order_final=never", "denoised", "lambda", 3),
    ("unipc3 lower_order_final=never form=noise", "noise", "lambda", 3),
    ("lms", "noise", "nu", 3),
    ("deis_tab1 lower_order_final=never", "noise", "t", 1),
    ("deis_tab3 lower_order_final=never", "noise", "t", 3),
    ("deis_tab2 clock=lambda lower_order_final=never", "noise", "lambda", 2),
    ("edm_heun", "noise", "nu", 1),
    ("dpm_blocks variant=heun solver_order=3", "denoised", "lambda", 2),
]  # fmt: skip


@pytest.mark.parametrize(("text", "form", "clock", "degree"), REPRODUCED)
def test_polynomials_in_the_clock_are_reproduced(text: str, form: str, clock: str, degree: int) -> None:
    """Every regular step equals the exact solution, to rounding of a few hundred operations (1e-12)."""
    solver, tau = make(text), CLOCKS[clock]
    polynomial = Polynomial([0.4, -0.3, 0.2, 0.15][: degree + 1])

    def value(t: float) -> float:
        return float(polynomial(tau(t)))

    found = states(solvers.plan(solver, GRID, VP), form, value)
    errors = []
    for index, (start, stop) in enumerate(itertools.pairwise(GRID)):
        if "dpm_blocks" in text:  # only the ends of whole blocks are results; the rest are stages
            if index % 3 == 0 and index < 6:
                exact = exact_step(found[index], start, GRID[index + 3], form, value)
                errors.append(abs(found[index + 3] - exact) / (1 + abs(exact)))
        elif index >= solver.starting_steps and not ("unipc" in text and stop == GRID[-1]):  # ends uncorrected
            exact = exact_step(found[index], start, stop, form, value)
            errors.append(abs(found[index + 1] - exact) / (1 + abs(exact)))
    assert len(errors) >= 2
    assert max(errors) < 1e-12


@pytest.mark.parametrize(
    ("text", "degree"), [("dpmpp_2m variant=heun", 2), ("dpmpp_3m", 2), ("dpmpp_3m_exact", 3), ("dpmpp_3s", 2)]
)
def test_polynomials_of_higher_degree_are_not(text: str, degree: int) -> None:
    """The test above can fail: one degree more shows an error far above rounding."""
    polynomial = Polynomial([0.4, -0.3, 0.2, 0.15][: degree + 1])

    def value(t: float) -> float:
        return float(polynomial(VP.half_log_snr(t)))

    found = states(solvers.plan(make(text), GRID, VP), "denoised", value)
    assert abs(found[6] - exact_step(found[5], GRID[5], GRID[6], "denoised", value)) > 1e-5


# --- identities ------------------------------------------------------------------------------------------------


def end(text: str, path: models.Interpolant = VP, grid: list[float] = GRID, kind: str = "noise") -> torch.Tensor:
    oracle = models.reference_mixture(path)
    return pf.sample(oracle.model(kind), oracle.sample(8, seed=2, t=grid[0]), solver=make(text), grid=grid)


@pytest.mark.parametrize(
    "text",
    ["dpmpp_2m solver_order=1", "dpm_solver2 solver_order=1", "dpm_solver_2m solver_order=1", "lms solver_order=1",
     "deis_tab1 solver_order=1", "dpm_blocks solver_order=1", "deis_tab1 solver_order=1 form=denoised"],
)  # fmt: skip
def test_first_order_is_ddim(text: str) -> None:
    assert (end(text) - end("ddim")).abs().max() < 1e-13


@pytest.mark.parametrize("variant", ["bh2", "vary_coeff"])
def test_unip_is_multistep_dpm_solver(variant: str) -> None:
    """Without its corrector: bh2 is 2M "midpoint", the exact moments are "heun"; order 3 is the exact 3M."""
    solver = solvers.solver("unipc", corrector=False, variant=variant, lower_order_final="auto")
    oracle = models.reference_mixture(VP)
    x0 = oracle.sample(8, seed=2, t=GRID[0])
    ours = pf.sample(oracle.model(), x0, solver=solver, grid=GRID)
    assert (ours - end(f"dpmpp_2m variant={'midpoint' if variant == 'bh2' else 'heun'}")).abs().max() < 1e-13


def test_the_variants_of_unipc_agree_where_they_have_no_short_cut() -> None:
    """With order 3 after an accurate start every set of weights is solved for: B cancels."""
    ends = [end(f"unipc3 variant={v} start=accurate lower_order_final=never") for v in ("bh1", "bh2", "vary_coeff")]
    assert max((a - b).abs().max() for a, b in itertools.pairwise(ends)) < 1e-12


def test_exact_3m_is_the_exponential_adams_method_and_lms_is_adams_bashforth_in_nu() -> None:
    adams = end("lms clock=lambda form=denoised solver_order=3 start=accurate")
    assert (end("dpmpp_3m_exact lower_order_final=never") - adams).abs().max() < 1e-13
    edm = models.EDM()
    grid = [edm.time_at_noise_ratio(nu) for nu in (10.0, 7.0, 4.0, 2.0, 1.0, 0.5)]
    builder = StepBuilder(edm, grid, models.prediction("noise", edm))
    solver = make("lms")
    for _ in range(4):
        solver.step(builder)
        builder.next_step()
    over = Interval(edm, grid[4], grid[5], "noise")
    nodes = [edm.noise_ratio(t) for t in grid[4:0:-1]]
    weights = clock_weights(nodes, lambda s: math.exp(-over.lam - s * over.h), over.y)
    assert solver.weights(builder, 3) == pytest.approx([over.scale * w for w in weights[1:]], rel=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 5, 10, 40])
def test_ddim_on_gaussian_data_on_the_arctan_grid(c: float, steps: int) -> None:
    """Data N(0, c^2), nu = c tan(theta) with equal steps of theta: the spread shrinks by cos(Theta / N)^N."""
    path = models.EDM()
    first, last = math.atan(80 / c), math.atan(0.002 / c)
    ratios = [c * math.tan(first + (last - first) * i / steps) for i in range(steps + 1)]
    grid = [path.time_at_noise_ratio(min(nu, 80.0)) for nu in ratios]
    oracle = models.GaussianOracle([0.0], [[c * c]], path)
    x0 = torch.tensor([[math.hypot(80.0, c)]], dtype=torch.float64)  # one standard deviation
    x = pf.sample(oracle.model(), x0, solver="ddim", grid=grid)
    exact = math.cos((first - last) / steps) ** steps
    assert x.item() / math.hypot(0.002, c) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "path", [models.DiscreteDDPM.linear(), models.DiscreteDDPM.squaredcos_cap_v2(), models.Cosine(), VP], ids=repr
)
def test_ddim_is_the_closed_map_of_gaussian_data_at_every_step(path: models.Interpolant) -> None:
    """For N(m, c^2): x' = alpha' m + (x - alpha m) (alpha alpha' c^2 + sigma sigma') / (alpha^2 c^2 + sigma^2)."""
    m, c, x = 0.7, 0.4, torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    seen, grid = pf.Trajectory(), [k / 50 for k in range(51)]
    oracle = models.GaussianOracle([m], [[c * c]], path)
    pf.sample(oracle.model("noise" if path.alpha(0) else "denoised"), x, solver="ddim", grid=grid, hooks=[seen])
    for (t, later), state in zip(itertools.pairwise(grid), seen.states, strict=True):
        (a, s, _, _), (b, r, _, _) = path(t), path(later)
        x = b * m + (x - a * m) * ((a * b * c * c + s * r) / (a * a * c * c + s * s))
        assert (state - x).abs().max() < 1e-12
        x = state


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_repeated_steps_of_ddim_go_back_by_the_noising_process(eta: float) -> None:
    oracle, x = models.reference_mixture("vp"), torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(3, 2)
    grid = (0.1, 0.4, 0.8, 1.0)
    repeated = solvers.solver("ddim", eta=eta, repeats=3)
    run = pf.sample(oracle.model("noise"), x, solver=repeated, grid=grid, seed=2)
    assert pf.make_plan(oracle.model("noise"), solver=repeated, grid=grid).nfe == 3 + 3 + 1
    for step, (t, later) in enumerate(itertools.pairwise(grid)):
        (a, s, _, _), (b, r, _, _) = oracle.interpolant(t), oracle.interpolant(later)
        stages = itertools.count()

        def z(step: int = step, stages: itertools.count = stages) -> torch.Tensor:
            draw = pf.kernels.Draw(pf.kernels.PURPOSE_DIFFUSION, step, next(stages))
            return pf.kernels.normal((3, 2), seed=2, draw=draw, dtype=torch.float64)

        fresh = eta**2 * (1 - (a * r / (b * s)) ** 2)
        for again in range(3 if r else 1):
            if again:
                x = a / b * x + math.sqrt(s**2 - (a * r / b) ** 2) * z()
            x = b * oracle.denoised(x, t) + r * math.sqrt(1 - fresh) * oracle.noise(x, t)
            x = x + r * math.sqrt(fresh) * z() if fresh and r else x
    assert (run - x).abs().max() < 1e-12
    with pytest.raises(ArgumentError, match="repeats: got 0, expected an integer of at least 1"):
        solvers.solver("ddim", repeats=0)


# --- orders of variants ----------------------------------------------------------------------------------------

VARIANTS = [
    "dpmpp_2m variant=heun",
    "dpm_solver_2m variant=heun",
    "dpm_solver_2m solver_order=3 curvature=exact start=accurate",
    "dpm_solver3 variant=heun",
    "dpm_blocks variant=heun form=noise",
    "unipc3 corrector= start=accurate lower_order_final=auto",
    "unipc predictor= lower_order_final=auto",
    "unipc variant=bh1 form=noise start=accurate lower_order_final=auto",
    "lms solver_order=3 start=accurate",
    "deis_tab2 clock=lambda start=accurate",
    "dpmpp_3m euler_at_final=1",
]


@pytest.mark.parametrize("text", VARIANTS)
def test_order_of_variants(text: str) -> None:
    solver = make(text)
    problem = gaussian_flow()
    steps = (64, 128, 256) if solver.order == 3 else (32, 64, 128)
    assert shows_order([problem.error(solver, n) for n in steps], solver.order)


@pytest.mark.parametrize("name", ["dpmpp_3m_exact", "deis_tab2", "deis_tab3", "lms"])
def test_a_low_order_start_caps_the_order_at_two(name: str) -> None:
    """Its one first-order step leaves c h^2: between 64 and 256 steps the mean slope is far from 3."""
    solver = solvers.solver(name, start="low_order")
    assert solver.order == 2
    problem = mixture_flow()
    slope = math.log2(problem.error(solver, 128) / problem.error(solver, 256))
    assert 1.9 < slope < 2.45


@pytest.mark.parametrize(
    ("text", "order"),
    [("dpmpp_2m", 2), ("dpmpp_3m", 2), ("dpmpp_3m_exact", 3), ("dpmpp_3m_exact start=low_order", 2), ("unipc", 2),
     ("unipc lower_order_final=auto", 3), ("unipc3 lower_order_final=auto", 3), ("unipc predictor=", 2), ("lms", 2),
     ("unipc3 lower_order_final=never start=accurate", 4), ("lms start=accurate", 4), ("deis_tab1", 2),
     ("dpmpp_3m_exact euler_at_final=1", 2), ("dpm_blocks solver_order=3", 2), ("unipc solver_order=1 corrector=", 1)],
)  # fmt: skip
def test_declared_orders(text: str, order: int) -> None:
    assert make(text).order == order


# --- starts, ends, errors --------------------------------------------------------------------------------------

MULTISTEP = ["dpmpp_2m", "dpmpp_3m", "dpmpp_3m_exact", "dpm_solver_2m", "unipc", "unipc3", "deis_tab3", "lms"]


def orders_used(text: str, steps: int, stop: float = 0.9) -> list[int]:
    """How many estimates each step's last combination uses, the state apart."""
    grid = [0.1 + (stop - 0.1) * i / steps for i in range(steps + 1)]
    plan, counts, quantities = solvers.plan(make(text), grid, VP), [], set()
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            quantities |= {r for r, q in zip(instruction.outs, instruction.labels, strict=True) if q == "denoised"}
        elif isinstance(instruction, Combine):
            last = instruction
        elif isinstance(instruction, Boundary):
            counts.append(len(quantities & set(last.inputs)))
    return counts


def test_orders_at_the_start_and_at_the_end() -> None:
    assert orders_used("dpmpp_3m", 6) == [1, 2, 3, 3, 2, 1]
    assert orders_used("dpmpp_3m", 15)[-3:] == [3, 3, 3]
    assert orders_used("dpmpp_3m", 15, stop=1.0)[-3:] == [3, 3, 1]
    assert orders_used("dpmpp_3m lower_order_final=always", 15)[-3:] == [3, 2, 1]
    assert orders_used("dpmpp_3m lower_order_final=never", 6) == [1, 2, 3, 3, 3, 3]
    assert orders_used("dpmpp_3m euler_at_final=1", 15)[-3:] == [3, 3, 1]


@cache
def full_range() -> tuple[torch.Tensor, torch.Tensor, float]:
    """Pure noise, where the mixture's flow takes it, and the error of 40 steps of Euler's method."""
    oracle = models.reference_mixture()
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    exact = pf.sample(oracle.model(), x0, solver="rk4", steps=200)
    return x0, exact, rms(pf.sample(oracle.model(), x0, solver="euler", steps=40) - exact)


@pytest.mark.parametrize("kind", ["velocity", "denoised"])
@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("start", ["low_order", "accurate"])
def test_from_pure_noise_to_clean_data_on_the_linear_interpolant(name: str, kind: str, start: str) -> None:
    """alpha(0) = 0 and sigma(1) = 0: first-order steps at both ends, and the error is that of a sensible run."""
    (x0, exact, euler), oracle, solver = full_range(), models.reference_mixture(), solvers.solver(name, start=start)
    coarse, fine = (rms(pf.sample(oracle.model(kind), x0, solver=solver, steps=n) - exact) for n in (20, 40))
    assert fine < coarse
    assert fine < 0.5 * euler


@pytest.mark.parametrize("name", [*MULTISTEP, "dpm_solver3", "dpmpp_3s", "dpm_blocks", "edm_heun", "dpm2", "pndm"])
def test_forth_and_back(name: str) -> None:
    """From noise to data and back to where alpha = 0, with one network that tells both ends."""
    (x0, _, _), oracle, trips = full_range(), models.reference_mixture(), []
    for steps in (30, 60):
        x1 = pf.sample(oracle.model(), x0, solver=name, steps=steps)
        trips.append((pf.sample(oracle.model(), x1, solver=name, steps=steps, backward=True) - x0).abs().mean().item())
    assert trips[1] < 0.7 * trips[0]
    assert trips[1] < 0.1


@pytest.mark.parametrize("name", MULTISTEP)
def test_one_evaluation_a_step(name: str) -> None:
    for steps in (3, 10, 20):
        solver = solvers.solver(name, start="low_order")
        for stop in (0.9, 1.0):
            grid = [0.1 + (stop - 0.1) * i / steps for i in range(steps + 1)]
            assert solvers.plan(solver, grid, VP, prediction=models.prediction("noise", VP)).nfe == steps


@pytest.mark.parametrize(("name", "extra"), [("pndm", 9), ("plms", 1)])
def test_evaluations_of_pndm(name: str, extra: int) -> None:
    assert solvers.plan(solvers.solver(name), GRID, VP).nfe == len(GRID) - 1 + extra


@pytest.mark.parametrize("evaluations", range(3, 31))
@pytest.mark.parametrize("order", [2, 3])
def test_blocks_spend_the_budget_exactly(order: int, evaluations: int) -> None:
    grid = [*(0.1 + 0.9 * i / evaluations for i in range(evaluations)), 1.0]
    solver = solvers.solver("dpm_blocks", solver_order=order)
    assert solvers.plan(solver, grid, VP, prediction=models.prediction("noise", VP)).nfe == evaluations
    places = solver.places(evaluations)  # type: ignore[attr-defined]
    assert places[-1] == 1 or places[-1] == evaluations % order


@pytest.mark.parametrize(
    ("name", "options", "argument"),
    [
        ("dpmpp_2m", {"solver_order": 4}, "solver_order"),
        ("dpmpp_2m", {"form": "x0"}, "form"),
        ("dpmpp_2m", {"variant": "ralston"}, "variant"),
        ("dpmpp_2m", {"curvature": "half"}, "curvature"),
        ("dpmpp_2m", {"lower_order_final": "yes"}, "lower_order_final"),
        ("dpmpp_2m", {"start": "late"}, "start"),
        ("dpm_solver3", {"r": (0.5,)}, "r: got"),
        ("dpm_solver3", {"r": (0.3, 0.8)}, "r: got"),
        ("dpm_solver2", {"r": (1.5,)}, "r: got"),
        ("dpm_solver2", {"variant": "x"}, "variant"),
        ("dpm_solver2", {"solver_order": 4}, "solver_order"),
        ("dpm_blocks", {"solver_order": 4}, "solver_order"),
        ("dpm_blocks", {"variant": "x"}, "variant"),
        ("unipc", {"variant": "bh3"}, "variant"),
        ("lms", {"solver_order": 5}, "solver_order"),
        ("lms", {"clock": "sigma"}, "clock"),
        ("pndm", {"start": "late"}, "start"),
    ],
)
def test_options_out_of_range_are_named(name: str, options: dict[str, object], argument: str) -> None:
    with pytest.raises(ArgumentError, match=argument):
        solvers.solver(name, **options)


def test_several_quantities_can_be_remembered() -> None:
    builder = StepBuilder(VP, GRID, models.prediction("noise", VP))
    denoised, noise = builder.denoised(builder.x, builder.t), builder.noise_prediction(builder.x, builder.t)
    builder.advance(builder.x, remember=(denoised, noise))
    builder.next_step()
    assert builder.history(1) == denoised
    assert builder.history(1, 1) == noise
    with pytest.raises(PlanError, match="item: got 2"):
        builder.history(1, 2)
