"""Gradient guidance and steering, against fields that are known exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models import (
    ClassLogLikelihood,
    GaussianOracle,
    GradientGuidance,
    Linear,
    NoiseExperts,
    SteeringLoss,
    VPLinear,
    Window,
    adapt,
    composed,
    guided,
    reference_mixture,
    steered,
)

KINDS = ("velocity", "denoised", "noise", "score", "v", "edm")
MEAN = torch.tensor([0.7, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
TAU, Y = 0.3, torch.tensor([1.1], dtype=torch.float64)
STATE = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    gain = COVARIANCE @ A.T / (A @ COVARIANCE @ A.T + TAU**2)
    return MEAN + gain @ (Y - A @ MEAN), COVARIANCE - gain @ A @ COVARIANCE


def observed(path):
    """The log-likelihood of y = A x_1 + noise at a clean estimate, with the exact variance of A x_1 given x_t."""

    def log_likelihood(denoised, t):
        alpha, sigma, _, _ = path(t)
        inner = torch.linalg.inv(torch.linalg.inv(COVARIANCE) + alpha**2 / sigma**2 * torch.eye(2).double())
        variance = (A @ inner @ A.T + TAU**2)[0, 0]
        return -0.5 * (Y - denoised @ A.T).square().sum(1) / variance

    return log_likelihood


@pytest.mark.parametrize("path", [Linear(), VPLinear()], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_becomes_that_of_the_posterior(kind, path) -> None:
    """The gradient through an exact denoiser of Gaussian data is exact: the guided field is the posterior's."""
    prior, exact = GaussianOracle(MEAN, COVARIANCE, path), GaussianOracle(*posterior(), path)
    model = GradientGuidance.around(prior.model(kind), log_likelihood=observed(path))
    bound = model.bind()
    for t in (0.05, 0.5, 0.9):
        x = STATE * model.prediction.input_scale(t)
        found, wanted = bound.evaluate(x, t)[0], exact.model(kind).evaluate(x, t)[0]
        assert (found - wanted).abs().max() < 1e-9 * wanted.abs().max()
    assert bound.backwards == 3


def test_samples_have_the_mean_and_the_covariance_of_the_posterior() -> None:
    """The flow is affine: where a law's mean and its mean plus columns of its root go says where the law goes."""
    m, c = posterior()
    times = [*(1 - 0.99 * math.exp(-k / 6) for k in range(60)), 1.0]
    alpha, sigma, _, _ = Linear()(times[0])
    root = torch.linalg.cholesky(alpha**2 * c + sigma**2 * torch.eye(2).double())
    model = GradientGuidance.around(GaussianOracle(MEAN, COVARIANCE).model(), log_likelihood=observed(Linear()))
    ends = pf.sample(model, alpha * m + torch.cat([torch.zeros(1, 2), root.T]), solver="rk4", grid=times)
    columns = ends[1:] - ends[0]
    assert (ends[0] - m).abs().max() < 1e-5  # 60 steps of order 4, each 1/6 in log sigma: (1/6)^4 / 120
    assert (columns.T @ columns - c).abs().max() < 1e-5


def test_the_gradient_through_the_denoiser_is_its_jacobians() -> None:
    """J = (alpha / sigma^2) Cov[x_1 | x]: the output moves by gamma (sigma^2 / alpha) J^T A^T (y - A D)."""
    t, gamma = 0.4, 0.7
    oracle = reference_mixture()
    target = torch.tensor([0.3, -0.2], dtype=torch.float64)
    model = GradientGuidance.around(
        oracle.model("denoised"), log_likelihood=lambda d, t: -0.5 * (d - target).square().sum(1), scale=gamma
    )
    found = model.evaluate(STATE, t)[0]
    d, jacobian = oracle.denoised(STATE, t), oracle.jacobian(STATE, t)
    gradient = torch.einsum("bij,bi->bj", jacobian, target - d)
    assert (found - (d + gamma * (1 - t) ** 2 / t * gradient)).abs().max() < 1e-8
    shortcut = GradientGuidance.around(
        oracle.model("velocity"), log_likelihood=model.log_likelihood, scale=gamma, kind="estimate"
    )
    moved = shortcut.prediction.denoised(t)
    estimate = moved.x * STATE + moved.output * shortcut.evaluate(STATE, t)[0]
    assert (estimate - (d + gamma * (target - d))).abs().max() < 1e-10


@pytest.fixture(scope="module")
def mixture():
    return reference_mixture()


def component(oracle, k):
    """The exact log-probability of a component given a noisy state."""
    return lambda x, t: torch.stack(oracle._shares(oracle._at(x, t)), 1)[:, k].log()


