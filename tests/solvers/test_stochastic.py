"""What ties the stochastic samplers to each other, to the paths, and to their rules at the ends."""

from __future__ import annotations

import dataclasses
import itertools
import math

import linear_response
import nonlinear_response
import numpy as np
import pytest
import torch
from consistency import statistics
from mutation import SCALAR, variance_errors
from problems import shows_order, shows_weak_order

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, SingularTimeError
from pushforward.kernels import Draw
from pushforward.solvers import FixedGridSolver, StepBuilder
from pushforward.solvers.plan import Combine
from pushforward.solvers.sde import CIFAR10, IMAGENET64, RestartInterval, Tau

STOCHASTIC = {name: solver for name, solver in solvers.solvers() if solver.stochastic}
GRID = [0.1, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 1.0]


def end(solver: FixedGridSolver, path: models.Interpolant, nus: list[float] | None = None) -> torch.Tensor:
    """Samples of the reference mixture on a grid of times, or of noise ratios, divided by alpha."""
    oracle = models.reference_mixture(models.VPLinear())
    grid = [path.time_at_noise_ratio(nu) for nu in nus] if nus else GRID
    x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * path.sigma(grid[0])
    return pf.sample(oracle.model("noise").on(path), x0, solver=solver, grid=grid, seed=4) / path.alpha(grid[-1])


def named(name: str, **options: object) -> FixedGridSolver:
    return solvers.solver(name, **options)


# --- one method under several names, in its limits ----------------------------------------------------------------

SAME = {
    "ancestral Euler is DDIM": (named("euler_ancestral", eta=0.7), named("ddim", eta=0.7)),
    "DDPM is DDIM with all of its noise": (named("ddpm"), named("ddim", eta=1.0)),
    "SEEDS-1 is too": (named("seeds1"), named("ddim", eta=1.0)),
    "SA-Solver of one node is too": (named("sa_solver", predictor=1, corrector=0, tau=1.0), named("ddim", eta=1.0)),
    "and without noise DDIM": (named("sa_solver", predictor=1, corrector=0, tau=0.0), named("ddim")),
    "two nodes are 2M": (
        named("sa_solver", predictor=2, corrector=0, tau=1.0, few_steps=False, lower_order_final="never"),
        named("dpmpp_2m_sde", solver_type="heun", lower_order_final="never"),
    ),
    "2M without noise": (named("dpmpp_2m_sde", eta=0.0), named("dpmpp_2m")),
    "3M without noise": (named("dpmpp_3m_sde", eta=0.0), named("dpmpp_3m", variant="heun")),
    "exact 3M without noise": (
        named("dpmpp_3m_sde", eta=0.0, curvature="exact"),
        named("dpmpp_3m", variant="heun", curvature="exact"),
    ),
    "2S without noise": (named("dpmpp_sde", eta=0.0), named("dpmpp_2s")),
    "ancestral 2S without noise": (named("dpmpp_2s_ancestral", eta=0.0), named("dpmpp_2s")),
    "SEEDS-2 without noise": (named("seeds2", tau=0.0), named("dpmpp_2s")),
    "EDM without churn": (named("edm_stochastic", s_churn=0.0), named("edm_heun")),
    "DPM2 without churn": (named("dpm2_churn", s_churn=0.0), named("dpm2")),
    "ancestral DPM2 without noise": (named("dpm2_ancestral", eta=0.0), named("dpm2")),
    "Euler without churn is DDIM": (named("euler_churn", s_churn=0.0), named("ddim")),
    "no restarts": (named("restart", intervals=()), named("edm_heun")),
}


@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear(), models.EDM()], ids=str)
@pytest.mark.parametrize("pair", SAME)
def test_methods_coincide_where_they_should(pair: str, path: models.Interpolant) -> None:
    nus = [9.0, 5.7, 2.3, 1.0, 0.43, 0.18, 0.05]
    ours, theirs = (end(solver, path, nus) for solver in SAME[pair])
    assert (ours - theirs).abs().max() < 1e-12 * theirs.abs().max() / path.alpha(path.time_at_noise_ratio(nus[0]))


IN_TIME = {"euler_maruyama", "stochastic_heun"}  # integrators of an SDE in t, as opposed to steps in the noise ratio


