"""What steps contribute, and training times in proportion to it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pushforward.errors import ArgumentError, GridError, UnknownNameError
from pushforward.models import Linear, Trigonometric, VPLinear
from pushforward.models.training.contributions import contribution_times, contributions, training_times
from pushforward.models.training.time_samplers import HistogramTimes
from pushforward.models.training.train_digits import draw_times, velocity_error

GRID = (0.1, 0.15, 0.3, 0.55, 0.7, 0.9)
HISTOGRAM = HistogramTimes((0.0, 0.1, 0.4, 1.0), (0.5, 0.3, 0.2))
DRAWS = 100_000


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VPLinear()], ids=str)
@pytest.mark.parametrize("space", ["noise", "data"])
def test_contributions_telescope_to_the_end_of_ddim(path, space: str) -> None:
    """Random estimates at every step, and x' = alpha' D + sigma' n; ten roundings of numbers below a hundred."""
    rng, x = np.random.default_rng(0), 0.7
    start, found = x, []
    for t, t_next in itertools.pairwise(GRID):
        (alpha, sigma, _, _), (alpha_next, sigma_next, _, _) = path(t), path(t_next)
        found.append(rng.normal())
        noise = found[-1] if space == "noise" else (x - alpha * found[-1]) / sigma
        clean = found[-1] if space == "data" else (x - sigma * found[-1]) / alpha
        x = alpha_next * clean + sigma_next * noise
    first, last, weights = path(GRID[0]), path(GRID[-1]), contributions(path, GRID, space)
    assert (weights > 0).all()
    if space == "noise":
        assert x / last.alpha == pytest.approx(start / first.alpha - weights @ np.array(found), abs=1e-12)
    else:
        assert x / last.sigma == pytest.approx(start / first.sigma + weights @ np.array(found), rel=1e-12, abs=1e-12)


def test_ends_that_a_space_cannot_weigh_are_refused() -> None:
    assert contributions("linear", [0.0, 0.5, 0.75], "data").tolist() == [1.0, 2.0]
    assert contributions("linear", [0.25, 0.5, 1.0], "noise").tolist() == [2.0, 1.0]
    with pytest.raises(ArgumentError, match=r"where alpha = 0.*Use space='data' there"):
        contributions("linear", [0.0, 0.5], "noise")
    with pytest.raises(ArgumentError, match=r"where sigma = 0.*Use space='noise' there"):
        contributions("linear", [0.5, 1.0], "data")
    with pytest.raises(GridError, match="increasing"):
        contributions("linear", [0.5, 0.5], "data")
    with pytest.raises(UnknownNameError, match="space"):
        contributions("linear", GRID, "score")


def test_times_are_drawn_in_proportion_to_the_contribution() -> None:
    """Chi-square over the steps: a right sampler fails one seed in a thousand; the seed is fixed."""
    sampler = contribution_times("linear", GRID)
    t = sampler.sample(DRAWS, seed=4).numpy()
    counts, _ = np.histogram(t, GRID)
    expected = contributions("linear", GRID)
    assert counts.sum() == DRAWS, "no time lies outside the grid"
    assert chisquare(counts, DRAWS * expected / expected.sum()).pvalue > 1e-3
    shares = sampler.cdf(torch.tensor(GRID, dtype=torch.float64)).diff()
    torch.testing.assert_close(shares, torch.from_numpy(expected / expected.sum()), rtol=1e-12, atol=1e-14)


def test_importance_weights_give_the_uniform_mean_and_no_weights_the_emphasis() -> None:
    """Within 4 standard errors of the draws; without weights the mean is that of the density, and far from it."""
    t, weights = HISTOGRAM.weighted(DRAWS, seed=9, importance=True)
    terms = torch.cos(3 * t) * weights
    assert terms.mean().item() == pytest.approx(math.sin(3) / 3, abs=4 * terms.std().item() / math.sqrt(DRAWS))
    t, weights = HISTOGRAM.weighted(DRAWS, seed=9)
    assert torch.equal(weights, torch.ones_like(t))
    assert abs(torch.cos(3 * t).mean().item() - math.sin(3) / 3) > 0.1


def test_a_histogram_is_a_density() -> None:
    u = torch.arange(1, 1000, dtype=torch.float64) / 1000
    t = HISTOGRAM.quantile(u)
    assert (t.diff() > 0).all()
    torch.testing.assert_close(HISTOGRAM.cdf(t), u, rtol=0, atol=1e-14)  # u to eps, whatever the density
    inside = torch.tensor([0.05, 0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(HISTOGRAM.log_prob(inside).exp(), torch.tensor([5.0, 1.0, 1 / 3], dtype=torch.float64))
    part = HistogramTimes((0.2, 0.6), (1.0,))
    assert part.log_prob(torch.tensor([0.1, 0.3], dtype=torch.float64)).exp().tolist() == [0.0, pytest.approx(2.5)]
    gap = HistogramTimes((0.0, 0.2, 0.6, 1.0), (1.0, 0.0, 3.0)).sample(4000, seed=0)
    assert not ((gap > 0.2) & (gap < 0.6)).any()


def test_bad_histograms_are_named() -> None:
    for shares in ((1.0, -1.0), (0.0, 0.0), (1.0, math.nan)):
        with pytest.raises(ArgumentError, match=r"shares.*finite numbers of at least 0, not all 0"):
            HistogramTimes((0.0, 0.5, 1.0), shares)
    with pytest.raises(ArgumentError, match="shares: got 1, expected 2"):
        HistogramTimes((0.0, 0.5, 1.0), (1.0,))
    for edges in ((0.5, 0.5), (0.0, 1.5), (0.5,)):
        with pytest.raises(ArgumentError, match="edges"):
            HistogramTimes(edges, (1.0,) * (len(edges) - 1))
    with pytest.raises(ArgumentError, match=r"importance: got Hist.*a density that is positive between its ends"):
        HistogramTimes((0.0, 0.2, 0.6, 1.0), (1.0, 0.0, 3.0)).weighted(4, seed=0, importance=True)


def test_the_training_script_uses_the_times_and_weights_that_it_is_told() -> None:
    """Stratified times of each density; the weighted error of a known one, and its uniform case as it was."""
    for name in ("contribution", "mode", "uniform"):
        sampler = training_times(name)
        t = draw_times(4000, 0.0, torch.Generator().manual_seed(0), sampler).double()
        for point in (0.1, 0.5, 0.8):
            share = sampler.cdf(torch.tensor(point, dtype=torch.float64)).item()
            assert (t < point).double().mean().item() == pytest.approx(share, abs=2 / 4000 + 1e-6)  # stratified
    t, ones = torch.tensor([0.25, 0.5]), torch.ones(2, 3)
    assert velocity_error(2 * ones, ones, t).item() == 1.0
    assert velocity_error(2 * ones, ones, t, "noise").item() == pytest.approx((1 / 16 + 1 / 4) / 2, rel=1e-6)
    with pytest.raises(UnknownNameError, match="time sampler"):
        training_times("edm")
