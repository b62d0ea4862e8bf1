"""`uniform` and `normal` as tensors: every variant gives the bits of the definition; the interval, the distribution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.kernels import Draw, backend, normal, philox, uniform

DRAW = Draw(purpose=5, step=1, stage=2, attempt=3)
# Samples shorter than a vector step of any instruction set, longer, and not multiples of it.
SHAPES = [(1, 1), (3, 2), (5, 3, 7), (40, 2), (300, 1), (2, 64), (3, 4, 250), (1, 20_003), (0, 4), (4, 0)]
CASES = [
    (op, variant)
    for op in (normal, uniform)
    for variant in variants(op.__name__)
    if variant not in ("reference", "triton")
]


@pytest.mark.parametrize(("op", "variant"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_variant_gives_the_bits_of_the_reference(op, variant, dtype):
    if op is uniform and dtype.itemsize == 2:
        pytest.skip("uniform numbers have at least 32 bits")
    for shape in SHAPES:
        for samples in (None, torch.arange(shape[0]) * 3 + 2**33):
            key = {"seed": 2**64 - 3, "draw": Draw(7, 2**32 - 1, 5, 2**31), "samples": samples, "dtype": dtype}
            with backend("reference"):
                expected = op(shape, **key)
            with using(variant):
                assert torch.equal(op(shape, **key), expected)


words, parts = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("op", "variant"), CASES)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 5, 15, 16, 17, 67]), min_size=1, max_size=3),
    seed=words,
    draw=st.builds(Draw, parts, parts, parts, parts),
    first=st.integers(0, 2**63 - 200),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
@settings(max_examples=30)
def test_any_key_and_shape_gives_the_bits_of_the_reference(op, variant, shape, seed, draw, first, dtype):
    dtype = torch.float64 if op is uniform and dtype.itemsize == 2 else dtype
    key = {"seed": seed, "draw": draw, "samples": torch.arange(shape[0]) + first, "dtype": dtype}
    with backend("reference"):
        expected = op(shape, **key)
    with using(variant):
        assert torch.equal(op(shape, **key), expected)


@pytest.mark.parametrize("op", [normal, uniform])
def test_triton_gives_the_bits_of_the_reference(op):
    if "triton" not in variants(op.__name__):
        pytest.skip("triton does not run here")
    for shape in [(3, 2), (2, 70)]:
        with backend("reference"):
            expected = op(shape, seed=5, draw=DRAW)
        with backend("triton"):
            assert torch.equal(op(shape, seed=5, draw=DRAW), expected)


@pytest.mark.parametrize(("op", "variant"), CASES)
def test_neither_threads_nor_the_rest_of_the_batch_change_a_bit(op, variant):
    samples = torch.randint(2**62, (7,), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    with using(variant):
        whole = op((7, 3001), seed=1, draw=DRAW, samples=samples)
        alone = [op((1, 3001), seed=1, draw=DRAW, samples=samples[b : b + 1]) for b in range(7)]
        torch.set_num_threads(1)
        single = op((7, 3001), seed=1, draw=DRAW, samples=samples)
        torch.set_num_threads(before)
        assert torch.equal(whole[:, :37], op((7, 37), seed=1, draw=DRAW, samples=samples))
        odd = op((3, 15), seed=1, draw=DRAW, samples=torch.stack([samples, samples], 1)[:3, 1])  # ids with strides
    assert torch.equal(whole, torch.cat(alone))
    assert torch.equal(whole, single)
    assert torch.equal(odd, whole[:3, :15])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_tensors_go_past_the_caches_with_the_same_bits(dtype):
    size = 2**25 // dtype.itemsize + 1003
    large = normal((1, size), seed=3, draw=DRAW, dtype=dtype)
    assert torch.equal(large[:, :9000], normal((1, 9000), seed=3, draw=DRAW, dtype=dtype))
    assert torch.equal(large[:, -1:], normal((1, size), seed=3, draw=DRAW)[:, -1:].to(dtype))


def test_uniforms_are_the_words_of_the_definition():
    ids = torch.tensor([4, 9])
    words = philox.words(12, seed=1, draw=DRAW, samples=ids).double()
    single = uniform((2, 12), seed=1, draw=DRAW, samples=ids)
    assert torch.equal(single.double(), ((words / 2**9).floor() + 0.5) / 2**23)
    double = uniform((2, 6), seed=1, draw=DRAW, samples=ids, dtype=torch.float64)
    cells = (words[:, ::2] / 2**6).floor() * 2**26 + (words[:, 1::2] / 2**6).floor()
    assert torch.equal(double, (cells + 0.5) / 2**52)


def test_the_ends_are_never_reached():
    for word in (0, 2**32 - 1):
        few = torch.tensor([word])
        low = ((few >> 9).float() + 0.5) * 2.0**-23
        high = (((few >> 6) * 2**26 + (few >> 6)).double() + 0.5) * 2.0**-52
        for u in (low, high):
            assert 0 < u.item() < 1
            assert math.isfinite(math.log(u.item()))
            assert math.isfinite(math.log1p(-u.item()))
    u = uniform((10, 100_000), seed=0, draw=DRAW)
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kolmogorov_smirnov_and_moments(dtype):
    """P(sqrt(n) D > x) = 2 exp(-2 x^2): five sigma (5.7e-7) is x = 2.74. Mean and correlation within five errors."""
    u = uniform((10, 100_000), seed=2024, draw=DRAW, dtype=dtype).double()
    n = u.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    ordered = u.flatten().sort().values
    assert math.sqrt(n) * max((steps[1:] - ordered).max().item(), (ordered - steps[:-1]).max().item()) < 2.74
    centred = u - 0.5
    assert abs(centred.mean().item()) < 5 * math.sqrt(1 / 12 / n)
    for lag in (1, 2, 4):
        assert abs((centred[:, lag:] * centred[:, :-lag]).mean().item()) < 5 / 12 / math.sqrt(n)


@pytest.mark.parametrize("op", [normal, uniform])
def test_opcheck_and_compile(op):
    operator = getattr(torch.ops.pushforward, op.__name__).default
    for samples in (None, torch.tensor([5, 6])):
        torch.library.opcheck(operator, ([2, 5], [-7, 1, 2, 3, 4], samples, torch.float64, torch.device("cpu")))
    compiled = torch.compile(lambda x: x + op((2, 3), seed=2**64 - 1, draw=DRAW), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3)
    assert torch.equal(compiled(x), x + op((2, 3), seed=2**64 - 1, draw=DRAW))
    with torch._subclasses.FakeTensorMode():
        assert op((4, 3), seed=0, draw=DRAW).shape == (4, 3)
    with torch.no_grad():
        mapped = torch.func.vmap(lambda row: row + op((1, 3), seed=1, draw=DRAW)[0])(x)
    assert torch.equal(mapped, x + op((1, 3), seed=1, draw=DRAW))


@pytest.mark.parametrize("op", [normal, uniform])
@pytest.mark.parametrize(
    ("error", "argument", "change"),
    [
        (DtypeError, "dtype: got torch.int64", {"dtype": torch.int64}),
        (ShapeError, "shape: got no dimensions", {"shape": ()}),
        (ShapeError, "at most 2", {"shape": (1, 2**34 + 1), "device": "meta"}),
        (ShapeError, r"samples: got \[3\]", {"samples": torch.arange(3)}),
        (ArgumentError, "samples: got -1", {"samples": torch.tensor([0, -1])}),
        (DtypeError, "samples", {"samples": torch.tensor([0.0, 1.0])}),
        (ArgumentError, "seed", {"seed": -1}),
        (ArgumentError, "seed", {"seed": 2**64}),
        (ArgumentError, "seed", {"seed": 0.5}),
        (ArgumentError, "draw.step", {"draw": Draw(0, 2**32)}),
    ],
)
def test_named_error(op, error, argument, change):
    arguments = {"shape": (2, 3), "seed": 0, "draw": DRAW, **change}
    with pytest.raises(error, match=argument):
        op(arguments.pop("shape"), **arguments)


def test_uniforms_of_few_bits_are_refused():
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(DtypeError, match="round to 0 or 1"):
            uniform((2, 3), seed=0, draw=DRAW, dtype=dtype)
    with pytest.raises(ShapeError, match=r"2\*\*33"):
        uniform((1, 2**33 + 1), seed=0, draw=DRAW, dtype=torch.float64, device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "triton"])
@pytest.mark.parametrize("op", [normal, uniform])
def test_on_a_device(op, name):
    for shape in SHAPES:
        expected = op(shape, seed=5, draw=DRAW)
        with backend(name):
            assert torch.equal(op(shape, seed=5, draw=DRAW, device="cuda").cpu(), expected)
