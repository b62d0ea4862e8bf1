"""Search over paths: its kernel, levels, selection, coordinates and accounts."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from search_oracles import DOUBLE, SignPattern, counted, gaussian_line, three_modes
from torch import Tensor

import pushforward as pf
from pushforward import kernels
from pushforward.errors import ArgumentError, BudgetError, NotFiniteError, ShapeError
from pushforward.models import interpolant
from pushforward.solvers.search import BestOfN, Budget, SearchOverPaths, SearchResult
from pushforward.solvers.search.paths import renoised, time_at

PUBLISHED: dict[str, Any] = {
    "branches": 5,
    "solve_steps": None,
    "start_level": 0.12,
    "forward": 0.78,
    "backward": 0.81,
}
PATHS = ["linear", "trigonometric", "vp", "cosine"]


def roam(budget: Any = 10_000, *, path_of_model: str = "linear", reward: Any = None, **options: Any) -> SearchResult:
    """A search on the plane, by default with the published levels; options of the method by name."""
    oracle = three_modes()
    known = {field.name for field in dataclasses.fields(SearchOverPaths)}
    method = SearchOverPaths(**PUBLISHED | {key: options.pop(key) for key in list(options) if key in known})
    arguments: dict[str, Any] = {"shape": (3, 2), "dtype": DOUBLE} | options
    model = oracle.model(path_of_model, "denoised")
    return pf.search(model, reward or oracle.reward, budget, method=method, **arguments)


def tables(result: SearchResult) -> list[Tensor]:
    """Rewards of each round, [S, N M]."""
    rewards = [record.rewards for record in result.trace.records]
    assert all(table is not None for table in rewards)
    return [table for table in rewards if table is not None]


# --- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.12, 0.9), (0.09, 0.87), (0.5, 0.51), (0.2, 1.0)])
def test_the_kernel_takes_the_law_of_a_time_to_that_of_an_earlier_one(path: str, low: float, high: float) -> None:
    """By linear probing: x+ = a x + b xi, so mean and variance of p_u must become those of p_u+."""
    line, along = gaussian_line(), interpolant(path)
    high = min(high, 1 / (1 + along.alpha(0.0) / along.sigma(0.0)))  # "vp" never is all noise
    mean, variance = float(line.means), line.variance
    time, back = time_at(along, low), time_at(along, high)
    key = kernels.Noise(5, kernels.Draw(kernels.PURPOSE_RENOISING, 2))
    xi = kernels.normal((64, 1), seed=5, draw=key.draw, dtype=DOUBLE)
    zero = renoised(torch.zeros(64, 1, dtype=DOUBLE), along, time, back, key)
    one = renoised(torch.ones(64, 1, dtype=DOUBLE), along, time, back, key)
    slopes, noises = one - zero, zero / xi
    a, b = float(slopes.mean()), float(noises.mean())
    # at a = 0 and b = 1 the difference of 1 + xi and xi is rounded to one part in 2^52 of |xi| < 4
    assert float((slopes - a).abs().max()) < 1e-14
    assert float((noises - b).abs().max()) < 1e-14
    (alpha, sigma, _, _), (alpha_back, sigma_back, _, _) = along(time), along(back)
    assert abs(a * alpha * mean - alpha_back * mean) < 1e-12
    pushed = a**2 * (alpha**2 * variance + sigma**2) + b**2
    assert abs(pushed - (alpha_back**2 * variance + sigma_back**2)) < 1e-12


def test_the_kernel_goes_back_only() -> None:
    key = kernels.Noise(0, kernels.Draw(kernels.PURPOSE_RENOISING, 0))
    with pytest.raises(ArgumentError, match="back"):
        renoised(torch.zeros(1, 2), interpolant("linear"), 0.4, 0.4, key)


@pytest.mark.parametrize("path", PATHS)
def test_levels_are_those_of_equal_noise_ratio(path: str) -> None:
    along = interpolant(path)
    for level in (0.05, 0.12, 0.5, 0.9):
        assert along.noise_ratio(time_at(along, level)) == pytest.approx(level / (1 - level), rel=1e-12)
    assert time_at(along, 0.0) == 1.0


# --- rounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "forward", "backward", "rounds"),
    [(0.12, 0.78, 0.81, 4), (0.11, 0.78, 0.81, 4), (0.3, 0.6, 0.7, 3), (0.1, 0.2, 0.9, 1), (0.09, 0.78, 0.81, 3)],
)
def test_rounds_end_at_the_data(start: float, forward: float, backward: float, rounds: int) -> None:
    """0.12 / (0.81 - 0.78) is 4, though not in binary numbers."""
    method = SearchOverPaths(start_level=start, forward=forward, backward=backward)
    assert method.rounds == rounds
    levels = [method.level(number) for number in range(rounds + 1)]
    assert levels[0] == start
    assert levels[-1] == 0.0
    assert all(above > below > 1e-3 for above, below in itertools.pairwise(levels[:-1]))
    result = roam(paths=1, branches=2, solve_steps=2, start_level=start, forward=forward, backward=backward)
    assert [record.finished for record in result.trace.records] == [False] * (rounds - 1) + [True]
    times = [record.time for record in result.trace.records]
    assert times == pytest.approx([1 - level for level in levels[1:]], abs=1e-12)


def test_a_search_by_hand() -> None:
    """Euler's method, the Markov kernel, rewards of clean estimates at the end of a solve: one round after another."""
    oracle, paths, branches, steps, seed = three_modes(), 2, 3, 4, 11
    velocity, denoised = oracle.oracle().velocity, oracle.oracle().denoised
    levels = [0.12, 0.09, 0.06, 0.03, 0.0]
    big = 2**20

    def solve(x: Tensor, start: float, end: float) -> Tensor:
        for i in range(steps):
            x = x + (end - start) / steps * velocity(x, start + (end - start) * i / steps)
        return x

    def normals(purpose: int, step: int, slots: list[int]) -> Tensor:
        draw = kernels.Draw(purpose, step)
        return kernels.normal((len(slots), 2), seed=seed, draw=draw, samples=torch.tensor(slots), dtype=DOUBLE)

    x = solve(normals(kernels.PURPOSE_INITIAL, 0, [0, big]), 0.0, 0.88)
    values = torch.empty(0, dtype=DOUBLE)
    for number, (here, below) in enumerate(itertools.pairwise(levels)):
        time, back, end = 1 - here, 1 - here - 0.78, 1 - below
        xi = normals(kernels.PURPOSE_RENOISING, number, [p * big + m for p in range(paths) for m in range(branches)])
        scale = back / time
        x = scale * x.repeat_interleave(branches, 0)
        x = solve(x + math.sqrt((1 - back) ** 2 - scale**2 * (1 - time) ** 2) * xi, back, end)
        values = oracle.reward(x if below == 0 else denoised(x, end), None)
        chosen = values.argsort(descending=True)[:paths]
        x, values = x[chosen], values[chosen]
    result = roam(shape=(1, 2), paths=paths, branches=branches, solve_steps=steps, seed=seed)
    # 20 steps of rounding of numbers below 5, stretched by solves from noise at most a hundredfold each round
    torch.testing.assert_close(result.rewards[0], values, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.x[0], x[0], rtol=0, atol=1e-9)


