"""Sequential Monte Carlo against the exact evidence of the chain that it samples, however the reward is spread."""

import dataclasses
import math

import pytest
import torch
from gaussian_chain import GaussianChain, level_counts
from search_oracles import DOUBLE, gaussian_line, three_modes

import pushforward as pf
from pushforward import kernels
from pushforward.errors import ArgumentError, BudgetError, NotFiniteError, UnknownNameError
from pushforward.solvers.particles import POTENTIALS, Particles, Potential
from pushforward.solvers.particles.potentials import Max
from pushforward.solvers.search import SMC, Budget
from pushforward.solvers.search.search import make_task

PLENTY = Budget(nfe=10**9)
LOOKS = (5, 10, 15)  # of 20 steps
LINE = gaussian_line()


@pytest.fixture(scope="module")
def chain():
    return GaussianChain(LINE, SMC(), 20)


def steer(method, count, problem=LINE, **options):
    shape = (count, problem.means.shape[1])
    return pf.search(
        problem.model(), problem.reward, PLENTY, shape=shape, method=method, dtype=DOUBLE, **{"steps": 20} | options
    )


def deviation(log_evidence, exact):
    """Mean of Zhat / Z, and how many standard errors it is from 1."""
    ratio = (log_evidence - exact).exp()
    return float(ratio.mean()), float((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio))))


# --- the evidence is unbiased -----------------------------------------------------------------------------------------


def test_moments_of_the_discretised_chain(chain):
    """The recursion's figures by hand: M = 1.5, V = 0.24369375, log Z = 3 M + 9 V / 2."""
    assert chain.mean[-1].item() == pytest.approx(1.5, abs=1e-12)
    assert chain.covariance[-1, -1].item() == pytest.approx(0.24369375, abs=1e-7)
    assert chain.log_evidence(3.0) == pytest.approx(5.596622, abs=5e-7)


def test_evidence_is_unbiased_and_the_samples_are_those_of_the_tilted_law(chain):
    """4000 runs, resampled where need be; a discarded weight would give 0.466 and a mean of 1.5."""
    result = steer(SMC(particles=32, strength=3.0), 4000)
    mean, errors = deviation(result.log_evidence, chain.log_evidence(3.0))
    assert abs(errors) < 4
    assert mean == pytest.approx(1.007, abs=0.03)  # 4 standard errors of 0.007 from the figure known
    average = (result.rewards * result.log_weights.exp()).sum(1).mean()
    target = 1.5 + 3 * 0.24369375
    assert (
        abs(average - target) < 0.12
    )  # normalised by themselves, 32 particles are biased: -0.08, the same in 4000 runs


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("scheme", kernels.RESAMPLING_SCHEMES)
def test_evidence_is_unbiased_for_every_potential_scheme_and_threshold(chain, scheme, name, threshold):
    """At strength 2 with three looks, where the standard error can be trusted: see the next test."""
    method = SMC(particles=32, strength=2.0, scheme=scheme, potential=name, threshold=threshold, resample_at=LOOKS)
    _, errors = deviation(steer(method, 400).log_evidence, chain.log_evidence(2.0))
    assert abs(errors) < 4


def test_where_a_standard_error_can_be_trusted(chain):
    """The relative variance of the estimate is known for Gaussian chains. With 20 looks at strength 3, only
    "difference" has one that 4000 runs can see: "current" and "sum" steer to a law tilted 20 and 200 times as much, and
    come back in one step; "max" behaves like them.
    """
    everywhere = list(range(20))
    assert chain.relative_variance(3.0, level_counts("difference", everywhere, 20)) / 32 < 0.25
    assert chain.relative_variance(2.0, level_counts("current", everywhere, 20)) / 32 > 1e20
    assert chain.relative_variance(0.3, level_counts("sum", everywhere, 20)) / 32 > 1e20
    for name in ("difference", "current", "sum"):
        assert chain.relative_variance(2.0, level_counts(name, list(LOOKS), 20)) / 32 < 0.17


@pytest.mark.parametrize("name", ["difference", "current", "sum"])
def test_variance_of_the_evidence_is_as_known(chain, name):
    """Multinomial resampling at every look: Del Moral's variance / N, with a remainder of the order of its square."""
    method = SMC(particles=64, strength=1.0, potential=name, scheme="multinomial", threshold=1.0, resample_at=LOOKS)
    ratio = (steer(method, 1000).log_evidence - chain.log_evidence(1.0)).exp()
    expected = chain.relative_variance(1.0, level_counts(name, list(LOOKS), 20)) / 64
    assert expected < 0.02
    # The variance of 1000 nearly normal numbers has a standard error of sqrt(2 / 1000) = 4.5 % of itself.
    assert float(ratio.var()) == pytest.approx(expected, rel=4 * 0.045 + 2 * expected)


