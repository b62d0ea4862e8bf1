"""`combine`, `prepare`, `normal` and `uniform` of the GPU backends: the bits of the reference.

Where there is no device, Triton's kernels run in its interpreter, and CUDA's thread by thread on the CPU.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.kernels import Draw, Noise, backend, combine, normal, prepare, uniform
from pushforward.kernels.dispatch import chosen_backend, implementing

BACKENDS = [name for name in ("triton", "cuda") if name in implementing("combine")]
ON_DEVICE = torch.cuda.is_available()  # imitations are then off, and the same tests run on the device
DEVICE = "cuda" if ON_DEVICE else "cpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
KEYS = [Noise(3, Draw(1, 2)), Noise(2**64 - 5, Draw(7, 2**32 - 1, 5, 2**31))]


def tensors(shape, dtype, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE) for _ in range(count)]


def table(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=BACKENDS)
def gpu(request):
    return request.param


def check(gpu, function, *arguments, **keywords):
    """The same bits from a GPU backend and from the reference."""
    with backend("reference"):
        expected = function(*arguments, **keywords)
    with backend(gpu):
        result = function(*arguments, **keywords)
    pairs = zip(result, expected, strict=True) if isinstance(result, tuple) else [(result, expected)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


LAYOUTS = ["contiguous", "offset", "strided", "transposed"]


def lay(x, layout):
    if layout == "offset":
        return torch.empty(x.numel() + 3, dtype=x.dtype, device=x.device)[3:].view(x.shape).copy_(x)
    if layout == "strided":
        return torch.empty(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype, device=x.device)[..., ::2].copy_(x)
    if layout == "transposed":
        dims = range(x.ndim)[::-1]
        return torch.empty(x.shape[::-1], dtype=x.dtype, device=x.device).permute(*dims).copy_(x)
    return x


@pytest.mark.parametrize("gpu", BACKENDS)
@settings(max_examples=25)
@given(
    shape=st.sampled_from([(0,), (1,), (7,), (1025,), (3, 0), (5, 3), (2, 1023), (3, 4, 6, 5), (2, 17_000)]),
    dtype=st.sampled_from(DTYPES),
    count=st.integers(1, 16),
    outputs=st.integers(1, 4),
    by_sample=st.booleans(),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=3, max_size=3),
    in_place=st.booleans(),
)
def test_sums(gpu, shape, dtype, count, outputs, by_sample, layouts, in_place):
    inputs = [lay(x, layouts[k % 2]) for k, x in enumerate(tensors(shape, dtype, count))]
    weights = table(shape[0], outputs, count) if by_sample else table(outputs, count).tolist()
    check(gpu, combine, inputs, weights)
    outs = [lay(x, layouts[2]) for x in tensors(shape, dtype, outputs, 1)]
    outs[0] = inputs[0] if in_place else outs[0]
    with backend("reference"):
        expected = combine(inputs, weights)
    with backend(gpu):
        combine(inputs, weights, out=outs)
    for a, b in zip(outs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5, 2), (3, 8), (2, 4, 5, 3), (2, 1025), (1, 20_003)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise(gpu, shape, dtype):
    x, v = tensors(shape, dtype, 2)
    samples = torch.arange(shape[0], device=DEVICE) * 3 + 2**33
    keys = [KEYS[0], Noise(KEYS[1].seed, KEYS[1].draw, samples)]
    check(gpu, combine, [x, v], [[1.0, 0.3], [0.5, -2.0]], noise=keys, scale=[[0.1, 0.2], [0.3, -0.4]])
    check(gpu, combine, [x], table(shape[0], 1), noise=keys[1], scale=table(shape[0], seed=1))


@pytest.mark.parametrize("shape", [(5, 2), (4, 3), (2, 4, 5), (3, 1026), (1, 40_001), (0, 4), (3, 0)])
def test_random_tensors(gpu, shape):
    for key in KEYS:
        samples = torch.arange(shape[0], device=DEVICE) + 2**40
        for ids in (None, samples):
            arguments = {"seed": key.seed, "draw": key.draw, "samples": ids, "device": DEVICE}
            check(gpu, normal, shape, **arguments)
            check(gpu, uniform, shape, **arguments)
            check(gpu, uniform, shape, **arguments, dtype=torch.float64)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(
    "extents",
    [(2, 1, 1, 1), (2, 3, 1, 1), (1, 1, 4, 5), (1, 3, 1, 5), (2, 1, 4, 1), (2, 3, 4, 5), (1, 1, 1, 1), (2, 1, 4, 5)],
    ids=str,
)
def test_groups(gpu, extents, noise):
    shape = (2, 3, 4, 5)
    groups = torch.randint(7, extents, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    x, v = tensors(shape, torch.float32, 2)
    keywords = {"noise": KEYS[0], "scale": table(7, 2, seed=2)} if noise else {}
    check(gpu, combine, [x, v], table(7, 2, 2), groups=groups, **keywords)
    if not noise:
        last = [y.contiguous(memory_format=torch.channels_last) for y in (x, v)]
        check(gpu, combine, last, table(7, 2, 2), groups=groups)


def test_groups_that_alternate_often(gpu):
    x = tensors((2, 2, 2, 2, 2), torch.float64, 1)
    groups = torch.arange(8, device=DEVICE).view(2, 1, 2, 1, 2)
    check(gpu, combine, x, table(8, 1), groups=groups)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_sixteen_bits_and_what_a_sum_overflows_to(gpu, dtype):
    if dtype.itemsize == 2:
        x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).to(DEVICE)
    else:
        x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42, 3e38, -3e38], dtype=dtype, device=DEVICE)
    for weight in (1.0, -0.3, 1e-9, 7e5):
        check(gpu, combine, [x], [weight])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_status(gpu, dtype, bad):
    x = tensors((3, 37), dtype, 1)[0].clamp(-1, 1)
    status = torch.full((1,), 4, dtype=torch.int32, device=DEVICE)
    with backend(gpu):
        combine([x], [2.0], status=status)
        assert status.item() == 4
        x[1, 36] = bad
        combine([x], [2.0], status=status)
    assert status.item() == 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_prepared(gpu, layout):
    x, v, w = (y.contiguous(memory_format=layout) for y in tensors((2, 4, 5, 6), torch.bfloat16, 3))
    outs = [torch.empty_like(x), x.clone(memory_format=torch.preserve_format)]
    rows = [[1.0, -0.5, 0.25], [0.1, 0.2, 0.3]]
    with backend(gpu):
        step = prepare([outs[1], None, None], rows, outs)
    for _ in range(2):
        with backend("reference"):
            expected = combine([outs[1], v, w], rows)
        assert step(v, w) == 0
        assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))
    buffer = torch.zeros(40, device=DEVICE)
    with backend(gpu):
        shifted = prepare([None], [1.0], buffer[:20])
    with pytest.raises(ValueError, match="partly overlaps"):
        shifted(buffer[5:25])


def test_a_sample_does_not_depend_on_its_batch(gpu):
    x = tensors((9, 6), torch.float32, 1)[0]
    ids = torch.arange(9, device=DEVICE) + 2**35

    def step(rows):
        return combine([x[rows]], [0.5], noise=Noise(1, KEYS[1].draw, ids[rows]), scale=1.5)

    with backend(gpu):
        parts = torch.cat([step(slice(0, 1)), step(slice(1, 5)), step(slice(5, 9))])
        assert torch.equal(step(slice(None)), parts)
        long = normal((2, 1000), seed=1, draw=KEYS[0].draw, device=DEVICE)
        assert torch.equal(long[:, :37], normal((2, 37), seed=1, draw=KEYS[0].draw, device=DEVICE))


@pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")
@pytest.mark.parametrize("word", [0, 1, 2, 15, 16, 2**31 - 1, 2**31, 2**32 - 1])
def test_words_are_encoded_so_that_triton_compiles_once(word):
    """It compiles anew for 1, for multiples of 16, and for integers of 32 or of 64 bits."""
    from pushforward.kernels.triton._philox import encode

    assert encode(word) % 2 == 1
    assert 2**31 < encode(word) < 2**63
    assert encode(word) >> 1 & 0xFFFFFFFF == word


@pytest.mark.skipif(ON_DEVICE, reason="kernels are compiled")
def test_imitations_are_used_only_by_name():
    for device in ("cpu", "cuda"):
        assert chosen_backend(device) in ("reference", "native")


@pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")
@pytest.mark.gpu
@pytest.mark.skipif(not ON_DEVICE, reason="needs a CUDA device")
def test_one_compilation_for_all_steps_of_a_run():
    """Steps, weights and seeds change from call to call; none of them may compile the kernel anew."""
    from pushforward.kernels.triton._combine import combine_kernel

    x = torch.randn(4, 4096, device="cuda")

    def run(steps):
        for step in steps:
            combine([x], [0.5 / (1 + step)], noise=Noise(2**step, Draw(1, step)), scale=float(step))

    with backend("triton"):
        run([3])
        before = sum(len(cache[0]) for cache in combine_kernel.device_caches.values())
        run([0, 1, 2, 16, 32])
        assert sum(len(cache[0]) for cache in combine_kernel.device_caches.values()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not ON_DEVICE, reason="needs a CUDA device")
def test_past_two_to_the_31_elements(gpu):
    size = 2**31 + 4096
    if torch.cuda.mem_get_info()[0] < 5 * size:
        pytest.skip("needs 10 GiB of device memory")
    x = torch.ones(size, dtype=torch.bfloat16, device="cuda")
    with backend(gpu):
        combine([x], [2.0], out=x)
    assert x[-4096:].float().sum().item() == 8192
    assert x[:4096].float().sum().item() == 8192


@pytest.mark.gpu
@pytest.mark.skipif(not ON_DEVICE, reason="needs a CUDA device")
def test_a_prepared_step_is_captured_in_a_graph(gpu):
    x, v = torch.ones(2, 4096, device="cuda"), torch.full((2, 4096), 2.0, device="cuda")
    with backend(gpu):
        step = prepare([x, None], [1.0, 0.5], x, noise=KEYS[0], scale=0.0)
        step(v)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(v)
    graph.replay()
    assert (x == 3.0).all(), "once before the capture, once in the replay"
