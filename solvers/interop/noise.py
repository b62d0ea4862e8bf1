"""Noise from outside: a plan whose draws are asked of a function instead of being generated in the combinations."""

from __future__ import annotations

from collections.abc import Mapping

from ...kernels import Draw
from ..plan import Combine, Evaluate, Expression, Instruction, Plan, Register, Transform
from ..plan.expression import combine_of, expressions
from ..plan.instructions import reads, writes


def noise_name(draw: Draw) -> str:
    """The name of the transform that returns this draw."""
    return f"noise {draw.step}.{draw.stage}"


def with_outside_noise(plan: Plan) -> tuple[Plan, tuple[Draw, ...]]:
    """The plan with a transform for each of its draws, and those draws in the order in which they are asked for.

    The transform named :func:`noise_name` is given the run's start (for its shape) and returns the normals. It stands
    where its region begins, so that no combination is split by it; a draw that occurs twice is asked for once.

    Args:
        plan: At stage "outputs".

    """
    fresh = 1 + max((r for i in plan.instructions for r in (*reads(i), *writes(i))), default=plan.start)
    registers: dict[Draw, Register] = {}
    program: list[Instruction] = []
    begin = 0  # where the region of the current instruction begins
    for instruction in plan.instructions:
        if isinstance(instruction, Combine) and instruction.draws:
            for draw in instruction.draws:
                if draw not in registers:
                    registers[draw] = fresh + len(registers)
                    time = plan.grid[draw.step]
                    asked = Transform(registers[draw], plan.start, noise_name(draw), time, draw.step)
                    program.insert(begin, asked)
                    begin += 1
            values = [_outside(value, registers) for value in expressions(instruction)]
            instruction = combine_of(instruction.outs, values)
        program.append(instruction)
        if isinstance(instruction, Evaluate | Transform):
            begin = len(program)
    return plan.replace(instructions=tuple(program)), tuple(registers)


def _outside(value: Expression, registers: Mapping[Draw, Register]) -> Expression:
    """Registers in the place of draws."""
    return Expression({atom if isinstance(atom, int) else registers[atom]: w for atom, w in value.terms.items()})
