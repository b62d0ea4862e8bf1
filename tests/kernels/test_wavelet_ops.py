"""Wavelet transforms as operators: opcheck, gradients, compilation, transforms."""

import pytest
import torch

from pushforward.kernels import backend, dwt2d, haar2d, idwt2d, ihaar2d
from pushforward.kernels.dispatch import implementing, interpreting

FAST = [name for name in implementing("dwt2d") if name != "triton"]
BACKENDS = FAST + ["triton"] * (interpreting() and "triton" in implementing("dwt2d"))


def planes(*shape, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=requires_grad)


def samples():
    ops = torch.ops.pushforward
    taps = [0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037]
    yield ops.haar2d.default, (planes(2, 4, 6),)
    yield ops.ihaar2d.default, tuple(planes(4, 2, 3, 2).unbind())
    yield ops.dwt2d.default, (planes(4, 6), taps, "periodic", -1, 2, 3)
    yield ops.dwt2d.default, (planes(1, 3, 5), taps, "symmetric", -2, 3, 4)
    yield ops.idwt2d.default, (*planes(4, 2, 3, 4).unbind(), taps, True, -1, 6, 8)
    yield ops.idwt2d.default, (*planes(4, 3, 4).unbind(), taps, False, -2, 3, 6)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", range(6))
def test_opcheck(name, case):
    op, arguments = list(samples())[case]
    arguments = tuple(a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments)
    with backend(name):
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    ("wavelet", "mode", "size"),
    [("haar", "periodic", (2, 4)), ("db2", "periodic", (4, 2)), ("db4", "zero", (3, 4)), ("db4", "symmetric", (2, 5))],
)
def test_gradients(name, wavelet, mode, size):
    x = planes(*size)
    with backend(name):
        bands = [band.detach().requires_grad_() for band in dwt2d(x, wavelet, mode)]

        def inverse(*bands):
            return idwt2d(bands, wavelet, mode, size=size)

        assert torch.autograd.gradcheck(lambda y: tuple(dwt2d(y, wavelet, mode)), x)
        assert torch.autograd.gradcheck(inverse, bands)
        if name == "reference":  # linear: the second derivative is the first's transpose
            assert torch.autograd.gradgradcheck(lambda y: tuple(dwt2d(y, wavelet, mode)), x)
            assert torch.autograd.gradgradcheck(inverse, bands)


@pytest.mark.parametrize("mode", ["periodic", "symmetric", "zero"])
def test_gradient_is_the_transpose(mode):
    """<A x, y> = <x, A^T y>, at sizes where the compiled kernels run whole vectors; one band unused."""
    x = planes(2, 34, 66)
    bands = dwt2d(x, "db3", mode)
    others = [torch.randn_like(band) for band in bands]
    others[2].zero_()
    product = sum((a * b).sum() for a, b in zip(bands[:2] + bands[3:], others[:2] + others[3:], strict=True))
    (gradient,) = torch.autograd.grad(product, x)
    torch.testing.assert_close((gradient * x).sum(), product, rtol=1e-12, atol=1e-10)


def round_trip(x):
    bands = dwt2d(x, "db2", "symmetric")
    half = idwt2d(bands._replace(low=0.5 * bands.low), "db2", "symmetric", size=x.shape[-2:])
    blocks = haar2d(half)
    return ihaar2d([blocks.low, *(2 * band for band in blocks[1:])])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own imports
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(compiler):
    x = planes(3, 6, 10)
    compiled = torch.compile(round_trip, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(x), round_trip(x))
    (expected,) = torch.autograd.grad(round_trip(x).sum(), x)
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_compiles_for_any_size():
    compiled = torch.compile(round_trip, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 10, 16):
        x = planes(2, size, size + 2, requires_grad=False)
        torch.testing.assert_close(compiled(x), round_trip(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward mode
def test_transforms_and_fake_tensors():
    x = planes(5, 2, 6, 10, requires_grad=False)
    torch.testing.assert_close(torch.func.vmap(round_trip)(x), round_trip(x))
    value, tangent = torch.func.jvp(round_trip, (x,), (x,))  # linear
    torch.testing.assert_close(tangent, value)
    with torch._subclasses.FakeTensorMode():
        assert dwt2d(torch.empty(3, 7, 9), "db4", "zero").diagonal.shape == (3, 7, 8)
    assert haar2d(torch.empty(3, 8, 6, device="meta")).low.shape == (3, 4, 3)
