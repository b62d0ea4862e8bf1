"""Deterministic schedulers of diffusers on their own timesteps: the same network, the same sample.

What differs, and why, stands beside each case and in docs/parity.md.
"""

from __future__ import annotations

import warnings

import pytest
import torch

import pushforward as pf
from pushforward import models
from pushforward.models.adapters.diffusers import read_scheduler

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2 reads tensors by an older protocol
    pytest.mark.filterwarnings("ignore:.*algorithm_type:FutureWarning"),  # they mean to drop the noise form
]

SHAPE = (2, 4, 8, 8)
STEPS = [10, 20, 50]
TOLERANCE = 1e-4  # theirs computes levels and weights in float32


def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Nonlinear, time-dependent, with an output of the size of its input's noise."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.tanh(x * (1 + 0.3 * t)) - 0.2 * torch.roll(x, 1, -1) * t


def start(scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def theirs(scheduler: diffusers.SchedulerMixin, x: torch.Tensor, unit: float = 1000.0) -> torch.Tensor:
    """The loop of a pipeline."""
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t.float()[None] / unit)
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


def levels(scheduler: diffusers.SchedulerMixin, *, clean: bool = True) -> tuple[models.Model, list[float]]:
    """Our model of the scheduler's network, and a grid of its timesteps, which goes on to clean data or to level 0."""
    model = models.adapt(lambda x, index: network(x, index / 1000), read_scheduler(scheduler))
    path = model.interpolant
    assert isinstance(path, models.DiscreteDDPM)
    indices = dict.fromkeys(int(t) for t in scheduler.timesteps)
    return model, [*(path.time_of_index(i) for i in indices), 1.0 if clean else path.time_of_index(0)]


def noise_levels(scheduler: diffusers.SchedulerMixin) -> tuple[models.Model, list[float]]:
    """The same for a scheduler whose state is x / alpha: the network's path is left for EDM's."""
    model = models.adapt(lambda x, index: network(x, index / 1000), read_scheduler(scheduler))
    path = models.EDM(sigma_max=200.0)
    sigmas = dict.fromkeys(s for s in scheduler.sigmas.double().tolist() if s > 0)
    return model.on(path), [*(path.time_at_noise_ratio(s) for s in sigmas), 1.0]


DPM = [(order, "midpoint") for order in (1, 2, 3)] + [(2, "heun")]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("order", "variant"), DPM)
@pytest.mark.parametrize("form", ["denoised", "noise"])
def test_dpm_solver_multistep(form: str, order: int, variant: str, steps: int) -> None:
    """Their curvature of order 3 is the published half of the second difference: ours does the same by default."""
    clean = form == "denoised"  # theirs refuses to end at sigma = 0 with the noise form
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++" if clean else "dpmsolver",
        solver_order=order,
        solver_type=variant,
        final_sigmas_type="zero" if clean else "sigma_min",
    )
    scheduler.set_timesteps(steps)
    model, grid = levels(scheduler, clean=clean)
    solver = pf.solvers.solver("dpmpp_2m", solver_order=order, variant=variant, form=form)
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


def test_dpm_solver_multistep_with_euler_at_the_end_and_with_v() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=3, euler_at_final=True, lower_order_final=False, final_sigmas_type="sigma_min",
        prediction_type="v_prediction", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
    )  # fmt: skip
    scheduler.set_timesteps(12)
    model, grid = levels(scheduler, clean=False)
    solver = pf.solvers.solver("dpmpp_3m", euler_at_final=True, lower_order_final="never")
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("order", "variant"), [*DPM, (3, "heun")])
@pytest.mark.parametrize("form", ["denoised", "noise"])
def test_dpm_solver_singlestep(form: str, order: int, variant: str, steps: int) -> None:
    """Their "singlestep" takes its inner nodes from the grid: blocks, not the inner nodes of the paper."""
    clean = form == "denoised"
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        lower_order_final=True,  # their default is False, which their set_timesteps overrules for most numbers of steps
        algorithm_type="dpmsolver++" if clean else "dpmsolver",
        solver_order=order,
        solver_type=variant,
        final_sigmas_type="zero" if clean else "sigma_min",
    )
    scheduler.set_timesteps(steps)
    model, grid = levels(scheduler, clean=clean)
    solver = pf.solvers.solver("dpm_blocks", solver_order=order, variant=variant, form=form)
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_singlestep_of_whole_blocks(order: int) -> None:
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type="dpmsolver", solver_order=order, final_sigmas_type="sigma_min", lower_order_final=False
    )
    scheduler.set_timesteps(18)
    model, grid = levels(scheduler, clean=False)
    solver = pf.solvers.solver("dpm_blocks", solver_order=order, form="noise", lower_order_final=False)
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("form", ["denoised", "noise"])
def test_unipc(form: str, variant: str, order: int, steps: int) -> None:
    """At sigma = 0 theirs computes 0 * inf in the noise form and with bh1: compared on a grid that ends at level 0."""
    clean = form == "denoised" and variant == "bh2"
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        predict_x0=form == "denoised",
        final_sigmas_type="zero" if clean else "sigma_min",
    )
    scheduler.set_timesteps(steps)
    model, grid = levels(scheduler, clean=clean)
    solver = pf.solvers.solver("unipc", solver_order=order, variant=variant, form=form)
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


