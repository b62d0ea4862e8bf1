"""A plan compiled for one model, one shape and one dtype: everything that varies from run to run is data."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import kernels
from ..errors import DeviceError, DtypeError, NotFiniteError, PlanError, ShapeError
from ..models import Model
from ..models.trees import tree_map
from .executor import Check, Executor
from .plan import Plan
from .start import check_starts_at_noise, initial_noise, network_device

Condition: TypeAlias = Mapping[str, Any] | None
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Runs a function, and returns what runs it again on the same memory, and the tensor that its result is in."""


class CompileWarning(UserWarning):
    """A plan runs as it would without compilation, and the message says why."""


@dataclass(frozen=True, eq=False)
class CompiledPlan:
    """A plan with the network that runs it, ready for states of one shape and dtype. Made by :meth:`Plan.compile`.

    A graph has one memory: let one thread at a time call it.

    Attributes:
        plan: What runs.
        model: With compiled networks; the model as it was where no compiler works.
        shape, dtype, device: Of the states.
        signature: Shapes and dtypes of the conditions.
        how: "graph" (one CUDA graph for the run), "network" (compiled networks) or "eager".
        difference: Largest relative difference of a compiled network's output from the plain one, in norm, as measured
            when it was compiled; 0 if "eager".
        seconds: What compiling took.
    """

    plan: Plan
    model: Model
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    signature: tuple[tuple[str, object], ...]
    how: str
    difference: float
    seconds: float
    graph: Graph | None = field(default=None, repr=False)

    @torch.no_grad()
    def __call__(
        self,
        start: Tensor | None = None,
        *,
        condition: Condition = None,
        null: Condition = None,
        seed: int = 0,
        samples: Tensor | None = None,
        check: Check = "fused",
    ) -> Tensor:
        """Samples, as :func:`pushforward.sample` would draw them with this plan, to ``difference`` an evaluation.

        Args:
            start: State at ``plan.grid[0]``; noise keyed by seed and sample by default.
            condition, null: As in :meth:`Model.bind`, of the shapes and dtypes that the plan was compiled for.
            seed, samples, check: As in :class:`Executor`.

        Raises:
            ShapeError, DtypeError, DeviceError: A state or condition that the plan was not compiled for.
        """
        if start is None:
            check_starts_at_noise(self.plan, "start", "a tensor there")
            wanted = {"dtype": self.dtype, "device": self.device}
            start = initial_noise(self.plan, self.model.prediction, self.shape, seed=seed, samples=samples, **wanted)
        self.check_state(start)
        check_signature(self.signature, signature(condition, null))
        if self.graph is not None:
            result = self.graph(start, condition, null)
            if check != "off" and not bool(result.isfinite().all()):
                hint = "Run the plan with an Executor and check='before' to learn at which step"
                raise NotFiniteError("result", got="NaN or infinity", expected="finite numbers", hint=hint)
            return result
        network = self.model.bind(condition, null)
        return Executor(self.plan, start, seed=seed, samples=samples, check=check).run(network.evaluate)

    def check_state(self, x: Tensor) -> None:
        """Refuse a state that the plan was not compiled for.

        Raises:
            ShapeError, DtypeError, DeviceError: It is one.
        """
        hint = "Compile the plan for it: plan.compile(model, shape, dtype)"
        if tuple(x.shape) != self.shape:
            raise ShapeError("start", got=list(x.shape), expected=f"{list(self.shape)}, as compiled", hint=hint)
        if x.dtype != self.dtype:
            raise DtypeError("start", got=x.dtype, expected=f"{self.dtype}, as compiled", hint=hint)
        if x.device.type != self.device.type:
            raise DeviceError("start", got=x.device, expected=f"{self.device}, as compiled", hint=hint)


class Graph:
    """A run captured once, on memory of its own: each call copies its arguments there and its result away.

    Args:
        run: The run of a state under conditions.
        start, condition, null: What it is captured with.
        capture: Who records it.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Condition, Condition], Tensor],
        start: Tensor,
        condition: Condition,
        null: Condition,
        capture: Capture,
    ) -> None:
        def own(path: str, leaf: Any) -> Any:
            return leaf.to(start.device, copy=True) if isinstance(leaf, Tensor) else leaf

        self.start = start.clone()
        self.conditions = tree_map(own, [condition, null])
        self.replay, self.result = capture(lambda: run(self.start, *self.conditions))

    def __call__(self, start: Tensor, condition: Condition, null: Condition) -> Tensor:
        """The result, in memory of its own."""

        def fill(path: str, place: Any, leaf: Any) -> None:
            if isinstance(place, Tensor):
                place.copy_(leaf)

        self.start.copy_(start)
        tree_map(fill, self.conditions, [condition, null])
        self.replay()
        return self.result.clone()


def capture_cuda(function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """The function as a CUDA graph, after warm-up runs on a stream of their own, as capturing needs them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


KNOWN: weakref.WeakKeyDictionary[Model, dict[object, CompiledPlan]] = weakref.WeakKeyDictionary()
"""What has been compiled for each model that is still in use."""


