"""Is moving rows in place, or by bytes, worth a kernel of our own?

`gather_rows` on particle states, out of place against torch's indexing and `index_select`, and in place (ancestors of
systematic resampling, rearranged by `keep_in_place`) against indexing and copying back; `gather_tokens` and
`scatter_tokens` against `torch.gather` and `torch.scatter` with expanded indices.
"""

from __future__ import annotations

import torch
from _harness import Benchmark, main, repeated

from pushforward.kernels import (
    PURPOSE_RESAMPLING,
    Draw,
    gather_rows,
    gather_tokens,
    keep_in_place,
    resample,
    scatter_tokens,
)


def particles(bench: Benchmark, count: int, row: tuple[int, ...]) -> None:
    """States of one population."""
    size = "x".join(str(n) for n in (count, *row)) + " float32"
    if not bench.wants(f"gather_rows {size}", f"gather_rows in place {size}"):
        return
    generator = torch.Generator().manual_seed(count)
    state, log_weights = torch.randn(count, *row, generator=generator), torch.randn(1, count, generator=generator)
    ancestors = resample(log_weights, seed=0, draw=Draw(PURPOSE_RESAMPLING, 0)).ancestors[0]
    kept = keep_in_place(ancestors)
    torch.testing.assert_close(gather_rows(state, ancestors), state[ancestors], rtol=0, atol=0)
    torch.testing.assert_close(gather_rows(state.clone(), kept, in_place=True), state[kept], rtol=0, atol=0)
    loops = max(1, min(200, 2**18 // state.numel()))
    ours = repeated(lambda: gather_rows(state, ancestors), loops)
    bench.compare(f"gather_rows {size}", "indexing", ours, repeated(lambda: state[ancestors], loops), repeats=loops)
    select = repeated(lambda: state.index_select(0, ancestors), loops)
    bench.compare(f"gather_rows {size}", "index_select", ours, select, repeats=loops)
    mine, theirs = state.clone(), state.clone()
    ours = repeated(lambda: gather_rows(mine, kept, in_place=True), loops)
    copied = repeated(lambda: theirs.copy_(theirs[ancestors]), loops)
    bench.compare(f"gather_rows in place {size}", "indexing, copied back", ours, copied, repeats=loops)


def tokens(bench: Benchmark, batch: int, count: int, active: int, channels: int, dtype: torch.dtype) -> None:
    """Some tokens of a transformer's input."""
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(batch, count, channels, generator=generator).to(dtype)
    index = torch.stack([torch.randperm(count, generator=generator)[:active].sort().values for _ in range(batch)])
    wide = index[..., None].expand(-1, -1, channels)
    few = gather_tokens(x, index)
    torch.testing.assert_close(few, x.gather(1, wide), rtol=0, atol=0)
    torch.testing.assert_close(scatter_tokens(x, index, -few), x.scatter(1, wide, -few), rtol=0, atol=0)
    size = f"{batch}x{count}x{channels} to {active} {str(dtype).removeprefix('torch.')}"
    ours, theirs = repeated(lambda: gather_tokens(x, index), 1), repeated(lambda: x.gather(1, wide), 1)
    bench.compare(f"gather_tokens {size}", "torch.gather", ours, theirs)
    ours, theirs = repeated(lambda: scatter_tokens(x, index, few), 1), repeated(lambda: x.scatter(1, wide, few), 1)
    bench.compare(f"scatter_tokens {size}", "torch.scatter", ours, theirs)
    mine, other = x.clone(), x.clone()
    ours = repeated(lambda: scatter_tokens(mine, index, few, out=mine), 1)
    bench.compare(
        f"scatter_tokens in place {size}", "scatter_", ours, repeated(lambda: other.scatter_(1, wide, few), 1)
    )


def benchmark(bench: Benchmark) -> None:
    """Latents of images, points of low dimension; tokens of a transformer."""
    for count, row in ((64, (4, 64, 64)), (1024, (3, 32, 32)), (10**5, (2,))):
        particles(bench, count, row)
    for dtype in (torch.float32, torch.bfloat16):
        tokens(bench, 2, 4096, 1024, 1152, dtype)


if __name__ == "__main__":
    main(benchmark, __doc__)
