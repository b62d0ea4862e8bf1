"""Rows by index: the movement of `gather_rows`, `gather_tokens` and `scatter_tokens`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import implements, interpreting
from ..rows import row_bytes
from ._static import StaticCase

WORDS = {4: torch.int32, 2: torch.int16, 1: torch.int8}
BLOCK = 512  # words of a program of four warps: 16 bytes a thread
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def move_kernel(out, source, base, index, out_rows, source_rows, words, chunks, BLOCK: tl.constexpr):
    """Words of a row: out[j] = source[index[j]], where that is negative base[j]; without a base, nothing is written."""
    row = tl.program_id(0).to(tl.int64) // chunks
    word = (tl.program_id(0).to(tl.int64) % chunks) * BLOCK + tl.arange(0, BLOCK)
    k = tl.load(index + row)
    taken = tl.where(k >= 0, words, 0)  # all of the row, or nothing
    from_row = row // out_rows * source_rows + k
    value = tl.load(source + from_row * words + word, word < taken, 0)
    if base is None:
        tl.store(out + row * words + word, value, word < taken)
    else:
        kept = tl.load(base + row * words + word, word < words - taken, 0)
        tl.store(out + row * words + word, tl.where(k >= 0, value, kept), word < words)


def move(out: Tensor, source: Tensor, base: Tensor | None, index: Tensor) -> None:
    """Launch; ``out`` is contiguous, what else is not is copied first."""
    if out.numel() == 0:
        return
    given = [out, source.contiguous()] + ([] if base is None else [base.contiguous()])
    parts = [row_bytes(out), *[x.storage_offset() * x.element_size() for x in given]]
    size = next(size for size in WORDS if all(part % size == 0 for part in parts))
    flat = [x.reshape(x.shape[0] * x.shape[1], x.shape[2:].numel()).view(WORDS[size]) for x in given]
    words = row_bytes(out) // size
    block = 4096 if interpreting() else BLOCK
    chunks = triton.cdiv(words, block)
    sizes = (out.shape[1], source.shape[1], words, chunks)
    last = flat[2] if len(flat) > 2 else None
    index = index.contiguous()
    move_kernel[(len(flat[0]) * chunks,)](flat[0], flat[1], last, index, *sizes, BLOCK=block, **OPTIONS)


@implements("gather_tokens", "triton")
@implements("gather_rows", "triton")
def gather(x: Tensor, index: Tensor) -> Tensor:
    """Into a new tensor."""
    out = x.new_empty((*index.shape, *x.shape[2:]))
    move(out, x, None, index)
    return out


@implements("gather_rows_", "triton")
def gather_in_place(x: Tensor, index: Tensor) -> None:
    """Through a copy: programs run in no order."""
    x.copy_(gather(x, index))


@implements("scatter_tokens", "triton")
def scatter(base: Tensor, winners: Tensor, values: Tensor, out: Tensor) -> None:
    """``winners`` says which value goes to each row, -1 for none."""
    move(out, values, None if out is base else base, winners)


def static_cases() -> list[StaticCase]:
    """Rows of 16 m words, which is what images and tokens are."""
    # Of value and base a program of scatter_tokens reads one, which the number of instructions does not show.
    return [_case("gather_rows", None, minimum=8), _case("scatter_tokens", "*i32", minimum=None)]


def _case(name: str, base: str | None, minimum: float | None) -> StaticCase:
    pointers = {"out": "*i32", "source": "*i32", "base": base or "constexpr", "index": "*i64"}
    sizes = {"out_rows": "i32", "source_rows": "i32", "words": "i32", "chunks": "i32"}
    return StaticCase(
        name=f"{name} of 32-bit words",
        kernel=move_kernel,
        signature={**pointers, **sizes, "BLOCK": "constexpr"},
        constants={"BLOCK": BLOCK} | ({} if base else {"base": None}),
        aligned=("out", "source", "words", *(["base"] if base else [])),
        elements=BLOCK,
        minimum=minimum,
        wide=True,
        options=OPTIONS,
    )
