"""`combine`, `prepare`, `normal` and `uniform` in Triton: the sums and numbers of the reference, bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import Terms
from ..dense import Division, Prepared, Run
from ..device import on_device_of
from ..dispatch import implements, interpreting
from ..noise import Noise
from ._combine import OPTIONS, block_elements, combine_kernel, uniform_kernel
from ._combine_cases import static_cases as static_cases
from ._philox import encode, key_arguments, sample_arguments


def bind(parts: Terms, like: Tensor) -> Run:
    """Everything but the tensors: coefficients on the device, and how elements are divided over programs."""
    division = Division(parts, like)
    count = parts.weights.shape[-1] if isinstance(parts.weights, Tensor) else len(parts.weights[0])
    keys = tuple(key_arguments(noise) for noise in parts.noises)
    samples, given = sample_arguments(parts.noises, like)
    numbers = ()
    if division.table is None:
        flat = [c for weights, scales in zip(parts.weights, parts.scales, strict=True) for c in (*weights, *scales)]
        double = division.wide == torch.float64
        numbers = tuple(half for c in flat for half in _halves(c)) if double else tuple(flat)
    total, rows, n = division.total, division.rows, division.row_size
    block = block_size(like, count + len(keys))
    short = rows > 1 and 2 * n < block
    chunks = triton.cdiv(n, block)
    programs = triton.cdiv(total, block) if short else rows * chunks
    constants = {
        "GIVEN": given,
        "SHORT": short,
        "QUADS": not short or n % 4 == 0,
        "EACH": division.each,
        "INDEX": tl.int32 if total + block < 2**31 else tl.int64,
        "WIDE": tl.float64 if division.wide == torch.float64 else tl.float32,
        "BLOCK": block,
    }

    def run(inputs: Sequence[Tensor], outs: Sequence[Tensor], status: Tensor | None) -> None:
        if total == 0:
            return
        with on_device_of(outs[0]):
            combine_kernel[(programs,)](
                tuple(inputs), tuple(outs), numbers, division.table, division.groups, keys, samples, status,
                n, total, chunks, division.outer, division.run, division.inner, **constants, **OPTIONS,
            )  # fmt: skip

    return run


@implements("combine", "triton")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """Run once. Tensors that are not contiguous, nor all dense in one other order of dimensions, are copied."""
    Prepared(bind, inputs, parts, outs).run(inputs, status)


@implements("prepare", "triton")
def prepare(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> Prepared:
    """Bind once, for many calls."""
    return Prepared(bind, inputs, parts, outs)


@implements("normal", "triton")
def normal(out: Tensor, noise: Noise) -> None:
    """Fill ``out`` with normals."""
    combine((), Terms(((),), (noise,), ((1.0,),), True), (out,), None)


@implements("uniform", "triton")
def uniform(out: Tensor, noise: Noise) -> None:
    """Fill ``out``, which is contiguous, with uniform numbers."""
    rows, total, block = out.shape[0], out.numel(), block_size(out, 0)
    if total == 0:
        return
    n = total // rows
    short = rows > 1 and 2 * n < block
    chunks = triton.cdiv(n, block)
    programs = triton.cdiv(total, block) if short else rows * chunks
    (samples,), (given,) = sample_arguments([noise], out)
    with on_device_of(out):
        uniform_kernel[(programs,)](
            out, key_arguments(noise), samples, n, total, chunks, GIVEN=given, SHORT=short, BLOCK=block, **OPTIONS
        )


def block_size(like: Tensor, terms: int) -> int:
    """Elements of a program: more in Triton's interpreter, which needs milliseconds for one of any size."""
    return (16 if interpreting() else 1) * block_elements(like.element_size(), terms)


def _halves(value: float) -> tuple[int, int]:
    """A float64 as two arguments: Triton would make a float32 of a float."""
    high, low = struct.unpack(">II", struct.pack(">d", value))
    return encode(high), encode(low)
