"""`threshold` in Triton: radix selection by one program a sample, then one pass over all elements."""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import implements
from ..threshold import dense
from ._narrow import narrow
from ._static import StaticCase

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
INFINITY = {torch.float32: 0x7F800000, torch.float64: 0x7FF0 << 48, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
SELECT_BLOCK, SELECT_OPTIONS = 4096, {"num_warps": 8, "enable_fp_fusion": False}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def _number(bits):
    """A float64 that came as its bits: a plain float argument would be rounded to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def _value(key, x, BYTES: tl.constexpr):
    """The number whose absolute value has these bits, in the type of ``x``."""
    kind: tl.constexpr = x.dtype.element_ty
    if BYTES == 2:
        number = key.to(tl.int16).to(kind, bitcast=True)
    else:
        number = key.to(kind, bitcast=True)
    return number


@triton.jit(do_not_specialize=["rank", "fraction", "floor", "cap"])
def select_kernel(
    x,
    bits,
    limits,
    scales,
    n,
    rank,
    fraction: tl.int64,
    floor: tl.int64,
    cap: tl.int64,
    INFINITY: tl.constexpr,
    BYTES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The limit of a sample, and floor / limit.

    Args:
        x: Only its type is used.
        bits: The same tensor as integers; without their signs they are ordered like the absolute values.
        limits: Where the limit of each sample goes.
        scales: Where floor / limit goes.
        n: Elements of a sample.
        rank: Order statistic below the quantile.
        fraction: Way from it to the next, as the bits of a float64, like the others.
        floor: Smallest limit.
        cap: Largest limit.
        INFINITY: Bits of infinity; a NaN has larger ones.
        BYTES: Of an element.
        WIDE: Type of the limits.
        BLOCK: Elements at a time.
    """
    KEY: tl.constexpr = tl.int64 if BYTES == 8 else tl.int32
    MAGNITUDE: tl.constexpr = (1 << (8 * BYTES - 1)) - 1
    sample = tl.program_id(0).to(tl.int64)
    lanes, bins = tl.arange(0, BLOCK), tl.arange(0, 256)
    prefix, equal = tl.zeros((), KEY), tl.zeros((), tl.int32)
    left = tl.zeros((), tl.int32) + rank
    for step in tl.static_range(BYTES):  # a byte at a time, most significant first
        counts = tl.zeros((256,), tl.int32)
        for start in range(0, n, BLOCK):
            inside = start + lanes < n
            key = tl.load(bits + sample * n + start + lanes, inside, 0).to(KEY) & MAGNITUDE
            if step > 0:
                inside &= (key >> (8 * (BYTES - step))) == prefix
            counts += tl.histogram(((key >> (8 * (BYTES - 1 - step))) & 255).to(tl.int32), 256, mask=inside)
        bin = tl.sum((tl.cumsum(counts, 0) <= left).to(tl.int32), 0)
        left -= tl.sum(tl.where(bins < bin, counts, 0), 0)
        equal = tl.sum(tl.where(bins == bin, counts, 0), 0)
        prefix = (prefix << 8) | bin.to(KEY)
    largest = tl.zeros((BLOCK,), KEY)
    after = tl.full((BLOCK,), MAGNITUDE, KEY)
    for start in range(0, n, BLOCK):
        inside = start + lanes < n
        key = tl.load(bits + sample * n + start + lanes, inside, 0).to(KEY) & MAGNITUDE
        largest = tl.maximum(largest, key)
        after = tl.minimum(after, tl.where(inside & (key > prefix), key, MAGNITUDE))
    following = tl.where(left + 1 < equal, prefix, tl.min(after, 0))
    way = _number(fraction).to(WIDE)
    low, high = _value(prefix, x, BYTES).to(WIDE), _value(following, x, BYTES).to(WIDE)
    quantile = tl.where((low == high) | (way == 0), low, low + (high - low) * way)
    smallest, biggest = _number(floor).to(WIDE), _number(cap).to(WIDE)
    limit = tl.where(quantile < smallest, smallest, quantile)
    limit = tl.where(limit > biggest, biggest, limit)
    limit = tl.where(tl.max(largest, 0) > INFINITY, float("nan"), limit)
    scale = tl.div_rn(smallest, limit) if BYTES < 8 else smallest / limit
    tl.store(limits + sample, limit)
    tl.store(scales + sample, scale)


@triton.jit(do_not_specialize=["chunks"])
def apply_kernel(x, out, limits, scales, n, chunks, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """``out = clamp(x, -limit, limit) * scale``, a block of one sample a program.

    Args:
        x: Samples of ``n`` elements, one after the other.
        out: The same.
        limits: A number a sample.
        scales: A number a sample.
        n: Elements of a sample.
        chunks: Programs of a sample.
        WIDE: Type of the limits.
        BLOCK: Elements of a program.
    """
    program = tl.program_id(0)
    sample = (program // chunks).to(tl.int64)
    element = (program % chunks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < n
    limit, scale = tl.load(limits + sample), tl.load(scales + sample)
    value = tl.load(x + sample * n + element, inside, 0).to(WIDE)
    value = tl.where(value > limit, limit, value)
    value = tl.where(value < -limit, -limit, value) * scale
    tl.store(out + sample * n + element, narrow(value, out.dtype.element_ty), inside)


@implements("threshold", "triton")
def threshold(x: Tensor, lower: int, fraction: float, floor: float, cap: float, out: Tensor, limits: Tensor) -> None:
    """Two launches; contiguous copies of other tensors."""
    source, target = dense(x, out)
    batch, size = x.shape[0], x.element_size()
    n, scales = x.numel() // batch, torch.empty_like(limits)
    wide = tl.float64 if size == 8 else tl.float32
    numbers = [struct.unpack("q", struct.pack("d", number))[0] for number in (fraction, floor, cap)]
    flat = source.as_strided((x.numel(),), (1,))  # elements of a sample in the order of memory
    bits = flat.view(BITS[size])
    select_kernel[(batch,)](
        flat, bits, limits, scales, n, lower, *numbers,
        INFINITY=INFINITY[x.dtype], BYTES=size, WIDE=wide, BLOCK=SELECT_BLOCK, **SELECT_OPTIONS,
    )  # fmt: skip
    block = _block(size)
    chunks = triton.cdiv(n, block)
    apply_kernel[(batch * chunks,)](source, target, limits, scales, n, chunks, WIDE=wide, BLOCK=block, **OPTIONS)
    if target is not out:
        out.copy_(target)


def _block(size: int) -> int:
    return 128 * (4 if size == 8 else 8)  # a thread's accesses are 16 bytes, or two of them


def static_cases() -> list[StaticCase]:
    """Both kernels, every element size."""
    kinds = {"float32": ("fp32", 4, torch.float32), "float64": ("fp64", 8, torch.float64)}
    kinds |= {"bfloat16": ("bf16", 2, torch.bfloat16), "float16": ("fp16", 2, torch.float16)}
    cases = []
    for name, (kind, size, dtype) in kinds.items():
        wide, quick = (("fp64", tl.float64) if size == 8 else ("fp32", tl.float32)), name in ("float32", "bfloat16")
        numbers = {"limits": f"*{wide[0]}", "scales": f"*{wide[0]}"}
        constants = {"INFINITY": INFINITY[dtype], "BYTES": size, "WIDE": wide[1], "BLOCK": SELECT_BLOCK}
        cases.append(
            StaticCase(
                name=f"threshold, selection {name}",
                kernel=select_kernel,
                signature={"x": f"*{kind}", "bits": f"*i{8 * size}", **numbers, "n": "i32", "rank": "i32"}
                | dict.fromkeys(("fraction", "floor", "cap"), "i64")
                | dict.fromkeys(constants, "constexpr"),
                constants=constants,
                aligned=("bits", "n"),
                elements=SELECT_BLOCK,
                minimum=None,  # the bytes of every element are looked at several times
                options=SELECT_OPTIONS,
                quick=name == "float32",
            )
        )
        constants = {"WIDE": wide[1], "BLOCK": _block(size)}
        cases.append(
            StaticCase(
                name=f"threshold, clamp and scale {name}",
                kernel=apply_kernel,
                signature={"x": f"*{kind}", "out": f"*{kind}", **numbers, "n": "i32", "chunks": "i32"}
                | dict.fromkeys(constants, "constexpr"),
                constants=constants,
                aligned=("x", "out", "n"),
                elements=constants["BLOCK"],
                minimum=2 * size,
                options=OPTIONS,
                quick=quick,
            )
        )
    return cases
