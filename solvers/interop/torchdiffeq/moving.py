"""Gradients of times: a state at a time moves along its slope when the time does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .problem import Problem


class AlongFlow(torch.autograd.Function):
    r"""Rows as they are, with gradients of the times at which they are states; twice differentiable.

    .. math:: M(y, t) = y, \quad \partial_t M = f, \quad \partial_y M = 1, \quad \partial_t \partial_y M = \partial_y f
    """

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
        (rows, t), (grad,), sign = ctx.saved_tensors, grads, ctx.sign
        slopes = torch.stack([ctx.problem.slope(t[i], rows[i]) for i in range(len(t))])
        products = (slopes * grad).flatten(1).sum(1)
        if torch.is_grad_enabled() and slopes.requires_grad:  # a gradient of this one is wanted
            (by_rows,) = torch.autograd.grad(
                slopes, rows, grad, create_graph=True, allow_unused=True, materialize_grads=True
            )
            grad = grad + sign * (t - t.detach()).to(grad.dtype)[:, None, None] * by_rows
        return None, None, grad, sign * products.to(t.dtype)


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
