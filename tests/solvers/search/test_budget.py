"""Budgets and ledgers: the numbers, and that every registered method keeps to them row by row."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from search_oracles import Counting, counted
from small_searches import samplers

import pushforward as pf
from pushforward.errors import ArgumentError, BudgetError
from pushforward.solvers.search import Budget, Ledger, methods
from pushforward.solvers.search import budget as budget_module

DOUBLE = torch.float64
METHODS = dict(methods())
STEPS, REQUESTS = 4, 2


def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """D of O1, N(1.5, 0.25), on the linear path; a time for each row, and gradients."""
    alpha = t.reshape(-1, 1).to(x.dtype)
    return 1.5 + alpha * 0.25 / (alpha**2 * 0.25 + (1 - alpha) ** 2) * (x - alpha * 1.5)


class Rewards:
    """x, differentiable; counts its rows."""

    rows = 0

    def __call__(self, x, context):
        self.rows += len(x)
        return x[:, 0]


def line() -> tuple[pf.models.Model, Counting]:
    return counted(pf.models.adapt(denoiser, "denoised", "linear", null={"on": 0.0}))


def spend(name, budget, *, guided=False, solver=None):
    """A search on O1, its counters checked against its ledger; the ledger, or the error of a budget that is too small.

    A refusal must come before the first evaluation.
    """
    model, network = line()
    reward = Rewards()
    guidance = {"guidance": 3.0, "condition": {"on": 1.0}} if guided else {}
    try:
        found = pf.search(
            model,
            reward,
            budget,
            shape=(REQUESTS, 1),
            method=METHODS[name],
            solver=solver,
            steps=STEPS,
            dtype=DOUBLE,
            **guidance,
        )
    except BudgetError as error:
        assert network.rows == reward.rows == 0, "refused too late"
        return error
    ledger, limits = found.ledger, Budget.of(budget)
    assert ledger.nfe.sum() == network.rows
    assert ledger.total("rewards").sum() == reward.rows
    assert (ledger.total("evaluations") * (2 if guided else 1) == ledger.nfe).all()
    assert limits.nfe is None or (ledger.nfe <= limits.nfe).all()
    assert limits.rewards is None or (ledger.total("rewards") <= limits.rewards).all()
    assert sum(int(entry.passes.sum()) for entry in ledger.entries) == network.rows
    assert found.x.isfinite().all()
    return ledger


def need_of(error: BudgetError) -> int:
    return int(re.search(r"at least (\d+)", str(error)).group(1))


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
@pytest.mark.parametrize(("name", "solver"), samplers())
def test_every_method_keeps_to_its_evaluations(name, solver, guided):
    """Never above the cap; or refused, with the number that is enough, and one less is not."""
    budgets = (1, 4, 19, 46, 121, 200) if guided or solver else (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 200)
    needs = set()
    for budget in budgets:
        found = spend(name, budget, guided=guided, solver=solver)
        if isinstance(found, BudgetError):
            assert found.argument == "budget.nfe"
            needs.add(need_of(found))
            assert need_of(found) > budget
    assert len(needs) == 1, "the least does not depend on the budget"
    (need,) = needs
    assert isinstance(spend(name, need, guided=guided, solver=solver), Ledger)
    assert isinstance(spend(name, need - 1, guided=guided, solver=solver), BudgetError)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_to_its_rewards(name):
    refusal = spend(name, Budget(nfe=10**4, rewards=1))
    need = 1
    if isinstance(refusal, BudgetError):
        assert refusal.argument == "budget.rewards"
        need = need_of(refusal)
        assert isinstance(spend(name, Budget(rewards=need - 1)), BudgetError)
    for rewards in (need, need + 5, 90):
        assert isinstance(spend(name, Budget(nfe=10**4, rewards=rewards)), Ledger)


class Clock:
    """A clock that only moves when the network is called."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize("name", METHODS)
