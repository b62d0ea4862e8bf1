"""SVDD and CoDe: against the plain sampler, best-of-M and each other; what choices follow; what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from search_oracles import SignPattern, gaussian_line, three_modes
from searches import BLOCK, in_order, same, sample_ids

import pushforward as pf
from pushforward import solvers
from pushforward.errors import ArgumentError, BudgetError, PlanError
from pushforward.models import prediction
from pushforward.solvers.plan import evaluation_at_start
from pushforward.solvers.search import SVDD, BestOfN, Budget, CoDe
from pushforward.solvers.search.blockwise import choose

DOUBLE = torch.float64
MODES, SIGNS = three_modes(), SignPattern()
OWN = [{"solver": "euler_maruyama"}, {"solver": "ddpm"}, {"solver": "lcm", "grid": "cosine"}]
OTHER = [{"solver": "ddpm", "path": "vp", "grid": "circular"}, {"solver": "seeds1", "path": "vp"}]
TYPES = [torch.float64, torch.float32, torch.bfloat16]


def search(method, budget=10**6, *, problem=MODES, kind="velocity", **options):
    """Three requests on the three modes."""
    options = {"shape": (3, 2), "steps": 6, "seed": 4, "dtype": DOUBLE} | options
    return pf.search(problem.model(kind=kind), problem.reward, budget, method=method, **options)


# --- identities -----------------------------------------------------------------------------------------------------


def both_ways(sampler, kind):
    """Two chains of three requests with one candidate, and the plain sampler's samples of the same noise."""
    requests, slots = torch.tensor([7, 0, 2**31 - 1]), torch.arange(2) * BLOCK
    found = search(SVDD(candidates=1), kind=kind, requests=requests, keep=2, **sampler)
    ids, options = sample_ids(requests, slots), {"steps": 6, "grid": "uniform"} | sampler
    plain = pf.sample(MODES.model(kind=kind), (6, 2), samples=ids, seed=4, dtype=DOUBLE, **options)
    return in_order(found).reshape(6, 2), plain


@pytest.mark.parametrize("sampler", OWN, ids=lambda sampler: sampler["solver"])
@pytest.mark.parametrize("kind", ["velocity", "denoised"])
def test_one_candidate_is_the_plain_sampler(sampler, kind):
    """Bit for bit: the step's kernel and the optimised plan are the same combination of the same numbers."""
    found, plain = both_ways(sampler, kind)
    assert torch.equal(found, plain)


@pytest.mark.parametrize("sampler", OTHER, ids=lambda sampler: sampler["solver"])
@pytest.mark.parametrize("kind", ["velocity", "noise", "edm"])
def test_one_candidate_is_the_plain_sampler_to_rounding(sampler, kind):
    """On a converted path, or with scaled inputs, a plan never forms the state that particles are moved by."""
    found, plain = both_ways(sampler, kind)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_one_candidate_is_the_plain_sampler_in_every_dtype(dtype):
    found = search(SVDD(chains=1, candidates=1, block=4), dtype=dtype, solver="ddpm")
    ids = sample_ids(torch.arange(3), torch.zeros(1, dtype=torch.int64))
    plain = pf.sample(MODES.model(), (3, 2), samples=ids, seed=4, dtype=dtype, solver="ddpm", steps=6)
    assert found.x.dtype == dtype
    assert torch.equal(found.x, plain)


@pytest.mark.parametrize("sampler", [*OWN, *OTHER], ids=lambda sampler: sampler["solver"])
def test_blocks_of_one_step_are_svdd(sampler):
    svdd = search(SVDD(chains=2, candidates=4), keep=2, **sampler)
    code = search(CoDe(chains=2, candidates=4, block=1, start="shared"), keep=2, **sampler)
    assert same(svdd, code)
    assert (svdd.ledger.nfe == 2 * (1 + 4 * 5)).all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("sampler", [*OWN, OTHER[0]], ids=lambda sampler: sampler["solver"])
def test_one_block_is_best_of_n(sampler, dtype):
    """Bit for bit; along another path to rounding."""
    code = search(CoDe(chains=1, candidates=5, block=6), dtype=dtype, **sampler)
    best = search(BestOfN(candidates=5, chunk=2), dtype=dtype, **sampler)
    if sampler in OWN:
        assert torch.equal(code.x, best.x)
        assert torch.equal(code.best, best.best)
    else:
        rounding = 30 * torch.finfo(dtype).eps  # six steps of states of size 3
        torch.testing.assert_close(code.x, best.x, rtol=0, atol=rounding)
    assert (code.ledger.nfe == 5 * 6).all()
    assert (code.ledger.nfe == best.ledger.nfe).all()


