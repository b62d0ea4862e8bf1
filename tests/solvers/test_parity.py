"""Against independent implementations, and against ourselves in another dialect."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

import pushforward as pf
from pushforward import models
from pushforward.models.adapters.diffusers import read_scheduler

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers
    import torchdiffeq

SHAPE = (3, 4, 8, 8)
EXPONENTIAL = [
    name for name, solver in pf.solvers.solvers() if type(solver).__module__.startswith(pf.solvers.exponential.__name__)
]
KINDS = ["velocity", "denoised", "noise", "score", "v", "edm"]


def start(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=dtype)


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Nonlinear, time-dependent, with an output of the size of its input's noise."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.tanh(x * (1 + 0.3 * t)) - 0.2 * torch.roll(x, 1, -1) * t


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("kind", ["Euler", "Heun"])
def test_flow_matching_schedulers_of_diffusers(kind: str, steps: int) -> None:
    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")(shift=3.0)
    scheduler.set_timesteps(steps)
    x = start()
    theirs = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None] / 1000), t, x, return_dict=False)[0]
        theirs.append(x)
    sigmas = list(dict.fromkeys(scheduler.sigmas.double().tolist()))  # Heun's repeats the inner ones
    ends = theirs[1::2] + theirs[-1:] if kind == "Heun" else theirs
    model = models.adapt(network, "velocity", time="1-t", sign=-1)
    path = pf.Trajectory()
    last = "denoise" if kind == "Heun" else "auto"  # theirs ends with an Euler step
    pf.sample(model, start(), solver=kind.lower(), grid=[1 - s for s in sigmas], last_step=last, hooks=[path])
    assert len(path.states) == steps == len(ends)
    assert max(relative(a, b) for a, b in zip(path.states, ends, strict=True)) < 1e-5


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ddim_of_diffusers(prediction_type: str, schedule: str, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction_type, beta_schedule=schedule, clip_sample=False)
    scheduler.set_timesteps(steps)
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None] / 1000), t, x, return_dict=False)[0]
        theirs.append(x)
    read = read_scheduler(scheduler)
    model = models.adapt(lambda x, index: network(x, index / 1000), read)
    grid = [read.interpolant.time_of_index(int(i)) for i in scheduler.timesteps] + [1.0]
    path = pf.Trajectory()
    pf.sample(model, start(), solver="ddim", grid=grid, hooks=[path])
    assert max(relative(a, b) for a, b in zip(path.states, theirs, strict=True)) < 1e-5


def test_ddim_of_diffusers_with_clipping() -> None:
    """Their clip_sample with the noise recomputed from the clipped estimate is our transform."""
    scheduler = diffusers.DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(10)
    x = start()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t[None] / 1000), t, x, use_clipped_model_output=True, return_dict=False)[0]
    read = read_scheduler(scheduler)
    grid = [read.interpolant.time_of_index(int(i)) for i in scheduler.timesteps] + [1.0]
    ours = pf.sample(
        models.adapt(lambda x, index: network(x, index / 1000), read),
        start(), solver="ddim", grid=grid, transform=lambda denoised, t: denoised.clamp(-1, 1),
    )  # fmt: skip
    assert relative(ours, x) < 1e-5


@pytest.mark.parametrize(("ours", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("rk38", "rk4")])
def test_fixed_grid_solvers_of_torchdiffeq(ours: str, theirs: str) -> None:
    times = torch.tensor([0.05, 0.2, 0.3, 0.55, 0.8], dtype=torch.float64)
    x0 = start(torch.float64)
    exact = torchdiffeq.odeint(lambda t, x: network(x, t[None]), x0, times, method=theirs)
    path = pf.Trajectory()
    pf.sample(models.adapt(network), x0, solver=ours, grid=times.tolist(), hooks=[path])
    assert max(relative(a, b) for a, b in zip(path.states, exact[1:], strict=True)) < 1e-13


@pytest.mark.parametrize(
    "name", ["euler", "heun", "rk4", "ab3", "abm3", "pseudo_corrector", "ddim", "stochastic_heun", *EXPONENTIAL]
)
@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear(), models.Cosine(), models.EDM()], ids=str)
def test_every_prediction_of_one_distribution_gives_one_trajectory(name: str, path: models.Interpolant) -> None:
    oracle = models.reference_mixture(path)
    x0 = oracle.sample(16, seed=1, t=0.1)
    grid = [0.1, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95]
    ends = {kind: pf.sample(oracle.model(kind), x0, solver=name, grid=grid, seed=4) for kind in KINDS}
    for a, b in itertools.combinations(KINDS, 2):
        assert relative(ends[a], ends[b]) < 1e-10, (a, b)


def test_a_network_serves_solvers_on_another_path() -> None:
    """DDIM depends on the noise ratio alone: on any path, the same samples up to the scale of the state."""
    oracle = models.reference_mixture(models.VPLinear())
    linear = models.Linear()
    ratios = [20.0, 8.0, 3.0, 1.0, 0.3, 0.05]
    ends = {}
    for path in (models.VPLinear(), linear, models.EDM()):
        grid = [path.time_at_noise_ratio(nu) for nu in ratios]
        x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * path.sigma(grid[0])
        x = pf.sample(oracle.model("noise").on(path), x0, solver="ddim", grid=grid)
        ends[path.name] = x / path.alpha(grid[-1])
    assert relative(ends["linear"], ends["vp"]) < 1e-9
    assert relative(ends["edm"], ends["vp"]) < 1e-9


def test_ddim_is_euler_where_it_should_be() -> None:
    """In t on the linear interpolant, in the noise level for EDM."""
    for path in (models.Linear(), models.EDM()):
        oracle = models.reference_mixture(path)
        x0 = oracle.sample(8, seed=1, t=0.2)
        grid = [0.2, 0.5, 0.7, 0.9, 1.0]
        euler, ddim = (pf.sample(oracle.model("denoised"), x0, solver=name, grid=grid) for name in ("euler", "ddim"))
        assert relative(euler, ddim) < 1e-12


def test_guided_gaussians_follow_their_closed_form() -> None:
    """Equal spreads: x_1 = m_u + w (m_c - m_u) + s x_0 for every weight (here by RK4, 200 steps)."""
    cond, null, spread = 1.5, -0.5, 0.6
    oracles = {m: models.GaussianOracle([m], [[spread**2]]) for m in (cond, null)}

    def both(x: torch.Tensor, t: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        return torch.where(which[:, None] == 1, *(oracles[m].velocity(x, float(t[0])) for m in (cond, null)))

    model = models.adapt(both, null={"which": torch.tensor([0])})
    x0 = start(torch.float64).reshape(-1, 1)[:32]
    for weight in (-1.0, 0.0, 0.5, 1.0, 3.0, 7.5):
        x = pf.sample(model, x0, solver="rk4", steps=200, guidance=weight, condition={"which": torch.tensor([1])})
        assert (x - (null + weight * (cond - null) + spread * x0)).abs().max() < 1e-8


SAMPLERS = {"rk4": 20, "pseudo_corrector": 40, "stochastic_heun": 40, "euler_maruyama": 160}


def test_samples_of_a_mixture_match_exact_samples() -> None:
    """Sliced Wasserstein distance at 10,000 points, within three deviations of that between two exact samples."""
    import ot

    oracle = models.reference_mixture()

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), n_projections=64, seed=3)

    exact = [oracle.sample(10_000, seed=seed) for seed in range(100, 106)]
    noise = torch.tensor([distance(a, b) for a, b in itertools.combinations(exact, 2)])
    for solver, steps in SAMPLERS.items():
        ours = pf.sample(oracle.model(), (10_000, 2), solver=solver, steps=steps, dtype=torch.float64, seed=1)
        ours_to_exact = sum(distance(ours, e) for e in exact) / len(exact)
        assert ours_to_exact < noise.mean() + 3 * noise.std(), solver
    coarse = pf.sample(oracle.model(), (10_000, 2), solver="euler", steps=5, dtype=torch.float64, seed=1)
    assert distance(coarse, exact[0]) > noise.mean() + 10 * noise.std(), "the distance sees what a coarse solver does"
