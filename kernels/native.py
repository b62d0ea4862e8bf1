"""The native backend: the compiled module, which is given addresses, shapes and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import arguments, reference
from .arguments import Terms
from .dispatch import implements, native_module
from .noise import Noise

if TYPE_CHECKING:
    from .combine import PreparedCombine

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
if native_module is not None:
    native_module.set_torch(Tensor, CODES, torch.get_num_threads, torch.empty_like, torch.is_grad_enabled, Noise)
    implements("combine_eager", "native")(native_module.combine_eager)  # the common case, with its checks
    implements("prepare_eager", "native")(native_module.prepare_eager)


@implements("combine", "native")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """Run once; the same numbers as the reference, bit for bit."""
    if parts.groups is not None:
        return reference.combine(inputs, parts, outs, status)
    arguments.check_overlap(inputs, outs)
    result = bind(inputs, parts, outs, all([x.is_contiguous() for x in (*inputs, *outs)]))()
    if status is not None:
        status |= result


@implements("prepare", "native")
def prepare(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> PreparedCombine:
    """Bind once, for many calls."""
    if parts.groups is not None:
        return reference.Prepared(inputs, parts, outs)
    given = [x for x in inputs if x is not None]
    arguments.check_overlap(given, outs)
    return bind(inputs, parts, outs, all([x.is_contiguous() for x in (*given, *outs)]))


@implements("normal", "native")
def normal(out: Tensor, noise: Noise) -> None:
    """Fill ``out`` with normals."""
    bind((), Terms(((),), (noise,), ((1.0,),), True), (out,), out.is_contiguous())()


def bind(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor], contiguous: bool) -> PreparedCombine:
    """Describe a combination to the compiled module; ``None`` inputs have the strides of ``outs[0]``."""
    keep = [*inputs, *outs]
    strides = None if contiguous else [(outs[0] if x is None else x).stride() for x in keep]
    addresses = [None if x is None else x.data_ptr() for x in keep]
    weights, scales = (_rows(rows, keep) for rows in (parts.weights, parts.scales))
    noises = []
    for noise in parts.noises:
        samples = 0
        if noise.samples is not None:
            keep.append(noise.samples.cpu().contiguous())
            samples = keep[-1].data_ptr()
        purpose, step, stage, attempt = noise.draw
        noises.append((noise.seed, purpose, step, stage, attempt, samples))
    count = len(inputs)
    return native_module.Combination(
        CODES[outs[0].dtype],
        outs[0].shape,
        addresses[:count],
        addresses[count:],
        strides,
        weights,
        noises,
        scales,
        keep,
    )


def _rows(rows: object, keep: list[Tensor]) -> object:
    if not isinstance(rows, Tensor):
        return rows
    keep.append(rows.contiguous())
    return keep[-1].data_ptr()
