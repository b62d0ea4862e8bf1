"""Is the end of an adaptive step worth a kernel of its own?

`rk_step` against the same arithmetic in torch, for the seven stages of Dormand-Prince 5(4): new state and error norm of
every sample, each with a step size of its own. The peers are the expression as one writes it, the same with as few
temporaries as torch allows, and `torch.compile` of the expression. Then `gram` against torch expressions for the
statistics that guidance rescaling needs.
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import RungeKuttaStep, gram, rk_step

# Dormand and Prince 1980: the advancing row, and its difference from the embedded one.
WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
TOLERANCES = {"rtol": 1e-5, "atol": 1e-6}


def expression(x: Tensor, stages: list[Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """The step as a user writes it: terms with a zero weight are left out."""
    used = [(b, e, k) for b, e, k in zip(WEIGHTS, ERROR, stages, strict=True) if b or e]
    new = x + h * sum(b * k for b, _, k in used if b)
    estimate = h * sum(e * k for _, e, k in used if e)
    scale = TOLERANCES["atol"] + TOLERANCES["rtol"] * torch.maximum(x.abs(), new.abs())
    return new, (estimate / scale).square().mean(dim=1).sqrt()


def in_place(x: Tensor, stages: list[Tensor], h: Tensor, new: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """The same in buffers that are used again."""
    for out, row in ((new, WEIGHTS), (estimate, ERROR)):
        torch.mul(stages[0], row[0], out=out)
        for weight, k in zip(row[1:], stages[1:], strict=True):
            if weight:
                out.add_(k, alpha=weight)
        out.mul_(h)
    new.add_(x)
    scale = torch.maximum(x.abs(), new.abs()).mul_(TOLERANCES["rtol"]).add_(TOLERANCES["atol"])
    return new, estimate.div_(scale).square_().mean(dim=1).sqrt_()


def steps(bench: Benchmark, batch: int, size: int, dtype: torch.dtype) -> None:
    """Rows of one shape."""
    case = f"rk_step {batch}x{size} {str(dtype).removeprefix('torch.')}"
    if not bench.wants(case):
        return
    generator = torch.Generator().manual_seed(batch)
    x, *stages = (torch.randn(batch, size, generator=generator).to(dtype) for _ in range(8))
    h = 0.01 + 0.1 * torch.rand(batch, generator=generator, dtype=torch.float64)
    column, out = h.to(dtype)[:, None], torch.empty_like(x)
    first, second = torch.empty_like(x), torch.empty_like(x)
    loops = max(1, min(100, 2**18 // x.numel()))

    def ours() -> RungeKuttaStep:
        return rk_step(x, stages, h, WEIGHTS, ERROR, **TOLERANCES, out=out)

    exact = expression(x.double(), [k.double() for k in stages], h[:, None])
    step = ours()
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(step.x.double(), exact[0], **tolerance)
    torch.testing.assert_close(step.error, exact[1], rtol=tolerance["rtol"], atol=0)
    moved = {"bytes": (len(stages) + 2) * x.numel() * x.element_size()}
    peers = {
        "eager": lambda: expression(x, stages, column),
        "eager, buffers reused": lambda: in_place(x, stages, column, first, second),
    }
    torch.compiler.reset()
    compiled = torch.compile(expression, dynamic=False)
    try:
        compiled(x, stages, column)
        peers["torch.compile"] = lambda: compiled(x, stages, column)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        bench.skip(f"torch.compile: {error}".splitlines()[0])
    for peer, function in peers.items():
        bench.compare(case, peer, repeated(ours, loops), repeated(function, loops), repeats=loops, **moved)


def grams(bench: Benchmark, batch: int, size: int, count: int, dtype: torch.dtype) -> None:
    """Statistics of two branches of guidance (their standard deviations and angle), or of four tensors."""
    case = f"gram R={count} {batch}x{size} {str(dtype).removeprefix('torch.')}"
    if not bench.wants(case):
        return
    generator = torch.Generator().manual_seed(batch)
    tensors = [torch.randn(batch, size, generator=generator).to(dtype) for _ in range(count)]
    loops = max(1, 2**18 // (batch * size))

    def einsum() -> tuple[Tensor, Tensor]:
        stacked = torch.stack(tensors, dim=1)
        return torch.einsum("bid,bjd->bij", stacked, stacked), stacked.sum(-1)

    def deviations() -> list[Tensor]:
        return [x.std(dim=1) for x in tensors] + [(tensors[0] * tensors[1]).sum(dim=1)]

    exact = torch.stack(tensors, dim=1).double()
    products, sums = gram(tensors)
    torch.testing.assert_close(products, exact @ exact.mT, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(sums, exact.sum(-1), rtol=1e-10, atol=1e-9)
    moved = {"bytes": count * tensors[0].numel() * tensors[0].element_size()}
    ours = repeated(lambda: gram(tensors), loops)
    bench.compare(case, "stack, einsum, sum", ours, repeated(einsum, loops), repeats=loops, **moved)
    if count == 2:
        bench.compare(case, "std, std, sum", ours, repeated(deviations, loops), repeats=loops, **moved)


def benchmark(bench: Benchmark) -> None:
    """The two sizes of the acceptance test, then others."""
    steps(bench, 65_536, 2, torch.float64)
    steps(bench, 64, 16_384, torch.float32)
    steps(bench, 1, 2, torch.float64)
    steps(bench, 256, 3072, torch.bfloat16)
    grams(bench, 16, 16_384, 2, torch.float32)
    grams(bench, 64, 16_384, 4, torch.float32)
    grams(bench, 16, 16_384, 2, torch.bfloat16)
    if not bench.quick:
        steps(bench, 4096, 3, torch.float32)
        steps(bench, 16, 12_288, torch.float32)
        grams(bench, 16, 12_288, 3, torch.float32)
        grams(bench, 65_536, 2, 2, torch.float64)


if __name__ == "__main__":
    main(benchmark, __doc__)
