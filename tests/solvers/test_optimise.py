"""Grids made for a model: the known optimum is found, what is reported is true, and a bad search costs nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, GridError
from pushforward.solvers import OptimisedGrid, optimise_grid

WIDE = {"pilot": 24, "held_out": 24, "dtype": torch.float64, "iterations": 4}


@pytest.fixture(scope="module")
def found() -> OptimisedGrid:
    """For midpoint's four steps on the mixture."""
    return optimise_grid(models.reference_mixture().model(), "midpoint", 4, (2,), seed=3, **WIDE)


@pytest.mark.parametrize("path", [models.EDM(), models.Linear()], ids=["edm", "linear"])
def test_the_optimum_of_ddim_on_a_gaussian_is_equal_angles(path: models.Interpolant) -> None:
    """DDIM scales a sample of N(0, c^2) by the product of the cosines of its angles in atan(nu / c)."""
    c, steps = 0.7, 5
    model = models.GaussianOracle([0.0], [[c * c]], path).model()
    base = solvers.Karras(largest=80.0)
    result = optimise_grid(model, "ddim", steps, (1,), base=base, **WIDE | {"iterations": 20})
    angles = [math.atan(path.noise_ratio(t) / c) for t in result.times]
    # The error is flat at its minimum: the search ends when it gains less than 0.1 %, and the loss (1 - cos^N)^2 is
    # quadratic in the angles, so they are within a few percent of a step.
    step = angles[0] / steps
    assert [a - b for a, b in itertools.pairwise(angles)] == pytest.approx([step] * steps, rel=0.05)
    best = (1 - math.cos(step) ** steps) * result.error / (1 - ratio(angles))
    assert best == pytest.approx(result.error, rel=2e-3)


def ratio(angles: list[float]) -> float:
    return math.prod(math.cos(a - b) for a, b in itertools.pairwise(angles))


def test_the_reported_error_is_that_of_samples_with_this_grid(found: OptimisedGrid) -> None:
    """Drawn again by the public function, on the same held-out starts, against a reference of its own."""
    model, ids = models.reference_mixture().model(), torch.arange(24, 48)
    for grid, said in ((found, found.error), ("uniform", found.base_error)):
        draw = {"seed": 3, "samples": ids, "dtype": torch.float64}
        x = pf.sample(model, (24, 2), solver="midpoint", steps=4, grid=grid, **draw)
        exact = pf.sample(model, (24, 2), solver="rk4", steps=400, **draw)
        assert (x - exact).square().mean().sqrt().item() == pytest.approx(said, abs=found.reference_error)
    assert found.gain > 1.4
    assert found.nfe == 8
    assert found.pilot_error < found.pilot_base_error
    assert found.reference_error < 0.01 * found.error


def test_the_seed_alone_decides(found: OptimisedGrid) -> None:
    model = models.reference_mixture().model()
    assert optimise_grid(model, "midpoint", 4, (2,), seed=3, **WIDE) == found


def test_it_survives_json_and_prints_what_it_gained(found: OptimisedGrid) -> None:
    assert OptimisedGrid.from_json(found.to_json()) == found
    assert "grid for midpoint, 4 steps, 8 evaluations" in str(found)
    assert f"{found.gain:.2f} times less than uniform's" in str(found)


def test_a_base_that_cannot_be_beaten_is_returned() -> None:
    """Straight trajectories: Euler is exact on any grid, and rounding is no gain."""
    model = models.GaussianOracle([0.7], [[0.0]]).model("denoised")
    result = optimise_grid(model, "euler", 4, (1,), base="cosine", **WIDE)
    assert result.times == pf.grid("cosine", 4, models.Linear())
    assert result.gain == 1.0
    assert "the grid is cosine" in str(result)


