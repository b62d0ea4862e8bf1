"""Wavelet transforms in Triton: Haar on whole row pairs, other filters on tiles, in the reference's order of sums."""
# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false
# (a jitted function takes launch options and plain numbers, of which its type knows nothing)

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import planes
from ..device import on_device_of
from ..dispatch import implements
from ..wavelet_filters import quadrature_mirror
from ..wavelet_ops import MODES
from ._narrow import narrow, widen
from ._static import StaticCase

WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
ROWS, COLUMNS = 8, 64  # of a tile


@triton.jit
def haar2d_kernel(x, low, horizontal, vertical, diagonal, width, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """One row of bands, ``width`` long: two rows of the plane."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * BLOCK
    j = 2 * start + tl.arange(0, 2 * BLOCK)
    above = x + row * 4 * width + j
    a = widen(tl.load(above, mask=j < 2 * width, other=0.0), WIDE)
    b = widen(tl.load(above + 2 * width, mask=j < 2 * width, other=0.0), WIDE)
    total_even, total_odd = tl.split(tl.reshape(a + b, (BLOCK, 2)))
    change_even, change_odd = tl.split(tl.reshape(a - b, (BLOCK, 2)))
    i = start + tl.arange(0, BLOCK)
    at, inside = row * width + i, i < width
    tl.store(low + at, narrow((total_even + total_odd) * 0.5, low.dtype.element_ty), mask=inside)
    tl.store(horizontal + at, narrow((change_even + change_odd) * 0.5, low.dtype.element_ty), mask=inside)
    tl.store(vertical + at, narrow((total_even - total_odd) * 0.5, low.dtype.element_ty), mask=inside)
    tl.store(diagonal + at, narrow((change_even - change_odd) * 0.5, low.dtype.element_ty), mask=inside)


@triton.jit
def ihaar2d_kernel(low, horizontal, vertical, diagonal, out, width, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Two rows of the plane from one row of bands, ``width`` long."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * BLOCK
    i = start + tl.arange(0, BLOCK)
    at, inside = row * width + i, i < width
    lo = widen(tl.load(low + at, mask=inside, other=0.0), WIDE)
    ho = widen(tl.load(horizontal + at, mask=inside, other=0.0), WIDE)
    ve = widen(tl.load(vertical + at, mask=inside, other=0.0), WIDE)
    di = widen(tl.load(diagonal + at, mask=inside, other=0.0), WIDE)
    total = tl.reshape(tl.join(lo + ve, lo - ve), (2 * BLOCK,))
    change = tl.reshape(tl.join(ho + di, ho - di), (2 * BLOCK,))
    j = 2 * start + tl.arange(0, 2 * BLOCK)
    above = out + row * 4 * width + j
    tl.store(above, narrow((total + change) * 0.5, out.dtype.element_ty), mask=j < 2 * width)
    tl.store(above + 2 * width, narrow((total - change) * 0.5, out.dtype.element_ty), mask=j < 2 * width)


@triton.jit
def place(at, size, MODE: tl.constexpr):
    """Where an element beyond the borders is found, and whether it is anywhere."""
    if MODE == "zero":
        return tl.minimum(tl.maximum(at, 0), size - 1), (at >= 0) & (at < size)
    if MODE == "periodic":
        at = ((at % size) + size) % size
    else:
        at = ((at % (2 * size)) + 2 * size) % (2 * size)
        at = tl.minimum(at, 2 * size - 1 - at)
    return at, at >= 0


@triton.jit
def dwt2d_kernel(
    x,
    low,
    horizontal,
    vertical,
    diagonal,
    taps,
    count,
    height,
    width,
    band_height,
    band_width,
    offset,
    MODE: tl.constexpr,
    TAPS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of every band, out of ``count`` rows of bands in all planes; ``taps``: h, then g."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < count)[:, None] & (i < band_width)[None, :]
    plane, row = r // band_height, r % band_height
    zero = tl.zeros((ROWS, COLUMNS), WIDE)
    ll, hl, lh, hh = zero, zero, zero, zero
    for m in range(TAPS):
        column, column_there = place(2 * i + offset + m, width, MODE)
        total, change = zero, zero
        for k in range(TAPS):
            line, line_there = place(2 * row + offset + k, height, MODE)
            there = inside & line_there[:, None] & column_there[None, :]
            at = ((plane * height + line) * width)[:, None] + column[None, :]
            value = widen(tl.load(x + at, mask=there, other=0.0), WIDE)
            total += value * tl.load(taps + k)
            change += value * tl.load(taps + TAPS + k)
        h, g = tl.load(taps + m), tl.load(taps + TAPS + m)
        ll += total * h
        hl += change * h
        lh += total * g
        hh += change * g
    at = (r * band_width)[:, None] + i[None, :]
    tl.store(low + at, narrow(ll, low.dtype.element_ty), mask=inside)
    tl.store(horizontal + at, narrow(hl, low.dtype.element_ty), mask=inside)
    tl.store(vertical + at, narrow(lh, low.dtype.element_ty), mask=inside)
    tl.store(diagonal + at, narrow(hh, low.dtype.element_ty), mask=inside)


@triton.jit
def idwt2d_kernel(
    low,
    horizontal,
    vertical,
    diagonal,
    out,
    taps,
    count,
    height,
    width,
    band_height,
    band_width,
    pairs_of_rows,
    offset,
    MODE: tl.constexpr,
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of 2 x 2 blocks: element n = offset + 2 q + parity is a sum over the bands' elements q - j."""
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = -offset // 2
    plane, q_row = r // pairs_of_rows, r % pairs_of_rows + first
    q_column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS) + first
    known = (r < count)[:, None] & (q_column < first + width)[None, :]
    zero = tl.zeros((ROWS, COLUMNS), WIDE)
    x00, x01, x10, x11 = zero, zero, zero, zero
    for i in range(HALF):
        column, column_there = place(q_column - i, band_width, MODE)
        total0, total1, change0, change1 = zero, zero, zero, zero
        for j in range(HALF):
            line, line_there = place(q_row - j, band_height, MODE)
            there = known & line_there[:, None] & column_there[None, :]
            at = ((plane * band_height + line) * band_width)[:, None] + column[None, :]
            h0, h1 = tl.load(taps + 2 * j), tl.load(taps + 2 * j + 1)
            g0, g1 = tl.load(taps + 2 * HALF + 2 * j), tl.load(taps + 2 * HALF + 2 * j + 1)
            value = widen(tl.load(low + at, mask=there, other=0.0), WIDE)
            total0 += value * h0
            total1 += value * h1
            value = widen(tl.load(horizontal + at, mask=there, other=0.0), WIDE)
            total0 += value * g0
            total1 += value * g1
            value = widen(tl.load(vertical + at, mask=there, other=0.0), WIDE)
            change0 += value * h0
            change1 += value * h1
            value = widen(tl.load(diagonal + at, mask=there, other=0.0), WIDE)
            change0 += value * g0
            change1 += value * g1
        h0, h1 = tl.load(taps + 2 * i), tl.load(taps + 2 * i + 1)
        g0, g1 = tl.load(taps + 2 * HALF + 2 * i), tl.load(taps + 2 * HALF + 2 * i + 1)
        x00 = x00 + total0 * h0 + change0 * g0
        x01 = x01 + total0 * h1 + change0 * g1
        x10 = x10 + total1 * h0 + change1 * g0
        x11 = x11 + total1 * h1 + change1 * g1
    n_row = offset + 2 * q_row
    columns = offset + 2 * first + 2 * tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, 2 * COLUMNS)
    fits = (r < count)[:, None] & ((columns >= 0) & (columns < width))[None, :]
    at = ((plane * height + n_row) * width)[:, None] + columns[None, :]
    even = tl.reshape(tl.join(x00, x01), (ROWS, 2 * COLUMNS))
    odd = tl.reshape(tl.join(x10, x11), (ROWS, 2 * COLUMNS))
    tl.store(out + at, narrow(even, out.dtype.element_ty), mask=fits & ((n_row >= 0) & (n_row < height))[:, None])
    tl.store(
        out + at + width, narrow(odd, out.dtype.element_ty), mask=fits & ((n_row >= -1) & (n_row < height - 1))[:, None]
    )