def test_the_last_block_may_be_shorter_and_still_chooses():
    """Six steps in blocks of four: one look ahead after four, one at the samples after two more."""
    found = search(CoDe(chains=1, candidates=8, block=4), solver="ddpm")
    looks = [(record.step, record.finished) for record in found.trace.records]
    assert looks == [(4, False), (5, True)]
    samples = found.trace.records[-1].rewards  # the last step draws no noise, but the copies differ since step 4
    assert samples.shape == (3, 8)
    assert torch.equal(found.best, samples.amax(1))
    assert (samples.amax(1) > samples.amin(1)).all()


@pytest.mark.parametrize(("start", "block"), [("shared", 1), ("shared", 3), ("independent", 2), ("independent", 1)])
def test_candidates_do_not_depend_on_their_number(start, block):
    """The first look of M = 8 begins with that of M = 4; the later ones too if the choice was the same."""
    few, many = (
        search(CoDe(chains=2, candidates=m, block=block, start=start), solver="ddpm").trace.records[0].rewards
        for m in (4, 8)
    )
    assert torch.equal(few.reshape(3, 2, 4), many.reshape(3, 2, 8)[..., :4])


def test_blind_choice_is_the_base_law():
    """Infinite beta on the three modes, 4000 chains: their weights within 4 standard errors of 0.6, 0.3, 0.1."""
    method, count = SVDD(chains=4000, candidates=2, beta=math.inf), 4000
    found = search(method, shape=(1, 2), steps=100, keep=count, solver="ddpm", dtype=torch.float32, path="vp")
    share = torch.bincount(MODES.component(found.samples[0]), minlength=3) / count
    error = (MODES.weights * (1 - MODES.weights) / count).sqrt()
    assert ((share - MODES.weights).abs() < 4 * error).all(), share


# --- the choice -----------------------------------------------------------------------------------------------------


class Asking:
    """As much of a task and of copies as a choice reads: 2000 chains of one request."""

    seed, requests = 3, torch.tensor([5])

    def __init__(self, table):
        rows = table.numel()
        self.request = torch.zeros(rows, dtype=torch.int64)
        self.slot = torch.arange(rows)


def chosen(table, beta, step=0):
    copies = Asking(table)
    return choose(copies, table, beta, step, copies) - table.shape[1] * torch.arange(len(table))


def test_choice_follows_the_exponential_weights():
    """Shares of four candidates of 20000 chains against softmax(r / beta), within 4 standard errors each."""
    rewards = torch.tensor([0.3, -1.0, 1.1, -math.inf], dtype=DOUBLE)
    for beta in (0.4, 1.0, 3.0):
        weights = (rewards / beta).softmax(0)
        share = torch.bincount(chosen(rewards.repeat(20000, 1), beta), minlength=4) / 20000
        assert share[3] == 0
        assert ((share - weights).abs() <= 4 * (weights * (1 - weights) / 20000).sqrt()).all(), (beta, share)


