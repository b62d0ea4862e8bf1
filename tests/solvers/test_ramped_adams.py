from __future__ import annotations

import pytest
from problems import gaussian_flow, mixture_flow

from pushforward import models, solvers
from pushforward.errors import ArgumentError
from pushforward.solvers.plan import Combine


def test_it_is_adams_bashforth_once_there_is_history() -> None:
    """The combinations of a regular step are those of the method with an accurate start, to the last digit."""
    grid = [0.1 + 0.05 * i + 0.01 * (i % 2) for i in range(12)]
    for points in (3, 4):
        ramped, accurate = (solvers.plan(solvers.solver(name), grid) for name in (f"ab{points}_ramp", f"ab{points}"))
        last = [[i.matrix for i in plan.instructions if isinstance(i, Combine)][-3:] for plan in (ramped, accurate)]
        assert last[0] == last[1]


def test_it_starts_with_euler_and_two_points_and_spends_one_evaluation_a_step() -> None:
    grid = [0.1, 0.25, 0.4]
    for points in ("ab3_ramp", "ab4_ramp"):
        assert solvers.plan(solvers.solver(points), [0.1 * i for i in range(1, 9)]).nfe == 7
        ours, ab2 = (solvers.plan(solvers.solver(name), grid).instructions for name in (points, "ab2"))
        assert ours == ab2


def test_three_points_from_the_start_beat_two_and_a_runge_kutta_start_at_ten_evaluations() -> None:
    """What it is for: few evaluations of the whole flow, from pure noise."""
    from pushforward import sample

    model = models.reference_mixture().model()
    exact = sample(model, (128, 2), solver="rk4", steps=200, seed=1)
    errors = {}
    for name, steps in (("ab3_ramp", 10), ("ab2", 10), ("ab3", 6)):
        errors[name] = (sample(model, (128, 2), solver=name, steps=steps, seed=1) - exact).square().mean().sqrt().item()
    assert errors["ab3_ramp"] < 0.6 * min(errors["ab2"], errors["ab3"]), errors


def test_the_euler_step_caps_its_order_at_two() -> None:
    """Far below two points' error all the same: the cap is the error of one step."""
    for problem in (gaussian_flow(), mixture_flow()):
        ramped, two = (problem.error(solvers.solver(name), 64) for name in ("ab3_ramp", "ab2"))
        assert 0.02 * two < ramped < 0.7 * two


def test_bad_points_are_named() -> None:
    with pytest.raises(ArgumentError, match="points: got 2, expected 3 or 4"):
        solvers.solver("ab3_ramp", points=2)
