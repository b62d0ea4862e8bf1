"""`threshold` against numpy's quantile and, bit for bit, its definition: every variant, layout and dtype."""

import math

import kernel_variants
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from pushforward.kernels import backend, threshold

VARIANTS = kernel_variants.variants("threshold")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(0,), (1,), (5,), (3, 0), (1, 1), (4, 2), (3, 1023), (2, 3, 7, 11), (2, 5, 33, 31)]
LAYOUTS = ["contiguous", "offset", "transposed", "strided", "channels_last"]


def make(shape, dtype, layout, seed, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    values = (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    if layout == "offset":
        return torch.empty(values.numel() + 3, dtype=dtype)[3:].view(shape).copy_(values)
    if layout == "transposed":
        return torch.empty(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1]).copy_(values)
    if layout == "strided":
        return torch.empty((*shape[:-1], 2 * shape[-1]), dtype=dtype)[..., ::2].copy_(values)
    if layout == "channels_last" and len(shape) == 4:
        return values.to(memory_format=torch.channels_last)
    return values


def definition(x, *arguments, **options):
    with backend("reference"):
        return threshold(x, *arguments, **options)


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=123.0), b.nan_to_num(nan=123.0))


def agrees(variant, result, expected):
    """The same bits; but Triton's interpreter makes subnormal bfloat16 numbers zero."""
    if variant == "triton" and result.dtype == torch.bfloat16:
        result, expected = (torch.where(x.abs() < torch.finfo(x.dtype).tiny, 0, x) for x in (result, expected))
    return same(result, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    ratio=st.one_of(st.sampled_from([0.995, 1.0, 0.5]), st.floats(1e-3, 1)),
    floor=st.sampled_from([1.0, 0.25, 3.7]),
    cap=st.sampled_from([None, 4.0]),
    spread=st.sampled_from([1e-4, 0.7, 2.0, 100.0]),
    seed=st.integers(0, 99),
    given_out=st.sampled_from([None, "itself", *LAYOUTS]),
)
def test_equals_the_reference(variant, shape, dtype, layout, ratio, floor, cap, spread, seed, given_out):
    x = make(shape, dtype, layout, seed, spread)
    expected = definition(x.contiguous(), ratio, floor=floor, cap=cap)
    out = {None: None, "itself": x}.get(given_out, ...)
    out = make(shape, dtype, given_out, 1) if out is ... else out
    with kernel_variants.using(variant):
        result = threshold(x, ratio, floor=floor, cap=cap, out=out)
    assert out is None or result is out
    assert agrees(variant, result, expected)


