"""Gradients of times: a state at a time moves along its slope when the time does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .problem import Problem


class AlongFlow(torch.autograd.Function):
    """Rows as they are, with gradients of the times at which they are states; any number of times differentiable."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, sign: float, rows: Tensor, t: Tensor) -> Tensor:
        """The rows."""
        ctx.problem, ctx.sign = problem, sign
        result = rows.clone()
        ctx.save_for_backward(result, t)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor]:
        """That of the rows, and its products with the slopes there: an evaluation for each time."""
        rows, t = ctx.saved_tensors
        products = [(ctx.problem.slope(t[i], rows[i]) * grads[0][i]).sum() for i in range(len(t))]
        return None, None, grads[0], ctx.sign * torch.stack(products).to(t.dtype)


def along_flow(problem: Problem, rows: Tensor, t: Tensor, *, backwards: bool = False) -> Tensor:
    r"""The same rows, where a change dt of their times changes them by :math:`f(t, y)\, dt`.

    Args:
        problem: Whose function f is.
        rows: States [T, 1, n].
        t: Their times [T].
        backwards: Whether a change has the opposite sign. Of an initial state: to start it later has the same effect as
            to start it at the same time from a point further back.

    """
    return AlongFlow.apply(problem, -1.0 if backwards else 1.0, rows, t)  # pyright: ignore[reportReturnType]
