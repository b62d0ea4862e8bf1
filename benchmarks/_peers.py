"""Deterministic samplers of other libraries, each behind one call: (problem, evaluations, dtype) -> samples.

Every library runs with its own schedule and state; only the denoiser is shared. Peers that are not installed are left
out with a line.
"""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from _sampling import Problem, level
from torch import Tensor

from pushforward.models import Linear

Answer = tuple[Tensor, float]
"""The samples, and the noise ratio at which the run began."""


@dataclass(frozen=True)
class Peer:
    """One sampler on one schedule.

    Attributes:
        library, solver, grid: What it is.
        run: Draws the samples in so many steps.
        stages: Evaluations a step, of which the last step may save one.
    """

    library: str
    solver: str
    grid: str
    run: Callable[[Problem, int, torch.dtype], Answer]
    stages: int = 1

    def within(self, problem: Problem, nfe: int, dtype: torch.dtype) -> tuple[Tensor, float, int] | None:
        """The run with the most steps that needs no more than ``nfe`` evaluations; None if even one step does."""
        first = max(nfe // self.stages, 1)
        for steps in dict.fromkeys((first + 1, first) if self.stages > 1 else (first, first - 1)):
            if steps < 1:
                continue
            problem.calls = 0
            with warnings.catch_warnings(), redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")
                x, nu = self.run(problem, steps, dtype)
            if problem.calls <= nfe:
                return x, nu, problem.calls
        return None


def peers(problem: Problem, skip: Callable[[str], None]) -> Iterator[Peer]:
    """Every peer that is installed and runs on the problem's path."""
    for name, make in (
        ("diffusers", diffusers_peers),
        ("k_diffusion.sampling", k_peers),
        ("azula.sample", azula_peers),
    ):
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever a half-installed library raises
            skip(f"{name.partition('.')[0]}: {type(error).__name__}: {error}")
            continue
        yield from make(module, problem)


# --- diffusers ---------------------------------------------------------------------------------------------------

GRIDS = {
    "default": {}, "trailing": {"timestep_spacing": "trailing"}, "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True}, "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}  # fmt: skip
FLOW_GRIDS = {"default": {}, "shift 3": {"shift": 3.0}, "karras": {"use_karras_sigmas": True},
              "exponential": {"use_exponential_sigmas": True}, "beta": {"use_beta_sigmas": True}}  # fmt: skip
MULTISTEP: list[tuple[str, str, dict[str, Any]]] = [
    ("DPM-Solver++ 1", "DPMSolverMultistepScheduler", {"solver_order": 1}),
    ("DPM-Solver++ 2M", "DPMSolverMultistepScheduler", {"solver_order": 2}),
    ("DPM-Solver++ 2M heun", "DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}),
    ("DPM-Solver++ 3M", "DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DPM-Solver++ 2S", "DPMSolverSinglestepScheduler", {"solver_order": 2}),
    ("DPM-Solver++ 3S", "DPMSolverSinglestepScheduler", {"solver_order": 3}),
    ("UniPC 2 bh1", "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}),
    ("UniPC 2 bh2", "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    ("UniPC 3 bh1", "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}),
    ("UniPC 3 bh2", "UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
    ("DEIS 2", "DEISMultistepScheduler", {"solver_order": 2}),
    ("DEIS 3", "DEISMultistepScheduler", {"solver_order": 3}),
    ("SA-Solver, tau 0", "SASolverScheduler", {"tau_func": lambda t: 0.0}),
]
VARIANCE_PRESERVING: list[tuple[str, str, dict[str, Any]]] = [
    ("DDIM", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    ("PNDM", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}),
    ("IPNDM", "IPNDMScheduler", {}),
]
EXPLODING: list[tuple[str, str, dict[str, Any], int]] = [
    ("Euler", "EulerDiscreteScheduler", {}, 1),
    ("LMS 4", "LMSDiscreteScheduler", {}, 1),
    ("Heun", "HeunDiscreteScheduler", {}, 2),
    ("KDPM2", "KDPM2DiscreteScheduler", {}, 2),
]
EDM: list[tuple[str, str, dict[str, Any]]] = [
    ("EDM Euler", "EDMEulerScheduler", {}),
    ("EDM DPM-Solver++ 2M", "EDMDPMSolverMultistepScheduler", {"solver_order": 2}),
    ("EDM DPM-Solver++ 3M", "EDMDPMSolverMultistepScheduler", {"solver_order": 3}),
]


def diffusers_peers(library: Any, problem: Problem) -> Iterator[Peer]:
    """Its schedulers for flow matching on the linear path, for diffusion on the other; EDM's on the linear one too."""
    flow = isinstance(problem.path, Linear)
    if flow:
        for name, kind, stages in (("Euler", "FlowMatchEulerDiscreteScheduler", 1),
                                   ("Heun", "FlowMatchHeunDiscreteScheduler", 2)):  # fmt: skip
            for grid, options in FLOW_GRIDS.items():
                scheduler = maker(library, kind, options)
                if scheduler:
                    yield Peer("diffusers", name, grid, flow_run(scheduler), stages)
        for name, kind, options in MULTISTEP:
            for grid, shift in (("default", 1.0), ("shift 3", 3.0)):
                given = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift} | options
                scheduler = maker(library, kind, given)
                if scheduler:
                    stages = 1
                    yield Peer("diffusers", name, grid, flow_run(scheduler), stages)
        for name, kind, options in EDM:
            for grid in ("karras", "exponential"):
                scheduler = maker(library, kind, {"sigma_schedule": grid, "sigma_max": 80.0, **options})
                if scheduler:
                    yield Peer("diffusers", name, grid, edm_run(scheduler))
        return
    trained = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for name, kind, options in [*MULTISTEP, *VARIANCE_PRESERVING]:
        for grid, spacing in GRIDS.items():
            scheduler = maker(library, kind, trained | options | spacing)
            if scheduler:
                yield Peer("diffusers", name, grid, diffusion_run(scheduler, scaled=False))
    for name, kind, options, stages in EXPLODING:
        for grid, spacing in GRIDS.items():
            scheduler = maker(library, kind, trained | options | spacing)
            if scheduler:
                yield Peer("diffusers", name, grid, diffusion_run(scheduler, scaled=True), stages)


def maker(library: Any, kind: str, options: dict[str, Any]) -> Callable[[], Any] | None:
    """Makes a fresh scheduler; None where the class is missing or does not know an option."""
    cls = getattr(library, kind, None)
    if cls is None or not options.keys() <= inspect.signature(cls.__init__).parameters.keys():
        return None
    return lambda: cls(**options)


def flow_run(make: Callable[[], Any]) -> Callable[[Problem, int, torch.dtype], Answer]:
    """A pipeline's loop for a velocity of the opposite sign, with times of 1000 (1 - t)."""

    def run(problem: Problem, steps: int, dtype: torch.dtype) -> Answer:
        scheduler = make()
        scheduler.set_timesteps(steps)
        first = float(scheduler.sigmas[0])
        x = (first * problem.noise).to(dtype)
        for t in scheduler.timesteps:
            x = scheduler.step(-problem.velocity(x, 1 - float(t) / 1000), t, x, return_dict=False)[0]
        return x, level(1 - first, first)

    return run


def edm_run(make: Callable[[], Any]) -> Callable[[Problem, int, torch.dtype], Answer]:
    """The raw output F of EDM's preconditioning, from our denoiser."""

    def run(problem: Problem, steps: int, dtype: torch.dtype) -> Answer:
        scheduler = make()
        scheduler.set_timesteps(steps)
        sd, first = scheduler.config.sigma_data, float(scheduler.sigmas[0])
        x = (first * problem.noise).to(dtype)
        for sigma, t in zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False):
            scheduler.scale_model_input(x, t)
            root = math.hypot(sigma, sd)
            denoised, _ = problem.estimates(x, 1.0, sigma)
            output = (denoised.float() - (sd / root) ** 2 * x.float()) * (root / (sigma * sd))
            x = scheduler.step(output.to(dtype), t, x, return_dict=False)[0]
        return x, first

    return run


def diffusion_run(make: Callable[[], Any], *, scaled: bool) -> Callable[[Problem, int, torch.dtype], Answer]:
    """A pipeline's loop for a noise prediction; ``scaled`` states are nu z, the others sigma z."""

    def run(problem: Problem, steps: int, dtype: torch.dtype) -> Answer:
        scheduler, path = make(), problem.path
        scheduler.set_timesteps(steps)
        begin = path.time_of_index(float(scheduler.timesteps[0]))  # type: ignore[attr-defined]
        nu = float(scheduler.sigmas[0]) if scaled else path.noise_ratio(begin)
        scale = nu if scaled else path.sigma(begin)
        x = (scale * problem.noise).to(dtype)
        for t in scheduler.timesteps:
            alpha, sigma, *_ = path(path.time_of_index(float(t)))  # type: ignore[attr-defined]
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            _, noise = problem.estimates(given, alpha, sigma)
            x = scheduler.step(noise, t, x, return_dict=False)[0]
        return x, nu

    return run


# --- k-diffusion -------------------------------------------------------------------------------------------------

K_SAMPLERS: list[tuple[str, dict[str, Any], int]] = [
    ("sample_euler", {}, 1), ("sample_heun", {}, 2), ("sample_dpm_2", {}, 2), ("sample_lms", {}, 1),
    ("sample_dpmpp_2m", {}, 1), ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, 2),
    ("sample_dpmpp_2m_sde", {"eta": 0.0}, 1), ("sample_dpmpp_3m_sde", {"eta": 0.0}, 1),
]  # fmt: skip


