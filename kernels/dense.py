"""What backends share whose kernels want contiguous tensors: orders of dimensions, coefficients as tables, groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from . import arguments
from .arguments import Terms

# Runs on contiguous tensors: inputs, outputs, and where to note that a result is not finite.
Run = Callable[[Sequence[Tensor], Sequence[Tensor], "Tensor | None"], None]


class Division:
    """Elements as rows that share coefficients, and as samples where there is noise.

    ``table`` holds the coefficients [G, O, K + D] in the type of the sums, on the device, or is None. Row ``r`` has
    those of ``groups[r]``, or of ``r`` if ``groups`` is None; if ``each``, element ``e`` has those of
    ``groups[e // outer * inner + e // run % inner]``.
    """

    def __init__(self, parts: Terms, like: Tensor) -> None:
        """Divide contiguous tensors like this one."""
        samples = like.shape[0] if like.ndim else 1
        self.total, self.noisy = like.numel(), bool(parts.noises)
        self.wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.table, self.groups, self.each = None, None, False
        self.rows, self.outer, self.run, self.inner = (samples if self.noisy else 1), 1, 1, 1
        if isinstance(parts.weights, Tensor) or isinstance(parts.scales, Tensor):
            self.table, self.rows = _table(parts, self.wide, like.device), samples
            if parts.groups is not None:
                self._divide(parts.groups, like.shape, samples)
        self.row_size = self.total // self.rows if self.total else 0

    def _divide(self, groups: Tensor, shape: Sequence[int], samples: int) -> None:
        """Set rows of one group each where there are such, or where to find each element's group."""
        extents = alternating_extents(groups.shape, shape)
        if len(extents) == 2 and (not self.noisy or extents[0] == samples):
            self.groups, self.rows = groups.contiguous(), extents[0]
            return
        if len(extents) > 4:
            groups, extents = groups.expand(shape), [self.total, 1]
        _, above, self.inner, self.run = [1] * (4 - len(extents)) + extents
        self.groups, self.outer, self.each = groups.contiguous(), above * self.inner * self.run, True


class Prepared:
    """A combination whose remaining inputs come with the call; see `pushforward.kernels.prepare`.

    Tensors that are not contiguous, nor all dense in one other order of dimensions, are copied.
    """

    def __init__(
        self,
        bind: Callable[[Terms, Tensor], Run],
        inputs: Sequence[Tensor | None],
        parts: Terms,
        outs: Sequence[Tensor],
    ) -> None:
        """Let ``bind`` make what runs on contiguous tensors like the one it is given."""
        given = [x for x in inputs if x is not None]
        arguments.check_overlap(given, outs)
        self._inputs, self._outs = list(inputs), outs
        self._slots = [index for index, x in enumerate(inputs) if x is None]
        self._order = _common_order([*given, *outs], parts)
        if self._order is not None and parts.groups is not None:
            parts = parts._replace(groups=parts.groups.permute(self._order))
        self._run = bind(parts, self._view(outs[0]))

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor if self._order is None else tensor.permute(self._order)

    def __call__(self, *tensors: Tensor) -> int:
        """Run; returns 1 if an output on the CPU (where GPU kernels are emulated) is not finite, else 0."""
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
        self._run([self._view(x).contiguous() for x in inputs], outs, flag)
        for view, out in zip(views, outs, strict=True):
            if view is not out:
                view.copy_(out)
        if status is not None and status is not flag:
            status |= cast(Tensor, flag).to(status.device)


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
