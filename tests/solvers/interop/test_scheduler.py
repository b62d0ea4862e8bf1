"""DiffusersScheduler by itself: parity with diffusers' schedulers, configuration, grids, seeds, host reads."""

from __future__ import annotations

import json
import math
import sys
import warnings
from typing import Any

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, GridError, MissingDependencyError, PlanError, ShapeError, UnknownNameError
from pushforward.models.adapters.diffusers import read_scheduler
from pushforward.solvers.interop import sample_ids
from pushforward.solvers.solver import REGISTRY

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers

    from pushforward.solvers.interop import DiffusersScheduler

from scheduler_loop import LEADING, SHAPE, STABLE, loop, network, relative, sampled, scheduler_of, start

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # theirs, with NumPy 2
    pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver:FutureWarning"),
]

# --- parity ----------------------------------------------------------------------------------------------------

PAIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "flow euler": ("FlowMatchEulerDiscrete", {"shift": 3.0}, {"solver": "euler"}),
    "flow euler karras": ("FlowMatchEulerDiscrete", {"use_karras_sigmas": True}, {"solver": "euler"}),
    "flow euler exponential": (
        "FlowMatchEulerDiscrete",
        {"shift": 2.0, "use_exponential_sigmas": True},
        {"solver": "euler"},
    ),
    "flow euler terminal": ("FlowMatchEulerDiscrete", {"shift": 2.0, "shift_terminal": 0.1}, {"solver": "euler"}),
    "flow heun": (
        "FlowMatchHeunDiscrete",
        {"shift": 3.0},
        {"solver": "heun", "last_step": "denoise"},  # theirs ends with Euler's step
    ),
    "ddim": ("DDIM", {"clip_sample": False}, {"solver": "ddim"}),
    "ddim at the first level": ("DDIM", {"clip_sample": False, "set_alpha_to_one": False} | STABLE, {}),
    "ddim v trailing": (
        "DDIM",
        {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"solver": "ddim"},
    ),
    "ddim zero snr": (
        "DDIM",
        {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
        | {"rescale_betas_zero_snr": True},
        {"solver": "ddim"},
    ),
    "euler": ("EulerDiscrete", LEADING, {"solver": "euler", "path": "edm"}),
    "euler as ddim": ("EulerDiscrete", LEADING, {"solver": "ddim"}),
    "euler karras": ("EulerDiscrete", LEADING | {"use_karras_sigmas": True}, {"solver": "euler", "path": "edm"}),
    "euler exponential": ("EulerDiscrete", LEADING | {"use_exponential_sigmas": True}, {"solver": "ddim"}),
    "euler beta": ("EulerDiscrete", LEADING | {"use_beta_sigmas": True}, {"solver": "ddim"}),
    "euler to sigma_min": (
        "EulerDiscrete",
        LEADING | {"final_sigmas_type": "sigma_min"},
        {"solver": "ddim", "path": "edm"},
    ),
    "heun": ("HeunDiscrete", LEADING, {"solver": "heun", "path": "edm"}),
    "dpm++ 2m": ("DPMSolverMultistep", LEADING, {"solver": "dpmpp_2m"}),
    "dpm++ 2m linspace": ("DPMSolverMultistep", STABLE, {"solver": "dpmpp_2m"}),
    "dpm++ 3m": ("DPMSolverMultistep", LEADING | {"solver_order": 3}, {"solver": "dpmpp_3m"}),
    "dpm 2m": (
        "DPMSolverMultistep",
        LEADING | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"solver": "dpm_solver_2m"},
    ),
    "unipc": ("UniPCMultistep", LEADING, {"solver": "unipc"}),
    "unipc 3": ("UniPCMultistep", LEADING | {"solver_order": 3}, {"solver": "unipc3"}),
    "lms": ("LMSDiscrete", LEADING, {"solver": "lms", "path": "edm"}),
    "plms": (
        "PNDM",
        LEADING | {"skip_prk_steps": True},
        {"solver": "plms", "final_sigmas_type": "sigma_min"},  # theirs has set_alpha_to_one=False
    ),
    "pndm": ("PNDM", LEADING, {"solver": "pndm", "final_sigmas_type": "sigma_min"}),
    "dpm2": ("KDPM2Discrete", LEADING, {"solver": "dpm2", "path": "edm"}),
    "edm euler": ("EDMEuler", {}, {"solver": "euler"}),
    "edm euler exponential": ("EDMEuler", {"sigma_schedule": "exponential"}, {"solver": "euler"}),
}


