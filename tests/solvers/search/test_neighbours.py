"""Neighbours of a noise: norm, angle, directions that are uniform, and the same for every batch and backend."""

import math

import pytest
import torch
from kernel_variants import cpu_backends

from pushforward import errors
from pushforward.kernels import PURPOSE_INITIAL, PURPOSE_NEIGHBOUR, Draw, backend, normal
from pushforward.solvers.search import neighbours

KEY = {"seed": 11, "draw": Draw(PURPOSE_NEIGHBOUR, 2, 1, 3)}


def pivots(*shape, dtype=torch.float32):
    return (3 * normal(shape, seed=1, draw=Draw(PURPOSE_INITIAL, 0))).to(dtype)


def rows(x):
    return x.double().flatten(1)


def directions(near, noise, cosine):
    """The z of the definition."""
    n, norm = rows(noise), rows(noise).norm(dim=1, keepdim=True)
    return (rows(near) / norm - cosine * n / norm) / math.sqrt(1 - cosine**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [0.5, 0.95, 1e-3, 1 - 1e-6])
@pytest.mark.parametrize("shape", [(3000, 2), (500, 3), (40, 4, 8, 8)])
def test_norm_and_cosine(shape, cosine, dtype):
    """To 1e-6 in any dimension: in two, a normal is often so nearly parallel to the pivot that little of it is left."""
    noise = pivots(*shape, dtype=dtype)
    near = neighbours(noise, cosine, **KEY)
    assert (near.dtype, near.shape) == (dtype, noise.shape)
    assert ((rows(near).norm(dim=1) / rows(noise).norm(dim=1) - 1).abs() < 1e-6).all()
    assert ((torch.cosine_similarity(rows(near), rows(noise)) - cosine).abs() < 1e-6).all()


def test_directions_of_independent_pairs_are_uncorrelated():
    """Each cosine has mean 0 and variance 1 / (d - 1)."""
    size, cosine = 64, 0.9
    noise = pivots(1, size).expand(2000, -1)
    z = directions(neighbours(noise, cosine, **KEY), noise, cosine)
    cosines = (z[::2] * z[1::2]).sum(1)
    assert abs(cosines.mean()) < 4 / math.sqrt(1000 * size)
    # The square of a cosine, Beta(1/2, (d - 2)/2), has variance below 2 / (d - 1)^2.
    assert abs((cosines**2).mean() - 1 / (size - 1)) < 4 * math.sqrt(2 / 1000) / (size - 1)


def test_directions_fill_the_orthogonal_space_evenly():
    """Their covariance is the projection, over d - 1; an entry of it has a variance below 2 / (R (d - 1)^2)."""
    size, count = 5, 20_000
    pivot = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0])
    noise = pivot.expand(count, -1)
    z = directions(neighbours(noise, 0.6, **KEY), noise, 0.6)
    n = pivot.double() / pivot.double().norm()
    expected = (torch.eye(size) - torch.outer(n, n)) / (size - 1)
    assert (z.T @ z / count - expected).abs().max() < 5 * math.sqrt(2 / count) / (size - 1)
    assert (z.mean(0).abs() < 5 / math.sqrt(count * (size - 1))).all()


def test_a_normal_has_normal_neighbours():
    """Second and fourth moments of one coordinate, within five standard errors (sqrt(2 / R) and sqrt(96 / R))."""
    count = 20_000
    noise = normal((count, 3), seed=2, draw=Draw(PURPOSE_INITIAL, 0))
    x = rows(neighbours(noise, 0.7, **KEY))[:, 1]
    assert abs((x**2).mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / count)


def test_a_row_depends_on_its_id_and_on_nothing_else():
    noise, ids = pivots(5, 3, 7), torch.tensor([4, 2**40, 0, 9, 1])
    together = neighbours(noise, 0.8, **KEY, ids=ids)
    for row in range(5):
        assert torch.equal(neighbours(noise[row : row + 1], 0.8, **KEY, ids=ids[row : row + 1])[0], together[row])
    strided = noise.repeat_interleave(2, 2)[:, :, ::2]
    assert torch.equal(neighbours(strided, 0.8, **KEY, ids=ids), together)
    same = noise[:1].expand(3, -1, -1)
    repeated = neighbours(same, 0.8, **KEY, ids=torch.tensor([3, 8, 3]))
    assert torch.equal(repeated[0], repeated[2])
    assert not torch.equal(repeated[0], repeated[1])
    for other in ({"seed": 12}, {"draw": Draw(PURPOSE_NEIGHBOUR, 2, 1, 4)}):
        assert not torch.equal(neighbours(noise, 0.8, **(KEY | {"ids": ids} | other)), together)
    assert neighbours(noise[:0], 0.8, **KEY).shape == (0, 3, 7)


@pytest.mark.parametrize("name", cpu_backends("gram"))
def test_backends_agree_to_the_last_bits(name):
    """Inner products and sums are the same bits; square roots and divisions of theirs are correctly rounded."""
    noise = pivots(3, 50)
    with backend("reference"):
        expected = neighbours(noise, 0.8, **KEY)
    with backend(name):
        assert torch.equal(neighbours(noise, 0.8, **KEY), expected)


@pytest.mark.parametrize(("dtype", "resolution"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_sixteen_bits_are_rounded_once(dtype, resolution):
    noise = pivots(4, 200, dtype=dtype)
    exact = neighbours(noise.double(), 0.8, **KEY)
    assert torch.equal(neighbours(noise, 0.8, **KEY), exact.to(dtype))
    assert ((rows(exact.to(dtype)).norm(dim=1) / rows(noise).norm(dim=1) - 1).abs() < resolution).all()


def test_wrong_arguments():
    noise = pivots(3, 4)
    for cosine in (0, 1, -0.5, 1.5, math.nan):
        with pytest.raises(errors.ArgumentError, match=r"cosine: got .*expected a number in"):
            neighbours(noise, cosine, **KEY)
    for shape in ((), (3,), (3, 1), (3, 0), (3, 1, 1)):
        with pytest.raises(errors.ShapeError, match=r"noise: got .* at least two numbers"):
            neighbours(torch.ones(shape), 0.8, **KEY)
    zero, bad = noise.clone(), noise.clone()
    zero[1], bad[2, 3] = 0, math.nan
    with pytest.raises(errors.ArgumentError, match="noise: got zeros in row 1 of 3"):
        neighbours(zero, 0.8, **KEY)
    with pytest.raises(errors.NotFiniteError, match="noise: got NaN or infinity in row 2 of 3"):
        neighbours(bad, 0.8, **KEY)
    with pytest.raises(errors.ShapeError, match="samples"):
        neighbours(noise, 0.8, **KEY, ids=torch.arange(2))
    with pytest.raises(errors.DtypeError, match="noise"):
        neighbours(noise.long(), 0.8, **KEY)
