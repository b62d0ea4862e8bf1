"""Stochastic samplers against diffusers' schedulers, with the same normals; docs/parity_stochastic.md explains more."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from consistency import statistics
from mutation import variance_errors

import pushforward as pf
from pushforward import models, solvers
from pushforward.kernels import PURPOSE_DIFFUSION, Draw, normal
from pushforward.models.adapters.diffusers import read_scheduler
from pushforward.solvers.exponential.coefficients import kernel_moments
from pushforward.solvers.plan import Expression, StepBuilder
from pushforward.solvers.sde.dpm_solver_sde import DPMSolverPP3MSDE, ExponentialStep

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers

# NumPy's notices to diffusers, whose tables are made of tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SHAPE, SEED = (2, 4, 8, 8), 5
STEPS = [10, 20, 50]
TOLERANCE = 1e-4  # float32 tables and arithmetic on their side, whose schedules span nu = 0.01 to 157


def network(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Nonlinear, time-dependent, with an output of the size of noise."""
    t = (index / 1000).reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.tanh(x * (1 + 0.3 * t)) - 0.2 * torch.roll(x, 1, -1) * t


def z(step: int, stage: int = 0) -> torch.Tensor:
    """The normals that our samplers draw."""
    return normal(SHAPE, seed=SEED, draw=Draw(PURPOSE_DIFFUSION, step, stage))


def start() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def made(kind: str, steps: int, **config: object) -> diffusers.SchedulerMixin:
    scheduler = getattr(diffusers, kind)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


class Theirs:
    """Drives a scheduler of diffusers; whatever it takes for random numbers are our normals of that step."""

    def __init__(self, scheduler: diffusers.SchedulerMixin, monkeypatch: pytest.MonkeyPatch, network=network) -> None:
        self.scheduler, self.index, self.network = scheduler, 0, network
        module = type(scheduler).__module__
        if module.rsplit(".", 1)[1] != "scheduling_dpmsolver_sde":
            monkeypatch.setattr(f"{module}.randn_tensor", lambda *a, **k: z(self.index))

    def run(self, x: torch.Tensor, stages: int = 1, **options: object) -> torch.Tensor:
        for call, t in enumerate(self.scheduler.timesteps):
            self.index = call // stages
            output = self.network(self.scheduler.scale_model_input(x, t), t[None])
            x = self.scheduler.step(output, t, x, return_dict=False, **options)[0]
        return x


def ours(
    scheduler: diffusers.SchedulerMixin,
    solver: str | solvers.FixedGridSolver,
    indices: list[float],
    end: float = 1.0,
    **options: object,
) -> torch.Tensor:
    """Our sampler on the times of these indices, then ``end``."""
    read = read_scheduler(scheduler)
    grid = [read.interpolant.time_of_index(int(i)) for i in indices] + [end]
    return pf.sample(
        models.adapt(network, read), start(), solver=solvers.solver(solver, **options), grid=grid, seed=SEED
    )


