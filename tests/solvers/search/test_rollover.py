"""Rollover budget forcing: the ordering on the pattern of signs, the books, and what its allocations reduce to."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from search_oracles import SignPattern, gaussian_line
from searches import attempts, in_order, same

import pushforward as pf
from pushforward.errors import ArgumentError, BudgetError
from pushforward.models import Guidance
from pushforward.solvers.search import SVDD, BestOfN, Budget, CoDe, RolloverBudgetForcing
from pushforward.solvers.search.rollover import linear_quotas

DOUBLE = torch.float64
SIGNS, LINE = SignPattern(), gaussian_line()
VP = {"path": "vp", "grid": "circular"}
LINEAR = {"path": "linear", "grid": "uniform"}
SEEDS = 200


# --- the ordering ---------------------------------------------------------------------------------------------------


@cache
def mean(name: str, budget: int) -> tuple[float, float]:
    """Mean reward of the finished samples of 200 requests, and its standard error.

    Two chains; the finish is one evaluation that is known already. The published table finishes with 20.
    """
    method, options = {
        "BoN": (BestOfN(), LINEAR),
        "CoDe": (CoDe(start="shared", finish=1), VP),
        "SVDD": (SVDD(finish=1), VP),
        "RBF": (RolloverBudgetForcing(finish=1), VP),
        "RBF linear SDE": (RolloverBudgetForcing(finish=1), LINEAR),
        "RBF linear ODE": (RolloverBudgetForcing(finish=1, allocation=(1,) * 9), LINEAR | {"solver": "euler"}),
    }[name]
    found = pf.search(SIGNS.model(), SIGNS.reward, budget, shape=(SEEDS, 16), method=method, **options)
    assert (found.ledger.nfe <= budget).all()
    return float(found.best.mean()), float(found.best.std()) / SEEDS**0.5


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (("BoN", 500), ("CoDe", 500)),
        (("CoDe", 500), ("SVDD", 500)),
        (("SVDD", 500), ("RBF", 500)),
        (("RBF linear ODE", 500), ("RBF linear SDE", 500)),
        (("RBF linear SDE", 500), ("RBF", 500)),
        (("BoN", 1000), ("RBF", 100)),
    ],
)
def test_ordering(worse, better):
    """Each by more than three standard errors of the difference."""
    (low, low_error), (high, high_error) = mean(*worse), mean(*better)
    assert high - low > 3 * math.hypot(low_error, high_error), (low, high)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("BoN", -3.62),
        ("SVDD", -0.97),
        ("RBF", -0.34),
        ("CoDe", -1.41),
        ("RBF linear SDE", -0.73),
        ("RBF linear ODE", -6.9),
    ],
)
def test_means_are_those_of_an_independent_prototype(name, told):
    """Measured in another program with other random numbers, to 0.09: four standard errors of the difference."""
    found, error = mean(name, 500)
    assert abs(found - told) < 4 * math.hypot(error, 0.09)


# --- the books ------------------------------------------------------------------------------------------------------


def search(method, budget=500, reward=SIGNS.reward, **options):
    options = {"shape": (1, 16), "dtype": DOUBLE} | options
    return pf.search(SIGNS.model(), reward, budget, method=method, **options)


class Scripted:
    """Improves at one attempt of one step, and never again; the n-th look, from 0, at one candidate each."""

    def __init__(self, improves: int) -> None:
        self.improves, self.looks = improves, 0

    def __call__(self, x, context):
        start, self.looks = self.looks, self.looks + len(x)
        return torch.tensor([float(start + i == self.improves) for i in range(len(x))])


def test_quota_rolls_over_as_written():
    """q = 22; the third attempt of step 0 improves: 3, then 22 + 19, then 22 each, and all that is left at the last."""
    method = RolloverBudgetForcing(chains=1, initial=25, finish=1)
    found = search(method, 25 + 229, Scripted(25 + 2))
    assert attempts(found) == [3, 41, *[22] * 6, 229 - 3 - 41 - 22 * 6]
    assert found.ledger.nfe.tolist() == [254]
    assert found.ledger.total("rewards").tolist() == [254 + 1]
    assert found.ledger.total("passes", "initial").tolist() == [25]


@pytest.mark.parametrize(
    ("improves", "told"),
    [
        (0, [1, 43, *[22] * 6]),
        (21, [22] * 8),
        (22, [22, 1, 43, *[22] * 5]),
        (22 * 7, [*[22] * 7, 1]),
        (10**6, [22] * 8),
    ],
)
def test_quota_rolls_over_wherever_the_improvement_is(improves, told):
    found = search(RolloverBudgetForcing(chains=1, initial=1, finish=1), 1 + 220, Scripted(1 + improves))
    assert attempts(found) == [*told, 220 - sum(told)]


def test_saved_attempts_add_up():
    """Every look is better than the one before: one attempt a step, and all that is saved goes to the last."""
    looks = iter(range(10**6))
    found = search(
        RolloverBudgetForcing(chains=1, initial=1, finish=1), 101, lambda x, _: [float(next(looks)) for _ in x]
    )
    assert attempts(found) == [*[1] * 8, 92]
    assert found.ledger.nfe.tolist() == [101]


def test_equal_rewards_are_no_improvement():
    found = search(RolloverBudgetForcing(chains=1, initial=1, finish=1), 101, lambda x, _: torch.zeros(len(x)))
    assert attempts(found) == [*[10] * 8, 20]


def test_least_attempts_delay_the_acceptance():
    looks = iter(range(10**6))
    method = RolloverBudgetForcing(chains=1, initial=1, finish=1, min_attempts=4)
    found = search(method, 101, lambda x, _: [float(next(looks)) for _ in x])
    assert attempts(found) == [*[4] * 8, 68]


@pytest.mark.parametrize("budget", [62, 97])
@pytest.mark.parametrize("finish", [0, 1, 4])
def test_budget_is_spent_to_the_last_evaluation(budget, finish):
    """Also what does not divide between the two chains."""
    found = search(RolloverBudgetForcing(finish=finish), budget, shape=(5, 16))
    assert (found.ledger.nfe == budget).all()
    assert (found.ledger.total("passes", "finish") == 2 * max(0, finish - 1)).all()


def test_a_tenth_of_the_budget_is_for_initial_noises():
    """As published: 25 for each of two chains of 500 evaluations, and a quota of 22."""
    found = search(RolloverBudgetForcing(chains=2, finish=1), 500, lambda x, _: torch.zeros(len(x)))
    assert found.ledger.total("passes", "initial").tolist() == [50]
    assert attempts(found) == [*[44] * 8, 450 - 44 * 8]


def test_accepted_candidates_are_the_best_of_their_steps():
    """From the trace: the state goes on with the best of each step, whose look ahead is the highest."""
    found = search(RolloverBudgetForcing(chains=1, initial=1, finish=1, allocation="uniform"), 1 + 9 * 5)
    looks = [float(record.rewards[0, 0]) for record in found.trace.records if record.phase == "search"]
    assert len(looks) == 45
    assert float(found.look_ahead[0, 0]) == max(looks[-5:])


# --- what it reduces to ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [VP, LINEAR | {"solver": "ddpm"}], ids=["VP", "linear"])
@pytest.mark.parametrize("finish", [1, 3])
def test_uniform_allocation_is_svdd(finish, where):
    """Bit for bit: attempts of a step are the candidates of SVDD, whatever their order in time."""
    m = 6
    svdd = search(SVDD(candidates=m, finish=finish), 10**4, shape=(4, 16), keep=2, **where)
    rbf = RolloverBudgetForcing(initial=1, allocation="uniform", finish=finish)
    found = search(rbf, int(svdd.ledger.nfe[0]), shape=(4, 16), keep=2, **where)
    assert same(svdd, found)
    assert torch.equal(svdd.look_ahead, found.look_ahead)
    assert (svdd.ledger.nfe == found.ledger.nfe).all()


def test_linear_allocation_is_as_published():
    assert linear_quotas(500, 10) == [95, 85, 75, 65, 55, 45, 35, 25, 15, 5]
    for total in (9, 10, 57, 100, 501, 1234):
        quotas = linear_quotas(total, 9)
        assert sum(quotas) == total
        assert min(quotas) >= 1
        assert quotas == sorted(quotas, reverse=True)
    assert linear_quotas(7, 1) == [7]
    found = search(RolloverBudgetForcing(chains=1, initial=1, finish=1, allocation="linear"), 1 + 50, steps=6)
    assert attempts(found) == linear_quotas(50, 5) == [18, 14, 10, 6, 2]


def test_written_allocation_is_kept():
    numbers = [5, 1, 1, 9, 2, 1, 1, 1, 3]
    found = search(RolloverBudgetForcing(chains=1, initial=2, finish=2, allocation=numbers))
    assert attempts(found) == numbers
    assert found.ledger.nfe.tolist() == [2 + sum(numbers) + 1]


def test_requests_do_not_depend_on_their_batch():
    """Together, alone, in other orders and in small batches: each request has the same result, bit for bit."""
    ids = torch.tensor([4, 0, 9, 2**31 - 1])
    together = search(RolloverBudgetForcing(), 90, shape=(4, 16), requests=ids, keep=2)
    for batch in (None, 1, 3):
        order = torch.tensor([2, 0, 3, 1])
        other = search(RolloverBudgetForcing(), 90, shape=(4, 16), requests=ids[order], keep=2, batch=batch)
        assert torch.equal(other.samples, together.samples[order])
    alone = search(RolloverBudgetForcing(), 90, requests=ids[2:3], keep=2)
    assert torch.equal(alone.samples, together.samples[2:3])
    assert [entry.evaluations[0] for entry in alone.ledger.entries] == [
        entry.evaluations[2] for entry in together.ledger.entries
    ]


def test_chains_do_not_depend_on_their_number():
    """A chain's share is what counts: two chains at twice the budget hold the one chain."""
    method = {"initial": 3, "finish": 2}
    one = search(RolloverBudgetForcing(chains=1, **method), 60)
    two = search(RolloverBudgetForcing(chains=2, **method), 120, keep=2)
    assert torch.equal(in_order(two)[:, :1], one.samples)