def test_without_a_look_it_is_importance_sampling(chain):
    result = steer(SMC(particles=16, strength=1.0, resample_at=()), 50)
    expected = result.rewards.logsumexp(1) - math.log(16)
    torch.testing.assert_close(result.log_evidence, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(result.log_weights, result.rewards.log_softmax(1), rtol=1e-13, atol=1e-13)
    assert not result.trace.genealogy.resampled
    assert (result.ledger.total("rewards") == 16).all()


def test_one_particle_has_the_product_of_its_weights():
    result = steer(SMC(particles=1, strength=3.0), 20)
    torch.testing.assert_close(result.log_evidence, 3 * result.rewards[:, 0], rtol=1e-12, atol=1e-12)
    assert all((record.ess == 1).all() for record in result.trace.records)


def test_three_modes_are_found_in_their_proportions():
    """O2: nearly all of the target is in the mode that has a tenth of the data."""
    problem = three_modes()
    result = steer(SMC(particles=64, strength=2.0), 200, problem, steps=40, keep=64)
    weights = result.log_weights.gather(1, result.order).exp()
    there = problem.component(result.samples.reshape(-1, 2)).reshape(weights.shape) == 2
    share, reward = (weights * there).sum(1), (result.rewards * result.log_weights.exp()).sum(1)
    mean, _ = deviation(result.log_evidence, problem.log_evidence)
    ratio = (result.log_evidence - problem.log_evidence).exp()
    assert abs(float(share.mean()) - 0.974) < 0.01 + 4 * float(share.std()) / math.sqrt(200)
    assert 3.07 - 0.01 < float(reward.mean()) < 3.11453
    assert abs(mean - 1) < 0.04 + 4 * float(ratio.std()) / math.sqrt(200)  # 4 % for the steps


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_constant_in_the_reward_moves_the_evidence_and_nothing_else():
    def run(shift):
        return pf.search(
            LINE.model(), lambda x, _: x[:, 0] + shift, PLENTY, shape=(30, 1), method=SMC(particles=8), dtype=DOUBLE
        )

    plain, far = run(0.0), run(-1e6)
    torch.testing.assert_close(far.log_evidence, plain.log_evidence - 1e6, rtol=0, atol=2e-8)  # rounding of 1e6: 1e-10
    assert torch.equal(far.trace.genealogy.roots(), plain.trace.genealogy.roots())
    assert torch.equal(far.samples, plain.samples)


def test_requests_resample_when_they_must_and_only_then():
    """Request by request the run is what it would be alone, though some resample at a step and others do not."""
    method = SMC(particles=8, strength=3.0)
    together = steer(method, 12)
    mixed = 0
    before = {record.step: record.ess for record in together.trace.records}
    genealogy = together.trace.genealogy
    for step, ancestors in zip(genealogy.resampled, genealogy.ancestors, strict=True):
        due = before[step] < 4
        assert due.any()
        mixed += not bool(due.all())
        assert (ancestors[~due] == torch.arange(8)).all()
    assert mixed > 0
    for request in (0, 7):
        alone = steer(method, 1, requests=torch.tensor([request]))
        torch.testing.assert_close(alone.log_evidence[0], together.log_evidence[request], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.samples[0], together.samples[request], rtol=1e-12, atol=1e-12)
        assert torch.equal(alone.trace.genealogy.roots()[0], genealogy.roots()[request])


def test_a_forbidden_look_kills_the_particle_for_good():
    """Its weight stays 0 to the end though the finished sample would be allowed, and nothing becomes NaN."""

    def reward(x, context):
        looking = len(seen) < 20
        seen.append(len(x))
        return torch.where((x[:, 0] > 1.7) & looking, -torch.inf, 0.0)

    seen = []
    result = pf.search(
        LINE.model(), reward, PLENTY, shape=(4, 1), method=SMC(particles=16, threshold=0.0), steps=20, dtype=DOUBLE
    )
    dead = result.log_weights == -torch.inf
    assert dead.any(1).all()
    assert not dead.all(1).any()
    alive = (~dead).sum(1).double()
    torch.testing.assert_close(result.log_evidence, (alive / 16).log(), rtol=1e-12, atol=1e-12)


# --- bookkeeping ------------------------------------------------------------------------------------------------------


def test_stored_ancestors_and_the_same_seed_give_the_same_samples():
    """The genealogy is all that there is to store: the finished particles come out bit for bit."""
    method = SMC(particles=16, strength=3.0)
    result = steer(method, 6, keep=16, seed=7)
    genealogy = result.trace.genealogy
    task = make_task(LINE.model(), LINE.reward, PLENTY, method, shape=(6, 1), steps=20, dtype=DOUBLE, seed=7)
    particles = task.start(torch.arange(16))
    stored = dict(zip(genealogy.resampled, genealogy.ancestors, strict=True))
    assert 0 < len(stored) < 20
    for step in range(20):
        task.evaluate(particles, step)
        if step in stored:
            particles = particles.take((stored[step].long() + 16 * torch.arange(6)[:, None]).reshape(-1))
        particles = task.propose(particles, step)
    finished = particles.x.reshape(6, 16, 1).gather(1, result.order[..., None])
    assert torch.equal(finished, result.samples)
    assert (genealogy.unique_roots().diff(dim=0) <= 0).all()
    assert (genealogy.unique_roots()[-1] < 16).all()


def test_what_is_spent_and_what_is_traced():
    counted = pf.search(
        LINE.model(), LINE.reward, 200, shape=(3, 1), method=SMC(resample_at=LOOKS), steps=20, dtype=DOUBLE
    )
    assert (counted.ledger.nfe == 200).all()
    assert counted.rewards.shape == (3, 10)
    assert (counted.ledger.total("rewards") == 40).all()
    assert [record.step for record in counted.trace.records] == [*LOOKS, 20]
    assert counted.trace.records[-1].finished


# --- bugs of programs that are in use, planted ------------------------------------------------------------------------


class Forgetful(SMC):
    """Where it does not resample, it discards the weights."""

    def resample(self, task, state):
        ancestors = super().resample(task, state)
        state.log_weights = torch.full_like(state.log_weights, -math.log(state.log_weights.shape[1]))
        return ancestors


def test_discarded_weights_are_seen(chain):
    result = steer(Forgetful(particles=32, strength=3.0), 1000)
    mean, errors = deviation(result.log_evidence, chain.log_evidence(3.0))
    assert abs(errors) > 40
    assert mean == pytest.approx(0.466, abs=0.02)
    average = (result.rewards * result.log_weights.exp()).sum(1).mean()
    assert float(average) == pytest.approx(1.503, abs=0.02)  # the untilted 1.5


class ClosesWithTheMaximum(SMC):
    """The last weight takes the running maximum for the reward of the sample."""

    def weigh(self, task, state, level):
        if state.step == len(task.transitions):
            level = torch.maximum(level, self.table(state, "max"))
        super().weigh(task, state, level)


def test_closing_with_the_running_maximum_is_seen(chain):
    method = ClosesWithTheMaximum(particles=32, strength=2.0, potential=Max(), resample_at=LOOKS)
    _, errors = deviation(steer(method, 400).log_evidence, chain.log_evidence(2.0))
    assert errors > 8


@pytest.mark.parametrize("left", ["x", "level"])
def test_an_array_that_is_not_moved_with_the_others_is_seen(chain, monkeypatch, left):
    moved = Particles.take

    def partly(self, sources, *others):
        new = moved(self, sources, *others)
        if left == "x":
            return dataclasses.replace(new, x=self.x)
        return dataclasses.replace(new, values=new.values | {"level": self.values["level"]})

    monkeypatch.setattr(Particles, "take", partly)
    result = steer(SMC(particles=32, strength=3.0, threshold=1.0), 1000)
    _, errors = deviation(result.log_evidence, chain.log_evidence(3.0))
    assert abs(errors) > 8


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named", "error"),
    [
        ({"strength": 0.0}, "strength", ArgumentError),
        ({"strength": -1.0}, "strength", ArgumentError),
        ({"strength": math.nan}, "strength", ArgumentError),
        ({"particles": 0}, "particles", ArgumentError),
        ({"threshold": 1.1}, "threshold", ArgumentError),
        ({"threshold": -0.1}, "threshold", ArgumentError),
        ({"threshold": math.nan}, "threshold", ArgumentError),
        ({"scheme": "wheel"}, "scheme", UnknownNameError),
        ({"potential": "min"}, "potential", UnknownNameError),
        ({"resample_at": (-1,)}, "resample_at", ArgumentError),
        ({"potential": "sum", "twist": 1.0}, "potential", ArgumentError),
        ({"potential": "max", "ladder": "exponential"}, "potential", ArgumentError),
        ({"threshold": 1.0, "ladder": "adaptive"}, "threshold", ArgumentError),
    ],
)
def test_options_outside_their_range(options, named, error):
    with pytest.raises(error, match=rf"^{named}"):
        SMC(**options)


