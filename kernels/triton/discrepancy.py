"""`mmd2` and `energy_distance` in Triton: a tile is a product of matrices, its kernel values stay in registers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..discrepancy import CODES, Weights, wide
from ..dispatch import implements
from ._static import StaticCase

# Points of a block and warps of a program, whose registers must hold a tile; and how many registers a thread of the
# gradient may have at most (the assembler would spill a few doubles to run more threads).
TILES = {torch.float32: (tl.float32, 64, 8, None), torch.float64: (tl.float64, 32, 4, 255)}
TILES_OF_PROGRAM, FEATURES = 16, 32
# A product of matrices is made of fused operations in any case; results lie within a bound, they are not the same bits.
FUSION = {"enable_fp_fusion": True}


@triton.jit
def _squared_distances(x, y, i, j, n, m, p, WIDE: tl.constexpr, TILE: tl.constexpr, FEATURES: tl.constexpr):
    """From norms and products of centred points, whose rounding is relative to the norms; never negative, NaN kept."""
    products = tl.zeros((TILE, TILE), WIDE)
    of_x, of_y = tl.zeros((TILE,), WIDE), tl.zeros((TILE,), WIDE)
    for start in range(0, p, FEATURES):
        k = start + tl.arange(0, FEATURES)
        left = tl.load(x + i[:, None] * p + k[None, :], (i < n)[:, None] & (k < p)[None, :], 0)
        right = tl.load(y + j[:, None] * p + k[None, :], (j < m)[:, None] & (k < p)[None, :], 0)
        of_x += tl.sum(left * left, 1)
        of_y += tl.sum(right * right, 1)
        products += tl.dot(left, tl.trans(right), input_precision="ieee", out_dtype=WIDE)
    r2 = of_x[:, None] + of_y[None, :] - 2 * products
    return tl.where(r2 < 0, 0, r2)


@triton.jit
def _rate(rates, h: tl.constexpr, WIDE: tl.constexpr):
    return tl.full((), rates[h], tl.int64).to(tl.float64, bitcast=True).to(WIDE)


@triton.jit
def _kernel(r2, rates, KERNEL: tl.constexpr, WIDE: tl.constexpr):
    if KERNEL == 2:
        return -tl.sqrt(r2)
    total = tl.zeros_like(r2)
    for h in tl.static_range(len(rates)):
        rate = _rate(rates, h, WIDE)
        total += tl.exp(r2 * -rate) if KERNEL == 0 else 1 / (1 + r2 * rate)
    return total


@triton.jit
def _slope(r2, rates, KERNEL: tl.constexpr, WIDE: tl.constexpr):
    if KERNEL == 2:
        apart = r2 != 0
        return tl.where(apart, -0.5 / tl.sqrt(tl.where(apart, r2, 1)), 0)
    total = tl.zeros_like(r2)
    for h in tl.static_range(len(rates)):
        rate = _rate(rates, h, WIDE)
        if KERNEL == 0:
            total -= tl.exp(r2 * -rate) * rate
        else:
            k = 1 / (1 + r2 * rate)
            total -= k * k * rate
    return total


@triton.jit(do_not_specialize=["n", "m", "segments"])
def sum_kernel(
    x,
    y,
    partial,
    rates,
    n,
    m,
    p,
    segments,
    SAME: tl.constexpr,
    KERNEL: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Sum of the kernel over the pairs of one block of rows and some blocks of columns.

    Args:
        x: Centred points [n, p].
        y: Centred points [m, p]; if SAME, those of x.
        partial: A float64 for each program.
        rates: 1 / (2 h^2) for every bandwidth, as the bits of float64 numbers.
        n: Points of x.
        m: Points of y.
        p: Features.
        segments: Programs of a block of rows.
        SAME: Visit tiles on and above the diagonal, count the others twice, leave out i = j.
        KERNEL: 0 Gaussian, 1 rational quadratic, 2 distance.
        WIDE: Type of distances and kernels.
        TILE: Points of a block.
        TILES: Blocks of columns of a program.
        FEATURES: Features at a time.
    """
    program = tl.program_id(0)
    row, segment = program // segments, program % segments
    i = row.to(tl.int64) * TILE + tl.arange(0, TILE)
    first, last = segment * TILES, tl.minimum(segment * TILES + TILES, tl.cdiv(m, TILE))
    if SAME:
        first = tl.maximum(first, row)
    total = tl.zeros((), tl.float64)
    for block in range(first, last):
        j = (block * TILE + tl.arange(0, TILE)).to(tl.int64)
        k = _kernel(_squared_distances(x, y, i, j, n, m, p, WIDE, TILE, FEATURES), rates, KERNEL, WIDE)
        there = (i < n)[:, None] & (j < m)[None, :]
        if SAME:
            there &= i[:, None] != j[None, :]
        tile = tl.sum(tl.sum(tl.where(there, k, 0), 0).to(tl.float64), 0)
        total += tl.where(block > row, 2 * tile, tile) if SAME else tile
    tl.store(partial + program, total)