def test_paths_of_one_each_do_not_depend_on_one_another() -> None:
    two, one = (roam(paths=n, branches=3, solve_steps=2, keep="each", shape=(3, 2)) for n in (2, 1))
    torch.testing.assert_close(two.rewards[:, :1], one.rewards, rtol=0, atol=0)
    for both, alone in zip(tables(two), tables(one), strict=True):
        torch.testing.assert_close(both[:, :3], alone, rtol=0, atol=0)


def test_global_selection_keeps_the_best_of_all() -> None:
    result = roam(paths=3, branches=4, solve_steps=2, shape=(5, 2))
    best = tables(result)[-1].sort(dim=1, descending=True).values[:, :3]
    torch.testing.assert_close(result.rewards, best, rtol=0, atol=0)
    torch.testing.assert_close(three_modes().reward(result.x, None), result.best, rtol=0, atol=0)


def test_a_branch_is_the_same_however_many_there_are() -> None:
    few, many = (tables(roam(paths=1, branches=m, solve_steps=2))[0] for m in (2, 7))
    torch.testing.assert_close(many[:, :2], few, rtol=0, atol=0)
    assert len(many.unique(dim=1).T) == 7


def test_a_request_does_not_depend_on_the_others() -> None:
    together = roam(branches=3, solve_steps=2, requests=torch.tensor([7, 1, 4]))
    alone = roam(branches=3, solve_steps=2, shape=(1, 2), requests=torch.tensor([4]), batch=4)
    torch.testing.assert_close(alone.samples[0], together.samples[2], rtol=0, atol=0)


