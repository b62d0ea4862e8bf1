"""In unmodified pipelines of diffusers, around tiny random modules: the same images as with diffusers' schedulers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers
    import pipelines
    from pipelines import STABLE

    from pushforward.solvers.interop import DiffusersScheduler

from pushforward.solvers.solver import REGISTRY

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # theirs, with NumPy 2
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

LEADING = {"timestep_spacing": "leading"} | STABLE
PLAIN = {"clip_sample": False}
CASES: dict[str, tuple[Callable[..., torch.Tensor], str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # pipeline, their scheduler and its configuration, ours, arguments of the call
    "DDPM": (pipelines.ddpm, "DDIM", PLAIN, {}, {}),
    "DiT": (pipelines.dit_images, "DDIM", PLAIN, {}, {}),
    "DiT Heun": (pipelines.dit_images, "HeunDiscrete", LEADING, {"solver": "heun", "path": "edm"}, {}),
    "SD": (pipelines.stable, "DDIM", PLAIN | {"set_alpha_to_one": False} | STABLE, {}, {}),
    "SD Euler": (pipelines.stable, "EulerDiscrete", LEADING, {"solver": "euler", "path": "edm"}, {}),
    "SD Heun": (pipelines.stable, "HeunDiscrete", LEADING, {"solver": "heun", "path": "edm"}, {}),
    "SD DPM-Solver++": (pipelines.stable, "DPMSolverMultistep", LEADING, {"solver": "dpmpp_2m"}, {}),
    "SD UniPC": (pipelines.stable, "UniPCMultistep", LEADING, {"solver": "unipc"}, {}),
    "SD image UniPC": (pipelines.stable_image, "UniPCMultistep", LEADING, {"solver": "unipc"}, {"strength": 0.6}),
    "SD image": (pipelines.stable_image, "DDIM", PLAIN | STABLE, {}, {"strength": 0.6}),
    "SD image Euler": (
        pipelines.stable_image, "EulerDiscrete", LEADING, {"solver": "euler", "path": "edm"}, {"strength": 0.5},
    ),
    "SD image Heun": (
        pipelines.stable_image, "HeunDiscrete", LEADING, {"solver": "heun", "path": "edm"}, {"strength": 0.7},
    ),
    "SD3": (pipelines.stable3, "FlowMatchEulerDiscrete", {"shift": 3.0}, {"solver": "euler"}, {}),
    "SD3 sigmas": (
        pipelines.stable3, "FlowMatchEulerDiscrete", {"shift": 3.0}, {"solver": "euler"},
        {"sigmas": [1.0, 0.9, 0.7, 0.6, 0.5, 0.3, 0.2, 0.1]},
    ),
    "SD3 image": (
        pipelines.stable3_image, "FlowMatchEulerDiscrete", {"shift": 3.0}, {"solver": "euler"}, {"strength": 0.5},
    ),
    "Flux": (pipelines.flux_tokens, "FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, {"solver": "euler"}, {}),
    "PixArt": (pipelines.pixart_latents, "DDIM", PLAIN, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", [case for case, row in CASES.items() if row[3].get("solver", "ddim") in REGISTRY])
def test_the_same_image(case: str) -> None:
    make, name, config, options, call = CASES[case]
    theirs = getattr(diffusers, f"{name}Scheduler")(**config)
    ours = DiffusersScheduler.from_config(theirs, **options)
    expected, got = make(theirs, 8, **call), make(ours, 8, **call)
    assert got.shape == expected.shape
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-4
    assert expected.std() > 1e-2, "an image to compare"


@pytest.mark.parametrize(
    "given", [{"timesteps": [900, 600, 300, 100]}, {"sigmas": [12.0, 3.0, 1.0, 0.2, 0.0]}], ids=str
)
def test_own_timesteps_and_sigmas_through_the_pipeline(given: dict[str, Any]) -> None:
    theirs = diffusers.EulerDiscreteScheduler(**LEADING)
    ours = DiffusersScheduler.from_config(theirs, solver="euler", path="edm")
    expected, got = (pipelines.stable(scheduler, None, **given) for scheduler in (theirs, ours))
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize("solver", ["pseudo_corrector", "ab2", "rk4", "midpoint", "euler_maruyama"])
def test_other_solvers_run_in_pipelines(solver: str) -> None:
    """Including several evaluations a step, and, where they can begin in the middle, image to image."""
    scheduler = DiffusersScheduler(solver, **STABLE)
    seen: list[int] = []

    def callback(_: Any, step: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(int(time))
        assert tensors["latents"].isfinite().all()
        return {"latents": tensors["latents"].clone()}

    plain = pipelines.stable(scheduler, 4)
    watched = pipelines.stable(scheduler, 4, callback_on_step_end=callback)
    assert len(seen) == len(scheduler.timesteps)
    assert plain.isfinite().all()
    assert torch.equal(plain, watched) != scheduler._planned("test").plan.stochastic
    assert pipelines.stable_image(scheduler, 4, strength=0.5).isfinite().all()


def test_a_list_of_generators() -> None:
    """Each image of a batch is that of its generator, whatever else is in the batch."""
    scheduler = DiffusersScheduler("ddim", {"eta": 1.0}, **STABLE)
    seeds = lambda *values: [torch.Generator().manual_seed(value) for value in values]  # noqa: E731
    first = pipelines.stable(scheduler, 4, generator=seeds(1, 2))
    second = pipelines.stable(scheduler, 4, generator=seeds(1, 3))
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first[1], second[1], atol=1e-2)


def test_a_pipeline_is_saved_and_loaded_with_it(tmp_path: Any) -> None:
    pipeline = pipelines.quiet(
        diffusers.DDPMPipeline(pipelines.unet(), DiffusersScheduler("heun", prediction_type="sample"))
    )
    pipeline.save_pretrained(tmp_path)
    again = pipelines.quiet(diffusers.DDPMPipeline.from_pretrained(tmp_path))
    assert type(again.scheduler) is DiffusersScheduler
    assert again.scheduler.config.solver == "heun"
    images = [
        p(generator=torch.Generator().manual_seed(0), num_inference_steps=3, output_type="pt").images
        for p in (pipeline, again)
    ]
    assert torch.equal(*images)
