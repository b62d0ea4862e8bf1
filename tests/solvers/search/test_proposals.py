"""Solvers of several evaluations a step as proposals: their own runs, the exact tilted law, counts, and refusals."""

from __future__ import annotations

import math
import re

import pytest
import torch
from consistency import statistics
from search_oracles import DOUBLE, counted, gaussian_line, three_modes
from searches import in_order, sample_ids

import pushforward as pf
from pushforward import solvers
from pushforward.errors import ArgumentError, BudgetError, NotFiniteError, PlanError
from pushforward.kernels import Draw
from pushforward.models import Guidance
from pushforward.solvers.lowered import lowered_plan
from pushforward.solvers.particles import PlannedTransition, Transitions
from pushforward.solvers.plan import cut
from pushforward.solvers.search import DAS, SMC, SVDD, TDS, Budget, CoDe, RolloverBudgetForcing, Sampler
from pushforward.solvers.search.search import make_task

LINE, MODES = gaussian_line(), three_modes()
TIMES = tuple(i / 6 for i in range(7))
PLENTY = Budget(nfe=10**9)


def planned(solver):
    """Whether it proposes, and some step is no Gaussian kernel."""
    read = MODES.model().prediction
    try:
        steps = Transitions.of(lowered_plan(solver, TIMES, read.interpolant, read, None), read)
    except PlanError:
        return False
    return any(isinstance(step, PlannedTransition) for step in steps)


SEVERAL = [name for name, solver in solvers.solvers() if planned(solver)]
STOCHASTIC = [name for name in SEVERAL if solvers.solver(name).stochastic]


def test_which_solvers_these_are():
    told = {"stochastic_heun", "sra1", "sra3", "sosra", "shark", "seeds2", "dpmpp_sde", "restart"}
    told |= {"edm_stochastic", "euler_churn", "dpm2_churn", "dpm2_ancestral", "dpmpp_2s_ancestral"}
    assert told <= set(STOCHASTIC)
    assert {"heun", "rk4", "edm_heun", "dpm_solver3"} <= set(SEVERAL)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "velocity") for name in SEVERAL), *((name, "edm") for name in ("seeds2", "shark", "dpm2_churn"))],
)
def test_particles_are_the_plain_sampler_s_and_counted_as_such(name, kind):
    """Two particles that only look once, against ``sample`` with the noise of their slots: the same samples.

    To rounding: cut at its steps, a plan forms states that it otherwise skips. What is booked is what the network saw,
    no more than the run itself costs and one look where that is not its own evaluation; one unit less is refused.
    """
    model, network = counted(MODES.model(kind=kind))
    first = 0.0 if kind == "velocity" else 0.01  # an EDM network has no time for pure noise
    grid = [first + (1 - first) * time for time in TIMES]
    options = {"solver": name, "grid": grid, "seed": 4, "dtype": DOUBLE}
    method, ids = SMC(particles=2, threshold=0.0, resample_at=(2,)), torch.tensor([7, 0, 2**31 - 1])
    arguments = {"shape": (3, 2), "method": method, "requests": ids, "keep": 2} | options
    task = make_task(model, MODES.reward, PLENTY, method, shape=(3, 2), **options)
    need = 2 * (task.plan.nfe + (task.transitions[2].known is None))
    found = pf.search(model, MODES.reward, need, **arguments)
    assert network.rows == 3 * need
    assert found.ledger.nfe.tolist() == [need] * 3
    plain = pf.sample(model, (6, 2), samples=sample_ids(ids, torch.arange(2)), **options)
    torch.testing.assert_close(in_order(found).reshape(6, 2), plain, rtol=1e-11, atol=1e-11)
    with pytest.raises(BudgetError, match=f"at least {need} for particles = 2"):
        pf.search(model, MODES.reward, need - 1, **arguments)


# --- exactness --------------------------------------------------------------------------------------------------------


def tilted(name, count, **options):
    """SMC on the line, 12 steps, strength 2; with the log evidence and mean of its own chain, which is Gaussian."""
    solver, grid = pf.solver(name), [k / 12 for k in range(13)]
    mean, variance = statistics(solver, grid, LINE.oracle())
    method = SMC(**{"particles": 32, "strength": 2.0, **options})
    arguments = {"shape": (count, 1), "method": method, "solver": solver, "grid": grid, "dtype": DOUBLE}
    found = pf.search(LINE.model(), LINE.reward, PLENTY, **arguments)
    return found, 2 * mean + 2 * variance, mean + 2 * variance


