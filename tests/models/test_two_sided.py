"""Two-sided stochastic interpolants: their algebra, their oracle, and the ODE and SDEs between two distributions."""

from __future__ import annotations

import math

import linear_response
import pytest
import torch
from problems import shows_order

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, PlanError, ShapeError, SingularTimeError, UnknownNameError
from pushforward.models import CouplingOracle, GaussianOracle, TwoSided, TwoSidedPrediction, adapt_two_sided

PATHS = [
    TwoSided(),
    TwoSided("trigonometric"),
    TwoSided("linear", "quadratic", 4.0),
    TwoSided("encoding_decoding", "sine_squared", 1.0),
    TwoSided("trigonometric", "sine_squared", 0.5),
    TwoSided("linear", strength=0.0),
]
M0, C0, M1, C1 = -0.4, 0.8, 1.2, 0.3  # means and standard deviations of the scalar Gaussian ends
TIMES = (0.01, 0.2, 0.45, 0.7, 0.99)


def scalar(path: TwoSided, correlation: float = 0.0) -> CouplingOracle:
    cross = [[[correlation * C0 * C1]]]
    return CouplingOracle([1.0], [([M0], [[C0**2]])], [([M1], [[C1**2]])], cross, path)


def planar(path: TwoSided | None = None) -> CouplingOracle:
    """Two modes to three, independent."""
    sources = [(0.4, [-1.0, 0.6], [[0.2, 0.05], [0.05, 0.1]]), (0.6, [0.5, -0.5], [[0.1, 0.0], [0.0, 0.3]])]
    targets = [
        (0.3, [1.0, 0.5], [[0.15, 0.05], [0.05, 0.1]]),
        (0.5, [-1.0, 0.3], [[0.08, -0.03], [-0.03, 0.2]]),
        (0.2, [0.2, -1.2], [[0.1, 0.0], [0.0, 0.05]]),
    ]
    return CouplingOracle.independent(sources, targets, path)


def points(count: int = 32, size: int = 1) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# --- the path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_ends_and_derivatives(path: TwoSided) -> None:
    assert path.ends_at(0.0)[:2] == (1.0, 0.0)
    assert path.ends_at(1.0)[:2] == (0.0, 1.0)
    assert path.sigma(0.0) == path.sigma(1.0) == 0.0
    step = 1e-6
    for t in (0.05, 0.3, 0.6, 0.95):
        before, here, after = (path.ends_at(t + d) for d in (-step, 0, step))
        assert here.da == pytest.approx((after.a - before.a) / (2 * step), abs=1e-8)
        assert here.db == pytest.approx((after.b - before.b) / (2 * step), abs=1e-8)
        slope = (path.sigma(t + step) - path.sigma(t - step)) / (2 * step)
        assert path(t).dsigma == pytest.approx(slope, abs=1e-8)
        assert path.sigma_dsigma(t) == pytest.approx(path.sigma(t) * slope, abs=1e-8)
        if path.ends == "trigonometric":
            assert here.a**2 + here.b**2 + path.sigma(t) ** 2 == pytest.approx(1, abs=1e-14)
    for t in (0.0, 1.0):
        slope = path(t).dsigma
        inner = abs(t - 1e-7)
        expected = path.sigma(inner) / 1e-7 * (1 if t == 0 else -1)
        assert (
            abs(slope) == math.inf
            if path.latent == "brownian" and path.strength
            else slope == pytest.approx(expected, abs=1e-5)
        )
    assert models.interpolant_from_config(path.to_config()) == path


# --- the oracle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.7])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_fields_of_gaussian_ends(path: TwoSided, correlation: float) -> None:
    """b = mu' + V' (x - mu) / (2 V), s = -(x - mu) / V, eta = gamma (x - mu) / V, and what follows, to 1e-12."""
    oracle, x = scalar(path, correlation), points()
    for t in TIMES:
        a, b, da, db = path.ends_at(t)
        mean, slope = a * M0 + b * M1, da * M0 + db * M1
        cross = correlation * C0 * C1
        variance = a**2 * C0**2 + b**2 * C1**2 + 2 * a * b * cross + path.sigma(t) ** 2
        rate = 2 * (a * da * C0**2 + b * db * C1**2 + (a * db + b * da) * cross + path.sigma_dsigma(t))
        score = -(x - mean) / variance
        scale = 1 + score.abs().max()
        assert (oracle.velocity(x, t) - (slope - rate / 2 * score)).abs().max() < 1e-12 * scale * (1 + abs(rate))
        assert (oracle.score(x, t) - score).abs().max() < 1e-12 * scale
        assert (oracle.denoiser(x, t) + path.sigma(t) * score).abs().max() < 1e-12 * scale
        rebuilt = oracle.drift(x, t) + path(t).dsigma * oracle.denoiser(x, t)
        assert (rebuilt - oracle.velocity(x, t)).abs().max() < 1e-10 * scale


