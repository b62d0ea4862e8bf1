"""A fitted plan as a scheduler of diffusers and as a function of k-diffusion's: the run that pf.sample makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fitted import MODEL, begun_at, fitted
from scheduler_loop import diffusers, network
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, CorruptFileError, GridError, UnknownNameError
from pushforward.models.adapters.diffusers import read_scheduler
from pushforward.solvers import FittedPlan
from pushforward.solvers.interop.k_diffusion import sampler

from pushforward.solvers.interop import DiffusersScheduler  # isort: skip  # after diffusers, whose warnings are muted

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # theirs, with NumPy 2
F64 = torch.float64
EPS = torch.finfo(F64).eps


def told(x: Tensor, time: Tensor) -> Tensor:
    """The network of a pipeline, which is told the time in float32."""
    return network(x, time.float().to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))


def driven(scheduler: DiffusersScheduler, x: Tensor) -> Tensor:
    for t in scheduler.timesteps:
        x = scheduler.step(told(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=F64)


def test_a_pipeline_of_a_flow_network_samples_as_pf_sample_does(tmp_path: Path) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    model, x0 = pf.models.adapt(told, read_scheduler(theirs)), noise(2, 4)
    expected = pf.sample(model, x0, solver=fitted())
    plain = DiffusersScheduler.from_config(theirs.config, solver=fitted())
    plain.save_config(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    loaded = DiffusersScheduler.from_pretrained(tmp_path)
    again = DiffusersScheduler.from_config(loaded.config)
    for scheduler in (DiffusersScheduler(fitted(), training="flow"), plain, loaded, again):
        for asked in ({}, {"num_inference_steps": 4}, {"sigmas": [1.0, 0.75, 0.5, 0.25], "mu": 0.7}):
            scheduler.set_timesteps(**asked)
            assert scheduler.num_inference_steps == 4
            assert torch.equal(driven(scheduler, x0), expected)
    assert FittedPlan.from_config(saved["solver_options"]) == fitted()
    unshifted = DiffusersScheduler(fitted(), training="flow")
    unshifted.set_timesteps(sigmas=[1 - t for t in fitted().times[:-1]])
    torch.testing.assert_close(driven(unshifted, x0), expected, rtol=0, atol=100 * EPS)  # 1 - (1 - t) is rounded
    other = DiffusersScheduler.from_config(plain.config, solver="heun")
    other.set_timesteps(4)
    assert not torch.equal(driven(other, x0), expected)


def test_a_pipeline_of_a_noise_network_samples_as_pf_sample_does() -> None:
    theirs, plan, x0 = diffusers.DDIMScheduler(clip_sample=False), begun_at(0.01), noise(2, 4)
    expected = pf.sample(pf.models.adapt(told, read_scheduler(theirs)), x0, solver=plan)
    scheduler = DiffusersScheduler.from_config(theirs.config, solver=plan)
    scheduler.set_timesteps(4)
    assert scheduler.init_noise_sigma == 1
    # The same plan, cut at the network: the scheduler makes combinations one by one, pf.sample fuses none across calls.
    torch.testing.assert_close(driven(scheduler, x0), expected, rtol=0, atol=64 * EPS * expected.abs().max().item())
    on_edm = DiffusersScheduler.from_config(theirs.config, solver=plan, path="edm")
    on_edm.set_timesteps()
    alpha = read_scheduler(theirs).interpolant.alpha(on_edm_start(plan, theirs))
    assert on_edm.init_noise_sigma == pytest.approx(1 / alpha, rel=1e-12)
    found = driven(on_edm, x0 / alpha)
    # Noise ratios reach 99, and so do the states, whose rounding the network sees divided by as much again.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e4 * EPS * expected.abs().max().item())


def on_edm_start(plan: FittedPlan, theirs: diffusers.DDIMScheduler) -> float:
    """The first time on the path of the network."""
    return plan.times_on(read_scheduler(theirs).interpolant)[0]


def test_a_scheduler_refuses_other_grids() -> None:
    scheduler = DiffusersScheduler(fitted(), training="flow")
    with pytest.raises(GridError, match="steps: got 5, expected 4: FittedPlan"):
        scheduler.set_timesteps(5)
    with pytest.raises(GridError, match="grid: got 4 steps"):
        scheduler.set_timesteps(sigmas=[1.0, 0.9, 0.5, 0.25])
    with pytest.raises(GridError, match="grid: got 4 steps"):
        DiffusersScheduler(fitted(), training="flow", grid="beta").set_timesteps(4)
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(1)
    with pytest.raises(ArgumentError, match="begin_index: got 1, expected 0: FittedPlan"):
        scheduler.step(noise(1, 2), scheduler.timesteps[1], noise(1, 2))
    with pytest.raises(ArgumentError, match="solver: got 'fitted', expected a fitted plan as an object"):
        DiffusersScheduler("fitted", training="flow")
    with pytest.raises(CorruptFileError, match="fitted plan: got KeyError"):
        DiffusersScheduler("fitted", {"order": 2}, training="flow")
    with pytest.raises(ArgumentError, match="solver_options: got"):
        DiffusersScheduler(fitted(), {"order": 2}, training="flow")


def clean_estimate(x: Tensor, sigma: Tensor) -> Tensor:
    """The model's, from a state x / alpha on its linear path, where alpha = 1 / (1 + sigma)."""
    t = 1 / (1 + sigma[:, None])
    (velocity,) = MODEL.bind().evaluate_rows(t * x, t[:, 0].numpy(), ("cond",))
    return t * x + (1 - t) * velocity


def test_k_diffusions_function_makes_the_same_run() -> None:
    plan, x0 = begun_at(0.05), noise(3, 2)
    expected = pf.sample(MODEL, x0, solver=plan)
    run, levels = sampler(plan), torch.tensor(plan.noise_ratios, dtype=F64)
    assert run.__name__ == "sample_FittedPlan"
    found = run(clean_estimate, x0 / 0.05, levels)
    # Four sums of at most 6 terms of sizes up to 1 / alpha = 20, and a network that amplifies by less than 10 between.
    torch.testing.assert_close(found, expected, rtol=0, atol=10 * 4 * 6 * 20 * EPS)
    rounded = run(clean_estimate, x0 / 0.05, levels.float())
    torch.testing.assert_close(rounded, expected, rtol=0, atol=10 * 20 * torch.finfo(torch.float32).eps)
    assert not torch.equal(rounded, found)


def test_k_diffusions_function_takes_objects_and_refuses_other_levels() -> None:
    x, run = noise(2, 2), sampler(begun_at(0.05))
    euler = sampler(pf.solver("euler"))(clean_estimate, x, [2.0, 1.0, 0.5], s_churn=0.0)
    assert torch.equal(euler, sampler("euler")(clean_estimate, x, [2.0, 1.0, 0.5]))
    with pytest.raises(GridError, match="the noise ratios that FittedMultistep"):
        run(clean_estimate, x, [20.0, 3.0, 1.0, 0.3, 0.0])
    with pytest.raises(GridError, match=r"sigmas\[0\]: got inf"):
        sampler(fitted())(clean_estimate, x, fitted().noise_ratios)
    with pytest.raises(ArgumentError, match=r"options: got .'eta'., expected none beside a solver object"):
        run(clean_estimate, x, begun_at(0.05).noise_ratios, eta=0.5)
    with pytest.raises(UnknownNameError, match="sampler: got 'fitted'"):
        sampler("fitted")
