"""Is a spatial index worth it for a sum of local grids?

1024 cubes of 7 x 7 x 7 values around a sphere (a Mosaic-SDF shape) at random points near the surface, against the
formula with all pairs of points and cubes in torch, and against the pairs found first (the reference).
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import backend, grid_sample3d_sum

CUBES, NODES = 1024, 7


def shape(queries: int) -> tuple[Tensor, ...]:
    """Points, centers, half-widths and values of a sphere of radius 0.5."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(CUBES + queries, 3, generator=generator), dim=-1)
    centers, scales = 0.5 * directions[:CUBES], torch.full((CUBES,), 0.08)
    points = directions[CUBES:] * (0.5 + 0.03 * torch.randn(queries, 1, generator=generator))
    line = torch.linspace(-1, 1, NODES)
    local = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    nodes = centers[:, None, None, None] + scales[:, None, None, None, None] * local
    return points, centers, scales, nodes.norm(dim=-1) - 0.5


def all_pairs(points: Tensor, centers: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    """The formula through torch's grid_sample, 256 points at a time: else it takes gigabytes."""
    results = []
    for some in points.split(256):
        q = (some[:, None] - centers) / scales[:, None]
        weights = (1 - q.abs().amax(-1)).clamp(min=0)
        at = q.flip(-1).transpose(0, 1)[:, :, None, None]
        inner = torch.nn.functional.grid_sample(values[:, None], at, align_corners=True, padding_mode="border")
        results.append((weights * inner[:, 0, :, 0, 0].T).sum(1) / weights.sum(1))
    return torch.cat(results)


def referenced(scene: tuple[Tensor, ...]) -> Tensor:
    """The pairs that matter found first, in torch."""
    with backend("reference"):
        return grid_sample3d_sum(*scene, outside=0.0).values


def benchmark(bench: Benchmark) -> None:
    """A thousand points against all pairs, which take a second; eight thousand against the pairs that matter."""
    for queries, peer, theirs in (
        (2**10, "all pairs", lambda scene: all_pairs(*scene)),
        (2**13, "reference", referenced),
    ):
        scene = shape(queries)
        values, inside = grid_sample3d_sum(*scene, outside=0.0)
        torch.testing.assert_close(values[inside], theirs(scene)[inside], rtol=1e-4, atol=1e-6)
        ours = repeated(lambda s=scene: grid_sample3d_sum(*s, outside=0.0), 1)
        case = f"grid_sample3d_sum {queries} points, {CUBES} cubes of {NODES}^3 float32"
        bench.compare(case, peer, ours, repeated(lambda s=scene, f=theirs: f(s), 1))


if __name__ == "__main__":
    main(benchmark, __doc__)
