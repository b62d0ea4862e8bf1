"""The instructions of a sampling program: evaluate the network, combine tensors, transform one, mark a step's end.

A program is in static single assignment form: every register is written once. Registers are small integers; what
they hold is a tensor of the state's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ...kernels import Draw
from ...models.bound import VARIANCE
from .channelwise import Coefficient

Register: TypeAlias = int
QUANTITIES = ("velocity", "denoised", "noise", "score")
SCALED_NORMAL = "scaled_normal"


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Run the network once on register ``input`` at solver time ``time``.

    Before lowering, ``labels`` names the quantity that each output stands for ("velocity", "denoised", "noise",
    "score"); afterwards each output is the raw network output of one guidance branch ("cond", "null").

    With ``base``, the register of an earlier velocity, a refiner is asked instead, which says how that velocity has
    changed: its branches are "refiner" and "refiner.null".

    The label "variance", last after lowering, is no quantity and no branch: it is the half of the network's output that
    says something of the variance.
    """

    outs: tuple[Register, ...]
    labels: tuple[str, ...]
    input: Register
    time: float
    step: int
    base: Register | None = None

    @property
    def rows(self) -> int:
        """Network rows a sample, after lowering: one a branch."""
        return len(self.labels) - (VARIANCE in self.labels)


@dataclass(frozen=True, slots=True)
class Combine:
    """``outs[o] = sum_k matrix[o][k] * inputs[k] + sum_d scales[o][d] * normal(draws[d])``: one pass over memory.

    Coefficients that differ by channel (:class:`.channelwise.Channelwise`) make it no more passes.
    """

    outs: tuple[Register, ...]
    inputs: tuple[Register, ...]
    matrix: tuple[tuple[Coefficient, ...], ...]
    draws: tuple[Draw, ...] = ()
    scales: tuple[tuple[Coefficient, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Transform:
    """``out = f(input, time)`` for the function bound to ``name`` when the plan is run; ends a fusion region.

    With ``draw`` the executor has the function: ``out = exp(input) * normal(draw)``, element by element, named
    "scaled_normal". It is for noise whose scale a network says; a combination's scales are numbers.
    """

    out: Register
    input: Register
    name: str
    time: float
    step: int
    draw: Draw | None = None


@dataclass(frozen=True, slots=True)
class Boundary:
    """End of step ``step``: ``state`` is the sample at ``time``, ``denoised`` the step's latest estimate of the data.

    No arithmetic: it is where hooks run. With ``replaceable`` a hook may write a new state, so no combination
    crosses it.
    """

    step: int
    time: float
    state: Register
    denoised: Register | None = None
    replaceable: bool = False


Instruction: TypeAlias = Evaluate | Combine | Transform | Boundary


def reads(instruction: Instruction) -> tuple[Register, ...]:
    """Registers that the instruction reads."""
    match instruction:
        case Combine():
            return instruction.inputs
        case Boundary():
            return (instruction.state,) if instruction.denoised is None else (instruction.state, instruction.denoised)
        case Evaluate() if instruction.base is not None:
            return (instruction.input, instruction.base)
        case _:
            return (instruction.input,)


def writes(instruction: Instruction) -> tuple[Register, ...]:
    """Registers that the instruction defines."""
    match instruction:
        case Evaluate() | Combine():
            return instruction.outs
        case Transform():
            return (instruction.out,)
        case _:
            return ()
