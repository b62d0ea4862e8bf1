"""Where grids are registered, and how a name, an object or times become the times of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from ...errors import ArgumentError, GridError, UnknownNameError
from ...models import Interpolant
from ...models.registry import registration

GridFunction: TypeAlias = Callable[[int, Interpolant], tuple[float, ...]]
Kind = TypeVar("Kind", bound=type)

GRIDS: dict[str, type] = {}


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the grid known under ``name``."""
    return registration(GRIDS, name)


def grid(
    name: str | GridFunction | Sequence[float], steps: int | None, interpolant: Interpolant, **options: object
) -> tuple[float, ...]:
    """Times of a run: a registered grid by name, a grid object, or the times themselves.

    Args:
        name: A registered name ("uniform", "shifted", "dynamic_shift", "cosine", "sway", "beta", "karras",
            "exponential", "arctan", "ays", "indices", ...), a function ``(steps, interpolant) -> times``, or a sequence
            of times, which then decides the number of steps.
        steps: Number of steps, at least 1. It may be None with explicit times and with objects that have a number of
            steps of their own (:class:`NoiseRatios`, :class:`Timesteps`, :class:`OptimisedGrid`), and must otherwise
            agree with them.
        interpolant: The path; grids of noise levels need it.
        options: Passed to the registered grid.

    Returns:
        ``steps + 1`` times.

    Raises:
        UnknownNameError: No grid has that name.
        ArgumentError: ``steps`` is missing or below 1, or an option is out of range.
        GridError: Explicit times do not fit ``steps``.

    Example:
        >>> from pushforward.models import Linear
        >>> grid("shifted", 4, Linear(), shift=3.0)
        (0.0, 0.1, 0.25, 0.5, 1.0)

    """
    if not isinstance(name, str) and not callable(name):
        times = tuple(float(t) for t in name)
        if steps is not None and steps != len(times) - 1:
            raise GridError("grid", got=f"{len(times)} times", expected=f"{steps + 1} (for {steps} steps)")
        return times
    if steps is None:
        steps = getattr(name, "steps", None)
    if steps is None:
        raise ArgumentError("steps", got=None, expected="an integer, at least 1, or explicit times as grid")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ArgumentError("steps", got=repr(steps), expected="an integer, at least 1")
    if not isinstance(name, str):
        return tuple(name(steps, interpolant))
    if name not in GRIDS:
        raise UnknownNameError("grid", got=repr(name), expected=f"one of {', '.join(GRIDS)}, or times")
    try:
        function = GRIDS[name](**options)
    except TypeError as error:
        raise ArgumentError("grid_options", got=sorted(options), expected=f"options of {name}") from error
    return function(steps, interpolant)


def fractions(steps: int) -> list[float]:
    """``i / steps`` for i = 0 .. steps."""
    return [i / steps for i in range(steps + 1)]
