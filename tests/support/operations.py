"""A call of every operation, for tests of what holds for all of them. A new operation needs one case here."""

from __future__ import annotations

import torch

from pushforward import kernels
from pushforward.kernels import Draw, Noise

KEY = {"seed": 5, "draw": Draw(9, 1)}
# Sizes of an image, and of two samples of points: for differences, for imitated devices, for whole vectors.
TINY = ((2, 4), (3, 2), (4, 2))
SMALL = ((6, 10), (9, 3), (7, 3))
LARGE = ((18, 134), (70, 19), (67, 19))


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def bands(image, seed, dtype):
    """Four, of a quarter of the image each, or a little more."""
    return [numbers(2, (image[0] + 2) // 2, (image[1] + 2) // 2, seed=seed + k, dtype=dtype) for k in range(4)]


def combined(x, v):
    noise = [Noise(2**64 - 1, Draw(1, 2)), Noise(3, Draw(4, 5))]
    return kernels.combine([x, v], [[0.3, -0.7], [1.1, 0.2]], noise=noise, scale=[[0.1, 0.0], [0.5, -0.2]])


def bridged(x):
    times = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    w, h = kernels.brownian(x.shape, times, seed=5, levels=3, dtype=x.dtype, device=x.device)
    return [x + w[0], x + w[1] + w[2], x + h[1]]


def stepped(x, *stages):
    step = kernels.rk_step(
        x, stages, 0.25, [0.5, 0.0, 0.5], [[1.0, -1.0, 0.5]], rtol=1e-2, atol=0.1, dense=[[1.0, 2.0, 0.0]]
    )
    return step.x, *step.dense, step.error


def cases(sizes, dtype=torch.float64):
    """By operation: a function that returns tensors, the tensors in which it is differentiable, and other arguments."""
    image, first, second = sizes
    x, y, z, w = (numbers(2, *image, seed=seed, dtype=dtype) for seed in range(4))
    a, b = numbers(*first, seed=4, dtype=dtype), numbers(*second, seed=5, dtype=dtype)
    index = torch.randint(image[0], (2, 3), generator=torch.Generator().manual_seed(6))
    few = numbers(2, 3, image[1], seed=7, dtype=dtype)
    line = torch.linspace(-0.8, 0.8, first[0], dtype=dtype)
    points, centers = torch.stack([line, line**2, -line], 1), torch.stack([line.flip(0), line**2, -line], 1)[::2]
    half, grids = 0.7 + 0.1 * line[::2].abs(), numbers(len(line[::2]), 3, 3, 3, seed=8, dtype=dtype)
    four, more = bands((image[0] - 2, image[1] - 2), 10, dtype), bands(image, 20, dtype)
    size = (2 * more[0].shape[-2] - 2, 2 * more[0].shape[-1] - 2)  # a filter of four taps
    return {
        "combine": (combined, [x, y], []),
        "normal": (lambda x: [x + kernels.normal(x.shape, **KEY, dtype=dtype, device=x.device)], [x], []),
        "uniform": (lambda x: [x + kernels.uniform(x.shape, **KEY, dtype=dtype, device=x.device)], [x], []),
        "brownian": (bridged, [x], []),
        "rk_step": (stepped, [x, y, z, w], []),
        "gram": (lambda *x: list(kernels.gram(x)), [x, y], []),
        "resample": (lambda x: list(kernels.resample(x, **KEY)), [x[0]], []),
        "gather_rows": (lambda x, i: [kernels.gather_rows(x, i)], [x], [index]),
        "gather_tokens": (lambda x, i: [kernels.gather_tokens(x, i)], [x], [index]),
        "scatter_tokens": (lambda x, v, i: [kernels.scatter_tokens(x, i, v)], [x, few], [index]),
        # at this ratio the quantile is below the floor, and so truly constant
        "threshold": (lambda x: [kernels.threshold(x, 0.9, floor=6.0)], [x], []),
        "mmd2": (lambda x, y: [kernels.mmd2(x, y, bandwidths=(0.7, 2.0))], [a, b], []),
        "energy_distance": (lambda x, y: [kernels.energy_distance(x, y)], [a, b], []),
        "haar2d": (lambda x: list(kernels.haar2d(x)), [x], []),
        "ihaar2d": (lambda *x: [kernels.ihaar2d(x)], four, []),
        "dwt2d": (lambda x: list(kernels.dwt2d(x, "db2", "symmetric")), [x], []),
        "idwt2d": (lambda *x: [kernels.idwt2d(x, "db2", "symmetric", size=size)], more, []),
        "pyramid_down": (lambda x: [kernels.pyramid_down(x, "bilinear")], [x], []),
        "pyramid_up": (lambda x: [kernels.pyramid_up(x, "bilinear")], [x], []),
        "grid_sample3d_sum": (
            lambda *x: list(kernels.grid_sample3d_sum(*x, outside=0.0)),
            [points, centers, half, grids],
            [],
        ),
    }
