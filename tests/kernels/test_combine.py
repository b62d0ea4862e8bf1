"""`combine` against a float64 oracle with the derived rounding bound, on every backend, layout and dtype."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import cpu_backends, fast_backends

from pushforward.errors import ArgumentError
from pushforward.kernels import Draw, Noise, backend, combine, normal, prepare

AVAILABLE, FAST = cpu_backends("combine"), fast_backends("combine")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(0,), (1,), (7,), (1025,), (3, 0), (1, 1), (5, 3), (2, 1023), (3, 4, 6, 10), (2, 8, 33, 35)]
LAYOUTS = ["contiguous", "offset", "transposed", "strided", "channels_last", "expanded"]
coefficient = st.floats(-4, 4)


def make(shape, dtype, layout, seed):
    """A tensor of this shape and memory layout, with values that do not depend on the layout."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if layout == "offset":
        return torch.empty(values.numel() + 3, dtype=dtype)[3:].view(shape).copy_(values)
    if layout == "transposed":
        return torch.empty(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1]).copy_(values)
    if layout == "strided":
        return torch.empty((*shape[:-1], 2 * shape[-1]), dtype=dtype)[..., ::2].copy_(values)
    if layout == "channels_last" and len(shape) == 4:
        return values.to(memory_format=torch.channels_last)
    if layout == "expanded":
        return values[:1].expand(shape)
    return values


def bound(dtype, terms, exact):
    wide, narrow = torch.finfo(torch.promote_types(dtype, torch.float32)), torch.finfo(dtype)
    return (len(terms) + 1) * wide.eps * sum(t.abs() for t in terms) + narrow.eps / 2 * exact.abs() + 4 * narrow.tiny


@st.composite
def problems(draw):
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    count, outputs = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    same = draw(st.booleans())
    layouts = (
        [draw(st.sampled_from(LAYOUTS))] * count if same else [draw(st.sampled_from(LAYOUTS)) for _ in range(count)]
    )
    inputs = [make(shape, dtype, layout, k) for k, layout in enumerate(layouts)]
    per_sample = draw(st.booleans())
    draws = draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    size = (shape[0] if per_sample else 1, outputs, count + draws)
    table = torch.randn(size, generator=generator, dtype=torch.float64) * draw(st.sampled_from([1e-3, 1.0, 4.0]))
    noises = [Noise(draw(st.integers(0, 2**64 - 1)), Draw(1, step)) for step in range(draws)]
    out_layout = draw(st.sampled_from([None, *LAYOUTS[:-1]]))
    outs = None if out_layout is None else [make(shape, dtype, out_layout, 99) for _ in range(outputs)]
    return inputs, table, noises, per_sample, outs


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_within_the_rounding_bound_and_equal_to_the_reference(name, problem):
    inputs, table, noises, per_sample, outs = problem
    count, like = len(inputs), inputs[0]
    split = [table[..., :count], table[..., count:]]
    weights, scales = split if per_sample else [part[0].tolist() for part in split]
    noise = {"noise": noises, "scale": scales} if noises else {}
    with backend(name):
        result = combine(inputs, weights, out=outs, **noise)
    if outs is not None:
        assert all(a is b for a, b in zip(result, outs, strict=True))

    with backend("reference"):
        plain = combine([x.contiguous() for x in inputs], weights, **noise)
        z = [normal(like.shape, seed=n.seed, draw=n.draw, dtype=torch.float64) for n in noises]
    values = [*[x.double() for x in inputs], *z]
    for o, out in enumerate(result):
        column = table[:, o].T.reshape(count + len(noises), -1, *[1] * (like.ndim - 1))
        terms = [x * w for x, w in zip(values, column, strict=True)]
        exact = sum(terms)
        assert ((out.double() - exact).abs() <= bound(like.dtype, terms, exact)).all()
        torch.testing.assert_close(out, plain[o], rtol=0, atol=0)  # whatever the layout, the loop or the backend


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([0, 1, 5, 64, 1023, 5000, 70_001]),
    offset=st.integers(0, 5),
    dtype=st.sampled_from(DTYPES),
    weights=st.lists(coefficient, min_size=1, max_size=9),
    target=st.integers(0, 8),
)
def test_in_place_gives_the_same_bits(name, size, offset, dtype, weights, target):
    inputs = [make((size,), dtype, "contiguous", k) for k in range(len(weights))]
    with backend(name):
        expected = combine(inputs, weights)
        shifted = [torch.empty(size + offset, dtype=dtype)[offset:].copy_(x) for x in inputs]  # unaligned
        out = shifted[target % len(weights)]
        assert combine(shifted, weights, out=out) is out
    assert torch.equal(out, expected)