def in_noise_ratio() -> dict[str, FixedGridSolver]:
    """Registered samplers whose options do not refer to times or to a diffusion in time."""
    found = {name: s for name, s in STOCHASTIC.items() if not hasattr(s, "diffusion")}
    return found | {"sa_solver": named("sa_solver", tau=0.8), "ddpm_large": named("ddpm", variance="fixed_large")}


@pytest.mark.parametrize("name", in_noise_ratio())
def test_another_path_is_another_grid_and_not_another_process(name: str) -> None:
    solver, nus = in_noise_ratio()[name], [9.0, 5.7, 2.3, 1.0, 0.43, 0.18, 0.05]
    first, *others = (end(solver, path, nus) for path in (models.VPLinear(), models.Linear(), models.EDM()))
    for other in others:
        assert (first - other).abs().max() < 1e-9


@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear()], ids=str)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_prediction_gives_the_same_samples(name: str, path: models.Interpolant) -> None:
    oracle = models.reference_mixture(path)
    x0 = oracle.sample(8, seed=1, t=0.1)
    kinds = ("velocity", "denoised", "noise", "score", "v", "edm")
    first, *others = (pf.sample(oracle.model(k), x0, solver=STOCHASTIC[name], grid=GRID, seed=4) for k in kinds)
    for other in others:
        assert (first - other).abs().max() < 1e-10


@pytest.mark.parametrize("name", STOCHASTIC)
def test_one_pass_over_memory_an_evaluation(name: str) -> None:
    """Noise, history and conversions included; one pass more where the first evaluation is at a perturbed start."""
    for kind in ("velocity", "noise"):
        read = models.prediction(kind, models.Linear())
        plan = solvers.plan(STOCHASTIC[name], GRID[:-1], prediction=read).lower(read).optimise()
        assert plan.cost((1,)).passes == plan.nfe + isinstance(plan.instructions[0], Combine)


# --- ends ---------------------------------------------------------------------------------------------------------

PATHS = [models.Linear(), models.VPLinear(), models.Cosine(), models.EDM(), models.VE(), models.DiscreteDDPM.linear()]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("name", STOCHASTIC)
def test_every_sampler_is_finite_on_every_grid(name: str, path: models.Interpolant) -> None:
    """From the noisiest time that the path has, through few and many steps, to clean data or just before it."""
    oracle = models.reference_mixture(path)
    low = 2 * path.noise_ratio(1.0) or 0.02
    for steps, stop in itertools.product((1, 2, 6), (0.0, low)):
        if name == "restart" and steps < 5:
            continue  # needs a grid point on either side of its interval
        high = min(path.noise_ratio(path.t_min), 300.0)
        inner = [path.time_at_noise_ratio(high * (low / high) ** (i / steps)) for i in range(1, steps + 1)]
        grid = [path.t_min, *inner[:-1], 1.0 if stop == 0 else inner[-1]]
        x0 = path.sigma(grid[0]) * torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        x = pf.sample(oracle.model(), x0, solver=STOCHASTIC[name], grid=grid)
        assert x.isfinite().all(), (steps, stop)


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "seeds1", "seeds2"])
def test_exponential_steps_do_not_start_at_clean_data(name: str) -> None:
    """From data to noise they begin after it, and end in the noise estimate at pure noise."""
    with pytest.raises(SingularTimeError, match=r"t: got 1\.0"):
        solvers.plan(STOCHASTIC[name], [1.0, 0.9, 0.5])
    assert "clean estimate" in solvers.plan(STOCHASTIC[name], [0.9, 0.5, 0.0]).notes[0]


# --- noise of stages, and when the network is asked -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Independent(FixedGridSolver):
    """The two-stage method with noise of its own in the second stage, of the right size but another path."""

    original: FixedGridSolver
    source = "a mistake"
    stochastic = True

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.original.order

    def step(self, s: StepBuilder) -> None:
        self.original.step(s)
        last = max(i for i, x in enumerate(s.instructions) if isinstance(x, Combine))
        combine = s.instructions[last]
        fresh = tuple(Draw(d.purpose, d.step, d.stage + 7) for d in combine.draws)
        s.instructions[last] = dataclasses.replace(combine, draws=fresh)


@pytest.mark.parametrize("name", ["dpmpp_sde", "seeds2"])
def test_stages_must_share_their_path(name: str) -> None:
    steps = (32, 64, 128)
    assert shows_order(variance_errors(named(name), steps), 2)
    assert shows_order(variance_errors(Independent(named(name)), steps), 1, 0.1)


