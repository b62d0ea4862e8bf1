"""The continuous adjoint: gradients of the flow, by an equation that is integrated backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ..adaptive.control import Limits
from ..adaptive.controller import Controller
from ..adaptive.explicit import ExplicitMethod
from ..adaptive.field import Field
from ..adaptive.loop import Run
from ..adaptive.method import Live
from ..adaptive.tolerance import Norm, Tolerance
from .adjoint_method import AdjointField, AdjointMethod, Quadrature
from .anchors import anchors
from .tape import Steps


@dataclass(frozen=True, eq=False)
class Backward:
    """How the adjoint equation is integrated.

    Attributes:
        method: The method.
        rtol, atol: Tolerances of state and adjoint, the adjoint divided by the largest gradient that comes in: numbers,
            or tensors that broadcast against x0.
        norm: Of the quotients; a function sees those of the state and those of the adjoint, [b, *D], one by one.
        controller: Of the step sizes.
        max_steps: How many attempts a sample may need.
        stops: Times at which the field jumps.

    """

    method: ExplicitMethod
    rtol: float | Tensor
    atol: float | Tensor
    norm: str | Norm
    controller: Controller
    max_steps: int
    stops: Sequence[float]

    def tolerance(self, x: Tensor) -> Tolerance:
        """For states [B, 2, *D]."""

        def both(value: float | Tensor) -> float | Tensor:
            return value.expand(x.shape).unsqueeze(1) if isinstance(value, Tensor) and value.ndim else value

        single = self.norm
        if isinstance(single, str):
            return Tolerance(both(self.rtol), both(self.atol), single)
        return Tolerance(both(self.rtol), both(self.atol), lambda q: torch.maximum(single(q[:, 0]), single(q[:, 1])))


@dataclass(eq=False)
class Forward:
    """What the backward run knows of the forward one.

    Attributes:
        right: Makes the field.
        grid: Requested times, float64 [B, T].
        reached: How many of those after the first each sample reached, int64 [B].
        x: States at the requested times, [T, B, *D].
        steps: Its steps, and the states at their ends in `nodes`; None to return to the requested times only.
        nodes: As above.
        backward: How to integrate.

    """

    right: Callable[[], Field]
    grid: np.ndarray
    reached: np.ndarray
    x: Tensor
    steps: Steps | None
    nodes: Tensor
    backward: Backward


class Adjoint(torch.autograd.Function):
    r"""States of a run, whose backward pass is the adjoint equation.

    .. math:: \dot a = -a^T \frac{\partial v}{\partial x}, \quad a(t_k^-) = a(t_k^+) + \frac{\partial L}{\partial x_k},
        \quad \frac{dL}{dx_0} = a(t_0), \quad \frac{dL}{dp} = \int a^T \frac{\partial v}{\partial p} dt, \quad
        \frac{dL}{dt_k} = \frac{\partial L}{\partial x_k} \cdot v_k, \quad \frac{dL}{dt_0} = -a(t_0^+) \cdot v_0

    The state is integrated backward together with a, from one state of the forward run to the one before it: reversal
    over longer stretches would amplify what the flow contracts.

    Source: Pontryagin et al. 1962; Chen et al. 2018, Neural Ordinary Differential Equations, appendices B and C.

    """

    @staticmethod
    def forward(ctx: Any, run: Forward, x0: Tensor, times: Tensor | None, *parameters: Tensor) -> Tensor:
        """The states as they were found."""
        ctx.run, ctx.has_times = run, times is not None
        ctx.save_for_backward(*(() if times is None else (times,)), *parameters)
        return run.x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x0, times and parameters.

        Raises:
            ArgumentError: Gradients of gradients are asked for.

        """
        if torch.is_grad_enabled():
            hint = "Use gradient='steps', whose gradients have gradients"
            raise ArgumentError("create_graph", got="True, with gradient='adjoint'", expected="False", hint=hint)
        (gradient,), saved = grad_outputs, ctx.saved_tensors
        times, parameters = (saved[0], saved[1:]) if ctx.has_times else (None, saved)
        wanted = [p for p, need in zip(parameters, ctx.needs_input_grad[3:], strict=True) if need]
        with torch.no_grad():
            start, of_times, total = integrate_back(ctx.run, gradient, wanted, times)
        found = iter(total)
        of_parameters = (next(found) if need else None for need in ctx.needs_input_grad[3:])
        return None, start, of_times, *of_parameters


