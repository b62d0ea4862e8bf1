"""Multistep weights made for a model: known solutions are found, what is reported is true, a bad fit costs nothing."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, GridError
from pushforward.solvers import MultistepFit, fit_multistep
from pushforward.solvers.fit import prior, regress
from pushforward.solvers.ode import FittedMultistep

FEW = {"pilot": 48, "held_out": 48, "dtype": torch.float64, "rounds": 1, "reference_steps": 24}


@pytest.fixture(scope="module")
def fit() -> MultistepFit:
    """Five steps on the mixture."""
    return fit_multistep(models.reference_mixture().model(), 5, (2,), seed=3, power=2.0, **FEW)


@pytest.mark.parametrize("path", [models.Linear(), models.VPLinear()], ids=["linear", "vp"])
def test_linear_trajectories_are_fitted_exactly(path: models.Interpolant) -> None:
    """On a centred Gaussian the flow multiplies each state by a number, so one weight a step is enough on any path."""
    model = models.GaussianOracle([0.0], [[0.25]], path).model("denoised")
    base = solvers.Karras(largest=20.0)
    found = fit_multistep(model, 4, (1,), base=base, points=1, **FEW | {"rounds": 0})
    # The exact samples are RK4's; the pull to the prior is RIDGE = 1e-7 of the weights' own scale.
    assert found.error < max(3 * found.reference_error, 1e-6)
    assert found.base_error > 100 * found.error
    plan = pf.make_plan(model, solver=found.solver, grid=found.times)
    assert (plan.nfe, plan.steps) == (4, 4)


def test_the_reported_errors_are_those_of_samples(fit: MultistepFit) -> None:
    """Drawn again by the public function, on the same held-out starts, against a reference of its own."""
    model, ids = models.reference_mixture().model(), torch.arange(48, 96)
    draw = {"seed": 3, "samples": ids, "dtype": torch.float64}
    exact = pf.sample(model, (48, 2), solver="rk4", steps=100, **draw)
    for solver, grid, error, median in (
        (fit.solver, fit.times, fit.error, fit.median_error),
        ("ab3_ramp", pf.grid("uniform", 5, models.Linear()), fit.base_error, fit.base_median_error),
    ):
        x = pf.sample(model, (48, 2), solver=solver, grid=grid, **draw)
        errors = (x - exact).square().mean(1).sqrt()
        assert errors.square().mean().sqrt().item() == pytest.approx(error, abs=3 * fit.reference_error)
        assert errors.median().item() == pytest.approx(median, abs=1e-4)
    assert fit.gain > 1.3
    assert fit.reference_error < 0.01 * fit.error


def test_the_seed_alone_decides(fit: MultistepFit) -> None:
    assert fit_multistep(models.reference_mixture().model(), 5, (2,), seed=3, power=2.0, **FEW) == fit


def test_it_survives_json_and_prints_what_it_gained(fit: MultistepFit) -> None:
    assert MultistepFit.from_json(fit.to_json()) == fit
    assert "FittedMultistep(5 steps, up to 4 velocities)" in str(fit)
    assert f"{fit.gain:.2f} times less than ab3_ramp's on uniform" in str(fit)


def test_what_cannot_be_beaten_is_returned() -> None:
    """Straight trajectories: Euler's first step is exact, and nothing is gained; the result is ab3_ramp on the base."""
    model = models.GaussianOracle([0.7], [[0.0]]).model("denoised")
    found = fit_multistep(model, 4, (1,), base="cosine", **FEW)
    times = pf.grid("cosine", 4, models.Linear())
    assert (found.times, found.gain) == (times, 1.0)
    draw = {"grid": times, "dtype": torch.float64, "seed": 5}
    mine = pf.sample(models.reference_mixture().model(), (8, 2), solver=found.solver, **draw)
    ramp = pf.sample(models.reference_mixture().model(), (8, 2), solver="ab3_ramp", **draw)
    torch.testing.assert_close(mine, ramp, rtol=1e-12, atol=1e-12)