def errors_of(ratio):
    """Standard errors from 1 of the mean of independent ratios."""
    return float((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio))))


@pytest.mark.parametrize("name", ["stochastic_heun", "seeds2", "sra1", "shark", "edm_stochastic"])
def test_the_tilted_law_is_exact(name):
    """The evidence is unbiased for E[exp(2 x)] of the solver's own chain: no discretisation error remains.

    So is the same estimate times x for E[x exp(2 x)], which weights normalised by themselves would bias.
    """
    found, evidence, mean = tilted(name, 400)
    ratio = (found.log_evidence - evidence).exp()
    assert abs(errors_of(ratio)) < 4
    average = (found.rewards * found.log_weights.exp()).sum(1)
    assert abs(errors_of(ratio * average / mean)) < 4
    assert float(ratio.std()) < 0.5, "otherwise the lines above would say little"
    assert found.trace.genealogy.resampled


def test_three_modes_are_found_in_their_proportions():
    """O2 by stochastic Heun: nearly all of the target is in the mode that has a tenth of the data.

    The steps cost 4 % of the evidence, as with Euler's in test_smc.
    """
    found = pf.search(
        MODES.model(),
        MODES.reward,
        PLENTY,
        shape=(200, 2),
        method=SMC(particles=64, strength=2.0),
        solver="stochastic_heun",
        steps=20,
        dtype=DOUBLE,
        keep=64,
    )
    ratio = (found.log_evidence - MODES.log_evidence).exp()
    assert abs(float(ratio.mean()) - 1) < 0.04 + 4 * float(ratio.std()) / math.sqrt(200)
    there = MODES.component(found.samples.reshape(-1, 2)).reshape(200, 64) == 2
    share = (found.log_weights.gather(1, found.order).exp() * there).sum(1)
    exact = float(MODES.tilted.weights[2])
    assert abs(float((ratio * share).mean()) - exact) < 0.04 + 4 * float((ratio * share).std()) / math.sqrt(200)


def test_noise_that_goes_by_the_ancestor_is_seen(monkeypatch):
    """Planted: copies draw the noise of the first particle of their request, and never go apart."""
    run = Sampler.run

    def by_ancestor(self, rows, plan, known=None):
        rows.ids = torch.bitwise_left_shift(torch.bitwise_right_shift(rows.ids, 32), 32)
        return run(self, rows, plan, known)

    monkeypatch.setattr(Sampler, "run", by_ancestor)
    found, evidence, _ = tilted("stochastic_heun", 400, threshold=1.0)
    assert float((found.log_evidence - evidence).exp().std()) > 0.5


def test_an_output_of_another_particle_is_seen(monkeypatch):
    """Planted: what the particles know is the next one's, within its request."""
    run = Sampler.run

    def shifted(self, rows, plan, known=None):
        rows.outputs = tuple(output.reshape(-1, 32, 1).roll(1, 1).reshape(output.shape) for output in rows.outputs)
        return run(self, rows, plan, known)

    monkeypatch.setattr(Sampler, "run", shifted)
    found, evidence, _ = tilted("stochastic_heun", 400)
    assert abs(errors_of((found.log_evidence - evidence).exp())) > 8


# --- methods ----------------------------------------------------------------------------------------------------------

