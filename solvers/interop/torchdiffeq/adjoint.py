"""`odeint_adjoint`: gradients of the flow by its adjoint equation, as torchdiffeq's function of that name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ....errors import ArgumentError, UnknownNameError
from .forward import Tolerance, odeint, posed_event, solved
from .layout import State
from .problem import CALLBACKS, Function, Problem, problem


@dataclass(frozen=True)
class Augmented:
    r"""The adjoint equation, with the state that it needs: an integral for t, rows y and a, and one for each parameter.

    .. math:: \dot y = f(t, y), \quad \dot a = -a^T \partial_y f, \quad \dot g_t = -a^T \partial_t f, \quad
        \dot g_\theta = -a^T \partial_\theta f

    Attributes:
        problem: Of the forward run.
        params: Tensors that f depends on.
        of_times: Whether the integral for t is wanted; it is zero otherwise.

    """

    problem: Problem
    params: tuple[Tensor, ...]
    of_times: bool

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Slopes of the integral for t, of y and a, and of the other integrals."""
        _, y, a, *_ = state
        with torch.enable_grad():
            time, row = t.detach().requires_grad_(self.of_times), y.detach().requires_grad_()
            slope = self.problem.slope(time, row)
            inputs = (row, *self.params, *([time] if self.of_times else ()))
            if slope.requires_grad:
                grads = torch.autograd.grad(slope, inputs, -a, allow_unused=True, materialize_grads=True)
            else:
                grads = [torch.zeros_like(value) for value in inputs]
        of_time = grads[-1] if self.of_times else torch.zeros_like(t)
        return of_time, slope.detach(), *(as_real(grad) for grad in grads[: 1 + len(self.params)])

    def __getattr__(self, name: str) -> Any:
        """``callback_step`` and so on: the function's callbacks for the adjoint run."""
        if name in CALLBACKS:
            return getattr(self.problem.func, f"{name}_adjoint")
        raise AttributeError(name)