@pytest.mark.parametrize("name", ["edm_stochastic", "euler_churn", "dpm2_churn"])
def test_churn_perturbs_first_and_asks_at_the_raised_noise(name: str) -> None:
    path = models.EDM()
    nus = [10.0, 4.0, 1.0, 0.1]
    grid = [path.time_at_noise_ratio(nu) for nu in nus]
    plan = solvers.plan(named(name, s_churn=0.6, s_tmin=0.5, s_tmax=5.0), grid, path)
    firsts = [next(e for e in plan.evaluations if e.step == i) for i in range(3)]
    raised = [path.noise_ratio(e.time) for e in firsts]
    assert raised == pytest.approx([10.0, 4.8, 1.2], rel=1e-9)  # gamma = 0.6 / 3 within the range
    assert len({d for i in plan.instructions if isinstance(i, Combine) for d in i.draws}) == 2


def test_churn_stays_in_the_range_of_the_path() -> None:
    path = models.DiscreteDDPM.linear()
    grid = [path.time_of_index(i) for i in (999, 700, 300, 0)]
    plan = solvers.plan(named("euler_churn", s_churn=30.0), grid, path)
    assert min(e.time for e in plan.evaluations) >= path.time_of_index(999)
    assert solvers.plan(named("euler_churn", s_churn=30.0), [0.0, 0.5, 1.0]).evaluations[0].time == 0.0
    gamma = path.noise_ratio(plan.evaluations[1].time) / path.noise_ratio(grid[1])
    assert gamma == pytest.approx(math.sqrt(2))  # the cap


# --- nonlinear data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nonlinear_response.one_step_samplers())
def test_weak_order_on_data_of_two_modes(name: str) -> None:
    """Linear response sees linear mistakes only; here the expectations are those of a mixture, by quadrature."""
    errors = np.array([nonlinear_response.errors(STOCHASTIC[name], n) for n in (8, 16, 32)])
    order = STOCHASTIC[name].order
    slopes = np.log2(errors[:-1] / errors[1:])
    assert (slopes[1] > order - 0.25).all(), slopes


# --- restart ------------------------------------------------------------------------------------------------------


def edm_grid(steps: int) -> tuple[models.Interpolant, tuple[float, ...]]:
    path = models.EDM()
    return path, solvers.Karras()(steps, path)


def test_restart_counts_its_evaluations_as_the_paper_does() -> None:
    for steps, intervals, nfe in ((36, IMAGENET64, 203), (18, CIFAR10, 35 + 2 * 2 * 2)):
        path, grid = edm_grid(steps)
        assert solvers.plan(named("restart", intervals=intervals, s_noise=1.003), grid, path).nfe == nfe


@pytest.mark.parametrize("times", [1, 3])
def test_a_restart_contracts_errors_and_keeps_the_marginal(times: int) -> None:
    """On N(mu, c^2) by sqrt((nu_min^2 + c^2) / (nu_max^2 + c^2)) each; 60 Heun steps down leave an error of 1e-4."""
    path, low, high, spread = models.EDM(), 0.3, 1.5, 0.5
    oracle = models.GaussianOracle([0.7], [[spread**2]], path)
    nus = [2.0 * (low / 2.0) ** (i / 60) for i in range(61)] + [0.2]
    grid = [path.time_at_noise_ratio(nu) for nu in nus]
    x0 = torch.tensor([[0.3], [1.3]], dtype=torch.float64)

    def gap(intervals: tuple) -> float:
        same = torch.zeros(2, dtype=torch.int64)  # the same noise for both
        x = pf.sample(oracle.model(), x0, solver=named("restart", intervals=intervals), grid=grid, samples=same)
        return (x[1] - x[0]).item()

    rho = math.sqrt((low**2 + spread**2) / (high**2 + spread**2))
    assert gap(((low, high, times, 61),)) / gap(()) == pytest.approx(rho**times, rel=1e-3)
    mean, variance = statistics(named("restart", intervals=((low, high, times, 61),)), grid, oracle)
    exact = linear_response.marginal(oracle, grid[-1])
    assert (mean, variance) == (pytest.approx(exact[0], abs=1e-12), pytest.approx(exact[1], rel=5e-3))


