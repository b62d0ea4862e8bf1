"""`mmd2` and `energy_distance` against all pairs in float64, within derived bounds, on every variant."""

import itertools
import math

import kernel_variants
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError, UnknownNameError
from pushforward.kernels import backend, energy_distance, mmd2
from pushforward.kernels.dispatch import native_module

VARIANTS = kernel_variants.variants("mmd2")
NATIVE = [variant for variant in VARIANTS if variant.startswith("native")]
SIZES = [((1, 2), 1), ((2, 1), 70), ((63, 65), 5), ((64, 64), 64), ((130, 191), 300), ((1000, 777), 3)]
BANDWIDTHS = {"gaussian": (0.7, 1.5, 4.0), "rational_quadratic": (0.5, 2.0), "distance": (1.0,)}


def points(count, features, seed, dtype=torch.float32, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, features, generator=generator, dtype=torch.float64) + shift).to(dtype)


def discrepancy(kernel, x, y, unbiased=True):
    if kernel == "distance":
        return energy_distance(x, y, unbiased=unbiased)
    return mmd2(x, y, kernel, BANDWIDTHS[kernel], unbiased=unbiased)


def all_pairs(kernel, x, y, unbiased):
    """The textbook formula in float64; differentiable."""
    x, y = x.double(), y.double()

    def mean(a, b, same):
        r = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # its gradient is zero where r is
        if kernel == "distance":
            k = -r
        elif kernel == "gaussian":
            k = sum(torch.exp(-(r**2) / (2 * h**2)) for h in BANDWIDTHS[kernel])
        else:
            k = sum(1 / (1 + r**2 / (2 * h**2)) for h in BANDWIDTHS[kernel])
        if same and unbiased:
            return k.masked_fill(torch.eye(len(a), dtype=torch.bool), 0).sum() / (len(a) * (len(a) - 1))
        return k.mean()

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def bound(kernel, x, y, *, product=False):
    """Rounding of one mean, times the four means that are added.

    A squared distance of p features has relative error (p / 2 + 2) eps: difference, square, sum. A kernel passes on at
    most 1/e of it (t exp(-t)), 1/4 (t / (1 + t)^2) or, as a part of r, 1/2; its own evaluation adds 3 eps for each
    bandwidth. 64 terms are summed in the type of the points. Distances from a ``product`` of centred points (Triton)
    have errors relative to the squared norms instead: (p + 4) eps (|x|^2 + |y|^2) at most.
    """
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    both, rates = torch.cat([x, y]).double(), [1 / (2 * h**2) for h in BANDWIDTHS[kernel]]
    count, largest = len(rates), float(torch.cdist(both, both).max()) if kernel == "distance" else 1.0
    relative = (x.shape[1] / 2 + 4) * {"gaussian": 1 / math.e, "rational_quadratic": 0.25, "distance": 0.5}[kernel]
    total = 4 * eps * count * largest * (relative + 3 + 32 + count)
    if product:
        error = (x.shape[1] + 4) * eps * 2 * float((both - both.mean(0)).square().sum(1).max())
        total += 4 * (math.sqrt(error) if kernel == "distance" else error * sum(rates))
    return total


