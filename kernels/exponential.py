"""exp of numbers up to 0 in float64: the definition that every backend reproduces bit for bit.

Only additions, multiplications and operations on bits, in a fixed order and without contraction, where libraries'
exponentials differ in the last bits. The polynomial is minimax in relative error (3.6e-18) on |r| <= log(2) / 2; with
its rounding the result is within 1 ulp of the exact value.
"""

from __future__ import annotations

import torch
from torch import Tensor

# exp(r) = 1 + r + r^2 P(r)
EXP = (0.5000000000000011, 0.16666666666666413, 0.041666666666530155, 0.008333333333494463, 0.001388888894363007,
       0.00019841269506576398, 2.4801493098947543e-05, 2.7557586375990773e-06, 2.763024836611497e-07,
       2.5000060913375838e-08)  # fmt: skip
LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471805598903, 5.497923018708371e-14  # the high part has 42 bits: its multiples are exact
ROUND = 6755399441055744.0  # 1.5 * 2^52: added, it leaves the nearest integer in the low bits
LOWEST = -708.0  # below, the result is 0: no subnormal numbers


def exponential(x: Tensor) -> Tensor:
    """exp(x) for float64 x <= 0, within 1 ulp; 0 where x < -708, -infinity included.

    Example:
        >>> exponential(torch.tensor([0.0, -1.0, -torch.inf], dtype=torch.float64))
        tensor([1.0000, 0.3679, 0.0000], dtype=torch.float64)
    """
    shifted = x * LOG2_E + ROUND
    n = shifted - ROUND
    r = x - n * LN2_HIGH
    r = r - n * LN2_LOW
    p = r * EXP[-1]
    for c in EXP[-2:0:-1]:
        p = (p + c) * r
    p = p + EXP[0]
    y = p * (r * r) + r + 1.0
    scaled = (y.view(torch.int64) + (shifted.view(torch.int64) << 52)).view(torch.float64)
    return torch.where(x < LOWEST, 0.0, scaled)


def to_fixed(x: Tensor, scale: float) -> Tensor:
    """Integer nearest to ``x * scale`` (to even on a tie), int64, for float64 0 <= x * scale <= 2^52."""
    return (x * scale + 2.0**52).view(torch.int64) - ((52 + 1023) << 52)
