"""What a solver is, where solvers are registered, and how one becomes a plan."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import ClassVar, Literal, TypeVar

from ..errors import ArgumentError, GridError, PlanError, SingularTimeError, UnknownNameError
from ..models import Interpolant, Linear, Prediction
from ..models import prediction as make_prediction
from .plan import Plan, StepBuilder, denoising_step

LastStep = Literal["auto", "denoise", "solver"]


class FixedGridSolver(ABC):
    """A method that goes from one grid time to the next; write ``step``, declare ``order`` and ``source``, register it.

    Subclasses are frozen dataclasses whose fields are the method's options.

    Attributes:
        order: Order of convergence: the error at a fixed time is O(h^order); for stochastic methods the weak order.
        source: Where the method comes from.
        stochastic: Whether steps draw noise.
        denoises_last: Whether a step to sigma = 0 is replaced by the clean estimate, because the method's own step is
            singular there.
        consistency: Whether the clean estimate must be the end of the trajectory through (x, t), a consistency
            function, rather than the posterior mean. Such a solver makes no error of its own, on any grid.

    """

    order: int
    source: str
    stochastic: ClassVar[bool] = False
    denoises_last: ClassVar[bool] = False
    consistency: ClassVar[bool] = False

    @property
    def starting_steps(self) -> int:
        """How many steps at the beginning are unlike the regular one: none, for methods that need no history."""
        return 0

    @abstractmethod
    def step(self, s: StepBuilder) -> None:
        """Write one step with the builder's symbols, ending in ``s.advance``."""

    def at_full_order(self) -> FixedGridSolver:
        """The same method without the low-order first and last steps that cap the order of its runs, if it has any."""
        return self

    def times_on(self, interpolant: Interpolant) -> tuple[float, ...] | None:
        """The only grid that the method is for, on this path; None where any will do."""
        del interpolant
        return None

    @property
    def evaluations_per_step(self) -> int:
        """Network evaluations of a step once the method has started, counted on a plan of eight steps."""
        counts = [0] * 8
        for evaluation in plan(self, [0.1 + 0.1 * i for i in range(9)], Linear()).evaluations:
            counts[evaluation.step] += 1
        return counts[-2]

    @property
    def name(self) -> str:
        """The registered name whose preset options this solver has; the class's own name if there is none."""
        for name, entry in REGISTRY.items():
            if entry.kind is type(self) and all(getattr(self, key) == value for key, value in entry.preset.items()):
                return name
        return type(self).__name__

    def __str__(self) -> str:
        preset = REGISTRY[self.name].preset if self.name in REGISTRY else {}
        default = self.name in REGISTRY and REGISTRY[self.name]()
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
            if field.name not in preset and (not default or getattr(self, field.name) != getattr(default, field.name))
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


