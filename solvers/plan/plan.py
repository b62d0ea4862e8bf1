"""The plan: a whole sampling run as a straight-line program with float64 coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ...errors import PlanError
from ...models import BranchWeights, Interpolant, Prediction
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, reads, writes

if TYPE_CHECKING:
    import torch

    from .cost import Cost

Stage = Literal["quantities", "outputs", "optimised"]


@dataclass(frozen=True)
class Plan:
    """An immutable, hashable, printable program; safe to share between threads and runs.

    It passes through three stages: "quantities" (evaluations give velocities, clean samples ... as the solver asked
    for them), "outputs" (:meth:`lower`: evaluations give raw network outputs) and "optimised" (:meth:`optimise`:
    adjacent combinations merged, dead registers gone, buffers assigned; what an executor runs).

    Attributes:
        solver: Name of the solver that wrote it.
        interpolant: The path that defines alpha and sigma.
        grid: Times at the step boundaries, strictly monotone; increasing from noise to data.
        instructions: The program.
        start, result: Registers that hold the sample at ``grid[0]`` and at ``grid[-1]``.
        stage: See above.
        buffers: (register, buffer) for every register that a combination or transform writes; only when optimised.
        notes: What the planner decided, in words.
        sources: Where the mathematics comes from.

    """

    solver: str
    interpolant: Interpolant
    grid: tuple[float, ...]
    instructions: tuple[Instruction, ...]
    start: Register
    result: Register
    stage: Stage = "quantities"
    buffers: tuple[tuple[Register, int], ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        defined = {self.start}
        for position, instruction in enumerate(self.instructions):
            for register in reads(instruction):
                if register not in defined:
                    raise PlanError(
                        f"instruction {position}",
                        got=f"r{register} before it is written",
                        expected="registers that an earlier instruction wrote",
                    )
            for register in writes(instruction):
                if register in defined:
                    raise PlanError(
                        f"instruction {position}",
                        got=f"a second write of r{register}",
                        expected="each register written once",
                    )
                defined.add(register)
            if isinstance(instruction, Combine):
                check_combine(instruction, position)
        if self.result not in defined:
            raise PlanError("result", got=f"r{self.result}, which nothing writes", expected="a register of the program")

    @property
    def steps(self) -> int:
        """Number of steps of the grid."""
        return len(self.grid) - 1

    @cached_property
    def evaluations(self) -> tuple[Evaluate, ...]:
        """The network evaluations, in order."""
        return tuple(i for i in self.instructions if isinstance(i, Evaluate))

    @cached_property
    def dying(self) -> tuple[tuple[Register, ...], ...]:
        """For each instruction, the registers that nothing reads afterwards."""
        seen, last = {self.result}, list[tuple[Register, ...]]()
        for instruction in reversed(self.instructions):
            last.append(tuple([r for r in dict.fromkeys(reads(instruction)) if r not in seen]))
            seen.update(last[-1])
        return tuple(reversed(last))

    @property
    def nfe(self) -> int:
        """Network evaluations per sample; a guided pair counts as one (``cost().forward_passes`` counts it as two)."""
        return len(self.evaluations)

    @property
    def stochastic(self) -> bool:
        """Whether any step draws noise."""
        return any(isinstance(i, Combine) and i.draws for i in self.instructions)

    @cached_property
    def carried(self) -> int:
        """How many tensors besides one, the state, live on from earlier steps where a step first evaluates.

        0 for one-step methods, except those that perturb the state before they evaluate (ShARK: 1); at least 1 for
        multistep ones. Raises :class:`PlanError` before :meth:`lower`, as evaluations then have several outputs.
        """
        if self.stage == "quantities":
            raise PlanError("plan.stage", got=repr(self.stage), expected="a lowered plan", hint="Call lower()")
        last = {register: i for i, instruction in enumerate(self.instructions) for register in reads(instruction)}
        live, step, most = {self.start}, 0, 0
        for position, instruction in enumerate(self.instructions):
            if isinstance(instruction, Evaluate) and instruction.step > step:
                step = instruction.step
                most = max(most, sum(last.get(register, -1) > position for register in live) - 1)
            live.update(writes(instruction))
        return most

    @property
    def boundaries(self) -> tuple[Boundary, ...]:
        """The marked ends of steps."""
        return tuple(i for i in self.instructions if isinstance(i, Boundary))

    def on(self, path: Interpolant) -> Plan:
        """The same process with state, times and network on another path; see :func:`..conversion.convert`."""
        from .conversion import convert

        return convert(self, path)

    def lower(self, prediction: Prediction, guidance: BranchWeights | None = None) -> Plan:
        """Substitute what the network returns and how its branches are weighted; see :func:`..lowering.lower`."""
        from .lowering import lower

        return lower(self, prediction, guidance)

    def optimise(self, *, observe: bool = False, replace: bool = False) -> Plan:
        """Merge, drop, and assign buffers; see :func:`..optimiser.optimise`."""
        from .optimiser import optimise

        return optimise(self, observe=observe, replace=replace)

    def cost(self, shape: Iterable[int] = (1,), dtype: torch.dtype | None = None) -> Cost:
        """Network calls, passes over memory, bytes moved, live buffers; see :func:`..cost.cost`."""
        from .cost import cost

        return cost(self, tuple(shape), dtype)

    def to_json(self, *, indent: int | None = None) -> str:
        """The plan as JSON; floats keep every bit."""
        from .text import to_json

        return to_json(self, indent=indent)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Inverse of :meth:`to_json`. Raises :class:`PlanError` for text that is not a well-formed plan."""
        from .text import from_json

        return from_json(text)

    def replace(self, **changes: object) -> Plan:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        from .text import listing

        return listing(self)


def check_combine(combine: Combine, position: int) -> None:
    """Raise :class:`PlanError` unless the matrix and the scales fit the registers."""
    name = f"instruction {position}"
    if len(set(combine.inputs)) != len(combine.inputs):
        raise PlanError(name, got=f"inputs {combine.inputs}", expected="each input once")
    if [len(row) for row in combine.matrix] != [len(combine.inputs)] * len(combine.outs):
        raise PlanError(
            name,
            got=f"a matrix of rows {[len(row) for row in combine.matrix]}",
            expected=f"{len(combine.outs)} rows of {len(combine.inputs)} weights",
        )
    expected = [len(combine.draws)] * len(combine.outs) if combine.draws else []
    if [len(row) for row in combine.scales] != expected:
        raise PlanError(
            name,
            got=f"scales of rows {[len(row) for row in combine.scales]}",
            expected=f"one row of {len(combine.draws)} scales an output",
        )
