"""Weighted sums of states with constant weights, as one node of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...kernels import combine

MOST_OUTPUTS = 4  # of one pass of `combine`


def weighted_sum(inputs: Sequence[Tensor], table: Tensor) -> Tensor:
    r""":math:`\sum_k w_{bk} x_k`: `combine`, but with less around it where gradients are recorded.

    What autograd does for an operator of a library (and `combine` is one) costs some 0.4 ms a call, as much as a small
    network; a function of Python's costs a tenth of that.

    Args:
        inputs: States [b, *D], at most 16.
        table: Weights, float64 [b, K].

    """
    recorded = torch.is_grad_enabled() and any([x.requires_grad for x in inputs])
    if not recorded or torch._C._are_functorch_transforms_active():
        return cast(Tensor, combine(list(inputs), table))
    return WeightedSum.apply(table, *inputs)


class WeightedSum(torch.autograd.Function):
    """One pass forward, and one for every four inputs backward."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, *inputs: Tensor) -> Tensor:
        """The sum."""
        ctx.save_for_backward(table)  # not as an attribute, which checkpoints would not let go
        return cast(Tensor, combine(list(inputs), table))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient times each weight; itself differentiable."""
        (gradient,) = grad_outputs
        (table,) = ctx.saved_tensors
        found: list[Tensor | None] = [None] * table.shape[1]
        needed = [k for k, need in enumerate(ctx.needs_input_grad[1:]) if need]
        if needed and needed[0] == 0 and bool((table[:, 0] == 1).all()):
            found[0] = gradient
            needed = needed[1:]
        for first in range(0, len(needed), MOST_OUTPUTS):
            some = needed[first : first + MOST_OUTPUTS]
            if torch.is_grad_enabled():
                parts = [weighted_sum([gradient], table[:, k : k + 1].contiguous()) for k in some]
            else:
                parts = combine([gradient], table[:, some].unsqueeze(2).contiguous())
            for k, part in zip(some, parts, strict=True):
                found[k] = part
        return None, *found
