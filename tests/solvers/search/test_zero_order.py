"""Zero-order search: strides against random search, prefixes, incumbents, restarts, accounts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from search_oracles import DOUBLE, SignPattern, counted, gaussian_line, three_modes
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, BudgetError, NotFiniteError, ShapeError
from pushforward.solvers.search import BestOfN, Budget, RandomSearch, SearchResult, ZeroOrder
from pushforward.solvers.search.search import make_task


def climb(method: Any, budget: Any = 10_000, **options: Any) -> SearchResult:
    oracle = three_modes()
    arguments: dict[str, Any] = {"shape": (3, 2), "steps": 4, "dtype": DOUBLE} | options
    reward = arguments.pop("reward", oracle.reward)
    return pf.search(oracle.model(), reward, budget, method=method, **arguments)


def seen(result: SearchResult) -> list[Tensor]:
    """Rewards of each round, [S, candidates]."""
    rewards = [record.rewards for record in result.trace.records]
    assert all(table is not None for table in rewards)
    return [table for table in rewards if table is not None]


def test_the_stride_decides_against_random_search() -> None:
    """The specification's figures: -3.02 +- .10, -4.45 +- .12 and -6.14 +- .14 against -3.62 +- .06."""
    oracle, requests = SignPattern(), 200
    arguments: dict[str, Any] = {"shape": (requests, 16), "steps": 10, "dtype": DOUBLE}

    def measured(method: Any, budget: int) -> tuple[float, float]:
        best = pf.search(oracle.model(), oracle.reward, budget, method=method, **arguments).best
        return float(best.mean()), float(best.std()) / requests**0.5

    random, spread = measured(RandomSearch(50), 500)
    usual = ZeroOrder().cosine
    walks = {tau: measured(ZeroOrder(4, tau, 12), 490) for tau in (usual, 0.8, 0.95, 0.99)}
    for tau in (usual, 0.8):
        assert walks[tau][0] - random > 3 * math.hypot(walks[tau][1], spread)
    assert random - walks[0.99][0] > 3 * math.hypot(walks[0.99][1], spread)
    published = {0.8: (-3.02, 0.10), 0.95: (-4.45, 0.12), 0.99: (-6.14, 0.14)}
    for tau, (mean, error) in published.items():  # of other seeds: four errors of the difference
        assert abs(walks[tau][0] - mean) < 4 * math.hypot(walks[tau][1], error)
    assert abs(random + 3.62) < 4 * math.hypot(spread, 0.06)


def test_rounds_of_a_small_budget_are_the_first_of_a_large_one() -> None:
    long = climb(ZeroOrder(3), 4 * (1 + 3 * 9))
    tables = seen(long)
    assert [table.shape[1] for table in tables] == [4] + [3] * 8
    for rounds in (1, 2, 6):
        short = climb(ZeroOrder(3), 4 * (1 + 3 * rounds))
        assert short.ledger.nfe.tolist() == [4 * (1 + 3 * rounds)] * 3
        for mine, theirs in zip(seen(short), tables, strict=False):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        torch.testing.assert_close(short.best, torch.cat(tables[:rounds], 1).amax(1), rtol=0, atol=0)


def test_the_reward_never_falls_with_the_budget() -> None:
    best = torch.stack([climb(ZeroOrder(2), budget).best for budget in range(12, 140, 9)])
    assert (best.diff(dim=0) >= 0).all()
    assert len(best.unique(dim=0)) > 3


def test_a_neighbour_is_the_same_however_many_there_are() -> None:
    few, many = (seen(climb(ZeroOrder(m, rounds=1)))[0] for m in (2, 6))
    torch.testing.assert_close(many[:, :3], few, rtol=0, atol=0)
    assert len(many.unique(dim=1).T) == 7


def test_a_request_does_not_depend_on_the_others() -> None:
    together = climb(ZeroOrder(rounds=4), requests=torch.tensor([7, 1, 4]))
    alone = climb(ZeroOrder(rounds=4), shape=(1, 2), requests=torch.tensor([4]), batch=3)
    torch.testing.assert_close(alone.samples[0], together.samples[2], rtol=0, atol=0)


