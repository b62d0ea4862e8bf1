"""Runs an optimised plan: asks for network evaluations, applies combinations, calls hooks at step boundaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from .. import kernels
from ..errors import ArgumentError, DtypeError, NotFiniteError, PlanError, ShapeError
from .by_channel import combine_by_channel, prepare_by_channel
from .diagnosis import mismatch, not_finite, not_finite_output, where
from .hooks import Hook, StepState, replaces_state
from .plan import Boundary, Combine, Evaluate, Plan, Register, Transform
from .plan.instructions import reads
from .plan.optimiser import last_reads

Check = Literal["fused", "before", "off"]


@dataclass(slots=True)
class Request:
    """A network evaluation that the executor waits for.

    Attributes:
        input: What to feed the network, already scaled as its prediction wants it. Valid until the answer is given.
        time: Solver time in [0, 1], float64; the adapter turns it into the network's own clock.
        branches: Guidance branches to evaluate, "cond" and "null"; one output of the state's shape for each.
        step, index: Which step, and which evaluation of the run, both from 0.
        registers, kept: Where the answer goes, and which earlier answers are still needed (for the executor).
        base: The earlier velocity whose change a refiner is asked for; None where the network is asked.

    """

    input: Tensor
    time: float
    branches: tuple[str, ...]
    step: int
    index: int
    registers: tuple[Register, ...]
    kept: tuple[Register, ...] = ()
    base: Tensor | None = None

    def ask(self, evaluate: EvaluateFunction) -> Sequence[Tensor]:
        """What ``evaluate`` answers."""
        if self.base is None:
            return evaluate(self.input, self.time, self.branches)
        return evaluate(self.input, self.time, self.branches, self.base)


@dataclass(slots=True)
class Bound:
    """An instruction other than an evaluation, ready to run.

    Attributes:
        instruction: What it does.
        dying: Tensors of others that nothing reads afterwards, to be let go.
        prepared, changing: For a combination: the kernel call, and the inputs that come with each call.
    """

    instruction: Combine | Transform | Boundary
    dying: tuple[Register, ...]
    prepared: kernels.PreparedCombine | None = None
    changing: tuple[Register, ...] = ()


Operation: TypeAlias = Request | Bound
EvaluateFunction: TypeAlias = Callable[..., Sequence[Tensor]]
"""``evaluate(input, time, branches)`` returns one raw output for each branch; a fourth argument, where a plan asks a
refiner, is the earlier velocity."""
TransformFunction: TypeAlias = Callable[[Tensor, float], Tensor]


class Executor:
    """One run of a plan. Iterate over it: each item is a :class:`Request`; answer it with :meth:`supply`.

    Args:
        plan: A plan at stage "optimised".
        x0: State at ``plan.grid[0]``, shape [B, *D], floating point; never written to.
        seed: Seed of all noise, in [0, 2**64).
        samples: Sample ids, int64 [B], that key the noise; 0 .. B - 1 by default.
        hooks: Called at the end of every step; the plan must have been optimised with ``observe`` (and ``replace``).
        transforms: Functions for the names that the plan's transforms use.
        check: What looks for NaN and infinity. "fused": the combinations themselves, at no extra pass (on a device
            without a native kernel, the result once at the end). "before": every network output before it is used;
            one more read, and the error can show the network's input and the last good state. "off": nothing.
        differentiable: Keep the autograd graph; buffers are then not reused.

    Attributes:
        result: The sample at ``plan.grid[-1]``, once the iteration has ended.

    Raises:
        ShapeError, DtypeError, DeviceError: A network output differs from the state; names the step and the time. A
            state without the channels that the plan's coefficients are for.
        NotFiniteError: A network output or the state has become NaN or infinite; names the step and the time.

    Example:
        >>> from pushforward.solvers import Executor, plan, solver
        >>> from pushforward.models import Linear, prediction
        >>> euler = plan(solver("euler"), [0.0, 0.5, 1.0]).lower(prediction("velocity", Linear())).optimise()
        >>> run = Executor(euler, torch.zeros(1, 2))
        >>> for request in run:
        ...     run.supply([torch.ones(1, 2)])
        >>> run.result
        tensor([[1., 1.]])

    """

    def __init__(
        self,
        plan: Plan,
        x0: Tensor,
        *,
        seed: int = 0,
        samples: Tensor | None = None,
        hooks: Sequence[Hook] = (),
        transforms: Mapping[str, TransformFunction] | None = None,
        check: Check = "fused",
        differentiable: bool = False,
    ) -> None:
        check_run(plan, x0, hooks, transforms or {}, check)
        self.plan, self.hooks, self.transforms, self.check = plan, tuple(hooks), dict(transforms or {}), check
        self.seed, self.samples, self.differentiable = seed, samples, differentiable
        self.key: kernels.Noise | None = None
        start = x0 if differentiable else x0.detach()
        start = start if is_dense(start) else start.contiguous()
        self.shape, self.dtype, self.device, self.strides = start.shape, start.dtype, start.device, start.stride()
        self.extent = start.numel() * start.element_size()
        self.values: dict[Register, Tensor] = {plan.start: start}
        if not differentiable:
            buffers = [torch.empty_like(start) for _ in {buffer for _, buffer in plan.buffers}]
            self.values.update((register, buffers[buffer]) for register, buffer in plan.buffers)
        self.fused = check == "fused" and self.device.type == "cpu"
        by_channel = plan.channels is not None
        self.linear: Callable[..., Any] = combine_by_channel if by_channel else kernels.combine
        self.settle: Callable[..., kernels.PreparedCombine] = prepare_by_channel if by_channel else kernels.prepare
        self.irregular: set[Register] = set()  # foreign tensors whose strides are not the state's
        self.pending: Request | None = None
        self.position = self.evaluated = 0
        self.operations = [] if differentiable else self.bind()  # with a graph nothing is written to twice, so bound

    # --- binding: everything that does not change from call to call ---------------------------------------------

    def bind(self) -> list[Operation]:
        """Each instruction with what it needs, in plain records: an executor is in no reference cycle."""
        operations: list[Operation] = []
        last, index, held = last_reads(self.plan.instructions), 0, set[Register]()
        for position, instruction in enumerate(self.plan.instructions):
            foreign = [r for r in reads(instruction) if r not in self.values and r != self.plan.result]
            dying = tuple([r for r in foreign if last[r] == position])
            match instruction:
                case Evaluate():
                    known = None if instruction.base is not None else self.values.get(instruction.input)
                    source = cast(Tensor, known)  # None until all is known: see complete()
                    outs, kept = instruction.outs, tuple(held)
                    request = Request(source, instruction.time, instruction.labels, instruction.step, index, outs, kept)
                    operations.append(request)
                    held.update(instruction.outs)
                    index += 1
                case Combine():
                    operations.append(self.bind_combine(instruction, dying))
                case Transform():
                    operations.append(Bound(instruction, dying))
                    held.add(instruction.out)
                case Boundary():
                    operations.append(Bound(instruction, dying))
            held.difference_update(dying)
        return operations

    def bind_combine(self, combine: Combine, dying: tuple[Register, ...]) -> Bound:
        """A call bound to buffers and coefficients."""
        given = [self.values.get(register) for register in combine.inputs]
        changing = tuple([r for r, value in zip(combine.inputs, given, strict=True) if value is None])
        outs = [self.values[register] for register in combine.outs]
        scales = combine.scales or None
        prepared = self.settle(given, combine.matrix, outs, noise=self.noise(combine), scale=scales)
        return Bound(combine, dying, prepared, changing)

    def noise(self, combine: Combine) -> list[kernels.Noise] | None:
        """The draws of the combination, keyed for this run."""
        if self.key is None and combine.draws:
            self.key = kernels.Noise(self.seed, combine.draws[0], self.samples)
        return [self.key.at(draw) for draw in combine.draws] or None if self.key else None

    # --- the run ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if self.pending is not None:
            raise PlanError(
                "executor", got="a request for the next evaluation", expected="supply() for the last one first"
            )
        if self.differentiable:
            return self.next_unbound()
        operations, values = self.operations, self.values
        while self.position < len(operations):
            operation = operations[self.position]
            self.position += 1
            if isinstance(operation, Request):
                self.pending = operation
                if operation.input is None:
                    self.complete(operation)
                return operation
            if operation.prepared is None or (self.irregular and not self.irregular.isdisjoint(operation.changing)):
                self.execute(operation)
            elif operation.prepared(*[values[register] for register in operation.changing]) and self.fused:
                raise not_finite(self, cast(Combine, operation.instruction))
            for register in operation.dying:
                del values[register]
        self.finish()
        raise StopIteration

    def next_unbound(self) -> Request:
        """The next request of a run whose every result is a new tensor."""
        plan, values = self.plan, self.values
        instructions, dying = plan.instructions, plan.dying
        for position in range(self.position, len(instructions)):
            instruction = instructions[position]
            if isinstance(instruction, Combine):
                self.combine(instruction)
            elif isinstance(instruction, Evaluate):
                source, outs, index = values[instruction.input], instruction.outs, self.evaluated
                self.pending = Request(source, instruction.time, instruction.labels, instruction.step, index, outs)
                self.complete(self.pending)
                self.position, self.evaluated = position + 1, index + 1
            else:
                self.execute(Bound(instruction, ()))
            for register in dying[position]:
                del values[register]
            if self.pending is not None:
                return self.pending
        self.position = len(instructions)
        self.finish()
        raise StopIteration

    def complete(self, request: Request) -> None:
        """Fill in what was not known when the request was bound."""
        evaluation = self.plan.evaluations[request.index]
        request.input = self.values[evaluation.input]
        request.base = None if evaluation.base is None else self.values[evaluation.base]

    def supply(self, outputs: Sequence[Tensor]) -> None:
        """Answer the pending request: one output for each of its branches, of the state's shape, dtype and device."""
        request = self.pending
        if request is None:
            raise PlanError("executor", got="an output", expected="a pending request: iterate first")
        if len(outputs) != len(request.registers):
            raise ArgumentError(
                "outputs", got=f"{len(outputs)} tensors", expected=f"one for each of {request.branches}"
            )
        for register, output in zip(request.registers, outputs, strict=True):
            if (
                not isinstance(output, Tensor)
                or output.shape != self.shape
                or output.dtype is not self.dtype
                or output.device != self.device
            ):
                raise mismatch(where(request), output, self)
            if not self.differentiable:
                output = self.adopt(output, register, request)
            self.values[register] = output
            if self.check == "before" and not bool(output.isfinite().all()):
                raise not_finite_output(self, request, output)
        self.pending = None

    def adopt(self, output: Tensor, register: Register, request: Request) -> Tensor:
        """The output as the run keeps it: without a graph, and not in memory that the run will write to."""
        if output.requires_grad:
            output = output.detach()
        if self.lies_in(output, request.input) or (request.base is not None and self.lies_in(output, request.base)):
            # a network that returns its input
            output = output.clone()
        elif request.kept and self.extent and any(self.values[r].data_ptr() == output.data_ptr() for r in request.kept):
            raise ArgumentError(
                where(request),
                got="an output in the memory of an earlier one that is still needed",
                expected="a tensor of its own",
                hint="Clone the output of a compiled or graph-captured network.",
            )
        if output.stride() != self.strides:
            self.irregular.add(register)
        return output

    def finish(self) -> None:
        """The iteration is over."""
        self.result = self.values[self.plan.result]
        if self.check == "fused" and self.device.type != "cpu" and not bool(self.result.isfinite().all()):
            raise NotFiniteError(
                "result",
                got="NaN or infinity",
                expected="finite numbers",
                hint="Run again with check='before' to learn at which step.",
            )

    def run(self, evaluate: EvaluateFunction, *, checkpoint: bool = False) -> Tensor:
        """Drive the run with ``evaluate(input, time, branches) -> outputs`` and return the result.

        Args:
            evaluate: For instance the ``evaluate`` of a bound model.
            checkpoint: Recompute each evaluation in the backward pass instead of keeping its activations; needs
                ``differentiable`` and no hooks.

        """
        if checkpoint:
            from .checkpoint import run_checkpointed

            return run_checkpointed(self, evaluate)
        for request in self:
            self.supply(request.ask(evaluate))
        return self.result

    def execute(self, operation: Bound) -> None:
        """An instruction that is not bound to a kernel call."""
        match operation.instruction:
            case Combine() as combine:
                self.combine(combine)
            case Transform() as transform:
                self.transform(transform)
            case Boundary() as boundary:
                self.boundary(boundary)

    def combine(self, combine: Combine) -> None:
        """The general call, for outputs with strides of their own and for gradients."""
        values = self.values
        inputs, scales = [values[register] for register in combine.inputs], combine.scales or None
        outs = None if self.differentiable else [values[register] for register in combine.outs]
        noise = self.noise(combine) if scales else None
        results = self.linear(inputs, combine.matrix, out=outs, noise=noise, scale=scales)
        values.update(zip(combine.outs, results, strict=True))
        if self.fused and not all([bool(result.isfinite().all()) for result in results]):
            raise not_finite(self, combine)

    def transform(self, instruction: Transform) -> None:
        """Call the user's function, or the one that draws noise."""
        source = self.values[instruction.input]
        if instruction.draw is None:
            out = self.transforms[instruction.name](source, instruction.time)
        else:
            out = scaled_normal(source, instruction.draw, self.seed, self.samples)
        if not self.fits(out):
            place = f"transform {instruction.name!r} at step {instruction.step}, t = {instruction.time:.4g}"
            raise mismatch(place, out, self)
        if not self.differentiable:
            out = out.clone() if self.lies_in(out, source) else out
            if out.stride() != self.strides:
                self.irregular.add(instruction.out)
        self.values[instruction.out] = out

    def boundary(self, instruction: Boundary) -> None:
        """Show the state to every hook, and take what it returns."""
        denoised = None if instruction.denoised is None else self.values[instruction.denoised]
        for hook in self.hooks:
            current = self.values[instruction.state]
            new = hook(StepState(instruction.step, self.plan.steps, instruction.time, current, denoised))
            if new is None:
                continue
            if not instruction.replaceable:
                raise PlanError("hook", got="a new state", expected="None, since it declares replaces_state = False")
            if not self.fits(new):
                raise mismatch(f"hook at the end of step {instruction.step}, t = {instruction.time:.4g}", new, self)
            if self.differentiable:
                self.values[instruction.state] = new
            elif new is not current:
                current.copy_(new)

    def lies_in(self, tensor: Tensor, memory: Tensor) -> bool:
        """Whether it is ``memory``, a tensor like the state, or a view of it."""
        start = memory.data_ptr()
        return start <= tensor.data_ptr() < start + self.extent

    def fits(self, tensor: object) -> bool:
        """Whether it is a tensor like the state."""
        return (
            isinstance(tensor, Tensor)
            and tensor.shape == self.shape
            and tensor.dtype is self.dtype
            and tensor.device == self.device
        )


