import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

from pushforward.errors import ArgumentError, ShapeError, SingularTimeError
from pushforward.models import (
    EDM,
    VE,
    Cosine,
    DiscreteDDPM,
    GaussianOracle,
    Linear,
    MixtureOracle,
    Trigonometric,
    VPLinear,
    reference_mixture,
)
from pushforward.models.oracles.components import WRITTEN_OUT

PATHS = [Linear(), Trigonometric(), VPLinear(), Cosine(), VE(), EDM(), DiscreteDDPM.linear()]
SMOOTH = PATHS[:-1]  # an integrator sees the kinks of a discrete path
QUANTITIES = ("velocity", "denoised", "noise", "score")
MEAN, COVARIANCE = [0.7, -0.4, 0.1], [[0.09, 0.03, 0.0], [0.03, 0.2, -0.05], [0.0, -0.05, 0.6]]


def gaussian(path):
    return GaussianOracle(MEAN, COVARIANCE, path)


def points(path):
    """Half of the point masses, half of a Gaussian: singular components too."""
    return MixtureOracle(
        [0.3, 0.3, 0.4], [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.0, 0.0, [[0.1, 0.02], [0.02, 0.3]]], path
    )


ORACLES = [gaussian, reference_mixture, points]
each_oracle = pytest.mark.parametrize("make", ORACLES, ids=lambda make: make.__name__)
each_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def derivatives(oracle, x, t):
    """Gradient of log p_t, and the Jacobians of D and v, by autograd; [B, d], [B, d, d], [B, d, d]."""
    x = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(oracle.log_prob(x, t).sum(), x)
    columns = []
    for quantity in (oracle.denoised, oracle.velocity):
        value = quantity(x, t)
        rows = [torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)[0] for i in range(value.shape[1])]
        columns.append(torch.stack(rows, dim=1))
    return score, *columns


@each_path
@each_oracle
def test_identities_and_derivatives(make, path):
    oracle = make(path)
    for t in (0.03, 0.5, 0.9):
        a, s, da, ds = path(t)
        x = oracle.sample(6, seed=5, t=t)
        v, d, n, score = (getattr(oracle, name)(x, t) for name in QUANTITIES)
        size = 1 + x.abs().max()
        assert (a * d + s * n - x).abs().max() <= 1e-14 * size
        assert (da * d + ds * n - v).abs().max() <= 1e-13 * (abs(da) + abs(ds)) * (1 + d.abs().max() + n.abs().max())
        assert (score + n / s).abs().max() <= 1e-13 * (1 + n.abs().max()) / s
        gradient, jacobian, of_velocity = derivatives(oracle, x, t)
        assert (gradient - score).abs().max() <= 1e-10 * (1 + score.abs().max())
        assert (oracle.jacobian(x, t) - jacobian).abs().max() <= 1e-9 * (1 + jacobian.abs().max())
        trace = of_velocity.diagonal(dim1=1, dim2=2).sum(1)
        assert (oracle.divergence(x, t) - trace).abs().max() <= 1e-9 * (1 + of_velocity.abs().max())
        # dv/dx from dD/dx: v = (sigma' x + W D) / sigma
        mixed = ds / s * torch.eye(x.shape[1], dtype=torch.float64) + (da * s - a * ds) / s * jacobian
        assert (mixed - of_velocity).abs().max() <= 1e-9 * (1 + (abs(ds) + abs(da)) / s)


@each_oracle
def test_the_continuity_equation(make):
    """d/dt log p_t(x) = -div v - v . score, the velocity's defining property, by central differences in t."""
    oracle, t, h = make(Linear()), 0.6, 1e-5
    x = oracle.sample(6, seed=5, t=t)
    rate = (oracle.log_prob(x, t + h) - oracle.log_prob(x, t - h)) / (2 * h)
    expected = -oracle.divergence(x, t) - (oracle.velocity(x, t) * oracle.score(x, t)).sum(1)
    assert (rate - expected).abs().max() <= 1e-7 * (1 + expected.abs().max())


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_log_prob_is_scipys(path):
    for t in (0.05, 0.5, 1.0):
        a, s, _, _ = path(t)
        x = gaussian(path).sample(5, seed=1, t=t)
        covariance = a * a * np.array(COVARIANCE) + s * s * np.eye(3)
        exact = multivariate_normal(a * np.array(MEAN), covariance).logpdf(x.numpy())
        np.testing.assert_allclose(gaussian(path).log_prob(x, t).numpy(), exact, rtol=1e-11)
    mixture = reference_mixture(path)
    x, (a, s, _, _) = mixture.sample(5, seed=1, t=0.5), path(0.5)
    density = sum(
        w.item() * multivariate_normal(a * m.numpy(), a * a * c.numpy() + s * s * np.eye(2)).pdf(x.numpy())
        for w, m, c in zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    )
    np.testing.assert_allclose(mixture.log_prob(x, 0.5).numpy(), np.log(density), rtol=1e-11)