def k_peers(library: Any, problem: Problem) -> Iterator[Peer]:
    """Its functions that draw no noise, from nu = 80, or from the path's own largest level."""
    smallest, largest = problem.path.noise_range
    smallest, largest = smallest or 0.002, largest if math.isfinite(largest) else 80.0
    for name, options, stages in K_SAMPLERS:
        for grid in ("karras", "exponential"):
            levels = getattr(library, f"get_sigmas_{grid}")

            def run(
                problem: Problem, steps: int, dtype: torch.dtype, name: str = name, levels: Any = levels,
                options: dict[str, Any] = options,
            ) -> Answer:  # fmt: skip
                def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
                    return problem.estimates(x, 1.0, float(sigma[0]))[0]

                sigmas = levels(steps, smallest, largest)
                x = (float(sigmas[0]) * problem.noise).to(dtype)
                given = dict(options)
                if "noise_sampler" in inspect.signature(getattr(library, name)).parameters:
                    given["noise_sampler"] = lambda *_: torch.zeros_like(x)  # eta = 0: weighted by 0
                return getattr(library, name)(denoiser, x, sigmas, disable=True, **given), float(sigmas[0])

            yield Peer("k-diffusion", name.removeprefix("sample_"), grid, run, stages)


# --- azula -------------------------------------------------------------------------------------------------------