@pytest.mark.parametrize("steps", [10, 20, 50])
@pytest.mark.parametrize(
    "case", [case for case, (_, _, ours) in PAIRS.items() if ours.get("solver", "ddim") in REGISTRY]
)
def test_same_numbers_as_diffusers(case: str, steps: int) -> None:
    """The timesteps and the final state; EDM's start at sqrt(1 + sigma^2) instead of sigma costs 8e-5 at sigma = 80.

    Zero terminal SNR: theirs puts the last product of alphas at 2^-24 as ours, and divides by alpha = 2.4e-4 in
    float32, which magnifies rounding by 1 / alpha = 4,096: 4,096 * 6e-8 = 2.4e-4 of D, of which one step keeps 1 / N.
    """
    name, config, options = PAIRS[case]
    theirs = scheduler_of(name, **config)
    ours = DiffusersScheduler.from_config(theirs, **options)
    expected, got = sampled(theirs, steps), sampled(ours, steps)
    torch.testing.assert_close(ours.timesteps.float(), theirs.timesteps.float(), rtol=1e-5, atol=1e-4)
    assert relative(got, expected) < 1e-4


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "euler_ancestral_discrete"])
def test_stochastic_steps_with_the_same_noise(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs is given our normals where it draws its own; DDPM's posterior is DDIM's with eta = 1."""
    generator = torch.Generator().manual_seed(11)
    ids, drawn = sample_ids(generator, SHAPE[0], advance=False), []

    def ours_instead(shape: Any, **_: Any) -> torch.Tensor:
        draw = pf.kernels.Draw(pf.kernels.PURPOSE_DIFFUSION, len(drawn))
        drawn.append(draw)
        return pf.kernels.normal(tuple(shape), seed=0, draw=draw, samples=ids)

    monkeypatch.setattr(f"diffusers.schedulers.scheduling_{kind}.randn_tensor", ours_instead)
    if kind == "ddim":
        theirs, eta, options = diffusers.DDIMScheduler(clip_sample=False), 0.6, {"eta": 0.6}
    elif kind == "ddpm":
        theirs, eta, options = diffusers.DDPMScheduler(clip_sample=True, clip_sample_range=1.5), 1.0, {}
    else:
        theirs, eta, options = diffusers.EulerAncestralDiscreteScheduler(**LEADING), 1.0, {}
    expected = sampled(theirs, 20, **options)
    path = "edm" if kind == "euler_ancestral_discrete" else None
    ours = DiffusersScheduler.from_config(theirs, solver="ddim", solver_options={"eta": eta}, path=path)
    assert relative(sampled(ours, 20, generator=generator), expected) < 1e-4
    assert len(drawn) >= 19


def test_thresholding() -> None:
    theirs = diffusers.DDIMScheduler(
        clip_sample=False, thresholding=True, sample_max_value=1.7, dynamic_thresholding_ratio=0.9
    )
    ours = DiffusersScheduler.from_config(theirs, solver="ddim")
    expected = sampled(theirs, 10, use_clipped_model_output=True)  # the noise estimate follows, as ours always does
    assert relative(sampled(ours, 10), expected) < 1e-4
    plain = DiffusersScheduler.from_config(theirs, solver="ddim", thresholding=False)
    assert relative(sampled(plain, 10), expected) > 1e-2


def test_dynamic_shifting() -> None:
    for kind in ("exponential", "linear"):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
        ours = DiffusersScheduler.from_config(theirs, solver="euler")
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.7)
        torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-6, atol=0)
        assert relative(loop(ours, start()), loop(theirs, start())) < 1e-5
        with pytest.raises(ArgumentError, match="mu"):
            ours.set_timesteps(4)


@pytest.mark.parametrize("name", [name for name, _ in pf.solvers.solvers()])
def test_every_solver_gives_what_sample_gives(name: str) -> None:
    """The scheduler adds nothing of its own: in float64 the same numbers, whatever the registered solver.

    But a solver that raises the noise before it asks (churn) finds that done: a pipeline asks at the start, which is
    noise of the raised level already.
    """
    scheduler = DiffusersScheduler(name, **STABLE)
    scheduler.set_timesteps(5)
    generator = torch.Generator().manual_seed(2)
    ids = sample_ids(generator, SHAPE[0], advance=False)
    got = loop(scheduler, start(torch.float64), generator=generator)
    model = pf.models.adapt(
        lambda x, t: network(x, t[0]), read_scheduler({**scheduler.config, "_class_name": ""}), time_dtype=torch.float64
    )
    path = model.interpolant
    grid = [path.time_of_index(i) for i in (801, 601, 401, 201, 1)] + [1.0]
    expected = pf.sample(model, start(torch.float64), solver=name, grid=grid, samples=ids)
    if scheduler._planned("test").plan.evaluations[0].input != scheduler._planned("test").plan.start:
        assert got.isfinite().all()
        return
    # The timesteps are float32 where a solver asks between trained levels: half an ulp of 1000 is 3e-5, in network(t).
    assert relative(got, expected) < (1e-13 if scheduler.timesteps.dtype == torch.int64 else 1e-6)


# --- configuration ---------------------------------------------------------------------------------------------


def test_configuration_survives_a_folder(tmp_path: Any) -> None:
    first = DiffusersScheduler(
        pf.solver("ddim", eta=0.5), training="ddpm", trained_betas=[0.01, 0.02, 0.03, 0.05], num_train_timesteps=4
    )
    first.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == "DiffusersScheduler"
    second = DiffusersScheduler.from_pretrained(tmp_path)
    third = DiffusersScheduler.from_config(first.config)
    for again in (second, third):
        assert again.config.solver == "ddim"
        assert again.config.solver_options == {"eta": 0.5, "repeats": 1}
        left, right = (sampled(s, 4, generator=torch.Generator().manual_seed(1)) for s in (first, again))
        assert torch.equal(left, right)


def test_configuration_goes_back_and_forth(tmp_path: Any) -> None:
    """A folder of diffusers' is read, and what its class alone knows is still there for it afterwards."""
    theirs = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_order=3, **STABLE)
    theirs.save_pretrained(tmp_path)
    ours = DiffusersScheduler.from_pretrained(tmp_path, solver="heun", solver_options=None)
    assert ours.config.solver == "heun"
    assert ours.config.timestep_convention == "dropped_last"
    assert ours.config.beta_schedule == "scaled_linear"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = diffusers.DPMSolverMultistepScheduler.from_config(ours.config)
    assert back.config.solver_order == 3
    for key in ("timestep_spacing", *STABLE):
        assert back.config[key] == theirs.config[key]