@pytest.mark.parametrize("path", ["trigonometric", "vp"])
def test_the_networks_own_path_changes_nothing(path: str) -> None:
    """States of another path are multiples of those of this one, and noises that are added too."""

    def late(steps: int, path: Any) -> tuple[float, ...]:
        del path
        return tuple(0.05 + 0.95 * i / steps for i in range(steps + 1))  # "vp" never is all noise

    options: dict[str, Any] = {"path": "linear", "solver": "ddim", "branches": 3, "solve_steps": 3}
    options |= {"grid": late, "steps": 3}
    ours, theirs = roam(**options), roam(path_of_model=path, **options)
    # times by another inverse, coefficients to 1e-15; solves stretch a difference at most some hundredfold each
    torch.testing.assert_close(theirs.samples, ours.samples, rtol=0, atol=1e-9)
    torch.testing.assert_close(theirs.best, ours.best, rtol=0, atol=1e-9)


def test_the_samplers_path_and_grid_are_used() -> None:
    straight = roam(branches=3, solve_steps=3)
    times = roam(branches=3, grid=(0.0, 1 / 3, 2 / 3, 1.0))
    torch.testing.assert_close(times.samples, straight.samples, rtol=0, atol=0)
    for options in ({"path": "trigonometric"}, {"grid": "shifted"}):
        other = roam(branches=3, solve_steps=3, **options)
        assert (other.samples - straight.samples).abs().max() > 1e-3
        assert other.ledger.nfe.tolist() == straight.ledger.nfe.tolist()


def test_shorter_strides_from_an_earlier_level_beat_best_of_n() -> None:
    """The published levels lose to best of N; the defaults do not: figures in the method's description."""
    oracle, requests = SignPattern(), 100
    arguments: dict[str, Any] = {"shape": (requests, 16), "dtype": DOUBLE}
    method = SearchOverPaths()
    ours, theirs = (
        pf.search(oracle.model(), oracle.reward, 500, method=kind, **arguments).best for kind in (method, BestOfN())
    )
    assert float(ours.mean() - theirs.mean()) > 3 * math.sqrt(float(ours.var() + theirs.var()) / requests)


# --- the accounts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize(("start", "rounds"), [(0.12, 4), (0.05, 2)])
def test_evaluations_are_those_of_the_formula(solver: str, start: float, rounds: int) -> None:
    """N n_s + R N M n_s, and one for the clean estimate of each branch before the last round."""
    paths, branches, steps = 2, 5, 3
    result = roam(paths=paths, branches=branches, solve_steps=steps, start_level=start, solver=solver)
    solves = paths + rounds * paths * branches
    looks = (rounds - 1) * paths * branches
    if solver == "euler":
        expected = solves * steps + looks
    else:  # twice a step, but once in the steps that end at the data
        expected = solves * 2 * steps - paths * branches + looks
    assert result.ledger.nfe.tolist() == [expected] * 3
    assert result.ledger.total("rewards").tolist() == [rounds * paths * branches] * 3


@pytest.mark.parametrize(
    ("options", "least", "name"),
    [
        ({}, 42 + 30, "solve_steps"),
        ({"branches": None, "solve_steps": 2}, 2 * (2 + 4 * 2 + 3), "branches"),
        ({"paths": None, "branches": 3, "solve_steps": 2}, 2 + 3 * (4 * 2 + 3), "paths"),
        ({"branches": 3, "solve_steps": 2}, 2 * (2 + 3 * (4 * 2 + 3)), "branches"),
    ],
    ids=str,
)
def test_the_ledger_is_what_the_network_saw(options: dict[str, Any], least: int, name: str) -> None:
    """Budgets up to 200: the cap holds, what is left does not pay for one more, and too little is refused before."""
    oracle = SignPattern(2)
    spent = []
    for budget in (*range(1, 201, 23), least - 1, least, 2 * least, 200):
        model, counter = counted(oracle.model())
        arguments: dict[str, Any] = {"shape": (1, 2), "method": SearchOverPaths(**PUBLISHED | options), "dtype": DOUBLE}
        if budget < least:
            with pytest.raises(BudgetError, match=f"at least {least} for {name}"):
                pf.search(model, oracle.reward, budget, **arguments)
            assert counter.rows == 0
            continue
        ledger = pf.search(model, oracle.reward, budget, **arguments).ledger
        assert ledger.nfe.tolist() == [counter.rows]
        assert counter.rows <= budget
        spent.append((budget, counter.rows))
    for budget, rows in spent:
        assert all(rows >= other for at_most, other in spent if at_most <= budget), "more is never less"
    assert dict(spent)[least] == least


