"""What does an increment of a Brownian path cost, on a fixed grid and at random times?

Peers: torch.randn (noise that belongs to no path), torchsde's BrownianInterval and BrownianTree. Random times are those
of an adaptive run: each sample asks for an interval of its own. torchsde's paths have one time for the whole batch, so
there it is one path a sample.
"""

from __future__ import annotations

import itertools

import torch
from _harness import Benchmark, main

from pushforward.kernels import brownian
from pushforward.solvers import BrownianTree

STEPS = 50
GRID = torch.linspace(0.013, 0.987, STEPS + 1, dtype=torch.float64)


def on_a_grid(bench: Benchmark, shape: tuple[int, ...], area: bool) -> None:
    """All steps of a grid whose times are no nodes of the tree; times are those of one step."""
    size = "x".join(map(str, shape))
    case = f"brownian {size} fixed grid{' with areas' if area else ''} float32"
    times = GRID.tolist()
    shortest = times[1] - times[0]

    def ours():
        tree = BrownianTree(shape, 0.0, 1.0, tolerance=shortest, area=area)
        return lambda: [step.w for step in tree.steps(times)]

    def randn():
        return lambda: [torch.randn(shape) for _ in range(STEPS * (1 + area))]

    try:
        import torchsde
    except ImportError:
        bench.skip("torchsde is not installed")
        return bench.compare(case, "torch.randn", ours, randn, repeats=STEPS)
    flat = (shape[0], torch.Size(shape[1:]).numel())

    def interval():
        levy = "space-time" if area else "none"
        path = torchsde.BrownianInterval(0.0, 1.0, size=flat, levy_area_approximation=levy)
        return lambda: [path(a, b) for a, b in itertools.pairwise(times)]

    def tree():
        path = torchsde.BrownianTree(0.0, torch.zeros(flat), t1=1.0)
        return lambda: [path(a, b) for a, b in itertools.pairwise(times)]

    if not area:
        bench.compare(case, "torchsde.BrownianTree", ours, tree, repeats=STEPS)
    bench.compare(case, "torchsde.BrownianInterval", ours, interval, repeats=STEPS)
    bench.compare(case, "torch.randn", ours, randn, repeats=STEPS)


def at_own_times(bench: Benchmark, shape: tuple[int, ...]) -> None:
    """One query of a batch in which every sample has an interval of its own."""
    size = "x".join(map(str, shape))
    case = f"brownian {size} own times float32"
    start = torch.rand(shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.9
    times = torch.stack([start, start + 0.01])

    def ours():
        return lambda: brownian(shape, times, seed=1, levels=16)

    def randn():
        return lambda: (torch.randn(shape), torch.randn(shape))

    try:
        import torchsde
    except ImportError:
        return bench.compare(case, "torch.randn, twice", ours, randn)
    each = (1, torch.Size(shape[1:]).numel())

    def interval():
        paths = [
            torchsde.BrownianInterval(0.0, 1.0, size=each, levy_area_approximation="space-time")
            for _ in range(shape[0])
        ]
        return lambda: [path(*pair, return_U=True) for path, pair in zip(paths, times.T.tolist(), strict=True)]

    def tree():
        paths = [torchsde.BrownianTree(0.0, torch.zeros(each), t1=1.0, tol=2.0**-16) for _ in range(shape[0])]
        return lambda: [path(*pair) for path, pair in zip(paths, times.T.tolist(), strict=True)]

    # An interval that was never asked for anything cuts its path at these two times: its values depend on their order.
    bench.compare(case, "torchsde.BrownianTree, one a sample", ours, tree)
    bench.compare(case, "torchsde.BrownianInterval, one a sample", ours, interval)
    bench.compare(case, "torch.randn, twice", ours, randn)


def benchmark(bench: Benchmark) -> None:
    """All cases."""
    for area in (False, True):
        on_a_grid(bench, (1, 4, 64, 64), area)
    at_own_times(bench, (16, 4, 64, 64))
    at_own_times(bench, (256, 2))


if __name__ == "__main__":
    main(benchmark, __doc__)