def _block(width: int) -> int:
    return min(512, triton.next_power_of_2(max(width, 1)))


@implements("haar2d", "triton")
def haar2d(x: Tensor) -> tuple[Tensor, ...]:
    """The reference's numbers."""
    x = x.contiguous()
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    outs = tuple(x.new_empty([*x.shape[:-2], height, width]) for _ in range(4))
    rows, block = outs[0].numel() // max(width, 1), _block(width)
    if rows and width:
        grid = rows, triton.cdiv(width, block)
        with on_device_of(x):
            haar2d_kernel[grid](x, *outs, width, WIDE[planes.wide(x.dtype)], block, num_warps=4, enable_fp_fusion=False)
    return outs


@implements("ihaar2d", "triton")
def ihaar2d(*bands: Tensor) -> Tensor:
    """The reference's numbers."""
    bands = tuple(band.contiguous() for band in bands)
    *batch, height, width = bands[0].shape
    out = bands[0].new_empty([*batch, 2 * height, 2 * width])
    rows, block = bands[0].numel() // max(width, 1), _block(width)
    if rows and width:
        grid, wide = (rows, triton.cdiv(width, block)), WIDE[planes.wide(out.dtype)]
        with on_device_of(out):
            ihaar2d_kernel[grid](*bands, out, width, wide, block, num_warps=4, enable_fp_fusion=False)
    return out


