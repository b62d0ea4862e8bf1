"""Pyramids in Triton: tiles of the result, in the reference's order of sums."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false
# (a jitted function takes launch options and plain numbers, of which its type knows nothing)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import planes
from ..device import on_device_of
from ..dispatch import implements
from ._narrow import narrow, widen
from ._static import StaticCase

WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
ROWS, COLUMNS = 4, 128  # of a tile


@triton.jit
def line_sum(x, start, column, inside, r0, r1, r2, r3, SMOOTH: tl.constexpr, WIDE: tl.constexpr):
    """Weighted sum of four rows (two, without SMOOTH) in one column each."""
    total = widen(tl.load(x + start + r1 + column, mask=inside, other=0.0), WIDE)
    total += widen(tl.load(x + start + r2 + column, mask=inside, other=0.0), WIDE)
    if SMOOTH:
        outer = widen(tl.load(x + start + r0 + column, mask=inside, other=0.0), WIDE)
        outer += widen(tl.load(x + start + r3 + column, mask=inside, other=0.0), WIDE)
        total = total * 3.0 + outer
    return total


@triton.jit
def pyramid_down_kernel(
    x,
    out,
    count,
    height,
    width,
    low_height,
    low_width,
    scale: tl.float64,
    SMOOTH: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of ``count`` rows of the smaller planes."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < count)[:, None] & (i < low_width)[None, :]
    row = r % low_height
    start = (r // low_height * height * width)[:, None]
    r0 = (tl.maximum(2 * row - 1, 0) * width)[:, None]
    r1 = (2 * row * width)[:, None]
    r2 = (tl.minimum(2 * row + 1, height - 1) * width)[:, None]
    r3 = (tl.minimum(2 * row + 2, height - 1) * width)[:, None]
    after = tl.minimum(2 * i + 1, width - 1)[None, :]
    total = line_sum(x, start, (2 * i)[None, :], inside, r0, r1, r2, r3, SMOOTH, WIDE)
    total += line_sum(x, start, after, inside, r0, r1, r2, r3, SMOOTH, WIDE)
    if SMOOTH:
        before, last = tl.maximum(2 * i - 1, 0)[None, :], tl.minimum(2 * i + 2, width - 1)[None, :]
        outer = line_sum(x, start, before, inside, r0, r1, r2, r3, SMOOTH, WIDE)
        outer += line_sum(x, start, last, inside, r0, r1, r2, r3, SMOOTH, WIDE)
        total = total * 3.0 + outer
    total = total * tl.full((1, 1), scale, WIDE)
    at = (r * low_width)[:, None] + i[None, :]
    tl.store(out + at, narrow(total, out.dtype.element_ty), mask=inside)


@triton.jit
def pyramid_up_kernel(
    x,
    base,
    out,
    count,
    height,
    width,
    low_height,
    low_width,
    scale: tl.float64,
    BASED: tl.constexpr,
    SMOOTH: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of ``count`` rows of the larger planes."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < count)[:, None] & (n < width)[None, :]
    row = r % height
    start = (r // height * low_height * low_width)[:, None]
    near, nearer = (row // 2 * low_width)[:, None], (n // 2)[None, :]
    if SMOOTH:
        far = tl.minimum(tl.maximum(row // 2 + row % 2 * 2 - 1, 0), low_height - 1)
        far = (far * low_width)[:, None]
        farther = tl.minimum(tl.maximum(n // 2 + n % 2 * 2 - 1, 0), low_width - 1)[None, :]
        here = widen(tl.load(x + start + near + nearer, mask=inside, other=0.0), WIDE) * 3.0
        here += widen(tl.load(x + start + far + nearer, mask=inside, other=0.0), WIDE)
        there = widen(tl.load(x + start + near + farther, mask=inside, other=0.0), WIDE) * 3.0
        there += widen(tl.load(x + start + far + farther, mask=inside, other=0.0), WIDE)
        total = here * 3.0 + there
    else:
        total = widen(tl.load(x + start + near + nearer, mask=inside, other=0.0), WIDE)
    total = total * tl.full((1, 1), scale, WIDE)
    at = (r * width)[:, None] + n[None, :]
    if BASED:
        total = widen(tl.load(base + at, mask=inside, other=0.0), WIDE) + total
    tl.store(out + at, narrow(total, out.dtype.element_ty), mask=inside)


@implements("pyramid_down", "triton")
def pyramid_down(x: Tensor, filter: str, gain: float) -> Tensor:
    """The reference's numbers."""
    x = x.contiguous()
    *batch, height, width = x.shape
    low_height, low_width, smooth = (height + 1) // 2, (width + 1) // 2, filter == "bilinear"
    out = x.new_empty([*batch, low_height, low_width])
    count = out.numel() // low_width
    if count:
        grid = triton.cdiv(count, ROWS), triton.cdiv(low_width, COLUMNS)
        sizes = count, height, width, low_height, low_width, gain / (64 if smooth else 4)
        constants = smooth, WIDE[planes.wide(x.dtype)], ROWS, COLUMNS
        with on_device_of(x):
            pyramid_down_kernel[grid](x, out, *sizes, *constants, num_warps=4, enable_fp_fusion=False)
    return out


@implements("pyramid_up", "triton")
def pyramid_up(x: Tensor, base: Tensor | None, filter: str, gain: float, height: int, width: int) -> Tensor:
    """The reference's numbers."""
    x = x.contiguous()
    base = None if base is None else base.contiguous()
    *batch, low_height, low_width = x.shape
    out, smooth = x.new_empty([*batch, height, width]), filter == "bilinear"
    count = out.numel() // width
    if count:
        grid = triton.cdiv(count, ROWS), triton.cdiv(width, COLUMNS)
        sizes = count, height, width, low_height, low_width, gain / (16 if smooth else 1)
        constants = base is not None, smooth, WIDE[planes.wide(x.dtype)], ROWS, COLUMNS
        tensors = x, out if base is None else base, out
        with on_device_of(x):
            pyramid_up_kernel[grid](*tensors, *sizes, *constants, num_warps=4, enable_fp_fusion=False)
    return out


def static_cases() -> list[StaticCase]:
    """Tiles that read through borders, so not all in whole vectors."""
    cases = []
    for pointer, name in {"*fp32": "float32", "*bf16": "bfloat16", "*fp16": "float16", "*fp64": "float64"}.items():
        sizes = dict.fromkeys(("count", "height", "width", "low_height", "low_width"), "i32") | {"scale": "fp64"}
        constants = {"SMOOTH": True, "WIDE": tl.float64 if pointer == "*fp64" else tl.float32}
        constants |= {"ROWS": ROWS, "COLUMNS": COLUMNS}
        signature = {"x": pointer, "out": pointer, **sizes} | dict.fromkeys(constants, "constexpr")
        aligned = "x", "out", "width", "low_width"
        case = f"pyramid_down {name}", pyramid_down_kernel, signature, constants, aligned, ROWS * COLUMNS, None
        cases.append(StaticCase(*case, wide=False))
        constants = {"BASED": True, **constants}
        signature = {"x": pointer, "base": pointer, "out": pointer, **sizes} | dict.fromkeys(constants, "constexpr")
        case = f"pyramid_up {name}", pyramid_up_kernel, signature, constants, (*aligned, "base"), ROWS * COLUMNS, None
        cases.append(StaticCase(*case, wide=False))
    return cases
