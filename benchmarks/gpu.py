"""How near do the GPU kernels come to the bandwidth of the device's memory?

`combine` and random numbers on each GPU backend that is available, against torch on the same device: the eager
expression, and a copy of as many bytes. Without a CUDA device it only says so; `static_gpu.py` needs none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _harness import Benchmark, Run, main
from torch import Tensor

from pushforward.kernels import Draw, Noise, backend, backends, combine, normal, prepare, uniform

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


if __name__ == "__main__":
    main(benchmark, __doc__)
