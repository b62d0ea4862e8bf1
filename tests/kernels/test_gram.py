"""`gram`: the same bits on every backend, within the rounding of its tree; gradients, operator, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.kernels import backend, gram

VARIANTS = variants("gram")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(0, 3), (3, 0), (1,), (37,), (513, 2), (341, 3), (50, 4), (9, 5), (8, 127), (3, 128), (2, 1024), (2, 2, 1200)]


def make(shape, dtype, seed, layout="contiguous"):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    if layout == "offset":
        return torch.empty(values.numel() + 3, dtype=dtype)[3:].view(shape).copy_(values)
    if layout == "transposed":
        return torch.empty(shape[::-1], dtype=dtype).permute(*range(len(shape))[::-1]).copy_(values)
    return values


@st.composite
def problems(draw):
    shape, dtype, count = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES)), draw(st.integers(1, 4))
    layouts, seed = st.sampled_from(["contiguous", "offset", "transposed"]), draw(st.integers(0, 1000))
    return [make(shape, dtype, seed + k, draw(layouts)) for k in range(count)]


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25)
@given(tensors=problems())
def test_within_the_rounding_of_its_tree_and_the_same_bits(variant, tensors):
    with using(variant):
        products, sums = gram(tensors)
    rows = torch.stack([x[..., None].flatten(1).double() for x in tensors], dim=1)
    size, eps = rows.shape[-1], torch.finfo(torch.float64).eps
    # A product rounds once, then every level of the tree: 10 in a block and at most 10 over blocks. The oracle may be
    # as wrong as a sum from left to right.
    levels = 21 + size
    magnitude = rows.abs()
    assert ((products - rows @ rows.mT).abs() <= levels * eps * (magnitude @ magnitude.mT)).all()
    assert ((sums - rows.sum(-1)).abs() <= levels * eps * magnitude.sum(-1)).all()
    with backend("reference"):
        expected = gram([x.contiguous() for x in tensors])
    assert torch.equal(products, expected.products)
    assert torch.equal(products, products.mT)
    assert torch.equal(sums, expected.sums)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("count", "size"), [(5, 1100), (20, 130)])
def test_many_tensors_have_the_products_of_their_pairs(variant, count, size):
    tensors = [make((2, size), torch.float32, seed) for seed in range(count)]
    with using(variant):
        products, sums = gram(tensors)
    with backend("reference"):
        for i, j in [(0, 1), (1, count - 1), (count - 2, count - 1), (count // 2, 2)]:
            pair = gram([tensors[i], tensors[j]])
            assert torch.equal(products[:, [i, i, j, j], [i, j, i, j]], pair.products.flatten(1))
            assert torch.equal(sums[:, [i, j]], pair.sums)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith("native")])
def test_more_than_a_million_elements_a_sample(variant):
    tensors = [make((1, 2**20 + 2000), torch.float32, seed) for seed in range(2)]
    with backend("reference"):
        expected = gram(tensors)
    with using(variant):
        result = gram(tensors)
    assert torch.equal(result.products, expected.products)
    assert torch.equal(result.sums, expected.sums)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [2, 5, 200, 1500])
def test_a_sample_does_not_depend_on_its_batch_the_threads_or_bad_neighbours(variant, size):
    batch = 4 if variant == "triton" else 40_000 // size
    tensors = [make((batch, size), torch.float32, seed) for seed in range(3)]
    threads = torch.get_num_threads()
    with using(variant):
        whole = gram(tensors)
        part = gram([x[1:3] for x in tensors])
        try:
            torch.set_num_threads(1)
            alone = gram(tensors)
        finally:
            torch.set_num_threads(threads)
        tensors[1][2, 1], tensors[0][3, 0] = math.nan, math.inf
        bad = gram(tensors)
    for a, b, c, d in zip(whole, part, alone, bad, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(a[1:3], b)
        assert torch.equal(a[:2], d[:2])
        assert torch.equal(a[4:], d[4:])
    assert not torch.isfinite(bad.products[2:4, 0, 1]).any()
    assert not torch.isfinite(bad.sums[2:4].sum(1)).any()
    assert torch.isfinite(bad.products[2, [0, 0, 2], [0, 2, 2]]).all(), "pairs without the bad tensor"


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ArgumentError, "tensors: got 0", lambda: gram([])),
        (ArgumentError, "tensors: got 21", lambda: gram([torch.zeros(2, 3)] * 21)),
        (ShapeError, r"tensors\[1\]: got \[3, 2\]", lambda: gram([torch.zeros(2, 3), torch.zeros(3, 2)])),
        (DtypeError, r"tensors\[1\]", lambda: gram([torch.zeros(2, 3), torch.zeros(2, 3).double()])),
        (DtypeError, r"tensors\[0\]", lambda: gram([torch.zeros(2, 3).long()])),
        (ShapeError, r"tensors\[0\]", lambda: gram([torch.tensor(1.0)])),
    ],
)
def test_named_error(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_and_opcheck(variant):
    tensors = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    with using(variant):
        assert torch.autograd.gradcheck(lambda *x: tuple(gram(x)), tensors)
        assert torch.autograd.gradgradcheck(lambda *x: tuple(gram(x)), tensors[:2])
        torch.library.opcheck(torch.ops.pushforward.gram.default, (tensors[:2],))
        torch.library.opcheck(torch.ops.pushforward.gram.default, ([torch.randn(2, 3, 4).bfloat16()],))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own imports
def test_compiles_without_a_graph_break():
    def rescaled(x, y):
        products, sums = gram([x, y])
        size = x[0].numel()
        variance = products.diagonal(dim1=1, dim2=2) / size - (sums / size) ** 2
        return y * (variance[:, 0] / variance[:, 1]).sqrt().to(y.dtype).reshape(-1, 1, 1)

    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = y * (x.std(dim=(1, 2)) / y.std(dim=(1, 2))).reshape(-1, 1, 1)
    torch.testing.assert_close(rescaled(x, y), expected)
    torch.testing.assert_close(torch.compile(rescaled, fullgraph=True, backend="aot_eager")(x, y), expected)


def test_fake_and_meta_tensors():
    with torch._subclasses.FakeTensorMode():
        products, sums = gram([torch.empty(4, 3), torch.empty(4, 3)])
        assert (products.shape, sums.shape) == ((4, 2, 2), (4, 2))
    assert gram([torch.empty(4, 3, device="meta")]).products.shape == (4, 1, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(513, 2), (341, 3), (9, 127), (4, 3, 64, 64), (2, 2**20 + 2000)])
def test_on_a_device(dtype, shape):
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(4)]
    with backend("reference"):
        expected = gram(tensors)
    with backend("triton"):
        result = gram([x.cuda() for x in tensors])
    assert torch.equal(result.products.cpu(), expected.products)
    assert torch.equal(result.sums.cpu(), expected.sums)