@torch.no_grad()
def compile_plan(
    plan: Plan,
    model: Model,
    shape: Sequence[int],
    dtype: torch.dtype | None = None,
    *,
    condition: Condition = None,
    null: Condition = None,
    device: torch.device | str | None = None,
    backend: str = "inductor",
    options: Mapping[str, Any] | None = None,
    capture: Capture | None = None,
) -> CompiledPlan:
    """See :meth:`Plan.compile`."""
    if plan.stage != "optimised":
        raise PlanError("plan.stage", got=repr(plan.stage), expected="'optimised'", hint="Call plan.optimise()")
    size, dtype = tuple(shape), dtype or torch.float32
    if not size or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise ShapeError("shape", got=size, expected="[B, *D], positive integers")
    if not dtype.is_floating_point:
        raise DtypeError("dtype", got=dtype, expected="a floating-point dtype")
    plan.check_channels("shape", size)
    where, given = torch.device(device or network_device(model)), signature(condition, null)
    key = (plan, size, dtype, where, given, backend, tuple(sorted((options or {}).items())), capture)
    known = KNOWN.setdefault(model, {})
    if key not in known:
        known[key] = Compilation(plan, model, size, dtype, where, condition, null).run(backend, options, capture)
    return known[key]


@dataclass(frozen=True, eq=False)
class Compilation:
    """What is to be compiled, and an example to try it on."""

    plan: Plan
    model: Model
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    condition: Condition
    null: Condition

    def run(self, backend: str, options: Mapping[str, Any] | None, capture: Capture | None) -> CompiledPlan:
        """Compile the networks, then, on a CUDA device, capture the whole run; do without what fails."""
        began = time.perf_counter()
        model, how, difference = self.model, "eager", 0.0
        expected = list(self.outputs(self.model))  # first, so that an error of the network is raised as its own
        if expected:
            try:
                candidate = self.model.with_networks(compiler(backend, options))
                difference = max(map(relative, self.outputs(candidate), expected))
                if not difference <= self.tolerance:
                    raise ArithmeticError(f"its outputs differ by {difference:.2g}, more than {self.tolerance:.2g}")
                model, how = candidate, "network"
            except Exception as error:  # whatever a compiler fails with: the plan runs without it
                difference = 0.0
                self.warn(f"torch.compile with {backend!r} failed ({summary(error)})", "the network runs uncompiled")
        graph = None
        capture = capture or (capture_cuda if self.device.type == "cuda" else None)
        if capture is not None and not self.plan.stochastic:  # a graph would draw the noise of one seed for ever
            try:
                graph, how = Graph(self.runner(model), self.normal(2), self.condition, self.null, capture), "graph"
            except Exception as error:
                self.warn(f"capturing the run failed ({summary(error)})", "its kernels are launched one by one")
        seconds, given = time.perf_counter() - began, signature(self.condition, self.null)
        fields = (self.plan, model, self.shape, self.dtype, self.device, given)
        return CompiledPlan(*fields, how, difference, seconds, graph)

    def runner(self, model: Model) -> Callable[[Tensor, Condition, Condition], Tensor]:
        """A whole run that reads nothing back."""

        def run(start: Tensor, condition: Condition, null: Condition) -> Tensor:
            return Executor(self.plan, start, check="off").run(model.bind(condition, null).evaluate)

        return run

    def outputs(self, model: Model) -> Iterator[Tensor]:
        """Every kind of evaluation that the plan makes, once, on noise: what there is to compile."""
        bound, seen = model.bind(self.condition, self.null), set[object]()
        for evaluation in self.plan.evaluations:
            kind = (evaluation.labels, evaluation.base is None)
            if kind not in seen:
                seen.add(kind)
                base = None if evaluation.base is None else self.normal(1)
                yield from bound.evaluate(self.normal(0), evaluation.time, evaluation.labels, base)

    def normal(self, stage: int) -> Tensor:
        """Noise of the states' shape."""
        draw = kernels.Draw(kernels.PURPOSE_INITIAL, 0, stage)
        return kernels.normal(self.shape, seed=0, draw=draw, dtype=self.dtype, device=self.device)

    @property
    def tolerance(self) -> float:
        """Half of the digits of the coarsest dtype: less than that is rounding in another order."""
        dtypes = [dtype for dtype in (self.dtype, self.model.dtype) if dtype is not None]
        return max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5

    def warn(self, what: str, then: str) -> None:
        """Say once what did not work: the outcome is kept."""
        warnings.warn(f"{what}: {then}", CompileWarning, stacklevel=5)


def compiler(backend: str, options: Mapping[str, Any] | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What compiles a network for the shapes it meets."""
    own = None if options is None else dict(options)
    return lambda network: torch.compile(network, dynamic=False, backend=backend, options=own)


def relative(output: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    norm = expected.double().norm().item()
    return (output.double() - expected.double()).norm().item() / (norm or 1.0)


def summary(error: Exception) -> str:
    """The kind of an error, and its first line."""
    error = getattr(error, "inner_exception", error)  # torch wraps what a backend raises
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def signature(condition: Condition, null: Condition) -> tuple[tuple[str, object], ...]:
    """Paths of the leaves with the shape and dtype of tensors, and with other values as they are written."""
    found: list[tuple[str, object]] = []

    def note(path: str, leaf: Any) -> None:
        found.append((path, (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf)))

    for name, tree in (("condition", condition), ("null", null)):
        tree_map(note, {} if tree is None else dict(tree), path=name)
    return tuple(found)


def check_signature(compiled: tuple[tuple[str, object], ...], given: tuple[tuple[str, object], ...]) -> None:
    """Refuse conditions that the plan was not compiled for.

    Raises:
        ShapeError: Names the first that differs.
    """
    if compiled == given:
        return
    expected, found = dict(compiled), dict(given)
    name = next(path for path in [*expected, *found] if expected.get(path) != found.get(path))
    hint = "Compile the plan with condition= of these shapes"
    raise ShapeError(name, got=str(found.get(name)), expected=f"{expected.get(name)}, as compiled", hint=hint)
