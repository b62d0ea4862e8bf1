"""A plan written on one path, turned into a plan on another: same process, other coordinates."""

from __future__ import annotations

import dataclasses
import math

from ...errors import PlanError, SingularTimeError
from ...models import Interpolant
from ...models.bound import VARIANCE
from ...models.interpolants import equal_noise
from .expression import Expression, combine_of, expressions
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform, reads, writes
from .plan import Plan


def convert(plan: Plan, path: Interpolant) -> Plan:
    r"""The same run with state, times and network on ``path``, while the arithmetic stays on the plan's own.

    At equal noise ratio, :math:`\sigma / \alpha = \tilde\sigma / \tilde\alpha`, states of two paths are multiples of
    one another, :math:`\tilde x = c x` with :math:`c = \tilde\sigma / \sigma = \tilde\alpha / \alpha`, and D and n are
    the same. So the state is divided by c where the plan reads it and multiplied at the end of each step, the network
    is asked for D and n at :math:`(c x, \tilde t)`, and what the plan asked for follows on its own path:

    .. math:: v = \alpha' D + \sigma' n, \quad s = -n / \sigma

    Exact, whatever the network, for deterministic and stochastic steps alike: converted noise is the same process.
    The scalars merge into the combinations of the plan, so a converted plan costs no pass more.

    Args:
        plan: A plan at stage "quantities".
        path: Where state and network are, for instance the path that the network was trained on.

    Returns:
        A plan at stage "quantities" on ``path``, with the times of equal noise ratio as its grid.

    Raises:
        PlanError: The plan is at another stage.
        SingularTimeError: ``path`` does not reach a noise ratio of the plan, or a velocity is infinite on the plan's.

    Source: Karras et al. 2022, appendix B; Kim et al. 2025, Inference-time scaling for flow models, section 4.

    """
    if plan.stage != "quantities":
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'quantities' (convert before lowering)")
    return plan if path == plan.interpolant else Conversion(plan, path).run()


class Conversion:
    """One traversal of the program."""

    def __init__(self, plan: Plan, path: Interpolant) -> None:
        self.plan, self.path = plan, path
        self.instructions: list[Instruction] = []
        self.registers = 1 + max((r for i in plan.instructions for r in (*reads(i), *writes(i))), default=0)
        self.renamed: dict[Register, Register] = {}

    def run(self) -> Plan:
        """The converted plan."""
        first, scale = self.there(self.plan.grid[0])
        self.renamed[self.plan.start] = self.scaled(self.plan.start, 1 / scale)
        times, result = [first], self.plan.start
        for instruction in self.plan.instructions:
            match instruction:
                case Evaluate():
                    self.evaluate(instruction)
                case Combine():
                    names = {r: Expression.register(self.name(r)) for r in instruction.inputs}
                    values = [value.substitute(names) for value in expressions(instruction)]
                    self.instructions.append(combine_of(instruction.outs, values))
                case Transform():
                    moved = {"input": self.name(instruction.input), "time": self.there(instruction.time)[0]}
                    self.instructions.append(dataclasses.replace(instruction, **moved))
                case Boundary(step, time, state):
                    there, scale = self.there(time)
                    result = self.scaled(self.name(state), scale)
                    self.instructions.append(Boundary(step, there, result))
                    times.append(there)
                    if step + 1 < self.plan.steps:  # a hook may replace the state: what follows reads it from here
                        self.renamed[state] = self.scaled(result, 1 / scale)
        note = f"written on {self.plan.interpolant}, for a state and a network on {self.path}"
        return self.plan.replace(
            interpolant=self.path,
            grid=tuple(times),
            instructions=tuple(self.instructions),
            result=result,
            notes=(*self.plan.notes, note),
        )

    def there(self, time: float) -> tuple[float, float]:
        """Time of equal noise ratio on the new path, and the multiple of the state that lies there."""
        return equal_noise(self.plan.interpolant, time, self.path)

    def name(self, register: Register) -> Register:
        """What holds the register's value now."""
        return self.renamed.get(register, register)

    def new(self) -> Register:
        """A register that the program does not use yet."""
        self.registers += 1
        return self.registers - 1

    def scaled(self, register: Register, factor: float) -> Register:
        """A register that holds a multiple of another."""
        out = self.new()
        self.instructions.append(combine_of([out], [factor * Expression.register(register)]))
        return out

    def evaluate(self, evaluation: Evaluate) -> None:
        """D and n of the scaled state, and the quantities that the plan asked for as combinations of them."""
        if evaluation.base is not None:
            got, hint = f"velocities of {self.plan.interpolant}", "Leave path= to the model"
            raise PlanError("path", got=got, expected=f"{self.path}, the refiner's own", hint=hint)
        time, scale = self.there(evaluation.time)
        _, sigma, dalpha, dsigma = self.plan.interpolant(evaluation.time)
        weights = {"denoised": (1.0, 0.0), "noise": (0.0, 1.0), "velocity": (dalpha, dsigma)}
        weights["score"] = (0.0, -1 / sigma if sigma > 0 else -math.inf)
        places = dict(zip(evaluation.labels, evaluation.outs, strict=True))
        beside = {label: places.pop(label) for label in (VARIANCE,) if label in places}
        asked = [weights[label] for label in places]
        if not all(math.isfinite(w) for pair in asked for w in pair):
            because = f"a velocity or score on {self.plan.interpolant} is infinite there"
            raise SingularTimeError("t", got=evaluation.time, because=because)
        needed = [k for k in (0, 1) if any(pair[k] != 0 for pair in asked)]
        given = {k: self.new() for k in needed}
        labels = tuple(("denoised", "noise")[k] for k in needed)
        source = self.scaled(self.name(evaluation.input), scale)
        outs = (*given.values(), *beside.values())
        self.instructions.append(Evaluate(outs, (*labels, *beside), source, time, evaluation.step))
        for out, pair in zip(places.values(), asked, strict=True):
            value = Expression({register: pair[k] for k, register in given.items()})
            self.instructions.append(combine_of([out], [value]))