def test_the_first_pivot_is_the_first_random_noise() -> None:
    walk, draws = seen(climb(ZeroOrder(rounds=1))), seen(climb(BestOfN(4)))
    torch.testing.assert_close(walk[0][:, 0], draws[0][:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("restart", [False, True])
def test_the_incumbent_is_kept(restart: bool) -> None:
    result = climb(ZeroOrder(2, rounds=12, restart=restart))
    everything = torch.cat(seen(result), 1)
    torch.testing.assert_close(result.best, everything.amax(1), rtol=0, atol=0)
    torch.testing.assert_close(three_modes().reward(result.x, None), result.best, rtol=0, atol=0)
    assert result.ledger.nfe.tolist() == [4 * (1 + 2 * 12)] * 3


def test_a_round_without_improvement_is_followed_by_a_fresh_pivot() -> None:
    """Nothing beats the first pivot, so that each later round fails, and the one after it begins with new noise."""
    draws = climb(BestOfN(6), shape=(1, 2), reward=lambda x, _: x[:, 0])
    first = climb(ZeroOrder(rounds=1, cosine=0.999999), shape=(1, 2), reward=lambda x, _: x[:, 0])
    at = seen(first)[0][0, 0]

    def near(x: Tensor, context: Any) -> Tensor:
        del context
        return -(x[:, 0] - at).abs()

    tables = seen(climb(ZeroOrder(3, rounds=5, restart=True), shape=(1, 2), reward=near))
    expected = -(seen(draws)[0][0] - at).abs()
    assert tables[0][0].argmax() == 0, "the pivot is the best of the first round"
    assert tables[1].max() < 0, "and of the second"
    torch.testing.assert_close(tables[2][0, 0], expected[2], rtol=0, atol=0)  # the third begins with noise 2
    still = seen(climb(ZeroOrder(3, rounds=5), shape=(1, 2), reward=near))
    torch.testing.assert_close(torch.cat(still[:2], 1), torch.cat(tables[:2], 1), rtol=0, atol=0)
    assert (still[2][0, 0] != tables[2][0, 0]).all()


def test_forbidden_samples_do_not_stop_it() -> None:
    """Rewards of -inf, of pivots and whole rounds: the first that is allowed is taken."""

    def upper(x: Tensor, context: Any) -> Tensor:
        del context
        return torch.where(x[:, 1] > 1.5, x[:, 1], torch.full_like(x[:, 1], -torch.inf))

    result = climb(ZeroOrder(rounds=30, restart=True), shape=(20, 2), reward=upper)
    tables = seen(result)
    assert (tables[0] == -torch.inf).all(1).any(), "some request begins without a single allowed sample"
    torch.testing.assert_close(result.best, torch.cat(tables, 1).amax(1), rtol=0, atol=0)
    assert result.best.isfinite().all()  # a tenth of the noises are allowed, and there are thirty fresh pivots


def test_noise_of_the_steps_is_the_same_for_all_candidates() -> None:
    """With a stochastic solver a neighbour next to the pivot has a sample next to the pivot's."""
    result = climb(ZeroOrder(rounds=1, cosine=1 - 1e-12), solver="euler_maruyama", steps=10)
    table = seen(result)[0]
    # the neighbours are sqrt(2e-12) |n| away; the run stretches that less than a thousandfold
    assert (table - table[:, :1]).abs().max() < 1000 * 1.5e-6 * 4
    assert (
        climb(BestOfN(2), solver="euler_maruyama", steps=10).trace.records[0].rewards.diff(dim=1).abs() > 0.01
    ).any()


def test_a_single_number_has_normal_neighbours() -> None:
    """Where no direction is at right angles: correlation tau, variance kept."""
    oracle, requests, tau = gaussian_line(), 4000, 0.7
    method = ZeroOrder(1, tau, 1)
    task = make_task(oracle.model(), oracle.reward, Budget(20), method, shape=(requests, 1), steps=10, dtype=DOUBLE)
    noises = method.around(task, method.begin(task)).x.reshape(requests, 2)
    moments = noises.T @ noises / requests
    error = 4 * (2 / requests) ** 0.5  # of a mean of products of normals: variance at most 2
    torch.testing.assert_close(moments, torch.tensor([[1, tau], [tau, 1]], dtype=DOUBLE), rtol=0, atol=error)


def test_other_steps_for_search_and_end() -> None:
    same = climb(ZeroOrder(rounds=3, final_steps=4))
    torch.testing.assert_close(same.samples, climb(ZeroOrder(rounds=3)).samples, rtol=0, atol=0)
    result = climb(ZeroOrder(rounds=3, search_steps=2, final_steps=30))
    assert result.ledger.total("evaluations", "search").tolist() == [2 * 13] * 3
    assert result.ledger.total("evaluations", "regenerate").tolist() == [30] * 3
    short = climb(ZeroOrder(rounds=3), steps=2)
    assert result.look_ahead is not None
    torch.testing.assert_close(result.look_ahead[:, 0], short.best, rtol=0, atol=0)
    torch.testing.assert_close(three_modes().reward(result.x, None), result.best, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"restart": True}, {"final_steps": 12}], ids=str)
def test_the_ledger_is_what_the_network_saw(options: dict[str, Any]) -> None:
    """Budgets up to 200: (1 + m R) K, and K_f, or the number that would suffice."""
    oracle, fixed = SignPattern(2), 5 + options.get("final_steps", 0)
    for budget in (*range(1, 201, 17), fixed + 14, fixed + 15, fixed + 29, fixed + 30, 200):
        model, counter = counted(oracle.model())
        arguments: dict[str, Any] = {"shape": (1, 2), "method": ZeroOrder(3, **options), "steps": 5, "dtype": DOUBLE}
        if budget < fixed + 15:
            with pytest.raises(BudgetError, match=f"at least {fixed + 15} for rounds = 1"):
                pf.search(model, oracle.reward, budget, **arguments)
            assert counter.rows == 0
            continue
        ledger = pf.search(model, oracle.reward, budget, **arguments).ledger
        rounds = (budget - fixed) // 15
        assert ledger.nfe.tolist() == [counter.rows] == [fixed + 15 * rounds]
        assert ledger.total("rewards").tolist() == [1 + 3 * rounds + ("final_steps" in options)]


def test_time_that_is_up_ends_after_a_round() -> None:
    result = climb(ZeroOrder(final_steps=6), Budget(seconds=1e-9))
    assert result.ledger.nfe.tolist() == [4 * 5 + 6] * 3


@pytest.mark.parametrize("tau", [0.0, 1.0, -0.5, math.nan])
def test_bad_strides_are_refused(tau: float) -> None:
    with pytest.raises(ArgumentError, match="cosine"):
        ZeroOrder(cosine=tau)


def test_bad_options_and_rewards_are_refused() -> None:
    for name in ("neighbours", "rounds", "search_steps", "final_steps"):
        with pytest.raises(ArgumentError, match=name):
            ZeroOrder(**{name: 0})
    with pytest.raises(BudgetError, match="at least 52"):
        climb(ZeroOrder(rounds=3), 51)
    with pytest.raises(NotFiniteError, match="reward"):
        climb(ZeroOrder(), reward=lambda x, _: x[:, 0] * torch.nan)
    with pytest.raises(ShapeError, match="reward"):
        climb(ZeroOrder(), reward=lambda x, _: x)
