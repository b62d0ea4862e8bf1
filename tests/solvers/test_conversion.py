"""Sampling along another path than the model's, as a transformation of the plan."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from problems import rms

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import PlanError, SingularTimeError
from pushforward.models import Linear, interpolant, prediction
from pushforward.models.interpolants import equal_noise
from pushforward.solvers import Executor, Plan

ALL = dict(solvers.solvers())
PATHS = ["vp", "ve", "cosine", "edm", "trigonometric"]
RATIOS = [20.0, 11.0, 6.0, 3.0, 1.5, 0.8, 0.4, 0.2, 0.1]
ORACLE = models.reference_mixture()
STEPS = {"rk4": 24, "stochastic_heun": 120, "sra1": 60}


def times(path: models.Interpolant, ratios: list[float] = RATIOS) -> list[float]:
    return [path.time_at_noise_ratio(nu) for nu in ratios]


def fine(steps: int) -> list[float]:
    """Noise ratios with equal steps in the half log-SNR."""
    return [20.0 * (0.1 / 20) ** (i / steps) for i in range(steps + 1)]


def test_equal_noise_is_the_published_table() -> None:
    """From linear: t = a / (a + s), c = 1 / (a + s) as a multiple of the state of the other path, and its inverse."""
    for name in PATHS:
        path = interpolant(name)
        for nu in RATIOS:
            s = path.time_at_noise_ratio(nu)
            a, sigma, _, _ = path(s)
            t, scale = equal_noise(path, s, Linear())
            assert t == pytest.approx(a / (a + sigma), rel=1e-12)
            assert scale == pytest.approx(1 / (a + sigma), rel=1e-12)
            assert equal_noise(Linear(), t, path) == pytest.approx((s, a + sigma), rel=1e-9)


@pytest.mark.parametrize("path", ["vp", "ve", "cosine"])
@pytest.mark.parametrize("name", STEPS)
def test_marginals_are_the_analytic_ones_at_every_grid_point(name: str, path: str) -> None:
    """Mean and covariance of 4,000 samples within five standard errors, on the solver's path and on the model's.

    Both at once: the state on one is c times that on the other. So fine a grid's own error is below a standard error.
    """
    along, count, seen = interpolant(path), 4000, pf.Trajectory()
    grid = times(along, fine(STEPS[name]))
    first, _ = equal_noise(along, grid[0], Linear())
    start = ORACLE.sample(count, seed=3, t=first)
    pf.sample(ORACLE.model(), start, solver=name, grid=grid, path=path, hooks=[seen], seed=9)
    assert len(seen.states) == len(grid) - 1
    for s, t, x in list(zip(grid[1:], seen.times, seen.states, strict=True))[:: len(grid) // 8]:
        assert t == equal_noise(along, s, Linear())[0]
        converted = x / equal_noise(along, s, Linear())[1]
        check_moments(converted, along, s)


def check_moments(x: torch.Tensor, path: models.Interpolant, t: float) -> None:
    """Against ``alpha m, alpha^2 C + sigma^2`` of the mixture, in standard errors of the sample itself."""
    alpha, sigma, _, _ = path(t)
    weights = ORACLE.weights
    means, covariances = torch.stack(ORACLE.means), torch.stack(ORACLE.covariances)
    mean = weights @ means
    spread = torch.einsum("k,kij->ij", weights, covariances + means[:, :, None] * means[:, None]) - torch.outer(
        mean, mean
    )
    centred = x - alpha * mean
    assert (centred.mean(0).abs() < 5 * centred.std(0) / len(x) ** 0.5).all()
    products = centred[:, :, None] * centred[:, None]
    error = (products.mean(0) - alpha**2 * spread - sigma**2 * torch.eye(2, dtype=torch.float64)).abs()
    assert (error < 5 * products.std(0) / len(x) ** 0.5).all()


@cache
def end(solver: str, path: str, steps: int) -> torch.Tensor:
    """From one and the same start on the linear path."""
    start = ORACLE.sample(8, seed=1, t=Linear().time_at_noise_ratio(20.0))
    return pf.sample(ORACLE.model(), start, solver=solver, grid=times(interpolant(path), fine(steps)), path=path)


@pytest.mark.parametrize("path", PATHS)
def test_deterministic_conversion_gives_the_sample_of_the_original_path(path: str) -> None:
    """To 1e-6, where both are fine; to rounding where the solver sees the noise ratio alone."""
    assert (end("rk4", path, 100) - end("rk4", "linear", 100)).abs().max() < 1e-6
    assert (end("ddim", path, 20) - end("ddim", "linear", 20)).abs().max() < 1e-12


def run(plan: Plan, model: models.Model, start: torch.Tensor) -> torch.Tensor:
    return Executor(plan.lower(model.prediction).optimise(), start, seed=5).run(model.bind().evaluate)


@pytest.mark.parametrize("path", ["vp", "edm"])
@pytest.mark.parametrize("name", ALL)
def test_every_solver_is_the_same_process_in_both_coordinates(name: str, path: str) -> None:
    """Converting the plan to the model's path, or the model to the plan's, differs by the scale of the state only."""
    along = interpolant(path)
    plan = solvers.plan(ALL[name], times(along), along)
    converted = plan.on(Linear())
    assert converted.grid == tuple(equal_noise(along, t, Linear())[0] for t in plan.grid)
    start = ORACLE.sample(16, seed=2, t=converted.grid[0])
    here = run(converted, ORACLE.model(), start)
    there = run(plan, ORACLE.model().on(path), start / equal_noise(along, plan.grid[0], Linear())[1])
    assert rms(here - there * equal_noise(along, plan.grid[-1], Linear())[1]) < 1e-11


@pytest.mark.parametrize("name", ["euler", "ab3", "ddim", "euler_maruyama", "heun", "sra1"])
def test_a_converted_plan_costs_no_pass_more(name: str) -> None:
    along = interpolant("vp")
    plan = solvers.plan(ALL[name], times(along), along)
    for kind in ("velocity", "noise"):
        native = plan.lower(prediction(kind, along)).optimise().cost()
        converted = plan.on(Linear()).lower(prediction(kind, Linear())).optimise().cost()
        assert converted.network_calls == native.network_calls
        assert converted.passes <= native.passes + 1  # the very first input is scaled before any step


def test_hooks_see_and_replace_states_of_the_models_path() -> None:
    """A hook that hands back a copy of what it saw changes nothing."""
    seen = pf.Trajectory()
    options = {"solver": "heun", "grid": times(interpolant("vp")), "path": "vp"}
    start = ORACLE.sample(4, seed=1, t=equal_noise(interpolant("vp"), options["grid"][0], Linear())[0])
    plain = pf.sample(ORACLE.model(), start, hooks=[seen], **options)
    replaced = pf.sample(ORACLE.model(), start, hooks=[lambda state: state.state.clone()], **options)
    assert torch.equal(plain, seen.states[-1])
    assert rms(plain - replaced) < 1e-14


def test_thresholds_act_on_the_same_clean_estimate() -> None:
    """D does not depend on the path, so neither does a clamp of it."""
    ratios, ends = [*RATIOS, 0.02], []
    start = ORACLE.sample(8, seed=1, t=times(Linear(), ratios)[0])
    for path in ("linear", "vp"):
        grid = times(interpolant(path), ratios)
        ends.append(
            pf.sample(
                ORACLE.model(), start, solver="ddim", grid=grid, path=path, transform=lambda d, t: d.clamp(-0.5, 0.5)
            )
        )
    assert rms(ends[0] - ends[1]) < 1e-11


def test_whole_runs_from_noise_to_data() -> None:
    """VP starts at nu = 152, where a linear model is first called at t = 0.00653; the result is on the linear path."""
    plan = pf.make_plan(ORACLE.model(), solver="ddim", steps=20, path="vp")
    assert plan.grid[0] == pytest.approx(0.0065288, rel=1e-4)
    assert plan.grid[-1] == 1
    assert any("written on VPLinear" in note for note in plan.notes)
    assert Plan.from_json(plan.to_json()) == plan
    x = pf.sample(ORACLE.model(), (2000, 2), solver="heun", steps=40, path="cosine", grid="karras", dtype=torch.float64)
    check_moments(x, Linear(), 1.0)


def test_conversion_back_and_errors() -> None:
    along = interpolant("vp")
    plan = solvers.plan(ALL["heun"], times(along), along)
    assert plan.on(along) is plan
    with pytest.raises(PlanError, match="convert before lowering"):
        plan.lower(prediction("noise", along)).on(Linear())
    with pytest.raises(SingularTimeError, match="does not reach this noise level"):
        solvers.plan(ALL["heun"], [0.0, 0.5]).on(along)
