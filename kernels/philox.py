"""Philox4x32-10 and its normals in plain torch: the definition that every backend reproduces bit for bit.

The normals are float32 numbers *by definition*, made with integer operations and IEEE additions, multiplications and
square roots only, in a fixed order and without contraction. So they are the same on every machine, where library
logarithms and sines differ in the last bits.

The logarithm and the sines are polynomials fitted for this purpose (minimax in relative error). Measured against
float64: logarithm 2.4 ulp (a rounding of the word included), sine 1.7, cosine 1.3; a normal differs from the exact
Box-Muller value of its words by at most 5 ulp and 7e-7.

Source: Salmon, Moraes, Dror, Shaw 2011, Parallel random numbers: as easy as 1, 2, 3; Box and Muller 1958.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import Draw

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

# log(1 + f) = f - f^2/2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]; every constant is a float32 number
LOG = (0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201757311820984,
       -0.13160184025764465, 0.127615824341774, -0.07634499669075012)  # fmt: skip
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the high part has 15 bits: its multiples are exact
SIN = (6.2831854820251465, -41.3416633605957, 81.59235382080078, -75.39359283447266)  # sin(2 pi t) / t, |t| <= 1/8
COS = (-19.739208221435547, 64.93932342529297, -85.4432373046875, 59.229244232177734)  # (cos(2 pi t) - 1) / t^2
SQRT_HALF_BITS = 0x3F3504F3


def philox4x32(counter: Sequence[Tensor | int], key: Sequence[Tensor | int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for a 128-bit counter and a 64-bit key: ten rounds.

    Args:
        counter: Four words, integers or int64 tensors holding values in [0, 2**32); shapes broadcast.
        key: Two words of the same kind.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2**32).

    Example:
        >>> [f"{int(word):08x}" for word in philox4x32((0, 0, 0, 0), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    device = next((word.device for word in (*counter, *key) if isinstance(word, Tensor)), None)
    c0, c1, c2, c3, k0, k1 = (torch.as_tensor(word, dtype=torch.int64, device=device) for word in (*counter, *key))
    for _ in range(10):
        a, b = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # wraps modulo 2**64, which keeps the 64 bits we need
        c0, c1, c2, c3 = (b >> 32 & MASK) ^ c1 ^ k0, b & MASK, (a >> 32 & MASK) ^ c3 ^ k1, a & MASK
        k0, k1 = k0 + KEY_STEPS[0] & MASK, k1 + KEY_STEPS[1] & MASK
    shape = torch.broadcast_shapes(c0.shape, c1.shape, c2.shape, c3.shape)
    return c0.expand(shape), c1.expand(shape), c2.expand(shape), c3.expand(shape)


def stream_key(seed: int, draw: Draw, samples: Tensor) -> tuple[Tensor, Tensor]:
    """First level: the key of each sample's own stream, two int64 tensors of the shape of ``samples``."""
    counter = (samples & MASK, samples >> 32 & MASK, draw.purpose, draw.stage)
    return philox4x32(counter, (seed & MASK, seed >> 32))[:2]


def words(elements: int, *, seed: int, draw: Draw, samples: Tensor) -> Tensor:
    """Random words of every sample, shape [B, elements], int64 in [0, 2**32).

    Element ``e`` is word ``e % 4`` of block ``e // 4``.

    Example:
        >>> few = words(2, seed=1, draw=Draw(2, 0), samples=torch.tensor([5]))
        >>> bool((few == words(9, seed=1, draw=Draw(2, 0), samples=torch.tensor([4, 5]))[1:, :2]).all())
        True
    """
    return torch.stack(_blocks(elements, seed, draw, samples), -1).flatten(1)[:, :elements]


def normals(elements: int, *, seed: int, draw: Draw, samples: Tensor) -> Tensor:
    """Standard normals of every sample, shape [B, elements], float32, on the device of ``samples``.

    Box-Muller on the word pairs of each block: ``u = (w0 + 1/2) 2^-32`` for the radius ``sqrt(-2 log u)`` and
    ``((w1 >> 8) + 1/2) 2^-24`` turns for the angle; cosine first. The largest value is 6.76.
    """
    w0, w1, w2, w3 = _blocks(elements, seed, draw, samples)
    pairs = (*box_muller(w0, w1), *box_muller(w2, w3))
    return torch.stack(pairs, -1).flatten(1)[:, :elements]


def uniforms(elements: int, *, seed: int, draw: Draw, samples: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniforms in (0, 1) of every sample, shape [B, elements], float32 or float64.

    Midpoints of 2^23 or 2^52 cells, which the formats hold exactly, so neither 0 nor 1 comes out. float32:
    ``((w >> 9) + 1/2) 2^-23`` of word ``e``; float64: ``((w0 >> 6) 2^26 + (w1 >> 6) + 1/2) 2^-52`` of words ``2 e`` and
    ``2 e + 1``.
    """
    if dtype == torch.float32:
        w = words(elements, seed=seed, draw=draw, samples=samples)
        return ((w >> 9).to(dtype) + 0.5) * 2.0**-23
    w0, w1 = words(2 * elements, seed=seed, draw=draw, samples=samples).unflatten(1, (elements, 2)).unbind(-1)
    return (((w0 >> 6) * 2**26 + (w1 >> 6)).to(dtype) + 0.5) * 2.0**-52


def box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 normals of each pair of words (int64 tensors, values in [0, 2**32))."""
    # torch's float32 square root (MKL's) is not always the IEEE one; taken in float64 and rounded, it is.
    r = (log_uniform(radius) * -2.0).double().sqrt().float()
    turns = (angle >> 8) * 2 + 1  # in units of 2**-25 turns: the angle itself does not fit into a float32
    quarter = turns + 2**22 >> 23
    t = (turns - (quarter << 23)).to(torch.float32) * 2.0**-25  # exact, |t| <= 1/8 turn
    t2 = t * t
    sin = _horner(SIN, t2) * t
    cos = _horner(COS, t2) * t2 + 1.0
    odd = (quarter & 1).bool()
    x, y = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    x = torch.where((quarter + 1 & 2).bool(), -x, x)  # quarters 1 and 2
    y = torch.where((quarter & 2).bool(), -y, y)  # quarters 2 and 3
    return r * x, r * y


def log_uniform(word: Tensor) -> Tensor:
    """Logarithm of ``(word + 1/2) 2^-32``, float32, for words in [0, 2**32); never 0."""
    u = word.to(torch.float32) * 2.0**-32 + 2.0**-33
    bits = u.view(torch.int32) - SQRT_HALF_BITS
    exponent = bits >> 23
    f = ((bits & 0x7FFFFF) + SQRT_HALF_BITS).view(torch.float32) - 1.0
    # Close to one a float32 has lost the last bits of the word, so u - 1 comes from the word's complement.
    f = torch.where(exponent == 0, (MASK - word).to(torch.float32) * -(2.0**-32) - 2.0**-33, f)
    f2, e = f * f, exponent.to(torch.float32)
    tail = _horner(LOG, f) * (f2 * f) + e * LN2_LOW - f2 * 0.5
    return tail + f + e * LN2_HIGH


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    total = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        total = (total + c) * x
    return total + coefficients[0]


def _blocks(elements: int, seed: int, draw: Draw, samples: Tensor) -> tuple[Tensor, ...]:
    block = torch.arange(math.ceil(elements / 4), device=samples.device)
    key = tuple(word[:, None] for word in stream_key(seed, draw, samples))
    return philox4x32((block[None], draw.step, draw.attempt, 0), key)