def check_run(
    plan: Plan, x0: Tensor, hooks: Sequence[Hook], transforms: Mapping[str, TransformFunction], check: str
) -> None:
    """Raise a named error unless these can be run together."""
    if plan.stage != "optimised":
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'optimised'", hint="Call plan.optimise().")
    if check not in ("fused", "before", "off"):
        raise ArgumentError("check", got=repr(check), expected="'fused', 'before' or 'off'")
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        raise DtypeError("x0", got=getattr(x0, "dtype", type(x0).__name__), expected="a floating-point tensor")
    if x0.ndim < 1:
        raise ShapeError("x0", got=list(x0.shape), expected="[B, *D], the batch first")
    plan.check_channels("x0", x0.shape)
    if hooks and not plan.boundaries:
        raise PlanError(
            "hooks", got=f"{len(hooks)}", expected="a plan with boundaries", hint="Optimise it with observe=True."
        )
    if replaces_state(hooks) and not all(boundary.replaceable for boundary in plan.boundaries):
        raise PlanError(
            "hooks",
            got="one that may replace the state",
            expected="a plan optimised with replace=True",
            hint="A hook that only looks declares replaces_state = False.",
        )
    asked = {i.name for i in plan.instructions if isinstance(i, Transform) and i.draw is None}
    missing = asked - transforms.keys()
    if missing:
        raise ArgumentError("transforms", got=sorted(transforms), expected=f"functions for {sorted(missing)}")


def scaled_normal(log_scale: Tensor, draw: kernels.Draw, seed: int, samples: Tensor | None) -> Tensor:
    """Normal noise of the draw times ``exp(log_scale)``, computed in float32 or better."""
    wide = torch.promote_types(log_scale.dtype, torch.float32)
    z = kernels.normal(
        tuple(log_scale.shape), seed=seed, draw=draw, samples=samples, dtype=wide, device=log_scale.device
    )
    return (log_scale.to(wide).exp() * z).to(log_scale.dtype)


def is_dense(x: Tensor) -> bool:
    """Whether the elements fill one piece of memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True
