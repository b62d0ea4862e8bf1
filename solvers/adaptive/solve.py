"""`solve_ode`: one call from a right-hand side to states at the times asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, GridError, ShapeError, UnknownNameError
from ...models import BranchWeights, Model
from ...models.capabilities import check_no_memory
from ...models.fields import ModelField
from ...models.two_heads import TwoSidedModel
from ..gradients.recorded import GraphRecorder, RecordedMethod
from ..gradients.replay import Checkpoint
from ..gradients.request import Gradient, GradientRequest, Setting
from .control import Limits
from .controller import Controller
from .controller import controller as controller_named
from .events import Event
from .explicit import explicit_method
from .field import Field, JointField, Recipe, function_field
from .loop import Run
from .method import METHODS, Live, Method
from .pairs import Pair, pair
from .solution import Solution
from .tolerance import Norm, tolerance

OnFailure = Literal["raise", "warn", "return"]
EventLike: TypeAlias = Event | Callable[[Tensor, Tensor], Tensor]


def solve_ode(
    field: Callable[..., Tensor] | Model | TwoSidedModel | Recipe,
    x0: Tensor,
    times: Sequence[float] | np.ndarray | Tensor,
    *,
    method: str | Pair | Method = "dopri54",
    rtol: float | Tensor = 1e-5,
    atol: float | Tensor = 1e-5,
    norm: str | Norm = "rms",
    per_sample: bool = True,
    controller: str | Controller = "I",
    first_step: float | None = None,
    min_step: float | None = None,
    max_step: float = math.inf,
    max_steps: int = 10_000,
    stops: Sequence[float] = (),
    events: EventLike | Sequence[EventLike] = (),
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    guidance: float | BranchWeights = 1.0,
    dense: bool = False,
    on_failure: OnFailure = "raise",
    gradient: Gradient = "none",
    checkpoint: Checkpoint = False,
    parameters: Iterable[Tensor] | None = None,
    adjoint_rtol: float | Tensor | None = None,
    adjoint_atol: float | Tensor | None = None,
    adjoint_method: str | Pair | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
) -> Solution:
    r"""Integrate :math:`dx/dt = v(x, t)` adaptively, every sample with a time and a step size of its own.

    A sample's steps depend on that sample alone: nobody else in its batch makes it slower or less exact. Samples that
    have arrived leave the batch, and the field sees only the rest. A step is accepted where

    .. math:: \Big\| \frac{e}{\mathrm{atol} + \mathrm{rtol} \max(|x|, |x'|)} \Big\| \le 1

    No step goes beyond the last time; states at times in between are interpolated.

    Args:
        field: ``field(x, t, **condition)`` returning the slope, like x; x is [b, *D] and t is [b], in the dtype of x
            (float32 for half precision). It must not write to x. Or a :class:`~pushforward.models.Model`, of which this
            is the probability flow, from noise at 0 to data at 1 or back.
        x0: State [B, *D], float32, float64, bfloat16 or float16.
        times: Strictly increasing or decreasing, at least one: [T] for all samples, or [B, T].
        method: A registered method, a pair, or a method object.
        rtol, atol: Relative and absolute tolerance: numbers of at least 0, or tensors that broadcast against x0.
        norm: "rms" or "max" over a sample's elements, or a function from quotients [b, *D] to [b].
        per_sample: Whether each sample has its own step size. If not, all take the steps that suit the norm over the
            whole batch: fewer calls of the field at loose tolerances, and larger errors in the hardest samples.
        controller: "I", "PI", "PI34", "PI42", "PID" or a :class:`Controller`.
        first_step: Length of the first step; by default it is guessed, with one evaluation.
        min_step, max_step: Bounds of a step's length; the least is sixteen units in the last place of the time unless
            given.
        max_steps: How many attempts a sample may need.
        stops: Times at which the field may jump: steps end just before them and begin just behind.
        events: What to look for on the way; a function stands for a terminal :class:`Event`.
        condition: Keyword arguments of the field. Tensors with B rows are indexed as samples leave.
        null, guidance: Of a model: see :func:`pushforward.sample`.
        dense: Keep the solution as a function of time (`Solution.dense`), with the stages of every step.
        on_failure: What to do if a sample does not arrive: "raise" an error that carries the solution as ``.solution``,
            "warn", or "return" it; see `Solution.status`.
        gradient: "none": nothing is recorded. "steps": gradients of the steps that were taken, their sizes held fixed;
            of x0, conditions, whatever the field closes over, and ``times`` if it is a tensor that requires them; of
            explicit pairs. "adjoint": gradients of the flow, by the adjoint equation, integrated back to a tolerance of
            its own: of x0, conditions, ``times`` and ``parameters``; not of events, and only once. See
            docs/gradients.md for what each costs.
        checkpoint: Of "steps": False keeps what autograd keeps of every stage; True the states between steps, and
            computes the stages again in the backward pass; "recursive" every :math:`\sqrt N`-th state.
        parameters: Of "adjoint": tensors to differentiate by; by default the parameters of a module or a model.
        adjoint_rtol, adjoint_atol, adjoint_method: As rtol, atol and method, of the adjoint equation; the adjoint is
            divided by the largest gradient that comes in. By default those of the run.
        adjoint_options: Of "adjoint", a dict: "norm", "controller", "max_steps"; and "anchors", whether the state
            returns to that of the forward run at the ends of its "steps", whose states are kept, or at "outputs" only.

    Returns:
        States at ``times``, statuses and counts; see :class:`Solution`.

    Raises:
        ArgumentError, ShapeError, DtypeError, UnknownNameError, GridError: What is wrong with an argument, or with what
            the field returned.
        IntegrationError: A step became too small, or ``max_steps`` were not enough; names sample, time and step.
        NotFiniteError: The field or the state was NaN or infinite however small the step.

    Source: Hairer, Norsett & Wanner 1993, II.4; per-sample control as in Lienen & Guennemann 2022 (torchode).

    Example:
        >>> x0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
        >>> solution = solve_ode(lambda x, t: -x, x0, [0.0, 1.0], rtol=1e-8, atol=1e-8)
        >>> solution.x[-1].flatten()
        tensor([0.3679, 0.7358], dtype=torch.float64)

    """
    check_state(x0)
    grid = requested_times(times, x0.shape[0])
    if grid.shape[-1] > 1 and len(grid) and grid[0, -1] < grid[0, 0]:
        check_no_memory(field, "inversion")
    if gradient == "adjoint":
        check_no_memory(field, "the adjoint equation")
    limits = checked_limits(first_step, min_step, max_step, max_steps)
    watched = as_events(events)
    if on_failure not in ("raise", "warn", "return"):
        raise UnknownNameError("on_failure", got=repr(on_failure), expected="'raise', 'warn' or 'return'")
    if not per_sample:
        if watched or batched(times):
            got = "False, with events" if watched else "False, with a row of times for each sample"
            raise ArgumentError("per_sample", got=got, expected="True: they belong to single samples")
        grid = grid[:1]

    def right() -> Field:
        found = as_field(field, condition, null, guidance, x0)
        return found if per_sample else JointField(found)

    start = x0 if per_sample else x0[None]
    allowed, by, stepper = tolerance(rtol, atol, norm, start), controller_named(controller), as_method(method)
    setting = Setting(
        right, start, times, grid, watched, field, condition, allowed, by, limits, stepper, checked_stops(stops), dense
    )
    request = GradientRequest(
        gradient, checkpoint, parameters, adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options
    )
    recorder = request.recorder(setting)
    with torch.no_grad():
        x = start.detach()
        live = Live(right(), allowed, np.arange(x.shape[0]), x, grid[:, 0].copy())
        run = Run(
            RecordedMethod(recorder) if isinstance(recorder, GraphRecorder) else stepper,
            live,
            grid,
            by,
            limits,
            stops=setting.stops,
            events=watched,
            dense=dense,
            recorder=recorder,
        )
        solution = run.solve()
    if not batched(times):
        solution.times = grid[0] if len(grid) else requested_times(times, 1)[0]
    report(solution, on_failure, run)
    request.attach(run, solution, setting)
    return solution if per_sample else solution.of_samples(x0.shape[0])


def batched(times: Sequence[float] | np.ndarray | Tensor) -> bool:
    """Whether samples have times of their own."""
    return (times.ndim if isinstance(times, Tensor) else np.ndim(times)) > 1


def report(solution: Solution, on_failure: OnFailure, run: Run) -> None:
    """Raise or warn if a sample failed."""
    if on_failure == "return" or bool(solution.success.all()):
        return
    least = float(run.limits.least(solution.t[~solution.success][:1])[0])
    error = solution.failure(least, run.limits.max_steps)
    if error is not None and on_failure == "raise":
        raise error
    warnings.warn(str(error), RuntimeWarning, stacklevel=3)


def as_field(
    field: object,
    condition: Mapping[str, Any] | None,
    null: Mapping[str, Any] | None,
    guidance: float | BranchWeights,
    x0: Tensor,
) -> Field:
    """The field of a function or a model, or as a recipe says.

    Raises:
        ArgumentError: Guidance of a function.

    """
    if isinstance(field, Recipe):
        return field.make()
    if isinstance(field, Model | TwoSidedModel):
        return ModelField(field, condition, null, guidance)
    if null is not None or guidance != 1:
        raise ArgumentError("guidance", got=guidance, expected="1, and no null: the field is a function, not a Model")
    return function_field(field, condition, x0.shape[0])


def as_events(events: EventLike | Sequence[EventLike]) -> tuple[Event, ...]:
    """One event or several, as objects."""
    given = (events,) if isinstance(events, Event) or callable(events) else tuple(events)
    return tuple(event if isinstance(event, Event) else Event(event) for event in given)


def as_method(method: str | Pair | Method) -> Method:
    """A method by its name or from its pair.

    Raises:
        UnknownNameError: No method has that name.

    """
    if isinstance(method, Pair):
        return explicit_method(method)
    if not isinstance(method, str):
        return method
    if method in METHODS:
        return METHODS[method]
    try:
        return explicit_method(pair(method))
    except UnknownNameError as error:
        expected = ", ".join([str(error.expected), *sorted(METHODS)])
        raise UnknownNameError("method", got=repr(method), expected=expected) from None


def check_state(x0: Tensor) -> None:
    """Refuse what is no state.

    Raises:
        ArgumentError, ShapeError: Not a floating-point tensor [B, *D].

    """
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        got = x0.dtype if isinstance(x0, Tensor) else type(x0).__name__
        raise ArgumentError("x0", got=got, expected="a floating-point tensor [B, *D]")
    if x0.ndim == 0:
        raise ShapeError("x0", got="a tensor without dimensions", expected="[B, *D]: steps belong to samples")


def requested_times(times: Sequence[float] | np.ndarray | Tensor, samples: int) -> np.ndarray:
    """Times as float64 [B, T].

    Raises:
        ShapeError: Neither [T] nor [B, T], or no time at all.
        GridError: Not finite, or not strictly monotone; or samples that go in different directions.

    """
    given = times.detach().cpu().numpy() if isinstance(times, Tensor) else np.asarray(times)
    if given.dtype.kind not in "fiu" or given.ndim not in (1, 2) or given.shape[-1] < 1:
        raise ShapeError("times", got=f"{given.dtype} {list(given.shape)}", expected="numbers [T] or [B, T], T >= 1")
    if given.ndim == 2 and given.shape[0] != samples:
        raise ShapeError("times", got=list(given.shape), expected=f"[T], or [{samples}, T]: a row for each sample")
    grid = given.astype(np.float64)
    if not np.isfinite(grid).all():
        raise GridError("times", got="NaN or infinity", expected="finite times")
    steps = np.diff(grid, axis=-1)
    if steps.size and not ((steps > 0).all() or (steps < 0).all()):
        row, k = np.argwhere(np.atleast_2d(steps) * np.sign(steps.flat[0]) <= 0)[0]
        pair = np.atleast_2d(grid)[row, k : k + 2]
        got = f"times[{k}] = {pair[0]:.6g}, then {pair[1]:.6g}"
        raise GridError("times", got=got, expected="strictly increasing or strictly decreasing times")
    return np.broadcast_to(grid, (samples, grid.shape[-1])) if given.ndim == 1 else grid


def checked_limits(first_step: float | None, min_step: float | None, max_step: float, max_steps: int) -> Limits:
    """Bounds that make sense.

    Raises:
        ArgumentError: A step that is not positive, bounds that contradict each other, or fewer than one attempt.

    """
    for name, value in (("first_step", first_step), ("min_step", min_step), ("max_step", max_step)):
        if value is not None and not value > 0:
            raise ArgumentError(name, got=value, expected="a positive length; the direction follows from times")
    if min_step is not None and min_step > max_step:
        raise ArgumentError("min_step", got=min_step, expected=f"at most max_step, {max_step}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ArgumentError("max_steps", got=max_steps, expected="an integer of at least 1")
    return Limits(first_step, min_step, max_step, max_steps)


def checked_stops(stops: Sequence[float]) -> list[float]:
    """Stops as floats.

    Raises:
        GridError: One that is not finite.

    """
    found = [float(stop) for stop in stops]
    for stop in found:
        if not math.isfinite(stop):
            raise GridError("stops", got=stop, expected="finite times")
    return found
