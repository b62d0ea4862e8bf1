"""`combine`, `prepare`, `normal` and `uniform` in CUDA: the sums and numbers of the reference, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import arguments
from ..arguments import Terms
from ..combine import PreparedCombine
from ..dense import Division, Prepared, Run
from ..device import current_stream, on_device_of
from ..dispatch import emulating, implements, native_module
from ..native import CODES, key_numbers
from ..noise import Noise


def bind(parts: Terms, like: Tensor) -> Run:
    """Everything but the tensors: coefficients, and how elements are divided into rows."""
    division = Division(parts, like)

    def run(inputs: Sequence[Tensor], outs: Sequence[Tensor], status: Tensor | None) -> None:
        call = _describe(division, inputs, parts, outs)
        with on_device_of(outs[0]):
            call(current_stream(outs[0]), 0 if status is None else status.data_ptr())

    return run


def _describe(division: Division, inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]):
    """Describe contiguous tensors to the compiled module; addresses for ``None`` come with the call."""
    device = outs[0].device
    keep: list[Tensor | None] = [*inputs, *outs, division.table, division.groups]
    weights = []
    if division.table is None:
        weights = [(*row, *scales) for row, scales in zip(parts.weights, parts.scales, strict=True)]
    return native_module.GpuCombination(
        emulated=emulating(),
        dtype=CODES[outs[0].dtype],
        rows=division.rows,
        row_size=division.row_size,
        inputs=[None if x is None else x.data_ptr() for x in inputs],
        outputs=[out.data_ptr() for out in outs],
        weights=weights,
        table=_address(division.table),
        groups=(_address(division.groups), division.each, division.outer, division.run, division.inner),
        noises=[key_numbers(noise, device, keep) for noise in parts.noises],
        keep=keep,
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@implements("combine", "cuda")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """Run once. Tensors that are not contiguous, nor all dense in one other order of dimensions, are copied."""
    Prepared(bind, inputs, parts, outs).run(inputs, status)


@implements("prepare", "cuda")
def prepare(inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> PreparedCombine:
    """Bind once, for many calls; contiguous tensors by their addresses, so that a call is little more than a launch."""
    given = [x for x in inputs if x is not None]
    if not all([x.is_contiguous() for x in (*given, *outs)]):
        return Prepared(bind, inputs, parts, outs)
    arguments.check_overlap(given, outs)
    return _Bound(_describe(Division(parts, outs[0]), inputs, parts, outs), outs[0])


class _Bound:
    """A combination of contiguous tensors."""

    def __init__(self, call, out: Tensor) -> None:
        self._call, self._out = call, out

    def __call__(self, *tensors: Tensor) -> int:
        """Run; returns 1 if an output of an emulated kernel is not finite, else 0."""
        addresses = [x.data_ptr() for x in tensors]
        if self._out.is_cpu:
            status = torch.zeros(1, dtype=torch.int32)
            self._call(0, status.data_ptr(), *addresses)
            return int(status)
        with on_device_of(self._out):
            self._call(current_stream(self._out), 0, *addresses)
        return 0


@implements("normal", "cuda")
def normal(out: Tensor, noise: Noise) -> None:
    """Fill ``out`` with normals."""
    combine((), Terms(((),), (noise,), ((1.0,),), True), (out,), None)


@implements("uniform", "cuda")
def uniform(out: Tensor, noise: Noise) -> None:
    """Fill ``out``, which is contiguous, with uniform numbers."""
    keep: list[Tensor | None] = []
    rows, row_size = out.shape[0], out.shape[1:].numel()
    key = key_numbers(noise, out.device, keep)
    with on_device_of(out):
        native_module.gpu_uniform(
            emulated=emulating(),
            dtype=CODES[out.dtype],
            rows=rows,
            row_size=row_size,
            out=out.data_ptr(),
            key=key,
            stream=current_stream(out),
        )