def test_more_pilot_error_than_held_out_gain_is_no_gain() -> None:
    """Two starts say little about the rest: whatever the search makes of them, the result is never worse than base."""
    model = models.reference_mixture().model()
    result = optimise_grid(model, "euler", 4, (2,), pilot=2, held_out=32, iterations=3, dtype=torch.float64)
    assert result.error <= result.base_error


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_power_of_errors_is_minimised_and_reported(found: OptimisedGrid, power: float) -> None:
    """A search for the typical sample: the mean of that power is less than on the grid made for the mean square."""
    model, ids = models.reference_mixture().model(), torch.arange(24, 48)
    result = optimise_grid(model, "midpoint", 4, (2,), seed=3, power=power, **WIDE)
    draw = {"seed": 3, "samples": ids, "dtype": torch.float64}
    exact = pf.sample(model, (24, 2), solver="rk4", steps=400, **draw)

    def mean(grid: OptimisedGrid) -> float:
        x = pf.sample(model, (24, 2), solver="midpoint", steps=4, grid=grid, **draw)
        errors = (x - exact).square().mean(1).sqrt()
        return (errors.mean() if power else errors.log().mean().exp()).item()

    assert mean(result) == pytest.approx(result.error, abs=result.reference_error)
    assert result.error < 0.98 * mean(found)
    assert result.gain > 1.4


def test_networks_that_cannot_be_called_at_the_noise_end() -> None:
    """A noise predictor on a diffusion path, in float32, from the path's own start."""
    model = models.reference_mixture(models.DiscreteDDPM.scaled_linear()).model("noise")
    result = optimise_grid(model, "ddim", 4, (2,), base="indices", pilot=32, held_out=32, reference_steps=24)
    assert result.times[0] == 0.0
    assert result.gain > 1.1


def test_conditions_go_with_their_rows() -> None:
    """Half of the samples have their mean at 1, half at -1; a mix-up would show as an error of 1."""

    def network(x: torch.Tensor, t: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        gain = (t * 0.25 - (1 - t)) / (t * t * 0.25 + (1 - t) ** 2)
        assert mean.shape == x.shape
        return mean + gain[:, None] * (x - t[:, None] * mean) * scale

    condition = {"mean": torch.tensor([1.0, -1.0]).repeat_interleave(16)[:, None], "scale": torch.ones(1, 1)}
    model = models.adapt(network)
    result = optimise_grid(model, "heun", 3, (1,), pilot=16, held_out=16, condition=condition)
    assert max(result.error, result.pilot_error) < 0.05


def test_guidance_is_part_of_the_model() -> None:
    def network(x: torch.Tensor, t: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return mean - x

    model = models.adapt(network, null={"mean": torch.zeros(1, 1)})
    given = {"condition": {"mean": torch.ones(1, 1)}, "guidance": 3.0, "pilot": 8, "held_out": 8}
    result = optimise_grid(model, "midpoint", 2, (1,), **given)
    exact = pf.sample(model, (8, 1), solver="midpoint", grid=result, guidance=3.0, condition=given["condition"])
    assert exact.mean().item() == pytest.approx(3 * (1 - math.exp(-1)), abs=0.5)
    assert result.error < result.base_error * 1.0001


def test_a_grid_serves_what_it_was_made_for(found: OptimisedGrid) -> None:
    with pytest.raises(GridError, match="steps: got 5, expected 4"):
        pf.grid(found, 5, models.Linear())
    with pytest.raises(GridError, match="got one for Linear"):
        pf.grid(found, None, models.EDM())
    assert pf.grid(found, None, models.Linear()) == found.times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"pilot": 0}, "pilot"),
        ({"held_out": 1.5}, "held_out"),
        ({"starts": 0}, "starts"),
        ({"power": -0.5}, "power: got -0.5"),
        ({"reference_steps": 2}, "reference_steps"),
        ({"solver": "euler_maruyama"}, "expected one that draws no noise"),
        ({"base": "nope"}, "grid: got 'nope'"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    given = {"solver": "euler", "steps": 2, "shape": (2,), **options}
    with pytest.raises(ArgumentError, match=message):
        optimise_grid(models.reference_mixture().model(), **given)