# --- what it refuses, and what it does when there is nothing to find ------------------------------------------------


def test_least_budget_is_named_and_is_enough():
    for method, steps, need in (
        (RolloverBudgetForcing(), 10, 2 * (1 + 10 + 3)),
        (RolloverBudgetForcing(), 40, 2 * (1 + 40 + 3)),  # a tenth for initial noises would leave too little
        (RolloverBudgetForcing(initial=25), 10, 2 * (25 + 10 + 3)),
        (RolloverBudgetForcing(allocation="uniform", finish=1), 10, 2 * (1 + 9)),
        (RolloverBudgetForcing(allocation=[3] * 9, chains=1, finish=0), 10, 1 + 27),
    ):
        assert (search(method, need, steps=steps).ledger.nfe == need).all()
        with pytest.raises(BudgetError, match=rf"budget.nfe: got {need - 1}, expected at least {need} \("):
            search(method, need - 1, steps=steps)
    with pytest.raises(BudgetError, match=r"budget.rewards: got 23, expected at least 24 \(2 chains x \(1 initial"):
        search(RolloverBudgetForcing(), Budget(rewards=23))
    found = search(RolloverBudgetForcing(), Budget(rewards=24))
    assert found.ledger.total("rewards").tolist() == [24]


def test_guidance_counts_twice():
    def network(x, t, sign):
        return SIGNS.model().network(x, t) + 0 * sign.reshape(-1, 1)

    model = pf.models.adapt(network, "denoised", "linear", null={"sign": torch.zeros(1, dtype=DOUBLE)})
    found = pf.search(
        model,
        SIGNS.reward,
        101,
        shape=(2, 16),
        method=RolloverBudgetForcing(),
        guidance=Guidance(2.0),
        condition={"sign": torch.ones(2, dtype=DOUBLE)},
        dtype=DOUBLE,
    )
    assert (found.ledger.nfe == 100).all()
    assert (found.ledger.total("evaluations") == 50).all()


