"""How near do the GPU kernels come to the bandwidth of the device's memory, and how far from torch's are they?

`combine` and random numbers on each GPU backend that is available, against torch on the same device: the eager
expression, and a copy of as many bytes. Then the other operations at sizes of use, against the torch expressions of
their own benchmarks, on every backend that has them. Without a CUDA device it only says so; `static_gpu.py` needs none.
"""

from __future__ import annotations

from collections.abc import Callable

import discrepancy
import resample as resampling
import runge_kutta
import threshold as thresholding
import torch
from _harness import Benchmark, Run, main
from torch import Tensor

from pushforward.kernels import (
    Draw,
    Noise,
    backend,
    backends,
    combine,
    gather_rows,
    gram,
    mmd2,
    normal,
    prepare,
    resample,
    rk_step,
    threshold,
    uniform,
)
from pushforward.kernels.dispatch import implementing

WEIGHTS = (0.3, -0.7, 1.1, 0.2, -0.4, 0.9, 0.6)
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def queued(function: Run, times: int) -> Callable[[], Run]:
    """A preparation whose run queues the function so many times and waits for the device once."""

    def run() -> None:
        for _ in range(times):
            function()
        torch.cuda.synchronize()

    return lambda: run


def sums(bench: Benchmark, name: str, exponent: int, count: int, dtype: torch.dtype) -> None:
    """A prepared sum against the expression, and against copying as many bytes."""
    size, loops = 2**exponent, 50
    inputs = [torch.randn(1, size, device="cuda").to(dtype) for _ in range(count)]
    out, other = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
    weights = list(WEIGHTS[:count])
    step = prepare(inputs, weights, out)

    def expression() -> Tensor:
        total = weights[0] * inputs[0]
        for weight, x in zip(weights[1:], inputs[1:], strict=True):
            total = total + weight * x
        return total

    step()
    with backend("reference"):
        assert torch.equal(out, combine(inputs, weights))
    case = f"combine {name} K={count} 2^{exponent} {NAMES[dtype]}"
    bench.compare(case, "eager", queued(step, loops), queued(expression, loops), repeats=loops)
    copy = queued(lambda: other.copy_(inputs[0]), loops)
    bench.compare(case, "copy_ of as many bytes", queued(step, loops), copy, repeats=loops)
    row, same_bytes = bench.rows[-1], (count + 1) / 2
    row |= {"theirs": row["theirs"] * same_bytes, "ratio": row["ratio"] * same_bytes}
    row |= {"theirs_min": row["theirs_min"] * same_bytes, "bytes": out.element_size() * size * (count + 1)}


def random_numbers(bench: Benchmark, name: str, exponent: int, dtype: torch.dtype) -> None:
    """An Euler-Maruyama step, and random numbers alone."""
    size, loops, h, g = 2**exponent, 50, 1e-4, 1e-2
    x, v = (torch.randn(16, size // 16, device="cuda").to(dtype) for _ in range(2))
    noise = Noise(0, Draw(1, 0))
    with backend("reference"):
        expected = combine([x, v], [1.0, h], noise=noise, scale=g)
    assert torch.equal(combine([x, v], [1.0, h], noise=noise, scale=g), expected)
    step = prepare([x, v], [1.0, h], x, noise=noise, scale=g)
    peer = v.clone()
    theirs = queued(lambda: peer.add_(v, alpha=h).add_(torch.randn_like(peer), alpha=g), loops)
    bench.compare(
        f"euler-maruyama {name} 2^{exponent} {NAMES[dtype]}", "in place", queued(step, loops), theirs, repeats=loops
    )
    if dtype == torch.float32:
        for ours, peers in ((normal, torch.randn), (uniform, torch.rand)):
            bench.compare(
                f"{ours.__name__} {name} 2^{exponent} float32",
                f"torch.{peers.__name__}",
                queued(lambda f=ours: f(x.shape, seed=0, draw=noise.draw, device="cuda"), loops),
                queued(lambda f=peers: f(x.shape, device="cuda"), loops),
                repeats=loops,
            )


def family(bench: Benchmark, name: str) -> None:
    """Every other operation that the backend has, at one or two sizes."""
    has = {op for op in ("rk_step", "gram", "resample", "gather_rows", "threshold", "mmd2") if name in implementing(op)}
    generator = torch.Generator("cuda").manual_seed(0)

    def normals(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=dtype)

    def compare(op: str, case: str, peer: str, ours: Run, theirs: Run, loops: int = 50) -> None:
        if op in has:
            bench.compare(f"{op} {name} {case}", peer, queued(ours, loops), queued(theirs, loops), repeats=loops)

    for batch, size, dtype in ((64, 2**14, torch.float32), (2**16, 2, torch.float64), (64, 2**18, torch.float32)):
        x, *stages = (normals(batch, size, dtype=dtype) for _ in range(8))
        h, out = torch.full((batch,), 0.01, dtype=torch.float64, device="cuda"), torch.empty_like(x)
        column, row = h.to(dtype)[:, None], (runge_kutta.WEIGHTS, runge_kutta.ERROR)
        compare(
            "rk_step",
            f"{batch}x{size} {str(dtype).removeprefix('torch.')}",
            "eager",
            lambda x=x, k=stages, h=h, out=out, row=row: rk_step(x, k, h, *row, **runge_kutta.TOLERANCES, out=out),
            lambda x=x, k=stages, h=column: runge_kutta.expression(x, k, h),
        )
    pair = [normals(16, 2**18) for _ in range(2)]
    compare("gram", "K=2 16x262144", "std, std", lambda: gram(pair), lambda: [x.std(1) for x in pair])
    log_weights = normals(1, 10**6)
    weights = log_weights.softmax(1)
    compare(
        "resample",
        "systematic 1x1000000",
        "torch.multinomial",
        lambda: resample(log_weights, seed=0, draw=resampling.DRAW),
        lambda: torch.multinomial(weights, 10**6, replacement=True),
        loops=5,
    )
    state, ancestors = normals(2**14, 3, 32, 32), torch.randint(2**14, (2**14,), device="cuda").sort().values
    compare("gather_rows", "16384x3x32x32", "indexing", lambda: gather_rows(state, ancestors), lambda: state[ancestors])
    image = normals(16, 12288)
    compare(
        "threshold",
        "16x12288",
        "torch.quantile, clamp, divide",
        lambda: threshold(image, 0.995),
        lambda: thresholding.quantile(image, 0.995),
    )
    points, widths = normals(4000, 64), discrepancy.bandwidths(64)
    compare(
        "mmd2",
        "4000x64",
        "torch.cdist",
        lambda: mmd2(points, points, bandwidths=widths),
        lambda: discrepancy.peer_mmd2(points, points),
        loops=5,
    )


def benchmark(bench: Benchmark) -> None:
    """All backends, sizes and dtypes."""
    states = backends()
    for name in ("triton", "cuda"):
        if not torch.cuda.is_available() or states[name] != "available":
            bench.skip(f"{name}: {'no CUDA device' if not torch.cuda.is_available() else states[name]}")
            continue
        with backend(name):
            for exponent in (20, 26) if bench.quick else (12, 16, 20, 24, 28):
                for dtype in NAMES:
                    for count in (2, 4, 7):
                        sums(bench, name, exponent, count, dtype)
                    random_numbers(bench, name, exponent, dtype)
            family(bench, name)


if __name__ == "__main__":
    main(benchmark, __doc__)
