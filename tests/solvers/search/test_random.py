"""Random search: best of N in few steps, and the winner's noise sampled again in many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from search_oracles import DOUBLE, SignPattern, counted, gaussian_line, three_modes
from torch import Tensor

import pushforward as pf
from pushforward import kernels
from pushforward.errors import ArgumentError, BudgetError, GridError, NotFiniteError, ShapeError
from pushforward.solvers.search import BestOfN, Budget, RandomSearch, SearchResult


def searched(method: Any, budget: Any = 10_000, **options: Any) -> SearchResult:
    oracle = three_modes()
    arguments: dict[str, Any] = {"shape": (4, 2), "dtype": DOUBLE} | options
    return pf.search(oracle.model(), oracle.reward, budget, method=method, **arguments)


def test_without_other_steps_it_is_best_of_n() -> None:
    ours, theirs = searched(RandomSearch(9)), searched(BestOfN(9))
    torch.testing.assert_close(ours.samples, theirs.samples, rtol=0, atol=0)
    assert ours.look_ahead is None
    assert ours.ledger.nfe.tolist() == theirs.ledger.nfe.tolist()


def test_candidates_are_samples_of_the_search_steps() -> None:
    ours, theirs = searched(RandomSearch(9, search_steps=3)), searched(BestOfN(9), steps=3)
    torch.testing.assert_close(ours.samples, theirs.samples, rtol=0, atol=0)
    assert ours.ledger.nfe.tolist() == [27] * 4


def test_as_many_final_steps_give_the_same_sample_again() -> None:
    once, again = searched(RandomSearch(9)), searched(RandomSearch(9, final_steps=10))
    torch.testing.assert_close(again.samples, once.samples, rtol=0, atol=0)
    assert again.look_ahead is not None
    torch.testing.assert_close(again.look_ahead, again.rewards, rtol=0, atol=0)
    assert again.ledger.total("evaluations", "regenerate").tolist() == [10] * 4


def test_the_winners_noise_is_what_is_sampled_again() -> None:
    """By hand: eight noises, Euler's method in two steps, the best, and Euler's method in fifty from its noise."""
    oracle, requests, count = three_modes(), 4, 8
    ids = (torch.arange(requests)[:, None] * 2**32 + torch.arange(count)).reshape(-1)
    draw = kernels.Draw(kernels.PURPOSE_INITIAL, 0)
    noise = kernels.normal((len(ids), 2), seed=3, draw=draw, samples=ids, dtype=DOUBLE)

    def euler(x: Tensor, steps: int) -> Tensor:
        for i in range(steps):
            x = x + oracle.oracle().velocity(x, i / steps) / steps
        return x

    table = oracle.reward(euler(noise, 2), None).reshape(requests, count)
    winners = table.argmax(1) + count * torch.arange(requests)
    expected = euler(noise[winners], 50)
    result = searched(RandomSearch(count, search_steps=2, final_steps=50), seed=3)
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-12)  # 50 steps of rounding 1e-16, states below 5
    torch.testing.assert_close(result.best, oracle.reward(expected, None), rtol=0, atol=1e-12)
    assert result.look_ahead is not None
    torch.testing.assert_close(result.look_ahead[:, 0], table.amax(1), rtol=0, atol=1e-12)
    assert (result.look_ahead[:, 0] - result.best).abs().min() > 1e-3, "the two rewards differ: both are kept"


def test_grids_that_begin_elsewhere_with_other_steps() -> None:
    def late(steps: int, path: Any) -> tuple[float, ...]:
        del path
        return (0.3 / steps, *((i + 1) / steps for i in range(steps)))

    ours = searched(RandomSearch(5, search_steps=3), grid=late, steps=10)
    theirs = searched(BestOfN(5), grid=late, steps=3)
    # (sigma' / sigma) sigma z against sigma' z: three roundings of numbers below 4, that is 2e-15. The three steps
    # stretch them at most 111 times: the largest singular value of their Jacobian at 20000 noises.
    torch.testing.assert_close(ours.samples, theirs.samples, rtol=0, atol=111 * 2e-15)


def test_what_the_search_saw_never_falls_with_the_budget() -> None:
    last = torch.full((4,), -torch.inf, dtype=DOUBLE)
    for budget in range(45, 100, 5):
        result = searched(RandomSearch(search_steps=5, final_steps=40), budget)
        assert result.ledger.nfe.tolist() == [budget] * 4
        assert result.look_ahead is not None
        assert (result.look_ahead[:, 0] >= last).all()
        last = result.look_ahead[:, 0]
    bare = [searched(RandomSearch(search_steps=5), budget).best for budget in range(5, 100, 5)]
    assert (torch.stack(bare).diff(dim=0) >= 0).all()


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_ledger_is_what_the_network_saw(solver: str) -> None:
    """Budgets up to 200: candidates x K_s + K_f, or the number that would suffice."""
    oracle, method = SignPattern(1), RandomSearch(search_steps=4, final_steps=20)
    each, final = {"euler": (4, 20), "heun": (7, 39)}[solver]  # Heun's last step is the clean estimate
    for budget in (*range(1, 201, 17), each + final - 1, each + final, 2 * each + final - 1, 2 * each + final):
        model, counter = counted(oracle.model())
        arguments: dict[str, Any] = {"shape": (1, 1), "method": method, "solver": solver, "dtype": DOUBLE}
        if budget < each + final:
            with pytest.raises(BudgetError, match=f"at least {each + final} for candidates = 1"):
                pf.search(model, oracle.reward, budget, **arguments)
            assert counter.rows == 0
            continue
        ledger = pf.search(model, oracle.reward, budget, **arguments).ledger
        count = (budget - final) // each
        assert ledger.nfe.tolist() == [counter.rows] == [count * each + final]
        assert ledger.total("rewards").tolist() == [count + 1]


def test_time_that_is_up_still_pays_for_the_second_sample() -> None:
    result = searched(RandomSearch(search_steps=2, final_steps=5), Budget(seconds=1e-9))
    assert result.ledger.total("evaluations", "search").tolist() == [2 * 64] * 4  # one chunk of 256 rows
    assert result.ledger.total("evaluations", "regenerate").tolist() == [5] * 4


def test_bad_options_are_refused() -> None:
    for name in ("candidates", "chunk", "search_steps", "final_steps"):
        with pytest.raises(ArgumentError, match=name):
            RandomSearch(**{name: 0})
    with pytest.raises(ArgumentError, match="final_steps"):
        searched(RandomSearch(4, final_steps=20), solver="euler_maruyama")
    with pytest.raises(GridError, match="grid"):
        searched(RandomSearch(4, final_steps=20), grid=(0.0, 0.4, 1.0))
    with pytest.raises(BudgetError, match="at least 50"):
        searched(RandomSearch(3, search_steps=10, final_steps=20), 49)


def test_bad_rewards_are_refused() -> None:
    model, options = gaussian_line().model(), {"shape": (2, 1), "dtype": DOUBLE, "method": RandomSearch(final_steps=20)}
    with pytest.raises(NotFiniteError, match="reward"):
        pf.search(model, lambda x, _: x[:, 0] * torch.nan, 40, **options)
    with pytest.raises(ShapeError, match="reward"):
        pf.search(model, lambda x, _: x, 40, **options)
