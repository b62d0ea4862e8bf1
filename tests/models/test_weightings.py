"""Weightings state one objective in three quantities: constants of the papers, conversions, exact expectations."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models import Linear, Trigonometric, VPLinear
from pushforward.models.training.time_samplers import LogitNormalTimes, UniformTimes
from pushforward.models.training.weightings import SPACES, WEIGHTINGS, EDMWeighting, weighting

PATHS = [Linear(), Trigonometric(), VPLinear()]
TIMES = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighted_error_is_the_same_in_every_quantity(name: str, path) -> None:
    """Errors of one network at one point, converted by its prediction: four multiplications in float64 apart."""
    chosen = weighting(name)
    reads = {
        "velocity": pf.models.prediction("velocity", path),
        "data": pf.models.prediction("denoised", path),
        "noise": pf.models.prediction("noise", path),
    }
    for t in TIMES.tolist():
        losses = []
        for space in SPACES:
            slope = reads[space].velocity(t).output  # of the velocity in what the network returns
            losses.append(chosen.at(path, t, space) / slope**2)  # times |dv|^2, whatever that is
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-10)
        assert losses[0] > 0


def test_constants_of_the_papers() -> None:
    path = VPLinear()
    for t in TIMES.tolist():
        alpha, sigma, _, _ = path(t)
        ratio = (alpha / sigma) ** 2
        assert weighting("min_snr").at(path, t, "data") == pytest.approx(min(ratio, 5.0), rel=1e-12)
        assert weighting("min_snr").at(path, t, "noise") == pytest.approx(min(1.0, 5.0 / ratio), rel=1e-12)
        assert weighting("p2").at(path, t, "noise") == pytest.approx(1 / (1 + ratio), rel=1e-12)
    linear = Linear()
    for t in TIMES.tolist():
        assert weighting("noise").at(linear, t) == pytest.approx(t**2, rel=1e-12)  # |dn|^2 = t^2 |dv|^2
        rho = (1 - t) / t
        assert weighting("edm").at(linear, t, "data") == pytest.approx(1 / rho**2 + 4, rel=1e-12)
        # lambda' / 2 = 1 / (t (1 - t)), in the velocity times t^2
        falls = 1 / (1 + math.exp(-2.0) * (t / (1 - t)) ** 2)
        assert weighting("sigmoid").at(linear, t) == pytest.approx(falls * t / (1 - t), rel=1e-12)


def test_an_untrained_edm_network_has_the_loss_one() -> None:
    """c_out^2 of EDM's output times the weight is one; so is its loss on N(0, s_d^2), at every level."""
    read, chosen = pf.models.prediction("edm", Linear(), sigma_data=0.7), EDMWeighting(0.7)
    for t in TIMES.tolist():
        outer, (alpha, sigma, _, _) = read.denoised(t), Linear()(t)
        assert chosen.at(Linear(), t, "data") * outer.output**2 == pytest.approx(1.0, rel=1e-12)
        error = (1 - outer.x * alpha) ** 2 * 0.49 + (outer.x * sigma) ** 2  # of c_skip x as an estimate of x_1
        assert chosen.at(Linear(), t, "data") * error == pytest.approx(1.0, rel=1e-12)


def test_a_density_as_a_sampler_and_as_a_weight_are_one_objective() -> None:
    """The floor of the velocity loss of N(0, r^2), r^2 / (t^2 r^2 + (1 - t)^2): within 4 standard errors."""
    floor = lambda t: 0.36 / (0.36 * t**2 + (1 - t) ** 2)  # noqa: E731
    drawn = floor(LogitNormalTimes().sample(2500, seed=1))
    flat = UniformTimes().sample(2500, seed=2)
    weighed = floor(flat) * weighting("density")(Linear(), flat)
    error = math.hypot(drawn.std().item(), weighed.std().item()) / 50
    assert abs(drawn.mean().item() - weighed.mean().item()) < 4 * error
    plain = (floor(flat) * weighting("uniform")(Linear(), flat)).mean().item()
    assert plain == pytest.approx(math.pi * 0.6 / 2, abs=4 * floor(flat).std().item() / 50)  # the integral, exactly


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UnknownNameError, match="weighting: got 'snr', expected one of uniform, noise, edm, min_snr"):
        weighting("snr")
    with pytest.raises(ArgumentError, match="options of min_snr"):
        weighting("min_snr", delta=1.0)
    for name, option in (("edm", "sigma_data"), ("min_snr", "gamma"), ("p2", "k")):
        with pytest.raises(ArgumentError, match=option):
            weighting(name, **{option: 0.0})
    with pytest.raises(ArgumentError, match="bias"):
        weighting("sigmoid", bias=math.nan)
    with pytest.raises(UnknownNameError, match="space"):
        weighting("uniform").at(Linear(), 0.5, "score")
    with pytest.raises(ArgumentError, match=r"t: got 1.0, expected a time inside \(0, 1\)"):
        weighting("edm").at(Linear(), 1.0)