def test_a_gaussian_source_without_latent_is_the_one_sided_path() -> None:
    oracle = CouplingOracle([1.0], [([0.0], [[1.0]])], [([0.7], [[0.09]])], None, TwoSided(strength=0.0))
    one_sided, x = GaussianOracle([0.7], [[0.09]]), points()
    for t in TIMES:
        assert (oracle.velocity(x, t) - one_sided.velocity(x, t)).abs().max() < 1e-12
        assert (oracle.score(x, t) - one_sided.score(x, t)).abs().max() < 1e-12 * one_sided.score(x, t).abs().max()


@pytest.mark.parametrize("name", ["velocity", "drift", "denoiser", "score"])
@pytest.mark.parametrize("path", PATHS[:4], ids=str)
def test_heads_regress_on_their_targets(path: TwoSided, name: str) -> None:
    """The least-squares minimiser is orthogonal to every function of x: residual moments within five errors of 0."""
    oracle, count, t = planar(path), 20_000, torch.tensor([0.35], dtype=torch.float64)
    x0, x1 = oracle.pairs(count, seed=1)
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = path.interpolate(x0, x1, z, t)
    residual = path.target(name, x0, x1, z, t) - getattr(oracle, name)(x, 0.35)
    for feature in (torch.ones_like(x), x, x.flip(1), torch.sin(3 * x)):
        moment = residual * feature
        assert (moment.mean(0).abs() < 5 * moment.std(0) / count**0.5).all()


def test_times_may_differ_between_rows() -> None:
    oracle, x = planar(), points(3, 2)
    times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    together = oracle.velocity(x, times)
    for i, t in enumerate(times.tolist()):
        assert (together[i] - oracle.velocity(x, t)[i]).abs().max() < 1e-13


# --- dynamics --------------------------------------------------------------------------------------------------

ORDERS = {"euler": 1, "heun": 2, "euler_maruyama": 1, "stochastic_heun": 2, "sra1": 2}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", ORDERS)
def test_weak_orders_by_exact_variance(name: str, backward: bool) -> None:
    """g = 0.4 between scalar Gaussians, on [0.1, 0.9]: mean and variance converge with the solver's order."""
    oracle = scalar(TwoSided())
    solver = solvers.solver(name, diffusion=0.4) if solvers.solver(name).stochastic else solvers.solver(name)
    errors, means = [], []
    for n in (64, 128, 256):
        grid = [0.1 + 0.8 * i / n for i in range(n + 1)][:: -1 if backward else 1]
        read = oracle.model().prediction
        plan = solvers.plan(solver, grid, oracle.interpolant, prediction=read).lower(read)
        mean, variance = linear_response.response(plan, oracle)
        exact = linear_response.marginal(oracle, grid[-1])
        errors.append(abs(variance - exact[1]))
        means.append(abs(mean - exact[0]))
    assert shows_order(errors, ORDERS[name], 0.1), errors
    assert means[-1] < 1e-12  # straight on the linear path, and b is affine: exact


@pytest.mark.parametrize(("solver", "steps"), [("rk4", 12), ("stochastic_heun", 50), ("sra1", 40)])
def test_mixtures_are_carried_into_mixtures(solver: str, steps: int) -> None:
    """From rho_0 to rho_1 and back over the whole of [0, 1], by ODE and SDE: moments within five standard errors."""
    oracle, count = planar(), 1000
    model = oracle.model()
    for backward in (False, True):
        start = oracle.sample(count, seed=4, t=1.0 if backward else 0.0)
        x = pf.sample(model, start, solver=solver, steps=steps, backward=backward, seed=6)
        mean, covariance = oracle.moments(0.0 if backward else 1.0)
        centred = x - mean
        products = centred[:, :, None] * centred[:, None]
        assert (centred.mean(0).abs() < 5 * centred.std(0) / count**0.5).all()
        assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / count**0.5).all()


