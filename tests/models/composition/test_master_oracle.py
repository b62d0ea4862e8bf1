"""Composed Gaussian fields have closed-form sample maps: weights are shown by where every single sample ends.

For branches with data N(m_j, s^2 I) on one path, and nu = sqrt(alpha^2 s^2 + sigma^2), the composed field obeys
d(x / nu) = sum_j w_j m_j d(alpha / nu), whatever the schedule of the weights. With m_j = 0 and constant weights,
d log x = sum_j w_j d log nu_j.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pushforward.models import (
    Blend,
    BranchWeights,
    Directions,
    GaussianOracle,
    Guidance,
    Linear,
    Member,
    Model,
    Stitch,
    Trigonometric,
    VPLinear,
    adapt,
    composed,
)
from pushforward.solvers import Executor, solver
from pushforward.solvers.lowered import lowered_plan

PATHS = [Linear(), Trigonometric(), VPLinear()]
FIRST, LAST, SPREAD = 0.02, 0.98, 0.7
MEANS = {"cond": 1.0, "null": -0.5, "smile": 2.0, "age": -1.5, "small": 0.25, "small.null": 0.75, "tiny": -2.0}
START = torch.tensor([[0.3], [-1.2], [2.0]], dtype=torch.float64)
STEPS = 160
ON_EVERY_PATH = ("interval in noise ratios", "directions", "stitched", "experts", "ensemble")

SCHEDULES: dict[str, BranchWeights] = {
    **{f"guidance {w}": Guidance(w) for w in (-1.0, 0.0, 0.5, 1.0, 3.0, 7.5)},
    "interval": Guidance(4.0, interval=(0.25, 0.75)),
    "interval in noise ratios": Guidance(4.0, interval=(0.4, 2.5), in_="noise_ratio"),
    "against a network": Guidance(2.5, against="small"),
    "directions": Directions({"smile": 7.5, "age": -2.0}, windows={"age": (0.2, 1.0)}, base=3.0),
    "directions of an inverted image": Directions({"smile": 2.0}, base=0.0),
    "ensemble": Blend(cond=0.5, small=0.25, tiny=0.25),
    "two conditions": Blend(null=1 - 1.5, smile=1.5 - 4.0, cond=4.0),
    "stitched": Stitch.shares({"tiny": 0.2, "small": 0.2, "cond": 0.6}, guidance={"small": 1.5, "cond": 4.0}),
    "experts": Stitch(("small", "cond"), (0.9,), in_="noise_ratio"),
    "timeline": Stitch(("smile", "age", "cond"), (0.3, 0.6)),
}


def gaussian(path, mean_of_condition="m") -> Model:
    """The exact velocity of N(m, s^2), where m is the condition."""

    def network(x, time, **condition):
        alpha, sigma, dalpha, dsigma = path(float(time))
        nu2 = alpha**2 * SPREAD**2 + sigma**2
        rate = (alpha * dalpha * SPREAD**2 + sigma * dsigma) / nu2
        m = condition[mean_of_condition]
        return dalpha * m + rate * (x - alpha * m)

    return adapt(network, "velocity", path, time="t", time_shape="scalar", null={"m": at("null")})


def at(name: str) -> torch.Tensor:
    return torch.full((1, 1), MEANS[name], dtype=torch.float64)


def composition(path) -> Model:
    """Two branches and two directions of one network, one of the same kind, and one that predicts noise elsewhere."""
    lead = gaussian(path).with_branches(smile={"m": at("smile")}, age={"m": at("age")})
    small = Member(gaussian(path), lambda condition: {"m": at("small")})
    other = Trigonometric() if path != Trigonometric() else Linear()
    tiny = GaussianOracle([MEANS["tiny"]], [[SPREAD**2]], other).model("noise")
    return composed(lead, small=small, tiny=Member(tiny, {}))


def ends(path, schedule: BranchWeights, name_of=MEANS) -> torch.Tensor:
    """Where the closed form takes the starts."""
    nodes = [FIRST, *(b for b in schedule.breakpoints(path) if FIRST < b < LAST), LAST]
    shift = 0.0
    for a, b in itertools.pairwise(nodes):
        weights = schedule.weights_at((a + b) / 2, path)
        mean = sum(weight * name_of[branch] for branch, weight in weights.items())
        shift += mean * (path.alpha(b) / nu(path, b) - path.alpha(a) / nu(path, a))
    return nu(path, LAST) * (START / nu(path, FIRST) + shift)


def nu(path, t, spread=SPREAD) -> float:
    return math.hypot(path.alpha(t) * spread, path.sigma(t))


def run(model: Model, schedule: BranchWeights, method="rk4", steps=STEPS, nodes=None) -> torch.Tensor:
    path = model.interpolant
    grid = {FIRST + (LAST - FIRST) * k / steps for k in range(steps + 1)} | {
        b for b in (schedule.breakpoints(path) if nodes is None else nodes) if FIRST < b < LAST
    }
    plan = lowered_plan(solver(method), tuple(sorted(grid)), path, model.prediction, schedule).optimise()
    bound = model.bind({"m": at("cond")}, guidance=schedule)
    return Executor(plan, START).run(bound.evaluate)


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in SCHEDULES for path in (PATHS if name in ON_EVERY_PATH else PATHS[:1])]
)
def test_every_sample_ends_where_the_closed_form_says(name, path) -> None:
    schedule = SCHEDULES[name]
    means = {**MEANS, "small.null": MEANS["null"]}  # the member's own null condition
    assert (run(composition(path), schedule) - ends(path, schedule, means)).abs().max() < 1e-8


def test_an_interval_costs_no_order_where_the_grid_has_its_ends() -> None:
    """Heun's method: order 2 with nodes at the ends; without them a step in which the weight jumps, of order 1."""
    schedule, model = SCHEDULES["interval"], composition(Linear())
    exact, steps = ends(Linear(), schedule), (41, 83, 167)  # none of which has a node at 1/4 or 3/4
    snapped = [(run(model, schedule, "heun", n) - exact).abs().max().item() for n in steps]
    assert all(
        abs(math.log(a / b, n / m) - 2) < 0.1
        for a, b, (m, n) in zip(snapped, snapped[1:], itertools.pairwise(steps), strict=False)
    )
    missed = [(run(model, schedule, "heun", n, nodes=()) - exact).abs().max().item() for n in steps]
    assert missed[-1] > 20 * snapped[-1]
    assert missed[-1] > steps[0] / steps[-1] * missed[0] / 10, "no faster than in proportion to the step"


