"""`combine`, `prepare`, `normal` and `uniform` in Triton: the sums and numbers of the reference, bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import arguments
from ..arguments import Terms
from ..dispatch import implements, interpreting
from ..noise import Noise
from ._combine import OPTIONS, block_elements, combine_kernel, uniform_kernel
from ._combine_cases import static_cases as static_cases
from ._launch import on_device_of
from ._philox import encode, key_arguments


class Combination:
    """A combination without its tensors: coefficients on the device, and how elements are divided over programs."""

    def __init__(self, parts: Terms, like: Tensor) -> None:
        """Prepare for contiguous tensors like this one."""
        shape, device = like.shape, like.device
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.total, samples = like.numel(), shape[0] if like.ndim else 1
        self.keys = tuple(key_arguments(noise, device) for noise in parts.noises)
        self.numbers, self.table, self.groups = (), None, None
        self.rows, self.outer, self.run, self.inner = (samples if self.keys else 1), 1, 1, 1
        count = parts.weights.shape[-1] if isinstance(parts.weights, Tensor) else len(parts.weights[0])
        each, terms = False, count + len(self.keys)
        if isinstance(parts.weights, Tensor) or isinstance(parts.scales, Tensor):
            self.table, self.rows = _table(parts, wide, device), samples
            if parts.groups is not None:
                each = self._divide(parts.groups, shape, samples)
        else:
            flat = [c for weights, scales in zip(parts.weights, parts.scales, strict=True) for c in (*weights, *scales)]
            self.numbers = tuple(half for c in flat for half in _halves(c)) if wide == torch.float64 else tuple(flat)
        self.n = self.total // self.rows if self.total else 0
        block = block_size(like, terms)
        short = self.rows > 1 and 2 * self.n < block
        self.chunks = triton.cdiv(self.n, block)
        self.programs = triton.cdiv(self.total, block) if short else self.rows * self.chunks
        self.constants = {
            "SHORT": short,
            "QUADS": not short or self.n % 4 == 0,
            "EACH": each,
            "INDEX": tl.int32 if self.total + block < 2**31 else tl.int64,
            "WIDE": tl.float64 if wide == torch.float64 else tl.float32,
            "BLOCK": block,
        }

    def _divide(self, groups: Tensor, shape: Sequence[int], samples: int) -> bool:
        """Set rows of one group each where there are such (False), or where to find each element's group (True)."""
        extents = alternating_extents(groups.shape, shape)
        if len(extents) == 2 and (not self.keys or extents[0] == samples):
            self.groups, self.rows = groups.contiguous(), extents[0]
            return False
        if len(extents) > 4:
            groups, extents = groups.expand(shape), [self.total, 1]
        _, above, self.inner, self.run = [1] * (4 - len(extents)) + extents
        self.groups, self.outer = groups.contiguous(), above * self.inner * self.run
        return True

    def __call__(self, inputs: Sequence[Tensor], outs: Sequence[Tensor], status: Tensor | None) -> None:
        """Run on contiguous tensors."""
        if self.total == 0:
            return
        with on_device_of(outs[0]):
            combine_kernel[(self.programs,)](
                tuple(inputs), tuple(outs), self.numbers, self.table, self.groups, self.keys, status,
                self.n, self.total, self.chunks, self.outer, self.run, self.inner, **self.constants, **OPTIONS,
            )  # fmt: skip


@implements("combine", "triton")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """Run once. Tensors that are not contiguous, nor all dense in one other order of dimensions, are copied."""
    arguments.check_overlap(inputs, outs)
    Prepared(inputs, parts, outs).run(inputs, status)


