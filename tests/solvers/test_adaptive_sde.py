"""Adaptive SDEs: the law of what comes out, convergence along one path, independence of the batch, models, mistakes."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.errors import (
    ArgumentError,
    DtypeError,
    GridError,
    IntegrationError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from pushforward.models import GaussianOracle
from pushforward.solvers import Controller
from pushforward.solvers.brownian import SCHEMES, Increment

double = {"dtype": torch.float64}
ADDITIVE = [name for name, scheme in SCHEMES.items() if scheme.additive]
MEAN, DEVIATION, START, STOP = 0.7, 0.3, 0.02, 0.98
ORACLE = GaussianOracle([MEAN], [[DEVIATION**2]])


def marginal(t):
    """Mean and variance of the linear path at t."""
    return MEAN * t, (t * DEVIATION) ** 2 + (1 - t) ** 2


def starts(count):
    mean, variance = marginal(START)
    z = pf.kernels.normal((count, 1), seed=4, draw=pf.kernels.Draw(7, 0), **double)
    return mean + math.sqrt(variance) * z


class FreshNoise:
    """A new increment at every request, as if nothing were known of the path: what a tree is there to avoid."""

    def __init__(self, generator, count):
        self.generator, self.count = generator, count

    def rows(self, index):
        return FreshNoise(self.generator, len(index))

    def increment(self, s, u):
        z = torch.randn(2, self.count, 1, generator=self.generator, **double)
        length = torch.from_numpy(np.abs(u - s))[:, None]
        return Increment(length.sqrt() * z[0], (length / 12).sqrt() * z[1])


def reverse_drift(x, t):
    """Velocity and 1 - t times score of the linear path to the normal data; the noise that goes with it is below."""
    mean, variance = marginal(t[:, None])
    score, t = -(x - mean) / variance, t[:, None]
    clean = MEAN + t * DEVIATION**2 / variance * (x - mean)
    return (clean - x) / (1 - t) + (1 - t) * score


def reverse_noise(x, t):
    return (2 * (1 - t)).sqrt()


@pytest.mark.parametrize("method", ["heun_em", "shark"])
def test_a_rejected_step_stays_on_its_path(method):
    """The law of the result is right along one path, and grossly wrong with new noise after a rejection.

    Step sizes as in Gotta Go Fast, h' = 0.9 h r^-0.9, of which two fifths are rejected. The relative deviation of a
    variance of 4000 normals is 0.022; the bound of the tree's is five of those from 1.
    """
    count, (_, exact) = 4000, marginal(STOP)
    eager = Controller(integral=1.35)

    def ratio(brownian):
        solution = pf.solve_sde(reverse_drift, reverse_noise, starts(count), [START, STOP], method=method, rtol=0.02,
                                atol=0.01, controller=eager, brownian=brownian, seed=6)  # fmt: skip
        assert solution.rejected.sum() > 0.4 * solution.accepted.sum()
        return float(solution.x[-1].var()) / exact

    assert abs(ratio(None) - 1) < 0.12
    assert ratio(FreshNoise(torch.Generator().manual_seed(1), count)) > 1.4


@pytest.mark.parametrize("direction", [1, -1])
def test_a_model_is_sampled_and_noised(direction):
    """Mean and variance at the other end, within four deviations of 4000 numbers and the tolerance."""
    times, many = [START, STOP][::direction], 40
    oracle = GaussianOracle([MEAN] * many, DEVIATION**2)
    mean, variance = marginal(times[0])
    z = (starts(100 * many) - marginal(START)[0]) / math.sqrt(marginal(START)[1])
    x0 = mean + math.sqrt(variance) * z.reshape(100, many)
    solution = pf.solve_sde(oracle.model("noise"), "sigma", x0, times, rtol=5e-3, atol=5e-3, seed=2)
    mean, variance = marginal(times[1])
    x = solution.x[-1]
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / 4000) + 5e-3
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / 4000) + 1e-2


def test_the_last_state_may_be_denoised():
    kwargs = {"rtol": 0.05, "atol": 0.05, "seed": 1}
    plain = pf.solve_sde(ORACLE.model(), "linear", starts(5), [START, 0.9], **kwargs)
    clean = pf.solve_sde(ORACLE.model(), "linear", starts(5), [START, 0.9], denoise=True, **kwargs)
    mean, variance = marginal(0.9)
    expected = MEAN + 0.9 * DEVIATION**2 / variance * (plain.x[-1] - mean)
    torch.testing.assert_close(clean.x[-1], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(clean.final, expected, rtol=1e-12, atol=1e-12)
    assert (clean.nfe == plain.nfe + 1).all()
    torch.testing.assert_close(clean.x[0], plain.x[0])


def solve(method, tolerance, x0, **more):
    """dX = -X dt + (1 + t / 2) dW, or with noise sqrt(1 + X^2) / 2 for methods that can."""
    additive = SCHEMES[method].additive

    def diffusion(x, t):
        return 1 + 0.5 * t if additive else 0.5 * (1 + x**2).sqrt()

    arguments = {"method": method, "rtol": 0.0, "atol": tolerance, "seed": 9, **more}
    return pf.solve_sde(lambda x, t: -x, diffusion, x0, [0.0, 0.4, 1.0], **arguments)


@pytest.mark.parametrize("method", SCHEMES)
def test_errors_along_the_path_fall_with_the_tolerance(method):
    """All methods find the same path: a hundredth of the tolerance, and the error is at most a quarter."""
    x0 = torch.linspace(-1, 1, 40, **double)[:, None].expand(40, 5).contiguous()
    area = SCHEMES[method].area
    least = {"min_step": 2.0**-13}
    fine = solve({(True, True): "sra3", (False, True): "heun_em", (True, False): "srk", (False, False): "milstein"}[
        area, SCHEMES[method].additive], 3e-5, x0, **least)  # fmt: skip
    errors = []
    for tolerance in (3e-2, 3e-3):
        solution = solve(method, tolerance, x0, **least)
        errors.append(float((solution.x - fine.x).square().mean().sqrt()))
    assert errors[0] < 3 * 3e-2
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("method", ["shark", "srk"])
def test_samples_do_not_depend_on_their_batch(method):
    """However hard the others are; own times, own conditions."""
    x0, ids = torch.linspace(-1, 1, 6, **double)[:, None].expand(6, 2).contiguous(), torch.arange(6) * 3
    rate = torch.tensor([1.0, 1.0, 20.0, 1.0, 5.0, 0.1], **double)
    times = np.array([[0.0, 1.0]] * 5 + [[0.2, 0.5]])

    def drift(x, t, rate):
        return -rate[:, None] * x

    def scale(x, t, rate):
        return torch.ones(len(x), **double)

    def run(index):
        tree = pf.BrownianTree((len(index), 2), 0.0, 1.0, seed=3, samples=ids[index], **double)
        return pf.solve_sde(drift, scale, x0[index], times[index], method=method, brownian=tree,
                            condition={"rate": rate[index]})  # fmt: skip

    everyone = run(list(range(6)))
    assert everyone.accepted[2] > 2 * everyone.accepted[0]
    for index in ([0], [5], [4, 2]):
        some = run(index)
        assert torch.equal(some.x[-1], everyone.x[-1][index])
        assert (some.accepted == everyone.accepted[index]).all()


def test_one_step_size_for_the_batch():
    x0 = torch.linspace(-1, 1, 12, **double).reshape(4, 3)
    joint = solve("shark", 3e-3, x0, per_sample=False)
    assert len(set(joint.accepted.tolist())) == 1
    assert float((joint.x - solve("sra3", 1e-4, x0).x).abs().max()) < 2e-2
    backwards = pf.solve_sde(lambda x, t: -x, 1.0, joint.x[-1], [1.0, 0.0], per_sample=False, seed=9)
    assert backwards.success.all()


def test_a_path_is_followed_back():
    """Additive noise: against the time along the same path, to where it came from."""
    x0 = torch.linspace(-1, 1, 12, **double).reshape(4, 3)
    tree = pf.BrownianTree((4, 3), 0.0, 1.0, seed=5, **double)
    kwargs = {"rtol": 0.0, "atol": 1e-3, "brownian": tree}
    there = pf.solve_sde(lambda x, t: -x, 1.0, x0, [0.0, 1.0], **kwargs)
    back = pf.solve_sde(lambda x, t: -x, 1.0, there.x[-1], [1.0, 0.0], **kwargs)
    torch.testing.assert_close(back.x[-1], x0, rtol=0, atol=2e-2)


def test_single_precision_follows_the_same_path():
    x0 = torch.linspace(-1, 1, 12).reshape(4, 3)
    single, wide = solve("shark", 1e-2, x0), solve("shark", 1e-2, x0.double())
    assert single.x.dtype == torch.float32
    torch.testing.assert_close(single.x.double(), wide.x, rtol=0, atol=2e-2)  # two tolerances


def test_bad_arguments_are_named():
    x0 = torch.zeros(2, 3, **double)

    def call(drift=lambda x, t: -x, diffusion=1.0, x0=x0, times=(0.0, 1.0), **more):
        return pf.solve_sde(drift, diffusion, x0, times, **more)

    cases = [
        ({"diffusion": lambda x, t: x}, ArgumentError, "diffusion: got values that depend on the state"),
        ({"diffusion": -1.0}, ArgumentError, "diffusion"),
        ({"diffusion": "linear"}, ArgumentError, "diffusion"),
        ({"diffusion": lambda x, t: 1.0}, DtypeError, "diffusion"),
        ({"diffusion": lambda x, t: torch.ones(3, **double)}, ShapeError, "diffusion"),
        ({"drift": lambda x, t: x[:1]}, ShapeError, "field"),
        ({"drift": None}, ArgumentError, "field"),
        ({"method": "dopri54"}, UnknownNameError, "method"),
        ({"times": (0.0, 0.0)}, GridError, "times"),
        ({"rtol": -1.0}, ArgumentError, "rtol"),
        ({"x0": torch.zeros(2, 3, dtype=torch.int64)}, ArgumentError, "x0"),
        ({"guidance": 2.0}, ArgumentError, "guidance"),
        ({"denoise": True}, ArgumentError, "denoise"),
        ({"on_failure": "shrug"}, UnknownNameError, "on_failure"),
        ({"samples": torch.arange(3)}, ShapeError, "samples"),
        ({"per_sample": False, "times": np.array([[0.0, 1.0]] * 2)}, ArgumentError, "per_sample"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            call(**arguments)


def test_failures_name_sample_and_time():
    x0 = torch.zeros(2, 3, **double)
    with pytest.raises(IntegrationError, match="sample 0 at t = 0"):
        pf.solve_sde(lambda x, t: -x, 1.0, x0, [0.0, 1.0], max_steps=2)
    with pytest.raises(IntegrationError, match="step size fell below"):
        pf.solve_sde(lambda x, t: 1e3 * torch.sin(1e4 * x), 1.0, x0, [0.0, 1.0], atol=1e-4, min_step=0.01)

    def broken(x, t):
        return torch.where(t[:, None] > 0.5, torch.nan, -x)

    with pytest.raises((NotFiniteError, IntegrationError), match="sample 0"):
        pf.solve_sde(broken, 1.0, x0, [0.0, 1.0])


def test_the_code_of_the_page_runs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "sde_adaptive.md").read_text()
    blocks, names = re.findall(r"```python\n(.*?)```", page, re.S), {}
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)
    assert names["samples"].isfinite().all()
    for method in SCHEMES:  # the table has them all
        assert f"`{method}`" in page
