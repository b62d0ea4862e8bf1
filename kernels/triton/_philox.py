"""Philox4x32-10, its uniforms and normals inside Triton kernels: bit for bit those of `kernels/philox.py`.

Launch kernels that make normals with ``enable_fp_fusion=False``: a fused multiply-add rounds once where the definition
rounds twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..noise import Noise
from ..philox import COS, KEY_STEPS, LN2_HIGH, LN2_LOW, LOG, MULTIPLIERS, SIN, SQRT_HALF_BITS

# A kernel may only read globals that are declared constant.
_M0, _M1 = (tl.constexpr(value) for value in MULTIPLIERS)
_K0, _K1 = (tl.constexpr(value) for value in KEY_STEPS)
_LOG, _SIN, _COS = (tl.constexpr(tuple(values)) for values in (LOG, SIN, COS))
_LN2_HIGH, _LN2_LOW = tl.constexpr(LN2_HIGH), tl.constexpr(LN2_LOW)
_SQRT_HALF_BITS = tl.constexpr(SQRT_HALF_BITS)
_ULP, _HALF_ULP = tl.constexpr(2.0**-32), tl.constexpr(2.0**-33)
_TURN, _CELL, _FINE_CELL = tl.constexpr(2.0**-25), tl.constexpr(2.0**-23), tl.constexpr(2.0**-52)


def encode(word: int) -> int:
    """A 32-bit word as an argument of a kernel, to be read by `decode`.

    Triton compiles anew for integers that are 1, multiples of 16, or beyond 32 bits. The result is none of the first
    two and always the third, so that a kernel is compiled once for all steps of a run.
    """
    return 2 * word + 2**40 + 1


@triton.jit
def decode(argument):
    """The 32-bit word that `encode` has hidden from Triton's specialisation."""
    return (argument >> 1).to(tl.uint32)


def key_arguments(noise: Noise) -> tuple[int, ...]:
    """The key of a draw, without its samples' ids, as one argument of a kernel: six encoded words."""
    return tuple(encode(number) for number in (noise.seed & 0xFFFFFFFF, noise.seed >> 32, *noise.draw))


def sample_arguments(noises: Sequence[Noise], blank: Tensor) -> tuple[tuple[Tensor, ...], tuple[bool, ...]]:
    """The samples' ids of each draw on the device of ``blank``, which stands for those not given; and which are given.

    Not None: Triton 3.6 does not compile a None within a tuple of tuples.
    """
    ids = [noise.samples for noise in noises]
    tensors = tuple(blank if x is None else x.to(blank.device).contiguous() for x in ids)
    return tensors, tuple(x is not None for x in ids)


KEY_TYPE = ("i64",) * 6  # the type of a key, for `StaticCase`


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Four words for a counter and a key: uint32, scalars or blocks, of which only what differs is computed."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, _M0), c0 * _M0
        high1, low1 = tl.umulhi(c2, _M1), c2 * _M1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _K0, k1 + _K1
    return c0, c1, c2, c3


@triton.jit
def sample_of(samples, row, inside, GIVEN: tl.constexpr):
    """Ids of rows, int64: their numbers, or ``samples[row]`` if they are GIVEN; ``inside``: where ``row`` is one."""
    if GIVEN:
        row = tl.load(samples + row, inside, 0)
    return row


@triton.jit
def words(key, sample, block):
    """The words of elements ``4 block ... 4 block + 3`` of samples.

    Args:
        key: As `key_arguments` makes it.
        sample: int64, ids.
        block: uint32, of the shape of ``sample`` if that is not a scalar.
    """
    low, high = sample.to(tl.uint32), (sample >> 32).to(tl.uint32)
    stream = philox(low, high, decode(key[2]), decode(key[4]), decode(key[0]), decode(key[1]))
    zero = block ^ block
    return philox(block, zero + decode(key[3]), zero + decode(key[5]), zero, stream[0], stream[1])


@triton.jit
def spread(four):
    """Four blocks as one of four times the size, in turn: a thread that made four numbers also stores them."""
    return tl.interleave(tl.interleave(four[0], four[2]), tl.interleave(four[1], four[3]))


@triton.jit
def normals(key, sample, block):
    """The normals of elements ``4 block ... 4 block + 3`` of samples, each of the shape of ``block``, float32."""
    w0, w1, w2, w3 = words(key, sample, block)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def normal_of(key, sample, element):
    """The normals of single elements: for rows too short or too odd for whole blocks."""
    w0, w1, w2, w3 = words(key, sample, (element >> 2).to(tl.uint32))
    second = (element & 2) != 0
    x, y = box_muller(tl.where(second, w2, w0), tl.where(second, w3, w1))
    return tl.where((element & 1) != 0, y, x)


@triton.jit
def uniform(word):
    """Uniform number in (0, 1), float32."""
    return ((word >> 9).to(tl.float32) + 0.5) * _CELL


@triton.jit
def fine_uniform(w0, w1):
    """Uniform number in (0, 1), float64."""
    cells = ((w0 >> 6).to(tl.int64) << 26) + (w1 >> 6).to(tl.int64)
    return (cells.to(tl.float64) + 0.5) * tl.full(cells.shape, _FINE_CELL, tl.float64)


@triton.jit
def box_muller(radius, angle):
    """Two float32 normals of each pair of words."""
    r = tl.sqrt_rn(log_uniform(radius) * -2.0)
    turns = ((angle >> 8) * 2 + 1).to(
        tl.int32
    )  # in units of 2**-25 turns: the angle itself does not fit into a float32
    quarter = (turns + 0x400000) >> 23
    t = (turns - (quarter << 23)).to(tl.float32) * _TURN  # exact, |t| <= 1/8 turn
    t2 = t * t
    sin = (((t2 * _SIN[3] + _SIN[2]) * t2 + _SIN[1]) * t2 + _SIN[0]) * t
    cos = (((t2 * _COS[3] + _COS[2]) * t2 + _COS[1]) * t2 + _COS[0]) * t2 + 1.0
    odd = (quarter & 1) != 0
    x = tl.where(odd, sin, cos).to(tl.int32, bitcast=True) ^ (((quarter + 1) & 2) << 30)  # the sign bit
    y = tl.where(odd, cos, sin).to(tl.int32, bitcast=True) ^ ((quarter & 2) << 30)
    return r * x.to(tl.float32, bitcast=True), r * y.to(tl.float32, bitcast=True)


@triton.jit
def log_uniform(word):
    """Logarithm of ``(word + 1/2) 2^-32``, float32."""
    u = word.to(tl.float32) * _ULP + _HALF_ULP
    bits = u.to(tl.int32, bitcast=True) - _SQRT_HALF_BITS
    exponent = bits >> 23
    f = ((bits & 0x7FFFFF) + _SQRT_HALF_BITS).to(tl.float32, bitcast=True) - 1.0
    # Close to one a float32 has lost the last bits of the word, so u - 1 comes from the word's complement.
    f = tl.where(exponent == 0, (word ^ 0xFFFFFFFF).to(tl.float32) * -_ULP - _HALF_ULP, f)
    f2, e = f * f, exponent.to(tl.float32)
    p = f * _LOG[7]
    for k in tl.static_range(6, 0, -1):
        p = (p + _LOG[k]) * f
    tail = (p + _LOG[0]) * (f2 * f) + e * _LN2_LOW - f2 * 0.5
    return tail + f + e * _LN2_HIGH