@pytest.mark.parametrize("name", AVAILABLE)
def test_several_outputs_in_place(name):
    x, v, w = (make((3, 700), torch.float32, "contiguous", k) for k in range(3))
    rows = [[1.0, 0.5, 0.25], [0.0, -1.0, 2.0]]
    with backend(name):
        first, second = combine([x, v, w], rows)
        combine([x, v, w], rows, out=(x, v))
    assert torch.equal(x, first)
    assert torch.equal(v, second)


@pytest.mark.parametrize("name", AVAILABLE)
def test_zero_inputs_and_zero_dimensions(name):
    with backend(name):
        out = torch.full((2, 3), 5.0)
        combine([], [], out=out)
        assert (out == 0).all()
        assert combine([torch.tensor(2.0)], [1.5]).item() == 3.0
        assert combine([torch.tensor(2.0), torch.tensor(1.0)], [[1, 1], [2, 0]])[1].item() == 4.0


@pytest.mark.parametrize("name", FAST)
def test_large_outputs_past_the_caches_give_the_same_bits(name):
    """From 32 MiB on, outputs that alias nothing are written with non-temporal stores; also from odd addresses."""
    size = 3_000_003
    x, v = (make((size + 1,), torch.float32, "contiguous", k)[1:] for k in range(2))
    with backend(name):
        fresh = torch.empty(size + 1)[1:]
        combine([x, v, x], [1.0, 0.3, -0.7], out=fresh)
        parts = [combine([a, b, a], [1.0, 0.3, -0.7]) for a, b in zip(x.split(50_000), v.split(50_000), strict=True)]
        assert torch.equal(fresh, torch.cat(parts))
        combine([x, v, x], [1.0, 0.3, -0.7], out=x)
    assert torch.equal(x, fresh)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_storage_converts_as_torch_does(name, dtype):
    """Every number survives; products of every number are rounded as by torch: ties, subnormals, overflow."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    with backend(name):
        back = combine([every], [1.0])
        assert torch.equal(back.isnan(), every.isnan())
        assert torch.equal(back[~every.isnan()], every[~every.isnan()])
        for weight in torch.logspace(-12, 12, 25, dtype=torch.float64).tolist():
            product, expected = combine([every], [weight]), (every.float() * weight).to(dtype)
            assert torch.equal(product.nan_to_num(0.5), expected.nan_to_num(0.5))


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 31, 32, 36])
def test_status_is_set_by_one_bad_element(name, dtype, bad, where):
    x = torch.ones(1, 37, dtype=dtype)
    status = torch.zeros(1, dtype=torch.int32)
    with backend(name):
        combine([x, x], [1.0, 2.0], status=status)
        assert status.item() == 0
        combine([torch.full_like(x, torch.finfo(dtype).max)], [1.0], status=status)
        assert status.item() == 0, "the largest number is finite"
        x[0, where] = bad
        status.fill_(4)
        combine([x, x], [1.0, 2.0], status=status)
        assert status.item() == 5, "ORed, not overwritten"


@pytest.mark.parametrize("name", AVAILABLE)
def test_status_sees_an_overflow_in_storage(name):
    status = torch.zeros(1, dtype=torch.int32)
    with backend(name):
        combine([torch.full((3, 3), 60000.0, dtype=torch.float16)], [2.0], status=status)
    assert status.item() == 1


def test_the_imaginary_part_of_a_conjugate_has_its_sign():
    """Such a view says of its memory, which holds the opposite numbers, that it is to be read with the other sign."""
    part = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).conj().imag
    out = torch.zeros(4, 3, dtype=torch.complex128).conj().imag
    assert part.is_neg()
    assert torch.equal(combine([part, part], [1.0, 0.5]), 1.5 * part.resolve_neg())
    combine([part, part], [1.0, 0.5], out=out)
    assert torch.equal(out, 1.5 * part)
    with backend("native"), pytest.raises(ArgumentError, match="resolve_neg"):
        prepare([part, None], [1.0, 1.0], torch.empty(4, 3, dtype=torch.float64))
