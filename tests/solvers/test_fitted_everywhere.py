"""A fitted plan wherever a solver goes: searches and parallel runs; and where it cannot go."""

from __future__ import annotations

import pytest
import torch
from fitted import MODEL, fitted, without_memory
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, GridError, PlanError, PushforwardError, UnknownNameError
from pushforward.models import Linear
from pushforward.solvers import FitWarning, Shifted
from pushforward.solvers.fitting import solver_for
from pushforward.solvers.run_times import run_times
from pushforward.solvers.search import BestOfN, CoDe, RandomSearch, SearchOverPaths, ZeroOrder
from pushforward.solvers.tokens import TokenGrid, sample_tokens

F64 = torch.float64


def first(x: Tensor, _: object) -> Tensor:
    return x[:, 0]


def test_times_are_the_plans_own_unless_others_are_asked_for() -> None:
    plan, heun = fitted(), pf.solver("heun")
    for asked in (None, "uniform", plan.times):
        for steps in (None, 4):
            assert run_times(plan, asked, steps, Linear()) == plan.times
    assert run_times(plan, "beta", 4, Linear()) != plan.times
    assert run_times(heun, None, 2, Linear()) == run_times(heun, "uniform", 2, Linear()) == (0.0, 0.5, 1.0)
    assert run_times(heun, Shifted(3.0), 2, Linear()) == (0.0, 0.25, 1.0)
    with pytest.raises(GridError, match=r"steps: got 5, expected 4: FittedPlan.* has a grid of its own"):
        run_times(plan, None, 5, Linear())
    with pytest.raises(ArgumentError, match="steps: expected an integer"):
        run_times(heun, None, None, Linear())


def test_a_parallel_run_is_the_sequential_one() -> None:
    expected = pf.sample(MODEL, (3, 2), solver=fitted(), dtype=F64)
    found, report = pf.sample_parallel(MODEL, (3, 2), solver=fitted(), tolerance=0.0, dtype=F64)
    # Of 4 steps, each a sum of at most 6 terms of sizes below 10.
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * 6 * 10 * torch.finfo(F64).eps)
    assert report.steps == 4
    with pytest.raises(GridError, match="steps"):
        pf.sample_parallel(MODEL, (3, 2), solver=fitted(), steps=5)
    with pytest.raises(UnknownNameError, match="'fitted', 4 steps"):
        pf.sample_parallel(MODEL, (3, 2), solver="fitted", steps=4)


@pytest.mark.parametrize("method", [BestOfN(candidates=3), RandomSearch(), ZeroOrder()], ids=str)
def test_searches_run_it_on_its_own_grid(method: pf.solvers.search.Method) -> None:
    options = {"shape": (2, 2), "method": method, "dtype": F64, "seed": 5}
    found = pf.search(MODEL, first, 48, solver=fitted(), **options)
    named = pf.search(MODEL, first, 48, solver=fitted(), grid=fitted().times, **options)
    assert torch.equal(found.samples, named.samples)
    assert found.solver == str(fitted())
    assert (found.ledger.nfe % 4 == 0).all()
    assert (found.ledger.nfe > 4).all()
    euler = pf.search(MODEL, first, 48, solver="euler", steps=4, **options)
    assert not torch.equal(found.samples, euler.samples)


def test_searches_refuse_what_it_cannot_do() -> None:
    options = {"shape": (1, 2), "dtype": F64}
    refused: list[tuple[object, type[PushforwardError], str]] = [
        ({"method": "svdd"}, PlanError, "solver: got FittedPlan.* remembers step"),
        ({"method": SearchOverPaths()}, ArgumentError, "solver: got FittedPlan.*expected one for any grid"),
        ({"method": "best_of_n", "steps": 3}, GridError, "steps: got 3, expected 4"),
        ({"method": "best_of_n", "grid": "cosine", "steps": 5}, GridError, "grid: got 5 steps"),
        ({"method": "best_of_n", "solver": "fitted", "steps": 4}, UnknownNameError, "'fitted', 4 steps"),
    ]
    for arguments, error, message in refused:
        with pytest.raises(error, match=message):
            pf.search(MODEL, first, 64, **({"solver": fitted()} | options | arguments))  # type: ignore[operator]


def test_without_memory_particles_can_be_exchanged_between_its_steps() -> None:
    method = CoDe(chains=2, candidates=1, block=2)
    found = pf.search(MODEL, first, 64, solver=without_memory(), shape=(1, 2), method=method, dtype=F64)
    assert torch.isfinite(found.samples).all()


def test_tokens_and_searches_for_grids_refuse_it() -> None:
    grid, tokens = TokenGrid([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]]), torch.tensor([[0, 1]])
    for plan, message in ((fitted(), "remembers earlier steps"), (without_memory(), "grid of its own")):
        with pytest.raises(PlanError, match=message):
            sample_tokens(MODEL, torch.zeros(1, 2), grid, tokens, method=plan)
    with pytest.raises(ArgumentError, match=r"solver: got FittedPlan.*expected one for any grid"):
        pf.solvers.optimise_grid(MODEL, fitted(), 4, (2,))


def test_another_guidance_is_warned_of() -> None:
    assert solver_for(MODEL, fitted(), None, 1.0) is fitted()
    with pytest.warns(FitWarning, match=r"guidance: got 2\.0, expected 1\.0"):
        solver_for(MODEL, fitted(), None, 2.0)