def test_the_steps_are_the_most_that_the_budget_pays_for() -> None:
    """500 evaluations, as in the comparison of Kim et al. 2025: 42 solves of 11 steps and 30 looks."""
    assert roam(500).ledger.nfe.tolist() == [42 * 11 + 30] * 3
    assert roam(533).ledger.nfe.tolist() == [42 * 11 + 30] * 3
    assert roam(534).ledger.nfe.tolist() == [42 * 12 + 30] * 3
    assert roam(10_000, grid=(0.0, 0.3, 1.0)).ledger.nfe.tolist() == [42 * 2 + 30] * 3
    assert roam(Budget(rewards=40), steps=3).ledger.nfe.tolist() == [42 * 3 + 30] * 3
    with pytest.raises(BudgetError, match=r"budget\.rewards: got 39, expected at least 40"):
        roam(Budget(rewards=39))


def test_guided_evaluations_cost_two() -> None:
    oracle = SignPattern(2)
    model, counter = counted(oracle.model())
    label = {"y": torch.zeros(1, 1)}
    arguments: dict[str, Any] = {"shape": (1, 2), "guidance": 3.0, "condition": label, "null": label, "dtype": DOUBLE}
    ledger = pf.search(model, oracle.reward, 300, method=SearchOverPaths(**PUBLISHED), **arguments).ledger
    assert ledger.nfe.tolist() == [counter.rows] == [2 * (42 * 2 + 30)]
    with pytest.raises(BudgetError, match="at least 144"):
        pf.search(model, oracle.reward, 143, method=SearchOverPaths(**PUBLISHED), **arguments)


def test_time_that_is_up_ends_at_the_data() -> None:
    result = roam(Budget(seconds=1e-9), branches=None, solve_steps=3)
    assert result.ledger.nfe.tolist() == [2 * 3 + 2 * 3] * 3
    assert [record.finished for record in result.trace.records] == [True]
    torch.testing.assert_close(three_modes().reward(result.x, None), result.best, rtol=0, atol=0)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backward": 0.78}, "never reaches the data"),
        ({"backward": 0.78 + 1e-6}, "for 1000 rounds"),
        ({"forward": 0.9, "backward": 0.95}, "at most 1 - start_level"),
        ({"start_level": 0.0}, "start_level"),
        ({"start_level": 1.0}, "start_level"),
        ({"forward": 0.0}, "forward"),
        ({"paths": 0}, "paths"),
        ({"branches": 0}, "branches"),
        ({"solve_steps": 0}, "solve_steps"),
        ({"paths": 5000}, "at most 4096"),
        ({"branches": None, "paths": None}, "at most one"),
        ({"keep": "best"}, "keep"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        SearchOverPaths(**PUBLISHED | {"solve_steps": 4} | options)


def test_samplers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ArgumentError, match="solver"):
        roam(solver="euler_maruyama", solve_steps=2)
    with pytest.raises(ArgumentError, match="the sampler begins at"):
        roam(grid=(0.05, 0.5, 1.0), forward=0.85, backward=0.9)  # from the level 0.95, and 0.12 + 0.85 is 0.97


def test_bad_rewards_are_refused() -> None:
    with pytest.raises(NotFiniteError, match="reward"):
        roam(reward=lambda x, _: x[:, 0] * torch.nan, solve_steps=2)
    with pytest.raises(ShapeError, match="reward"):
        roam(reward=lambda x, _: x, solve_steps=2)