METHODS = [
    SMC(resample_at=(0, 3)),
    SVDD(finish=3),
    CoDe(chains=1, block=4),
    RolloverBudgetForcing(chains=1),
    RolloverBudgetForcing(allocation="uniform", chains=1),
    RolloverBudgetForcing(allocation="linear", chains=1, finish=0),
    RolloverBudgetForcing(allocation=(2, 3, 1, 2, 1), initial=2, chains=1),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("name", ["shark", "edm_stochastic", "restart"])
def test_every_method_keeps_to_its_budget(name, method):
    """Also where steps cost differently, draw no noise, or begin elsewhere than a look: counted by the network itself.

    What does not pay for the least is refused before the first evaluation, with the number that does.
    """
    guided = name in ("shark", "restart")
    guidance = {"guidance": Guidance(2.0, interval=(0.2, 0.7)), "condition": {"on": 1.0}} if guided else {}
    model, network = counted(pf.models.adapt(MODES.model().network, "velocity", "linear", null={"on": 0.0}))
    arguments = {"shape": (2, 2), "solver": name, "steps": 6, "path": "linear", "grid": "uniform", "dtype": DOUBLE}

    def keeps_to(budget):
        """The number that is needed, if the budget is less; otherwise None, once it is checked that it was kept to."""
        network.sizes.clear()
        try:
            found = pf.search(model, MODES.reward, budget, method=method, **arguments, **guidance)
        except BudgetError as error:
            assert network.rows == 0, "refused too late"
            return int(re.search(r"at least (\d+)", str(error)).group(1))
        assert found.ledger.nfe.sum() == network.rows
        assert (found.ledger.nfe <= budget.nfe).all()
        assert budget.rewards is None or (found.ledger.total("rewards") <= budget.rewards).all()
        assert found.x.isfinite().all()
        return None

    need = keeps_to(Budget(nfe=3))
    assert need > 3
    assert keeps_to(Budget(nfe=need)) is None
    assert keeps_to(Budget(nfe=need - 1)) == need
    assert keeps_to(Budget(nfe=41 + need)) is None
    need = keeps_to(Budget(nfe=10**5, rewards=1))
    assert keeps_to(Budget(nfe=10**5, rewards=need + 7)) is None


def test_rollover_spends_evaluations_and_not_attempts():
    """A scripted reward: no attempt but the first of step 1 improves, with two evaluations within each step and a look.

    A share of 60 over 5 times at 3 evaluations an attempt: 4 attempts a step; step 1 saves 3, which step 2 adds to its
    own, and the last step takes what is left of the share: 60 - 3 (4 + 1 + 7) = 24, 8 attempts.
    """
    values = iter([0.0] + [-1.0] * 4 + [1.0] + [-1.0] * 99)
    method = RolloverBudgetForcing(chains=1, initial=1, finish=1)
    found = pf.search(
        MODES.model(),
        lambda x, _: torch.tensor([next(values)], dtype=DOUBLE),
        62,
        shape=(1, 2),
        method=method,
        solver="sra3",
        steps=5,
        path="linear",
        grid="uniform",
        dtype=DOUBLE,
    )
    looks = [(e.step, int(e.rewards[0])) for e in found.ledger.entries if e.phase == "search" and e.rewards[0]]
    assert looks == [(1, 4), (2, 1), (3, 7), (4, 8)]
    assert found.ledger.nfe.tolist() == [61]


def test_a_step_without_noise_has_one_attempt_and_one_candidate():
    """Churn adds nothing at pure noise: there is one way to the second step."""
    arguments = {"shape": (1, 2), "solver": "edm_stochastic", "steps": 4, "path": "linear", "grid": "uniform"}
    for method in (SVDD(chains=1, candidates=5), RolloverBudgetForcing(chains=1, initial=1, allocation=(5, 5, 5))):
        found = pf.search(MODES.model(), MODES.reward, 100, method=method, dtype=DOUBLE, **arguments)
        looks = {e.step: int(e.rewards[0]) for e in found.ledger.entries if e.phase == "search" and e.rewards[0]}
        assert (looks[1], looks[2]) == (1, 5), method


# --- errors that say where --------------------------------------------------------------------------------------------


def broken(time, value, row=1):
    """The three modes' network, one row of whose output is no number from that time on."""
    network = MODES.model().network

    def breaking(x, t):
        bad = (t.reshape(-1, 1) >= time) & (torch.arange(len(x)) == row)[:, None]
        return torch.where(bad, value, network(x, t))

    return pf.models.adapt(breaking, "velocity", "linear")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", [SMC(particles=2), SVDD(chains=1, candidates=2)], ids=lambda m: type(m).__name__)
def test_a_network_that_breaks_within_a_step_is_reported_with_its_row(method, value):
    """Heun's second evaluation of step 1 is at 1/2, where its first has not been yet."""
    arguments = {"shape": (1, 2), "solver": "stochastic_heun", "steps": 4, "path": "linear", "grid": "uniform"}
    slot = int(method.candidates is not None) if isinstance(method, SVDD) else 1
    with pytest.raises(NotFiniteError, match=f"network output at step 1, t = 0.5, request 9, slot {slot}") as caught:
        pf.search(
            broken(0.5, value),
            MODES.reward,
            PLENTY,
            method=method,
            requests=torch.tensor([9]),
            dtype=DOUBLE,
            **arguments,
        )
    assert (caught.value.step, caught.value.t, caught.value.row) == (1, 0.5, 1)


def test_twisted_proposals_that_break_are_reported_with_their_row():
    """A network that is no number; a reward whose gradient is none; a state that a twist has moved out of range."""

    def search(model, reward, **options):
        method = SMC(particles=3, **{"twist": 1.0, **options})
        return pf.search(model, reward, PLENTY, shape=(2, 2), method=method, steps=4, dtype=DOUBLE)

    with pytest.raises(NotFiniteError, match=r"^network output at step 2, t = 0.5, request 1, slot 1: got NaN") as told:
        search(broken(0.5, math.nan, row=4), MODES.reward)
    assert (told.value.step, told.value.t, told.value.row) == (2, 0.5, 4)

    def steep(x, context):
        at_zero = torch.arange(len(x)) == 5
        return x[:, 1] + torch.where(at_zero, x[:, 0] - x[:, 0].detach(), 1.0).sqrt()

    with pytest.raises(NotFiniteError, match=r"^gradient of the reward at step 0, t = 0, request 1, slot 2: got NaN"):
        search(MODES.model(), steep)
    with pytest.raises(NotFiniteError, match=r"^state at step 0, t = 0, request 0, slot .: got NaN or infinity"):
        search(MODES.model(), lambda x, _: 1e200 * x[:, 1], twist=1e200)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [TDS(particles=2), DAS(particles=2), SMC(particles=2, twist=0.5)], ids=str)
