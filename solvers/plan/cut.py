"""A plan cut at its boundaries: every step as a plan of its own, for runs whose states change between steps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ...errors import PlanError
from .expression import Expression, expressions
from .instructions import Boundary, Combine, Instruction, Register, reads, writes
from .plan import Plan


def cut(plan: Plan) -> tuple[Plan, ...]:
    """The steps of a lowered plan, each from the state at its first time to that at its last.

    Draws and steps keep their numbers, so that the parts one after another are the whole run, noise included.

    Args:
        plan: At stage "outputs".

    Raises:
        PlanError: The plan is at another stage, or a step reads what an earlier one remembered.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> read = prediction("velocity", Linear())
        >>> heun = solvers.plan(solvers.solver("heun"), [0.0, 0.5, 1.0]).lower(read)
        >>> [(part.grid, part.nfe) for part in cut(heun)]
        [((0.0, 0.5), 2), ((0.5, 1.0), 2)]
    """
    if plan.stage != "outputs":
        hint = "Call lower(), and not optimise()"
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'outputs'", hint=hint)
    parts: list[Plan] = []
    written: dict[Register, int] = {plan.start: -1}
    start, part = plan.start, list[Instruction]()
    for instruction in plan.instructions:
        index = len(parts)
        remembered = [
            written[register]
            for register in reads(instruction)
            if register != start and register in written and written[register] < index
        ]
        if remembered:
            raise PlanError(
                "solver",
                got=f"{plan.solver}, whose step {index} remembers step {max(min(remembered), 0)}",
                expected="one whose steps read nothing but their own state, as particles change between steps",
                hint="For instance 'euler_maruyama', 'stochastic_heun', 'ddpm', 'euler_ancestral' or 'seeds2'",
            )
        written.update(dict.fromkeys(writes(instruction), index))
        if not isinstance(instruction, Boundary):
            part.append(instruction)
            continue
        part.append(dataclasses.replace(instruction, denoised=None))
        times = (plan.grid[index], instruction.time)
        parts.append(plan.replace(grid=times, instructions=tuple(part), start=start, result=instruction.state))
        start, part = instruction.state, []
    return tuple(parts)


@dataclass(frozen=True)
class Start:
    """An evaluation at the first state and time of a plan.

    Attributes:
        index: Which of the plan's evaluations it is.
        scale: What multiplies the state there, as the network wants it.

    """

    index: int
    scale: float


def evaluation_at_start(plan: Plan) -> Start | None:
    """The evaluation at the first state and time, if there is one: a run that knows its outputs need not ask for them.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> read = prediction("denoised", Linear())
        >>> for name in ("heun", "shark"):
        ...     print(evaluation_at_start(solvers.plan(solvers.solver(name), [0.2, 0.6]).lower(read)))
        Start(index=0, scale=1.0)
        None
    """
    values: dict[Register, Expression] = {plan.start: Expression.register(plan.start)}
    for instruction in plan.instructions:
        if isinstance(instruction, Combine):
            found = [value.substitute(values) for value in expressions(instruction)]
            values.update(zip(instruction.outs, found, strict=True))
    for index, evaluation in enumerate(plan.evaluations):
        there = values.get(evaluation.input, Expression({}))
        scale = there.terms.get(plan.start)
        if evaluation.time == plan.grid[0] and len(there.terms) == 1 and isinstance(scale, float):
            return Start(index, scale)
    return None
