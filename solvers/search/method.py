"""What a search method is, and where methods are registered."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ...errors import ArgumentError, BudgetError, UnknownNameError
from ...models.registry import registration
from ..particles import Particles
from ..sde import Diffusion, EulerMaruyama
from ..solver import FixedGridSolver
from .task import Task


@dataclass
class State:
    """Where a search stands between two steps: fields are tensors, particles, numbers, or dataclasses of such.

    Attributes:
        step: How many calls of ``advance`` there were.
        done: Whether the search is over.

    """

    step: int = 0
    done: bool = False


@dataclass
class Outcome:
    """What a method found, before the driver picks the best.

    Attributes:
        particles: Finished samples, N for each of the S requests, in the order of requests.
        rewards: Theirs, float64 [S, N].
        look_ahead: What the search saw of these samples, [S, N]: rewards of their last clean estimates, or of the same
            noises in fewer steps; None where it saw the samples themselves.
        log_weights: Normalised log-weights, [S, N], of methods that weigh their particles.
        log_evidence: Estimate of log E[exp(strength r)], [S], of methods that have one.

    """

    particles: Particles
    rewards: Tensor
    look_ahead: Tensor | None = None
    log_weights: Tensor | None = None
    log_evidence: Tensor | None = None


class Method(ABC):
    """A search method: subclasses are frozen dataclasses of its options, registered by name.

    The driver calls ``begin`` once, then ``advance`` until the state is done, then ``outcome``; between two calls it
    logs and saves. All that a method remembers is in its state.

    Attributes:
        source: Where the method comes from.
        solver, grid, path, steps: What ``search`` samples with unless told otherwise.
        interruptible: Whether it can go the short way to the end when the time is up.
        ranks: Whether it takes a rank ensemble: it compares finished candidates of one request, and nothing else.
        stored: Dataclasses that occur in its states, where its module neither defines nor imports them: a checkpoint
            only holds classes that it can find again.

    """

    source: ClassVar[str]
    solver: ClassVar[FixedGridSolver] = EulerMaruyama(Diffusion("square", 4.5))  # sqrt(2 g) = 3 (1 - t)^2
    grid: ClassVar[str] = "uniform"
    path: ClassVar[str | None] = None
    steps: ClassVar[int] = 10
    interruptible: ClassVar[bool] = True
    ranks: ClassVar[bool] = False
    stored: ClassVar[tuple[type, ...]] = ()

    @abstractmethod
    def begin(self, task: Task) -> State:
        """Check that the budget suffices, draw and evaluate what the search starts from."""

    @abstractmethod
    def advance(self, task: Task, state: Any) -> None:
        """One step of the search; sets ``state.done`` after the last."""

    @abstractmethod
    def outcome(self, task: Task, state: Any) -> Outcome:
        """The finished samples."""

    @property
    def name(self) -> str:
        """The registered name."""
        return next(name for name, kind in METHODS.items() if kind is type(self))


METHODS: dict[str, type[Method]] = {}
Kind = TypeVar("Kind", bound=type[Method])


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the method known under ``name``."""
    return registration(METHODS, name)


def method(name: str | Method, **options: Any) -> Method:
    """The registered method of that name with its options; a method itself passes through.

    Raises:
        UnknownNameError: No method has that name; the message lists those there are.
        ArgumentError: An option that the method does not have, or a value outside its range.

    Example:
        >>> method("best_of_n", candidates=4)
        BestOfN(candidates=4, chunk=None)
    """
    if isinstance(name, Method):
        if options:
            raise ArgumentError("options", got=sorted(options), expected="none beside a method object")
        return name
    if name not in METHODS:
        raise UnknownNameError("method", got=repr(name), expected=f"one of {', '.join(sorted(METHODS))}")
    known = [field.name for field in dataclasses.fields(METHODS[name])]  # type: ignore[arg-type]
    if unknown := sorted(set(options) - set(known)):
        raise ArgumentError("options", got=unknown, expected=f"some of {known}")
    return METHODS[name](**options)


def methods() -> Iterator[tuple[str, Method]]:
    """Every registered name with its method, in order of registration."""
    for name, kind in METHODS.items():
        yield name, kind()


def affordable(
    task: Task,
    what: str,
    asked: int | None,
    *,
    fixed: tuple[int, int] = (0, 0),
    each: tuple[int, int],
    otherwise: int | None = None,
) -> int:
    """How many units of a method every request can pay for, or the number asked for if it can.

    Args:
        task: With the ledger.
        what: Name of the option, for the errors.
        asked: The option's value; None to use up the budget.
        fixed, each: Evaluations and rewards that the method needs in any case, and for each unit.
        otherwise: The number if neither is limited (the time is, then).

    Raises:
        BudgetError: Not enough for one, or for the number asked for; says what is needed.
        ArgumentError: Neither a number nor a limit.
    """
    counts: list[int] = []
    cost, left = task.evaluation_cost, (task.evaluations_left(), task.rewards_left())
    for unit, price, have, base, more in zip(("nfe", "rewards"), (cost, 1), left, fixed, each, strict=True):
        if have is None:
            continue
        least = base + more * (1 if asked is None else asked)
        if have < least:
            details = f"at least {least * price} for {what} = {1 if asked is None else asked}"
            raise BudgetError(f"budget.{unit}", got=have * price, expected=details)
        if more:
            counts.append((have - base) // more)
    if asked is not None:
        return asked
    if not counts and otherwise is None:
        raise ArgumentError(what, got="no number and no limit", expected=f"one of {what}=, budget.nfe, budget.rewards")
    return min(counts) if counts else int(otherwise or 0)


def at_least(name: str, value: int | None, lowest: int, *, most: int | None = None) -> None:
    """Raise unless ``value`` is None or an integer of at least ``lowest``, and at most ``most``."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and lowest <= value and (most is None or value <= most)):
        expected = f"an integer, at least {lowest}" if most is None else f"an integer from {lowest} to {most}"
        raise ArgumentError(name, got=repr(value), expected=expected)
