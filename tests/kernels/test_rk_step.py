"""`rk_step`: the same bits on every backend, within a derived bound of the exact numbers, one sample at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants
from scipy.integrate import DOP853, RK45

from pushforward.kernels import backend, rk_step
from pushforward.kernels.dispatch import native_module
from pushforward.kernels.ordered_sum import ordered_sum

VARIANTS = variants("rk_step")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Rows of every kind: none, one element, shorter and longer than a vector, a block, several blocks, blocks of blocks.
SHAPES = [
    (0, 3),
    (3, 0),
    (1,),
    (37,),
    (513, 2),
    (341, 3),
    (50, 4),
    (9, 5),
    (8, 127),
    (3, 128),
    (2, 2, 3, 99),
    (2, 2051),
]


def make(shape, dtype, seed, layout="contiguous"):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if layout == "offset":
        return torch.empty(values.numel() + 3, dtype=dtype)[3:].view(shape).copy_(values)
    if layout == "transposed":
        return torch.empty(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1]).copy_(values)
    return values


@st.composite
def problems(draw):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    count, estimates, dense = draw(st.integers(1, 16)), draw(st.integers(1, 2)), draw(st.integers(0, 4))
    seed = draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    layouts = st.sampled_from(["contiguous", "offset", "transposed"])
    x, *stages = (make(shape, dtype, seed + k, draw(layouts)) for k in range(1 + count))
    table = torch.randn(1 + estimates + dense, count, generator=generator, dtype=torch.float64)
    table *= torch.rand(table.shape, generator=generator) < 0.8  # some weights are zero
    table[1 : 1 + estimates] *= 1e-2
    h = 0.1 if draw(st.booleans()) else torch.rand(shape[0], generator=generator, dtype=torch.float64) - 0.5
    rtol, atol = draw(st.sampled_from([(1e-3, 1e-4), (0.0, 1e-2), (1e-2, 0.0)]))
    return x, stages, h, table.tolist(), estimates, {"rtol": rtol, "atol": atol}


def run(problem, **more):
    x, stages, h, table, estimates, tolerances = problem
    return rk_step(x, stages, h, table[0], table[1 : 1 + estimates], **tolerances, dense=table[1 + estimates :], **more)


def assert_same(result, expected):
    for a, b in zip((result.x, *result.dense), (expected.x, *expected.dense), strict=True):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(result.error, expected.error, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "reference"])
@settings(max_examples=25)
@given(problem=problems())
def test_the_same_bits_as_the_reference(variant, problem):
    with backend("reference"):
        expected = run(problem)
    with using(variant):
        assert_same(run(problem), expected)


@settings(max_examples=60)
@given(problem=problems())
def test_the_reference_is_within_the_rounding_bound(problem):
    x, stages, h, table, estimates, tolerances = problem
    with backend("reference"):
        step = run(problem)
    wide, narrow = torch.finfo(torch.promote_types(x.dtype, torch.float32)), torch.finfo(x.dtype)
    column = torch.as_tensor(h, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1))
    before = x.double()

    def exact(weights, start):
        """The sum, and the bound: each coefficient, product and sum rounds once."""
        terms = [column * w * k.double() for w, k in zip(weights, stages, strict=True)]
        size = sum((t.abs() for t in terms), start.abs())
        return start + sum(terms), (len(terms) + 2) * wide.eps * size

    def stored(value, bound):
        return bound + narrow.eps / 2 * value.abs() + 2 * narrow.tiny

    after, rounding = exact(table[0], before)
    assert ((step.x.double() - after).abs() <= stored(after, rounding)).all()
    for q, weights in zip(step.dense, table[1 + estimates :], strict=True):
        value, bound = exact(weights, torch.zeros_like(before))
        assert ((q.double() - value).abs() <= stored(value, bound)).all()

    rtol, atol = tolerances["rtol"], tolerances["atol"]
    scale = atol + rtol * torch.maximum(before.abs(), step.x.double().abs())
    for e, weights in enumerate(table[1 : 1 + estimates]):
        value, bound = exact(weights, torch.zeros_like(before))
        ratio = (value / scale)[..., None].flatten(1)
        # A norm differs by at most the norm of the differences: of the estimate, and of a few roundings of the ratio.
        away = (bound / scale)[..., None].flatten(1) * (1 + 8 * wide.eps) + 8 * wide.eps * ratio.abs()
        size = max(ratio.shape[1], 1)
        norm, slack = ((r.square().sum(1) / size).sqrt() for r in (ratio, away))
        assert ((step.error[:, e] - norm).abs() <= slack + 30 * torch.finfo(torch.float64).eps * norm).all()


def test_ordered_sum_adds_in_the_order_it_says():
    for count in (0, 1, 2, 3, 1000, 1024, 1025, 3000):
        terms = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
        blocks = []
        for block in terms.split(1024):
            level = torch.cat([block, torch.zeros(1024 - len(block), dtype=torch.float64)]).tolist()
            while len(level) > 1:
                half = len(level) // 2
                level = [a + b for a, b in zip(level[:half], level[half:], strict=True)]
            blocks += level
        assert len(blocks) <= 3
        while len(blocks) > 1:  # 3 blocks: (0 + 2) + 1
            half = 1 << ((len(blocks) - 1).bit_length() - 1)
            blocks = [blocks[i] + (blocks[i + half] if i + half < len(blocks) else 0.0) for i in range(half)]
        assert ordered_sum(terms).item() == (blocks[0] if blocks else 0.0)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("reference", "triton")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 127, 128, 255, 341, 512, 513, 1016, 1023, 1024, 1025, 2056])
def test_at_the_bounds_of_blocks(variant, dtype, size):
    """Rows that fill blocks and vectors or miss them by one, in memory that begins at a bound of 16 bytes or not."""
    whole = max(1, 1100 // size // 8) * 8  # rows of which any number of elements is a multiple of 8
    for rows, layout in ((whole, "contiguous"), (whole, "offset"), (whole - 1, "contiguous"), (1, "contiguous")):
        x, *stages = (make((rows, size), dtype, k, layout) for k in range(6))
        table = torch.randn(4, 5, generator=torch.Generator().manual_seed(size), dtype=torch.float64).tolist()
        h = torch.linspace(0.1, 0.3, rows, dtype=torch.float64)
        tolerances = {"rtol": 1e-3, "atol": 1e-3}
        for problem in ((x, stages, h, table[:2], 1, tolerances), (x, stages, 0.1, table, 2, tolerances)):
            with backend("reference"):
                expected = run(problem)
            with using(variant):
                assert_same(run(problem), expected)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("reference", "triton")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", range(4))
def test_one_tensor_beside_the_bounds_of_vectors(variant, dtype, odd):
    x, *stages, out = (make((2, 1024), dtype, k, "offset" if k == odd else "contiguous") for k in range(4))
    problem = (x, stages, 0.1, [[0.5, -1.0], [1e-3, 1e-2]], 1, {"rtol": 1e-3, "atol": 1e-3})
    with backend("reference"):
        expected = run(problem)
    with using(variant):
        step = run(problem, out=out)
    assert_same(step, expected)


@pytest.mark.skipif("cuda" not in VARIANTS, reason="there are no CUDA kernels")
def test_room_for_sums_of_blocks_of_blocks_of_blocks():
    """That many elements are too many for a test of the kernel."""
    assert [native_module.gpu_rk_step_scratch(3, size, 2) for size in (1, 1024, 1025)] == [0, 0, 12]
    assert native_module.gpu_rk_step_scratch(1, 2**30 + 1, 1) == (2**20 + 1) + (2**10 + 1) + 2


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("reference", "triton")])
def test_more_than_a_million_elements_a_sample(variant):
    """Sums of blocks are then more than one block themselves."""
    x, k = make((2, 2**20 + 1028), torch.float32, 0), make((2, 2**20 + 1028), torch.float32, 1)
    problem = (x, [k, x], 0.1, [[1.0, 0.5], [1e-3, 1e-3], [1e-3, 0.0]], 2, {"rtol": 1e-3, "atol": 1e-3})
    with backend("reference"):
        expected = run(problem)
    with using(variant):
        assert_same(run(problem), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 5, 200, 1500])
def test_a_sample_does_not_depend_on_its_batch_or_the_threads(variant, dtype, size):
    batch = 11 if variant == "triton" else 2000 // size + 11
    x, *stages = (make((batch, size), dtype, k) for k in range(4))
    h = torch.linspace(-0.1, 0.3, batch, dtype=torch.float64)
    rows = ([0.5, 0.0, 1.0], [[1.0, -2.0, 1.0]])
    threads = torch.get_num_threads()
    with using(variant):
        whole = rk_step(x, stages, h, *rows, rtol=1e-3, atol=1e-3)
        part = rk_step(x[5:9], [k[5:9] for k in stages], h[5:9], *rows, rtol=1e-3, atol=1e-3)
        try:
            torch.set_num_threads(1)
            alone = rk_step(x, stages, h, *rows, rtol=1e-3, atol=1e-3)
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(whole.x, alone.x)
    assert torch.equal(whole.error, alone.error)
    assert torch.equal(whole.x[5:9], part.x)
    assert torch.equal(whole.error[5:9], part.error)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in Triton's interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_bad_sample_changes_no_other(variant):
    for dtype in (torch.float32, torch.float64):
        for size in (3, 300):
            x, k1, k2 = (make((6, size), dtype, k) for k in range(3))
            args = (0.5, [0.5, 0.5], [1e-3, -1e-3])
            with using(variant):
                good = rk_step(x, [k1, k2], *args, rtol=1e-3, atol=1e-3)
                k1[1, 2], k2[2, 0], x[4, 1], k2[5, 1] = math.nan, math.inf, -math.inf, torch.finfo(dtype).max
                bad = rk_step(x, [k1, 4 * k2], 1.0, [1.0, 0.25], [0.0, 1.0], rtol=1e-3, atol=1e-3)
                same = rk_step(x, [k1, k2], *args, rtol=1e-3, atol=1e-3)
            for row in (0, 3):
                assert torch.equal(good.x[row], same.x[row])
                assert torch.equal(good.error[row], same.error[row])
            assert not torch.isfinite(bad.error[[1, 2, 4, 5]]).any(), "also where only the new state is not finite"
            assert torch.isfinite(bad.error[[0, 3]]).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in Triton's interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_state_that_overflows_when_stored_is_an_error(variant):
    """The estimate is finite, and over an infinite tolerance would look small."""
    x = torch.full((2, 3), 60000.0, dtype=torch.float16)
    k = torch.tensor([[1e4] * 3, [1.0] * 3], dtype=torch.float16)
    with using(variant):
        step = rk_step(x, [k], 1.0, [1.0], [1e-6], rtol=1e-3, atol=1e-3)
    assert torch.isinf(step.x[0]).all()
    assert step.error[0].isnan()
    assert step.error[1].isfinite()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in Triton's interpreter
@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_weights_zero_errors_and_zero_steps(variant):
    x, k = torch.zeros(2, 3), torch.ones(2, 3)
    bad = torch.full((2, 3), math.nan)
    with using(variant):
        step = rk_step(x, [k, bad], 1.0, [1.0, 0.0], [0.0, 0.0], rtol=1e-3, atol=0.0, dense=[[0.0, 0.0]])
        assert torch.equal(step.x, k), "a stage without weight does not matter"
        assert torch.equal(step.error, torch.zeros(2, dtype=torch.float64))
        assert torch.equal(step.dense[0], torch.zeros(2, 3))
        still = rk_step(x, [k], 0.0, [1.0], [1.0], rtol=1e-3, atol=0.0)
        assert still.error.tolist() == [0.0, 0.0], "no error, no tolerance: 0, not 0 / 0"
        assert rk_step(x, [bad], 0.0, [1.0], [1.0], rtol=0.0, atol=1.0).x.isnan().all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 3), (2, 1300)])
def test_in_place_gives_the_same_bits(variant, dtype, shape):
    tensors = [make(shape, dtype, k) for k in range(4)]
    rows = (0.1, [0.5, 0.25, -1.0], [1.0, 0.0, -1.0])
    with using(variant):
        expected = rk_step(tensors[0], tensors[1:], *rows, rtol=1e-3, atol=1e-3)
        for target in range(4):
            shifted = [torch.empty(x.numel() + 1, dtype=dtype)[1:].view(shape).copy_(x) for x in tensors]
            step = rk_step(shifted[0], shifted[1:], *rows, rtol=1e-3, atol=1e-3, out=shifted[target])
            assert step.x is shifted[target]
            assert torch.equal(step.x, expected.x)
            assert torch.equal(step.error, expected.error)
        strided = torch.empty((*shape[:-1], 2 * shape[-1]), dtype=dtype)[..., ::2]
        assert torch.equal(rk_step(tensors[0], tensors[1:], *rows, rtol=1e-3, atol=1e-3, out=strided).error, step.error)
        assert torch.equal(strided, expected.x)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", [RK45, DOP853])
def test_a_step_of_scipy(variant, method):
    """Stages of scipy's step; its state, error norm and dense output, with another order of sums (30 roundings)."""
    solver = method(lambda t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]], 0.0, [2.0, 0.5], 1.0, first_step=0.1)
    solver.step()
    stages = [torch.from_numpy(k)[None] for k in solver.K[: solver.n_stages + 1]]
    x, h = torch.from_numpy(solver.y_old)[None], solver.step_size
    scale = 1e-6 + 1e-3 * abs(solver.y_old).clip(abs(solver.y))
    if method is RK45:
        estimates, dense = [solver.E], solver.P.T
        expected = solver._estimate_error_norm(solver.K, h, scale)
    else:
        estimates, dense = [solver.E5, solver.E3], []
        expected = solver._estimate_error_norm(solver.K[: solver.n_stages + 1], h, scale)
    with using(variant):
        step = rk_step(x, stages, h, [*solver.B, 0.0], estimates, rtol=1e-3, atol=1e-6, dense=dense)
    torch.testing.assert_close(step.x[0], torch.from_numpy(solver.y), rtol=1e-14, atol=0)
    fifth, third = step.error[0].tolist() if method is DOP853 else (step.error.item(), None)
    error = fifth if third is None else fifth**2 / math.sqrt(fifth**2 + 0.01 * third**2)
    assert error == pytest.approx(expected, rel=1e-9)  # estimates cancel: some digits of them are lost
    if method is RK45:
        theta = 0.3
        middle = x + sum(q * theta ** (j + 1) for j, q in enumerate(step.dense))
        torch.testing.assert_close(middle[0], torch.from_numpy(solver.dense_output()(theta * h)), rtol=1e-13, atol=0)
