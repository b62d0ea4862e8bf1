"""Wavelet transforms: PyWavelets' numbers, exact reconstruction, and every backend bit for bit."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError, UnknownNameError
from pushforward.kernels import Bands, Wavelet, backend, dwt2d, haar2d, idwt2d, ihaar2d
from pushforward.kernels.dispatch import implementing, interpreting
from pushforward.kernels.wavelet_filters import WAVELETS

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
VARIANTS = [name for name in variants("dwt2d") if name != "triton" or interpreting()]
COMPILED = [name for name in VARIANTS if name != "triton"]  # Triton's interpreter is too slow for hundreds of examples
PYWAVELETS = {"periodic": "periodization", "symmetric": "symmetric", "zero": "zero"}
filters, modes = st.sampled_from(list(WAVELETS)), st.sampled_from(list(PYWAVELETS))


def planes(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same(ours, expected):
    """Equal bit for bit."""
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@given(height=st.integers(1, 33), width=st.integers(1, 33), name=filters, mode=modes)
def test_numbers_and_sizes_are_those_of_pywavelets(height, width, name, mode):
    if mode == "periodic":
        height, width = 2 * height, 2 * width
    x = planes(2, height, width)
    low, (horizontal, vertical, diagonal) = pywt.dwt2(x.numpy(), name, PYWAVELETS[mode])
    # Their sym4 is accurate to 1e-12 only; sums of at most 16 x 16 products of normals, taps of absolute sum below 3
    tolerance = 2e-11 if name == "sym4" else 2e-13 * 9
    with backend("reference"):
        bands = dwt2d(x, name, mode)
    for ours, theirs in zip(bands, (low, horizontal, vertical, diagonal), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.numpy() - theirs).max() < tolerance


@pytest.mark.parametrize("variant", COMPILED)
@given(
    batch=st.sampled_from([(), (0,), (1,), (2, 3)]),
    height=st.integers(1, 20),
    width=st.sampled_from([1, 2, 3, 7, 16, 31, 32, 33, 64, 65, 70, 131]),
    name=st.sampled_from(["haar", "db2", "db3", "db4", "db8"]),
    mode=modes,
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 100),
)
def test_backends_equal_the_reference(variant, batch, height, width, name, mode, dtype, seed):
    if mode == "periodic":
        height, width = height + height % 2, width + width % 2
    x = planes(*batch, height, width, seed=seed, dtype=dtype)
    with backend("reference"):
        expected = dwt2d(x, name, mode)
        inverse = idwt2d(expected, name, mode, size=(height, width))
    with using(variant):
        same(dwt2d(x, name, mode), expected)
        same([idwt2d(expected, name, mode, size=(height, width))], [inverse])


@pytest.mark.skipif("triton" not in VARIANTS, reason="needs Triton's interpreter")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "mode", "shape"),
    [
        ("haar", "periodic", (2, 4, 1030)),  # more than one block of columns
        ("haar", "zero", (3, 5)),
        ("db2", "periodic", (2, 0, 4, 6)),
        ("db2", "symmetric", (3, 5, 131)),  # more than one tile
        ("db3", "zero", (1, 1)),
    ],
)
def test_triton_equals_the_reference(name, mode, shape, dtype):
    x = planes(*shape, dtype=dtype)
    with backend("reference"):
        expected = dwt2d(x, name, mode)
        inverse = idwt2d(expected, name, mode, size=shape[-2:])
    with backend("triton"):
        same(dwt2d(x, name, mode), expected)
        same([idwt2d(expected, name, mode, size=shape[-2:])], [inverse])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["haar", "db2"])
def test_layout_and_batch_do_not_matter(variant, name):
    large = variant != "triton"
    x = planes(3, 2, 24 if large else 4, 70 if large else 6, dtype=torch.float32)
    with using(variant):
        whole = dwt2d(x, name)
        image = idwt2d(whole, name)
        for b in range(3):
            same(dwt2d(x[b], name), [band[b] for band in whole])
            assert torch.equal(idwt2d([band[b] for band in whole], name), image[b])
        shifted = torch.empty(x.numel() + 1)[1:].view(x.shape).copy_(x)  # not aligned to 8 bytes
        permuted = x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
        for other in (shifted, permuted, x.repeat_interleave(2, -1)[..., ::2]):
            same(dwt2d(other, name), whole)
        strided = [band.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) for band in whole]
        assert torch.equal(idwt2d(strided, name), image)


@pytest.mark.parametrize("name", ["haar", "db4"])
def test_large_planes_and_threads(name):
    """Beyond 32 MiB, outputs are written past the caches."""
    x = planes(5, 1024, 960, dtype=torch.float32)
    with backend("reference"):
        expected = dwt2d(x, name)
        inverse = idwt2d(expected, name)
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        same(dwt2d(x, name), expected)
        assert torch.equal(idwt2d(expected, name), inverse)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("mode", list(PYWAVELETS))
@pytest.mark.parametrize("name", list(WAVELETS))
def test_reconstruction(name, mode, dtype, bound):
    sizes = [(2, 2), (6, 40), (64, 32)] + ([(1, 1), (5, 9), (33, 17)] if mode != "periodic" else [])
    for size in sizes:
        x = 2 * torch.rand(3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1  # images: [-1, 1]
        # db5 to db8 have 10 to 16 taps: 2 x 2 sums of so many products each way lose a little more than 1e-6
        longer = 1 if len(WAVELETS[name].taps) <= 8 else 2
        error = idwt2d(dwt2d(x, name, mode), name, mode, size=size) - x
        assert error.abs().max() < bound * longer


def test_haar_of_whole_numbers_is_exact():
    x = torch.randint(-(2**21), 2**21, (4, 64, 96)).float()
    assert torch.equal(ihaar2d(haar2d(x)), x)
    pixels = torch.randint(0, 256, (3, 32, 32))
    assert torch.equal(ihaar2d(haar2d(pixels.half())).long(), pixels)  # bands of up to 510 in halves fit 11 bits


@pytest.mark.parametrize("name", list(WAVELETS))
def test_periodic_transform_keeps_the_norm(name):
    x = planes(3, 20, 32)
    total = sum(band.square().sum() for band in dwt2d(x, name))
    torch.testing.assert_close(total, x.square().sum(), rtol=1e-13, atol=0)


def test_bands_see_what_their_names_say():
    rows = torch.arange(8.0)[:, None].expand(8, 8)  # changes from row to row: horizontal edges
    bands = haar2d(rows)
    assert (bands.horizontal != 0).all()
    assert bands.vertical.abs().max() == bands.diagonal.abs().max() == 0
    assert torch.equal(haar2d(rows.T).vertical, bands.horizontal.T)


def test_nan_stays_where_its_filters_reach():
    x = planes(2, 32, 64)
    clean = dwt2d(x, "db2", "symmetric")
    x[0, 16, 32] = torch.nan
    for variant in VARIANTS[:2]:
        with using(variant):
            for band, before in zip(dwt2d(x, "db2", "symmetric"), clean, strict=True):
                assert torch.isnan(band).sum() == 4
                assert torch.equal(band[~torch.isnan(band)], before[~torch.isnan(band)])


x, small = torch.zeros(2, 4, 6), torch.zeros(2, 3, 3)


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (ShapeError, r"x: got \[2, 5, 6\], expected even", lambda: haar2d(torch.zeros(2, 5, 6))),
        (ShapeError, 'Use mode="symmetric"', lambda: dwt2d(torch.zeros(33, 33))),
        (ShapeError, r"x: got \[4\]", lambda: haar2d(torch.zeros(4))),
        (ShapeError, "x: got .*at least one element", lambda: dwt2d(torch.zeros(2, 0, 6), "db2", "zero")),
        (DtypeError, "x: got torch.int64", lambda: haar2d(x.long())),
        (DtypeError, "x: got torch.complex64", lambda: dwt2d(x.to(torch.complex64))),
        (UnknownNameError, "filter: got 'db99', expected haar | db2", lambda: dwt2d(x, "db99")),
        (UnknownNameError, "mode: got 'reflect'", lambda: dwt2d(x, "db2", "reflect")),
        (UnknownNameError, "mode", lambda: idwt2d([x] * 4, "db2", "reflect")),
        (ShapeError, "bands: got 3 tensors", lambda: ihaar2d([x] * 3)),
        (ShapeError, r"bands.vertical: got \[2, 3, 3\]", lambda: ihaar2d([x, x, small, x])),
        (DtypeError, "bands.diagonal", lambda: idwt2d([x, x, x, x.double()])),
        (DeviceError, "bands.horizontal: got meta", lambda: ihaar2d([x, x.to("meta"), x, x])),
        (ShapeError, r"bands: .* sides of at least 4", lambda: idwt2d([small] * 4, "db4", "zero")),
        (ShapeError, r"size: got \[7, 12\], expected \[8, 12\], for", lambda: idwt2d([x] * 4, "db4", size=(7, 12))),
        (
            ShapeError,
            r"size: got \[5, 8\], expected \[6, 10\], or one less",
            lambda: idwt2d([x] * 4, "db2", "zero", size=(5, 8)),
        ),
        (ArgumentError, "taps: got 3 taps", lambda: Wavelet((0.5, 0.5, 0.5))),
        (ArgumentError, "taps: got an error of .* under shift 0", lambda: Wavelet((0.7, 0.7))),
        (ArgumentError, "taps: got moment 1", lambda: Wavelet(WAVELETS["haar"].taps, moments=2)),
    ],
)
def test_errors(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.parametrize("name", list(WAVELETS))
def test_a_wrong_digit_is_noticed(name):
    wavelet = WAVELETS[name]
    for k, tap in enumerate(wavelet.taps):
        wrong = (*wavelet.taps[:k], tap * (1 + 1e-10), *wavelet.taps[k + 1 :])
        with pytest.raises(ArgumentError):
            Wavelet(wrong, wavelet.moments)


def test_own_filter():
    own = Wavelet(tuple(reversed(WAVELETS["db2"].taps)), source="db2 backwards")
    image = planes(2, 8, 12)
    torch.testing.assert_close(idwt2d(dwt2d(image, own), own), image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", list(PYWAVELETS))
def test_on_a_gpu(mode, dtype):
    image = planes(3, 2, 66, 258, dtype=dtype)
    for name in ("haar", "db4"):
        with backend("reference"):
            expected = dwt2d(image, name, mode)
            inverse = idwt2d(expected, name, mode)
        for device_backend in set(implementing("dwt2d")) - {"native"}:
            with backend(device_backend):
                bands = dwt2d(image.cuda(), name, mode)
                same([band.cpu() for band in bands], expected)
                same([idwt2d(Bands(*[b.cuda() for b in expected]), name, mode).cpu()], [inverse])
