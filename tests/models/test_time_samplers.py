from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models import EDM, Linear, shift_time
from pushforward.models.training.time_samplers import (
    TIME_SAMPLERS,
    CosMapTimes,
    LogitNormalTimes,
    ModeTimes,
    TimeSampler,
    UniformTimes,
    time_sampler,
)

DRAWS = 100_000
SAMPLERS = [
    *(kind() for kind in TIME_SAMPLERS.values()),
    LogitNormalTimes(-1.0, 0.6), ModeTimes(-1.0), ModeTimes(0.81), ModeTimes(1.75),
    LogitNormalTimes().shifted(3.0), CosMapTimes().shifted(0.5), LogitNormalTimes().mixed(0.1),
]  # fmt: skip


def times(count: int = 1001) -> torch.Tensor:
    """Inside (0, 1)."""
    return torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_draws_follow_the_distribution_function(sampler: TimeSampler) -> None:
    """Kolmogorov and Smirnov: a right sampler fails one seed in a thousand; the seed is fixed."""
    draws = sampler.sample(DRAWS, seed=3)
    assert draws.dtype == torch.float64
    assert kstest(draws.numpy(), lambda t: sampler.cdf(torch.from_numpy(t)).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_draws_fill_a_histogram_as_the_density_says(sampler: TimeSampler) -> None:
    """Each of 40 cells within 5 standard errors of the density's integral: a chance of 2e-5 to miss one."""
    counts = torch.histc(sampler.sample(DRAWS, seed=11), 40, 0.0, 1.0)
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(200))
    cells = torch.arange(40, dtype=torch.float64)[:, None]
    shares = (sampler.log_prob((cells + (nodes + 1) / 2) / 40).exp() * weights).sum(-1) / 80
    # Mode(-1) diverges like an inverse square root at both ends, where the rule misses 1 in 300 of the last cell.
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-3)
    error = (shares * (1 - shares) / DRAWS).sqrt()
    assert ((counts / DRAWS - shares).abs() < 5 * error).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_density_is_the_slope_of_the_distribution_function(sampler: TimeSampler) -> None:
    t, h = times(199), 1e-5
    slope = (sampler.cdf(t + h) - sampler.cdf(t - h)) / (2 * h)
    # Central differences: h^2 / 6 of the third derivative, which is below 1e4 except beside the mode of Mode(1.75).
    smooth = (t - 0.5).abs() > 0.05
    torch.testing.assert_close(sampler.log_prob(t).exp()[smooth], slope[smooth], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_quantile_and_distribution_function_are_inverse(sampler: TimeSampler) -> None:
    u = times()
    t = sampler.quantile(u)
    assert (t.diff() > 0).all()
    # u is determined by t up to eps times the density, which is below 1e2 but for Mode(1.75) (4e2).
    torch.testing.assert_close(sampler.cdf(t), u, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "variance"),
    [(LogitNormalTimes(), 0.0433), (ModeTimes(0.81), 0.0579), (ModeTimes(1.29), 0.0464), (ModeTimes(1.75), 0.0378),
     (ModeTimes(-1.0), 0.125), (CosMapTimes(), 0.0683), (UniformTimes(), 1 / 12)],
    ids=str,
)  # fmt: skip
def test_variances(sampler: TimeSampler, variance: float) -> None:
    u = times(20_000)  # a midpoint-like rule of a bounded function, good to its spacing
    t = sampler.quantile(u)
    assert t.mean().item() == pytest.approx(0.5, abs=1e-4)
    assert t.var().item() == pytest.approx(variance, abs=1.5e-4)


@pytest.mark.parametrize("sampler", [ModeTimes(1.29), ModeTimes(-0.5), CosMapTimes(), LogitNormalTimes()], ids=str)
def test_symmetric_densities(sampler: TimeSampler) -> None:
    t = times(99)
    torch.testing.assert_close(sampler.log_prob(t), sampler.log_prob(1 - t), rtol=1e-9, atol=1e-9)


