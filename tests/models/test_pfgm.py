"""PFGM++: its noise, its oracle, its samples, and that it is EDM in the limit."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from problems import rms, shows_order
from scipy import stats

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, PlanError, ShapeError
from pushforward.models import EDM, Linear, MixtureOracle, PFGMNoise, PointCharges, pfgm
from pushforward.models.pfgm import student_factors

POINTS = [[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]]
WEIGHTS = [0.3, 0.5, 0.2]


def factors(dimensions: float, count: int = 100_000) -> torch.Tensor:
    return student_factors(dimensions, count, seed=3)


# --- noise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "expected"), [(8, 6.667), (128, 5.079), (2048, 5.005)])
def test_mean_square_radius(dimensions: float, expected: float) -> None:
    """E R^2 = nu^2 n D / (D - 2) in n = 5, within five standard errors."""
    squares = PFGMNoise(dimensions).noise((100_000, 5), seed=1, dtype=torch.float64).square().sum(1)
    exact = 5 * dimensions / (dimensions - 2)
    assert exact == pytest.approx(expected, abs=1e-3)
    assert abs(squares.mean() - exact) < 5 * squares.std() / len(squares) ** 0.5


@pytest.mark.parametrize("dimensions", [1, 3.5, 64, 2048])
def test_radius_has_the_law_of_the_papers_algorithm(dimensions: float) -> None:
    """R^2 / r^2 = B / (1 - B) with B ~ Beta(n / 2, D / 2), and the direction is uniform."""
    nu, n = 0.7, 6
    noise = PFGMNoise(dimensions)
    x = noise.perturb(torch.zeros(20_000, n, dtype=torch.float64), nu, seed=5)
    ratio = x.square().sum(1) / noise.radius(nu) ** 2
    assert stats.kstest((ratio / (1 + ratio)).numpy(), stats.beta(n / 2, dimensions / 2).cdf).pvalue > 1e-3
    direction = x[:, 0] / x.norm(dim=1)
    assert stats.kstest(direction.square().numpy(), stats.beta(0.5, (n - 1) / 2).cdf).pvalue > 1e-3


def test_the_limit_is_the_gaussian_of_the_same_seed() -> None:
    """Relative deviation of the factor: 1 / sqrt(2 D), 2.2e-4 at 1e7; five of them are 1.1e-3."""
    gauss = PFGMNoise(math.inf).noise((1000, 3), seed=4, dtype=torch.float64)
    for dimensions, bound in ((1e3, 0.12), (1e5, 1.2e-2), (1e7, 1.2e-3)):
        near = PFGMNoise(dimensions).noise((1000, 3), seed=4, dtype=torch.float64)
        assert ((near / gauss - 1).abs() < bound).all()
        assert abs((near / gauss - 1).std() * math.sqrt(2 * dimensions) - 1) < 0.15


def test_a_sample_does_not_depend_on_its_batch() -> None:
    noise, data = PFGMNoise(16), torch.arange(12.0).reshape(4, 3)
    batch = noise.perturb(data, torch.tensor([0.1, 0.2, 0.3, 0.4]), seed=9)
    alone = noise.perturb(data[2:3], 0.3, seed=9, samples=torch.tensor([2]))
    assert torch.equal(batch[2:3], alone)


# --- the oracle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["edm", "linear", "vp"])
def test_infinitely_many_dimensions_are_the_mixture_oracle(path: str) -> None:
    mixture = MixtureOracle(WEIGHTS, POINTS, 0.0, path)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.2, 0.6, 0.95):
        exact = mixture.denoised(x, t)
        assert (PointCharges(POINTS, math.inf, WEIGHTS, path).denoised(x, t) - exact).abs().max() < 1e-12
        assert (PointCharges(POINTS, 1e7, WEIGHTS, path).denoised(x, t) - exact).abs().max() < 1e-3
        velocity = PointCharges(POINTS, math.inf, WEIGHTS, path).velocity(x, t)
        assert (velocity - mixture.velocity(x, t)).abs().max() < 1e-10 * mixture.velocity(x, t).abs().max()


def test_the_posterior_mean_by_monte_carlo() -> None:
    """Average the data over samples that fall into a cell: within five standard errors of D at its centre."""
    charges, nu, count = PointCharges([[-1.0], [1.0]], 4, [0.25, 0.75], EDM(sigma_max=1.0)), 0.8, 400_000
    t = charges.interpolant.time_at_noise_ratio(nu)
    level = models.PointCharges(charges.points, 4, charges.weights, charges.interpolant).sample(count, seed=2, t=1.0)
    x = level + nu * PFGMNoise(4).noise((count, 1), seed=2, dtype=torch.float64)
    for centre in (-2.0, 0.0, 0.5):
        inside = level[(x - centre).abs()[:, 0] < 0.05]
        exact = charges.denoised(torch.tensor([[centre]], dtype=torch.float64), t).item()
        assert abs(inside.mean().item() - exact) < 5 * inside.std().item() / len(inside) ** 0.5 + 0.01  # the cell


def test_a_single_charge_is_reached_by_any_step() -> None:
    charges = PointCharges([[0.4, -0.2]], 64)
    x = pf.sample(charges.model(), (16, 2), solver="euler", steps=1, dtype=torch.float64)
    assert (x - charges.points).abs().max() < 1e-12


def test_order_of_heun() -> None:
    charges = PointCharges(POINTS, 64, WEIGHTS)
    start = charges.sample(16, seed=1, t=charges.interpolant.time_at_noise_ratio(20.0))

    def solve(steps: int, solver: str = "heun") -> torch.Tensor:
        ratios = [20.0 * (1.0 / 20) ** (i / steps) for i in range(steps + 1)]
        grid = [charges.interpolant.time_at_noise_ratio(nu) for nu in ratios]
        return pf.sample(charges.model(), start, solver=solver, grid=grid)

    exact = solve(128, "rk4")
    assert shows_order([rms(solve(n) - exact) for n in (32, 64, 128)], 2, 0.1)


# --- samples ---------------------------------------------------------------------------------------------------


@cache
def data() -> torch.Tensor:
    """A hundred points of a mixture in the plane."""
    return models.reference_mixture().sample(100, seed=8)


@pytest.mark.parametrize("dimensions", [64, 128, 2048])
def test_samples_match_the_data(dimensions: float) -> None:
    """Every sample lands on a point, and all points are equally likely: chi-square over nearest points."""
    charges = PointCharges(data(), dimensions)
    x = pf.sample(charges.model(), (2000, 2), solver="heun", grid="karras", steps=24, dtype=torch.float64, seed=3)
    distance, nearest = torch.cdist(x, data()).min(1)
    assert distance.max() < 0.01
    counts = nearest.bincount(minlength=100)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_edm_is_the_limit() -> None:
    """D = 1e7 and EDM, same seed, same grid: every state to 1e-3 of its scale, every sample to 1e-3."""
    paths = {}
    for dimensions in (1e7, math.inf):
        seen = pf.Trajectory()
        model = PointCharges(POINTS, dimensions, WEIGHTS).model()
        pf.sample(model, (256, 2), solver="heun", grid="karras", steps=18, dtype=torch.float64, hooks=[seen], seed=6)
        paths[dimensions] = seen
    for t, a, b in zip(paths[1e7].times, paths[1e7].states, paths[math.inf].states, strict=True):
        assert rms(a - b) < 1e-3 * max(1.0, EDM().sigma(t))
    assert (paths[1e7].states[-1] - paths[math.inf].states[-1]).abs().max() < 1e-3


def test_runs_start_from_its_own_noise() -> None:
    """D = 1: tails so heavy that a Gaussian start would never show them."""
    seen = []
    network = models.adapt(lambda x, t: seen.append(x.clone()) or 0 * x, "denoised", EDM(sigma_max=10.0))
    pf.sample(pfgm(network, 1), (2000, 3), solver="euler", steps=1, seed=2)
    assert torch.equal(seen[0], 10.0 * PFGMNoise(1).noise((2000, 3), seed=2))
    assert seen[0].abs().max() > 10 * 10


# --- what it cannot do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, solver in solvers.solvers() if solver.stochastic])
def test_stochastic_solvers_are_refused(name: str) -> None:
    model = PointCharges(POINTS, 64).model()
    grid = [0.1, 0.5, 0.9]
    for reads in (model, model.on(Linear())):
        first, second, _ = (reads.interpolant.noise_ratio(t) for t in grid)
        options = {"intervals": [(second, (first + second) / 2, 2)]} if name == "restart" else {}  # within the grid
        with pytest.raises((PlanError, ArgumentError), match=r"PFGM\+\+"):
            pf.sample(reads, (2, 2), solver=solvers.solver(name, **options), grid=grid)


def test_errors_and_configuration() -> None:
    model = PointCharges(POINTS, 64).model("edm")
    assert models.prediction_from_config(model.prediction.to_config()) == model.prediction
    assert model.on("linear").prediction.dimensions == 64
    with pytest.raises(ArgumentError, match="score"):
        model.prediction.score(0.5)
    with pytest.raises(ArgumentError, match="dimensions: got 0"):
        PFGMNoise(0)
    with pytest.raises(ArgumentError, match="expected one without"):
        pfgm(model, 128)
    with pytest.raises(ShapeError, match="one a point"):
        PointCharges(POINTS, 64, [1.0])
    with pytest.raises(ShapeError, match=r"expected \[B, 2\]"):
        PointCharges(POINTS, 64).denoised(torch.zeros(1, 3), 0.5)