@pytest.mark.parametrize("path", SMOOTH, ids=repr)
def test_the_flow_map_is_the_solution_of_the_flow(path):
    oracle, start, stop = gaussian(path), 0.02, 0.97
    x = oracle.sample(3, seed=2, t=start)

    def field(t, flat):
        return oracle.velocity(torch.from_numpy(flat).reshape(x.shape), t).numpy().ravel()

    solution = solve_ivp(field, (start, stop), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    exact = oracle.flow_map(x, start, stop).numpy().ravel()
    assert np.abs(solution.y[:, -1] - exact).max() <= 1e-10


@each_path
@settings(max_examples=40)
@given(times=st.tuples(*[st.floats(0, 0.999)] * 3), seed=st.integers(0, 100))
def test_flow_maps_compose_and_invert(path, times, seed):
    oracle, (r, s, t) = gaussian(path), times
    x = oracle.sample(2, seed=seed, t=r)
    direct, through = oracle.flow_map(x, r, t), oracle.flow_map(oracle.flow_map(x, r, s), s, t)
    scale = max(1, x.abs().max(), oracle.flow_map(x, r, s).abs().max(), direct.abs().max())
    # Going through a time where a direction is narrow keeps its rounding: the ratio of standard deviations.
    narrow = min(math.sqrt(path.alpha(u) ** 2 * 0.07 + path.sigma(u) ** 2) for u in times)
    assert (direct - through).abs().max() <= 1e-13 * scale * max(1, path.sigma(t) / narrow)


def test_flow_map_from_the_prior_to_the_data_is_affine_in_the_noise():
    oracle = gaussian(Linear())
    noise, _ = oracle.pairs(4, seed=1)
    mapped = oracle.flow_map(noise, 0.0, 1.0)
    values, vectors = torch.linalg.eigh(oracle.covariance)
    assert (mapped - oracle.mean - noise @ (vectors * values.sqrt()) @ vectors.T).abs().max() < 1e-13


@each_path
@each_oracle
def test_limits_at_the_ends(make, path):
    oracle = make(path)
    for end, near in ((0.0, 1e-10), (1.0, 1 - 1e-10)):
        x = oracle.sample(4, seed=3, t=end)
        for name in QUANTITIES:
            try:
                limit = getattr(oracle, name)(x, end)
            except SingularTimeError:
                assert make is points
                assert end == 1.0
                continue
            close = getattr(oracle, name)(x, near)
            assert limit.isfinite().all()
            # Derivatives of paths with a square root end approach theirs like the square root.
            assert (limit - close).abs().max() <= 2e-4 * (1 + close.abs().max())
        assert oracle.denoised(x, end).isfinite().all()
    if path.sigma(1.0) == 0:
        assert torch.equal(oracle.denoised(x, 1.0), x) or (oracle.denoised(x, 1.0) - x).abs().max() < 1e-15


def test_point_masses_have_no_density_at_the_end():
    oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]])
    x = torch.tensor([[0.5]], dtype=torch.float64)
    for quantity in (oracle.velocity, oracle.noise, oracle.score, oracle.log_prob):
        with pytest.raises(SingularTimeError, match="without spread"):
            quantity(x, 1.0)
    with pytest.raises(SingularTimeError, match=r"^start"):
        GaussianOracle([0.0], 0.0).flow_map(x, 1.0, 0.0)
    assert oracle.denoised(x, 1.0).item() == 0.5
    assert oracle.denoised(x, 0.5).item() == pytest.approx(math.tanh(1.0), rel=1e-14)  # tanh(alpha x / sigma^2)