@implements("prepare", "triton")
class Prepared:
    """A combination whose remaining inputs come with the call; see `pushforward.kernels.prepare`."""

    def __init__(self, inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> None:
        given = [x for x in inputs if x is not None]
        arguments.check_overlap(given, outs)
        self._inputs, self._outs = list(inputs), outs
        self._slots = [index for index, x in enumerate(inputs) if x is None]
        self._order = _common_order([*given, *outs], parts)
        if self._order is not None and parts.groups is not None:
            parts = parts._replace(groups=parts.groups.permute(self._order))
        self._combination = Combination(parts, self._view(outs[0]))

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor if self._order is None else tensor.permute(self._order)

    def __call__(self, *tensors: Tensor) -> int:
        """Run; returns 1 if an output is not finite in Triton's interpreter, on the CPU, else 0."""
        if len(tensors) != len(self._slots):
            raise TypeError(f"got {len(tensors)} tensors, expected {len(self._slots)}")
        inputs = list(self._inputs)
        for slot, tensor in zip(self._slots, tensors, strict=True):
            inputs[slot] = tensor
        arguments.check_overlap(cast(list[Tensor], inputs), self._outs)
        status = torch.zeros(1, dtype=torch.int32) if self._outs[0].is_cpu else None
        self.run(cast(list[Tensor], inputs), status)
        return 0 if status is None else int(status)

    def run(self, inputs: Sequence[Tensor], status: Tensor | None) -> None:
        """Run on these inputs, all of them."""
        views = [self._view(out) for out in self._outs]
        outs = [view if view.is_contiguous() else view.new_empty(view.shape) for view in views]
        device = outs[0].device
        flag = status if status is None or status.device == device else torch.zeros_like(status, device=device)
        self._combination([self._view(x).contiguous() for x in inputs], outs, flag)
        for view, out in zip(views, outs, strict=True):
            if view is not out:
                view.copy_(out)
        if status is not None and status is not flag:
            status |= cast(Tensor, flag).to(status.device)


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
    key = key_arguments(noise, out.device)
    with on_device_of(out):
        uniform_kernel[(programs,)](out, key, n, total, chunks, SHORT=short, BLOCK=block, **OPTIONS)


def block_size(like: Tensor, terms: int) -> int:
    """Elements of a program: more in Triton's interpreter, which needs milliseconds for one of any size."""
    return (16 if interpreting() else 1) * block_elements(like.element_size(), terms)


def alternating_extents(groups: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Sizes [V, C, V, C, ...] of runs of dimensions: along V the group varies, along C it does not.

    Example:
        >>> alternating_extents([2, 5, 1, 1], [2, 5, 3, 7]), alternating_extents([1, 1, 3, 7], [2, 5, 3, 7])
        ([10, 21], [1, 10, 21, 1])
    """
    extents = [1, 1]
    for g, size in zip(groups, shape, strict=True):
        if size == 1:
            continue
        if g == 1:
            extents[-1] *= size
        elif extents[-1] == 1:
            extents[-2] *= size
        else:
            extents += [size, 1]
    return extents


def _table(parts: Terms, wide: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients [G, O, K + D], rounded once, on the device."""
    given = (parts.weights, parts.scales)
    groups = next(rows.shape[0] for rows in given if isinstance(rows, Tensor))
    tables = [
        rows.to(device) if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.float64, device=device)[None]
        for rows in given
    ]
    return torch.cat([table.expand(groups, -1, -1) for table in tables], -1).to(wide).contiguous()


def _halves(value: float) -> tuple[int, int]:
    """A float64 as two arguments: Triton would make a float32 of a float."""
    high, low = struct.unpack(">II", struct.pack(">d", value))
    return encode(high), encode(low)


def _common_order(tensors: Sequence[Tensor], parts: Terms) -> list[int] | None:
    """Order of dimensions in which all these tensors are contiguous, if it is not the given one and may be used."""
    like = tensors[-1]
    if all([x.is_contiguous() for x in tensors]) or parts.noises:  # random numbers are numbered in the given order
        return None
    strides = like.stride()
    order = sorted(range(like.ndim), key=lambda d: -strides[d])
    by_sample = isinstance(parts.weights, Tensor) and parts.groups is None
    if (by_sample and order[0] != 0) or not all([x.permute(order).is_contiguous() for x in tensors]):
        return None
    return order