def test_bad_options_are_refused():
    for options, message in (
        ({"chains": 0}, "chains"),
        ({"chains": 4097}, "chains: got 4097, expected an integer from 1 to 4096"),
        ({"initial": 0}, "initial"),
        ({"min_attempts": 0}, "min_attempts"),
        ({"finish": -1}, "finish"),
        ({"allocation": "greedy"}, "allocation"),
        ({"allocation": [1, 0]}, "allocation: got 0"),
        ({"allocation": [2] * 10}, "allocation: got 10 numbers, expected 9, one for each step"),
    ):
        with pytest.raises(ArgumentError, match=message):
            search(RolloverBudgetForcing(**options))
    with pytest.raises(ArgumentError, match="draws no noise"):
        search(RolloverBudgetForcing(), solver="ddim")
    with pytest.raises(ArgumentError, match="steps: got 1, expected at least 2"):
        search(RolloverBudgetForcing(), steps=1)
    with pytest.raises(ArgumentError, match=r"budget: got no number"):
        search(RolloverBudgetForcing(), Budget(seconds=1.0))
    with pytest.raises(ArgumentError, match=r"attempts a chain"):
        search(RolloverBudgetForcing(chains=1), 10**8)


def test_a_reward_that_forbids_everything_keeps_first_attempts():
    """No attempt is better than the first of its step, none beats the record: a plain run with the least noise keys."""
    nothing = search(RolloverBudgetForcing(chains=1, finish=1), 100, lambda x, _: torch.full((len(x),), -math.inf))
    first = search(RolloverBudgetForcing(chains=1, finish=1, initial=1, allocation=(1,) * 9), 100)
    assert torch.equal(nothing.samples, first.samples)
    assert nothing.best.tolist() == [-math.inf]
    assert nothing.ledger.nfe.tolist() == [100]
