"""Is a selection worth more than a sort, for the dynamic thresholding of a clean estimate?

`threshold` against the torch expression that samplers use: `torch.quantile` of the absolute values, clamp, divide; and
against the same with `torch.kthvalue`, which selects too, but without interpolation and one sample at a time.
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import threshold

QUANTILE_LIMIT = 16 * 2**20  # elements of a sample that torch.quantile accepts


def quantile(x: Tensor, ratio: float) -> Tensor:
    """As in published samplers."""
    s = torch.quantile(x.abs().flatten(1).float(), ratio, dim=1).clamp(min=1.0).reshape(-1, *[1] * (x.ndim - 1))
    return (torch.clamp(x.float(), -s, s) / s).to(x.dtype)


def kthvalue(x: Tensor, ratio: float) -> Tensor:
    """With the lower order statistic."""
    flat = x.abs().flatten(1).float()
    s = flat.kthvalue(1 + int(ratio * (flat.shape[1] - 1)), dim=1).values.clamp(min=1.0)
    s = s.reshape(-1, *[1] * (x.ndim - 1))
    return (torch.clamp(x.float(), -s, s) / s).to(x.dtype)


def rows(bench: Benchmark, shape: tuple[int, ...], dtype: torch.dtype, ratio: float = 0.995) -> None:
    """One shape."""
    name = f"threshold {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    if not bench.wants(name):
        return
    x = (1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    loops = max(1, min(200, 2**21 // x.numel()))
    ours = repeated(lambda: threshold(x, ratio), loops)
    if x[0].numel() <= QUANTILE_LIMIT:
        tolerance = 2 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-4  # torch's rank is in float32
        torch.testing.assert_close(threshold(x, ratio), quantile(x, ratio), rtol=tolerance, atol=tolerance)
        theirs = repeated(lambda: quantile(x, ratio), loops)
        bench.compare(name, "torch.quantile, clamp, divide", ours, theirs, repeats=loops)
    theirs = repeated(lambda: kthvalue(x, ratio), loops)
    bench.compare(name, "torch.kthvalue, clamp, divide", ours, theirs, repeats=loops)


def benchmark(bench: Benchmark) -> None:
    """Small images in a batch, one large image, a batch of them."""
    shapes = [(16, 12288), (1, 3, 512, 512)] if bench.quick else [(16, 12288), (1, 3, 512, 512), (8, 3, 256, 256)]
    for shape in shapes:
        for dtype in (torch.float32,) if bench.quick else (torch.float32, torch.bfloat16):
            rows(bench, shape, dtype)


if __name__ == "__main__":
    main(benchmark, __doc__)
