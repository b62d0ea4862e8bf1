"""Pyramids: torch's interpolation, exact reconstruction, transposes, and every backend bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError, UnknownNameError
from pushforward.kernels import backend, collapse, laplacian_pyramid, pyramid_down, pyramid_up
from pushforward.kernels.dispatch import implementing, interpreting

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
VARIANTS = [name for name in variants("pyramid_up") if name != "triton" or interpreting()]
COMPILED = [name for name in VARIANTS if name != "triton"]  # Triton's interpreter is too slow for hundreds of examples
FAST = [name for name in implementing("pyramid_up") if name != "triton"]
BACKENDS = FAST + ["triton"] * (interpreting() and "triton" in implementing("pyramid_up"))
downs, ups = st.sampled_from(["box", "bilinear"]), st.sampled_from(["nearest", "bilinear"])


def planes(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same(ours, expected):
    """Equal bit for bit."""
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@settings(max_examples=40)
@given(height=st.integers(1, 20), width=st.integers(1, 20))
def test_numbers_are_those_of_interpolate(height, width):
    x = planes(2, 3, height, width)
    for filter in ("nearest", "bilinear"):
        align = {} if filter == "nearest" else {"align_corners": False}
        expected = F.interpolate(x, scale_factor=2, mode=filter, **align)
        torch.testing.assert_close(pyramid_up(x, filter), expected, rtol=1e-14, atol=1e-14)
        odd = expected[..., : 2 * height - 1, : 2 * width - 1]
        ours = pyramid_up(x, filter, size=(2 * height - 1, 2 * width - 1))
        torch.testing.assert_close(ours, odd, rtol=1e-14, atol=1e-14)
    large = planes(2, 3, 2 * height, 2 * width)
    box = pyramid_down(large)
    torch.testing.assert_close(box, F.avg_pool2d(large, 2), rtol=1e-14, atol=1e-14)
    plain = F.interpolate(large, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(box, plain, rtol=1e-14, atol=1e-14)
    # At the edges they leave out what is beyond and weight the rest, where we repeat the edge.
    smooth = F.interpolate(large, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True)
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(pyramid_down(large, "bilinear")[inner], smooth[inner], rtol=1e-14, atol=1e-14)


def everything(x, down, up):
    height, width = x.shape[-2:]
    return [
        pyramid_down(x, down),
        pyramid_up(x, up),
        pyramid_up(x, up, size=(2 * height - 1, 2 * width - 1)),
        *laplacian_pyramid(x, 2, down=down, up=up),
    ]


@pytest.mark.parametrize("variant", COMPILED)
@given(
    batch=st.sampled_from([(), (0,), (1,), (2, 3)]),
    height=st.integers(1, 20),
    width=st.sampled_from([1, 2, 3, 7, 16, 31, 32, 33, 64, 65, 70, 131]),
    dtype=st.sampled_from(DTYPES),
    down=downs,
    up=ups,
    seed=st.integers(0, 100),
)
def test_backends_equal_the_reference(variant, batch, height, width, dtype, down, up, seed):
    x = planes(*batch, height, width, seed=seed, dtype=dtype)
    with backend("reference"):
        expected = everything(x, down, up)
    with using(variant):
        same(everything(x, down, up), expected)


@pytest.mark.skipif("triton" not in VARIANTS, reason="needs Triton's interpreter")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("down", "up"), [("box", "nearest"), ("bilinear", "bilinear")])
@pytest.mark.parametrize("shape", [(2, 3, 150), (0, 4, 6), (1, 1)])
def test_triton_equals_the_reference(shape, down, up, dtype):
    x = planes(*shape, dtype=dtype)
    with backend("reference"):
        expected = everything(x, down, up)
    with backend("triton"):
        same(everything(x, down, up), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layout_and_batch_do_not_matter(variant):
    large = variant != "triton"
    x = planes(3, 2, 24 if large else 4, 70 if large else 6, dtype=torch.float32)
    with using(variant):
        for function in (lambda y: pyramid_down(y, "bilinear"), pyramid_up, lambda y: laplacian_pyramid(y, 2)[1]):
            whole = function(x)
            same([function(x[b]) for b in range(3)], whole)
            shifted = torch.empty(x.numel() + 1)[1:].view(x.shape).copy_(x)  # not aligned to 8 bytes
            permuted = x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
            for other in (shifted, permuted, x.repeat_interleave(2, -1)[..., ::2]):
                assert torch.equal(function(other), whole)


@pytest.mark.parametrize("filters", [("box", "nearest"), ("bilinear", "bilinear")])
def test_large_planes_and_threads(filters):
    """Beyond 32 MiB, outputs are written past the caches."""
    down, up = filters
    x = planes(5, 1024, 1024, dtype=torch.float32)
    with backend("reference"):
        expected = laplacian_pyramid(x, 3, down=down, up=up)
        image = collapse(expected, up=up)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        same(laplacian_pyramid(x, 3, down=down, up=up), expected)
        assert torch.equal(collapse(expected, up=up), image)
    torch.set_num_threads(before)


@settings(max_examples=40)
@given(height=st.integers(1, 70), width=st.integers(1, 70), levels=st.integers(1, 8), down=downs, up=ups)
def test_reconstruction(height, width, levels, down, up):
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        x = 2 * torch.rand(2, height, width, dtype=dtype) - 1  # images: [-1, 1]
        pyramid = laplacian_pyramid(x, levels, down=down, up=up)
        assert len(pyramid) == levels
        assert (collapse(pyramid, up=up) - x).abs().max() < bound


def test_a_constant_image_has_no_details():
    for down in ("box", "bilinear"):
        low, *details = laplacian_pyramid(torch.full((9, 13), 0.7), 3, down=down)
        assert torch.equal(low, torch.full((3, 4), 0.7))
        assert all(detail.abs().max() == 0 for detail in details)


@pytest.mark.parametrize(("down", "up"), [("box", "nearest"), ("bilinear", "bilinear")])
def test_down_is_a_quarter_of_the_transpose_of_up(down, up):
    x, y = planes(2, 12, 34), planes(2, 6, 17)
    torch.testing.assert_close((4 * pyramid_down(x, down) * y).sum(), (x * pyramid_up(y, up)).sum())


def samples():
    ops = torch.ops.pushforward
    for filter in ("box", "bilinear"):
        yield ops.pyramid_down.default, (planes(2, 3, 4).requires_grad_(), filter, 1.0)
    for filter in ("nearest", "bilinear"):
        yield ops.pyramid_up.default, (planes(2, 3).requires_grad_(), None, filter, 1.0, 4, 5)
        yield (
            ops.pyramid_up.default,
            (planes(2, 3).requires_grad_(), planes(4, 5).requires_grad_(), filter, -1.0, 4, 5),
        )


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", range(6))
def test_opcheck(name, case):
    with backend(name):
        torch.library.opcheck(*list(samples())[case])


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(("down", "up"), [("box", "nearest"), ("bilinear", "bilinear"), ("box", "bilinear")])
def test_gradients(name, down, up):
    x = planes(5, 6).requires_grad_()

    def build(y):
        return laplacian_pyramid(y, 3, down=down, up=up)

    with backend(name):
        pyramid = [level.detach().requires_grad_() for level in build(x)]
        assert torch.autograd.gradcheck(build, x)
        assert torch.autograd.gradcheck(lambda *levels: collapse(levels, up=up), pyramid)
        if name == "reference":  # linear: the second derivative is the first's transpose
            assert torch.autograd.gradgradcheck(build, x)


def sharpened(x):
    low, *details = laplacian_pyramid(x, 3, down="bilinear")
    return collapse([low, *(1.5 * detail for detail in details)])


def test_compiles_without_a_graph_break():
    x = planes(3, 6, 10).requires_grad_()
    compiled = torch.compile(sharpened, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), sharpened(x))
    (expected,) = torch.autograd.grad(sharpened(x).sum(), x)
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward mode
def test_transforms_and_fake_tensors():
    x = planes(5, 2, 7, 10)
    torch.testing.assert_close(torch.func.vmap(sharpened)(x), sharpened(x))
    value, tangent = torch.func.jvp(sharpened, (x,), (x,))  # linear
    torch.testing.assert_close(tangent, value)
    with torch._subclasses.FakeTensorMode():
        assert laplacian_pyramid(torch.empty(3, 7, 9), 2)[0].shape == (3, 4, 5)
    assert pyramid_up(torch.empty(3, 8, 6, device="meta")).shape == (3, 16, 12)


x = torch.zeros(2, 4, 6)


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (UnknownNameError, "filter: got 'nearest', expected box | bilinear", lambda: pyramid_down(x, "nearest")),
        (UnknownNameError, "filter: got 'box'", lambda: pyramid_up(x, "box")),
        (UnknownNameError, "down: got 'bicubic'", lambda: laplacian_pyramid(x, 2, down="bicubic")),
        (UnknownNameError, "up: got 'bicubic'", lambda: laplacian_pyramid(x, 2, up="bicubic")),
        (UnknownNameError, "up", lambda: collapse([x], up="bicubic")),
        (ShapeError, r"x: got \[4\]", lambda: pyramid_down(torch.zeros(4))),
        (ShapeError, "x: got .*at least one element", lambda: pyramid_up(torch.zeros(2, 0, 6))),
        (DtypeError, "x: got torch.int64", lambda: pyramid_up(x.long())),
        (ShapeError, r"size: got \[8, 10\], expected \[8, 12\], or", lambda: pyramid_up(x, size=(8, 10))),
        (ArgumentError, "levels: got 0", lambda: laplacian_pyramid(x, 0)),
        (ArgumentError, "pyramid: got no levels", lambda: collapse([])),
        (
            ShapeError,
            r"pyramid\[1\]: got \[2, 6, 12\].*at most twice as large",
            lambda: collapse([x, torch.zeros(2, 6, 12)]),
        ),
        (DtypeError, r"pyramid\[1\]", lambda: collapse([x, torch.zeros(2, 8, 12).double()])),
        (DeviceError, r"pyramid\[1\]", lambda: collapse([x, torch.zeros(2, 8, 12, device="meta")])),
    ],
)
def test_errors(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(dtype):
    image = planes(3, 2, 65, 258, dtype=dtype)
    for down, up in (("box", "nearest"), ("bilinear", "bilinear")):
        with backend("reference"):
            expected = laplacian_pyramid(image, 3, down=down, up=up)
        for device_backend in set(implementing("pyramid_up")) - {"native"}:
            with backend(device_backend):
                same([level.cpu() for level in laplacian_pyramid(image.cuda(), 3, down=down, up=up)], expected)