@dataclass(frozen=True)
class BackwardRun:
    """How gradients are computed.

    Attributes:
        augmented: The adjoint equation.
        rtol, atol, method, options: Of its runs.

    """

    augmented: Augmented
    rtol: Tolerance
    atol: Tolerance
    method: str | None
    options: Mapping[str, Any]

    def gradients(self, t: Tensor, y: Tensor, grads: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        r"""Gradients of y(t[0]), of the times if they are wanted, and of the parameters.

        A time of output moves its state along f, :math:`\partial L / \partial t_i = g_i^T f(t_i, y_i)`; the integral
        for t, less all of these, is the gradient of the first time.

        Args:
            t: Times [T].
            y: Rows there, [T, 1, n].
            grads: Gradients of the rows, like y.

        """
        augmented, posed = self.augmented, self.augmented.problem
        sums = [y.new_zeros(()), *(as_real(torch.zeros_like(param)) for param in augmented.params)]
        a, times = grads[-1], torch.zeros_like(t) if augmented.of_times else None
        for i in range(len(t) - 1, 0, -1):
            if times is not None:
                along = (posed.slope(t[i], y[i]) * grads[i]).sum()
                times[i], sums[0] = along, sums[0] - along
            ends = odeint(
                augmented,
                (sums[0], y[i], a, *sums[1:]),
                t[i - 1 : i + 1].flip(0),
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=self.options,
            )
            first, _, a, *rest = (part[1] for part in ends)
            sums, a = [first, *rest], a.to(y.dtype) + grads[i - 1]
        if times is not None:
            times[0] = sums[0]
        return a, times, sums[1:]


class Adjoint(torch.autograd.Function):
    """A run without a graph, whose backward pass solves the adjoint equation."""

    @staticmethod
    def forward(
        ctx: Any, back: BackwardRun, run: Callable[[], tuple[Tensor, Tensor]], x0: Tensor, t: Tensor, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Time and rows of ``run()``."""
        with torch.no_grad():
            until, rows = run()
        ctx.back = back
        ctx.save_for_backward(t, until, rows, *params)
        ctx.mark_non_differentiable(until)
        return until, rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Solve the adjoint equation from the last time to the first."""
        t, until, rows, *params = ctx.saved_tensors
        over = until if until.numel() else t
        a, times, integrals = ctx.back.gradients(over, rows, grads[1])
        if times is not None and until.numel():  # the second time of an event's run is a direction
            times = torch.cat([times[:1], torch.zeros_like(times[1:])])
        found = (as_param(value, param) for value, param in zip(integrals, params, strict=True))
        return None, None, a, None if times is None else times.to(t.dtype), *found


def odeint_adjoint(
    func: Function,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: Tolerance | None = None,
    adjoint_atol: Tolerance | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> State | tuple[Tensor, State]:
    r""":func:`odeint` with gradients by the adjoint equation: memory that does not grow with the number of steps.

    .. math:: \dot a = -a^T \partial_y f, \quad \frac{dL}{d\theta} = \int_{t_0}^{t_1} a^T \partial_\theta f \, dt

    solved backwards in time from output to output, each time with the state of the forward run. These are gradients of
    the flow, not of the steps: they are as exact as both runs. Once differentiable.

    Args:
        func: See :func:`odeint`; a module, or give ``adjoint_params``.
        y0, t, rtol, atol, method, options, event_fn: See :func:`odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method: Of the backward runs; by default those of the forward run. Tuples
            are for (t, y, a, \*parameters), with states as vectors, as in torchdiffeq.
        adjoint_options: By default ``options`` without its norm. ``norm`` may be "seminorm", which leaves out the
            integrals of parameters, or a function of the tuple (t, y, a, \*parameters).
        adjoint_params: Tensors that func depends on and that want gradients; by default the parameters of func.

    Returns:
        See :func:`odeint`.

    Raises:
        ArgumentError: func is no module and ``adjoint_params`` is not given; ``adjoint_method`` differs from
            ``method``, which has ``options``, and ``adjoint_options`` is not given.
        PushforwardError: See :func:`odeint`.

    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, Neural Ordinary Differential Equations, section 2 and appendix
    B; seminorms: Kidger, Chen & Lyons 2021, "Hey, that's not an ODE".

    Example:
        >>> layer = torch.nn.Linear(2, 2).double()
        >>> field = torch.nn.Sequential(layer)
        >>> field.forward = lambda t, y: layer(y)
        >>> y0, t = torch.ones(1, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> odeint_adjoint(field, y0, t)[-1].sum().backward()
        >>> layer.bias.grad.shape
        torch.Size([2])

    """
    if adjoint_params is None:
        if not isinstance(func, nn.Module):
            expected = "a torch.nn.Module, or adjoint_params=(...), which may be empty"
            raise ArgumentError("func", got=type(func).__name__, expected=expected)
        adjoint_params = func.parameters()
    every = tuple(adjoint_params)
    params = tuple(param for param in every if param.requires_grad)
    backward_method = method if adjoint_method is None else adjoint_method
    if backward_method != method and options is not None and adjoint_options is None:
        got = f"{adjoint_method!r}, while method={method!r} has options"
        raise ArgumentError("adjoint_method", got=got, expected="adjoint_options as well")
    if adjoint_options is None:
        adjoint_options = {name: value for name, value in (options or {}).items() if name != "norm"}
    elif len(params) < len(every) and callable(adjoint_options.get("norm")):
        said = "adjoint_params that require no gradient are left out, and the adjoint norm does not see them"
        warnings.warn(said, UserWarning, stacklevel=2)
    given = dict(options or {})
    posed = problem(func, y0, t, rtol, atol, given.get("norm"))
    back = BackwardRun(
        Augmented(posed.detached(), params, t.requires_grad),
        tolerances(adjoint_rtol, posed.rtol, len(params)),
        tolerances(adjoint_atol, posed.atol, len(params)),
        backward_method,
        dict(adjoint_options) | {"norm": adjoint_norm(posed, adjoint_options.get("norm"))},
    )
    event = None if event_fn is None else posed_event(posed, event_fn)

    def run() -> tuple[Tensor, Tensor]:
        times, rows = solved(posed.detached(), method, given, event)
        return posed.t.new_zeros(0) if times is None else torch.stack([posed.t[0], times]), rows

    until, rows = Adjoint.apply(back, run, posed.x0, posed.t, *params)
    states = posed.layout.unpack(rows)
    return states if event is None else (until[1], states)


def tolerances(given: Tolerance | None, forward: float | Tensor, params: int) -> Tolerance:
    """Tolerances of the augmented state: a number, or one for each of its components."""
    if given is None:
        if not isinstance(forward, Tensor):
            return forward
        least = float(forward.amin())
        return least, forward, forward, *(least for _ in range(params))
    return given


def adjoint_norm(posed: Problem, given: object) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The norm of an augmented state.

    Raises:
        UnknownNameError: Neither a function nor "seminorm".

    """
    if callable(given):

        def custom(state: tuple[Tensor, ...]) -> Tensor:
            first, y, a, *rest = state
            parts = [posed.layout.unpack(row) for row in (y, a)]
            flat = parts if posed.layout.single else [part for both in parts for part in both]
            return cast(Tensor, given((first, *flat, *rest)))

        return custom
    if given not in (None, "seminorm"):
        raise UnknownNameError("adjoint_options['norm']", got=repr(given), expected="a function, or 'seminorm'")

    def mixed(state: tuple[Tensor, ...]) -> Tensor:
        first, y, a, *rest = state
        sizes = [first.abs().reshape(1), posed.size(y), posed.size(a)]
        if given is None:
            sizes += [part.square().mean().sqrt().reshape(1) for part in rest if part.numel()]
        return torch.cat([size.to(y.dtype) for size in sizes]).amax()

    return mixed


def as_real(value: Tensor) -> Tensor:
    """A parameter or its gradient as real numbers."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def as_param(value: Tensor, param: Tensor) -> Tensor:
    """A gradient like the parameter."""
    value = torch.view_as_complex(value.contiguous()) if param.is_complex() else value
    return value.to(param.dtype)