def test_small_and_large_temperatures_do_not_overflow():
    table = torch.tensor([[1e10, 3e10, -1e300], [-7.0, -9.0, -8.0], [-math.inf, 5e-7, 4e-7]], dtype=DOUBLE)
    for beta in (0.0, 1e-308, 5e-324, 1e-12):
        assert chosen(table, beta).tolist() == [1, 0, 1], beta
    share = torch.bincount(chosen(torch.tensor([[0.0, 50.0]], dtype=DOUBLE).repeat(4000, 1), 1e308)) / 4000
    assert abs(share[0] - 0.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_the_first_of_equals_and_of_forbidden_ones(beta):
    """No candidate is allowed: the first one goes on. Of equal ones a greedy choice takes the first."""
    forbidden = torch.full((4, 3), -math.inf, dtype=DOUBLE)
    assert chosen(forbidden, beta).tolist() == [0, 0, 0, 0]
    assert chosen(torch.zeros(4, 3, dtype=DOUBLE), 0.0).tolist() == [0, 0, 0, 0]


def test_a_reward_that_forbids_everything_keeps_first_candidates():
    """The first candidate of every choice is the plain sampler's; its reward says -inf."""
    problem = gaussian_line()
    for method in (SVDD(candidates=3, chains=1), CoDe(candidates=3, chains=1), BestOfN(candidates=3)):
        found = pf.search(
            problem.model(),
            lambda x, _: x[:, 0].new_full((len(x),), -math.inf),
            200,
            shape=(2, 1),
            method=method,
            solver="ddpm",
            dtype=DOUBLE,
        )
        ids = sample_ids(torch.arange(2), torch.zeros(1, dtype=torch.int64))
        plain = pf.sample(problem.model(), (2, 1), samples=ids, solver="ddpm", steps=10, dtype=DOUBLE)
        assert torch.equal(found.x, plain), method
        assert (found.best == -math.inf).all()


# --- finish, budgets, errors ----------------------------------------------------------------------------------------


def test_finish_is_the_flow_from_the_last_time():
    """One candidate, finished by four steps of DDIM: the sampler to t = 5/6 and DDIM from there, bit for bit."""
    times = [i / 6 for i in range(7)]
    found = search(SVDD(chains=1, candidates=1, finish=4), solver="ddpm")
    ids = sample_ids(torch.arange(3), torch.zeros(1, dtype=torch.int64))
    start = pf.sample(MODES.model(), (3, 2), samples=ids, seed=4, dtype=DOUBLE, solver="ddpm", grid=times[:-1])
    rest = [times[5] + (1 - times[5]) * i / 4 for i in range(5)]
    end = pf.sample(MODES.model(), start, solver="ddim", grid=[*rest[:-1], 1.0])
    torch.testing.assert_close(found.x, end, rtol=1e-13, atol=1e-13)
    assert (found.ledger.nfe == 5 + 4).all()  # the first evaluation of the finish is the last look's
    assert (found.ledger.total("passes", "finish") == 3).all()


def test_last_look_is_reported_beside_the_reward():
    found = search(SVDD(chains=2, candidates=3, finish=2), keep=2)
    look = found.trace.records[-2]
    assert not look.finished
    assert torch.equal(found.look_ahead, look.rewards.reshape(3, 2, 3).amax(2))
    assert search(CoDe(chains=1, candidates=3, block=6)).look_ahead is None


def test_a_step_without_noise_has_one_candidate():
    """The last step of most samplers draws none: candidates are not multiplied, and its score is one reward."""
    found = search(SVDD(chains=2, candidates=4), solver="ddpm")
    assert found.trace.records[-1].rewards.shape == (3, 2)
    assert (found.ledger.total("rewards") == 2 * (4 * 5 + 1)).all()


@pytest.mark.parametrize("kind", ["velocity", "edm"])
def test_known_outputs_serve_solvers_that_begin_at_the_state(kind):
    """Of inputs scaled for the network too; not those that move before they evaluate."""
    read = prediction(kind, "linear")
    for name, begins in (("ddim", True), ("heun", True), ("shark", False), ("edm_stochastic", False)):
        written = solvers.plan(solvers.solver(name), [0.5, 0.75, 1.0], read.interpolant, prediction=read)
        assert (evaluation_at_start(written.lower(read).optimise()) is not None) == begins, name


@pytest.mark.parametrize(("method", "each"), [(SVDD(), 8), (SVDD(finish=3), 8), (CoDe(chains=1), 5)], ids=str)
def test_budget_decides_the_candidates(method, each):
    """One candidate more for each chain would not fit."""
    for budget in (33, 40, 47):
        spent = search(method, budget, shape=(1, 2), steps=5, solver="ddpm").ledger.nfe
        assert budget - each < spent[0] <= budget


def test_rewards_decide_the_candidates():
    """Five looks of each of two chains at M candidates, and one at each end: 10 M + 2."""
    found = search(SVDD(), Budget(rewards=47), solver="ddpm")
    assert (found.ledger.total("rewards") == 42).all()
    with pytest.raises(BudgetError, match=r"budget.rewards: got 11, expected at least 12 for candidates = 1"):
        search(SVDD(), Budget(rewards=11), solver="ddpm")


def test_bad_options_are_refused():
    for options, message in (
        ({"candidates": 0}, "candidates"),
        ({"candidates": True}, "candidates"),
        ({"candidates": 2**20 + 1}, "candidates: got 1048577, expected an integer from 1 to 1048576"),
        ({"chains": 0}, "chains"),
        ({"chains": 4097}, "chains: got 4097, expected an integer from 1 to 4096"),
        ({"block": 0}, "block"),
        ({"block": 7}, "block: got 7, expected at most the 6 steps"),
        ({"beta": -0.1}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"start": "both"}, "start"),
        ({"finish": -1}, "finish"),
        ({"finish": 1, "finish_solver": "nothing"}, "solver"),
    ):
        with pytest.raises(ArgumentError, match=message):
            search(CoDe(**options), 10**9)
    with pytest.raises(ArgumentError, match="draws no noise"):
        search(SVDD(candidates=2), solver="ddim")
    search(SVDD(candidates=1), solver="ddim")
    with pytest.raises(PlanError, match="remembers"):
        search(SVDD(candidates=2), solver="dpmpp_2m_sde")
    with pytest.raises(BudgetError, match=r"budget.nfe: got 5, expected at least 12 for candidates = 1"):
        search(SVDD(), 5)
    with pytest.raises(ArgumentError, match="steps: got 1, expected at least 2"):
        search(SVDD(finish=2), steps=1)
    with pytest.raises(ArgumentError, match="candidates: got no number and no limit"):
        search(SVDD(), Budget(seconds=5.0))
    with pytest.raises(ArgumentError, match=r"finish_solver: got edm_stochastic, which draws noise"):
        search(SVDD(finish=2, finish_solver="edm_stochastic"), 99)
