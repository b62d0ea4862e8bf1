"""The pieces of a fit: derivatives of the end of a run, the starts and grids that are tried, and regressions."""

from __future__ import annotations

import math

import pytest
import torch
from small_starts import MIXTURE, small_groups

import pushforward as pf
from pushforward import models, solvers
from pushforward.solvers.fitting.descent import Free, end_error
from pushforward.solvers.fitting.family import Family
from pushforward.solvers.fitting.formula import Formula, Run, errors_of, run_all, squared_errors
from pushforward.solvers.fitting.polish import Sample, Slopes, Tried, changed, derivative, drawn, places_of, polish
from pushforward.solvers.fitting.regression import Normal, choose, solve
from pushforward.solvers.fitting.responses import base_coefficients
from pushforward.solvers.fitting.search import Search, unalike
from pushforward.solvers.fitting.starts import Groups
from pushforward.solvers.fitting.stepwise import fit_steps
from pushforward.solvers.ode import adams_weights


def test_derivatives_of_the_end_are_those_of_autograd() -> None:
    """Each number's difference of runs against the exact derivative of the same run, to the probe's own size."""
    groups = small_groups(MIXTURE, 2)
    times = (0.0, 0.4, 0.8, 1.0)
    base = base_coefficients(solvers.solver("ab2"), times, models.Linear())
    formula = fit_steps(groups, times, Family(), base, (math.inf,), 2.0, opening=0.1).formula
    run = Run(groups.fitted[0], formula.family).finish(formula)
    free = Free.of(formula, torch.device("cpu"))
    end = end_error(free, formula, groups.fitted[0]).sum()
    gradients = torch.autograd.grad(end, free.rows)
    for place in places_of(formula):
        if place.column is None:
            continue
        slope = -2 * (run.left * derivative(formula, run, place)).mean(1).sum().item()
        assert slope == pytest.approx(gradients[place.step][place.column].item(), rel=0.03, abs=1e-3)


def test_the_derivative_by_the_opening_is_that_of_autograd() -> None:
    """Where weights do not follow the times, as those of clean estimates do not: at a share s of the first step."""
    groups, first = small_groups(MIXTURE, 2), 0.4
    rows = ((0.6, 0.4), (0.5, 0.6, -0.1), (0.1, 1.0, -0.1, 0.05))
    formula = Formula(Family(None, "denoised"), (0.0, first, 0.8, 1.0), rows, 0.1)
    run = Run(groups.fitted[0], formula.family).finish(formula)
    free = Free.of(formula, torch.device("cpu"))
    assert free.formula(formula).opening == pytest.approx(0.1)
    (by_logit,) = torch.autograd.grad(end_error(free, formula, groups.fitted[0]).sum(), [free.share])
    share = 0.1 / first
    slope = -2 * (run.left * derivative(formula, run, places_of(formula)[0])).mean(1).sum().item()
    assert slope * first * share * (1 - share) == pytest.approx(by_logit.item(), rel=0.03)


def start_of_the_polish() -> tuple[Groups, Formula]:
    """Three steps of Adams-Bashforth on the mixture, for two groups of starts."""
    groups = small_groups(MIXTURE, 2)
    base = base_coefficients(solvers.solver("ab2"), (0.0, 0.4, 0.8, 1.0), models.Linear())
    formula = fit_steps(groups, (0.0, 0.4, 0.8, 1.0), Family(), base, (math.inf,), 2.0).formula
    return groups, formula


def test_a_trial_tells_the_derivatives_what_it_moved() -> None:
    """Afterwards they foresee it, row by row; what they foresaw already leaves them alone."""
    groups, formula = start_of_the_polish()
    every = Tried.of(formula, (groups.fitted[0], groups.judging[0]))
    some = Sample.drawn(every, 2.0, 20, 0.5)
    assert sum(len(starts.noise) for starts in some.groups) == len(some.weights) == len(some.here.squares) <= 20
    torch.testing.assert_close(squared_errors(some.here.runs), some.here.squares)
    slopes = Slopes(some)
    change = [0.03 * (-1) ** k for k in range(len(slopes.places))]
    moved = run_all(changed(formula, slopes.places, change), some.groups)

    def missed() -> list[torch.Tensor]:
        return [after.states[-1] - before.states[-1] - sum(by * c for by, c in zip(change, own, strict=True))
                for after, before, own in zip(moved, some.here.runs, slopes.columns, strict=True)]  # fmt: skip

    # Below: sums of 12 products of sizes below 10, in float64: 12 * 10 * 2.2e-16 a sum, some tens of them.
    assert max(part.abs().max() for part in missed()) > 1e-3
    slopes.learn(change, moved)
    assert max(part.abs().max() for part in missed()) < 1e-12
    known = [[column.clone() for column in own] for own in slopes.columns]
    slopes.learn(change, moved)
    for own, before in zip(slopes.columns, known, strict=True):  # by as little as was missed, times shares below 1
        torch.testing.assert_close(torch.stack(own), torch.stack(before), rtol=0, atol=1e-12)