@pytest.mark.parametrize("kind", ["velocity", "denoised", "noise", "v", "edm"])
def test_a_classifier_that_knows_noise_gives_its_class_exactly(kind, mixture) -> None:
    """Guidance by grad log p(k | x_t) turns the mixture's field into that of component k."""
    k = 1
    alone = GaussianOracle(mixture.means[k], mixture.covariances[k])
    model = GradientGuidance.around(mixture.model(kind), log_likelihood=component(mixture, k), kind="state")
    start = STATE + 0.1
    grid = [0.02 + 0.96 * i / 20 for i in range(21)]
    ours, exact = (pf.sample(m, start, solver="heun", grid=grid) for m in (model, alone.model()))
    assert (ours - exact).abs().max() < 1e-9


def test_guidance_inside_adds_up_and_branches_share_a_gradient(mixture) -> None:
    sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
    both = composed(sharp, weak=broad)
    guidance = pf.models.Guidance(2.0, against="weak")
    likelihood = lambda x, t: -(x - 1).square().sum(1)  # noqa: E731
    around = GradientGuidance.around(both, log_likelihood=likelihood, kind="state")
    within = GradientGuidance.around(guided(both, guidance), log_likelihood=likelihood, kind="state")
    bound = around.bind(guidance=guidance)
    a, b = bound.evaluate(STATE, 0.5, ("cond", "weak"))
    assert bound.backwards == 1
    assert (2 * a - b - within.evaluate(STATE, 0.5)[0]).abs().max() < 1e-12
    through = GradientGuidance.around(both, log_likelihood=likelihood)
    with pytest.raises(ArgumentError, match="Guide the model inside"):
        through.bind(guidance=guidance).evaluate(STATE, 0.5, ("cond", "weak"))
    assert through.rewrapped(guided(both, guidance)).evaluate(STATE, 0.5)[0].shape == STATE.shape


def counted_network():
    net = torch.nn.Linear(2, 2, dtype=torch.float64)
    return net, adapt(lambda x, t: net(x), "velocity")


def test_one_backward_an_evaluation_and_none_where_the_scale_is_zero(monkeypatch) -> None:
    net, model = counted_network()
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    likelihood = lambda d, t: -d.square().sum(1)  # noqa: E731
    on = GradientGuidance.around(model, log_likelihood=likelihood)
    pf.sample(on, STATE, solver="heun", steps=4)
    assert len(calls) == 8 - 1 - 1, "two evaluations a step, but for t = 0 and t = 1"
    calls.clear()
    off = GradientGuidance.around(model, log_likelihood=likelihood, scale=lambda t: 0.0)
    assert torch.equal(pf.sample(off, STATE, solver="heun", steps=4), pf.sample(model, STATE, solver="heun", steps=4))
    assert not calls
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    with torch.inference_mode():
        assert on.evaluate(STATE.clone(), 0.5)[0].shape == STATE.shape


def test_a_run_can_be_differentiated_through_its_guidance() -> None:
    _, model = counted_network()
    for kind in ("state", "denoiser", "estimate"):
        steered_model = GradientGuidance.around(model, log_likelihood=lambda d, t: -(d**4).sum(1), kind=kind)

        def run(x, model=steered_model):
            return pf.sample(model, x, solver="euler", grid=[0.2, 0.5, 0.8], differentiable=True).sum()

        start = STATE.clone().requires_grad_()
        (slope,) = torch.autograd.grad(run(start), start)
        step = 1e-6 * torch.ones_like(STATE)
        with torch.no_grad():
            numeric = (run(STATE + step) - run(STATE - step)) / 2e-6
        assert abs(slope.sum() - numeric) < 1e-6 * abs(numeric)


@pytest.mark.parametrize("kind", ["state", "denoiser", "estimate"])
def test_parameters_are_differentiated_with_the_correction(kind) -> None:
    net, model = counted_network()
    around = GradientGuidance.around(model, log_likelihood=lambda d, t: -(d**4).sum(1), kind=kind)

    def run():
        return pf.sample(around, STATE, solver="euler", grid=[0.2, 0.5, 0.8], differentiable=True).sum()

    (slope,) = torch.autograd.grad(run(), net.bias)
    with torch.no_grad():
        net.bias += 1e-6
        more = run()
        net.bias -= 2e-6
        assert abs(slope.sum() - (more - run()) / 2e-6) < 1e-6 * abs(slope.sum())


