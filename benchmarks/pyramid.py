"""Is a pyramid worth kernels of its own?

Halving, doubling, a Laplacian pyramid of three levels and its collapse at 8 x 3 x 512 x 512, against convolutions in
torch (strided and transposed, channels as a batch) and against torch's pooling and interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import collapse, laplacian_pyramid, pyramid_down, pyramid_up

LINE = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
SMOOTH, BOX = torch.outer(LINE, LINE)[None, None], torch.full((1, 1, 2, 2), 0.25)


def conv_down(x: Tensor, weights: Tensor) -> Tensor:
    """By strided convolution; the edge repeats."""
    planes = x.reshape(-1, 1, *x.shape[-2:])
    if weights.shape[-1] == 4:
        planes = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(planes, weights, stride=2).reshape(*x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2)


def conv_up(x: Tensor) -> Tensor:
    """Bilinear, by transposed convolution; the edge repeats."""
    planes = F.pad(x.reshape(-1, 1, *x.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    whole = F.conv_transpose2d(planes, 4 * SMOOTH, stride=2)[..., 3:-3, 3:-3]
    return whole.reshape(*x.shape[:-2], 2 * x.shape[-2], 2 * x.shape[-1])


def interpolated(x: Tensor) -> Tensor:
    """Bilinear, by torch's interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def build(x: Tensor, down: Callable[[Tensor], Tensor], up: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Three levels as people write it."""
    details = []
    for _ in range(2):
        low = down(x)
        details.append(x - up(low))
        x = low
    return [x, *reversed(details)]


def unbuilt(pyramid: Sequence[Tensor], up: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse as people write it."""
    x = pyramid[0]
    for detail in pyramid[1:]:
        x = up(x) + detail
    return x


def benchmark(bench: Benchmark) -> None:
    """All cases."""
    x = torch.randn(8, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    small, size = pyramid_down(x), "8x3x512x512 float32"
    levels = laplacian_pyramid(x, 3)
    convolutions, interpolation = "conv2d, conv_transpose2d", "avg_pool2d, interpolate"

    def pooled(y: Tensor) -> Tensor:
        return F.avg_pool2d(y, 2)

    def convolved(y: Tensor) -> Tensor:
        return conv_down(y, BOX)

    cases: list[tuple[str, Callable[[], object], list[tuple[str, Callable[[], object]]]]] = [
        (
            "pyramid_down box",
            lambda: pyramid_down(x),
            [(convolutions, lambda: convolved(x)), (interpolation, lambda: pooled(x))],
        ),
        (
            "pyramid_down bilinear",
            lambda: pyramid_down(x, "bilinear"),
            [(convolutions, lambda: conv_down(x, SMOOTH))],
        ),
        (
            "pyramid_up bilinear",
            lambda: pyramid_up(small),
            [(convolutions, lambda: conv_up(small)), (interpolation, lambda: interpolated(small))],
        ),
        (
            "laplacian_pyramid",
            lambda: laplacian_pyramid(x, 3),
            [
                (convolutions, lambda: build(x, convolved, conv_up)),
                (interpolation, lambda: build(x, pooled, interpolated)),
            ],
        ),
        (
            "collapse",
            lambda: collapse(levels),
            [(convolutions, lambda: unbuilt(levels, conv_up)), (interpolation, lambda: unbuilt(levels, interpolated))],
        ),
    ]
    for name, ours, peers in cases:
        for peer, theirs in peers:
            result, expected = ours(), theirs()
            if name == "laplacian_pyramid":
                result, expected = list(result), list(expected)  # type: ignore[call-overload]
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
            bench.compare(f"{name} {size}", peer, repeated(ours, 1), repeated(theirs, 1))


if __name__ == "__main__":
    main(benchmark, __doc__)
