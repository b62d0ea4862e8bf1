"""A small network, and the loop of a pipeline around a scheduler."""

from __future__ import annotations

import warnings
from typing import Any

import torch

with warnings.catch_warnings():  # their import-time deprecations are not ours to act on
    warnings.simplefilter("ignore")
    import diffusers

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
LEADING = {"timestep_spacing": "leading"} | STABLE
SHAPE = (2, 4, 8, 8)


def start(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(x: torch.Tensor, time: torch.Tensor | float) -> torch.Tensor:
    """Nonlinear, and it sees the time."""
    t = time / 1000
    return torch.tanh(x * (1 + 0.3 * t)) - 0.2 * torch.roll(x, 1, -1) * t


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def loop(scheduler: Any, x: torch.Tensor, first: int = 0, **options: Any) -> torch.Tensor:
    """What a pipeline does after its preparations."""
    for t in scheduler.timesteps[first:]:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(scaled, t.to(x.dtype))
        x = scheduler.step(output, t, x, **options, return_dict=False)[0]
    return x


def sampled(scheduler: Any, steps: int, dtype: torch.dtype = torch.float32, **options: Any) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    return loop(scheduler, start(dtype) * getattr(scheduler, "init_noise_sigma", 1.0), **options)


def scheduler_of(name: str, **config: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**config)