def test_every_choice_of_heads_gives_one_sample() -> None:
    oracle = planar()
    start, grid = oracle.sample(8, seed=1, t=0.1), [0.1, 0.3, 0.5, 0.7, 0.9]
    kinds = [("velocity", "denoiser"), ("velocity", "score"), ("drift", "denoiser"), ("drift", "score")]
    ends = [
        pf.sample(oracle.model(*kind, noise_sign=sign), start, solver="sra1", grid=grid, seed=3)
        for kind in kinds
        for sign in (1, -1)
    ]
    assert max((end - ends[0]).abs().max().item() for end in ends) < 1e-11


def test_the_flow_of_gaussians_is_exact_in_the_limit() -> None:
    """x_1 = m_1 + (c_1 / c_0) (x_0 - m_0) for scalar Gaussians, whatever the path between."""
    x0 = points()
    for path in PATHS[:3]:
        x1 = pf.sample(scalar(path).model(), x0, solver="rk4", steps=150)
        assert (x1 - (M1 + C1 / C0 * (x0 - M0))).abs().max() < 1e-6


def test_an_ode_calls_the_first_head_only() -> None:
    calls = {"velocity": 0, "denoiser": 0}

    def head(name: str):
        def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            calls[name] += 1
            return -x

        return network

    model = adapt_two_sided(head("velocity"), head("denoiser"), TwoSided())
    pf.sample(model, torch.ones(2, 3), solver="heun", steps=4)
    assert calls == {"velocity": 8, "denoiser": 0}
    plan = pf.make_plan(model, solver="euler_maruyama", steps=4)
    assert "is Euler's in the velocity" in plan.notes[0]
    assert [evaluation.labels for evaluation in plan.evaluations] == [
        ("velocity",), ("velocity", "denoiser"), ("velocity", "denoiser"), ("velocity",),
    ]  # fmt: skip  # the diffusion vanishes at 0, and the last step adds no noise
    assert plan.cost().passes == 4


# --- what it cannot do -----------------------------------------------------------------------------------------


def test_errors_are_named() -> None:
    model = scalar(TwoSided()).model()
    start = torch.zeros(2, 1)
    with pytest.raises(ArgumentError, match="'denoised' on a two-sided path"):
        pf.sample(model, start, solver="ddim", steps=2)
    with pytest.raises(ArgumentError, match="start from a tensor"):
        pf.sample(model, (2, 1), solver="heun", steps=2)
    with pytest.raises(ArgumentError, match="noise ratio"):
        pf.sample(model, start, solver="heun", steps=4, grid="karras")
    with pytest.raises(SingularTimeError, match=r"gamma = 0.*vanishes there"):
        pf.sample(model, start, solver=solvers.solver("sra1", diffusion=0.4), steps=4)
    with pytest.raises(ArgumentError, match="noising process"):
        pf.sample(model, start, solver=solvers.solver("sra1", diffusion="reversal"), steps=4)
    with pytest.raises((ArgumentError, PlanError), match="guidance"):
        pf.sample(model, start, solver="heun", steps=4, guidance=2.0)
    with pytest.raises(SingularTimeError, match="gamma' is infinite"):
        pf.sample(scalar(TwoSided()).model("drift"), start, solver="heun", steps=4)
    with pytest.raises(ArgumentError, match="one head"):
        pf.sample(scalar(TwoSided()).model("velocity", None), start, solver="sra1", steps=4)
    with pytest.raises(ArgumentError, match="below 4"):
        TwoSided("trigonometric", strength=4.0)
    with pytest.raises(ArgumentError, match="strength"):
        TwoSided(strength=-0.1)
    with pytest.raises(UnknownNameError, match="'bezier'"):
        TwoSided("bezier")
    with pytest.raises(UnknownNameError, match="'sawtooth'"):
        TwoSided(latent="sawtooth")
    with pytest.raises(ArgumentError, match="beside 'drift'"):
        TwoSidedPrediction(TwoSided(), motion="drift", noise_head=None)
    with pytest.raises(ArgumentError, match="a TwoSided path"):
        TwoSidedPrediction(models.Linear())
    with pytest.raises(ArgumentError, match="eigenvalue"):
        CouplingOracle([1.0], [([0.0], [[1.0]])], [([0.0], [[1.0]])], [[[2.0]]])
    with pytest.raises(ShapeError, match=r"\[B, 1\]"):
        scalar(TwoSided()).velocity(torch.zeros(2, 3), 0.5)
    read = TwoSidedPrediction(TwoSided(), noise_sign=-1)
    assert models.prediction_from_config(read.to_config()) == read
