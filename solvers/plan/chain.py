"""A plan as a chain: every state as a sum of earlier states, the network's outputs at them, and noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from ...errors import PlanError
from ...kernels import Draw
from .expression import Expression, expressions
from .instructions import Boundary, Combine, Evaluate, Register, Transform
from .plan import Plan

Output = tuple[int, str]


@dataclass(frozen=True)
class Link:
    r"""One step of a chain.

    .. math:: x_{i+1} = \sum_{k \le i} a_k x_k + \sum_{k \le i, j} b_{kj} o_{kj} + \sum_d s_d z_d

    Attributes:
        time: Where the network is evaluated, at ``scale * x_i``.
        scale: Of the network's input.
        branches: What the evaluation returns, one output each.
        states: a by the index k of the state; a_i is there even if it is zero.
        outputs: b by (k, branch).
        draws: s by the draw.
    """

    time: float
    scale: float
    branches: tuple[str, ...]
    states: Mapping[int, float]
    outputs: Mapping[Output, float]
    draws: Mapping[Draw, float]

    @property
    def first(self) -> int:
        """The earliest state that the step reads."""
        return min([*self.states, *(k for k, _ in self.outputs)])


def chain(plan: Plan) -> tuple[Link, ...]:
    """The links of a lowered plan, one a step.

    Args:
        plan: At stage "outputs". Each of its steps evaluates the network once, at the step's own state; multistep
            methods pass, since what they remember is a sum of earlier states and outputs.

    Raises:
        PlanError: The plan is at another stage, evaluates more than once in a step or elsewhere than at its state,
            applies a function to its estimates, or has coefficients that differ by channel.

    Example:
        >>> from pushforward import solvers
        >>> from pushforward.models import Linear, prediction
        >>> read = prediction("velocity", Linear())
        >>> euler = solvers.plan(solvers.solver("euler"), [0.0, 0.5, 1.0]).lower(read)
        >>> chain(euler)[1].states, chain(euler)[1].outputs
        ({1: 1.0}, {(1, 'cond'): 0.5})
    """
    if plan.stage != "outputs":
        hint = "Call lower(), and not optimise()"
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'outputs'", hint=hint)
    plan.check_one_number("a chain")
    meaning: dict[Register, Expression] = {}  # of every register, over states, outputs and draws
    states: dict[Register, int] = {plan.start: 0}
    outputs: dict[Register, Output] = {}
    links: list[Link] = []
    pending: tuple[Evaluate, float] | None = None
    for instruction in plan.instructions:
        match instruction:
            case Combine():
                values = [value.substitute(meaning) for value in expressions(instruction)]
                meaning.update(zip(instruction.outs, values, strict=True))
            case Evaluate():
                if pending is not None or instruction.base is not None:
                    raise not_a_chain(plan, len(links), "more than one evaluation")
                pending = instruction, scale_of(instruction, meaning, states, plan, len(links))
                outputs.update((out, (len(links), branch)) for out, branch in read_outputs(instruction))
            case Boundary():
                if pending is None:
                    raise not_a_chain(plan, len(links), "no evaluation")
                value = meaning.pop(instruction.state, Expression.register(instruction.state))
                links.append(link(*pending, value, states, outputs))
                states[instruction.state], pending = len(links), None
            case Transform():
                hint = "Sample without transform=" if instruction.draw is None else "Use a variance known beforehand"
                raise PlanError("plan", got=f"the transform {instruction.name!r}", expected="none", hint=hint)
    return tuple(links)


def scale_of(
    evaluation: Evaluate, meaning: Mapping[Register, Expression], states: Mapping[Register, int], plan: Plan, step: int
) -> float:
    """What multiplies the step's state to give the network's input."""
    value = meaning.get(evaluation.input, Expression.register(evaluation.input))
    (atom, weight), *others = numbers_of(value).items() or [(None, 0.0)]
    if others or not isinstance(atom, int) or states.get(atom) != step:
        raise not_a_chain(plan, step, f"an evaluation at t = {evaluation.time:.4g} at another state than the step's")
    return weight


def numbers_of(value: Expression) -> Mapping[Register | Draw, float]:
    """The terms of an expression whose plan has one number for all channels."""
    return cast("Mapping[Register | Draw, float]", value.terms)


def read_outputs(evaluation: Evaluate) -> list[tuple[Register, str]]:
    """Output registers with their branches."""
    return list(zip(evaluation.outs, evaluation.labels, strict=True))


def link(
    evaluation: Evaluate,
    scale: float,
    value: Expression,
    states: Mapping[Register, int],
    outputs: Mapping[Register, Output],
) -> Link:
    """The step from the expression of its end."""
    terms = numbers_of(value)
    weights = {states[atom]: terms[atom] for atom in value.registers if atom in states}
    index = max(states.values())
    return Link(
        evaluation.time,
        scale,
        evaluation.labels,
        {index: 0.0} | weights,
        {outputs[atom]: terms[atom] for atom in value.registers if atom in outputs},
        {draw: terms[draw] for draw in value.draws},
    )


def not_a_chain(plan: Plan, step: int, got: str) -> PlanError:
    """The error of a step that is not one evaluation at its own state."""
    return PlanError(
        "a one-evaluation plan is needed",
        got=f"{got} in step {step} of {plan.solver}",
        expected="one a step, at the step's own state",
        hint="For instance 'euler', 'ddim', 'ddpm' or 'euler_ancestral'",
    )