def test_a_power_below_two_is_not_led_by_the_odd_sample() -> None:
    """Of 40 samples one wants the opposite weight, with four times the length: least squares go half the way."""
    columns = torch.ones(40, 1, 1, dtype=torch.float64)
    columns[-1] *= 4
    goal = torch.linspace(0.98, 1.02, 40, dtype=torch.float64)[:, None]
    goal[-1] = -4
    squares, typical = (regress(columns, goal, torch.zeros(1), power).item() for power in (2.0, 1.0))
    # Least squares: (39 - 16) / (39 + 16). Of absolute errors, 39 samples outweigh one of length 4.
    assert squares == pytest.approx((39 - 16) / (39 + 16), abs=1e-3)
    assert typical == pytest.approx(1.0, abs=0.02)


def test_the_prior_is_adams_bashforth() -> None:
    assert prior((0.0, 0.25, 0.5, 0.75, 1.0), 0, 4) == pytest.approx((0.25,))
    assert prior((0.0, 0.25, 0.5, 0.75, 1.0), 1, 4) == pytest.approx((0.375, -0.125))
    assert prior((0.0, 0.25, 0.5, 0.75, 1.0), 3, 4) == pytest.approx((23 / 48, -16 / 48, 5 / 48))
    assert prior((0.0, 0.25, 0.5, 0.75, 1.0), 3, 2) == pytest.approx((0.375, -0.125))


def test_conditions_guidance_and_float32() -> None:
    """Half of the samples have their mean at 1, half at -1, and guidance doubles it; a mix-up would show as 1."""

    def network(x: torch.Tensor, t: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        gain = (t * 0.25 - (1 - t)) / (t * t * 0.25 + (1 - t) ** 2)
        return mean + gain[:, None] * (x - t[:, None] * mean)

    condition = {"mean": torch.tensor([1.0, -1.0]).repeat_interleave(32)[:, None]}
    model = models.adapt(network, null={"mean": torch.zeros(1, 1)})
    found = fit_multistep(model, 4, (1,), condition=condition, guidance=2.0, pilot=32, held_out=32, rounds=0)
    assert found.error < 0.8 * found.base_error < 0.05


def test_a_noise_predictor_on_a_discrete_path() -> None:
    """From the path's own start; the grid is bent and stays between its ends."""
    path = models.DiscreteDDPM.scaled_linear()
    model = models.reference_mixture(path).model("noise")
    found = fit_multistep(model, 5, (2,), base="log_snr", **FEW | {"dtype": torch.float32})
    assert (found.times[0], found.times[-1]) == (pf.grid("log_snr", 5, path)[0], 1.0)
    assert found.error < 0.9 * found.base_error


def test_it_serves_its_own_grid_only(fit: MultistepFit) -> None:
    model = models.reference_mixture().model()
    with pytest.raises(GridError, match="expected the times that FittedMultistep"):
        pf.make_plan(model, solver=fit.solver, grid="uniform", steps=5)
    with pytest.raises(GridError, match="VPLinear"):
        solvers.plan(fit.solver, fit.times, models.VPLinear())
    with pytest.raises(ArgumentError, match="got 1 rows, expected 2, one for each step"):
        FittedMultistep((0.0, 0.5, 1.0), ((0.5,),), models.Linear())
    with pytest.raises(ArgumentError, match=r"weights\[0\]: got 2 weights, expected 1 to 1"):
        FittedMultistep((0.0, 1.0), ((0.5, 0.5),), models.Linear())
    assert (fit.solver.evaluations_per_step, fit.solver.starting_steps) == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"points": 0}, "points"),
        ({"pilot": True}, "pilot"),
        ({"power": 2.5}, "power: got 2.5"),
        ({"power": math.nan}, "power"),
        ({"rounds": -1}, "rounds"),
        ({"reference_steps": 3}, "reference_steps"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    given = {"steps": 2, "shape": (2,), **options}
    with pytest.raises(ArgumentError, match=message):
        fit_multistep(models.reference_mixture().model(), **given)
