"""Log-weights, updated and normalised: every backend against the definition, for any number of threads."""

import math

import pytest
import torch
from kernel_variants import using, variants

from pushforward import errors
from pushforward.kernels import reweigh

# The native function is compiled once: instruction sets make no difference.
VARIANTS = ["reference", *[name for name in variants("weight_update") if name in ("native generic", "triton")]]
DOUBLE = torch.float64


def numbers(*shape, seed=0, scale=3.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 4096), (5, 4097), (1, 100_000)])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_weights_sums_and_sizes(variant, shape, corrected, equal):
    weights = numbers(shape[0], 1).expand(shape) if equal else numbers(*shape)
    level, before = numbers(*shape, seed=1), numbers(*shape, seed=2)
    correction = numbers(*shape, seed=3) if corrected else None
    if shape[1] > 1:
        before[:, 1], level[0, 0] = -math.inf, -math.inf
    wide = weights + level - before + (0 if correction is None else correction)
    wide = torch.where(before == -math.inf, before, wide)
    with using(variant):
        result = reweigh(weights, level, before, correction)
    # exp has a relative error below 1e-15 on every backend, and so have sums of positive numbers, block by block.
    torch.testing.assert_close(result.log_sum, wide.logsumexp(1), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(result.log_weights, wide.log_softmax(1), rtol=1e-13, atol=1e-12)
    size = 1 / wide.softmax(1).square().sum(1)
    torch.testing.assert_close(result.ess, size, rtol=1e-11, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_far_from_zero(variant):
    weights, zero = numbers(2, 50), torch.zeros(2, 50, dtype=DOUBLE)
    with using(variant):
        near, far = reweigh(weights, zero, zero), reweigh(weights, zero - 1e6, zero)
        spread = reweigh(weights, 1e4 * weights, zero)
    torch.testing.assert_close(far.log_sum, near.log_sum - 1e6, rtol=0, atol=1e-9)  # 1e6 is kept to 1e-10
    torch.testing.assert_close(far.ess, near.ess, rtol=1e-8, atol=0)
    assert (spread.log_weights.amax(1) <= 0).all()
    assert (spread.ess >= 1).all()


@pytest.mark.parametrize("variant", ["native generic"] if "native generic" in VARIANTS else [])
def test_threads_make_no_difference(variant):
    given = [numbers(3, 50_001, seed=seed) for seed in range(4)]
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            with using(variant):
                results.append(reweigh(*given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_refused(variant):
    zero = torch.zeros(3, 4, dtype=DOUBLE)
    with using(variant):
        with pytest.raises(errors.DtypeError, match=r"^level: got torch.float32"):
            reweigh(zero, zero.float(), zero)
        with pytest.raises(errors.ShapeError, match=r"^before"):
            reweigh(zero, zero, zero[:, :3])
        with pytest.raises(errors.ShapeError, match=r"^log_weights"):
            reweigh(zero[:, :0], zero[:, :0], zero[:, :0])
        for bad, what in ((math.nan, "NaN or"), (math.inf, "NaN or")):
            level = zero.clone()
            level[1, 2] = bad
            with pytest.raises(errors.NotFiniteError, match=f"{what}.* in row 1 of 3"):
                reweigh(zero, level, zero)
        level = zero.clone()
        level[2] = -math.inf
        with pytest.raises(errors.NotFiniteError, match=r"only dead particles .* in row 2 of 3"):
            reweigh(zero, level, zero)