@pytest.mark.parametrize(
    ("solver", "what"),
    [("stochastic_heun", "evaluates 2 times"), ("shark", "evaluates where noise has moved the state")],
)
def test_twists_need_a_mean_and_a_variance(method, solver, what):
    model = MODES.model()
    with pytest.raises(PlanError, match=f"solver: got {solver}, whose step 0 {what}.*mean and variance.*'ddpm'"):
        pf.search(model, MODES.reward, PLENTY, shape=(1, 2), method=method, solver=solver, dtype=DOUBLE)
    assert model.network.rows == 0


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "sa_solver", "unipc", "ab3"])
def test_solvers_that_remember_steps_do_not_propose(solver):
    with pytest.raises(PlanError, match=f"got {solver}, whose step . remembers step"):
        pf.search(MODES.model(), MODES.reward, PLENTY, shape=(1, 2), method=SMC(particles=2), solver=solver)


def test_blocks_that_never_begin_with_noise():
    """Restart adds noise in one step, the fifth of six: blocks of three miss it, and their candidates are the same."""
    arguments = {"shape": (1, 2), "solver": "restart", "steps": 6, "dtype": DOUBLE}
    with pytest.raises(ArgumentError, match=r"block: got 3, with restart, which draws no noise where a block begins"):
        pf.search(MODES.model(), MODES.reward, 400, method=SVDD(block=3), **arguments)
    found = pf.search(MODES.model(), MODES.reward, 400, method=SVDD(block=4), **arguments)
    assert [record.rewards.shape[1] for record in found.trace.records] == [2, found.trace.records[1].rewards.shape[1]]


def test_parts_of_a_plan_keep_their_draws():
    """Cut, the noise of a step is still the noise of that step in the whole run."""
    read = MODES.model().prediction
    parts = cut(lowered_plan(pf.solver("sra1"), TIMES, read.interpolant, read, None))
    draws = [{draw for i in part.instructions for draw in getattr(i, "draws", ())} for part in parts]
    assert [sorted({draw.step for draw in found}) for found in draws] == [[k] for k in range(5)] + [[]]
    assert all(isinstance(draw, Draw) for found in draws for draw in found)
    with pytest.raises(PlanError, match="expected 'outputs'"):
        cut(solvers.plan(pf.solver("sra1"), TIMES))
