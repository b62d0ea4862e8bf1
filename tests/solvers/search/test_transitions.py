"""Samplers as Gaussian kernels: against their plans, a hand-written DDPM step, exact moments, and other paths."""

from __future__ import annotations

import math

import consistency
import numpy as np
import pytest
import torch
from search_oracles import gaussian_line, three_modes

import pushforward as pf
from pushforward import solvers
from pushforward.errors import PlanError
from pushforward.kernels import normal
from pushforward.models import Guidance, Linear, interpolant, prediction
from pushforward.models.interpolants import equal_noise
from pushforward.solvers import Executor
from pushforward.solvers.particles import Transitions
from pushforward.solvers.sde import Diffusion, EulerMaruyama, NoiseFirstHeun, StochasticHeun

DOUBLE = torch.float64
LINE, MODES = gaussian_line(), three_modes()
VP, LINEAR = interpolant("vp"), Linear()


def lowered(solver, kind, path="linear", times=None, guidance=None):
    times = solvers.grid("uniform", 5, LINEAR)[1:] if times is None else times
    read = prediction(kind, path)
    return solvers.plan(solver, times, read.interpolant, prediction=read).lower(read, guidance), read


def is_kernel(solver):
    """Whether every step is one evaluation at its state."""
    try:
        Transitions.of(*lowered(solver, "velocity")).gaussian("this test")
    except PlanError:
        return False
    return True


KERNELS = [name for name, solver in solvers.solvers() if is_kernel(solver)]


# --- kernels --------------------------------------------------------------------------------------------------------


def test_the_solvers_that_are_kernels():
    found = set(KERNELS)
    assert {"euler", "ddim", "ddpm", "euler_maruyama", "euler_ancestral", "seeds1", "lcm"} <= found
    assert not {"heun", "ab2", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "stochastic_heun", "rk4"} & found


