"""Conditional SMC leaves the law of trajectories invariant, and forgets where it started."""

import dataclasses
import math

import pytest
import torch
from search_oracles import DOUBLE, gaussian_line

from pushforward import kernels
from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.kernels import Draw
from pushforward.solvers.particles import FeynmanKac, conditional_smc
from pushforward.solvers.search import SMC, Budget
from pushforward.solvers.search.search import make_task

PHI, STEPS, TILT = 0.7, 6, 0.8
MEANS = torch.tensor([TILT * PHI ** (STEPS - k) for k in range(STEPS + 1)], dtype=DOUBLE)  # variances stay 1


def noise(ids, k):
    return kernels.normal((len(ids), 1), seed=3, draw=Draw(kernels.PURPOSE_DIFFUSION, k), samples=ids, dtype=DOUBLE)


def at_the_end(k, x, last):
    return TILT * x[:, 0] if k == STEPS else torch.zeros(len(x), dtype=DOUBLE)


def on_the_way(k, x, last):
    """The same product, spread over the steps as a difference: a potential of two states."""
    return TILT * (x[:, 0] - (0.0 if last is None else last[:, 0]))


def autoregression(potential):
    spread = math.sqrt(1 - PHI**2)
    return FeynmanKac(
        STEPS,
        lambda ids: noise(ids, 0),
        lambda k, x, ids: PHI * x + spread * noise(ids, k + 1),
        potential,
        lambda k, x, new: -0.5 * ((new - PHI * x)[:, 0] / spread) ** 2,
    )


def exact(count):
    """Trajectories of the target: the tilt moves the means and nothing else."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(count, STEPS + 1, generator=generator, dtype=DOUBLE)
    path = [z[:, 0]]
    for k in range(STEPS):
        path.append(PHI * path[-1] + math.sqrt(1 - PHI**2) * z[:, k + 1])
    return (torch.stack(path, 1) + MEANS)[..., None]


@pytest.mark.parametrize("potential", [at_the_end, on_the_way])
@pytest.mark.parametrize("ancestor_sampling", [False, True])
@pytest.mark.parametrize("particles", [2, 8])
def test_the_target_is_invariant(particles, ancestor_sampling, potential):
    """From exact trajectories, after two sweeps: independent ones, so that 4 standard errors are known."""
    count, chain = 3000, autoregression(potential)
    paths = exact(count)
    for sweep in range(2):
        paths = conditional_smc(chain, paths, particles, seed=1, sweep=sweep, ancestor_sampling=ancestor_sampling)
    x = paths[..., 0]
    assert ((x.mean(0) - MEANS).abs() < 4 / math.sqrt(count)).all()
    assert ((x.var(0) - 1).abs() < 4 * math.sqrt(2 / count)).all()
    neighbours = ((x - MEANS)[:, 1:] * (x - MEANS)[:, :-1]).mean(0)
    assert ((neighbours - PHI).abs() < 4 * math.sqrt((1 + PHI**2) / count)).all()


def test_twelve_thousand_sweeps_from_elsewhere():
    """1000 chains that start at 0, 4 sweeps to forget it, and 12 that count: the figures of the specification."""
    chain, paths, kept = autoregression(at_the_end), torch.zeros(1000, STEPS + 1, 1, dtype=DOUBLE), []
    for sweep in range(16):
        paths = conditional_smc(chain, paths, 8, seed=2, sweep=sweep)
        kept.append(paths[..., 0])
    x = torch.cat(kept[4:])
    told = torch.tensor([0.094, 0.134, 0.192, 0.274, 0.392, 0.560, 0.800], dtype=DOUBLE)
    assert ((MEANS - told).abs() < 6e-4).all()
    assert ((x.mean(0) - MEANS).abs() < 0.08).all()
    assert ((x.var(0) - 1).abs() < 0.1).all()


def test_ancestor_sampling_changes_early_states_more_often():
    chain, before = autoregression(at_the_end), exact(1000)
    changed = [
        (conditional_smc(chain, before, 3, seed=4, ancestor_sampling=on)[:, 0] != before[:, 0]).double().mean()
        for on in (False, True)
    ]
    assert changed[1] > changed[0] + 0.2


def test_chains_do_not_depend_on_each_other():
    chain, before = autoregression(on_the_way), exact(6)
    together = conditional_smc(chain, before, 5, seed=7)
    torch.testing.assert_close(conditional_smc(chain, before[:2], 5, seed=7), together[:2], rtol=0, atol=0)
    assert not torch.equal(conditional_smc(chain, before, 5, seed=7, sweep=1), together)


def test_the_kernel_density_of_a_sampler():
    """Where the law of the step is a product of normals, and where there is none."""
    problem = gaussian_line()
    task = make_task(problem.model(), problem.reward, Budget(9), SMC(), shape=(1, 1), steps=5, dtype=DOUBLE)
    particles = task.evaluate(task.start(torch.arange(8)), 2)
    step, inputs = task.transitions[2], [particles.x, *particles.outputs]
    new = task.propose(particles, 2).x
    mean = step.weights[0] * inputs[0] + step.weights[1] * inputs[1]
    expected = torch.distributions.Normal(mean, step.noise).log_prob(new).sum(1)
    constant = math.log(step.noise) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(step.log_density(inputs, new) - constant, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ArgumentError, match=r"^step.*deterministic"):
        task.transitions[-1].log_density(inputs, new)


def test_what_is_refused():
    chain, paths = autoregression(at_the_end), exact(2)
    for n in (1, 0, True, 2.5):
        with pytest.raises(ArgumentError, match=r"^particles.*at least 2"):
            conditional_smc(chain, paths, n, seed=0)
    with pytest.raises(ArgumentError, match=r"^scheme: got 'systematic', expected 'multinomial'"):
        conditional_smc(chain, paths, 4, seed=0, scheme="systematic")
    with pytest.raises(ArgumentError, match=r"^sweep"):
        conditional_smc(chain, paths, 4, seed=0, sweep=2**16)
    with pytest.raises(ArgumentError, match=r"^ancestor_sampling"):
        conditional_smc(dataclasses.replace(chain, log_density=None), paths, 4, seed=0, ancestor_sampling=True)
    with pytest.raises(ShapeError, match=r"^reference"):
        conditional_smc(chain, paths[:, 1:], 4, seed=0)
    dead = dataclasses.replace(chain, log_potential=lambda k, x, last: torch.full((len(x),), -math.inf))
    with pytest.raises(NotFiniteError, match="log-weights at step 0"):
        conditional_smc(dead, paths, 4, seed=0)
    with pytest.raises(ShapeError, match="log-potentials at step 0"):
        conditional_smc(dataclasses.replace(chain, log_potential=lambda k, x, last: x), paths, 4, seed=0)
