"""Which gradients a run is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArgumentError, DtypeError, UnknownNameError
from ..adaptive.control import Limits
from ..adaptive.controller import Controller, controller
from ..adaptive.events import Event
from ..adaptive.explicit import ExplicitMethod, explicit_method
from ..adaptive.field import Field
from ..adaptive.loop import Run
from ..adaptive.method import Method
from ..adaptive.pairs import Pair, pair
from ..adaptive.solution import Solution
from ..adaptive.tolerance import Tolerance, tolerance
from .adjoint import Adjoint, Backward, Forward, tensors_of
from .recorded import GraphRecorder
from .replay import Checkpoint
from .steps import as_recorded, rewritten, through_steps
from .tape import StepRecorder

Gradient = Literal["none", "steps", "adjoint"]


ADJOINT_OPTIONS = ("norm", "controller", "max_steps", "anchors")


@dataclass(frozen=True, eq=False)
class Setting:
    """What a run was asked: what its gradients depend on.

    Attributes:
        right: Makes the field, with gradients through its conditions if it is made where they are on.
        x0: First states [B, *D], with their graph.
        times: As they were given; gradients are recorded for a tensor that requires them.
        grid: The same as float64 [B, T].
        events: What is watched.
        field: As it was given.
        condition: Its conditions.
        tolerance, controller, limits: Of all samples.
        method: Of the run.
        stops: Times at which the field may jump.
        dense: Whether the solution is kept as a function of time.

    """

    right: Callable[[], Field]
    x0: Tensor
    times: object
    grid: np.ndarray
    events: Sequence[Event]
    field: object
    condition: object
    tolerance: Tolerance
    controller: Controller
    limits: Limits
    method: Method
    stops: Sequence[float]
    dense: bool

    @property
    def timed(self) -> Tensor | None:
        """The times, if gradients are wanted for them."""
        return self.times if isinstance(self.times, Tensor) and self.times.requires_grad else None


@dataclass(frozen=True, eq=False)
class GradientRequest:
    """What :func:`pushforward.solve_ode` was told about gradients.

    Attributes:
        gradient: "none", "steps" or "adjoint".
        checkpoint: Of "steps": False, True or "recursive".
        parameters: Of "adjoint": what to differentiate by, besides x0, times and conditions.
        rtol, atol, method, options: Of "adjoint": how to integrate back; as the run itself unless given.

    """

    gradient: Gradient = "none"
    checkpoint: Checkpoint = False
    parameters: Iterable[Tensor] | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    method: str | Pair | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.gradient not in ("none", "steps", "adjoint"):
            raise UnknownNameError("gradient", got=repr(self.gradient), expected="'none', 'steps' or 'adjoint'")
        if self.checkpoint not in (False, True, "recursive"):
            raise UnknownNameError("checkpoint", got=repr(self.checkpoint), expected="False, True or 'recursive'")
        if self.checkpoint and self.gradient != "steps":
            got = f"{self.checkpoint!r} with gradient={self.gradient!r}"
            raise ArgumentError("checkpoint", got=got, expected="gradient='steps': only they have stages to keep")
        adjoint = {f"adjoint_{name}": getattr(self, name) for name in ("rtol", "atol", "method", "options")}
        for name, value in {"parameters": self.parameters, **adjoint}.items():
            if value is not None and self.gradient != "adjoint":
                hint = "'steps' finds what the field depends on" if name == "parameters" else None
                raise ArgumentError(
                    name, got=f"a value, with gradient={self.gradient!r}", expected="'adjoint'", hint=hint
                )
        for name in self.options or ():
            if name not in ADJOINT_OPTIONS:
                raise UnknownNameError("adjoint_options", got=repr(name), expected=", ".join(ADJOINT_OPTIONS))
        if self.anchors not in ("steps", "outputs"):
            raise UnknownNameError("anchors", got=repr(self.anchors), expected="'steps' or 'outputs'")
        if self.parameters is not None:
            object.__setattr__(self, "parameters", tuple(self.parameters))

    @property
    def anchors(self) -> str:
        """Where the state returns to that of the forward run: at the ends of its "steps", or at the "outputs"."""
        return (self.options or {}).get("anchors", "steps")

    def recorder(self, setting: Setting) -> StepRecorder | None:
        """What the loop is to tell its steps to; None where no gradient is wanted.

        Raises:
            ArgumentError, UnknownNameError, DtypeError: What this kind of gradient cannot handle.

        """
        if self.gradient == "steps" and not isinstance(setting.method, ExplicitMethod):
            hint = "Use gradient='adjoint', which only asks that the forward run be accurate"
            got = f"'steps' of {setting.method.name}"
            raise ArgumentError("gradient", got=got, expected="an explicit pair", hint=hint)
        if self.gradient == "adjoint":
            if setting.events:
                hint = "Use gradient='steps', which differentiates the times of events"
                raise ArgumentError("events", got="some, with gradient='adjoint'", expected="none", hint=hint)
            self.backward(setting)
            found_parameters(setting.field, self.parameters)
        if self.gradient == "none" or not torch.is_grad_enabled():
            return None
        plain = not (self.checkpoint or setting.events or setting.dense or setting.timed is not None)
        if self.gradient == "steps" and plain and isinstance(setting.method, ExplicitMethod):
            return GraphRecorder(setting.method, setting.right(), setting.x0, setting.grid)
        return StepRecorder(len(setting.x0), states=self.gradient == "adjoint" and self.anchors == "steps")

    def attach(self, run: Run, solution: Solution, setting: Setting) -> None:
        """Replace the states of the solution of a recorded run by the same with a graph."""
        recorder, timed, x0, right = run.recorder, setting.timed, setting.x0, setting.right
        if not isinstance(recorder, StepRecorder):
            return
        if isinstance(recorder, GraphRecorder) and not recorder.broken:
            as_recorded(solution, recorder, x0)
            return
        if isinstance(setting.method, ExplicitMethod) and self.gradient == "steps":
            method, events = setting.method, setting.events
            through_steps(solution, recorder, method, right(), x0, timed, run.times, events, self.checkpoint)
            return
        way = run.direction
        passed = (way * run.times[:, 1:] <= way * solution.t[:, None]) | solution.success[:, None]
        nodes = torch.cat(recorder.states) if recorder.states else x0.detach()[:0]
        steps = recorder.steps() if self.anchors == "steps" else None
        forward = Forward(right, run.times, passed.sum(axis=1), solution.x, steps, nodes, self.backward(setting))
        parameters = [*found_parameters(setting.field, self.parameters), *tensors_of(setting.condition)]
        solution.x = Adjoint.apply(forward, x0, timed, *parameters)
        solution.final = rewritten(solution.x[-1], ~solution.success, solution.final)

    def backward(self, setting: Setting) -> Backward:
        """How to integrate back.

        Raises:
            ArgumentError, UnknownNameError, ShapeError: Tolerances, a method or options that make no sense.

        """
        own, options = setting.tolerance, self.options or {}
        if self.method is not None:
            method = explicit_method(self.method if isinstance(self.method, Pair) else pair(self.method))
        else:
            method = setting.method
            method = method if isinstance(method, ExplicitMethod) else explicit_method(pair("dopri54"))
        rtol, atol = own.rtol if self.rtol is None else self.rtol, own.atol if self.atol is None else self.atol
        checked = tolerance(rtol, atol, options.get("norm", own.norm), setting.x0)
        by = controller(options.get("controller", setting.controller))
        most = options.get("max_steps", setting.limits.max_steps)
        return Backward(method, checked.rtol, checked.atol, checked.norm, by, most, setting.stops)


def found_parameters(source: object, given: Iterable[Tensor] | None) -> list[Tensor]:
    """Parameters that require gradients: those given, or those of the module that the field is, or belongs to.

    Raises:
        ArgumentError: None given, for a function that is no module.
        DtypeError: Something that is no tensor.

    """
    if given is not None:
        tensors = list(given)
        for index, tensor in enumerate(tensors):
            if not isinstance(tensor, Tensor):
                raise DtypeError(f"parameters[{index}]", got=type(tensor).__name__, expected="a tensor")
        return [tensor for tensor in tensors if tensor.requires_grad]
    for owner in (source, getattr(source, "network", None), getattr(source, "__self__", None)):
        if isinstance(owner, nn.Module):
            return [parameter for parameter in owner.parameters() if parameter.requires_grad]
    hint = "Pass parameters=[...], or () if there are none"
    raise ArgumentError("parameters", got="none, and a field that is no Module", expected="tensors", hint=hint)
