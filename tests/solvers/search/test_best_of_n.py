"""Best of N: prefixes, the law of the winner, the accounts, and what a search makes of a verifier with errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from search_oracles import DOUBLE, SignPattern, counted, gaussian_line, three_modes
from searches import sample_ids
from small_searches import difference
from torch import Tensor

import pushforward as pf
from pushforward.errors import ArgumentError, BudgetError, NotFiniteError, ShapeError
from pushforward.models.verifiers import Coordinate, RankEnsemble, WeightedSum
from pushforward.solvers.search import BestOfN, Budget, Method, RandomSearch, SearchResult, ZeroOrder, methods
from pushforward.solvers.search.front import undominated


def best_of(count: int, **options: Any) -> SearchResult:
    oracle = three_modes()
    chunk = options.pop("chunk", None)
    arguments: dict[str, Any] = {"shape": (3, 2), "steps": 4, "dtype": DOUBLE} | options
    return pf.search(oracle.model(), oracle.reward, 10_000, method=BestOfN(count, chunk), **arguments)


def test_the_reward_never_falls_as_candidates_are_added() -> None:
    every = best_of(24)
    running = torch.cat([record.rewards for record in every.trace.records], 1).cummax(1).values
    assert running.shape == (3, 24)
    assert len(running.unique(dim=1).T) > 2, "some candidates after the first are better"
    for count in (1, 2, 3, 7, 23):
        torch.testing.assert_close(best_of(count).best, running[:, count - 1], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 5}, {"batch": 4}, {"batch": 7, "pad": True}], ids=str)
def test_chunks_and_batches_change_nothing(options: dict[str, Any]) -> None:
    whole, parts = best_of(12), best_of(12, **options)
    torch.testing.assert_close(parts.samples, whole.samples, rtol=0, atol=0)
    torch.testing.assert_close(parts.rewards, whole.rewards, rtol=0, atol=0)


def test_a_request_does_not_depend_on_the_others() -> None:
    together = best_of(6, requests=torch.tensor([4, 0, 9]))
    alone = best_of(6, shape=(1, 2), requests=torch.tensor([9]))
    torch.testing.assert_close(alone.samples[0], together.samples[2], rtol=0, atol=0)


def test_the_winner_is_the_sample_that_its_reward_is_of() -> None:
    result = best_of(9)
    torch.testing.assert_close(three_modes().reward(result.x, None), result.best, rtol=0, atol=0)


def test_the_best_reward_has_the_law_of_a_maximum() -> None:
    """F(best)^N is uniform, F the law of one sample's reward, of which 2e5 samples know F^8 to 8 / sqrt(2e5) / 2."""
    oracle, requests, count = three_modes(), 2000, 8
    arguments: dict[str, Any] = {"steps": 10, "dtype": DOUBLE}
    base = pf.sample(oracle.model(), (200_000, 2), solver="euler", seed=1, **arguments)
    known = oracle.reward(base, None).sort().values
    best = pf.search(
        oracle.model(), oracle.reward, 80, shape=(requests, 2), method=BestOfN(count), seed=2, **arguments
    ).best
    level = torch.searchsorted(known, best).double() / len(known)
    assert stats.kstest(level.pow(count).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(level.pow(count - 1).numpy(), "uniform").pvalue < 1e-3, "it can tell 8 from 7"


@pytest.mark.parametrize("budget", range(1, 201, 7))
def test_the_ledger_is_what_the_network_saw(budget: int) -> None:
    oracle = gaussian_line()
    model, counter = counted(oracle.model())
    arguments: dict[str, Any] = {"shape": (1, 1), "method": "best_of_n", "dtype": DOUBLE}
    if budget < 10:
        with pytest.raises(BudgetError, match="at least 10 for candidates = 1"):
            pf.search(model, oracle.reward, budget, **arguments)
        assert counter.rows == 0
        return
    ledger = pf.search(model, oracle.reward, budget, **arguments).ledger
    assert ledger.nfe.tolist() == [counter.rows] == [budget // 10 * 10]
    assert ledger.total("rewards").tolist() == [budget // 10]


def test_rewards_and_seconds_are_limits_too() -> None:
    oracle = gaussian_line()
    arguments: dict[str, Any] = {"shape": (2, 1), "method": "best_of_n", "dtype": DOUBLE}
    few = pf.search(oracle.model(), oracle.reward, Budget(nfe=1000, rewards=3), **arguments)
    assert few.ledger.nfe.tolist() == [30, 30]
    short = pf.search(oracle.model(), oracle.reward, Budget(seconds=1e-9), **arguments)
    assert short.ledger.nfe.tolist() == [1280, 1280]  # one chunk of 256 rows for two requests
    with pytest.raises(BudgetError, match="at least 50 for candidates = 5"):
        pf.search(oracle.model(), oracle.reward, 49, **arguments | {"method": BestOfN(5)})


class Wavy:
    """The reward of the signs and eight fixed sinusoids, an error that has nothing to do with it."""

    def __init__(self, oracle: SignPattern) -> None:
        draw = torch.Generator().manual_seed(7)
        self.truth = oracle.reward
        self.directions = torch.randn(8, oracle.dimensions, generator=draw, dtype=DOUBLE)
        self.phases = 2 * math.pi * torch.rand(8, generator=draw, dtype=DOUBLE)

    def __call__(self, x: Tensor, context: Any) -> Tensor:
        return self.truth(x, context) + (x @ self.directions.T + self.phases).sin().sum(1)


def test_a_longer_search_believes_more_of_a_wrong_verifier() -> None:
    """The gap between what was searched for and what is true grows with N; the held-out column shows it."""
    oracle = SignPattern()
    searched, requests = Wavy(oracle), 48
    gaps, errors = [], []
    for count in (1, 4, 16, 64, 256, 1024):
        result = pf.search(
            oracle.model(),
            searched,
            10 * count,
            shape=(requests, oracle.dimensions),
            method=BestOfN(count),
            held_out=oracle.reward,
            dtype=DOUBLE,
        )
        assert result.held_out is not None
        torch.testing.assert_close(result.held_out[:, 0], oracle.reward(result.x, None), rtol=0, atol=0)
        gap = result.best - result.held_out[:, 0]
        gaps.append(float(gap.mean()))
        errors.append(float(gap.std()) / requests**0.5)
    assert gaps == sorted(gaps)
    assert gaps[-1] - gaps[0] > 3 * math.hypot(errors[0], errors[-1])


@pytest.mark.parametrize(
    ("reward", "error", "says"),
    [
        (lambda x, _: x[:, 0] * torch.nan, NotFiniteError, "reward"),
        (lambda x, _: x, ShapeError, "reward"),
        (lambda x, _: x[:2, 0], ShapeError, "reward"),
    ],
    ids=["nan", "columns", "rows"],
)
def test_bad_rewards_are_refused(reward: Any, error: type[Exception], says: str) -> None:
    model = gaussian_line().model()
    with pytest.raises(error, match=says):
        pf.search(model, reward, 40, shape=(2, 1), method="best_of_n", dtype=DOUBLE)


@pytest.mark.parametrize("options", [{"candidates": 0}, {"candidates": 2.5}, {"chunk": 0}], ids=str)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        BestOfN(**options)


# --- rank ensembles ---------------------------------------------------------------------------------------------------

ENSEMBLE = RankEnsemble([Coordinate(0), Coordinate(1), lambda x, _: -(x - 1).square().sum(1)])


def by_ranks(method: Any, **options: Any) -> SearchResult:
    arguments: dict[str, Any] = {"shape": (3, 2), "steps": 4, "dtype": torch.float64, "seed": 2} | options
    return pf.search(three_modes().model(), ENSEMBLE, arguments.pop("budget", 10**4), method=method, **arguments)


def all_verdicts(count: int) -> tuple[Tensor, Tensor]:
    """The candidates [S, N, 2] from the plain sampler, and what the three verifiers say of them, [V, S, N]."""
    ids = sample_ids(torch.arange(3), torch.arange(count))
    options: dict[str, Any] = {"samples": ids, "steps": 4, "dtype": torch.float64, "seed": 2, "solver": "euler"}
    x = pf.sample(three_modes().model(), (3 * count, 2), **options)
    return x.reshape(3, count, 2), ENSEMBLE.values(x).reshape(3, 3, count)


@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 7}, {}], ids=str)
def test_ranks_are_those_among_all_candidates_whatever_the_chunks(options: dict[str, int]) -> None:
    x, verdicts = all_verdicts(40)
    scores = ENSEMBLE.scores(verdicts)
    found = by_ranks(BestOfN(candidates=40, **options))
    assert torch.equal(found.x, x[torch.arange(3), scores.argmax(1)])
    assert torch.equal(found.best, scores.amax(1))
    assert torch.equal(by_ranks(BestOfN(candidates=40, **options), batch=3).x, found.x)
    assert found.ledger.total("rewards").tolist() == [40] * 3, "a sample is one, however many see it"
    assert (ENSEMBLE.scores(verdicts[..., :20]).argmax(1) != scores.argmax(1)).any(), "more change their minds"