@pytest.mark.parametrize("name", ["state", "denoiser", "estimate"])
def test_a_normalised_gradient_moves_every_estimate_equally_far(name, mixture) -> None:
    """By gamma sigma^2 / alpha, or gamma for "estimate"; a sample whose gradient is zero stays where it is."""
    t, gamma = 0.4, 0.3
    flat = torch.tensor([1.0, 0.0, 1e-3, 1e3, -1.0])
    likelihood = lambda x, t: flat * (x - 2).square().sum(1)  # noqa: E731
    far = gamma * (1.0 if name == "estimate" else (1 - t) ** 2 / t) * (flat != 0).double()
    found = []
    for kind in KINDS:
        model = mixture.model(kind)
        around = GradientGuidance.around(model, log_likelihood=likelihood, scale=gamma, kind=name, normalised=True)
        x, read = STATE * model.prediction.input_scale(t), model.prediction.denoised(t)
        found.append(read.x * STATE + read.output * around.evaluate(x, t)[0])
        assert ((found[-1] - mixture.denoised(STATE, t)).norm(dim=1) - far).abs().max() < 1e-12
    assert max((d - found[0]).abs().max() for d in found) < 1e-12
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    model = GradientGuidance.around(
        GaussianOracle(MEAN).model(), log_likelihood=lambda x, t: x.square().sum(1), kind="state", normalised=True
    )
    (slope,) = torch.autograd.grad(model.evaluate(x, t)[0].sum(), x)
    assert slope.isfinite().all()


def test_rows_are_as_alone(mixture) -> None:
    label = torch.tensor([0, 1, 2, 1, 0])

    def likelihood(x, t, label):
        times = t if isinstance(t, float) else torch.from_numpy(t)
        return torch.stack(mixture._shares(mixture._at(x, times)), 1).gather(1, label[:, None])[:, 0].log()

    times = np.array([0.0, 0.3, 0.3, 0.6, 0.9])
    for kind in ("state", "denoiser", "estimate"):
        model = GradientGuidance.around(
            mixture.model("edm").on("vp"), log_likelihood=likelihood, kind=kind, observed={"label": label}
        )
        bound = model.bind()
        scales = torch.from_numpy(model.prediction.input_scales(times + 1e-3))[:, None]
        together = bound.evaluate_rows(STATE * scales, times + 1e-3)[0]
        alone = bound.select([3]).evaluate((STATE * scales)[3:4], float(times[3] + 1e-3))[0]
        assert (together[3:4] - alone).abs().max() < 1e-12
        with pytest.raises(ShapeError, match="given 'label'"):
            bound.check_rows(4)


def test_gradient_guidance_refuses_in_words() -> None:
    model = GaussianOracle(MEAN, COVARIANCE).model()

    def run(likelihood, **options):
        return GradientGuidance.around(model, log_likelihood=likelihood, **options).evaluate(STATE, 0.5)

    with pytest.raises(ShapeError, match=r"objective: got \[\], expected \[5\]"):
        run(lambda d, t: d.sum())
    for detached in (lambda d, t: d.detach().sum(1), lambda d, t: torch.zeros(5, requires_grad=True)):
        with pytest.raises(ArgumentError, match=r"zero everywhere.* Was it detached"):
            run(detached)
    with pytest.raises(NotFiniteError, match=r"gradient: got NaN or infinity in 20% of the samples at t = 0.5"):
        run(lambda d, t: (d * torch.tensor([[1.0]] * 4 + [[math.nan]])).sum(1))
    for options, message in (
        ({"kind": "both"}, "kind: got 'both'"),
        ({"scale": math.inf}, "scale: got inf"),
        ({"observed": [1]}, "observed: got list"),
        ({"path": Linear()}, "path: got .*what looks at clean estimates knows no path"),
    ):
        with pytest.raises(ArgumentError, match=message):
            run(lambda d, t: d.sum(1), **options)
    with pytest.raises(ArgumentError, match="log_likelihood: got NoneType"):
        GradientGuidance.around(model)


# --- steered diffusion and experts -----------------------------------------------------------------------------------


def test_several_losses_share_a_backward_inside_their_windows(mixture) -> None:
    first, second = torch.tensor([1.0, 0.0]).double(), torch.tensor([[0.0, 2.0]] * 5).double()
    losses = (
        SteeringLoss(lambda d, t: (d - first).square().sum(1), 0.3, Window(0.3, 0.6)),
        SteeringLoss(lambda d, t, to: (d - to).square().sum(1), 0.2, Window(0.5, 1.0, "noise_ratio"), {"to": second}),
    )
    model = steered(mixture.model(), *losses, strength=0.5)
    bound = model.bind()
    counts = []
    for t in (0.1, 0.4, 0.55, 0.65, 0.8):  # nu = 9, 1.5, 0.82, 0.54, 0.25
        bound.evaluate(STATE, t)
        counts.append(bound.backwards)
    assert counts == [0, 1, 2, 3, 3]
    t = 0.55
    x = STATE.clone().requires_grad_()
    d = mixture.denoised(x, t)
    total = 0.3 * (d - first).square().sum() + 0.2 * (d - second).square().sum()
    wanted = (d - 0.5 * torch.autograd.grad(total, x)[0]).detach()
    affine = model.prediction.denoised(t)
    output = bound.evaluate(STATE, t)[0]
    assert (affine.x * STATE + affine.output * output - wanted).abs().max() < 1e-12
    rows = bound.evaluate_rows(STATE, [0.1, 0.4, t, 0.65, 0.8])[0]
    assert (rows[2] - output[2]).abs().max() < 1e-12
    assert torch.equal(rows[0], mixture.model().evaluate(STATE[:1], 0.1)[0][0])
    with pytest.raises(ArgumentError, match="losses: got none"):
        steered(mixture.model())


