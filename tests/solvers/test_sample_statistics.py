"""Every stochastic sampler on a mixture in 16 dimensions: what it draws is right, within sampling noise."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import pushforward as pf
from pushforward import models, solvers
from pushforward.solvers import FixedGridSolver

SAMPLES, DIMENSION, MODES = 2048, 16, 4
WEIGHTS = (0.4, 0.3, 0.2, 0.1)
SEEDS = range(100, 132)
STEPS = {1: 48, 2: 24}  # the bias is then below a standard error of each statistic
STOCHASTIC = {name: solver for name, solver in solvers.solvers() if solver.stochastic}
PROJECTIONS = torch.nn.functional.normalize(
    torch.randn(DIMENSION, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=0
)
# Each test looks at hundreds of statistics: at five standard errors, a right sampler fails one in a thousand tests of
# 16 means and 136 covariances, and with fixed seeds it does so always or never.
ERRORS = 5.0


@cache
def mixture() -> models.MixtureOracle:
    """Four modes in general position, with different, correlated covariances."""
    generator = torch.Generator().manual_seed(7)
    means = 1.6 * torch.randn(MODES, DIMENSION, generator=generator, dtype=torch.float64)
    roots = torch.randn(MODES, DIMENSION, DIMENSION, generator=generator, dtype=torch.float64) / DIMENSION**0.5
    covariances = torch.einsum("kij,klj->kil", 0.3 * roots, roots)
    covariances = (covariances + covariances.mT) / 2 + 0.1 * torch.eye(DIMENSION, dtype=torch.float64)
    return models.MixtureOracle(WEIGHTS, list(means), list(covariances))


@cache
def exact(seed: int) -> torch.Tensor:
    return mixture().sample(SAMPLES, seed=seed)


def modes(x: torch.Tensor) -> torch.Tensor:
    """Share of the samples nearest to each mean."""
    nearest = torch.cdist(x, torch.stack(mixture().means)).argmin(dim=1)
    return torch.bincount(nearest, minlength=MODES) / len(x)


def products(x: torch.Tensor) -> torch.Tensor:
    """The entries of the covariance, sample by sample, around the true mean."""
    centred = x - sum(w * m for w, m in zip(mixture().weights, mixture().means, strict=True))
    return (centred[:, :, None] * centred[:, None, :]).flatten(1)


def quantiles(x: torch.Tensor) -> torch.Tensor:
    """Sorted projections onto the directions, whose differences are those of sliced Wasserstein."""
    return (x @ PROJECTIONS).sort(dim=0).values


@cache
def quantile_noise() -> tuple[torch.Tensor, float, float]:
    """Mean quantiles of 32 exact samples, and mean and deviation of the distance of a further exact sample to them.

    Sampled sets of this size differ from each other, above all in how many samples each mode has got.
    """
    each = torch.stack([quantiles(exact(seed)) for seed in SEEDS])
    mean = each.mean(0)
    others = (len(SEEDS) * mean - each) / (len(SEEDS) - 1)
    distances = (each - others).square().mean((1, 2)).sqrt()
    return mean, distances.mean().item(), distances.std().item()


@cache
def truth() -> tuple[torch.Tensor, ...]:
    """Mean and deviation of one sample's coordinates and of its products, and the shares of the modes."""
    reference = torch.cat([exact(seed) for seed in SEEDS])
    spread = products(reference)
    return reference.mean(0), reference.std(0), spread.mean(0), spread.std(0), modes(reference)


def deviations(x: torch.Tensor) -> dict[str, float]:
    """How far each statistic is from the truth, in standard errors; the truth has an error too."""
    mean, deviation_mean, product, deviation_product, shares = truth()
    error = (1 / len(x) + 1 / (len(SEEDS) * SAMPLES)) ** 0.5
    means = (x.mean(0) - mean) / (deviation_mean * error)
    covariances = (products(x).mean(0) - product) / (deviation_product * error)
    weights = (modes(x) - shares) / ((shares * (1 - shares)).sqrt() * error)
    quantile, noise, deviation = quantile_noise()
    distance = (quantiles(x) - quantile).square().mean().sqrt().item()
    return {
        "mean": means.abs().max().item(),
        "covariance": covariances.abs().max().item(),
        "mode weights": weights.abs().max().item(),
        "sliced Wasserstein": (distance - noise) / deviation,
    }


def consistency_function(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """End of the flow's trajectory through (x, t): 12 steps of RK4, with an error far below the sampling noise."""
    grid = [float(t[0]) + (1 - float(t[0])) * i / 12 for i in range(13)]
    return pf.sample(mixture().model(), x, solver="rk4", grid=grid)


def draw(solver: FixedGridSolver, steps: int, seed: int = 3) -> torch.Tensor:
    """Samples, from the exact distribution at the first time on."""
    path = mixture().interpolant
    grid = solvers.LogSNR(largest=40.0, smallest=0.02)(steps, path)
    start = mixture().sample(SAMPLES, seed=11, t=grid[0])
    model = models.adapt(consistency_function, "denoised") if solver.consistency else mixture().model()
    return pf.sample(model, start, solver=solver, grid=grid, seed=seed)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_statistics_of_the_mixture(name: str) -> None:
    solver = STOCHASTIC[name]
    found = deviations(draw(solver, 4 if solver.consistency else STEPS[solver.order]))
    assert max(found.values()) < ERRORS, found


def test_the_statistics_see_wrong_samplers() -> None:
    """Exact samples pass; five steps, noise of the wrong size, and a mean where an end is wanted do not."""
    assert max(deviations(mixture().sample(SAMPLES, seed=999)).values()) < ERRORS
    assert max(deviations(draw(solvers.solver("euler_ancestral"), 5)).values()) > 2 * ERRORS
    assert max(deviations(draw(solvers.solver("dpmpp_2m_sde", s_noise=1.3), 32)).values()) > 2 * ERRORS
    lcm = pf.sample(
        mixture().model(), mixture().sample(SAMPLES, seed=11, t=0.02), solver="lcm", grid=[0.02, 0.3, 0.6, 0.9, 1.0]
    )
    assert max(deviations(lcm).values()) > 2 * ERRORS
