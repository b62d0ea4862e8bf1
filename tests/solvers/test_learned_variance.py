"""DDPM's step with a variance that the network says, element by element."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, PlanError
from pushforward.kernels import PURPOSE_DIFFUSION, Draw, normal
from pushforward.models import Guidance, MixtureOracle, adapt, guided
from pushforward.solvers.particles.transitions import Transitions
from pushforward.solvers.plan import Plan, chain

ORACLE = MixtureOracle([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], 0.25, "vp")
GRID = (0.02, 0.3, 0.7, 1.0)
START = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LEARNED = pf.solver("ddpm", variance="learned")


def network(said):
    """The exact noise, and ``said`` of (x, t) for the variance; the label 1 adds to both."""

    def call(x, t, label=None):
        more = 0.0 if label is None else 0.25 * label[:, None]
        return torch.cat([ORACLE.noise(x, float(t[0])) + more, said(x, t) + more], 1)

    return adapt(call, "noise", "vp", split_variance=True, null={"label": torch.tensor([0])})


MODEL = network(lambda x, t: torch.tanh(x.flip(1)))


def run(model=MODEL, solver=LEARNED, start=START, **options):
    return pf.sample(model, start, solver=solver, grid=GRID, seed=3, **options)


@pytest.mark.parametrize(("said", "variance"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
@pytest.mark.parametrize("path", ["vp", "linear"])
def test_the_ends_of_its_range_are_the_fixed_variances(said, variance, path) -> None:
    model = network(lambda x, t: torch.full_like(x, said))
    fixed = run(model, pf.solver("ddpm", variance=variance), path=path)
    assert (run(model, path=path) - fixed).abs().max() < 1e-13  # 30 roundings of numbers below 4
    assert (fixed - run(model, path=path, samples=torch.arange(4) + 9)).abs().max() > 0.1


@pytest.mark.parametrize("weight", [1.0, 0.0, 2.5])
def test_steps_are_those_of_the_formula_and_guidance_leaves_the_variance_alone(weight) -> None:
    label = {"label": torch.tensor([1])}
    x = START
    for step, (t, later) in enumerate(pairwise(GRID)):
        (a, s, _, _), (b, r, _, _) = ORACLE.interpolant(t), ORACLE.interpolant(later)
        noise, u = ORACLE.noise(x, t) + 0.25 * weight, torch.tanh(x.flip(1)) + 0.25 * (weight != 0)
        ratio = (a / b) ** 2
        beta, small = 1 - ratio, r**2 / s**2 * (1 - ratio)
        x = b * (x - s * noise) / a + math.sqrt(r**2 - small) * noise
        if r:
            mixed = (1 + u) / 2 * math.log(beta) + (1 - u) / 2 * math.log(small)
            x = x + (mixed / 2).exp() * normal((4, 2), seed=3, draw=Draw(PURPOSE_DIFFUSION, step), dtype=x.dtype)
    assert (run(condition=label, guidance=weight) - x).abs().max() < 1e-12
    alone = run(condition=label, guidance=weight, start=START[2:3], samples=torch.tensor([2]))
    assert (alone - x[2]).abs().max() < 1e-12


def test_a_plan_holds_it_and_counts_it_as_no_row() -> None:
    plan = pf.make_plan(MODEL, solver=LEARNED, grid=GRID, guidance=2.0)
    cost = plan.cost((4, 2))
    assert (cost.network_calls, cost.forward_passes, dict(cost.branch_rows)) == (3, 6, {"cond": 3, "null": 3})
    assert (plan.stochastic, cost.transforms) == (True, 2), "none on arrival at clean data"
    assert re.search(r"r\d+ = scaled_normal\([br]\d+, normal\(", str(plan))
    assert Plan.from_json(plan.to_json()) == plan
    half = run(start=START.bfloat16())
    assert half.dtype == torch.bfloat16
    clamped = [run(transform=lambda d, t: d.clamp(-0.5, 0.5), **options) for options in ({}, {"hooks": (seen,)})]
    assert torch.equal(*clamped)
    assert clamped[0].abs().max() <= 0.5
    start = START.clone().requires_grad_()
    (slope,) = torch.autograd.grad(run(start=start, differentiable=True).sum(), start)
    step = 1e-6 * torch.ones_like(START)
    numeric = (run(start=START + step) - run(start=START - step)).sum() / 2e-6
    assert abs(slope.sum() - numeric) < 1e-7 * abs(numeric)


def seen(state) -> None:
    assert state.state.isfinite().all()


def test_what_has_no_variance_says_so() -> None:
    plain = adapt(lambda x, t: x, "noise", "vp")
    for model in (plain, guided(MODEL, Guidance(2.0))):
        with pytest.raises(
            ArgumentError, match=r"variance: got a solver that asks .* for it, expected .* split_variance=True"
        ):
            run(model)
    with pytest.raises(PlanError, match=r"grid: got a step from t = 0.7 to 0.3, expected times from noise to data"):
        pf.sample(MODEL, START, solver=LEARNED, grid=GRID[:-1], backward=True)
    plan = pf.solvers.plan(LEARNED, GRID, ORACLE.interpolant).lower(MODEL.prediction)
    with pytest.raises(
        PlanError, match="which asks for a variance, expected a variance known beforehand, for a search"
    ):
        pf.search(MODEL, lambda x, context: x.sum(1), 20, shape=(1, 2), solver=LEARNED, grid=GRID)
    with pytest.raises(PlanError, match="a variance known beforehand, for particles"):
        Transitions.of(plan, MODEL.prediction)
    with pytest.raises(PlanError, match=r"scaled_normal.*Use a variance known beforehand"):
        chain(plan)
    with pytest.raises(ArgumentError, match="variance: got 'big', expected 'fixed_small', 'fixed_large' or 'learned'"):
        pf.solver("ddpm", variance="big")
