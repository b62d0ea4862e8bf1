"""Events as torchdiffeq has them: the run ends where the first of several functions passes through zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import DtypeError
from .layout import State
from .problem import Problem, Time


@dataclass(frozen=True)
class FirstZero:
    """The least of an event function's components, each turned so that it begins positive.

    Attributes:
        problem: Whose states the function takes.
        function: ``event_fn(t, y)``, a tensor of any shape.
        signs: Of the components at the start.

    """

    problem: Problem
    function: Callable[[Tensor, Any], Tensor]
    signs: Tensor

    def __call__(self, t: Time, x: Tensor) -> Tensor:
        """Its value at a row, without dimensions."""
        return (values(self.function, self.problem.time(t), self.problem.layout.unpack(x)) * self.signs).amin()

    @property
    def at_start(self) -> bool:
        """Whether a component is zero at the start, so that the run ends there."""
        return bool((self.signs == 0).any())


def first_zero(problem: Problem, function: Callable[[Tensor, Any], Tensor]) -> FirstZero:
    """The event of a function, which is called once, at the start."""
    with torch.no_grad():
        t0, y0 = problem.time(float(problem.times[0])), problem.layout.unpack(problem.x0)
        return FirstZero(problem, function, torch.sign(values(function, t0, y0)))


def values(function: Callable[[Tensor, Any], Tensor], t: Tensor, y: State) -> Tensor:
    """Values of an event function.

    Raises:
        DtypeError: Not a tensor of real numbers.

    """
    found = function(t, y)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        got = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise DtypeError("event_fn", got=got, expected="a tensor of floating-point numbers")
    return found


class Scaled(torch.autograd.Function):
    """Zero, for a value that is zero but for rounding, with the value's gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        """Zero."""
        ctx.save_for_backward(factor)
        return torch.zeros_like(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The factor."""
        (factor,) = ctx.saved_tensors
        return grads[0] * factor, None


def with_moving_time(event: FirstZero, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""The same time and row, with gradients of a time that moves where state and event function do.

    .. math:: d\tau = -\frac{dg}{\partial_t g + \partial_y g \cdot f}, \quad dy(\tau) = dy + f\, d\tau

    where g is the event's function, f the slope, and dy and dg the changes at a time held fixed, dg with those of the
    function's own parameters. Once differentiable.

    Args:
        event: The event.
        t: Its time, without gradient.
        x: The row there, with the gradients of a state at a fixed time.

    Source: the implicit function theorem; Chen, Amos & Nickel 2021, Learning Neural Event Functions, section 3.

    """
    problem = event.problem
    value = event(t.detach(), x)
    if not value.requires_grad:
        return t, x
    with torch.enable_grad():
        time, row = problem.time(t).detach().requires_grad_(), x.detach().requires_grad_()
        by_time, by_row = torch.autograd.grad(event(time, row), (time, row), allow_unused=True, materialize_grads=True)
    slope = problem.slope(t.detach(), x.detach()).detach()
    moved = Scaled.apply(value, -1 / (by_time + (by_row * slope).sum()))
    return t + moved.to(t.dtype), x + slope * moved