def test_steps_that_the_grid_does_not_have():
    with pytest.raises(ArgumentError, match=r"^resample_at.*\[0, 20\)"):
        steer(SMC(particles=2, resample_at=(20,)), 1)


def test_a_potential_that_cannot_close_is_no_potential():
    class Half(Potential):
        pass

    with pytest.raises(TypeError, match="level"):
        Half()


def test_rewards_that_leave_nothing():
    def forbid_the_second(x, context):
        return torch.where(context["which"] == 1, -torch.inf, x[:, 0])

    def run(reward):
        context = {"which": torch.arange(3)}
        return pf.search(
            LINE.model(), reward, PLENTY, shape=(3, 1), method=SMC(particles=4), context=context, dtype=DOUBLE
        )

    with pytest.raises(NotFiniteError, match=r"step 0: got only dead particles .* request 1 of 3") as caught:
        run(forbid_the_second)
    assert caught.value.step == 0
    with pytest.raises(NotFiniteError, match=r"step 0.*NaN"):
        run(lambda x, _: x[:, 0] * math.nan)


def test_budgets_that_do_not_suffice_or_do_not_fit():
    with pytest.raises(BudgetError, match="at least 640 for particles = 32"):
        pf.search(LINE.model(), LINE.reward, 600, shape=(1, 1), method=SMC(particles=32), dtype=DOUBLE)
    with pytest.raises(ArgumentError, match=r"budget.seconds.*smc cannot be cut short"):
        pf.search(LINE.model(), LINE.reward, Budget(nfe=99, seconds=1.0), shape=(1, 1), method="smc", dtype=DOUBLE)
