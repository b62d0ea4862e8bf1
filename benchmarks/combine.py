"""Is one pass over memory worth a kernel of our own?

`combine` of K float32 tensors into a reused output, against torch: the same bytes copied with `copy_` (so the ratio
is one of bandwidths), the eager expression, the best in-place version, and `torch.compile` of the expression, both into
a new tensor and into a reused one. Then coefficients by sample, token, pixel and element, against the expression with
gathered weights; an Euler-Maruyama step, x + h v + g z, whose noise is made inside the pass; and random numbers as
tensors, against torch's.
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import Draw, Noise, combine, normal, prepare, uniform

WEIGHTS = (0.3, -0.7, 1.1, 0.2, -0.4, 0.9, 0.6)
COPY = "copy_ of as many bytes"
GROUPINGS = ("sample", "token", "pixel", "element")


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
    case, size = f"combine K={count} 2^{exponent} float32", 2**exponent
    if not bench.wants(case, f"prepared {case}"):
        return
    generator = torch.Generator().manual_seed(exponent)
    inputs = [torch.randn(size, generator=generator) for _ in range(count)]
    weights, out, other = list(WEIGHTS[:count]), torch.empty(size), torch.empty(size)
    loops = max(1, min(1000, 2**21 // size))
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
    copy = repeated(lambda: other.copy_(inputs[0]), loops)
    bench.compare(case, COPY, ours, copy, repeats=loops)
    for row in bench.rows:
        if (row["case"], row["peer"]) == (case, COPY):
            # The row's time is that of copying as many bytes as combine moves, so that the ratio is one of bandwidths.
            row |= {"theirs": row["theirs"] * same_bytes, "ratio": row["ratio"] * same_bytes}
            row |= {"theirs_min": row["theirs_min"] * same_bytes, "bytes": 4 * size * (count + 1)}

    prepared = prepare([None] * count, weights, out)
    call, eager = repeated(lambda: prepared(*inputs), loops), repeated(lambda: expression(*inputs), loops)
    bench.compare(f"prepared {case}", "eager", call, eager, repeats=loops)


def groups(bench: Benchmark, exponent: int, rows: int) -> None:
    """Two inputs of 64 channels, with coefficients that differ between elements."""
    if not bench.wants(*[f"combine {rows} groups by {name} 2^{exponent} float32" for name in GROUPINGS]):
        return
    tokens = 2**exponent // 512
    generator = torch.Generator().manual_seed(exponent)
    x, v = (torch.randn(8, tokens, 64, generator=generator) for _ in range(2))
    table, out = torch.randn(rows, 2, generator=generator, dtype=torch.float64), torch.empty_like(x)
    columns, loops = table.float().unbind(1), max(1, min(1000, 2**20 // x.numel()))
    for name, shape in zip(GROUPINGS, ((8, 1, 1), (8, tokens, 1), (1, tokens, 64), (8, tokens, 64)), strict=True):
        index = torch.randint(rows, shape, generator=generator)

        def gathered(index: Tensor = index) -> Tensor:
            return columns[0][index] * x + columns[1][index] * v

        def ours(index: Tensor = index) -> object:
            return combine([x, v], table, out=out, groups=index)

        torch.testing.assert_close(ours(), gathered(), rtol=1e-5, atol=1e-5)
        case = f"combine {rows} groups by {name} 2^{exponent} float32"
        bench.compare(case, "gathered weights", repeated(ours, loops), repeated(gathered, loops), repeats=loops)


def short_samples(bench: Benchmark, count: int) -> None:
    """Coefficients by sample, for samples of two elements."""
    case = f"combine by sample {count}x2 float32"
    if not bench.wants(case):
        return
    generator = torch.Generator().manual_seed(count)
    x, v = (torch.randn(count, 2, generator=generator) for _ in range(2))
    table, out = torch.randn(count, 2, generator=generator, dtype=torch.float64), torch.empty_like(x)
    first, second = table.float().unflatten(1, (2, 1)).unbind(1)
    loops = max(1, min(1000, 2**18 // count))

    def ours() -> object:
        return combine([x, v], table, out=out)

    def expression() -> Tensor:
        return first * x + second * v

    torch.testing.assert_close(ours(), expression(), rtol=1e-5, atol=1e-5)
    bench.compare(case, "expression", repeated(ours, loops), repeated(expression, loops), repeats=loops)


def noisy_steps(bench: Benchmark, exponent: int, dtype: torch.dtype) -> None:
    """Euler-Maruyama: x + h v + g z with fresh z."""
    case = f"combine euler-maruyama 2^{exponent} {str(dtype)[6:]}"
    if not bench.wants(case):
        return
    size, h, g = 2**exponent, 1e-4, 1e-2
    generator = torch.Generator().manual_seed(exponent)
    x, v = (torch.randn(1, size, generator=generator).to(dtype) for _ in range(2))
    out, noise = torch.empty_like(x), Noise(0, Draw(1, 0))
    z = normal(x.shape, seed=0, draw=noise.draw)
    exact = x.float() + h * v.float() + g * z
    torch.testing.assert_close(combine([x, v], [1.0, h], out=out, noise=noise, scale=g), exact.to(dtype))
    loops = max(1, min(1000, 2**18 // size))
    mine, theirs = x.clone(), x.clone()
    in_place = repeated(lambda: combine([mine, v], [1.0, h], out=mine, noise=noise, scale=g), loops)
    fresh = repeated(lambda: combine([x, v], [1.0, h], out=out, noise=noise, scale=g), loops)

    def torch_in_place() -> Tensor:
        return theirs.add_(v, alpha=h).add_(torch.randn_like(theirs), alpha=g)

    bench.compare(case, "in place", in_place, repeated(torch_in_place, loops), repeats=loops)
    expression = repeated(lambda: x + h * v + g * torch.randn_like(x), loops)
    bench.compare(case, "expression", fresh, expression, repeats=loops)


def random_tensors(bench: Benchmark, exponent: int) -> None:
    """Normals and uniforms into new tensors, in the dtypes that torch's peer is likely to be asked for."""
    shape, draw = (1, 2**exponent), Draw(1, 0)
    loops = max(1, min(1000, 2**18 // shape[1]))
    for ours, theirs, mean, variance in ((normal, torch.randn, 0, 1), (uniform, torch.rand, 0.5, 1 / 12)):
        for dtype in (torch.float32, torch.bfloat16 if ours is normal else torch.float64):
            case = f"{ours.__name__} 2^{exponent} {str(dtype)[6:]}"
            if not bench.wants(case):
                continue
            made = ours(shape, seed=0, draw=draw, dtype=dtype).double()
            assert abs(made.mean().item() - mean) < 5 * (variance / shape[1]) ** 0.5
            bench.compare(
                case,
                f"torch.{theirs.__name__}",
                repeated(lambda f=ours, d=dtype: f(shape, seed=0, draw=draw, dtype=d), loops),
                repeated(lambda f=theirs, d=dtype: f(shape, dtype=d), loops),
                repeats=loops,
                nanoseconds_an_element=lambda row: row["ours"] / shape[1] * 1e9,
            )
    case = f"normal 2^{exponent} float32 reused output"
    if not bench.wants(case):
        return
    # In new memory a large tensor costs page faults above all; the numbers alone cost this.
    out, other, noise = torch.empty(shape), torch.empty(shape), Noise(0, draw)
    bench.compare(
        case,
        "normal_",
        repeated(lambda: combine([], [], out=out, noise=noise, scale=1.0), loops),
        repeated(lambda: other.normal_(), loops),
        repeats=loops,
        nanoseconds_an_element=lambda row: row["ours"] / shape[1] * 1e9,
    )
    assert torch.equal(out, normal(shape, seed=0, draw=draw))


def benchmark(bench: Benchmark) -> None:
    """All sizes; with --quick the ends and the middle."""
    exponents = (8, 16, 24) if bench.quick else range(8, 25, 2)
    for exponent in exponents:
        for count in (2, 4, 7):
            sums(bench, exponent, count)
    for exponent in (16, 22) if bench.quick else (12, 16, 20, 22, 24):
        for rows in (8, 100):
            groups(bench, exponent, rows)
    for count in (64, 2**16):
        short_samples(bench, count)
    for exponent in (8, 16, 24) if bench.quick else (8, 12, 16, 20, 24):
        for dtype in (torch.float32, torch.bfloat16):
            noisy_steps(bench, exponent, dtype)
        random_tensors(bench, exponent)


if __name__ == "__main__":
    main(benchmark, __doc__)
