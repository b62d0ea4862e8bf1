"""The native backend: the compiled module, which is given addresses, shapes and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ArgumentError
from . import arguments
from .arguments import Terms
from .dispatch import forced, implements, native_module
from .noise import Noise
from .operators import modes

if TYPE_CHECKING:
    from .combine import PreparedCombine

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
if native_module is not None:
    native_module.set_torch(
        Tensor, CODES, torch.get_num_threads, torch.empty_like, torch.is_grad_enabled, Noise, modes, forced
    )
    implements("combine_eager", "native")(native_module.combine_eager)  # the common case, with its checks
    implements("prepare_eager", "native")(native_module.prepare_eager)
    implements("normal_eager", "native")(native_module.normal_eager)
    implements("uniform_eager", "native")(native_module.uniform_eager)


@implements("combine", "native")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """Run once; the same numbers as the reference, bit for bit."""
    arguments.check_overlap(inputs, outs)
    contiguous = all([x.is_contiguous() for x in (*inputs, *outs)])
    made = outs
    if not contiguous:  # the imaginary part of a conjugate is a view whose memory holds the opposite numbers
        inputs = [x.resolve_neg() for x in inputs]
        made = [torch.empty_like(out.resolve_neg()) if out.is_neg() else out for out in outs]
    result = bind(inputs, parts, made, contiguous)()
    for out, value in zip(outs, made, strict=True):
        if value is not out:
            out.copy_(value)
    if status is not None:
        status |= result


@implements("prepare", "native")
def prepare(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> PreparedCombine:
    """Bind once, for many calls."""
    given = [x for x in inputs if x is not None]
    arguments.check_overlap(given, outs)
    if any([x.is_neg() for x in (*given, *outs)]):
        expected = "tensors whose memory holds their numbers: call resolve_neg()"
        raise ArgumentError("inputs", got="the imaginary part of a conjugate", expected=expected)
    return bind(inputs, parts, outs, all([x.is_contiguous() for x in (*given, *outs)]))


@implements("normal", "native")
def normal(out: Tensor, noise: Noise) -> None:
    """Fill ``out`` with normals."""
    _fill(0, out, noise)


@implements("uniform", "native")
def uniform(out: Tensor, noise: Noise) -> None:
    """Fill ``out``, float32 or float64, with uniforms."""
    _fill(1, out, noise)


def _fill(distribution: int, out: Tensor, noise: Noise) -> None:
    made = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    keep: list[Tensor | None] = []
    key = key_numbers(noise, "cpu", keep)
    rows, row_size = out.shape[0], out.shape[1:].numel()
    native_module.fill_random(distribution, made.data_ptr(), CODES[out.dtype], rows, row_size, key)
    if made is not out:
        out.copy_(made)


def bind(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor], contiguous: bool) -> PreparedCombine:
    """Describe a combination to the compiled module; ``None`` inputs have the strides of ``outs[0]``."""
    keep: list[Tensor | None] = [*inputs, *outs]
    plain = contiguous and parts.groups is None
    strides = None if plain else [(outs[0] if x is None else x).stride() for x in keep]
    addresses = [None if x is None else x.data_ptr() for x in keep]
    tables = [rows.shape[0] for rows in (parts.weights, parts.scales) if isinstance(rows, Tensor)]
    weights, scales = (_rows(rows, keep) for rows in (parts.weights, parts.scales))
    groups = 0
    if parts.groups is not None:
        expanded = parts.groups.expand(outs[0].shape)
        keep.append(expanded)
        strides = [*(strides or []), expanded.stride()]
        groups = expanded.data_ptr()
    noises = [key_numbers(noise, "cpu", keep) for noise in parts.noises]
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
        (groups, tables[0] if tables else 0),
        keep,
    )


def key_numbers(noise: Noise, device: torch.device | str, keep: list[Tensor | None]) -> tuple[int, ...]:
    """The key of a draw for the compiled module, with the address of the samples' ids on a device.

    ``keep`` gets what must live as long as that address is used.
    """
    samples = 0
    if noise.samples is not None:
        ids = noise.samples.to(device).contiguous()
        keep.append(ids)
        samples = ids.data_ptr()
    return noise.seed, *noise.draw, samples


def _rows(rows: object, keep: list[Tensor | None]) -> object:
    if not isinstance(rows, Tensor):
        return rows
    table = rows.contiguous()
    keep.append(table)
    return table.data_ptr()