def test_a_positive_location_favours_data_and_a_shift_favours_noise() -> None:
    assert LogitNormalTimes(1.0).quantile(torch.tensor(0.5)).item() == pytest.approx(1 / (1 + math.exp(-1)))
    t = times()
    shifted, moved = LogitNormalTimes(0.4, 0.7).shifted(3.0), LogitNormalTimes(0.4 - math.log(3.0), 0.7)
    torch.testing.assert_close(shifted.log_prob(t), moved.log_prob(t), rtol=1e-11, atol=1e-11)
    twice, once = CosMapTimes().shifted(2.0).shifted(1.5), CosMapTimes().shifted(3.0)
    torch.testing.assert_close(twice.log_prob(t), once.log_prob(t), rtol=1e-12, atol=1e-12)
    path = Linear()
    for one in (0.1, 0.5, 0.9):
        assert path.half_log_snr(shift_time(one, 3.0)) == pytest.approx(path.half_log_snr(one) - math.log(3), abs=1e-12)


def test_edm_levels_are_a_logit_normal() -> None:
    """ln nu ~ N(-1.2, 1.2^2) on the linear path."""
    nu = (1 / LogitNormalTimes(1.2, 1.2).sample(DRAWS, seed=5) - 1).log()
    assert nu.mean().item() == pytest.approx(-1.2, abs=5 * 1.2 / math.sqrt(DRAWS))
    assert nu.std().item() == pytest.approx(1.2, abs=5 * 1.2 / math.sqrt(2 * DRAWS))
    assert EDM().noise_range[0] == 0.002


def test_importance_weights_give_the_uniform_mean() -> None:
    """E_pi[f / pi] = E_uniform[f] on times where pi does not vanish, within 4 standard errors of the draws."""
    sampler = LogitNormalTimes()
    t = sampler.sample(DRAWS, seed=8)
    inside = (t > 0.02) & (t < 0.98)
    terms = torch.where(inside, torch.cos(t) / sampler.log_prob(t).exp(), 0.0)
    exact = math.sin(0.98) - math.sin(0.02)
    assert terms.mean().item() == pytest.approx(exact, abs=4 * terms.std().item() / math.sqrt(DRAWS))


def test_draws_depend_on_seed_step_and_place_alone() -> None:
    sampler = ModeTimes().mixed(0.5)
    whole = sampler.sample(64, seed=1, step=2)
    assert torch.equal(sampler.sample(16, seed=1, step=2), whole[:16])
    assert not torch.equal(sampler.sample(64, seed=1, step=3), whole)
    assert not torch.equal(sampler.sample(64, seed=2, step=2), whole)
    assert sampler.sample(0, seed=1).shape == (0,)


def test_densities_at_the_ends() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert LogitNormalTimes().log_prob(ends).tolist() == [-math.inf, -math.inf]
    assert LogitNormalTimes().mixed(0.1).log_prob(ends).exp().tolist() == pytest.approx([0.1, 0.1])
    assert ModeTimes(1.29).log_prob(ends).exp().tolist() == pytest.approx([1 / 2.29] * 2, rel=1e-9)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"mode scale: got 1.8, expected a number in \[-1, 1.7519\]"):
        ModeTimes(1.8)
    with pytest.raises(ArgumentError, match="shift"):
        UniformTimes().shifted(0.0)
    with pytest.raises(ArgumentError, match="share"):
        UniformTimes().mixed(1.5)
    with pytest.raises(ArgumentError, match="scale"):
        LogitNormalTimes(scale=0.0)
    with pytest.raises(ArgumentError, match="location"):
        LogitNormalTimes(float("nan"))
    with pytest.raises(UnknownNameError, match="'edm', expected one of uniform, logit_normal, mode, cosmap"):
        time_sampler("edm")
    with pytest.raises(ArgumentError, match="options of cosmap"):
        time_sampler("cosmap", scale=1.0)
