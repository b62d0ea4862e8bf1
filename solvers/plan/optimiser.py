"""Passes over a lowered plan: merge combinations, drop what nothing reads, and reuse buffers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ...errors import PlanError
from ...kernels.arguments import MAX_INPUTS, MAX_OUTPUTS
from .expression import Expression, combine_of, expressions
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform, reads
from .plan import Plan


def optimise(plan: Plan, *, observe: bool = False, replace: bool = False) -> Plan:
    """The plan as an executor runs it.

    Between two network evaluations everything is linear, so each such region becomes one multi-output combination of
    what entered it. Then registers that nothing reads are dropped, and the others share buffers by liveness, in place
    where an input dies.

    Args:
        plan: A plan at stage "outputs".
        observe: Keep the step boundaries, so that hooks can read the state and the clean estimate.
        replace: Hooks may also write the state: no combination crosses a boundary. Implies ``observe``.

    Returns:
        A plan at stage "optimised", with the same results to rounding.

    Raises:
        PlanError: The plan is not lowered, or is optimised already.

    """
    if plan.stage != "outputs":
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'outputs' (call lower() first, optimise() once)")
    program = list(mark_boundaries(plan.instructions, observe=observe or replace, replace=replace))
    program = propagate_copies(program, plan.result)
    program = merge_regions(program, plan.result)
    program = inline_cheap(program, plan.result)
    program = split_wide(program)
    buffers = assign_buffers(program, plan.result)
    return plan.replace(instructions=tuple(program), stage="optimised", buffers=tuple(buffers.items()))


def mark_boundaries(program: Iterable[Instruction], *, observe: bool, replace: bool) -> Iterable[Instruction]:
    """Drop the boundaries, or keep them, or make them barriers."""
    for instruction in program:
        if not isinstance(instruction, Boundary):
            yield instruction
        elif observe:
            yield dataclasses.replace(instruction, replaceable=replace)


def propagate_copies(program: list[Instruction], result: Register) -> list[Instruction]:
    """Read through every combination that only scales one register, so that remembering a raw output costs nothing.

    A state that a hook may replace is left alone: later reads must see the replacement.
    """
    replaceable = {i.state for i in program if isinstance(i, Boundary) and i.replaceable}
    aliases: dict[Register, Expression] = {}
    rewritten: list[Instruction] = []
    for instruction in program:
        if isinstance(instruction, Combine):
            values = [value.substitute(aliases) for value in expressions(instruction)]
            instruction = combine_of(instruction.outs, values)
            for out, value in zip(instruction.outs, values, strict=True):
                if len(value.terms) == 1 and not value.draws and out not in replaceable and out != result:
                    aliases[out] = value
        else:
            read = {Evaluate: ("input", "base"), Transform: ("input",), Boundary: ("denoised",)}[type(instruction)]
            copied = {name: aliases[r].single for name in read if (r := getattr(instruction, name)) in aliases}
            instruction = dataclasses.replace(instruction, **{k: r for k, r in copied.items() if r is not None})
        rewritten.append(instruction)
    return rewritten


def is_barrier(instruction: Instruction) -> bool:
    """Whether combinations before the instruction must be done when it runs."""
    return not isinstance(instruction, Combine) and not (
        isinstance(instruction, Boundary) and not instruction.replaceable
    )


def merge_regions(program: list[Instruction], result: Register) -> list[Instruction]:
    """One combination a region, computing exactly the registers that are read outside it."""
    region_of: dict[Register, int] = {}
    region = 0
    for instruction in program:
        if isinstance(instruction, Combine):
            region_of.update(dict.fromkeys(instruction.outs, region))
        elif is_barrier(instruction):
            region += 1
    needed = read_outside(program, region_of, result)

    merged: list[Instruction] = []
    pending: dict[Register, Expression] = {}
    observers: list[Instruction] = []

    def flush() -> None:
        outs = [register for register in pending if register in needed]
        if outs:
            merged.append(combine_of(outs, [pending[register] for register in outs]))
        merged.extend(observers)
        pending.clear()
        observers.clear()

    for instruction in program:
        if isinstance(instruction, Combine):
            pending.update(
                zip(instruction.outs, (v.substitute(pending) for v in expressions(instruction)), strict=True)
            )
        elif is_barrier(instruction):
            flush()
            merged.append(instruction)
        else:  # a boundary that only observes waits until its region is computed
            observers.append(instruction)
    flush()
    return merged


def read_outside(program: list[Instruction], region_of: dict[Register, int], result: Register) -> set[Register]:
    """Registers of combinations that must exist: read by another kind of instruction, or by a live one elsewhere.

    Works backwards, so that a chain of combinations which ends nowhere keeps none of its links alive.
    """
    needed, live = {result}, {result}
    region = max(region_of.values(), default=0) + 1
    for instruction in reversed(program):
        if isinstance(instruction, Combine):
            region = region_of[instruction.outs[0]]
            for out, value in zip(instruction.outs, expressions(instruction), strict=True):
                if out in live:
                    live.update(value.registers)
                    needed.update(r for r in value.registers if region_of.get(r, region) != region)
        else:
            live.update(reads(instruction))
            needed.update(reads(instruction))
    return needed


def inline_cheap(program: list[Instruction], result: Register) -> list[Instruction]:
    """Do without a stored combination where every reader can form it from what it reads anyway, or one tensor more.

    That reader then reads no more than before, and one write and one buffer are saved: a velocity
    ``a x + b output`` kept for a later stage that reads x as well.
    """
    kept = {result} | {r for i in program if not isinstance(i, Combine) for r in reads(i)}
    readers: dict[Register, list[int]] = {}
    for position, instruction in enumerate(program):
        for register in reads(instruction):
            readers.setdefault(register, []).append(position)
    for instruction in program:  # entries behind the current one may change, which only their own turn looks at
        if not isinstance(instruction, Combine):
            continue
        for register, value in zip(instruction.outs, expressions(instruction), strict=True):
            places = readers.get(register, [])
            cheap = all(len(set(value.registers) - set(reads(program[place]))) <= 1 for place in places)
            if register in kept or value.draws or not cheap:
                continue
            for place in places:
                reader = program[place]
                assert isinstance(reader, Combine)
                for added in set(value.registers) - set(reader.inputs):
                    readers[added].append(place)
                program[place] = combine_of(reader.outs, [v.substitute({register: value}) for v in expressions(reader)])
            readers[register] = []
    return drop_dead(program, result)


def drop_dead(program: list[Instruction], result: Register) -> list[Instruction]:
    """Combinations without the outputs that nothing reads, and none without outputs."""
    live, kept = {result}, list[Instruction]()
    for instruction in reversed(program):
        if isinstance(instruction, Combine):
            rows = zip(instruction.outs, expressions(instruction), strict=True)
            read = [(out, value) for out, value in rows if out in live]
            if not read:
                continue
            instruction = combine_of([out for out, _ in read], [value for _, value in read])
        live.update(reads(instruction))
        kept.append(instruction)
    return kept[::-1]


def split_wide(program: list[Instruction]) -> list[Instruction]:
    """Cut combinations that no kernel takes in one pass: first by outputs, then by inputs."""
    narrow: list[Instruction] = []
    for instruction in program:
        if not isinstance(instruction, Combine):
            narrow.append(instruction)
            continue
        if len(instruction.inputs) > MAX_INPUTS:
            raise PlanError("combination", got=f"{len(instruction.inputs)} inputs", expected=f"at most {MAX_INPUTS}")
        values = expressions(instruction)
        for first in range(0, len(values), MAX_OUTPUTS):
            chunk = slice(first, first + MAX_OUTPUTS)
            narrow.append(combine_of(instruction.outs[chunk], values[chunk]))
    return narrow


def last_reads(program: Iterable[Instruction]) -> dict[Register, int]:
    """Position of the last instruction that reads each register."""
    return {register: position for position, instruction in enumerate(program) for register in reads(instruction)}


def assign_buffers(program: list[Instruction], result: Register) -> dict[Register, int]:
    """A buffer for each combined register, reused as soon as its last reader runs, which may write over it.

    The start belongs to the caller, outputs of networks and transforms to those who made them: none gets a buffer.
    """
    last = last_reads(program) | {result: len(program)}
    buffers: dict[Register, int] = {}
    free: list[int] = []
    for position, instruction in enumerate(program):
        released = [buffers[r] for r in dict.fromkeys(reads(instruction)) if r in buffers and last[r] == position]
        free.extend(released)  # before the outputs choose: a combination may write over an input that dies in it
        for register in instruction.outs if isinstance(instruction, Combine) else ():
            if not free:
                free.append(1 + max(buffers.values(), default=-1))
            buffers[register] = free.pop()
    return buffers