@pytest.mark.parametrize("kernel", BANDWIDTHS)
@pytest.mark.parametrize(("size", "features"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_within_the_rounding_bound(kernel, size, features, dtype):
    x, y = points(size[0], features, 1, dtype), points(size[1], features, 2, dtype, shift=0.3)
    for unbiased in (True, False):
        if min(size) == 1 and unbiased:
            continue
        exact = float(all_pairs(kernel, x, y, unbiased))
        for variant in VARIANTS:
            if variant == "triton" and (size[0] * size[1] * features > 130 * 191 * 10 or dtype == torch.float16):
                continue  # slow in the interpreter
            with kernel_variants.using(variant):
                value = discrepancy(kernel, x, y, unbiased)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert abs(float(value) - exact) <= bound(kernel, x, y, product=variant == "triton"), variant


def laid_out(x, layout):
    if layout == "offset":
        return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "strided":
        return x.repeat_interleave(2, 1)[:, ::2]
    return x


@given(
    kernel=st.sampled_from(list(BANDWIDTHS)),
    size=st.tuples(*[st.sampled_from([1, 2, 3, 63, 64, 65, 130])] * 2),
    features=st.sampled_from([1, 2, 7, 16, 33, 64, 65]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["contiguous", "offset", "transposed", "strided"]),
    unbiased=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_variants_agree_in_any_shape_layout_and_dtype(kernel, size, features, dtype, layout, unbiased, seed):
    unbiased = unbiased and min(size) > 1
    x, y = points(size[0], features, seed, dtype), points(size[1], features, seed + 1, dtype, shift=0.3)
    with backend("reference"):
        expected = discrepancy(kernel, x, y, unbiased)
    values = []
    for variant in NATIVE:
        with kernel_variants.using(variant):
            values.append(discrepancy(kernel, laid_out(x, layout), laid_out(y, layout), unbiased))
    for value in values:
        assert torch.equal(value, values[0])
        assert value.dtype == expected.dtype
        assert abs(float(value - expected)) <= 2 * bound(kernel, x, y)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", BANDWIDTHS)
@pytest.mark.parametrize("size", [(63, 65), (130, 77)], ids=str)
@pytest.mark.parametrize("features", [1, 19, 64])
def test_gradients_agree_with_autograd_of_all_pairs(variant, kernel, size, features):
    if variant == "triton" and (features != 19 or size[0] < 64):
        pytest.skip("slow in the interpreter, and no different")
    for dtype, unbiased in ((torch.float32, True), (torch.float64, False)):
        x, y = points(size[0], features, 1, dtype), points(size[1], features, 2, dtype, shift=0.3)
        y[3] = x[5]  # where -|x - y| has no derivative
        x.requires_grad_()
        y.requires_grad_()
        exact = torch.autograd.grad(all_pairs(kernel, x, y, unbiased), (x, y))
        with kernel_variants.using(variant):
            ours = torch.autograd.grad(discrepancy(kernel, x, y, unbiased), (x, y))
        for a, b in zip(ours, exact, strict=True):
            assert (a.double() - b.double()).norm() < (1e-4 if dtype == torch.float32 else 1e-11) * b.double().norm()


def test_instruction_sets_and_threads_give_the_same_bits():
    before = torch.get_num_threads()
    for kernel, dtype in itertools.product(BANDWIDTHS, (torch.float32, torch.float64)):
        x, y = points(200, 37, 1, dtype).requires_grad_(), points(1100, 37, 2, dtype)
        results = []
        for variant, threads in itertools.product(NATIVE, (1, 2)):
            torch.set_num_threads(threads)
            try:
                with kernel_variants.using(variant):
                    value = discrepancy(kernel, x, y)
                    results.append((value.detach(), *torch.autograd.grad(value, x)))
            finally:
                torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", BANDWIDTHS)
def test_order_and_sides_do_not_matter(variant, kernel):
    n, m = (40, 33) if variant == "triton" else (70, 129)  # its interpreter is slow
    x, y = points(n, 6, 1, torch.float64), points(m, 6, 2, torch.float64, shift=0.2)
    with kernel_variants.using(variant):
        value = discrepancy(kernel, x, y)
        for other in (discrepancy(kernel, x.flip(0), y.roll(7, 0)), discrepancy(kernel, y, x)):
            assert abs(float(value - other)) < 1e-12
        assert abs(float(discrepancy(kernel, x, x, False))) < 1e-12
        turned = points(6, n, 1, torch.float64).T  # strides that are not those of rows
        assert torch.equal(discrepancy(kernel, turned, y), discrepancy(kernel, turned.contiguous(), y))


@pytest.mark.parametrize("variant", ["reference", *NATIVE])
@pytest.mark.parametrize("kernel", BANDWIDTHS)
def test_the_origin_does_not_matter(variant, kernel):
    x, y = ((points(50, 4, seed) * 64).round() / 64 for seed in (1, 2))  # 2**17 further on they are exact still
    with kernel_variants.using(variant):
        assert torch.equal(discrepancy(kernel, x + 2**17, y + 2**17), discrepancy(kernel, x, y))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", BANDWIDTHS)
def test_nan_is_not_hidden(variant, kernel):
    x, y = points(5, 3, 1), points(70, 3, 2)
    y[69, 1] = math.nan
    with kernel_variants.using(variant):
        assert discrepancy(kernel, x, y).isnan()
        assert discrepancy(kernel, y, x).isnan()


def test_unbiased():
    """Standard normals a distance 1 apart in eight dimensions, h^2 = 8: 2 (5/4)^-4 (1 - exp(-1/20)) = 0.03995."""
    exact = 2 * 1.25**-4 * -math.expm1(-1 / 20)
    values, null = [], []
    for seed in range(40):
        x, y = points(500, 8, 2 * seed), points(500, 8, 2 * seed + 1)
        null.append(float(mmd2(x, y, bandwidths=(math.sqrt(8),))))
        y[:, 0] += 1
        values.append(float(mmd2(x, y, bandwidths=(math.sqrt(8),))))
    for sample, mean in ((values, exact), (null, 0.0)):
        error = np.std(sample, ddof=1) / math.sqrt(len(sample))
        assert abs(np.mean(sample) - mean) < 4 * error
    assert np.std(null) < 0.001  # so 0.04 is far from nothing


@pytest.mark.skipif(not NATIVE, reason="the native module is not built")
def test_exponential_is_accurate_and_the_same_everywhere():
    x = -torch.cat([torch.linspace(0, 88, 200003), torch.logspace(-30, 1.9, 20001)])
    results = []
    for name in native_module.instruction_sets():
        with kernel_variants.using(f"native {name}"):
            out = torch.empty_like(x)
            native_module.exponentials(x.data_ptr(), out.data_ptr(), len(x))
            results.append(out)
    assert all(torch.equal(results[0], other) for other in results)
    exact = x.clamp(min=-87).double().exp()
    ulp = torch.from_numpy(np.spacing(exact.float().numpy())).double()
    assert ((results[0].double() - exact).abs() / ulp).max() < 1.5


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@pytest.mark.skipif(not NATIVE, reason="the native module is not built")
def test_memory_does_not_grow_with_the_pairs():
    x, y = points(8000, 8, 1).requires_grad_(), points(8000, 8, 2)
    mmd2(x[:2], y[:2]).backward()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the highest memory so far
        before = peak()
    except OSError:
        pytest.skip("this system does not measure it")
    mmd2(x, y).backward()
    assert peak() - before < 8000 * 8000 * 4 / 1024 * 0.05  # a twentieth of one matrix, in KiB


@pytest.mark.parametrize("variant", ["reference", *NATIVE[:1]])
@pytest.mark.parametrize("kernel", BANDWIDTHS)
def test_operator(variant, kernel):
    name = "energy_distance" if kernel == "distance" else "mmd2"
    x, y = points(4, 3, 1, torch.float64).requires_grad_(), points(3, 3, 2, torch.float64).requires_grad_()
    rates = [1 / (2 * h**2) for h in BANDWIDTHS[kernel]]
    with kernel_variants.using(variant):
        if kernel != "rational_quadratic":
            for operator in (name, f"{name}_gradient"):
                op = getattr(torch.ops.pushforward, operator).default
                torch.library.opcheck(op, (x, y, kernel, rates, variant == "reference"))
        for unbiased in (True, False):
            assert torch.autograd.gradcheck(lambda x, y, u=unbiased: discrepancy(kernel, x, y, u), (x, y))
            assert torch.autograd.gradgradcheck(lambda x, y, u=unbiased: discrepancy(kernel, x, y, u), (x, y))


def test_compiles_without_a_graph_break():
    def function(x, y):
        return mmd2(2 * x, y, bandwidths=(1.0, 3.0)) + energy_distance(x, y)

    x, y = points(20, 5, 1).requires_grad_(), points(30, 5, 2)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), function(x, y))
    (expected,) = torch.autograd.grad(function(x, y), x)
    (gradient,) = torch.autograd.grad(compiled(x, y), x)
    torch.testing.assert_close(gradient, expected)
    with torch._subclasses.FakeTensorMode():
        assert energy_distance(torch.empty(4, 2), torch.empty(3, 2)).shape == ()


def test_narrow_points_have_narrow_gradients():
    x, y = points(20, 5, 1, torch.bfloat16).requires_grad_(), points(30, 5, 2, torch.bfloat16)
    value = mmd2(x, y)
    value.backward()
    assert (value.dtype, x.grad.dtype) == (torch.float32, torch.bfloat16)
    z = x.detach().float().requires_grad_()
    mmd2(z, y.float()).backward()
    assert torch.equal(x.grad, z.grad.bfloat16())


a, b = torch.zeros(3, 2), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (DtypeError, "x: got torch.int64", lambda: mmd2(a.long(), b)),
        (DtypeError, r"y\[0\]: got torch.float64", lambda: mmd2(a, b.double())),
        (DeviceError, r"y\[0\]: got meta", lambda: energy_distance(a, b.to("meta"))),
        (ShapeError, r"x: got \[3\], expected points", lambda: mmd2(a[:, 0], b)),
        (ShapeError, r"y: got \[4, 0\]", lambda: mmd2(a, b[:, :0])),
        (ShapeError, "y: .* 2 features", lambda: mmd2(a, torch.zeros(4, 3))),
        (ShapeError, "x: got 1 points, expected at least 2", lambda: mmd2(a[:1], b)),
        (ShapeError, "y: got 0 points, expected at least 1", lambda: energy_distance(a, b[:0], unbiased=False)),
        (UnknownNameError, "kernel: got 'laplace'", lambda: mmd2(a, b, "laplace")),
        (UnknownNameError, "kernel: got 'distance'", lambda: mmd2(a, b, "distance")),
        (ArgumentError, "bandwidths: got 0 numbers", lambda: mmd2(a, b, bandwidths=())),
        (ArgumentError, "bandwidths: got 17 numbers", lambda: mmd2(a, b, bandwidths=[1.0] * 17)),
        (ArgumentError, "bandwidths: got 0.0", lambda: mmd2(a, b, bandwidths=(1.0, 0.0))),
        (ArgumentError, "bandwidths: got nan", lambda: mmd2(a, b, bandwidths=(math.nan,))),
    ],
)
def test_named_error(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", BANDWIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_gpu(kernel, dtype):
    x, y = points(300, 70, 1, dtype), points(200, 70, 2, dtype, shift=0.1)
    there = x.cuda().requires_grad_()
    value = discrepancy(kernel, there, y.cuda())
    difference = float(value.detach()) - float(all_pairs(kernel, x, y, True))
    assert abs(difference) < bound(kernel, x, y, product=True)
    here = x.requires_grad_()
    with backend("reference"):
        expected = torch.autograd.grad(discrepancy(kernel, here, y), here)[0]
    (gradient,) = torch.autograd.grad(value, there)
    assert (gradient.cpu() - expected).norm() < 1e-4 * expected.norm()
