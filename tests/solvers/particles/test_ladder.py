"""Tempering ladders: the published values, what is refused, and the adaptive share against its definition."""

import itertools
import math

import pytest
import torch

from pushforward.errors import ArgumentError
from pushforward.solvers.particles.ladder import Ladder, next_share, tempered

DOUBLE = torch.float64


def test_exponential_ladder_has_the_published_values():
    shares = Ladder.exponential(100, 0.008).shares
    assert shares[50] == pytest.approx(0.489, abs=5e-4)
    assert shares[86] < shares[87] == 1.0
    assert len(shares) == 101


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 100])
@pytest.mark.parametrize("name", ["exponential", "polynomial"])
def test_ladders_rise_from_nothing_to_all(name, steps):
    shares = Ladder.of(name, steps).shares
    assert len(shares) == steps + 1
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert all(a <= b for a, b in itertools.pairwise(shares))
    if name == "exponential":  # 1 is reached at 87 % of the steps
        assert [share > 1 - 1e-12 for share in shares[:-1]] == [k > 0.87 * steps - 1e-9 for k in range(steps)]


def test_polynomial_ladder():
    assert Ladder.polynomial(4, power=2.0).shares == (0.0, 1 / 16, 1 / 4, 9 / 16, 1.0)
    assert Ladder.polynomial(4, gamma=0.5).shares == (0.0, 0.5, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "shares", [(), (0.5, 0.4, 1.0), (-0.1, 1.0), (0.0, 0.5), (0.0, 1.5), (0.0, math.nan, 1.0), (math.nan,)]
)
def test_shares_that_are_no_ladder(shares):
    with pytest.raises(ArgumentError, match=r"^ladder"):
        Ladder(shares)


def test_parameters_and_names():
    with pytest.raises(ArgumentError, match=r"^gamma"):
        Ladder.exponential(10, 0.0)
    with pytest.raises(ArgumentError, match=r"^gamma, power"):
        Ladder.polynomial(10, power=-1.0)
    with pytest.raises(ArgumentError, match="'exponential', 'polynomial' or 'adaptive'"):
        Ladder.of("cosine", 10)
    with pytest.raises(ArgumentError, match="3 shares, expected 5"):
        Ladder.of((0.0, 0.5, 1.0), 4)
    assert Ladder.of(None, 3).shares == (1.0,) * 4


def size(log_weights):
    w = log_weights.softmax(1)
    return 1 / w.square().sum(1)


def test_adaptive_share_has_the_sample_size_asked_for():
    generator = torch.Generator().manual_seed(0)
    weights = 0.3 * torch.randn(5, 50, generator=generator, dtype=DOUBLE)
    level = torch.randn(5, 50, generator=generator, dtype=DOUBLE) * 0.1
    reward = torch.tensor([0.01, 1.0, 5.0, 30.0, 300.0], dtype=DOUBLE)[:, None] * torch.randn(
        5, 50, generator=generator, dtype=DOUBLE
    )
    start = torch.zeros(5, dtype=DOUBLE)
    share = next_share(weights, level, reward, start, 25.0)
    assert share[0] == 1.0
    assert (share[1:].diff() < 0).all()
    held = share < 1
    assert held.sum() >= 3
    sizes = size(weights + tempered(reward, share) - level)
    torch.testing.assert_close(sizes[held], torch.full((int(held.sum()),), 25.0, dtype=DOUBLE), rtol=1e-8, atol=0)
    assert (next_share(weights, level, reward, share, 49.0)[held] == share[held]).all(), "it never falls"


def test_forbidden_samples_do_not_spoil_the_share():
    """-inf counts from the first positive share on; without a share it counts nothing."""
    reward = torch.tensor([[-torch.inf, 0.0, 1.0, 2.0]], dtype=DOUBLE)
    none, half = torch.zeros(1, dtype=DOUBLE), torch.full((1,), 0.5, dtype=DOUBLE)
    assert tempered(reward, none).tolist() == [[0.0] * 4]
    assert tempered(reward, half).tolist() == [[-math.inf, 0.0, 0.5, 1.0]]
    share = next_share(torch.zeros(1, 4, dtype=DOUBLE), torch.zeros(1, 4, dtype=DOUBLE), reward, none, 2.5)
    alive = size(tempered(reward, share))
    assert alive.item() == pytest.approx(2.5, rel=1e-8)