def test_values_that_their_class_has_by_default_are_kept() -> None:
    """Euler's default spacing is not ours; diffusers would drop it as a default."""
    ours = DiffusersScheduler.from_config(diffusers.EulerDiscreteScheduler().config, solver="ddim")
    assert ours.config.timestep_spacing == "linspace"


@pytest.mark.parametrize("steps", [1, 3, 7, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_of_the_dpm_solver_family(spacing: str, steps: int) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing, **STABLE)
    ours = DiffusersScheduler.from_config(theirs, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)


def test_a_missing_diffusers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.configuration_utils", None)
    monkeypatch.delitem(sys.modules, "pushforward.solvers.interop.scheduler")
    with pytest.raises(MissingDependencyError, match=r"pip install 'pushforward\[interop\]'"):
        pf.solvers.interop.DiffusersScheduler  # noqa: B018


# --- grids -----------------------------------------------------------------------------------------------------


def test_own_timesteps_and_sigmas() -> None:
    theirs = diffusers.EulerDiscreteScheduler(**LEADING)
    ours = DiffusersScheduler.from_config(theirs, solver="ddim")
    for given in ({"timesteps": [900, 500, 100]}, {"sigmas": [10.0, 3.0, 0.5, 0.0]}):
        theirs.set_timesteps(**given)
        ours.set_timesteps(**given)
        torch.testing.assert_close(ours.timesteps.float(), theirs.timesteps, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-5, atol=0)
        ends = (loop(s, start() * s.init_noise_sigma) for s in (ours, theirs))
        # Their start is sqrt(1 + max(sigma)^2), of sigmas for the timesteps of the constructor: the same number here.
        assert relative(*ends) < 1e-4
    ours.set_timesteps(sigmas=[10.0, 3.0, 0.5])  # a last 0 may be left out
    assert ours.sigmas.tolist() == [10.0, 3.0, 0.5, 0.0]


def test_a_registered_grid() -> None:
    scheduler = DiffusersScheduler("euler", training="flow", grid="shifted", grid_options={"shift": 3.0})
    scheduler.set_timesteps(4)
    torch.testing.assert_close(scheduler.timesteps, torch.tensor([1000.0, 900.0, 750.0, 500.0]))


def test_networks_of_scores() -> None:
    """Variance exploding: the network predicts the score and is told the noise level; Gaussian data, exact flow."""
    theirs = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    scheduler = DiffusersScheduler.from_config(theirs, solver="heun")
    scheduler.set_timesteps(100)
    assert scheduler.init_noise_sigma == pytest.approx(50.0)
    x0 = start(torch.float64) * scheduler.init_noise_sigma
    x = x0
    for t in scheduler.timesteps:
        x = scheduler.step(-x / (1 + t.double() ** 2), t, x).prev_sample
    torch.testing.assert_close(x, x0 / math.sqrt(1 + 50.0**2), rtol=1e-2, atol=0)  # order 2: (log(5000) / 100)^2 = 7e-3


def test_bad_requests_are_named() -> None:
    scheduler = DiffusersScheduler("ddim")
    x = start()
    with pytest.raises(PlanError, match="set_timesteps"):
        scheduler.step(x, 1, x)
    for bad in (0, 1001, True, 2.0):
        with pytest.raises(ArgumentError, match="num_inference_steps"):
            scheduler.set_timesteps(bad)
    with pytest.raises(GridError, match="grid"):
        scheduler.set_timesteps(timesteps=[10, 500])
    with pytest.raises(ArgumentError, match="sigmas"):
        scheduler.set_timesteps(3, sigmas=[3.0, 1.0])
    with pytest.raises(ArgumentError, match="mu"):
        scheduler.set_timesteps(3, mu=1.0)
    with pytest.raises(ArgumentError, match="host"):
        scheduler.set_timesteps(timesteps=torch.tensor([3, 1]))
    with pytest.raises(UnknownNameError, match="timestep_spacing"):
        DiffusersScheduler(timestep_spacing="even").set_timesteps(3)
    with pytest.raises(ArgumentError, match="at most one"):
        DiffusersScheduler(use_karras_sigmas=True, use_beta_sigmas=True).set_timesteps(3)
    with pytest.raises(UnknownNameError, match="solver"):
        DiffusersScheduler("hoin")
    with pytest.raises(UnknownNameError, match="path"):
        DiffusersScheduler(path="vp")
    with pytest.raises(ArgumentError, match="scale_model_input"):
        DiffusersScheduler(path="edm", training="flow")
    with pytest.raises(ArgumentError, match="solver"):
        DiffusersScheduler(pf.solver("euler_maruyama", diffusion=pf.solvers.Diffusion("linear")))
    scheduler.set_timesteps(3)
    with pytest.raises(ShapeError, match="model_output"):
        scheduler.step(x[:, :3], scheduler.timesteps[0], x)