def test_restart_refuses_intervals_outside_its_grid() -> None:
    path, grid = edm_grid(10)
    for interval in ((0.0001, 0.3), (1.0, 90.0), (0.3, 0.301)):
        with pytest.raises(ArgumentError, match=r"interval|nu_max"):
            solvers.plan(named("restart", intervals=(interval,)), grid, path)
    for wrong in ((0.3, 0.2), (0.3, 0.5, 0), (0.3, 0.5, 1, 1)):
        with pytest.raises(ArgumentError):
            RestartInterval(*wrong)


# --- consistency, DDPM, tau -------------------------------------------------------------------------------------


def test_consistency_sampling_is_exact_for_a_consistency_function_only() -> None:
    grid = [0.1, 0.3, 0.6, 0.8]
    exact = linear_response.marginal(SCALAR, 0.8)
    assert statistics(named("lcm"), grid, SCALAR) == pytest.approx(exact, rel=1e-13)
    read = SCALAR.model().prediction
    short = linear_response.response(solvers.plan(named("lcm"), grid).lower(read), SCALAR)[1]
    assert short < 0.8 * exact[1]  # with a posterior mean, the variance of the data is lost


def test_ddpm_variances_enclose_the_exact_one() -> None:
    """For data at a point the small variance is exact, for unit normal data the large one."""
    grid = [0.1, 0.4, 0.6, 0.8]
    path = models.VPLinear()
    for spread, exact in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        oracle = models.GaussianOracle([0.7], [[spread]], path)
        variances = {v: statistics(named("ddpm", variance=v), grid, oracle)[1] for v in ("fixed_small", "fixed_large")}
        assert variances["fixed_small"] < variances["fixed_large"]
        assert variances[exact] == pytest.approx(linear_response.marginal(oracle, 0.8)[1], rel=1e-12)


def test_sa_solver_without_noise_has_the_order_of_its_corrector() -> None:
    """Three nodes at the predictor, four at the corrector; the first steps are taken at their own, lower order."""
    solver = named("sa_solver", tau=0.0, few_steps=False)
    assert shows_weak_order(variance_errors(solver, (32, 64, 128)), 2)
    steps = 64
    grid = [0.1 + 0.7 * i / steps for i in range(steps + 1)]
    plan = solvers.plan(solver, grid)
    assert plan.nfe == steps
    assert not any(i.draws for i in plan.instructions if isinstance(i, Combine))


def test_tau_is_a_function_of_time() -> None:
    assert [Tau(0.5)(t) for t in (0.1, 0.2, 0.8, 0.9)] == [0.0, 0.5, 0.5, 0.0]
    plan = solvers.plan(named("sa_solver"), [0.05, 0.1, 0.3, 0.6, 0.9, 0.95])
    drawn = {d.step for i in plan.instructions if isinstance(i, Combine) for d in i.draws}
    assert drawn == {1, 2}  # the steps that end at 0.3 and 0.6
    constant = solvers.plan(named("sa_solver", tau=lambda t: 0.4), GRID)
    assert constant.instructions == solvers.plan(named("sa_solver", tau=0.4), GRID).instructions


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("euler_ancestral", {"eta": 1.5}, "eta: got 1.5"),
        ("dpm2_ancestral", {"s_noise": -1.0}, "s_noise: got -1"),
        ("edm_stochastic", {"s_churn": -1.0}, "s_churn"),
        ("euler_churn", {"s_tmin": 2.0, "s_tmax": 1.0}, "s_tmax"),
        ("dpmpp_2m_sde", {"eta": -0.1}, "eta"),
        ("dpmpp_2m_sde", {"solver_type": "euler"}, "solver_type"),
        ("dpmpp_2m_sde", {"lower_order_final": True}, "lower_order_final"),
        ("dpmpp_3m_sde", {"curvature": "half"}, "curvature"),
        ("dpmpp_sde", {"r": 0.0}, "r: got 0"),
        ("seeds2", {"c": 1.1}, "c: got 1.1"),
        ("seeds1", {"tau": float("nan")}, "tau"),
        ("sa_solver", {"predictor": 0}, "predictor"),
        ("sa_solver", {"corrector": 5}, "corrector"),
        ("sa_solver", {"tau": -1.0}, "tau"),
        ("ddpm", {"variance": "unknown"}, "variance"),
        ("lcm", {"s_noise": -1.0}, "s_noise"),
    ],
)
def test_options_outside_their_range_are_refused(name: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        named(name, **options)