def test_what_is_kept_is_what_may_win() -> None:
    """The front against a comparison of all pairs, and that whatever comes a winner is on it; equal ones included."""
    generator = torch.Generator().manual_seed(0)
    verdicts = torch.randint(0, 6, (3, 2, 300), generator=generator).double()
    kept = undominated(verdicts)
    for s in range(2):
        v = verdicts[:, s]
        for i in (*range(0, 300, 37), *kept[s].nonzero()[:, 0].tolist()):
            other = (v >= v[:, i : i + 1]).all(0) & ((v > v[:, i : i + 1]).any(0) | (torch.arange(300) < i))
            assert bool(kept[s, i]) == (not bool(other.any()))
    for more in range(6):
        extra = torch.randint(0, 6, (3, 2, 5 * more), generator=generator).double()
        union = torch.cat([verdicts, extra], 2)
        winner = RankEnsemble([Coordinate(0)] * 3).scores(union).argmax(1)
        assert undominated(union).gather(1, winner[:, None]).all()
    assert undominated(torch.tensor([[[0.0, 2.0, 2.0]]])).tolist() == [[False, True, False]]


def test_a_search_by_ranks_is_resumed(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(task: Any, state: Any) -> None:
        if state.step == 2:
            raise Killed

    method = BestOfN(candidates=20, chunk=6)
    whole = by_ranks(method)
    with pytest.raises(Killed):
        by_ranks(method, checkpoint=tmp_path / "run", observers=[kill])
    assert difference(whole, by_ranks(method, checkpoint=tmp_path / "run")) is None


def test_the_second_sample_takes_the_winners_place() -> None:
    """Eight steps from the winner's noise, ranked among the candidates of four in the place of the first."""
    _, verdicts = all_verdicts(12)
    found = by_ranks(RandomSearch(12, final_steps=8))
    winner = ENSEMBLE.scores(verdicts).argmax(1)
    verdicts[:, torch.arange(3), winner] = ENSEMBLE.values(found.x)
    assert torch.equal(found.best, ENSEMBLE.scores(verdicts)[torch.arange(3), winner])
    assert found.look_ahead is not None
    assert torch.equal(found.look_ahead[:, 0], ENSEMBLE.scores(all_verdicts(12)[1]).amax(1))


@pytest.mark.parametrize(
    "method",
    [RandomSearch(12, final_steps=6), ZeroOrder(rounds=6, restart=True), ZeroOrder(rounds=4, final_steps=6)]
    + [method for _, method in methods() if method.ranks],
    ids=str,
)
def test_one_verifier_s_ranks_are_its_order(method: Method) -> None:
    """What is found is what the verifier itself finds, bit for bit; and the scale of one of several does not matter."""
    oracle = three_modes()
    arguments: dict[str, Any] = {"shape": (3, 2), "steps": 3, "dtype": torch.float64, "method": method}

    def find(reward: Any) -> SearchResult:
        return pf.search(oracle.model(), reward, 75, **arguments)

    assert torch.equal(find(RankEnsemble([oracle.reward])).x, find(oracle.reward).x)
    one, other = (
        find(RankEnsemble([oracle.reward, lambda x, _, scale=scale: scale * x[:, 0]])).x for scale in (1.0, 1e3)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", [name for name, method in methods() if not method.ranks])
def test_methods_that_compare_rewards_of_different_sets_refuse_ranks(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"with {name}, expected a reward of each row .*'best_of_n', 'random'"):
        pf.search(three_modes().model(), ENSEMBLE, 20, shape=(1, 2), method=name)


def test_other_rewards_of_sets_are_refused() -> None:
    """A sum with an ensemble in it has no verdicts to rank again."""
    with pytest.raises(ArgumentError, match="a reward of each row by itself"):
        pf.search(three_modes().model(), WeightedSum([ENSEMBLE], [1.0]), 20, shape=(1, 2), method="best_of_n")
