"""The Gaussian head start: its flow is exact, its moments are the data's, and what it skips costs (spread / nu)^3."""

from __future__ import annotations

import math

import pytest
import torch
from problems import reference_solution, rms

import pushforward as pf
from pushforward import models
from pushforward.errors import ArgumentError, GridError, ShapeError, SingularTimeError
from pushforward.models import GaussianOracle, Linear, interpolant
from pushforward.solvers import HeadStart

MEAN, COVARIANCE = [0.7, -0.4, 0.1], [[0.9, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 0.1]]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("path", ["linear", "trigonometric", "vp", "cosine", "ve", "edm"])
def test_the_flow_is_that_of_the_gaussian(path: str) -> None:
    head, oracle = HeadStart.from_moments(MEAN, COVARIANCE), GaussianOracle(MEAN, COVARIANCE, path)
    along = interpolant(path)
    x = noise(5, 3) * along.sigma(0.0)
    for start, stop in ((0.0, 0.3), (0.3, 0.9), (0.9, 0.2)):
        exact = oracle.flow_map(x, start, stop)
        assert (head.flow(x, start, stop, along) - exact).abs().max() < 1e-12 * exact.abs().max()
    through = head.flow(head.flow(x, 0.0, 0.4, along), 0.4, 0.8, along)
    assert (through - head.flow(x, 0.0, 0.8, along)).abs().max() < 1e-13 * x.abs().max()
    single = head.flow(x.float(), 0.0, 0.5, along)
    assert single.dtype == torch.float32
    # A sum of d + 2 products of numbers up to |x|, each rounded in float32.
    bound = 8 * torch.finfo(torch.float32).eps * x.abs().max()
    assert (single.double() - head.flow(x, 0.0, 0.5, along)).abs().max() < bound