def test_experts_serve_half_open_ranges() -> None:
    experts = [lambda x, k=k: x + k for k in range(3)]
    for served in (NoiseExperts(experts, [3.0, 1.0]), NoiseExperts(experts, [0.25, 0.5], in_="t")):
        assert [served.index_at(t) for t in (0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0)] == [0, 0, 1, 1, 2, 2]
    equal = NoiseExperts.equal([experts[0]] * 5, VPLinear())
    grid = [k / 100 for k in range(101)]
    assert [sum(lo <= t < hi for lo, hi in map(equal.range_of, range(5))) for t in grid[:-1]] == [1] * 100
    assert [equal.index_at(t) for t in grid] == [min(k // 20, 4) for k in range(101)]
    x = torch.arange(4.0)[:, None]
    given = {"shift": torch.tensor([[0.0], [10.0], [20.0], [30.0]])}
    both = NoiseExperts([lambda x, shift: x + shift, lambda x, shift: -x - shift], [0.5], in_="t")
    assert both(x, np.array([0.7, 0.1, 0.5, 0.49]), **given)[:, 0].tolist() == [0.0, 11.0, -22.0, 33.0]
    one = torch.nn.Linear(1, 1)
    assert torch.equal(NoiseExperts([one] * 3, [3.0, 1.0])(x, 0.3), one(x))
    with pytest.raises(ArgumentError, match=r"boundaries: got \[1.0, 3.0\], expected falling noise ratios"):
        NoiseExperts(experts, [1.0, 3.0])
    with pytest.raises(ArgumentError, match="boundaries: got 1 of them, expected 2"):
        NoiseExperts(experts, [1.0])


def test_class_likelihoods_are_computed_wide() -> None:
    logits = torch.tensor([[0.0, 60.0], [1.0, 1.0]], dtype=torch.bfloat16)
    likelihood = ClassLogLikelihood(lambda x: logits, prepare=lambda x: 2 * x)
    found = likelihood(torch.zeros(2, 1), 0.5, label=torch.tensor([0]))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([-60.0, -math.log(2)])
    timed = ClassLogLikelihood(NoiseExperts([lambda x: -x, lambda x: x], [0.5], in_="t"))
    x = torch.tensor([[1.0, 0.0]] * 2)
    rows = timed(x, np.array([0.2, 0.8]), label=torch.tensor([0]))
    assert rows[0] < rows[1]
    told = []
    ClassLogLikelihood(lambda x, t: told.append(t) or x, timed=True)(x, np.array([0.2, 0.8]), label=torch.tensor([0]))
    assert torch.equal(told[0], torch.tensor([0.2, 0.8]))
    with pytest.raises(ShapeError, match="logits"):
        ClassLogLikelihood(lambda x: x[:1])(x, 0.5, label=torch.tensor([0]))


def test_implicit_conditioning_follows_a_loss_further_than_a_gradient_in_the_step() -> None:
    """Of the same strength: estimate and noise are moved, or the mean of an ancestral step by its variance."""
    oracle, strength, eta, steps = reference_mixture("vp"), 0.5, 1.0, 40
    path, target = oracle.interpolant, torch.tensor([1.0, 0.5], dtype=torch.float64)
    loss = SteeringLoss(lambda d, t: (d - target).square().sum(1))
    model = steered(oracle.model("noise"), loss, strength=lambda t: strength * path.sigma(t))
    times = [0.001 + 0.998 * k / steps for k in range(steps + 1)]
    start = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    implicit = pf.sample(model, start, solver=pf.solver("ddim", eta=eta), grid=times)
    x, generator = start, torch.Generator().manual_seed(1)
    for t, later in itertools.pairwise(times):
        (a, s, _, _), (b, r, _, _) = path(t), path(later)
        leaf = x.clone().requires_grad_()
        d = oracle.denoised(leaf, t)
        slope = torch.autograd.grad((d - target).square().sum(), leaf)[0]
        variance = eta**2 * r**2 / s**2 * (1 - a**2 / b**2)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = b * d.detach() + (r**2 - variance) ** 0.5 * (x - a * d.detach()) / s + variance**0.5 * noise
        x = x - strength * variance * slope
    assert (implicit - target).square().sum(1).mean() < (x - target).square().sum(1).mean()