@pytest.mark.parametrize("kind", ["velocity", "denoised", "noise", "edm"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_the_steps_of_the_plan(name, kind):
    """Each step by its kernel, with the normals of its draws, is the executor's run."""
    plan, read = lowered(solvers.solver(name), kind)
    model, x = MODES.model(kind=kind), torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=DOUBLE)
    network = model.bind()
    told = Executor(plan.optimise(), x, seed=8).run(network.evaluate)
    transitions = Transitions.of(plan, read)
    assert len(transitions) == plan.steps
    assert transitions.times.tolist() == list(plan.grid)
    for k in transitions:
        (output,) = network.evaluate(k.scale * x, k.time)
        clean = k.denoised[0] * x + k.denoised[1] * output
        torch.testing.assert_close(clean, MODES.oracle().denoised(x, k.time), rtol=1e-12, atol=1e-12)
        z = [normal(x.shape, seed=8, draw=draw, dtype=DOUBLE) for draw in k.draws]
        x = k.weights[0] * x + k.weights[1] * output + sum(s * n for s, n in zip(k.noises, z, strict=True))
    torch.testing.assert_close(x, told, rtol=1e-12, atol=1e-12)


def test_which_steps_can_be_searched():
    transitions = Transitions.of(*lowered(solvers.solver("ddpm"), "velocity"))
    assert transitions.searchable == (0, 1, 2)  # the last of four ends in the clean estimate
    assert transitions[3].noise == 0
    assert Transitions.of(*lowered(solvers.solver("ddim"), "velocity")).searchable == ()
    assert [k.time for k in transitions[1:3]] == list(transitions.times[1:3])


def test_guidance_is_in_the_kernel():
    """Weights of both branches inside the interval, of one outside; the clean estimate is the guided one."""
    guidance = Guidance(3.0, interval=(0.3, 0.7))
    plan, read = lowered(solvers.solver("ddpm"), "denoised", guidance=guidance)
    transitions = Transitions.of(plan, read, guidance)
    assert [k.branches for k in transitions] == [("cond",), ("cond", "null"), ("cond", "null"), ("cond",)]
    alone = Transitions.of(*lowered(solvers.solver("ddpm"), "denoised"))
    for k, single in zip(transitions, alone, strict=True):
        w = [1.0] if len(k.branches) == 1 else [3.0, -2.0]
        assert k.weights[1:] == pytest.approx([single.weights[1] * share for share in w], rel=1e-14)
        assert k.denoised == pytest.approx((0.0, *w), rel=1e-14)
        assert (k.weights[0], k.noise) == (single.weights[0], single.noise)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_exponential_kernels_are_the_ancestral_step_of_ddpm(eta):
    """Posterior of the discrete chain with beta_i = 1 - abar_i / abar_(i-1), Ho et al. 2020, equation 7, on VP."""
    times = [0.05, 0.2, 0.45, 0.8, 0.97]
    names = [solvers.solver("ddim", eta=eta)] + ([solvers.solver(n) for n in ("ddpm", "seeds1")] if eta == 1 else [])
    for solver in names:
        for k in Transitions.of(*lowered(solver, "denoised", "vp", times)):
            a, a_next = VP.alpha(k.time) ** 2, VP.alpha(k.time_next) ** 2
            beta = 1 - a / a_next
            variance = eta**2 * beta * (1 - a_next) / (1 - a)
            kept = math.sqrt((1 - a_next - variance) / (1 - a))  # of the noise estimate; DDIM, equation 12
            told = (kept, math.sqrt(a_next) - kept * math.sqrt(a), math.sqrt(variance))
            assert (*k.weights, k.noise) == pytest.approx(told, abs=1e-12)
            if eta == 1:
                posterior = math.sqrt(1 - beta) * (1 - a_next) / (1 - a), math.sqrt(a_next) * beta / (1 - a)
                assert k.weights == pytest.approx(posterior, abs=1e-12)


# --- exact moments on O1 --------------------------------------------------------------------------------------------

LINEAR_G, SQUARE_G = Diffusion("sigma_squared", 0.5), Diffusion("square", 4.5)  # g = 1 - t and 3 (1 - t)^2; g^2 / 2


@pytest.mark.parametrize(
    ("solver", "error", "order"),
    [
        (EulerMaruyama(LINEAR_G), 9.99e-4, 0.99),
        (NoiseFirstHeun(LINEAR_G), 1.45e-4, 1.02),
        (StochasticHeun(LINEAR_G), 1.56e-6, 1.99),
        (EulerMaruyama(SQUARE_G), 1.30e-4, 0.92),
        (NoiseFirstHeun(SQUARE_G), 1.73e-4, 1.03),
        (StochasticHeun(SQUARE_G), 1.96e-6, 2.02),
    ],
    ids=str,
)
def test_moments_are_those_of_an_independent_recursion(solver, error, order):
    """N(1.5, 0.25) on the linear path, uniform steps to 0.9, where the variance is 0.2125; no Monte Carlo."""
    errors = []
    for steps in (160, 320):
        grid = [0.9 * i / steps for i in range(steps + 1)]
        mean, variance = consistency.statistics(solver, grid, LINE.oracle())
        assert abs(mean - 1.35) < 1e-12
        errors.append(abs(variance - 0.2125))
    assert errors[1] == pytest.approx(error, rel=0.05)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize(
    ("solver", "slope"),
    [("heun", 0.791), (EulerMaruyama(SQUARE_G), 0.631), (EulerMaruyama("reversal"), 0.250)],
    ids=["flow", "square", "reversal"],
)
def test_the_clean_estimate_is_the_conditional_mean_under_the_reversal_alone(solver, slope):
    """d E[x_1 | x_t] / dx at t = 0.4, where D has the slope 0.25: two starts with the same noise differ by it."""
    starts, same = torch.tensor([[0.0], [1.0]], dtype=DOUBLE), torch.zeros(2, dtype=torch.int64)
    grid = [0.4 + 0.6 * i / 1000 for i in range(1001)]
    low, high = pf.sample(LINE.model(), starts, solver=solver, grid=grid, samples=same).flatten().tolist()
    assert high - low == pytest.approx(slope, rel=0.01)


# --- other paths ----------------------------------------------------------------------------------------------------

PATHS = ["vp", "cosine", interpolant("ve")]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_linear_model_on_another_path_is_the_oracle_there(path):
    """D, n and s to 1e-13, v to 1e-10, between 0.01 and 0.99; all finite at the start."""
    oracle = LINE.oracle(path)
    model = LINE.model().on(path)
    along = oracle.interpolant
    for t in np.linspace(0.011, 0.989, 9).tolist():
        alpha, sigma, _, _ = along(t)
        spread = math.sqrt(alpha**2 * 0.25 + sigma**2)
        x = alpha * 1.5 + spread * torch.tensor([[-2.0], [0.3], [1.5]], dtype=DOUBLE)
        (output,) = model.evaluate(model.prediction.input_scale(t) * x, t)
        for name, bound in (("denoised", 1e-13), ("noise", 1e-13), ("score", 1e-13), ("velocity", 1e-10)):
            affine = model.prediction.quantity(name, t)
            told = getattr(oracle, name)(x, t)
            # relative to the largest term: noise and score are differences of state and estimate
            size = max(float(told.abs().max()), float((affine.x * x).abs().max()))
            assert (affine.x * x + affine.output * output - told).abs().max() < bound * max(1.0, size), (name, t)
    affine = model.prediction.quantity("denoised", 0.0)
    assert all(map(math.isfinite, (affine.x, affine.output, model.prediction.input_scale(0.0))))


def test_circular_grid_of_rollover():
    """Noise times sqrt(1 - (1 - tau)^2) of VP, and the noise levels that they are on the linear path."""
    grid = solvers.grid("circular", 10, VP)
    told = [1, 0.995, 0.980, 0.954, 0.917, 0.866, 0.8, 0.714, 0.6, 0.436, 0]
    assert [1 - t for t in grid] == pytest.approx(told, abs=5e-4)
    levels = [1 - equal_noise(VP, t, LINEAR)[0] for t in grid[:-1]]
    assert levels == pytest.approx([0.9935, 0.9931, 0.992, 0.990, 0.986, 0.978, 0.962, 0.929, 0.859, 0.709], abs=5e-4)


def test_there_and_back():
    """Linear to VP to linear: the same time, and scales that cancel, to 1e-12."""
    for t in (0.0066, 0.01, 0.2, 0.5, 0.9, 0.999):
        there, scale = equal_noise(LINEAR, t, VP)
        back, other = equal_noise(VP, there, LINEAR)
        assert (back, scale * other) == pytest.approx((t, 1.0), rel=1e-12)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "seeds1", "euler_ancestral"])
def test_equal_churn_is_the_same_process_on_every_path(name):
    """At matched noise levels, with the same normals, states are multiples of each other at every step."""
    ratios = [20.0, 9.0, 4.0, 1.5, 0.6, 0.2, 0.05]
    here = Transitions.of(*lowered(solvers.solver(name), "denoised", "linear", _times(LINEAR, ratios)))
    for path in ("vp", "cosine", "ve"):
        along = interpolant(path)
        there = Transitions.of(*lowered(solvers.solver(name), "denoised", path, _times(along, ratios)))
        for k, other in zip(here, there, strict=True):
            scale, scale_next = (
                along.sigma(b) / LINEAR.sigma(a) for a, b in ((k.time, other.time), (k.time_next, other.time_next))
            )
            told = (k.weights[0] * scale_next / scale, k.weights[1] * scale_next, k.noise * scale_next)
            assert (*other.weights, other.noise) == pytest.approx(told, rel=1e-11, abs=1e-12)


def _times(path, ratios):
    return [path.time_at_noise_ratio(nu) for nu in ratios]