AZULA_SAMPLERS: list[tuple[str, str, dict[str, Any], int]] = [
    ("DDIM", "DDIMSampler", {}, 1), ("Euler", "EulerSampler", {}, 1), ("Heun", "HeunSampler", {}, 2),
    ("zAB 2", "zABSampler", {"order": 2}, 1), ("zAB 3", "zABSampler", {"order": 3}, 1),
    ("vAB 2", "vABSampler", {"order": 2}, 1), ("vAB 3", "vABSampler", {"order": 3}, 1),
    ("zEAB 2", "zEABSampler", {"order": 2}, 1), ("zEAB 3", "zEABSampler", {"order": 3}, 1),
    ("xEAB 2", "xEABSampler", {"order": 2}, 1), ("xEAB 3", "xEABSampler", {"order": 3}, 1),
    ("REAB 2", "REABSampler", {"order": 2}, 1), ("REAB 3", "REABSampler", {"order": 3}, 1),
]  # fmt: skip


def azula_peers(library: Any, problem: Problem) -> Iterator[Peer]:
    """On its rectified schedule, which stops short of both ends by ``alpha_min`` = ``sigma_min``."""
    if not isinstance(problem.path, Linear):
        return
    denoise, noise = importlib.import_module("azula.denoise"), importlib.import_module("azula.noise")

    class Denoiser(denoise.Denoiser):
        def __init__(self, problem: Problem, schedule: Any) -> None:
            super().__init__()
            self.problem, self.schedule = problem, schedule

        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = (float(value) for value in self.schedule(t))
            return denoise.DiracPosterior(mean=self.problem.estimates(x, alpha, sigma)[0])

    for name, kind, options, stages in AZULA_SAMPLERS:
        if not hasattr(library, kind):
            continue
        for end in (1e-3, 1e-5):

            def run(
                problem: Problem, steps: int, dtype: torch.dtype, kind: str = kind, end: float = end,
                options: dict[str, Any] = options,
            ) -> Answer:  # fmt: skip
                schedule = noise.RectifiedSchedule(alpha_min=end, sigma_min=end)
                sampler = getattr(library, kind)(Denoiser(problem, schedule), steps=steps, silent=True, **options)
                return sampler(problem.noise.to(dtype)), 1 / end

            yield Peer("azula", name, f"rectified {end:g}", run, stages)