def test_few_directions_and_a_floor_are_their_full_covariance() -> None:
    vectors = torch.linalg.qr(noise(6, 6)).Q
    spectrum = torch.tensor([3.0, 1.0, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)
    covariance = vectors * spectrum @ vectors.mT
    low = HeadStart.from_moments(torch.zeros(6), covariance, rank=2)
    assert low.basis.shape == (6, 2)
    assert low.floor == pytest.approx(0.2, rel=1e-12)
    x = noise(4, 6, seed=1)
    full = HeadStart.from_moments(torch.zeros(6), covariance)
    assert (low.flow(x, 0.0, 0.7, Linear()) - full.flow(x, 0.0, 0.7, Linear())).abs().max() < 1e-13


def test_moments_of_data_whole_or_in_batches() -> None:
    data = noise(50, 2, 3) @ noise(3, 3, seed=2) + 10
    whole, parts = HeadStart.from_data(data), HeadStart.from_data(iter(data.split(17)))
    flat = data.reshape(50, 6)
    assert (whole.mean - data.mean(0)).abs().max() < 1e-13
    for head in (whole, parts):
        rebuilt = head.basis * head.variances @ head.basis.mT
        assert (rebuilt - torch.cov(flat.mT)).abs().max() < 1e-12
        assert head.mean.shape == (2, 3)


def test_fewer_samples_than_dimensions() -> None:
    """The span of the data has rank N - 1; other directions have the given floor, or shrink with the noise alone."""
    data, x = noise(4, 10), noise(3, 10, seed=5)
    bare, padded = HeadStart.from_data(data), HeadStart.from_data(data, floor=0.5)
    assert bare.basis.shape == (10, 3)
    assert bare.floor < 1e-12
    outside = torch.eye(10, dtype=torch.float64) - bare.basis @ bare.basis.mT
    for head, variance in ((bare, 0.0), (padded, 0.5)):
        moved = (head.flow(x, 0.0, 0.6, Linear()) - 0.6 * head.mean) @ outside
        assert (moved - math.sqrt(0.36 * variance + 0.16) * x @ outside).abs().max() < 1e-7


def test_error_falls_with_the_third_power_of_the_noise() -> None:
    """Skipping to nu = 3, 5, 10, 20 on the reference mixture and solving exactly from there."""
    oracle = models.reference_mixture()
    weights, means = oracle.weights, torch.stack(oracle.means)
    mean = weights @ means
    second = torch.einsum("k,kij->ij", weights, torch.stack(oracle.covariances) + means[:, :, None] * means[:, None])
    head, x0 = HeadStart.from_moments(mean, second - torch.outer(mean, mean)), noise(256, 2, seed=3)
    exact = reference_solution(oracle, x0, 0.0, 1.0)
    errors = []
    for nu in (3.0, 5.0, 10.0, 20.0):
        t = Linear().time_at_noise_ratio(nu)
        errors.append(rms(reference_solution(oracle, head.flow(x0, 0.0, t, Linear()), t, 1.0) - exact))
    slope = math.log(errors[-1] / errors[0]) / math.log(20 / 3)
    assert -3.3 < slope < -2.5, errors
    assert errors[0] < 0.02
    naive = reference_solution(oracle, noise(256, 2, seed=3) * 0.9, Linear().time_at_noise_ratio(10.0), 1.0)
    assert rms(naive - exact) > 100 * errors[2], "the error sees a start that forgets the mean"


def test_a_skipped_run_is_the_run_with_fewer_evaluations() -> None:
    """EDM's grid of 18 steps: six of them are skipped at nu = 10, and the sample moves less than the solver errs."""
    oracle = models.reference_mixture("edm")
    head = HeadStart.from_data(models.reference_mixture().sample(20_000, seed=1))
    grid = pf.solvers.grid("karras", 18, oracle.interpolant)
    x0 = 80.0 * noise(64, 2, seed=2)
    x, rest = head.skip(x0, grid, oracle.interpolant, noise_ratio=5.0)
    assert rest == grid[len(grid) - len(rest) :]
    assert oracle.interpolant.noise_ratio(rest[0]) >= 5.0 > oracle.interpolant.noise_ratio(rest[1])
    exact = pf.sample(oracle.model("denoised"), x0, solver="rk4", grid="karras", steps=200)
    full = pf.sample(oracle.model("denoised"), x0, solver="heun", grid=grid)
    short = pf.sample(oracle.model("denoised"), x, solver="heun", grid=rest)
    assert 0.25 < (len(grid) - len(rest)) / len(grid) < 0.5
    assert rms(short - exact) < 1.5 * rms(full - exact)
    unmoved, whole = head.skip(x0, grid, oracle.interpolant, noise_ratio=1000.0)
    assert unmoved is x0
    assert whole == grid


def test_errors_are_named() -> None:
    head, x = HeadStart.from_moments(MEAN, COVARIANCE), noise(2, 3)
    with pytest.raises(ShapeError, match=r"expected floating point \[B, 3\]"):
        head.flow(noise(2, 4), 0.0, 0.5, Linear())
    with pytest.raises(SingularTimeError, match="point mass"):
        HeadStart.from_moments([0.0], [[0.0]]).flow(noise(1, 1), 1.0, 0.5, Linear())
    with pytest.raises(GridError, match="increasing"):
        head.skip(x, [0.9, 0.1], Linear(), noise_ratio=5.0)
    with pytest.raises(GridError, match="goes below noise_ratio=5"):
        head.skip(x, [0.01, 0.1], Linear(), noise_ratio=5.0)
    with pytest.raises(ArgumentError, match=r"the eigenvalue -1, expected none below 0"):
        HeadStart.from_moments([0.0, 0.0], [[1.0, 0.0], [0.0, -1.0]])
    with pytest.raises(ArgumentError, match="symmetric"):
        HeadStart.from_moments([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ShapeError, match=r"covariance: got \[2, 2\]"):
        HeadStart.from_moments([0.0], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ArgumentError, match="rank: got 4"):
        HeadStart.from_moments(MEAN, COVARIANCE, rank=4)
    with pytest.raises(ArgumentError, match="floor: got -1"):
        HeadStart.from_moments(MEAN, COVARIANCE, floor=-1.0)
    with pytest.raises(ArgumentError, match="1 samples"):
        HeadStart.from_data(x[:1])
    with pytest.raises(ShapeError, match="batches of"):
        HeadStart.from_data([noise(2, 3), noise(2, 4)])