def test_unipc_with_some_steps_uncorrected() -> None:
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=3, disable_corrector=[0, 2])
    scheduler.set_timesteps(10)
    model, grid = levels(scheduler)
    solver = pf.solvers.solver("unipc3", disable_corrector=(0, 2))
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int, steps: int) -> None:
    """Theirs interpolates in log(sigma / alpha), so it is the clock "lambda", not the paper's tAB ("t")."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order)
    scheduler.set_timesteps(steps)
    model, grid = levels(scheduler, clean=False)
    solver = pf.solvers.solver("deis_tab1", solver_order=order, clock="lambda")
    assert relative(pf.sample(model, start(), solver=solver, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("kind", "name"), [("LMS", "lms"), ("Heun", "edm_heun"), ("KDPM2", "dpm2")])
def test_methods_in_the_noise_level(kind: str, name: str, steps: int) -> None:
    """On whole timesteps ("leading").

    With "linspace" their index is fractional, sigma is interpolated linearly there and the index passed as it is; the
    rule that they use elsewhere, and ours, is linear in log sigma.
    """
    scheduler = getattr(diffusers, f"{kind}DiscreteScheduler")(timestep_spacing="leading", beta_schedule="linear",
                                                               beta_start=1e-4, beta_end=2e-2)  # fmt: skip
    scheduler.set_timesteps(steps)
    model, grid = noise_levels(scheduler)
    first = scheduler.sigmas.max().item()
    assert relative(pf.sample(model, start(first), solver=name, grid=grid), theirs(scheduler, start(first))) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("name", ["pndm", "plms"])
def test_pndm(name: str, to_one: bool, steps: int) -> None:
    """With "leading" spacing and noise predictions: theirs steps back by 1000 // n whatever the spacing.

    It also mixes v predictions of several times before converting them with the last time's alpha and sigma, which no
    choice of ours reproduces.
    """
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=name == "plms", steps_offset=1, set_alpha_to_one=to_one)
    scheduler.set_timesteps(steps)
    ratio = 1000 // steps
    model, _ = levels(scheduler)
    path = model.interpolant
    grid = [path.time_of_index(i) for i in range(1 + (steps - 1) * ratio, 0, -ratio)]
    grid.append(1.0 if to_one else path.time_of_index(0))
    assert relative(pf.sample(model, start(), solver=name, grid=grid), theirs(scheduler, start())) < TOLERANCE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("options", [{}, {"solver_order": 3}, {"solver_type": "heun"}, None], ids=str)
def test_edm(options: dict[str, object] | None, steps: int) -> None:
    """``None`` is EDMEulerScheduler, which is DDIM on this path."""
    if options is None:
        scheduler, solver = diffusers.EDMEulerScheduler(), pf.solvers.solver("ddim")
    else:
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(**options)
        named = {"solver_type": "variant"}
        solver = pf.solvers.solver("dpmpp_2m", **{named.get(key, key): value for key, value in options.items()})
    scheduler.set_timesteps(steps)
    model = models.adapt(network, read_scheduler(scheduler))
    path = model.interpolant
    grid = [*(path.time_at_noise_ratio(s) for s in scheduler.sigmas.double().tolist()[:-1]), 1.0]
    first = scheduler.sigmas[0].item()
    ours = pf.sample(model, start(first), solver=solver, grid=grid)
    assert relative(ours, theirs(scheduler, start(first), unit=1.0)) < TOLERANCE