def test_weights_follow_the_times() -> None:
    """Adams-Bashforth on one grid becomes Adams-Bashforth on another, and what is not that stays apart from it."""
    grids, apart = ((0.0, 0.4, 0.8, 1.0), (0.0, 0.3, 0.7, 1.0)), 0.01
    rows = [[adams_weights(grid[n::-1], *grid[n : n + 2]) for n in range(3)] for grid in grids]
    first, second = (Formula(Family(), grid, tuple((0.9, *(w + apart for w in row)) for row in some))
                     for grid, some in zip(grids, rows, strict=True))  # fmt: skip
    for mine, theirs in zip(first.at(second.times).rows, second.rows, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-14)
    assert first.at(first.times) == first
    opened = first.at(first.times, 0.1)
    assert opened.rows[0] == first.rows[0]  # of one velocity alone, whenever it was
    assert opened.rows[1][1:] == pytest.approx([w + apart for w in adams_weights((0.4, 0.1), 0.4, 0.8)], abs=1e-14)
    assert opened.at(first.times, 0.0).rows[2] == pytest.approx(first.rows[2], abs=1e-14)
    other = Formula(Family(2, "denoised"), first.times, ((0.6, 0.4), (0.5, 0.6, -0.1), (0.1, 1.0, -0.1)))
    assert other.at(second.times).rows == other.rows


def test_some_rows_stand_for_all() -> None:
    """Weighted sums of what is in proportion to the sizes are the whole's; the largest rows are there themselves."""
    sizes = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 6 + 0.05
    rows, weights = drawn(sizes, 40)
    assert len(rows) == 40
    assert bool((rows.diff() > 0).all())
    assert (weights * sizes[rows]).sum().item() == pytest.approx(sizes.sum().item(), rel=1e-9)
    assert set(sizes.topk(5).indices.tolist()) <= set(rows[weights == 1].tolist())
    others, theirs = drawn(sizes, 40, 0.9)
    assert set(others.tolist()) != set(rows.tolist())
    assert (theirs * sizes[others]).sum().item() == pytest.approx(sizes.sum().item(), rel=1e-9)
    assert all(torch.equal(*pair) for pair in zip(drawn(sizes, 200), (torch.arange(200), torch.ones(200)), strict=True))


def test_an_opening_stays_in_its_step() -> None:
    """It can move to the first time and not before it, and only so near to the second."""
    formula = Formula(Family(), (0.0, 0.4, 1.0), ((1.0, 0.4), (1.0, 0.6, 0.1)), 0.1)
    places = places_of(formula)
    assert (places[0].step, places[0].column) == (0, None)
    moves = {by: changed(formula, places, [by, *[0.0] * (len(places) - 1)]) for by in (-0.3, 0.2, 0.29)}
    assert [moves[by] and moves[by].opening for by in moves] == [0.0, pytest.approx(0.3), None]
    assert moves[-0.3].on(models.Linear()).opening is None  # asked where the state is: as a formula without one


@pytest.mark.parametrize("rows", [12, 64])
def test_the_end_of_the_run_comes_nearer(rows: int) -> None:
    """By derivatives of a few of the starts as by those of all, and for starts that it has not seen too."""
    groups, formula = start_of_the_polish()
    found, _ = polish(formula, groups, 4, rows=rows)
    for some in (groups.fitted, groups.judging):
        before, after = (errors_of(f, some).mean().sqrt().item() for f in (formula, found))
        assert after < before / (2 if some is groups.judging else 3), (before, after)


def test_grids_to_begin_with_are_the_best_ones_and_unalike() -> None:
    """The first is the best that is found; the base's best is tried before others; no two are the same."""
    groups = small_groups(MIXTURE, 2)
    search = Search(
        solvers.solver("ab2"), models.Linear(), pf.grid("uniform", 4, models.Linear()), groups, (math.inf, 1e-4), 2.0
    )
    found = search.grids(Family(), 1, 5)
    assert len(found) == 5
    assert [search.grids(Family(), 1, count) for count in (1, 2)] == [found[:1], found[:2]]
    errors = [search.errors_on_grid(times, Family()).sqrt().mean().item() for times in found]
    assert errors[0] == min(errors)
    assert errors[2:] == sorted(errors[2:])
    of_base = [search.errors_of_base(times).sqrt().mean().item() for times in found]
    assert of_base[1] == min(of_base[1:])
    near = tuple(t + 0.02 * t * (1 - t) for t in found[0])
    assert unalike([found[0], near, found[1]]) == found[:2]


def test_a_power_below_two_is_not_led_by_the_odd_sample() -> None:
    """Of 40 samples one wants the opposite weight, with four times the length: least squares go half the way."""
    column, goal = torch.ones(40, 1, dtype=torch.float64), torch.linspace(0.98, 1.02, 40, dtype=torch.float64)[:, None]
    column[-1], goal[-1] = 4, -4
    squares, typical = (solve(Normal.of([column], goal), 0.0, power).item() for power in (2.0, 1.0))
    assert squares == pytest.approx((39 - 16) / (39 + 16), abs=1e-3)  # the normal equation's own answer
    assert typical == pytest.approx(1.0, abs=0.02)  # 39 samples outweigh one of length 4


def test_the_ridge_is_chosen_by_starts_that_were_not_fitted_to() -> None:
    """Three samples of noise that a weight explains by chance: the others vote for the base's coefficient."""
    draw = torch.Generator().manual_seed(4)
    columns = torch.randn(3, 1, generator=draw, dtype=torch.float64)
    chance = Normal.of([columns], columns + 0.1 * torch.randn(3, 1, generator=draw, dtype=torch.float64))
    judges = torch.randn(64, 1, generator=draw, dtype=torch.float64)
    change, ridge = choose(chance, Normal.of([judges], 0 * judges), (math.inf, 1.0, 1e-6), 2.0)
    assert (change.item(), ridge) == (0.0, math.inf)
    change, ridge = choose(chance, Normal.of([judges], judges), (math.inf, 1.0, 1e-6), 2.0)
    assert ridge == 1e-6
    assert change.item() == pytest.approx(1.0, abs=0.2)