def integrate_back(
    run: Forward, gradient: Tensor, parameters: Sequence[Tensor], times: Tensor | None
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Gradients of x0, of the times, and of parameters, from those of the states [T, B, *D].

    A gradient that is not finite makes that sample's, and those of all parameters, NaN.

    Raises:
        IntegrationError, NotFiniteError: The run back did not arrive.

    """
    length, batch = gradient.shape[:2]
    asked = torch.from_numpy(np.arange(length)[:, None] <= run.reached).to(gradient.device)
    gradient = torch.where(asked.reshape(length, batch, *[1] * (gradient.ndim - 2)), gradient, 0.0)
    size = gradient.abs().reshape(length, batch, -1)
    scale = size.amax((0, 2)) if size.numel() else size.new_zeros(batch)
    finite, ahead = torch.isfinite(scale), size[1:].amax((0, 2)) if size[1:].numel() else torch.zeros_like(scale)
    chosen = torch.nonzero(finite & (ahead > 0))[:, 0]
    adjoint = torch.zeros_like(gradient[0])
    adjoint[~finite] = torch.nan
    total = [torch.zeros_like(parameter) for parameter in parameters]
    if len(chosen):
        part, total = of_samples(run, gradient, chosen, scale.index_select(0, chosen), parameters)
        adjoint.index_copy_(0, chosen, part)
    if not bool(finite.all()):
        total = [torch.full_like(part, torch.nan) for part in total]
    of_times = None if times is None else of_the_times(run, gradient, adjoint, times)
    return adjoint + gradient[0], of_times, total


def of_samples(
    run: Forward, gradient: Tensor, chosen: Tensor, scale: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The adjoint of some samples just behind their first time, and the gradients of the parameters."""
    how, samples = run.backward, chosen.cpu().numpy()
    length, count = gradient.shape[0], len(samples)
    times, reached = run.grid[samples], run.reached[samples]
    shape = (count, *[1] * (gradient.ndim - 2))
    scaled = (gradient.index_select(1, chosen) / scale.reshape(shape)).transpose(0, 1)  # [b, T, *D]
    flat = scaled.reshape(count * length, *gradient.shape[2:])
    last = torch.from_numpy(np.arange(count) * length + reached).to(gradient.device)
    states = run.nodes if run.steps is not None else run.x.transpose(0, 1).flatten(0, 1)
    from_last = torch.from_numpy(samples * length + reached).to(gradient.device)
    at_last = run.x.transpose(0, 1).flatten(0, 1).index_select(0, from_last)
    z = torch.stack([at_last, flat.index_select(0, last)], dim=1)
    ends = np.stack([np.take_along_axis(times, reached[:, None], axis=1)[:, 0], times[:, 0]], axis=1)
    with torch.enable_grad():
        field = run.right()
        field = field if count == run.x.shape[1] else field.rows(chosen.cpu())
    quadrature = Quadrature(parameters, scale)
    tolerance = how.tolerance(run.x[0])
    if count < run.x.shape[1]:
        tolerance = tolerance.rows(chosen.cpu(), run.x.shape[1], z.ndim)
    back = Run(
        AdjointMethod(how.method, bool(parameters)),
        Live(AdjointField(field), tolerance, np.arange(count), z, ends[:, 0].copy()),
        ends,
        how.controller,
        Limits(first_step=first_steps(run.steps, samples, ends), max_steps=how.max_steps),
        stops=how.stops,
        recorder=quadrature,
        jumps=anchors(run.steps, states, samples, times, reached, flat, how.stops),
    )
    solution = back.solve()
    if not solution.success.all():
        least = float(back.limits.least(solution.t[~solution.success][:1])[0])
        error = solution.failure(least, how.max_steps)
        assert error is not None
        raise error
    return solution.final[:, 1] * scale.reshape(shape), quadrature.total


def first_steps(steps: Steps | None, samples: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Lengths to begin with: those of the last steps of the forward run, or a hundredth of the way."""
    guess = 0.01 * np.abs(ends[:, 1] - ends[:, 0])
    if steps is None:
        return guess
    last = np.zeros(int(samples.max()) + 1)
    mine = np.isin(steps.samples, samples)
    last[steps.samples[mine]] = np.abs(steps.h[mine])  # ordered by number: the last one stays
    return np.where(last[samples] > 0, last[samples], guess)


def of_the_times(run: Forward, gradient: Tensor, adjoint: Tensor, times: Tensor) -> Tensor:
    """Gradients of the requested times, in the shape in which they were given."""
    field, batch = run.right(), gradient.shape[1]
    found = torch.zeros(batch, len(gradient), dtype=torch.float64)
    for k in range(len(gradient)):
        there = np.flatnonzero(run.reached >= k)
        rows = torch.from_numpy(there).to(gradient.device)
        if not len(there) or len(gradient) < 2:
            continue
        x = run.x[k].index_select(0, rows)
        own = field if len(there) == batch else field.rows(rows.cpu())
        slope = own(x, torch.from_numpy(run.grid[there, k]))
        by = gradient[k] if k else -adjoint
        product = (slope * by.index_select(0, rows)).reshape(len(there), -1).to(torch.float64).sum(1)
        found[torch.from_numpy(there), k] = product.cpu()
    found = found if times.ndim == 2 else found.sum(0)
    return found.to(device=times.device, dtype=times.dtype)


def tensors_of(tree: object) -> list[Tensor]:
    """Tensors in a condition that require gradients."""
    if isinstance(tree, Tensor):
        return [tree] if tree.requires_grad else []
    if isinstance(tree, Mapping):
        return [tensor for leaf in tree.values() for tensor in tensors_of(leaf)]
    if isinstance(tree, list | tuple):
        return [tensor for leaf in tree for tensor in tensors_of(leaf)]
    return []
