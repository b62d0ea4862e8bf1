"""What a run starts from: the noise end of a path, keyed by seed and sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import kernels
from ..errors import ArgumentError
from ..models import Model, Prediction
from ..models.pfgm import spread_rows
from .plan import Plan

NOISE_AT_LEAST = 5.0  # starting from pure noise at a smaller sigma/alpha would leave out a visible part of the data


def check_starts_at_noise(plan: Plan, argument: str, expected: str) -> None:
    """Refuse a plan whose first state is not pure noise.

    Raises:
        ArgumentError: sigma / alpha is below 5 there; with ``argument`` and what was ``expected`` instead.
    """
    first = plan.grid[0]
    if plan.interpolant.noise_ratio(first) < NOISE_AT_LEAST:
        got = f"noise, with a grid that starts at t = {first:.4g}"
        raise ArgumentError(argument, got=got, expected=expected, hint="The state is not pure noise at that time")


def initial_noise(
    plan: Plan,
    prediction: Prediction,
    shape: Sequence[int],
    *,
    seed: int,
    samples: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``sigma(t_0) z`` with z keyed by seed and sample id: what the noise end of the plan's path is.

    Normals, or for networks of PFGM++ Student variates.

    Args:
        plan: Of the run, on the network's own path.
        prediction: The network's.
        shape: [B, *D].
        seed: In [0, 2**64).
        samples: Sample ids, int64 [B]; 0 .. B - 1 by default.
        dtype, device: Of the noise.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> plan = solvers.plan(solvers.solver("euler"), [0.0, 0.5, 1.0])
        >>> initial_noise(plan, prediction("velocity", Linear()), (2, 3), seed=1).shape
        torch.Size([2, 3])
    """
    draw = kernels.Draw(kernels.PURPOSE_INITIAL, 0)
    noise = kernels.normal(tuple(shape), seed=seed, draw=draw, samples=samples, dtype=dtype, device=device)
    if math.isfinite(prediction.dimensions):
        noise = spread_rows(noise, prediction.dimensions, seed=seed, samples=samples)
    return noise.mul_(plan.interpolant.sigma(plan.grid[0]))


def network_device(model: Model) -> torch.device:
    """Where the network's parameters lie; the CPU if it has none."""
    parameters = model.network.parameters() if isinstance(model.network, torch.nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device
