"""Gradients through a run with one checkpoint an evaluation: activations are recomputed, not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import kernels
from ..errors import ArgumentError
from .plan import Boundary, Combine, Evaluate, Instruction, Register, Transform
from .plan.instructions import reads, writes

if TYPE_CHECKING:
    from .executor import EvaluateFunction, Executor


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
            local = dict(zip(needed, tensors, strict=True))
            for instruction in part:
                execute(run, instruction, local, evaluate)
            return tuple(local[register] for register in written)

        results = checkpoint(segment, *(values[register] for register in needed), use_reentrant=False)
        values.update(zip(written, results, strict=True))
        values = {register: value for register, value in values.items() if register in later}
    run.result = values[run.plan.result]
    return run.result


def execute(
    run: Executor, instruction: Instruction, values: dict[Register, Tensor], evaluate: EvaluateFunction
) -> None:
    """One instruction, functionally."""
    match instruction:
        case Evaluate():
            outputs = evaluate(values[instruction.input], instruction.time, instruction.labels)
            values.update(zip(instruction.outs, outputs, strict=True))
        case Combine():
            noise = [kernels.Noise(run.seed, draw, run.samples) for draw in instruction.draws] or None
            results = kernels.combine(
                [values[r] for r in instruction.inputs],
                instruction.matrix,
                noise=noise,
                scale=instruction.scales or None,
            )
            values.update(zip(instruction.outs, results, strict=True))
        case Transform():
            values[instruction.out] = run.transforms[instruction.name](values[instruction.input], instruction.time)
        case Boundary():
            pass
