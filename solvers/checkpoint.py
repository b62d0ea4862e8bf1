"""Gradients through a run with one checkpoint an evaluation: activations are recomputed, not kept."""

from __future__ import annotations

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import ArgumentError
from .executor import Bound, EvaluateFunction, Executor, Request
from .plan import Evaluate, Instruction, Register
from .plan.instructions import reads, writes


def segments(program: tuple[Instruction, ...]) -> list[list[Instruction]]:
    """The program cut before every evaluation."""
    parts: list[list[Instruction]] = [[]]
    for instruction in program:
        if isinstance(instruction, Evaluate):
            parts.append([])
        parts[-1].append(instruction)
    return [part for part in parts if part]


def run_checkpointed(run: Executor, evaluate: EvaluateFunction) -> Tensor:
    """Run segment by segment; only the tensors that live between segments are kept for the backward pass.

    Raises:
        ArgumentError: The run is not differentiable, or has hooks, which would be called twice.

    """
    if not run.differentiable or run.hooks:
        raise ArgumentError(
            "checkpoint", got="hooks, or a run without gradients", expected="differentiable=True and no hooks"
        )
    parts = segments(run.plan.instructions)
    values = dict(run.values)
    for index, part in enumerate(parts):
        later = {r for rest in parts[index + 1 :] for i in rest for r in reads(i)} | {run.plan.result}
        written = [r for i in part for r in writes(i) if r in later]
        needed = list(dict.fromkeys(r for i in part for r in reads(i) if r in values))

        def segment(
            *tensors: Tensor,
            part: list[Instruction] = part,
            needed: list[Register] = needed,
            written: list[Register] = written,
        ) -> tuple[Tensor, ...]:
            run.values = dict(zip(needed, tensors, strict=True))
            for instruction in part:
                execute(run, instruction, evaluate)
            return tuple(run.values[register] for register in written)

        results = checkpoint(segment, *(values[register] for register in needed), use_reentrant=False)
        values.update(zip(written, results, strict=True))
        values = {register: value for register, value in values.items() if register in later}
    run.result = values[run.plan.result]
    return run.result


def execute(run: Executor, instruction: Instruction, evaluate: EvaluateFunction) -> None:
    """One instruction on the run's current values, with the executor's own checks."""
    if not isinstance(instruction, Evaluate):
        return run.execute(Bound(instruction, ()))
    source = run.values[instruction.input]
    base = None if instruction.base is None else run.values[instruction.base]
    place = (instruction.step, -1, instruction.outs)
    request = Request(source, instruction.time, instruction.labels, *place, base=base)
    outputs = request.ask(evaluate)
    run.pending = request
    run.supply(outputs)
