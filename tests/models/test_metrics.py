"""Metrics against closed forms, against their own definitions written as loops, and against other packages."""

import math

import numpy as np
import pytest
import torch

from pushforward.errors import ArgumentError, NotFiniteError, ShapeError
from pushforward.models.training import metrics


def normal(n: int, p: int, seed: int) -> torch.Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n: int, p: int, seed: int) -> torch.Tensor:
    """Samples whose mean is 0 and whose unbiased covariance is the identity, up to rounding."""
    x = normal(n, p, seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_frechet_of_diagonal_covariances():
    x, y = whitened(400, 3, 0), whitened(300, 3, 1)
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([2.0, 2.0, 3.0]).double()
    shift = torch.tensor([1.0, -2.0, 0.0]).double()
    assert metrics.frechet_distance(x * a, y * b + shift) == pytest.approx(5 + (a - b).square().sum().item(), rel=1e-10)


def test_frechet_of_covariances_that_do_not_commute():
    """Against the trace of scipy's matrix root of A B, which is what the eigenvalue form replaces."""
    scipy_linalg = pytest.importorskip("scipy.linalg")
    x, y = normal(500, 6, 0) @ normal(6, 6, 1), normal(400, 6, 2) @ normal(6, 6, 3) + 1
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = gap + np.trace(a) + np.trace(b) - 2 * np.trace(scipy_linalg.sqrtm(a @ b).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_degenerate_features():
    """A constant feature has no variance; rounding must not turn the root of -1e-17 into NaN."""
    x = torch.cat([normal(100, 2, 0), torch.ones(100, 2, dtype=torch.float64)], dim=1)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_bias_is_what_the_warning_says():
    p, n = 16, 400
    values = [metrics.frechet_distance(normal(n, p, 2 * s), normal(n, p, 2 * s + 1)) for s in range(20)]
    assert np.mean(values) == pytest.approx((2 / n) * (p + p * (p + 1) / 4), rel=0.1)
    with pytest.warns(UserWarning, match=r"n=100, p=16 is dominated by bias \(about 1\.7 "):
        metrics.frechet_distance(normal(100, p, 0), normal(100, p, 1))


def test_energy_distance_is_its_definition():
    x, y = normal(7, 3, 0), normal(5, 3, 1) + 1
    between = np.mean([math.dist(a, b) for a in x for b in y])
    inside = [np.mean([math.dist(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    assert metrics.energy_distance(x, y) == pytest.approx(2 * between - sum(inside), rel=1e-12)


def test_energy_distance_of_gaussians():
    """For N(0, 1) and N(m, 1), E|X - Y| is the mean of a folded normal of scale sqrt 2; four standard errors."""
    n, m = 3000, 1.5
    folded = lambda mean: 2 / math.sqrt(math.pi) * math.exp(-(mean**2) / 4) + mean * math.erf(mean / 2)  # noqa: E731
    expected = 2 * folded(m) - 2 * folded(0)
    assert metrics.energy_distance(normal(n, 1, 0), normal(n, 1, 1) + m) == pytest.approx(
        expected, abs=8 / math.sqrt(n)
    )


def test_energy_distance_does_not_depend_on_the_tiles():
    x, y = normal(2500, 2, 0), normal(1100, 2, 1)
    whole = 2 * torch.cdist(x, y).mean()
    for z in (x, y):
        whole -= torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").sum() / (len(z) * (len(z) - 1))
    assert metrics.energy_distance(x, y) == pytest.approx(whole.item(), abs=1e-9)


def test_energy_distance_matches_scipy():
    """In one dimension the energy distance is twice the squared L2 distance of the distribution functions."""
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(40, 1, 0), normal(30, 1, 1) + 0.5
    n, m = len(x), len(y)
    inside = [torch.cdist(z, z).sum().item() for z in (x, y)]
    biased = metrics.energy_distance(x, y) + inside[0] * (1 / (n * (n - 1)) - 1 / n**2)
    biased += inside[1] * (1 / (m * (m - 1)) - 1 / m**2)  # scipy uses V-statistics
    assert biased == pytest.approx(stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2, rel=1e-9)


def test_energy_null_quantile_accepts_equal_laws_and_rejects_others():
    accepted = 0
    for s in range(20):
        x, y = normal(60, 2, 2 * s), normal(50, 2, 2 * s + 1)
        accepted += metrics.energy_distance(x, y) <= metrics.energy_null_quantile(x, y, repeats=100)
    assert accepted >= 16  # 19 expected; 15 or fewer has probability 0.003
    assert metrics.energy_distance(x, y + 2) > metrics.energy_null_quantile(x, y + 2, level=0.99)


def test_class_agreement():
    logits = torch.eye(4)
    value, error, count = metrics.class_agreement(logits, torch.tensor([0, 1, 2, 0]))
    assert (value, count) == (0.75, 4)
    assert error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_precision_and_recall_are_their_definitions():
    real, fake, k = normal(40, 2, 0), normal(30, 2, 1) + 0.7, 3
    radius = lambda own, i: sorted(math.dist(own[i], z) for j, z in enumerate(own) if j != i)[k - 1]  # noqa: E731
    covered = lambda z, own: any(math.dist(z, own[i]) < radius(own, i) for i in range(len(own)))  # noqa: E731
    precision = np.mean([covered(z, real) for z in fake])
    recall = np.mean([covered(z, fake) for z in real])
    assert metrics.precision_recall(real, fake, k=k) == pytest.approx((precision, recall))


def test_radius_matches_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    real, fake, k = normal(200, 8, 0), normal(150, 8, 1) * 0.8, 5
    radius = neighbors.NearestNeighbors(n_neighbors=k).fit(fake.numpy()).kneighbors()[0][:, -1]  # itself excluded
    recall = (torch.cdist(real, fake) < torch.from_numpy(radius)).any(1).double().mean().item()
    assert metrics.precision_recall(real, fake, k=k)[1] == pytest.approx(recall)


def test_recall_sees_a_lost_mode_and_only_in_its_class():
    real, labels = normal(200, 2, 0), torch.arange(200) % 2
    fake = normal(200, 2, 1)
    fake[labels == 1] = 0.01 * fake[labels == 1]
    lively, dead = metrics.per_class_recall(real, labels, fake, labels)
    assert lively > 0.9
    assert dead < 0.1


def test_nearest_neighbour_ratio_finds_copies():
    train, fresh, held_out = normal(300, 4, 0), normal(200, 4, 1), normal(200, 4, 2)
    assert metrics.nearest_neighbour_ratio(fresh, train, held_out) == pytest.approx(1, abs=0.15)
    assert metrics.nearest_neighbour_ratio(train[:200] + 1e-3 * fresh, train, held_out) < 0.02
    with pytest.raises(ArgumentError, match="training"):
        metrics.nearest_neighbour_ratio(fresh, train, train)


def test_variance_ratio_is_a_square():
    x, labels = normal(100, 3, 0), torch.arange(100) % 2
    scale = torch.where(labels == 0, 1.0, 0.5)[:, None]
    assert metrics.variance_ratio(x, labels, scale * x + 7, labels) == pytest.approx([1, 0.25])


def test_misuse_is_named():
    x = normal(20, 3, 0)
    with pytest.raises(ShapeError, match="got 2 features, expected 3"):
        metrics.energy_distance(x, x[:, :2])
    with pytest.raises(ShapeError, match="at least 6 samples"):
        metrics.precision_recall(x, x[:4])
    with pytest.raises(ShapeError, match="at least 2"):
        metrics.energy_distance(x[0], x)
    broken = x.clone()
    broken[7, 1] = math.nan
    with pytest.raises(NotFiniteError, match=r"y: got NaN or infinity in row 7 \(1 rows"):
        metrics.energy_distance(x, broken)
    with pytest.raises(ShapeError, match="labels"):
        metrics.class_agreement(torch.zeros(3, 10), torch.zeros(4))
    with pytest.raises(ArgumentError, match="level"):
        metrics.energy_null_quantile(x, x + 1, level=1.0)