@triton.jit(do_not_specialize=["n", "m"])
def gradient_kernel(
    x,
    y,
    out,
    rates,
    n,
    m,
    p,
    SAME: tl.constexpr,
    KERNEL: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """``out_i = sum_j slope(|x_i - y_j|^2) (x_i - y_j)`` for one block of rows and of features.

    Args:
        x: Centred points [n, p].
        y: Centred points [m, p]; if SAME, those of x.
        out: float64 [n, p].
        rates: As in `sum_kernel`, like all that follows.
        n: Points of x.
        m: Points of y.
        p: Features.
        SAME: Leave out i = j.
        KERNEL: Which kernel.
        WIDE: Type of distances and kernels.
        TILE: Points of a block.
        FEATURES: Features at a time.
    """
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    k = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    here = (i < n)[:, None] & (k < p)[None, :]
    at = tl.load(x + i[:, None] * p + k[None, :], here, 0)
    total = tl.zeros((TILE, FEATURES), tl.float64)
    for block in range(0, tl.cdiv(m, TILE)):
        j = (block * TILE + tl.arange(0, TILE)).to(tl.int64)
        slope = _slope(_squared_distances(x, y, i, j, n, m, p, WIDE, TILE, FEATURES), rates, KERNEL, WIDE)
        there = (i < n)[:, None] & (j < m)[None, :]
        if SAME:
            there &= i[:, None] != j[None, :]
        slope = tl.where(there, slope, 0)
        others = tl.load(y + j[:, None] * p + k[None, :], (j < m)[:, None] & (k < p)[None, :], 0)
        products = tl.dot(slope, others, input_precision="ieee", out_dtype=WIDE)
        total += (tl.sum(slope, 1)[:, None] * at - products).to(tl.float64)
    tl.store(out + i[:, None] * p + k[None, :], total, here)


@implements("energy_distance", "triton")
@implements("mmd2", "triton")
def discrepancy(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], weights: Weights, gradient: bool) -> Tensor:
    """Points are copied once, centred; partial sums are added by torch, in one order."""
    dtype = wide(x)
    x, y = x.to(dtype), y.to(dtype)
    mean = ((x.sum(0, dtype=torch.float64) + y.sum(0, dtype=torch.float64)) / (len(x) + len(y))).to(dtype)
    x, y = (x - mean).contiguous(), (y - mean).contiguous()
    bits = tuple(struct.unpack("q", struct.pack("d", rate))[0] for rate in rates)
    if gradient:
        within, across = _slopes(x, x, kernel, bits, True), _slopes(x, y, kernel, bits, False)
        return (within * (4 * weights.within_x) - across * (2 * weights.across)).to(dtype)
    sums = [_sum(x, x, kernel, bits, True), _sum(y, y, kernel, bits, True), _sum(x, y, kernel, bits, False)]
    total = sums[0] * weights.within_x + sums[1] * weights.within_y - sums[2] * weights.across + weights.rest
    return total.to(dtype)


def _sum(x: Tensor, y: Tensor, kernel: str, rates: tuple[int, ...], same: bool) -> Tensor:
    kind, tile, warps, _ = TILES[x.dtype]
    rows, segments = triton.cdiv(len(x), tile), triton.cdiv(triton.cdiv(len(y), tile), TILES_OF_PROGRAM)
    partial = torch.empty(rows * segments, dtype=torch.float64, device=x.device)
    sum_kernel[(rows * segments,)](
        x, y, partial, rates, len(x), len(y), x.shape[1], segments,
        SAME=same, KERNEL=CODES[kernel], WIDE=kind, TILE=tile, TILES=TILES_OF_PROGRAM, FEATURES=FEATURES,
        num_warps=warps, **FUSION,
    )  # fmt: skip
    return partial.sum()


def _slopes(x: Tensor, y: Tensor, kernel: str, rates: tuple[int, ...], same: bool) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    kind, tile, warps, registers = TILES[x.dtype]
    grid = (triton.cdiv(len(x), tile), triton.cdiv(x.shape[1], FEATURES))
    gradient_kernel[grid](
        x, y, out, rates, len(x), len(y), x.shape[1],
        SAME=same, KERNEL=CODES[kernel], WIDE=kind, TILE=tile, FEATURES=FEATURES,
        num_warps=warps, maxnreg=registers, **FUSION,
    )  # fmt: skip
    return out


def static_cases() -> list[StaticCase]:
    """Three bandwidths, both kernels of each type; the points of a tile are read again for every tile beside it."""
    cases = []
    for name, kind, dtype in (("float32", "*fp32", torch.float32), ("float64", "*fp64", torch.float64)):
        type_, tile, warps, registers = TILES[dtype]
        for kernel, code in CODES.items():
            rates = ("i64",) * (1 if kernel == "distance" else 3)
            tensors = {"x": kind, "y": kind}
            sizes = dict.fromkeys(("n", "m", "p"), "i32")
            constants = {"SAME": True, "KERNEL": code, "WIDE": type_, "TILE": tile, "FEATURES": FEATURES}
            of_sum = constants | {"TILES": TILES_OF_PROGRAM}
            cases.append(
                StaticCase(
                    name=f"mmd2 {kernel} {name}",
                    kernel=sum_kernel,
                    signature=tensors
                    | {"partial": "*fp64", "rates": rates, **sizes, "segments": "i32"}
                    | dict.fromkeys(of_sum, "constexpr"),
                    constants=of_sum,
                    aligned=("x", "y", "p"),
                    elements=tile * tile,
                    minimum=None,
                    options=FUSION | {"num_warps": warps},
                    quick=(kernel, name) == ("gaussian", "float32"),
                )
            )
            cases.append(
                StaticCase(
                    name=f"mmd2 {kernel} gradient {name}",
                    kernel=gradient_kernel,
                    signature=tensors
                    | {"out": "*fp64", "rates": rates, **sizes}
                    | dict.fromkeys(constants, "constexpr"),
                    constants=constants,
                    aligned=("x", "y", "out", "p"),
                    elements=tile * tile,
                    minimum=None,
                    options=FUSION | {"num_warps": warps, "maxnreg": registers},
                    quick=(kernel, name) == ("gaussian", "float32"),
                )
            )
    return cases