def test_responsibilities_survive_distance():
    far = torch.tensor([[1e3, -1e3]], dtype=torch.float64)
    for t in (0.0, 0.5, 1.0):
        shares = reference_mixture().responsibilities(far, t)
        assert shares.sum().item() == pytest.approx(1, abs=1e-14)
        assert reference_mixture().velocity(far, t).isfinite().all()


@each_path
@each_oracle
def test_a_row_does_not_depend_on_its_batch(make, path):
    oracle = make(path)
    x = oracle.sample(67, seed=9, t=0.4)
    for name in (*QUANTITIES, "log_prob"):
        whole = getattr(oracle, name)(x, 0.4)
        for rows in (slice(0, 1), slice(5, 6), slice(3, 10), slice(1, 65)):
            assert torch.equal(getattr(oracle, name)(x[rows], 0.4), whole[rows])
            assert torch.equal(getattr(oracle, name)(x[rows].clone(), 0.4), whole[rows])


@each_path
@each_oracle
def test_times_of_their_own(make, path):
    oracle = make(path)
    times = torch.tensor([0.1, 0.7, 0.7, 0.95], dtype=torch.float64)
    x = torch.cat([oracle.sample(1, seed=i, t=t) for i, t in enumerate(times.tolist())])
    for name in (*QUANTITIES, "log_prob", "divergence", "jacobian"):
        together = getattr(oracle, name)(x, times)
        alone = torch.cat([getattr(oracle, name)(x[i : i + 1], t) for i, t in enumerate(times.tolist())])
        assert torch.equal(together, alone)


@each_oracle
def test_dtypes(make):
    oracle = make(Linear())
    x = oracle.sample(3, seed=1, t=0.5)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        low = oracle.velocity(x.to(dtype), 0.5)
        assert low.dtype == dtype
        assert torch.equal(low, oracle.velocity(x.to(dtype).double(), 0.5).to(dtype))


def test_events_of_any_shape():
    scalar = GaussianOracle()
    image = scalar.sample(2, seed=1, t=0.3, shape=(3, 4, 5))
    assert image.shape == (2, 3, 4, 5)
    flat = scalar.velocity(image.reshape(2, -1), 0.3)
    assert torch.equal(scalar.velocity(image, 0.3).reshape(2, -1), flat)
    mean, identity = torch.full((3, 4, 5), 0.7, dtype=torch.float64), torch.eye(60, dtype=torch.float64)
    diagonal = GaussianOracle(mean, torch.full((3, 4, 5), 0.09, dtype=torch.float64))
    full = GaussianOracle(mean, 0.09 * identity)
    for other in (diagonal, full):
        assert (other.velocity(image, 0.3) - scalar.velocity(image, 0.3)).abs().max() < 1e-13
        assert (other.log_prob(image, 0.3) - scalar.log_prob(image, 0.3)).abs().max() < 1e-10
    big = scalar.sample(2, shape=(WRITTEN_OUT + 1,))
    assert scalar.log_prob(big).shape == (2,)
    by_hand = GaussianOracle(0.7, 0.09).velocity(torch.tensor([[0.2]], dtype=torch.float64), 0.5)
    expected = 0.7 + (0.5 * 0.09 - 0.5) / (0.25 * 0.09 + 0.25) * (0.2 - 0.35)
    assert by_hand.item() == pytest.approx(expected, rel=1e-14)


@each_oracle
def test_samples_have_the_stated_moments_and_are_reproducible(make):
    oracle, count, t = make(Trigonometric()), 30_000, 0.7
    x = oracle.sample(count, seed=4, t=t)
    # E over data of the score is 0 (Stein), and of score x^T is -1: five standard errors.
    score = oracle.score(x, t)
    assert (score.mean(0).abs() <= 5 * score.std(0) / math.sqrt(count)).all()
    products = score[:, :, None] * x[:, None, :]
    error = products.mean(0) + torch.eye(x.shape[1], dtype=torch.float64)
    assert (error.abs() <= 5 * products.std(0) / math.sqrt(count)).all()
    assert torch.equal(oracle.sample(7, seed=4, t=t), x[:7])
    assert torch.equal(oracle.sample(2, seed=4, t=t, samples=torch.tensor([40, 3])), x[[40, 3]])
    noise, data = oracle.pairs(count, seed=4)
    a, s, _, _ = oracle.interpolant(t)
    assert torch.equal(a * data + s * noise, x)


