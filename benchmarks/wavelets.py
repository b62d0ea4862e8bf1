"""Is a wavelet transform worth a kernel of its own?

One level of 8 x 3 x 512 x 512, and its inverse, against strided and transposed convolutions in torch, in the two ways
people write them: with a group for each channel, or with the channels as a batch. Borders are periodic; the peers'
padding is counted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import dwt2d, haar2d, idwt2d, ihaar2d
from pushforward.kernels.wavelet_filters import WAVELETS


def bank(name: str, dtype: torch.dtype) -> Tensor:
    """The four filters as one convolution's weights, [4, 1, K, K]."""
    wavelet = WAVELETS[name]
    h, g = (torch.tensor(taps, dtype=torch.float64) for taps in (wavelet.taps, wavelet.high))
    return torch.stack([torch.outer(a, b) for a, b in ((h, h), (g, h), (h, g), (g, g))])[:, None].to(dtype)


def analysis(x: Tensor, weights: Tensor, *, groups: bool) -> Tensor:
    """[B, C, 4, H/2, W/2]."""
    batch, channels, height, width = x.shape
    reach = weights.shape[-1] // 2 - 1
    planes = x if groups else x.reshape(-1, 1, height, width)
    if reach:
        planes = F.pad(planes, (reach,) * 4, mode="circular")
    if groups:
        weights = weights.repeat(channels, 1, 1, 1)
    bands = F.conv2d(planes, weights, stride=2, groups=channels if groups else 1)
    return bands.reshape(batch, channels, 4, height // 2, width // 2)


def synthesis(bands: Tensor, weights: Tensor, *, groups: bool) -> Tensor:
    """[B, C, H, W]."""
    batch, channels, _, height, width = bands.shape
    reach = weights.shape[-1] // 2 - 1
    around = (reach + 1) // 2
    planes = bands.reshape(batch, -1, height, width) if groups else bands.reshape(-1, 4, height, width)
    if around:
        planes = F.pad(planes, (around,) * 4, mode="circular")
    if groups:
        weights = weights.repeat(channels, 1, 1, 1)
    whole = F.conv_transpose2d(planes, weights, stride=2, groups=channels if groups else 1)
    start = reach + 2 * around
    whole = whole[..., start : start + 2 * height, start : start + 2 * width]
    return whole.reshape(batch, channels, 2 * height, 2 * width)


def transforms(bench: Benchmark, name: str, dtype: torch.dtype) -> None:
    """Rows of one filter."""
    size = f"8x3x512x512 {str(dtype).removeprefix('torch.')}"
    cases = ("haar2d", "ihaar2d") if name == "haar" else (f"dwt2d {name}", f"idwt2d {name}")
    if not bench.wants(*[f"{case} {size}" for case in cases]):
        return
    x = torch.randn(8, 3, 512, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights = bank(name, dtype)
    bands = dwt2d(x, name)
    stacked = torch.stack(bands, 2)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    for groups in (True, False):
        torch.testing.assert_close(analysis(x, weights, groups=groups), stacked, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(synthesis(stacked, weights, groups=groups), x, rtol=tolerance, atol=tolerance)
    forward = (lambda: haar2d(x)) if name == "haar" else (lambda: dwt2d(x, name))
    backward = (lambda: ihaar2d(bands)) if name == "haar" else (lambda: idwt2d(bands, name))
    torch.testing.assert_close(backward(), x, rtol=tolerance, atol=tolerance)
    moved = 2 * x.numel() * x.element_size()
    for groups, peer in ((True, "conv2d, a group a channel"), (False, "conv2d, channels as batch")):
        theirs = repeated(lambda g=groups: analysis(x, weights, groups=g), 1)
        bench.compare(f"{cases[0]} {size}", peer, repeated(forward, 1), theirs, bytes=moved)
        theirs = repeated(lambda g=groups: synthesis(stacked, weights, groups=g), 1)
        peer = peer.replace("conv2d", "conv_transpose2d")
        bench.compare(f"{cases[1]} {size}", peer, repeated(backward, 1), theirs, bytes=moved)
    copy = repeated(x.clone, 1)
    bench.compare(f"{cases[0]} {size}", "clone of as many bytes", repeated(forward, 1), copy, bytes=moved)


def packages(bench: Benchmark, name: str) -> None:
    """PyWavelets, on one thread as it is."""
    try:
        import pywt
    except ImportError as error:
        bench.skip(f"PyWavelets: {error}")
        return
    case = f"dwt2d {name} symmetric 8x3x512x512 float32"
    if not bench.wants(case):
        return
    x = torch.randn(8, 3, 512, 512)
    array, bands = x.numpy(), dwt2d(x, name, "symmetric")
    theirs = pywt.dwt2(array, name, mode="symmetric")
    torch.testing.assert_close(bands.low, torch.from_numpy(theirs[0]), rtol=1e-5, atol=1e-5)
    ours = repeated(lambda: dwt2d(x, name, "symmetric"), 1)
    bench.compare(case, "PyWavelets", ours, repeated(lambda: pywt.dwt2(array, name, mode="symmetric"), 1))


def benchmark(bench: Benchmark) -> None:
    """Haar and Daubechies' eight taps; with --quick in float32 only."""
    for name in ("haar", "db4"):
        transforms(bench, name, torch.float32)
    packages(bench, "db4")
    if not bench.quick:
        for name in ("haar", "db4"):
            transforms(bench, name, torch.bfloat16)


if __name__ == "__main__":
    main(benchmark, __doc__)
