"""`brownian`: every variant gives the bits of the definition; sums are exact; the law, at any times."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import fast_backends, using, variants
from scipy.special import kolmogorov, ndtr

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.kernels import backend, brownian, brownian_walk

VARIANTS = [v for v in variants("brownian") if v != "reference"]
double = {"dtype": torch.float64}


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("area", [True, False])
@given(
    shape=st.sampled_from([(1, 1), (3, 2), (2, 5), (2, 64), (1, 70), (2, 3, 43), (2, 0), (0, 3)]),
    levels=st.sampled_from([0, 1, 4, 9]),
    count=st.integers(2, 6),
    shared=st.booleans(),
    dyadic=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
    span=st.sampled_from([1.0, 0.7, 1e-8, 1e6]),
)
@settings(max_examples=8)
def test_every_variant_gives_the_bits_of_the_reference(variant, area, shape, levels, count, shared, dyadic, seed, span):
    generator = torch.Generator().manual_seed(seed % 2**60)
    times = torch.rand((count,) if shared else (count, shape[0]), generator=generator, **double)
    times = (times * 8).round() / 8 if dyadic else times  # nodes of the tree, and times that coincide
    times, samples = times.sort(0).values, torch.arange(shape[0]) + 2**34
    key = {"seed": seed, "span": span, "levels": levels, "area": area, "samples": samples, "stream": 2**32 - 1}
    for dtype in (torch.float32, torch.float64):
        with backend("reference"):
            expected = brownian(shape, times, dtype=dtype, **key)
        with using(variant):
            result = brownian(shape, times, dtype=dtype, **key)
        assert torch.equal(result.w, expected.w)
        assert torch.equal(result.h, expected.h) if area else result.h is expected.h is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_deepest_tree(variant):
    """30 levels: numbers of nodes fill 32 bits."""
    with backend("reference"):
        expected = brownian((1, 5), at(0.3, 1 - 2.0**-31, 1.0), seed=1, levels=30)
    with using(variant):
        result = brownian((1, 5), at(0.3, 1 - 2.0**-31, 1.0), seed=1, levels=30)
    assert torch.equal(result.w, expected.w)
    assert torch.equal(result.h, expected.h)


@pytest.mark.parametrize("area", [True, False])
@pytest.mark.parametrize("levels", [3, 12])
def test_increments_add_up_exactly_and_areas_to_rounding(area, levels):
    """Whatever the decomposition: times at nodes, between them, and several within one smallest interval."""
    times = at(0.0, 0.1, 0.1000001, 0.11, 0.25, 0.2501, 0.7, 0.875, 1.0)
    key = {"seed": 3, "span": 2.0, "levels": levels, "area": area, **double}
    steps, lengths = brownian((2, 50), times, **key), 2.0 * times.diff()
    for i in range(len(times)):
        for j in range(i + 1, len(times)):
            whole = brownian((2, 50), times[[i, j]], **key)
            assert torch.equal(whole.w[0], steps.w[i:j].sum(0))
            if area:  # integrals of the path from times[i] on, minus the chord
                start = steps.w[i:j].cumsum(0) - steps.w[i:j]
                h = lengths[i:j, None, None]
                integral = (h * (start + 0.5 * steps.w[i:j] + steps.h[i:j])).sum(0)
                total = float(lengths[i:j].sum())
                torch.testing.assert_close(whole.h[0], integral / total - 0.5 * whole.w[0], rtol=0, atol=1e-8)


def ks(values, scale):
    """p-value of the Kolmogorov-Smirnov test against a normal of this deviation."""
    x = (values.flatten() / scale).sort().values.numpy()
    n = len(x)
    levels, steps = ndtr(x), torch.arange(n + 1, dtype=torch.float64).numpy() / n
    return kolmogorov(math.sqrt(n) * max((steps[1:] - levels).max(), (levels - steps[:-1]).max()))


@pytest.mark.parametrize("name", fast_backends("brownian")[-1:])
@pytest.mark.parametrize(("s", "u"), [(0.25, 0.5), (0.3, 0.55), (0.0, 0.1), (0.4999, 0.5003), (0.0, 1.0)])
def test_law_of_a_million_increments(name, s, u):
    """W and H of dyadic and other intervals: normal, of variances h and h / 12, independent.

    Ten p-values, so the least is below 1e-4 once in a thousand seeds; the correlation has deviation 1e-3.
    """
    with backend(name):
        w, h = brownian((1000, 1000), at(s, u), seed=11, span=3.0, levels=13)
    length = 3.0 * (u - s)
    assert min(ks(w.double(), math.sqrt(length)), ks(h.double(), math.sqrt(length / 12))) > 1e-4
    assert abs(float((w.double() * h.double()).mean()) / (length / math.sqrt(12))) < 5e-3


def test_law_of_neighbours():
    """Increments and areas of five neighbouring intervals are ten independent normals: five deviations of 45 pairs."""
    times = at(0.05, 0.3, 0.31, 0.5, 0.77, 1.0)
    w, h = brownian((500, 400), times, seed=5, levels=10, **double)
    lengths = times.diff()[:, None].sqrt()
    z = torch.cat([w.flatten(1) / lengths, h.flatten(1) / lengths * math.sqrt(12)])
    n = z.shape[1]
    assert float((z @ z.T / n - torch.eye(10)).abs().max()) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("theta", [0.5, 0.2, 1e-3, 1 - 1e-6])
def test_a_cut_has_the_covariance_of_a_path(theta):
    """Of (W, H) of both parts, from that of the whole: W has variance l, H has l / 12, and all are independent."""
    cut = brownian_walk.cut_at(theta, math.sqrt(0.3), True)
    rows = at(
        [cut.theta, cut.bend, cut.spread, 0.0],
        [0.0, cut.square_left, -cut.share_left, cut.twist_left],
        [1 - cut.theta, -cut.bend, -cut.spread, 0.0],
        [0.0, cut.square_right, -cut.share_right, -cut.twist_right],
    )
    found = rows @ torch.diag(at(0.3, 0.3 / 12, 1.0, 1.0)) @ rows.T
    left, right = 0.3 * theta, 0.3 * (1 - theta)
    torch.testing.assert_close(found, torch.diag(at(left, left / 12, right, right / 12)), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("name", fast_backends("brownian"))
def test_samples_do_not_depend_on_their_batch_nor_results_on_other_times(name):
    generator = torch.Generator().manual_seed(1)
    times, ids = torch.rand((5, 6), generator=generator, **double).sort(0).values, torch.arange(6) * 7 + 1
    with backend(name):
        w, h = brownian((6, 3), times, seed=2, samples=ids, levels=6)
        for b in (0, 4):
            alone = brownian((1, 3), times[:, b].contiguous(), seed=2, samples=ids[b : b + 1], levels=6)
            assert torch.equal(alone.w[:, 0], w[:, b])
            assert torch.equal(alone.h[:, 0], h[:, b])
        some = brownian((6, 3), times[2:4], seed=2, samples=ids, levels=6)
    assert torch.equal(some.w[0], w[2])
    assert torch.equal(some.h[0], h[2])


def test_other_keys_are_other_paths():
    def run(**key):
        return brownian((2, 4), at(0.1, 0.8), **{"seed": 1, **key}).w

    first = run()
    others = [{"seed": 2}, {"stream": 1}, {"samples": torch.tensor([5, 6])}, {"area": False}]
    assert all(not torch.equal(run(**other), first) for other in others)
    assert float((run(levels=20, dtype=torch.float64) - run(levels=24, dtype=torch.float64)).abs().max()) < 5e-3


def test_bad_arguments_are_named():
    def call(shape=(2, 3), times=None, **more):
        return brownian(shape, at(0.0, 1.0) if times is None else times, **{"seed": 1, **more})

    cases = [
        ({"times": at(0.5, 0.2)}, ArgumentError, "times"),
        ({"times": at(0.5, 1.2)}, ArgumentError, "times"),
        ({"times": at(math.nan, 1.0)}, ArgumentError, "times"),
        ({"times": at(0.5)}, ShapeError, "times"),
        ({"times": torch.zeros(2, 3, **double)}, ShapeError, "times"),
        ({"times": torch.zeros(2)}, DtypeError, "times"),
        ({"shape": ()}, ShapeError, "shape"),
        ({"span": 0.0}, ArgumentError, "span"),
        ({"levels": 31}, ArgumentError, "levels"),
        ({"dtype": torch.float16}, DtypeError, "dtype"),
        ({"samples": torch.tensor([1])}, ShapeError, "samples"),
        ({"stream": -1}, ArgumentError, "draw"),
    ]
    for arguments, kind, name in cases:
        with pytest.raises(kind, match=name):
            call(**arguments)