Solver = TypeVar("Solver", bound=type[FixedGridSolver])


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered name: the class, and the options that the name fixes."""

    kind: type[FixedGridSolver]
    preset: dict[str, object]

    def __call__(self, **options: object) -> FixedGridSolver:
        """The solver with these options."""
        try:
            return self.kind(**{**self.preset, **options})
        except TypeError as error:
            known = [f.name for f in dataclasses.fields(self.kind) if f.init]  # type: ignore[arg-type]
            raise ArgumentError("options", got=sorted(options), expected=f"some of {known}") from error


REGISTRY: dict[str, Entry] = {}


def register(name: str, **preset: object) -> Callable[[Solver], Solver]:
    """Class decorator: make the solver known under ``name``, with some options preset."""

    def add(kind: Solver) -> Solver:
        if name in REGISTRY:
            raise ArgumentError("name", got=repr(name), expected="a name that is not registered yet")
        REGISTRY[name] = Entry(kind, preset)
        return kind

    return add


def solver(name: str | FixedGridSolver, **options: object) -> FixedGridSolver:
    """The registered solver of that name, with its options; a solver itself passes through.

    Example:
        >>> solver("ddim", eta=0.5).order
        1

    Raises:
        UnknownNameError: No solver has that name; the message lists those there are.
        ArgumentError: An option that the solver does not have, or a value outside its range.

    """
    if isinstance(name, FixedGridSolver):
        if options:
            raise ArgumentError("options", got=sorted(options), expected="none beside a solver object")
        return name
    if name not in REGISTRY:
        raise UnknownNameError("solver", got=repr(name), expected=f"one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name](**options)


def registered_options(solver: FixedGridSolver) -> tuple[str, dict[str, object]]:
    """A registered solver as its name and all its options, ready for JSON; ``solver(name, **options)`` is the inverse.

    Raises:
        ArgumentError: An option that JSON cannot hold.

    Example:
        >>> registered_options(solver("ab2"))
        ('ab2', {'order': 2})
    """
    own = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}  # type: ignore[arg-type]
    try:
        json.dumps(own, allow_nan=True)
    except TypeError as error:
        hint = "Pass the solver's name and solver_options that JSON can hold"
        raise ArgumentError("solver", got=str(solver), expected="options of numbers and names", hint=hint) from error
    return solver.name, own


def solvers() -> Iterator[tuple[str, FixedGridSolver]]:
    """Every registered name with its solver, in order of registration."""
    for name, entry in REGISTRY.items():
        yield name, entry()


def check_grid(grid: Sequence[float], interpolant: Interpolant) -> tuple[float, ...]:
    """The grid as float64 values, if it is one.

    Raises:
        GridError: Fewer than two times, a time that is not finite or outside [0, 1], or times that are neither
            strictly increasing nor strictly decreasing. Names the first offender.

    """
    times = tuple(float(t) for t in grid)
    if len(times) < 2:
        raise GridError("grid", got=f"{len(times)} times", expected="at least 2 (the start and the end)")
    for index, t in enumerate(times):
        if not (math.isfinite(t) and 0 <= t <= 1):
            raise GridError(
                f"grid[{index}]",
                got=t,
                expected="a time in [0, 1], 0 = noise, 1 = data",
                hint=f"Noise levels become times by {interpolant.name}'s time_at_noise_ratio.",
            )
    rising = times[-1] > times[0]
    for index, (t, t_next) in enumerate(itertools.pairwise(times)):
        if t_next == t or (t_next > t) != rising:
            raise GridError(
                f"grid[{index + 1}]",
                got=f"{t_next} after {t}",
                expected="strictly increasing times (noise to data) or strictly decreasing ones",
            )
    return times


def plan(
    solver: FixedGridSolver,
    grid: Sequence[float],
    interpolant: Interpolant | None = None,
    *,
    prediction: Prediction | None = None,
    transform: str | None = None,
    last_step: LastStep = "auto",
    restarts: Collection[int] = (),
) -> Plan:
    """The solver's whole run over ``grid`` as a program, before any network is known.

    Args:
        solver: The method.
        grid: Times in [0, 1], strictly increasing (noise to data) or strictly decreasing (data to noise).
        interpolant: The path; the linear one by default.
        prediction: What the network will return; decides only where it may be called. A velocity by default.
        transform: Name of a function applied to every clean estimate (thresholding, projection); the solver's other
            quantities then follow from its result. The function is bound to the name when the plan is run.
        last_step: "auto" ends in denoised form where the solver's own last step would evaluate the network at a time
            at which it does not determine the quantity, or has never been trained (clean data, unless it predicts a
            velocity); "denoise" always does; "solver" never does.
        restarts: Steps that begin with no memory of earlier ones, as where the network changes.

    Raises:
        GridError: The grid is not one; see :func:`check_grid`.
        SingularTimeError: A step needs a quantity that the network does not determine there, and denoising cannot help.

    """
    interpolant = interpolant or Linear()
    if last_step not in ("auto", "denoise", "solver"):
        raise ArgumentError("last_step", got=repr(last_step), expected="'auto', 'denoise' or 'solver'")
    times = check_grid(grid, interpolant)
    prediction = prediction or make_prediction("velocity", interpolant)
    builder = StepBuilder(interpolant, times, prediction, transform, evaluate_clean=last_step == "solver")
    notes: list[str] = []
    for step in range(len(times) - 1):
        if step:
            builder.next_step()
        if step in restarts:
            builder.restart()
        note = write_step(solver, builder, last_step)
        if note:
            notes.append(note)
    return Plan(
        str(solver),
        interpolant,
        times,
        tuple(builder.instructions),
        0,
        builder.state,
        notes=tuple(notes),
        sources=(solver.source,),
        blocks=tuple(builder.blocks),
    )


def write_step(solver: FixedGridSolver, builder: StepBuilder, last_step: LastStep) -> str | None:
    """One step, by the solver or in denoised form; says so in the latter case."""
    final = builder.index == builder.steps - 1
    singular_end = final and solver.denoises_last and 0.0 in (builder.sigma_next, builder.alpha_next)
    if final and (last_step == "denoise" or (last_step == "auto" and singular_end)):
        denoising_step(builder)
        return f"the last step {closing(builder)}"
    snapshot = builder.snapshot()
    try:
        solver.step(builder)
    except SingularTimeError as error:
        if not final or last_step == "solver":
            raise
        builder.rollback(snapshot)
        denoising_step(builder)
        return f"the last step {closing(builder)} ({error})"
    if not builder.advanced:
        raise PlanError(f"{solver.name}.step", got="no new state", expected="a call of s.advance")
    return None


def closing(builder: StepBuilder) -> str:
    """What :func:`denoising_step` did, in words."""
    return "returns the clean estimate" if builder.interpolant.one_sided else "is Euler's in the velocity"