def _taps(taps: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor([*taps, *quadrature_mirror(taps)], dtype=planes.wide(like.dtype), device=like.device)


@implements("dwt2d", "triton")
def dwt2d(x: Tensor, taps: Sequence[float], mode: str, offset: int, height: int, width: int) -> tuple[Tensor, ...]:
    """The reference's numbers."""
    x = x.contiguous()
    outs = tuple(x.new_empty([*x.shape[:-2], height, width]) for _ in range(4))
    count = x.shape[:-2].numel() * height
    if count:
        grid = triton.cdiv(count, ROWS), triton.cdiv(width, COLUMNS)
        sizes = count, x.shape[-2], x.shape[-1], height, width, offset
        constants = mode, len(taps), WIDE[planes.wide(x.dtype)], ROWS, COLUMNS
        with on_device_of(x):
            dwt2d_kernel[grid](x, *outs, _taps(taps, x), *sizes, *constants, num_warps=4, enable_fp_fusion=False)
    return outs


@implements("idwt2d", "triton")
def idwt2d(
    low: Tensor,
    horizontal: Tensor,
    vertical: Tensor,
    diagonal: Tensor,
    taps: Sequence[float],
    periodic: bool,
    offset: int,
    height: int,
    width: int,
) -> Tensor:
    """The reference's numbers."""
    bands = [band.contiguous() for band in (low, horizontal, vertical, diagonal)]
    out = low.new_empty([*low.shape[:-2], height, width])
    rows, columns = ((size - 1 - offset) // 2 - -offset // 2 + 1 for size in (height, width))
    count = low.shape[:-2].numel() * rows
    if count:
        grid = triton.cdiv(count, ROWS), triton.cdiv(columns, COLUMNS)
        sizes = count, height, width, *low.shape[-2:], rows, offset
        constants = MODES[0] if periodic else MODES[2], len(taps) // 2, WIDE[planes.wide(low.dtype)], ROWS, COLUMNS
        with on_device_of(low):
            idwt2d_kernel[grid](*bands, out, _taps(taps, low), *sizes, *constants, num_warps=4, enable_fp_fusion=False)
    return out


def static_cases() -> list[StaticCase]:
    """Haar on whole vectors; the tiles of other filters read through borders, one element at a time."""
    cases = []
    names = {"*fp32": "float32", "*bf16": "bfloat16", "*fp16": "float16", "*fp64": "float64"}
    for pointer, name in names.items():
        wide = tl.float64 if pointer == "*fp64" else tl.float32
        taps = "*fp64" if pointer == "*fp64" else "*fp32"
        bands = dict.fromkeys(("low", "horizontal", "vertical", "diagonal"), pointer)
        constants = {"WIDE": wide, "BLOCK": 512}
        ends = {"width": "i32", "WIDE": "constexpr", "BLOCK": "constexpr"}
        bytes_each = 2 * torch.empty(0, dtype=getattr(torch, name)).element_size()
        for kernel, tensors in ((haar2d_kernel, {"x": pointer, **bands}), (ihaar2d_kernel, {**bands, "out": pointer})):
            case = f"{kernel.__name__.removesuffix('_kernel')} {name}"
            cases.append(
                StaticCase(case, kernel, tensors | ends, constants, (*tensors, "width"), 2048, bytes_each, wide=True)
            )
        sizes = dict.fromkeys(("count", "height", "width", "band_height", "band_width"), "i32")
        tile = {"WIDE": wide, "ROWS": ROWS, "COLUMNS": COLUMNS}
        known = dict.fromkeys(("WIDE", "ROWS", "COLUMNS"), "constexpr")
        signature = {"x": pointer, **bands, "taps": taps, **sizes, "offset": "i32", "MODE": "constexpr"}
        signature |= {"TAPS": "constexpr", **known}
        constants = {"MODE": "periodic", "TAPS": 8, **tile}
        aligned = "x", *bands, "taps"
        cases.append(
            StaticCase(f"dwt2d {name}", dwt2d_kernel, signature, constants, aligned, ROWS * COLUMNS, None, wide=False)
        )
        signature = {**bands, "out": pointer, "taps": taps, **sizes, "pairs_of_rows": "i32", "offset": "i32"}
        signature |= {"MODE": "constexpr", "HALF": "constexpr", **known}
        constants = {"MODE": "periodic", "HALF": 4, **tile}
        aligned = *bands, "out", "taps"
        cases.append(
            StaticCase(f"idwt2d {name}", idwt2d_kernel, signature, constants, aligned, ROWS * COLUMNS, None, wide=False)
        )
    return cases
