"""A plan as text: a listing to read and JSON to ship."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ...errors import ArgumentError, PlanError
from ...kernels import Draw
from ...models import interpolant_from_config
from .channelwise import Channelwise, Coefficient
from .expression import expressions
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform
from .plan import Plan

FORMAT = "pushforward-plan/1"
FORMAT_WITH_CHANNELS = "pushforward-plan/2"  # coefficients may be {"channels": [a_1, ...]}; else the same
KINDS = {kind.__name__.lower(): kind for kind in (Evaluate, Combine, Transform, Boundary)}


def listing(plan: Plan) -> str:
    """The program, one instruction a line, grouped by steps, with the cost of one element below."""
    lines = [
        f"{plan.solver}: {plan.steps} steps from t = {plan.grid[0]:.6g} to {plan.grid[-1]:.6g} "
        f"on {plan.interpolant.name}, stage {plan.stage}"
    ]
    lines += [f"  note: {note}" for note in plan.notes]
    buffers = dict(plan.buffers)

    def name(register: Register) -> str:
        return f"b{buffers[register]}" if register in buffers else f"r{register}"

    titles = block_titles(plan)
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate | Transform) and instruction.step in titles:
            lines.append(titles.pop(instruction.step))
        lines.append(f"  {line(instruction, name)}")
        if isinstance(instruction, Boundary) and instruction.step + 1 in titles:
            lines.append(titles.pop(instruction.step + 1))
    lines += [f"  result {name(plan.result)}", f"cost: {plan.cost()}"]
    return "\n".join(lines)


def block_titles(plan: Plan) -> dict[int, str]:
    """A heading for each block, by the step that it begins with."""
    firsts = [first for _, first in plan.blocks]
    return {
        first: f" {name}: " + (f"step {first}" if first + 1 == end else f"steps {first} to {end - 1}")
        for (name, first), end in zip(plan.blocks, [*firsts[1:], plan.steps], strict=False)  # no end where no block
    }


def line(instruction: Instruction, name: Any) -> str:
    """One instruction as text."""
    match instruction:
        case Evaluate():
            outs = ", ".join(
                f"{name(r)}: {label}" for r, label in zip(instruction.outs, instruction.labels, strict=True)
            )
            base = "" if instruction.base is None else f", base {name(instruction.base)}"
            return f"{outs} = network({name(instruction.input)}, t = {instruction.time:.6g}{base})"
        case Transform():
            beside = f"t = {instruction.time:.6g}" if instruction.draw is None else f"normal{tuple(instruction.draw)}"
            return f"{name(instruction.out)} = {instruction.name}({name(instruction.input)}, {beside})"
        case Boundary():
            denoised = "" if instruction.denoised is None else f", denoised {name(instruction.denoised)}"
            end = f"-- step {instruction.step} ends at t = {instruction.time:.6g}"
            return f"{end}: state {name(instruction.state)}{denoised}"
        case Combine():
            outs = ", ".join(name(register) for register in instruction.outs)
            values = (" ".join(terms(value.terms.items(), name)) or "0" for value in expressions(instruction))
            return f"{outs} = {', '.join(values)}"


def terms(pairs: Iterable[tuple[Register | Draw, Coefficient]], name: Any) -> Iterable[str]:
    """Each weighted atom with its sign."""
    for position, (atom, weight) in enumerate(pairs):
        text = name(atom) if isinstance(atom, int) else f"normal{tuple(atom)}"
        if isinstance(weight, Channelwise):
            yield f"{'+' if position else ''} {weight} {text}".strip()
            continue
        sign = "-" if weight < 0 else "+" if position else ""
        yield f"{sign} {abs(weight):.6g} {text}".strip()


def to_json(plan: Plan, *, indent: int | None = None) -> str:
    """Every field; floats as ``repr`` writes them, so that reading gives the same bits."""
    fields: dict[str, Any] = {
        "format": FORMAT if plan.channels is None else FORMAT_WITH_CHANNELS,
        "solver": plan.solver,
        "interpolant": plan.interpolant.to_config(),
        "grid": plan.grid,
        "instructions": [record(instruction) for instruction in plan.instructions],
        "start": plan.start,
        "result": plan.result,
        "stage": plan.stage,
        "buffers": plan.buffers,
        "notes": plan.notes,
        "sources": plan.sources,
        "blocks": plan.blocks,
    }
    return json.dumps(fields, indent=indent, allow_nan=False, default=channel_record)


def channel_record(value: object) -> dict[str, Any]:
    """A coefficient that differs by channel."""
    if not isinstance(value, Channelwise):
        raise TypeError(f"a plan holds {value!r}, which JSON does not")
    return {"channels": value.values}


def record(instruction: Instruction) -> dict[str, Any]:
    """An instruction's fields under its kind."""
    fields = {slot: getattr(instruction, slot) for slot in type(instruction).__slots__}
    if isinstance(instruction, Combine):
        fields["draws"] = [tuple(draw) for draw in instruction.draws]
    return {"kind": type(instruction).__name__.lower(), **fields}


def from_json(text: str) -> Plan:
    """Inverse of :func:`to_json`."""
    try:
        fields = json.loads(text)
        if fields.pop("format") not in (FORMAT, FORMAT_WITH_CHANNELS):
            raise PlanError("plan", got="another format", expected=FORMAT)
        fields["interpolant"] = interpolant_from_config(fields["interpolant"])
        fields["instructions"] = tuple(instruction(record) for record in fields["instructions"])
        return Plan(**{name: frozen(value) for name, value in fields.items()})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise PlanError("plan", got=f"JSON that does not describe a plan ({error})", expected=FORMAT) from error
    except ArgumentError as error:
        raise error if isinstance(error, PlanError) else PlanError("plan", got=str(error), expected=FORMAT) from error


def instruction(record: dict[str, Any]) -> Instruction:
    """Inverse of :func:`record`."""
    fields = {name: frozen(value) for name, value in record.items()}
    kind = KINDS[fields.pop("kind")]
    if kind is Combine:
        fields["draws"] = tuple(Draw(*draw) for draw in fields["draws"])
    if fields.get("draw") is not None:
        fields["draw"] = Draw(*fields["draw"])
    return kind(**fields)


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down, and coefficients that differ by channel as what they are."""
    if isinstance(value, dict):
        return Channelwise(value["channels"])
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
