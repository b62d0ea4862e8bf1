"""Loading to and storing from a wider type: what a device does, also in Triton's interpreter.

The interpreter cuts off what does not fit into a bfloat16, where a device rounds, and gets its subnormals wrong. So it
is given the bits, and all backends can be compared bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..dispatch import interpreting

_BY_HAND = tl.constexpr(interpreting())


@triton.jit
def widen(value, WIDE: tl.constexpr):
    """``value``, exactly, in a wider type."""
    if _BY_HAND and value.dtype == tl.bfloat16:
        bits = value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        return bits.to(tl.float32, bitcast=True).to(WIDE)
    else:
        return value.to(WIDE)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """``value``, float32 or float64, rounded to nearest even."""
    if _BY_HAND and dtype == tl.bfloat16:
        single = value.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(single == single, bits, 0x7FC0)  # rounding could carry a NaN into infinity
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return value.to(dtype)
