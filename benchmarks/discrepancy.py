"""What does a discrepancy between two samples cost without a matrix of their distances?

`mmd2` and `energy_distance` against the formulation that most code uses: `torch.cdist`, then kernels of the whole
matrix. Every row also says how much memory each takes beyond the points, at its peak, measured in a process of its own;
the last rows are sizes where the matrices do not fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _harness import Benchmark, Run, main
from torch import Tensor

from pushforward.kernels import energy_distance, mmd2

RATIOS = (0.5, 1.0, 2.0)


def bandwidths(features: int) -> tuple[float, ...]:
    """Around the typical distance of standard normals."""
    return tuple(ratio * (2 * features) ** 0.5 for ratio in RATIOS)


def peer_mmd2(x: Tensor, y: Tensor, kernel: str = "gaussian") -> Tensor:
    """Three matrices, one after the other; the diagonal is left out by its value, which is known."""
    scales = [1 / (2 * h**2) for h in bandwidths(x.shape[1])]

    def total(a: Tensor, b: Tensor) -> Tensor:
        r2 = torch.cdist(a, b).square()
        values = [torch.exp(-r2 * s).sum() if kernel == "gaussian" else (1 / (1 + r2 * s)).sum() for s in scales]
        return torch.stack(values).sum()

    n, m, count = len(x), len(y), len(scales)
    within = (total(x, x) - count * n) / (n * (n - 1)) + (total(y, y) - count * m) / (m * (m - 1))
    return within - 2 * total(x, y) / (n * m)


def peer_energy(x: Tensor, y: Tensor) -> Tensor:
    """The same of distances."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return 2 * torch.cdist(x, y).mean() - within


FUNCTIONS = {
    "mmd2": (lambda x, y: mmd2(x, y, bandwidths=bandwidths(x.shape[1])), peer_mmd2),
    "mmd2 rational quadratic": (
        lambda x, y: mmd2(x, y, "rational_quadratic", bandwidths(x.shape[1])),
        lambda x, y: peer_mmd2(x, y, "rational_quadratic"),
    ),
    "energy_distance": (energy_distance, peer_energy),
}


def samples(count: int, features: int) -> tuple[Tensor, Tensor]:
    """Standard normals, and others a little off."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, features, generator=generator) for _ in range(2))
    return x, y + 0.1


def highest() -> int:
    """Most bytes that this process has held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def taken(name: str, which: int, count: int, features: int, gradient: bool) -> dict[str, float]:
    """Peak memory in bytes, and seconds, of one call in a process of its own."""
    command = [sys.executable, __file__, "--one", name, str(which), str(count), str(features), str(int(gradient))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def one(name: str, which: str, count: str, features: str, gradient: str) -> None:
    """What the process does: warm up on few points, then one call."""
    torch.set_num_threads(2)
    function = FUNCTIONS[name][int(which)]

    def call(size: int) -> None:
        x, y = samples(size, int(features))
        function(x.requires_grad_(), y).backward() if int(gradient) else function(x, y)

    call(300)
    points = samples(int(count), int(features))
    before, start = highest(), time.perf_counter()
    del points
    call(int(count))
    print(json.dumps({"bytes": highest() - before, "seconds": time.perf_counter() - start}))


def rows(bench: Benchmark, name: str, count: int, features: int, *, gradient: bool = False) -> None:
    """Time and memory at one size."""
    case = f"{name}{' and gradient' if gradient else ''} {count}x{features} float32"
    if not bench.wants(case):
        return
    ours, theirs = FUNCTIONS[name]
    x, y = samples(count, features)
    exact = theirs(x.double(), y.double())
    torch.testing.assert_close(ours(x, y).double(), exact, rtol=1e-4, atol=2e-6 * float(1 + exact.abs()))
    memory: dict[str, Any] = {}
    if Path("/proc/self/status").exists():
        mine, peers = (taken(name, which, count, features, gradient)["bytes"] for which in (0, 1))
        memory = {"ours_bytes": mine, "theirs_bytes": peers, "memory": mine / max(1, peers)}
        print(f"{case} holds {mine / 2**20:.1f} MiB beyond the points, torch.cdist {peers / 2**20:.0f} MiB")

    def prepare(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Run]:
        def value() -> Tensor:
            return function(x, y)

        def with_gradient() -> None:
            with torch.enable_grad():
                function(x.detach().requires_grad_(), y).backward()

        return lambda: with_gradient if gradient else value

    bench.compare(case, "torch.cdist", prepare(ours), prepare(theirs), **memory)


def large(bench: Benchmark, count: int, features: int) -> None:
    """A size at which each of the three matrices is too large."""
    case, matrix = f"mmd2 {count}x{features} float32", 4 * count**2 / 2**30
    if bench.wants(case):
        both = taken("mmd2", 0, count, features, False)
        why = f"none: torch.cdist needs {matrix:.0f} GiB a matrix"
        bench.alone(case, both["seconds"], why, ours_bytes=both["bytes"])
        points = 2 * 4 * count * features / 2**20
        print(f"{case} holds {both['bytes'] / 2**20:.1f} MiB beyond the points, which are {points:.0f} MiB")


def benchmark(bench: Benchmark) -> None:
    """Three bandwidths; samples of one size."""
    rows(bench, "mmd2", 4000, 64)
    if bench.quick and not bench.only:
        return
    rows(bench, "mmd2", 1000, 64)
    rows(bench, "mmd2", 4000, 512)
    rows(bench, "mmd2", 4000, 64, gradient=True)
    rows(bench, "mmd2 rational quadratic", 4000, 64)
    rows(bench, "energy_distance", 4000, 64)
    rows(bench, "energy_distance", 4000, 64, gradient=True)
    large(bench, 50_000, 64)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main(benchmark, __doc__)
