"""Exact statistics of any plan on scalar Gaussian data, without Monte Carlo.

On N(mu, c^2) every sampler is an affine map of (1, x_0, z_1 .. z_K) with z the injected normals. Carrying the
coefficients of that map through the plan instead of numbers gives mean and variance of the output exactly:
mean = coefficient of 1, variance = sum of the squares of the others.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from pushforward.models import CouplingOracle, GaussianOracle
from pushforward.solvers.plan import Boundary, Combine, Evaluate, Plan


def response(plan: Plan, oracle: GaussianOracle | CouplingOracle) -> tuple[float, float]:
    """Mean and variance of the plan's result, started from the exact marginal at its first time."""
    assert plan.interpolant == oracle.interpolant
    draws = list(dict.fromkeys(d for i in plan.instructions if isinstance(i, Combine) for d in i.draws))
    size = 2 + len(draws)
    unit = dict(zip(draws, np.eye(size)[2:], strict=True))
    mean, variance = marginal(oracle, plan.grid[0])
    start = np.zeros(size)
    start[:2] = mean, np.sqrt(variance)
    values = {plan.start: start}
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            for out, label in zip(instruction.outs, instruction.labels, strict=True):
                slope, offset = affine(oracle, instruction.time, "velocity" if label == "cond" else label)
                values[out] = slope * values[instruction.input]
                values[out][0] += offset
        elif isinstance(instruction, Combine):
            scales = instruction.scales or [()] * len(instruction.outs)
            values.update(
                {
                    out: sum((w * values[r] for w, r in zip(row, instruction.inputs, strict=True)), np.zeros(size))
                    + sum((w * unit[d] for w, d in zip(scale, instruction.draws, strict=True)), np.zeros(size))
                    for out, row, scale in zip(instruction.outs, instruction.matrix, scales, strict=True)
                }
            )
        else:
            assert isinstance(instruction, Boundary)
    result = values[plan.result]
    return float(result[0]), float((result[1:] ** 2).sum())


@cache
def affine(oracle: GaussianOracle | CouplingOracle, t: float, field: str = "velocity") -> tuple[float, float]:
    """Slope and offset of a field that is affine in the state, by default the velocity, finite at both ends."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    low, high = getattr(oracle, field)(x, t).flatten().tolist()
    return high - low, low


def marginal(oracle: GaussianOracle | CouplingOracle, t: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    if isinstance(oracle, CouplingOracle):
        mean, covariance = oracle.moments(t)
        return mean.item(), covariance.item()
    alpha, sigma, _, _ = oracle.interpolant(t)
    return alpha * float(oracle.mean), alpha**2 * float(oracle.covariance) + sigma**2
