"""Twisted proposals and tempering: what they must leave exact, and what they are for."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from gaussian_chain import GaussianChain
from search_oracles import DOUBLE, gaussian_line, three_modes

import pushforward as pf
from pushforward.errors import ArgumentError, PlanError
from pushforward.models import adapt
from pushforward.solvers.particles import Particles
from pushforward.solvers.search import DAS, SMC, TDS, Budget, Task
from pushforward.solvers.search.search import make_task

PLENTY = Budget(nfe=10**9)
LINE, MODES = gaussian_line(), three_modes()


def search(problem, method, count, **options):
    shape = (count, problem.means.shape[1])
    return pf.search(problem.model(), problem.reward, PLENTY, shape=shape, method=method, dtype=DOUBLE, **options)


def on_the_line(method, count=200, diffusion="reversal", steps=50):
    """From t = 0.02, where the data are still all but noise, with the diffusion that reverses the noising."""
    solver = pf.solver("euler_maruyama", diffusion=diffusion)
    return search(LINE, method, count, solver=solver, grid=np.linspace(0.02, 1, steps + 1).tolist())


def on_the_modes(method, count=400, steps=100):
    return search(MODES, method, count, grid=np.linspace(0.001, 1, steps + 1).tolist())


def average(result):
    return (result.rewards * result.log_weights.exp()).sum(1)


# --- TDS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain():
    return on_the_line(TDS(particles=64, strength=3.0, threshold=0.5, twist=0.0))


@pytest.fixture(scope="module")
def twisted():
    return on_the_line(TDS(particles=64, strength=3.0, threshold=0.5))


def test_with_the_right_diffusion_the_twist_makes_all_weights_equal(plain, twisted):
    """For Gaussian data and a linear reward the gradient of the look ahead is that of the value function itself."""
    assert float(plain.log_evidence.std()) > 20 * float(twisted.log_evidence.std())
    assert float(plain.log_evidence.std()) == pytest.approx(0.226, rel=4 / math.sqrt(2 * 200))
    assert float(twisted.log_evidence.std()) < 0.005
    share = [float(result.trace.records[-1].ess.mean()) / 64 for result in (plain, twisted)]
    assert share[0] == pytest.approx(0.74, abs=0.03)
    assert share[1] > 0.998
    assert float(average(twisted).mean()) == pytest.approx(2.25, abs=0.01)


def test_twisted_or_not_the_evidence_is_the_same(plain, twisted):
    """Two estimates of the evidence of one chain; a weight without its correction moves it by orders of magnitude."""
    ratio = (plain.log_evidence - twisted.log_evidence.mean()).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(200)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("twist", [0.5, 1.0, 1.5])
def test_any_strength_of_the_twist_is_corrected_exactly(threshold, twist):
    """With half the diffusion no twist is exact, and all of them are unbiased: compared with an untwisted run."""
    schedule = pf.solvers.sde.Diffusion("reversal", 0.5)
    runs = [
        on_the_line(SMC(particles=32, strength=3.0, threshold=threshold, twist=tau), 400, schedule, steps=20)
        for tau in (twist, 0.0)
    ]
    reference = float(runs[1].log_evidence.logsumexp(0)) - math.log(400)
    means, variances = zip(
        *((ratio.mean(), ratio.var() / 400) for ratio in ((run.log_evidence - reference).exp() for run in runs)),
        strict=True,
    )
    assert abs(means[0] - means[1]) < 4 * (variances[0] + variances[1]).sqrt()
    assert float(runs[0].log_evidence.std()) > 0.01, "otherwise nothing would have been corrected"


def test_looks_at_some_steps_only():
    """Corrections of the steps between two looks add up."""
    method = SMC(particles=32, strength=3.0, twist=0.7, resample_at=(4, 11))
    runs = [on_the_line(m, 400, steps=20) for m in (method, dataclasses.replace(method, twist=0.0, threshold=0.0))]
    reference = float(runs[1].log_evidence.logsumexp(0)) - math.log(400)
    ratios = [(run.log_evidence - reference).exp() for run in runs]
    spread = sum(ratio.var() / 400 for ratio in ratios).sqrt()
    assert abs(ratios[0].mean() - ratios[1].mean()) < 4 * spread


def test_correction_is_the_ratio_of_the_two_densities():
    """Against the log densities themselves, which can be subtracted where the state has three coordinates."""
    generator = torch.Generator().manual_seed(0)
    model = pf.models.GaussianOracle([0.3, -0.2, 0.1], [[0.2, 0.05, 0], [0.05, 0.3, 0], [0, 0, 0.1]]).model()
    method = TDS()
    task = make_task(model, lambda x, _: -x.square().sum(1), PLENTY, method, shape=(2, 3), steps=10, dtype=DOUBLE)
    particles = task.start(torch.arange(5))
    with torch.no_grad():
        task.look_ahead_with_gradient(particles, 3)
        kernel, gradient = task.transitions[3], particles.rows["gradient"]
        factor = torch.rand(10, generator=generator, dtype=DOUBLE)
        moved, ratio = task.propose_twisted(particles, 3, factor)
    inputs = [particles.x, *particles.outputs]
    mean = sum(w * x for w, x in zip(kernel.weights, inputs, strict=True))
    shifted = mean + kernel.noise**2 * factor[:, None] * gradient
    p, q = (torch.distributions.Normal(m, kernel.noise).log_prob(moved.x).sum(1) for m in (mean, shifted))
    torch.testing.assert_close(ratio, p - q, rtol=1e-11, atol=1e-11)
    assert "gradient" not in moved.rows


def test_a_step_without_noise_is_not_moved():
    task = make_task(LINE.model(), LINE.reward, PLENTY, TDS(), shape=(1, 1), steps=5, dtype=DOUBLE)
    assert task.transitions[-1].noise == 0
    particles = task.start(torch.arange(4))
    with torch.no_grad():
        task.look_ahead_with_gradient(particles, 4)
        straight = task.propose(particles, 4)
        moved, ratio = task.propose_twisted(particles, 4, torch.full((4,), 7.0, dtype=DOUBLE))
    torch.testing.assert_close(moved.x, straight.x, rtol=1e-14, atol=1e-14)
    assert (ratio == 0).all()


def test_gradients_are_counted():
    result = search(LINE, TDS(particles=3), 2, steps=7)
    assert (result.ledger.nfe == 21).all()
    assert (result.ledger.total("gradients") == 21).all()
    assert (result.ledger.total("rewards") == 24).all()
    assert (result.ledger.cost == 63).all()


# --- DAS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tempered():
    return on_the_modes(DAS(particles=16, strength=2.0, scheme="systematic"))


def test_tempering_and_the_twist_find_the_rare_mode(tempered):
    """O2; the exact E[r] is 3.115, and 16 particles are biased downwards: over-optimising would show as more."""
    untempered = on_the_modes(DAS(particles=16, strength=2.0, scheme="systematic", ladder=None))
    untwisted = on_the_modes(DAS(particles=16, strength=2.0, scheme="systematic", twist=0.0))
    ratio = (tempered.log_evidence - MODES.log_evidence).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(400)
    assert float(average(tempered).mean()) == pytest.approx(3.053, abs=0.03)
    assert float(average(tempered).mean()) < MODES.tilted.expected_reward
    assert float(average(untwisted).mean()) == pytest.approx(2.697, abs=4 * 0.049)
    deviations = [float(run.log_evidence.std()) for run in (tempered, untempered, untwisted)]
    assert deviations[0] < deviations[1] < deviations[2]
    assert deviations[0] == pytest.approx(0.52, rel=0.2)  # 4 / sqrt(2 * 400) for a normal; the tail is longer


def test_ssp_does_as_well(tempered):
    ssp = on_the_modes(DAS(particles=16, strength=2.0), 200)
    first, second = average(ssp), average(tempered)
    spread = (first.var() / 200 + second.var() / 400).sqrt()
    assert abs(first.mean() - second.mean()) < 4 * spread


@pytest.mark.parametrize("twist", [0.0, 0.3])
def test_the_adaptive_ladder_keeps_the_sample_size(twist):
    """Where the share stops short of 1, the size is the one asked for, and all are resampled; the last step adds the
    rest. The evidence is right but for a small bias.
    """
    seen, looks = [], (8, 11, 14, 17)

    class Watched(SMC):
        def weigh(self, task, state, level):
            super().weigh(task, state, level)
            seen.append((state.share, state.ess))

    method = Watched(particles=64, strength=6.0, ladder="adaptive", twist=twist, threshold=0.6, resample_at=looks)
    result = search(LINE, method, 200, steps=20)
    shares = torch.stack([share for share, _ in seen])
    assert len(shares) == 5
    assert (shares.diff(dim=0) >= 0).all()
    assert (shares[-1] == 1).all()
    held = torch.zeros(200, dtype=torch.bool)
    last = torch.zeros(200, dtype=DOUBLE)
    for (share, ess), step in zip(seen, looks, strict=False):
        short = (share < 1) & (share > last)
        assert ((ess[short] - 0.6 * 64).abs() < 1e-6).all()
        held, last = held | short, share
        if bool((share < 1).any()):
            assert step in result.trace.genealogy.resampled
    assert held.double().mean() > 0.5, "otherwise hardly anything was tempered"
    ratio = (result.log_evidence - GaussianChain(LINE, method, 20).log_evidence(6.0)).exp()
    assert abs(ratio.mean() - 1) < 0.03 + 4 * ratio.std() / math.sqrt(200)
    assert float(ratio.std()) < 2, "otherwise the line above would say nothing"


# --- bugs planted -----------------------------------------------------------------------------------------------------


def test_twists_that_are_not_moved_with_their_particles_are_seen(monkeypatch):
    """What a released pipeline does: evidence hundreds of times too high, and rewards above the exact expectation."""
    moved = Particles.take

    def partly(self, sources, *others):
        new = moved(self, sources, *others)
        return dataclasses.replace(
            new,
            values=new.values | {"level": self.values["level"]},
            rows=new.rows | {"gradient": self.rows["gradient"]},
        )

    monkeypatch.setattr(Particles, "take", partly)
    result = on_the_modes(DAS(particles=16, strength=2.0, scheme="systematic"), 100)
    ratio = (result.log_evidence - MODES.log_evidence).exp()
    assert float(ratio.mean()) > 10
    assert float(average(result).mean()) > MODES.tilted.expected_reward


def test_a_correction_of_the_wrong_sign_is_seen(monkeypatch):
    proposed = Task.propose_twisted

    def opposite(self, particles, step, factor):
        new, ratio = proposed(self, particles, step, factor)
        return new, -ratio

    monkeypatch.setattr(Task, "propose_twisted", opposite)
    result = on_the_line(TDS(particles=64, strength=3.0, threshold=0.5), 50)
    assert float((result.log_evidence - LINE.log_evidence).exp().median()) > 10
    assert float(average(result).mean()) > 2.5


# --- errors -----------------------------------------------------------------------------------------------------------


def test_rewards_that_have_no_gradient():
    with pytest.raises(ArgumentError, match=r"^step 0: reward .* returned numbers without a graph"):
        pf.search(
            LINE.model(),
            lambda x, _: (x > 0)[:, 0].double(),
            PLENTY,
            shape=(1, 1),
            method=TDS(particles=2),
            dtype=DOUBLE,
        )


@pytest.mark.parametrize("how", ["detached", "no_grad"])
def test_networks_that_a_gradient_cannot_pass(how):
    network = LINE.model().network

    def closed(x, t):
        with torch.set_grad_enabled(how != "no_grad" and torch.is_grad_enabled()):
            return network(x, t).detach()

    with pytest.raises(ArgumentError, match=r"^network: got an output without a graph"):
        pf.search(
            adapt(closed, "velocity", "linear"),
            LINE.reward,
            PLENTY,
            shape=(1, 1),
            method=TDS(particles=2),
            dtype=DOUBLE,
        )


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_steps_that_are_no_gaussian_kernels(solver):
    with pytest.raises(PlanError):
        search(LINE, TDS(particles=2), 1, solver=solver)


@pytest.mark.parametrize(
    ("ladder", "what"),
    [
        ("linear", "'exponential', 'polynomial' or 'adaptive'"),
        ((0.5, 0.2, 1.0), "shares that rise"),
        ((0.0, 0.5, 0.9), "exactly 1"),
        ((0.0, 1.0), "3, one for each time"),
    ],
)
def test_ladders_that_do_not_lead_up(ladder, what):
    with pytest.raises(ArgumentError, match=f"^ladder.*{what}"):
        search(LINE, DAS(particles=2, ladder=ladder), 1, steps=2)


def test_a_twist_that_is_no_number():
    for twist in (-1.0, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=r"^twist"):
            SMC(twist=twist)