@given(
    size=st.sampled_from([1, 2, 3, 100, 1001]),
    ratio=st.floats(1e-3, 1),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_the_definition_agrees_with_numpy(size, ratio, dtype, seed):
    x = make((2, size), dtype, "contiguous", seed)
    values = x.double().numpy()
    s = np.clip(np.quantile(np.abs(values), ratio, axis=1, keepdims=True), 0.5, 3.0)
    exact = torch.from_numpy(np.clip(values, -s, s) * (0.5 / s))
    # Roundings in the wide type, each relative to a number of the size of x or less: the fraction, the difference, the
    # product and the sum of the quantile, the quotient, the last product; then one to the dtype.
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    bound = 6 * wide + (torch.finfo(dtype).eps if dtype != torch.float64 else 0)
    result = definition(x, ratio, floor=0.5, cap=3.0)
    assert ((result.double() - exact).abs() <= bound * exact.abs() + 2 * torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hostile_values(variant, dtype):
    """Ties, one value only, zeros of both signs, subnormals, neighbours in different bins, infinities."""
    tiny, top = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    rows = [
        [3.0] * 8,
        [0.0, -0.0] * 4,
        [2.0, -2.0] * 4,
        [tiny, -tiny / 2, tiny / 4, 0.0, 1.0, -1.0, 2.0, 5.0],
        [top, -top, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        [math.inf, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        [math.inf, -math.inf, math.inf, math.inf, math.inf, 1.0, 2.0, 3.0],
        [math.inf, math.nan, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        [-math.nan, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        [1.0, 1.5, 0.99, 1.99, 2.01, 3.99, 4.01, 0.51],
    ]
    x = torch.tensor(rows, dtype=dtype)
    for ratio in (0.1, 4 / 7, 6.5 / 7) if variant == "triton" else (0.1, 0.5, 4 / 7, 0.8, 6.5 / 7, 1.0):
        expected = definition(x, ratio)
        with kernel_variants.using(variant):
            assert agrees(variant, threshold(x, ratio), expected)
        assert expected[7:9].isnan().all()
        assert not expected[:5].isnan().any()
        assert not expected[6, 5:].isnan().any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_does_not_depend_on_its_batch(variant):
    x = make((5, 777), torch.float32, "contiguous", 3)
    with kernel_variants.using(variant):
        whole = threshold(x)
        order = torch.tensor([3, 0, 4, 2, 1])
        assert torch.equal(threshold(x[order]), whole[order])
        for b in range(5):
            assert torch.equal(threshold(x[b : b + 1]), whole[b : b + 1])


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("native")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_threads_may_share_a_sample(variant, dtype, rows):
    """More than one stretch of the compiled module: 2**17 elements."""
    x = make((rows, 3 * 2**17 + 11), dtype, "contiguous", 5)
    x[:, ::1000] *= 50
    before = torch.get_num_threads()
    results = []
    try:
        with kernel_variants.using(variant):
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(threshold(x, 0.9971))
            x[-1, -1] = math.nan
            poisoned = threshold(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    x[-1, -1] = 0
    assert torch.equal(results[0][:, :-1], definition(x, 0.9971)[:, :-1])
    assert poisoned[-1].isnan().all()
    assert not poisoned[:-1].isnan().any()


def test_what_is_in_range_stays():
    x = make((3, 100), torch.float32, "contiguous", 1, spread=0.2)
    assert torch.equal(threshold(x), x)
    once = threshold(5 * x, 1.0)
    assert torch.equal(threshold(once, 1.0), once)
    assert torch.equal(threshold(9 * x, cap=1.0), (9 * x).clamp(-1, 1))
    assert threshold(torch.tensor([[0.5, -4.0, 1.0, 2.0]]), 1.0, cap=2.0).tolist() == [[0.25, -1.0, 0.5, 1.0]]


def test_operator():
    op = torch.ops.pushforward.threshold.default
    torch.library.opcheck(op, (make((2, 9), torch.float32, "contiguous", 0).requires_grad_(), 0.8, 1.0, math.inf))
    torch.library.opcheck(op, (make((2, 9), torch.float16, "contiguous", 0), 1.0, 0.5, 2.0))
    torch.library.opcheck(op, (make((2, 3, 4, 5), torch.float32, "channels_last", 0), 0.9, 1.0, 2.0))
    torch.library.opcheck(op, (torch.zeros(2, 0), 0.9, 1.0, 2.0))
    with torch._subclasses.FakeTensorMode():
        assert threshold(torch.empty(2, 3)).shape == (2, 3)
        assert threshold(torch.empty(2, 3), out=torch.empty(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own imports
def test_compiles_without_a_graph_break(compiler):
    def function(x):
        return threshold(2 * x, 0.9) + 1

    x = make((2, 64), torch.float32, "contiguous", 0).requires_grad_()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x), function(x))
    (expected,) = torch.autograd.grad(function(x).square().sum(), x)
    (gradient,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_gradient_takes_the_limit_for_a_constant():
    x = make((2, 3, 5), torch.float64, "contiguous", 2).requires_grad_()
    s = torch.quantile(x.detach().abs().flatten(1), 0.7, dim=1).clamp(min=1.0).view(2, 1, 1)
    upstream = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad((x.clamp(-s, s) / s * upstream).sum(), x)
    (gradient,) = torch.autograd.grad((threshold(x, 0.7) * upstream).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, expected)
    (second,) = torch.autograd.grad(gradient.sum(), upstream)
    torch.testing.assert_close(second, torch.where(x.abs() > s, 0.0, 1 / s))
    inside = 0.1 * torch.rand(2, 5, dtype=torch.float64) + 0.1
    inside.requires_grad_()  # S is the floor, and so truly constant
    assert torch.autograd.gradcheck(threshold, [inside])
    assert torch.autograd.gradgradcheck(threshold, [inside])


x = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (DtypeError, "x: got torch.int64", lambda: threshold(x.long())),
        (ShapeError, "x: got a tensor without dimensions", lambda: threshold(torch.tensor(1.0))),
        (ArgumentError, "ratio: got 0", lambda: threshold(x, 0)),
        (ArgumentError, "ratio: got 1.5", lambda: threshold(x, 1.5)),
        (ArgumentError, "ratio: got nan", lambda: threshold(x, math.nan)),
        (ArgumentError, "floor: got 0", lambda: threshold(x, floor=0)),
        (ArgumentError, "floor: got inf", lambda: threshold(x, floor=math.inf)),
        (ArgumentError, "floor: got 1e-60", lambda: threshold(x, floor=1e-60)),
        (ArgumentError, "cap: got 0.5, expected at least floor = 1.0", lambda: threshold(x, cap=0.5)),
        (ArgumentError, "cap: got nan", lambda: threshold(x, cap=math.nan)),
        (ShapeError, r"out\[0\]: got \[6, 2\]", lambda: threshold(x, out=torch.zeros(6, 2))),
        (DtypeError, r"out\[0\]: got torch.float64", lambda: threshold(x, out=x.double())),
        (DeviceError, r"out\[0\]: got meta", lambda: threshold(x, out=x.to("meta"))),
        (ArgumentError, r"out\[0\]: got elements that share", lambda: threshold(x, out=torch.zeros(6).expand(2, 6))),
        (ArgumentError, "partly overlaps", lambda: overlapping()),
        (ArgumentError, "out: got a tensor", lambda: threshold(x.clone().requires_grad_(), out=x.clone())),
    ],
)
def test_named_error(error, message, call):
    with pytest.raises(error, match=message):
        call()


def overlapping():
    buffer = torch.zeros(13)
    threshold(buffer[:12].view(2, 6), out=buffer[1:].view(2, 6))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(dtype):
    for shape in [(3, 1), (16, 12288), (2, 3, 257, 255)]:
        x = make(shape, dtype, "contiguous", 4)
        assert same(threshold(x.cuda()).cpu(), definition(x))
