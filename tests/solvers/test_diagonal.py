"""Integrators of element-wise noise, on geometric Brownian motion with coefficients that depend on time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems import rms, shows_order

from pushforward.errors import ArgumentError, GridError, ShapeError, UnknownNameError
from pushforward.solvers.sde import integrate_diagonal
from pushforward.solvers.sde.diagonal import METHODS

ORDERS = {"euler_maruyama": (0.5, 1), "milstein": (1.0, 1), "platen": (None, 2)}  # strong and weak


def drift(x: torch.Tensor, t: float) -> torch.Tensor:
    return (0.3 + 0.4 * t) * x


def diffusion(x: torch.Tensor, t: float) -> torch.Tensor:
    return (0.5 + 0.2 * t) * x


def moment(method: str, power: int, steps: int) -> float:
    """``E[X_1^power]`` from X_0 = 1, exactly: a step multiplies x by a polynomial in W, integrated by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    normals, total = torch.from_numpy(nodes)[:, None], 1.0
    for i in range(steps):
        times = [i / steps, (i + 1) / steps]
        w = math.sqrt(times[1] - times[0]) * normals
        factor = integrate_diagonal(
            drift, diffusion, torch.ones_like(w), times, method=method, increments=lambda _, w=w: w
        )
        total *= float(weights @ factor[:, 0].numpy() ** power / weights.sum())
    return total


def exact_moment(power: int) -> float:
    """``exp(integral of k a + k (k - 1) b^2 / 2)``."""
    rate, variance = 0.3 + 0.4 / 2, 0.25 + 0.2 / 2 + 0.04 / 3
    return math.exp(power * rate + power * (power - 1) / 2 * variance)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_weak_order_by_exact_moments(method: str, power: int) -> None:
    errors = [abs(moment(method, power, n) - exact_moment(power)) for n in (16, 32, 64)]
    assert shows_order(errors, ORDERS[method][1], 0.1), errors


@pytest.mark.parametrize("method", ["euler_maruyama", "milstein"])
def test_strong_order_on_coupled_paths(method: str) -> None:
    """dX = 0.3 X dt + 0.5 X dW against its solution exp((a - b^2 / 2) t + b W_t), 4,000 paths."""
    w = torch.randn((256, 4000, 1), generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 16
    exact = torch.exp(0.3 - 0.125 + 0.5 * w.sum(0))
    errors = []
    for steps in (16, 64, 256):
        coarse = w.reshape(steps, -1, 4000, 1).sum(1)
        x = integrate_diagonal(
            lambda x, t: 0.3 * x, lambda x, t: 0.5 * x, torch.ones(4000, 1, dtype=torch.float64),
            [i / steps for i in range(steps + 1)], method=method, increments=lambda i, coarse=coarse: coarse[i],
        )  # fmt: skip
        errors.append(rms(x - exact))
    assert abs(math.log2(errors[0] / errors[2]) / 4 - ORDERS[method][0]) < 0.05, errors


def test_milstein_of_additive_noise_is_euler_maruyama() -> None:
    x0, times = torch.randn(8, 3, dtype=torch.float64), [0.0, 0.3, 1.0]
    ends = [
        integrate_diagonal(lambda x, t: torch.sin(x), lambda x, t: torch.full_like(x, 1 - t), x0, times, method=method)
        for method in ("milstein", "euler_maruyama")
    ]
    assert torch.equal(*ends)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    x0, times = torch.ones(4, 5), [0.0, 0.5, 1.0]
    batch = integrate_diagonal(drift, diffusion, x0, times, seed=3)
    alone = integrate_diagonal(drift, diffusion, x0[:1], times, seed=3, samples=torch.tensor([2]))
    assert torch.equal(alone, batch[2:3])
    assert not torch.equal(batch, integrate_diagonal(drift, diffusion, x0, times, seed=4))


def test_errors_are_named() -> None:
    x0 = torch.ones(2, 3)
    with pytest.raises(UnknownNameError, match="'srk', expected one of euler_maruyama, milstein, platen"):
        integrate_diagonal(drift, diffusion, x0, [0.0, 1.0], method="srk")
    with pytest.raises(GridError, match="increasing"):
        integrate_diagonal(drift, diffusion, x0, [0.0, 0.0])
    with pytest.raises(ArgumentError, match=r"x0: got torch\.int64"):
        integrate_diagonal(drift, diffusion, x0.long(), [0.0, 1.0])
    with pytest.raises(ShapeError, match=r"after step 0: got"):
        integrate_diagonal(drift, lambda x, t: x[:, None] * torch.ones(2, 1), x0, [0.0, 1.0])
