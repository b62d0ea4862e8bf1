"""What went wrong in a run, and where: built only once something has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, NotFiniteError, PushforwardError, ShapeError
from .plan import Combine, Evaluate, Register, Transform

if TYPE_CHECKING:
    from .executor import Executor, Request


def where(request: Request) -> str:
    """The evaluation in words."""
    return f"network output at step {request.step}, t = {request.time:.4g}"


def mismatch(what: str, tensor: object, run: Executor) -> PushforwardError:
    """The error that says how a tensor differs from the state."""
    if not isinstance(tensor, Tensor):
        return DtypeError(what, got=type(tensor).__name__, expected="a tensor")
    if tensor.shape != run.shape:
        hint = None
        if tensor.ndim == len(run.shape) > 1 and tensor.shape[1] == 2 * run.shape[1]:
            hint = "Twice the channels: does it predict a variance too? The adapter must split that off."
        return ShapeError(what, got=list(tensor.shape), expected=list(run.shape), hint=hint)
    if tensor.dtype is not run.dtype:
        return DtypeError(
            what,
            got=tensor.dtype,
            expected=run.dtype,
            hint="Adapt the network with dtype= to have its input and output cast.",
        )
    return DeviceError(what, got=tensor.device, expected=run.device)


def not_finite_output(run: Executor, request: Request, output: Tensor) -> NotFiniteError:
    """The network returned NaN or infinity, and its input is still there to be shown."""
    largest = request.input.abs().max().item()
    error = NotFiniteError(
        where(request),
        got=count(output),
        expected="finite numbers",
        hint=f"Its input was finite, |x| <= {largest:.3g}."
        if torch.isfinite(request.input).all()
        else "Its input was not finite either.",
    )
    error.step, error.t, error.x = request.step, request.time, request.input
    error.row = first_row([output])
    error.state = last_state(run)
    return error


def last_state(run: Executor) -> Tensor | None:
    """The state at the start of the current step, if it still exists as a tensor of its own."""
    finite = [value for value in run.values.values() if bool(torch.isfinite(value).all())]
    return finite[-1] if finite else None


def not_finite(run: Executor, combine: Combine) -> NotFiniteError:
    """A combination produced NaN or infinity: blame the first of its inputs that has any, else the arithmetic."""
    origins = outputs(run)
    for register in combine.inputs:
        value = run.values[register]
        if register in combine.outs or bool(torch.isfinite(value).all()):
            continue
        if register == run.plan.start:
            return NotFiniteError("x0", got=count(value), expected="finite numbers")
        if register in origins:
            evaluation = origins[register]
            kind = "network output" if isinstance(evaluation, Evaluate) else f"transform {evaluation.name!r}"
            error = NotFiniteError(
                f"{kind} at step {evaluation.step}, t = {evaluation.time:.4g}",
                got=count(value),
                expected="finite numbers",
                hint="check='before' shows the network's input and the last good state.",
            )
            error.step, error.t, error.row = evaluation.step, evaluation.time, first_row([value])
            return error
    step, time = last_evaluation(run)
    error = NotFiniteError(
        f"state at step {step}, t = {time:.4g}",
        got="NaN or infinity",
        expected="finite numbers",
        hint=f"The network's outputs are finite: the sum left the range of {run.dtype}. Try more steps.",
    )
    error.step, error.t, error.row = step, time, first_row([run.values[register] for register in combine.outs])
    return error


def first_row(tensors: Iterable[Tensor]) -> int | None:
    """The first sample that is not finite in one of the tensors."""
    bad = [(~tensor.isfinite()).reshape(len(tensor), -1).any(1).nonzero() for tensor in tensors]
    return min((int(rows[0]) for rows in bad if len(rows)), default=None)


def outputs(run: Executor) -> dict[Register, Evaluate | Transform]:
    """Which evaluation or transform each foreign register comes from."""
    found: dict[Register, Evaluate | Transform] = {}
    for instruction in run.plan.instructions:
        if isinstance(instruction, Evaluate):
            found.update(dict.fromkeys(instruction.outs, instruction))
        elif isinstance(instruction, Transform):
            found[instruction.out] = instruction
    return found


def last_evaluation(run: Executor) -> tuple[int, float]:
    """Step and time of the evaluation before the current position."""
    done = [i for i in run.plan.instructions[: run.position] if isinstance(i, Evaluate)]
    return (done[-1].step, done[-1].time) if done else (0, run.plan.grid[0])


def count(tensor: Tensor) -> str:
    """How many elements are not finite, in which samples."""
    bad = ~torch.isfinite(tensor.detach()).reshape(tensor.shape[0], -1)
    rows = bad.any(1).nonzero().flatten().tolist()
    kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
    shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    return f"{int(bad.sum())} {kind} in {len(rows)} of {tensor.shape[0]} samples (rows {shown})"
