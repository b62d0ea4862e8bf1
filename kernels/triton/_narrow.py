"""Rounding to the type of the tensors, and what it takes for Triton's interpreter to round as a device does."""

from __future__ import annotations

import triton
import triton.language as tl

from ..dispatch import interpreting

_BY_HAND = tl.constexpr(interpreting())


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """``value`` rounded to nearest even. Triton's interpreter cuts off what does not fit into a bfloat16."""
    if _BY_HAND and dtype == tl.bfloat16:
        single = value.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = tl.where(single == single, bits.to(tl.float32, bitcast=True), single)  # a NaN stays one
    return value.to(dtype)