def scaled_start(scheduler: diffusers.SchedulerMixin) -> torch.Tensor:
    """Their state is x / alpha: the start of our variance-preserving one, in their units."""
    return start() * (scheduler.sigmas[0] ** 2 + 1) ** 0.5


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_euler_ancestral(spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made("EulerAncestralDiscreteScheduler", steps, timestep_spacing=spacing)
    x = Theirs(scheduler, monkeypatch).run(scaled_start(scheduler))
    assert relative(ours(scheduler, "euler_ancestral", scheduler.timesteps.tolist()), x) < TOLERANCE
    assert relative(ours(scheduler, "ddim", scheduler.timesteps.tolist(), eta=1.0), x) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
def test_dpm2_ancestral(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made("KDPM2AncestralDiscreteScheduler", steps, timestep_spacing="trailing")
    x = Theirs(scheduler, monkeypatch).run(scaled_start(scheduler), stages=2)
    assert relative(ours(scheduler, "dpm2_ancestral", scheduler.timesteps[::2].tolist()), x) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize(("order", "kind"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
def test_multistep_sde(order: int, kind: str, final: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made(
        "DPMSolverMultistepScheduler", steps, algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=kind,
        final_sigmas_type=final,
    )  # fmt: skip
    x = Theirs(scheduler, monkeypatch).run(start())
    solver = solvers.solver("seeds1") if order == 1 else solvers.solver("dpmpp_2m_sde", solver_type=kind)
    end = 1.0 if final == "zero" else read_scheduler(scheduler).interpolant.time_of_index(0)
    assert relative(ours(scheduler, solver, scheduler.timesteps.tolist(), end), x) < TOLERANCE


class WrongCurvature(DPMSolverPP3MSDE):
    """The three-step rule as diffusers has it: its curvature weighs mu_2 / 2 - 1, for a sign in front of the 1/2."""

    def drift(self, s: StepBuilder, e: ExponentialStep, d: Expression, available: int) -> Expression:
        total = super().drift(s, e, d, available)
        if available < 3:
            return total
        exact = DPMSolverPP3MSDE(curvature="exact").drift(s, e, d, available)
        return total - (2 / kernel_moments(e.y, 3)[2]) * (exact - total)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_three_step_sde(final: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs differs from the published formula by one sign, and by nothing else; "heun" for its two-step steps."""
    scheduler = made(
        "DPMSolverMultistepScheduler", steps, algorithm_type="sde-dpmsolver++", solver_order=3, solver_type="heun",
        final_sigmas_type=final,
    )  # fmt: skip
    x = Theirs(scheduler, monkeypatch).run(start())
    end = 1.0 if final == "zero" else read_scheduler(scheduler).interpolant.time_of_index(0)
    assert relative(ours(scheduler, WrongCurvature(), scheduler.timesteps.tolist(), end), x) < TOLERANCE
    assert relative(ours(scheduler, DPMSolverPP3MSDE(), scheduler.timesteps.tolist(), end), x) > 100 * TOLERANCE


def test_the_sign_in_their_three_step_rule_costs_accuracy() -> None:
    """On Gaussian data, 128 uniform steps: an error of the variance of 6.1e-5 against 3.6e-6."""
    assert variance_errors(WrongCurvature(), (128,))[0] > 10 * variance_errors(DPMSolverPP3MSDE(), (128,))[0]


@pytest.mark.parametrize("steps", STEPS)
def test_two_stage_sde(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their Brownian tree replaced by one path made of our two normals a step, in their clock, nu."""
    scheduler = made("DPMSolverSDEScheduler", steps, timestep_spacing="trailing")
    calls = iter(range(2 * steps))
    before = {}

    def increment(nu: torch.Tensor, nu_next: torch.Tensor) -> torch.Tensor:
        step, second = divmod(next(calls), 2)
        if not second:
            before[step] = nu - nu_next
            return z(step, 0)
        share = before[step] / (nu - nu_next)
        return share**0.5 * z(step, 0) + (1 - share) ** 0.5 * z(step, 1)

    scheduler.noise_sampler = increment
    x = Theirs(scheduler, monkeypatch).run(scaled_start(scheduler))
    assert relative(ours(scheduler, "dpmpp_sde", scheduler.timesteps[::2].tolist()), x) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(variance: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made("DDPMScheduler", steps, variance_type=variance, clip_sample=False)
    x = Theirs(scheduler, monkeypatch).run(start())
    assert relative(ours(scheduler, "ddpm", scheduler.timesteps.tolist(), variance=variance), x) < TOLERANCE


def test_ddpm_with_the_variance_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(x, index), torch.tanh(2 * x.flip(-1))], 1)  # variances all over [-1, 1]

    scheduler = made("DDPMScheduler", 10, variance_type="learned_range", clip_sample=False)
    x = Theirs(scheduler, monkeypatch, both).run(start())
    read = read_scheduler(scheduler)
    model = models.adapt(both, read, split_variance=True)
    grid = [*(read.interpolant.time_of_index(int(i)) for i in scheduler.timesteps.tolist()), 1.0]
    learned, fixed = (
        pf.sample(model, start(), solver=solvers.solver("ddpm", variance=variance), grid=grid, seed=SEED)
        for variance in ("learned", "fixed_large")
    )
    assert relative(learned, x) < TOLERANCE
    assert relative(fixed, x) > 50 * TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
def test_lcm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their boundary scaling mixes (0.5 / 10 t)^2 of the state into the estimate: 7e-6 at the last index, 19."""
    scheduler = made("LCMScheduler", steps, clip_sample=False)
    x = Theirs(scheduler, monkeypatch).run(start())
    assert relative(ours(scheduler, "lcm", scheduler.timesteps.tolist()), x) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("predictor", "corrector"), [(1, 1), (2, 2), (3, 3), (3, 4)])
@pytest.mark.parametrize("window", [True, False])
def test_sa_solver(predictor: int, corrector: int, window: bool, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """tau is theirs at the start of a step; it ends at the lowest trained level, not at clean data.

    Their weights are sums of exp(2 lambda) lambda^3 and such, which cancel: in float32 and 50 steps that is worth 8e-5
    with three nodes and 8e-4 with four. With the same tables in float64 it is gone.
    """
    tau = (lambda i: 1.0 if 200 <= i <= 800 else 0.0) if window else (lambda i: 0.7)
    scheduler = made("SASolverScheduler", steps, predictor_order=predictor, corrector_order=corrector, tau_func=tau)
    if corrector >= 3:
        scheduler.sigmas = scheduler.sigmas.double()
    x = Theirs(scheduler, monkeypatch).run(start())
    path = read_scheduler(scheduler).interpolant
    indices = [*scheduler.timesteps.tolist(), 0]
    at_end = {path.time_of_index(int(b)): tau(a) for a, b in itertools.pairwise(indices)}
    mine = ours(
        scheduler, "sa_solver", indices[:-1], path.time_of_index(0), predictor=predictor, corrector=corrector,
        tau=at_end.__getitem__,
    )  # fmt: skip
    assert relative(mine, x) < TOLERANCE


CHURN = {"s_churn": 8.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.007}


def churned(scheduler: diffusers.SchedulerMixin, perturb_first: bool) -> torch.Tensor:
    """EulerDiscrete with churn, the network asked before the perturbation (as pipelines do) or after it."""
    steps, x = len(scheduler.timesteps), scaled_start(scheduler)
    logs = torch.log(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod) ** 0.5).double().numpy()
    for i, t in enumerate(scheduler.timesteps):
        nu, seen = scheduler.sigmas[i].double(), x
        index = t.double()
        if perturb_first and CHURN["s_tmin"] <= nu <= CHURN["s_tmax"]:
            raised = nu * (1 + min(CHURN["s_churn"] / steps, math.sqrt(2) - 1))
            seen = x + CHURN["s_noise"] * (raised**2 - nu**2).float() ** 0.5 * z(i)
            nu, index = raised, torch.tensor(scheduler._sigma_to_t(raised.numpy(), logs))
        scheduler.scale_model_input(x, t)  # it insists
        output = network(seen / (nu.float() ** 2 + 1) ** 0.5, index[None])
        x = scheduler.step(output, t, x, return_dict=False, **CHURN)[0]
    return x


@pytest.mark.parametrize("steps", STEPS)
def test_churn(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = made("EulerDiscreteScheduler", steps, timestep_spacing="trailing")
    theirs = Theirs(scheduler, monkeypatch)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_euler_discrete.randn_tensor", lambda *a, **k: z(scheduler.step_index)
    )
    mine = ours(scheduler, "euler_churn", scheduler.timesteps.tolist(), **CHURN)
    assert relative(mine, churned(scheduler, perturb_first=True)) < TOLERANCE
    del theirs
    scheduler.set_timesteps(steps)
    assert relative(mine, churned(scheduler, perturb_first=False)) > 10 * TOLERANCE


def test_asking_before_the_perturbation_leaves_its_noise_in() -> None:
    """On N(0, 0.5^2), 20 steps of EDM's grid: deviations of 1.27 of the right one, and of 0.79 if it is asked after."""
    path, spread, steps = models.EDM(), 0.5, 20
    oracle = models.GaussianOracle([0.0], [[spread**2]], path)
    grid = solvers.Karras()(steps, path)
    variance = path.noise_ratio(grid[0]) ** 2 + spread**2
    for nu, nu_next in itertools.pairwise(map(path.noise_ratio, grid)):
        gamma = min(8.0 / steps, math.sqrt(2) - 1) if 0.05 <= nu <= 50 else 0.0
        raised = (1 + gamma) * nu
        slope = nu / (nu**2 + spread**2)  # of the noise estimate, at the noise level before
        variance = variance * (1 + (nu_next - raised) * slope) ** 2 + raised**2 - nu**2
    assert math.sqrt(variance) / spread == pytest.approx(1.2705, abs=1e-3)
    churn = solvers.solver("euler_churn", s_churn=8.0, s_tmin=0.05, s_tmax=50.0)
    ours = statistics(churn, grid, oracle)[1]
    assert math.sqrt(ours) / spread == pytest.approx(0.7925, abs=1e-3)
