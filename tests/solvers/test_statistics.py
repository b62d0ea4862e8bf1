"""Samples of the stochastic solvers on a mixture in 16 dimensions: mean, covariance, mode weights, sliced distance."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward import models, solvers

DIMENSION, COUNT, WEIGHTS = 16, 2000, [0.5, 0.3, 0.2]
# So fine that the bias is below a standard error: the weak error falls with the order.
STEPS = {1: 200, 2: 40}
SOLVERS = {name: solver for name, solver in solvers.solvers() if hasattr(solver, "diffusion")}


@cache
def oracle() -> models.MixtureOracle:
    generator = torch.Generator().manual_seed(7)
    means = torch.randn(3, DIMENSION, generator=generator, dtype=torch.float64)
    spreads = 0.2 + 0.4 * torch.rand(3, DIMENSION, generator=generator, dtype=torch.float64)
    return models.MixtureOracle(WEIGHTS, list(means), list(spreads.square()))


@cache
def exact() -> list[torch.Tensor]:
    return [oracle().sample(COUNT, seed=seed) for seed in range(100, 106)]


def sliced(a: torch.Tensor, b: torch.Tensor) -> float:
    """Sliced Wasserstein distance over 128 fixed directions."""
    directions = torch.randn(DIMENSION, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean().sqrt().item()


def check(x: torch.Tensor) -> None:
    """Five standard errors for each moment and weight, three deviations for the distance between exact samples."""
    weights, means = oracle().weights, torch.stack(oracle().means)
    mean = weights @ means
    second = torch.einsum("k,ki,kj->ij", weights, means, means) + torch.diag(
        weights @ torch.stack(oracle().covariances)
    )
    centred = x - mean
    products = centred[:, :, None] * centred[:, None]
    assert (centred.mean(0).abs() < 5 * centred.std(0) / COUNT**0.5).all(), "mean"
    error = products.mean(0) - (second - torch.outer(mean, mean))
    assert (error.abs() < 5 * products.std(0) / COUNT**0.5).all(), "covariance"
    shares = oracle().responsibilities(x, 1.0).mean(0)
    assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / COUNT).sqrt()).all(), "mode weights"
    between = np.array([sliced(a, b) for a, b in itertools.combinations(exact(), 2)])
    assert np.mean([sliced(x, e) for e in exact()]) < between.mean() + 3 * between.std(), "sliced distance"


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_match_the_data(name: str) -> None:
    steps = STEPS[SOLVERS[name].order]
    check(pf.sample(oracle().model(), (COUNT, DIMENSION), solver=name, steps=steps, dtype=torch.float64, seed=2))


def test_the_checks_see_a_coarse_solver() -> None:
    x = pf.sample(oracle().model(), (COUNT, DIMENSION), solver="euler_maruyama", steps=8, dtype=torch.float64, seed=2)
    with pytest.raises(AssertionError):
        check(x)