@pytest.mark.parametrize(("weight", "path"), list(zip([0.5, 2.0, 3.0], PATHS, strict=True)))
def test_autoguidance_contracts_by_the_law_of_spreads(weight, path) -> None:
    main, weak = (GaussianOracle([0.0], [[s**2]], path).model() for s in (0.5, 0.7))
    schedule = Guidance(weight, against="weak")
    grown = {s: nu(path, LAST, s) / nu(path, FIRST, s) for s in (0.5, 0.7)}
    expected = START * grown[0.5] ** weight * grown[0.7] ** (1 - weight)
    plan_ends = run_plain(composed(main, weak=weak), schedule)
    assert (plan_ends - expected).abs().max() < 1e-8
    same = run_plain(composed(main, weak=main), schedule, steps=16)  # equal on any grid
    assert (same - run_plain(main, Guidance(1.0), steps=16)).abs().max() < 1e-12


def run_plain(model: Model, schedule: BranchWeights, steps: int = STEPS) -> torch.Tensor:
    grid = tuple(FIRST + (LAST - FIRST) * k / steps for k in range(steps + 1))
    plan = lowered_plan(solver("rk4"), grid, model.interpolant, model.prediction, schedule).optimise()
    return Executor(plan, START).run(model.bind(guidance=schedule).evaluate)