def test_the_posterior_mean_is_the_best_estimate():
    """D predicts data from x_t with an error orthogonal to any function of x_t: here D itself and x."""
    oracle, t = reference_mixture("vp"), 0.45
    noise, data = oracle.pairs(30_000, seed=8)
    a, s, _, _ = oracle.interpolant(t)
    x = a * data + s * noise
    for target, estimate in ((data, oracle.denoised(x, t)), (noise, oracle.noise(x, t))):
        for probe in (estimate, x, torch.ones_like(x)):
            products = (target - estimate) * probe
            assert (products.mean(0).abs() <= 5 * products.std(0) / math.sqrt(len(x))).all()


def test_choices_follow_the_weights():
    oracle = MixtureOracle([1.0, 2.0, 1.0], [[0.0], [1.0], [2.0]])
    data = oracle.sample(20_000, seed=3)
    for value, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert (data == value).double().mean().item() == pytest.approx(share, abs=5 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize("kind", ["velocity", "denoised", "noise", "score", "v", "edm"])
def test_networks_undo_scale_and_clock(kind):
    for path in PATHS:
        oracle = reference_mixture(path)
        network = oracle.network(kind)
        reading = network.prediction
        times = torch.tensor([0.2, 0.6, 0.6], dtype=torch.float64)
        x = oracle.sample(3, seed=1, t=0.4)
        said = torch.tensor([reading.time(t) for t in times.tolist()], dtype=torch.float64)
        scales = torch.tensor([[reading.input_scale(t)] for t in times.tolist()], dtype=torch.float64)
        raw = network(x * scales, said)
        for i, t in enumerate(times.tolist()):
            x_part, output_part = reading.denoised(t)
            exact = oracle.denoised(x[i : i + 1], t)
            assert (x_part * x[i] + output_part * raw[i] - exact).abs().max() <= 1e-9
        assert (network.calls, network.rows) == (1, 3)


def test_the_oracle_speaks_with_options():
    oracle = GaussianOracle(interpolant=Linear())
    x = torch.tensor([[0.3]], dtype=torch.float64)
    flux = oracle.network("velocity", sign=-1, network_time="1-t")
    assert torch.equal(flux(x, 0.75), -oracle.velocity(x, 0.25))
    karras = GaussianOracle(interpolant=EDM()).network("denoised", input="ratio")
    assert (karras(x, torch.tensor(2.0)) - GaussianOracle(interpolant=EDM()).denoised(x, 1 - 2 / 80)).abs() < 1e-13
    with pytest.raises(TypeError):
        oracle.network()(x, 0.5, label=3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: GaussianOracle([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            ArgumentError,
            "the eigenvalue -1, expected",
        ),
        (lambda: GaussianOracle([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), ArgumentError, "not symmetric"),
        (
            lambda: GaussianOracle([0.0, 0.0], [1.0, 2.0, 3.0]),
            ShapeError,
            r"expected a number, \[2\], or \[2, 2\]",
        ),
        (lambda: GaussianOracle(math.nan), ArgumentError, "NaN or infinity"),
        (lambda: GaussianOracle(0.0, -1.0), ArgumentError, "the eigenvalue -1"),
        (lambda: MixtureOracle([0.5, -0.5], [[0.0], [1.0]]), ArgumentError, r"weights: got \[0.5, -0.5\]"),
        (lambda: MixtureOracle([], []), ArgumentError, "weights"),
        (lambda: MixtureOracle([1.0], [[0.0], [1.0]]), ArgumentError, "1 weights, 2 means, 1 covariances"),
        (lambda: MixtureOracle([1.0, 1.0], [[0.0], [1.0, 2.0]]), ShapeError, r"means\[1\]: got \[2\], expected \[1\]"),
        (lambda: reference_mixture().velocity(torch.zeros(3), 0.5), ShapeError, r"x: got \[3\], expected \[B, 2\]"),
        (
            lambda: GaussianOracle().velocity(torch.zeros(3, dtype=torch.int64), 0.5),
            ArgumentError,
            "x: got torch.int64",
        ),
        (lambda: GaussianOracle().velocity(torch.zeros(3), math.nan), ArgumentError, "t: got nan"),
        (lambda: reference_mixture().sample(3, shape=(4,)), ShapeError, r"shape: got \(4,\)"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
