"""A plan driven from outside, one network output at a time: what stands between a pipeline and the executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, DeviceError, DtypeError, ShapeError
from ...models import Prediction
from ..by_channel import CombinationByChannel
from ..executor import TransformFunction
from ..plan import Combine, Evaluate, Plan, Register, Transform
from ..plan.channelwise import channels_of
from ..solver import FixedGridSolver, LastStep, plan
from .timetable import Timetable

NO_DRAW = kernels.Draw(kernels.PURPOSE_DIFFUSION, 0)  # of a key of samples alone; each combination has its own draws


class Operation(NamedTuple):
    """An instruction between two evaluations, ready to run.

    Attributes:
        call: Of a combination that draws nothing: its function.
        dying: Registers that nothing reads afterwards.
        instruction: What it does.

    """

    call: kernels.OpenCombine | None
    dying: tuple[Register, ...]
    instruction: Combine | Transform


class Stage(NamedTuple):
    """What follows one output of the network.

    Attributes:
        source: The register of the network's input, if anything reads it afterwards.
        place: The register of the output.
        operations: What is done then.
        following: What the network is asked at next, or the result.
        compares: Whether the first operation compares the output with tensors of the run, as combinations do.

    """

    source: Register | None
    place: Register
    operations: tuple[Operation, ...]
    following: Register
    compares: bool


@dataclass(frozen=True, eq=False)
class Program:
    """An optimised plan of one branch, cut where the network runs.

    Attributes:
        plan: The plan.
        opening: What is done before the network is asked for the first time.
        start: What it is asked at then.
        lead: What the sample is multiplied by for that, where nothing else is done; else 1.
        stages: What follows each of its outputs.
        quick: All of a stage in one call, for those that are a combination which makes what follows; else None.
        stochastic: Whether the plan draws noise.

    """

    plan: Plan
    opening: tuple[Operation, ...]
    start: Register
    lead: float
    stages: tuple[Stage, ...]
    quick: tuple[kernels.RegisterStep | None, ...]
    stochastic: bool

    def __deepcopy__(self, memo: dict[int, object]) -> Program:
        """Itself: nothing in it changes."""
        return self

    @classmethod
    def of(cls, plan: Plan) -> Program:
        """Cut a plan.

        Raises:
            PlanError: It asks a refiner.
        """
        plan.check_plain("a pipeline")
        parts: list[list[Operation]] = [[]]
        heads: list[tuple[Register | None, Register, Register]] = []
        for instruction, dying in zip(plan.instructions, plan.dying, strict=True):
            if isinstance(instruction, Evaluate):
                source, (place,) = instruction.input, instruction.outs
                heads.append((None if source in dying else source, place, source))
                parts.append([])
            elif isinstance(instruction, Combine | Transform):
                parts[-1].append(operation(instruction, dying))
        start, *following = [*[source for _, _, source in heads], plan.result]
        lead = scaling([operation.instruction for operation in parts[0]], plan.start, start)
        stages, quick = list[Stage](), list[kernels.RegisterStep | None]()
        if lead != 1:  # what comes back is the sample, without the factor
            heads[0] = None, *heads[0][1:]
        for (source, place, _), operations, register in zip(heads, parts[1:], following, strict=True):
            head = operations[0].instruction if operations else None
            compares = isinstance(head, Combine) and len(head.inputs) > 1 and place in head.inputs
            single = compares and len(operations) == 1
            quick.append(in_one_call(operations[0], source, place, register) if single else None)
            stages.append(Stage(source, place, tuple(operations), register, compares))
        return cls(plan, tuple(parts[0]), start, lead, tuple(stages), tuple(quick), plan.stochastic)


def scaling(instructions: Sequence[Combine | Transform], source: Register, out: Register) -> float:
    """The number that makes one register of another, if that is all that is done; else 1."""
    match instructions:
        case [Combine(inputs=(read,), outs=(made,), matrix=((float() as number,),), draws=())] if made == out:
            return number if read == source else 1.0
    return 1.0


def operation(instruction: Combine | Transform, dying: tuple[Register, ...]) -> Operation:
    """The instruction, ready to run."""
    drawing = isinstance(instruction, Transform) or instruction.draws
    return Operation(None if drawing else settled(cast(Combine, instruction)), dying, instruction)


def in_one_call(
    operation: Operation, source: Register | None, place: Register, following: Register
) -> kernels.RegisterStep | None:
    """A stage of one operation as one call, which returns ``following``; None if it is not that simple."""
    call, combine = operation.call, operation.instruction
    if call is None or isinstance(combine, Transform) or combine.outs != (following,):
        return None
    if isinstance(call, CombinationByChannel):
        return None
    kept = tuple([r for r in (source, place) if r is not None and r not in operation.dying])
    dying = tuple([r for r in operation.dying if r not in (source, place)])
    return kernels.register_step(call, combine.inputs, source, place, kept, dying)


def settled(combine: Combine, key: kernels.Noise | None = None) -> kernels.OpenCombine:
    """The combination as a function of its inputs; ``key`` says which samples its noise is for."""
    weights: Any = combine.matrix
    scales: Any = combine.scales
    if channels_of(weights, scales) is not None:
        noise = None if key is None else [key.at(draw) for draw in combine.draws]
        return CombinationByChannel(weights, noise, scales or None)
    if len(combine.outs) == 1:
        weights, scales = weights[0], scales[0] if scales else ()
    if key is None:
        return kernels.combination(weights)
    return kernels.combination(weights, noise=[key.at(draw) for draw in combine.draws], scale=scales)


@lru_cache(maxsize=256)
def compiled(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    prediction: Prediction,
    transform: str | None = None,
    last_step: LastStep = "auto",
) -> Program:
    """The optimised plan, cut; kept, since every argument is immutable and so is the program."""
    whole = plan(solver, times, prediction.interpolant, prediction=prediction, transform=transform, last_step=last_step)
    return Program.of(whole.lower(prediction).optimise())


def tail(
    whole: Program,
    begin: int,
    solver: FixedGridSolver,
    prediction: Prediction,
    transform: str | None = None,
    last_step: LastStep = "auto",
) -> Program:
    """The program of a run that begins at evaluation ``begin`` of another: its later evaluations, without its past.

    Raises:
        ArgumentError: No run of this solver has those evaluations: it was to begin within a step, or the solver starts
            with evaluations of its own.

    """
    if begin == 0:
        return whole
    if solver.times_on(prediction.interpolant) is not None:
        raise ArgumentError("begin_index", got=begin, expected=f"0: {solver} is for the whole of its grid")
    asked = [evaluation.time for evaluation in whole.plan.evaluations[begin:]]
    if asked:
        step, grid = whole.plan.evaluations[begin].step, whole.plan.grid
        for first in (step, step + 1):  # a corrector evaluates at the end of its step what is the start of the next
            if first + 1 < len(grid):
                part = compiled(solver, grid[first:], prediction, transform, last_step)
                if [evaluation.time for evaluation in part.plan.evaluations] == asked:
                    return part
    raise ArgumentError(
        "begin_index",
        got=begin,
        expected=f"the index of an evaluation with which a run of {solver} can start",
        hint="It must be a multiple of the scheduler's order; a solver that starts with extra evaluations begins at 0",
    )


class OutsideRun:
    """One run of a program whose states pass through other hands.

    Every network input is a tensor of its own, so that whoever drives may keep it, and what it hands back counts: if
    it wrote over the state (inpainting), the run goes on from there. Gradients flow. Nothing is read from the device.

    Args:
        program: What runs.
        sample: What the first evaluation is made at, [B, *D].
        timetable: The list of timesteps that the pipeline goes through.
        begin: Which of its entries the first evaluation is.
        samples: Sample ids that key the noise.
        transforms: Functions for the plan's transforms.

    Raises:
        ShapeError: A sample without the channels that the plan's coefficients are for.

    Attributes:
        timetable, entry: Which entry of which list waits for its output.
        end: The entry after the last one; no output is waited for there.

    """

    __slots__ = ("begin", "end", "entry", "key", "program", "timetable", "transforms", "unlike", "values")

    def __init__(
        self,
        program: Program,
        sample: Tensor,
        timetable: Timetable,
        begin: int = 0,
        samples: Tensor | None = None,
        transforms: Mapping[str, TransformFunction] | None = None,
    ) -> None:
        program.plan.check_channels("sample", sample.shape)
        self.program, self.timetable = program, timetable
        self.begin = self.entry = begin
        self.end, self.unlike = begin + len(program.stages), False
        self.transforms, self.key = transforms or {}, None if samples is None else kernels.Noise(0, NO_DRAW, samples)
        self.values: dict[Register, Tensor] = {program.plan.start: sample}
        for operation in program.opening:
            self.execute(operation)
        if program.lead == 1:
            self.values.pop(program.start)  # comes back with the first output, if anything reads it

    def advance(self, output: Tensor, sample: Tensor) -> Tensor:
        """Take the network's ``output`` at ``sample``; return its next input, or the result after the last one.

        Whoever drives may call ``program.quick`` first, on ``values``, and count ``entry`` on if it did the stage.

        Outputs of another dtype are cast, and a variance in as many channels again is dropped. Most outputs need
        neither, and the combination that takes one finds out; after the first that does, all are looked at.

        Raises:
            ShapeError: An output that does not fit the sample.

        """
        stage = self.program.stages[self.entry - self.begin]
        if self.unlike or not stage.compares:
            output = like(output, sample)
        values = self.values
        if stage.source is not None:
            values[stage.source] = sample
        values[stage.place] = output
        try:
            for operation in stage.operations:
                self.execute(operation)
        except (ShapeError, DtypeError):
            if self.unlike:
                raise
        else:
            self.entry += 1
            return values.pop(stage.following)  # comes back with the next output, likewise
        self.unlike = True
        return self.advance(output, sample)

    def execute(self, operation: Operation) -> None:
        """An operation of any kind."""
        instruction, values = operation.instruction, self.values
        if isinstance(instruction, Transform):
            values[instruction.out] = self.transforms[instruction.name](values[instruction.input], instruction.time)
        else:
            call = operation.call or settled(instruction, cast(kernels.Noise, self.key))
            results = call(*[values[register] for register in instruction.inputs])
            values.update(zip(instruction.outs, (results,) if len(instruction.outs) == 1 else results, strict=True))
        for register in operation.dying:
            del values[register]


def like(output: Tensor, sample: Tensor) -> Tensor:
    """The output in the sample's dtype; of 2 C channels the first C.

    Raises:
        ShapeError, DeviceError: The output is neither like the sample nor has twice its channels; is elsewhere.

    """
    if output.shape != sample.shape:
        doubled = output.ndim == sample.ndim and sample.ndim > 1 and output.shape[1] == 2 * sample.shape[1]
        if not doubled or output.shape[0] != sample.shape[0] or output.shape[2:] != sample.shape[2:]:
            expected = f"{list(sample.shape)}, as the sample"
            raise ShapeError("model_output", got=list(output.shape), expected=expected)
        output = output.narrow(1, 0, sample.shape[1])
    if output.device != sample.device:
        raise DeviceError("model_output", got=output.device, expected=f"{sample.device}, as the sample")
    return output.to(sample.dtype)
