"""The plan: a whole sampling run as a straight-line program with float64 coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ...errors import PlanError, ShapeError
from ...models import BranchWeights, Interpolant, Prediction
from ...models.bound import VARIANCE
from .channelwise import channels_of
from .instructions import Boundary, Combine, Evaluate, Instruction, Register, Transform, reads, writes

if TYPE_CHECKING:
    import torch

    from ...models import Model
    from ..compiled import CompiledPlan
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
        blocks: (name, first step) of the runs of steps that the solver named; each lasts until the next begins.
        channels: C, if coefficients differ by channel, so that the plan is for states [B, C, *D]; None: for any.

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
    blocks: tuple[tuple[str, int], ...] = ()
    channels: int | None = field(init=False, repr=False, compare=False)

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
        tables = [rows for i in self.instructions if isinstance(i, Combine) for rows in (i.matrix, i.scales)]
        object.__setattr__(self, "channels", channels_of(*tables))

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
        combined = any(isinstance(i, Combine) and i.draws for i in self.instructions)
        return combined or any(isinstance(i, Transform) and i.draw for i in self.instructions)

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

    def check_plain(self, driver: str) -> None:
        """Refuse a plan that asks a refiner or a variance, on behalf of a driver that gets one output a branch.

        Raises:
            PlanError: It does.
        """
        if any(evaluation.base is not None for evaluation in self.evaluations):
            got, expected = f"{self.solver}, which asks a refiner", f"one that asks the network alone, for {driver}"
            raise PlanError("solver", got=got, expected=expected, hint="Use pushforward.sample, or refine=0")
        if any(VARIANCE in evaluation.labels for evaluation in self.evaluations):
            got, expected = f"{self.solver}, which asks for a variance", f"a variance known beforehand, for {driver}"
            hint = "Use pushforward.sample, or variance='fixed_small'"
            raise PlanError("solver", got=got, expected=expected, hint=hint)

    def check_channels(self, argument: str, shape: Sequence[int]) -> None:
        """Refuse states that do not have the channels which the coefficients are for.

        Raises:
            ShapeError: They do not; names ``argument``.
        """
        if self.channels is not None and (len(shape) < 2 or shape[1] != self.channels):
            expected = f"[B, {self.channels}, *D]: coefficients of {self.solver} differ by channel"
            raise ShapeError(argument, got=list(shape), expected=expected)

    def check_one_number(self, driver: str) -> None:
        """Refuse coefficients that differ by channel, on behalf of a driver that takes numbers.

        Raises:
            PlanError: They do.
        """
        if self.channels is not None:
            got, expected = f"{self.solver}, whose coefficients differ by channel", f"one number for all, for {driver}"
            raise PlanError("solver", got=got, expected=expected)

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

    def compile(
        self,
        model: Model,
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
        *,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        backend: str = "inductor",
        options: Mapping[str, Any] | None = None,
    ) -> CompiledPlan:
        """The plan as a function of noise and conditions, compiled for states of one shape.

        Everything else is known: which networks are asked, for how many rows, when, and what is done with the answers.
        The networks are compiled by torch for exactly these calls, now. On a CUDA device a run that draws no noise is
        captured as one graph, so that no step waits for the host. What cannot be compiled runs as it would otherwise,
        and one :class:`CompileWarning` says why.

        What has been compiled is kept as long as the model: the same plan, model, shape and dtype come back at once.
        Torch keeps a limited number of shapes for a network (``torch._dynamo.config.recompile_limit``).

        Args:
            model: What the plan was lowered for.
            shape: [B, *D].
            dtype: Of the states; float32 by default.
            condition, null: Conditions of a run, or others of their shapes and dtypes.
            device: The network's by default.
            backend, options: Of ``torch.compile``.

        Raises:
            PlanError: The plan is not optimised.
            ShapeError, DtypeError: A shape or dtype that no state has; what the network says of the conditions.

        Source:
            Zhao et al. 2024, FlowTurbo, section 3.3, "sample-aware compilation": blocks of a sampler are compiled, and
            not the network alone.

        Example:
            >>> import torch
            >>> import pushforward as pf
            >>> model = pf.models.adapt(lambda x, t, scale: scale * x)
            >>> plan, half = pf.make_plan(model, solver="euler", steps=2), {"scale": torch.tensor([[0.5]])}
            >>> draw = plan.compile(model, (3, 4), condition=half, backend="eager")
            >>> draw(seed=1, condition=half).shape
            torch.Size([3, 4])
        """
        from ..compiled import compile_plan

        return compile_plan(
            self,
            model,
            shape,
            dtype,
            condition=condition,
            null=null,
            device=device,
            backend=backend,
            options=options,
        )

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
