"""`odeint`: torchdiffeq's function on the solvers here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ....errors import ArgumentError, GridError
from .events import FirstZero, first_zero, with_moving_time
from .layout import State
from .methods import run_of
from .problem import Function, Problem, problem
from .scipy_solver import ScipyRun

Tolerance = float | Tensor | Sequence[float | Tensor]


def odeint(
    func: Function,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> State | tuple[Tensor, State]:
    r"""Integrate :math:`dy/dt = f(t, y)` as ``torchdiffeq.odeint`` does: same arguments, same shapes, same meaning.

    The whole state has one step size. Gradients flow to y0, t and whatever func holds, through the accepted steps.
    func is never called beyond the last time. Differences from torchdiffeq are listed in docs/odeint.md.

    Args:
        func: ``func(t, y)``, the slope like y; t has no dimensions and the real dtype of y. Its methods
            ``callback_step``, ``callback_accept_step`` and ``callback_reject_step`` of (t, y, h) are called, if it has
            them.
        y0: A tensor of any shape, or a tuple of them; floating-point or complex.
        t: Strictly monotone times [T], in either direction; the first is that of y0.
        rtol, atol: Numbers, tensors that broadcast against y0, or one of these for each component of a tuple.
        method: "dopri5" (the default), "dopri8", "bosh3", "fehlberg2", "adaptive_heun"; with fixed steps "euler",
            "midpoint", "heun2", "heun3", "rk4" (the 3/8 rule), "explicit_adams", "implicit_adams" or "fixed_adams";
            "scipy_solver".
        options: As torchdiffeq's. Adaptive: first_step, min_step, max_step, step_t, jump_t, safety, ifactor, dfactor,
            max_num_steps, norm. Fixed steps: step_size or grid_constructor, interp, perturb, for Adams max_order and
            max_iters. SciPy: solver, min_step, max_step.
        event_fn: ``event_fn(t, y)``, a tensor. The run ends where the first of its elements passes through zero; t has
            two times, of which the second says the direction.

    Returns:
        States at t, [T, \*D], or a tuple of such. With ``event_fn`` the time of the event, without a gradient, and the
        states at the start and at the event, [2, \*D]; see :func:`odeint_event`.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, GridError: What is wrong with an argument, or with what func
            returned.
        UnknownNameError: A method that is not there; lists those that are.
        IntegrationError, NotFiniteError: The run did not arrive.

    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, Neural Ordinary Differential Equations, and torchdiffeq 0.2.5.

    Example:
        >>> t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> odeint(lambda t, y: -y, torch.ones(1, dtype=torch.float64), t)
        tensor([[1.0000],
                [0.3679]], dtype=torch.float64)

    """
    given = dict(options or {})
    posed = problem(func, y0, t, rtol, atol, given.get("norm"))
    event = None if event_fn is None else posed_event(posed, event_fn)
    time, rows = solved(posed, method, given, event)
    states = posed.layout.unpack(rows)
    return states if time is None else (time, states)


def solved(
    posed: Problem, method: str | None, options: Mapping[str, Any], event: FirstZero | None
) -> tuple[Tensor | None, Tensor]:
    """Time of the event, if one is given, and rows at the times, or at the start and at the event.

    Raises:
        ArgumentError: An event with SciPy's solvers.

    """
    run = run_of(posed, method, options)
    if event is None:
        return None, run.solve()
    if isinstance(run, ScipyRun):
        raise ArgumentError("event_fn", got="method='scipy_solver'", expected="a method of ours: SciPy's has no events")
    time, row = (float(posed.times[0]), posed.x0) if event.at_start else run.until(event)
    return torch.tensor(time, dtype=posed.t.dtype, device=posed.t.device), torch.stack([posed.x0, row])


def odeint_event(
    func: Function,
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Integrate to an event, with the gradient of its time, as ``torchdiffeq.odeint_event`` does.

    By the implicit function theorem: see :func:`with_moving_time`. Unlike torchdiffeq's, the time has gradients with
    respect to parameters of ``event_fn`` as well.

    Args:
        func, y0: See :func:`odeint`.
        t0: Time of y0, one number.
        event_fn: See :func:`odeint`.
        reverse_time: Whether to go backwards in time.
        odeint_interface: `odeint`, `odeint_adjoint`, or a function like them.
        **kwargs: For it.

    Returns:
        The time of the event, and the states at the start and there, [2, *D].

    Example:
        >>> one = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> time, y = odeint_event(lambda t, y: -y, one, torch.tensor(0.0), event_fn=lambda t, y: y - 0.5)
        >>> torch.autograd.grad(time, one)  # the time is log(2 y0)
        (tensor([1.0000], dtype=torch.float64),)

    """
    if not isinstance(t0, Tensor) or t0.numel() != 1:
        got = list(t0.shape) if isinstance(t0, Tensor) else type(t0).__name__
        raise GridError("t0", got=got, expected="a tensor of one time")
    start = t0.reshape(1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    time, states = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    posed = problem(func, y0, t.detach(), 1.0, 1.0)
    event = first_zero(posed, event_fn)
    single = posed.layout.single
    last = posed.layout.pack(states[-1] if single else tuple(part[-1] for part in states), "y")
    time, moved = with_moving_time(event, time, last)
    end = posed.layout.unpack(moved)
    if single:
        return time, torch.cat([states[:-1], cast(Tensor, end)[None]])
    return time, tuple(torch.cat([part[:-1], new[None]]) for part, new in zip(states, end, strict=True))


def posed_event(posed: Problem, event_fn: Callable[[Tensor, Any], Tensor]) -> FirstZero:
    """The event, if it may be one.

    Raises:
        ArgumentError: Not a function.
        GridError: Not two times.

    """
    if not callable(event_fn):
        raise ArgumentError("event_fn", got=type(event_fn).__name__, expected="a function of (t, y)")
    if len(posed.times) != 2:
        raise GridError("t", got=f"{len(posed.times)} times", expected="two with event_fn: the start, and a direction")
    return first_zero(posed, event_fn)
