"""Is one pass over memory worth a kernel of our own?

`combine` of K float32 tensors into a reused output, against torch: the same bytes copied with `copy_` (so the ratio
is one of bandwidths), the eager expression, the best in-place version, and `torch.compile` of the expression, both into
a new tensor and into a reused one. Then an Euler-Maruyama step, x + h v + g z, whose noise is made inside the pass.
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import Draw, Noise, combine, normal, prepare

WEIGHTS = (0.3, -0.7, 1.1, 0.2, -0.4, 0.9, 0.6)


def expression(*inputs: Tensor) -> Tensor:
    """The sum as a user writes it."""
    total = WEIGHTS[0] * inputs[0]
    for weight, x in zip(WEIGHTS[1:], inputs[1:], strict=False):
        total = total + weight * x
    return total


def into(out: Tensor, *inputs: Tensor) -> Tensor:
    """The same into a given tensor; compiled, it is one loop without an allocation."""
    return out.copy_(expression(*inputs))


def in_place(out: Tensor, *inputs: Tensor) -> Tensor:
    """The sum with as few passes as torch has."""
    torch.mul(inputs[0], WEIGHTS[0], out=out)
    for weight, x in zip(WEIGHTS[1:], inputs[1:], strict=False):
        out.add_(x, alpha=weight)
    return out


def sums(bench: Benchmark, exponent: int, count: int) -> None:
    """Rows of one size and number of inputs."""
    size = 2**exponent
    generator = torch.Generator().manual_seed(exponent)
    inputs = [torch.randn(size, generator=generator) for _ in range(count)]
    weights, out, other = list(WEIGHTS[:count]), torch.empty(size), torch.empty(size)
    case, loops = f"combine K={count} 2^{exponent} float32", max(1, min(1000, 2**21 // size))
    ours = repeated(lambda: combine(inputs, weights, out=out), loops)

    exact = expression(*[x.double() for x in inputs])
    torch.testing.assert_close(combine(inputs, weights, out=out).double(), exact, rtol=1e-5, atol=1e-5)
    same_bytes = (count + 1) / 2
    bench.compare(case, "eager", ours, repeated(lambda: expression(*inputs), loops), repeats=loops)
    bench.compare(case, "in place", ours, repeated(lambda: in_place(other, *inputs), loops), repeats=loops)
    for peer, function, arguments in (
        ("torch.compile", expression, inputs),
        ("torch.compile, reused output", into, [other, *inputs]),
    ):
        torch.compiler.reset()
        compiled = torch.compile(function, dynamic=False)
        try:
            torch.testing.assert_close(compiled(*arguments).double(), exact, rtol=1e-5, atol=1e-5)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            bench.skip(f"{peer}: {error}".splitlines()[0])
            continue
        bench.compare(case, peer, ours, repeated(lambda c=compiled, a=arguments: c(*a), loops), repeats=loops)
    # The row's time is that of copying as many bytes as combine moves, so that the ratio is one of bandwidths.
    copy = repeated(lambda: other.copy_(inputs[0]), loops)
    bench.compare(case, "copy_ of as many bytes", ours, copy, repeats=loops)
    row = bench.rows[-1]
    row |= {"theirs": row["theirs"] * same_bytes, "ratio": row["ratio"] * same_bytes}
    row |= {"theirs_min": row["theirs_min"] * same_bytes, "bytes": 4 * size * (count + 1)}

    prepared = prepare([None] * count, weights, out)
    call, eager = repeated(lambda: prepared(*inputs), loops), repeated(lambda: expression(*inputs), loops)
    bench.compare(f"prepared {case}", "eager", call, eager, repeats=loops)


def noisy_steps(bench: Benchmark, exponent: int) -> None:
    """Euler-Maruyama: x + h v + g z with fresh z."""
    size, h, g = 2**exponent, 1e-4, 1e-2
    generator = torch.Generator().manual_seed(exponent)
    x, v = (torch.randn(1, size, generator=generator) for _ in range(2))
    out, noise = torch.empty_like(x), Noise(0, Draw(1, 0))
    z = normal(x.shape, seed=0, draw=noise.draw)
    torch.testing.assert_close(combine([x, v], [1.0, h], out=out, noise=noise, scale=g), x + h * v + g * z)
    case, loops = f"euler-maruyama 2^{exponent} float32", max(1, min(1000, 2**18 // size))
    mine, theirs = x.clone(), x.clone()
    in_place = repeated(lambda: combine([mine, v], [1.0, h], out=mine, noise=noise, scale=g), loops)
    fresh = repeated(lambda: combine([x, v], [1.0, h], out=out, noise=noise, scale=g), loops)

    def torch_in_place() -> Tensor:
        return theirs.add_(v, alpha=h).add_(torch.randn_like(theirs), alpha=g)

    bench.compare(case, "in place", in_place, repeated(torch_in_place, loops), repeats=loops)
    expression = repeated(lambda: x + h * v + g * torch.randn_like(x), loops)
    bench.compare(case, "expression", fresh, expression, repeats=loops)
    normals, randn = (lambda: normal(x.shape, seed=0, draw=noise.draw)), (lambda: torch.randn(x.shape))
    bench.compare(
        f"normal 2^{exponent} float32", "torch.randn", repeated(normals, loops), repeated(randn, loops), repeats=loops
    )


def benchmark(bench: Benchmark) -> None:
    """All sizes; with --quick the ends and the middle."""
    exponents = (8, 16, 24) if bench.quick else range(8, 25, 2)
    for exponent in exponents:
        for count in (2, 4, 7):
            sums(bench, exponent, count)
    for exponent in (8, 16, 24) if bench.quick else (8, 12, 16, 20, 24):
        noisy_steps(bench, exponent)


if __name__ == "__main__":
    main(benchmark, __doc__)