def test_time_ends_a_search_soon(name, monkeypatch):
    """One second a network call and three of them: then the shortest way to the end, with a sample."""
    clock = Clock()
    monkeypatch.setattr(budget_module, "time", clock)

    def slow(x, t, **_):
        clock.now += 1.0
        return denoiser(x, t)

    def search(limits):
        clock.now = 0.0
        model = pf.models.adapt(slow, "denoised", "linear")
        options = {"shape": (REQUESTS, 1), "method": METHODS[name], "steps": STEPS, "dtype": DOUBLE}
        return pf.search(model, Rewards(), limits, **options)

    if not METHODS[name].interruptible:
        with pytest.raises(ArgumentError, match=r"budget.seconds.*cannot be cut short"):
            search(Budget(nfe=400, seconds=3.0))
        return
    search(Budget(nfe=400))
    assert clock.now > 3 or name in ("best_of_n", "random"), "else there is nothing to cut short"
    found = search(Budget(nfe=400, seconds=3.0))
    assert clock.now <= 3 + STEPS + 4  # a call under way, the steps, the finish
    assert found.x.isfinite().all()
    assert found.ledger.seconds == clock.now


def test_sums_of_the_ledger():
    ledger = Ledger(Budget(nfe=10, rewards=5), 2)
    first = ledger.charge("initial", 0, evaluations=np.array([2, 1]), passes=np.array([4, 2]))
    again = ledger.charge("initial", 0, passes=np.array([1, 1]), rewards=np.array([5, 0]))
    ledger.charge("search", 1, passes=np.array([5, 0]), gradients=np.array([3, 0]))
    assert first is again
    assert [(entry.phase, entry.step) for entry in ledger.entries] == [("initial", 0), ("search", 1)]
    assert ledger.nfe.tolist() == [10, 3]
    assert ledger.total("passes", "initial").tolist() == [5, 3]
    assert ledger.cost.tolist() == [16, 3]
    assert ledger.left("nfe").tolist() == [0, 7]
    assert ledger.left("rewards").tolist() == [0, 5]
    with pytest.raises(BudgetError, match=r"budget.nfe: got 2 more in step 3 \(finish\) of request 0, expected at"):
        ledger.charge("finish", 3, passes=np.array([2, 1]))
    with pytest.raises(BudgetError, match=r"budget.rewards: got 6 more in step 3 \(finish\) of request 1, expected at"):
        ledger.charge("finish", 3, passes=np.array([0, 1]), rewards=np.array([0, 6]))
    assert ledger.nfe.tolist() == [10, 3], "what is refused is not booked"
    assert Ledger(Budget(seconds=1.0), 1).left("nfe") is None


def test_time_of_the_entries_adds_up():
    """Networks and rewards are nearly all of a search's time; what is measured is not more than there was."""
    model, _ = line()
    found = pf.search(model, Rewards(), 100, shape=(2, 1), method="svdd", dtype=DOUBLE)
    times = [entry.seconds for entry in found.ledger.entries]
    assert min(times) > 0
    assert sum(times) <= found.ledger.seconds


def test_shares_of_a_budget():
    parts = Budget(nfe=10, rewards=3, seconds=4.0).split([1, 1, 2])
    assert [part.nfe for part in parts] == [3, 2, 5]
    assert sum(part.rewards for part in parts) == 3
    assert [part.seconds for part in parts] == [1.0, 1.0, 2.0]
    assert [part.rewards for part in Budget(7).split([0.1, 0.9])] == [None, None]
    assert sum(part.nfe for part in Budget(1000).split([0.1] * 10)) == 1000
    for weights in ([], [0.0, 1.0], [-1.0], [float("nan")], [float("inf"), 1.0]):
        with pytest.raises(ArgumentError, match="weights"):
            Budget(10).split(weights)
    with pytest.raises(ArgumentError, match=r"budget.nfe: got 0"):
        Budget(2).split([1, 1, 1])


def test_bad_budgets_are_refused():
    for limits, message in (
        ({}, "budget: got no limit"),
        ({"nfe": 0}, "budget.nfe: got 0"),
        ({"nfe": 2.5}, "budget.nfe: got 2.5"),
        ({"nfe": True}, "budget.nfe: got True"),
        ({"rewards": -1}, "budget.rewards"),
        ({"seconds": 0.0}, "budget.seconds"),
        ({"seconds": float("inf")}, "budget.seconds"),
        ({"seconds": "1"}, "budget.seconds"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Budget(**limits)
    assert Budget.of(5) == Budget(nfe=5)
    assert Budget.of(Budget(seconds=2)).seconds == 2
