"""Kernels with a known fault each, which `benchmarks/static_gpu.py` must find, and one without."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from pushforward.kernels.triton._static import StaticCase


@triton.jit
def scaled(x, out, n, TWICE: tl.constexpr, BLOCK: tl.constexpr):
    """``out = x * x + 1``, perhaps reading x again for it."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, at < n)
    other = tl.load(x + at, at < n, volatile=True) if TWICE else value
    tl.store(out + at, value * other + 1.0, at < n)


@triton.jit
def crowded(x, out, n, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows plus the sum of all rows, which all wait in registers for it."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None] + tl.arange(0, ROWS)[:, None] * n
    tile = tl.load(x + at)
    tl.store(out + at, tile + tl.sum(tile, 0)[None])


def static_cases() -> list[StaticCase]:
    """A sound kernel, and ones that are narrow, read twice, fuse, and spill."""
    constants = {"TWICE": False, "BLOCK": 512}
    signature = {"x": "*fp32", "out": "*fp32", "n": "i32", "TWICE": "constexpr", "BLOCK": "constexpr"}
    sound = StaticCase("sound", scaled, signature, constants, ("x", "out", "n"), 512, 8.0, quick=True)
    return [
        sound,
        replace(sound, name="narrow", aligned=("x", "out")),
        replace(sound, name="reads twice", constants=constants | {"TWICE": True}),
        replace(sound, name="fused", options={"num_warps": 4, "enable_fp_fusion": True}),
        replace(
            sound,
            name="spilling",
            kernel=crowded,
            signature={"x": "*fp32", "out": "*fp32", "n": "i32", "ROWS": "constexpr", "BLOCK": "constexpr"},
            constants={"ROWS": 64, "BLOCK": 512},
            elements=64 * 512,
        ),
    ]
