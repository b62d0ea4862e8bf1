"""Times of a run: a solver's own, or those of a grid; asked in one place by everything that plans a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import GridError
from ..models import Interpolant
from .grids import GridFunction, grid
from .solver import FixedGridSolver

UNIFORM = "uniform"  # the default of most callers, which therefore asks for nothing


def run_times(
    solver: FixedGridSolver,
    asked: str | GridFunction | Sequence[float] | None,
    steps: int | None,
    path: Interpolant,
) -> tuple[float, ...]:
    """The times that a solver was made for, unless others are asked for; of most solvers those of the grid.

    Args:
        solver: The method.
        asked: As ``name`` in :func:`pushforward.solvers.grid`. None and "uniform" leave it to a solver that has a grid
            of its own; other times than those it refuses when it is planned.
        steps: Number of steps; None where the grid or the solver knows it.
        path: That the times are on.

    Raises:
        GridError: Another number of steps than the solver's own.
        PushforwardError: As :func:`pushforward.solvers.grid`.

    Example:
        >>> from pushforward.models import Linear
        >>> from pushforward.solvers import solver
        >>> from pushforward.solvers.ode.fitted import FittedMultistep
        >>> run_times(solver("euler"), None, 2, Linear())
        (0.0, 0.5, 1.0)
        >>> run_times(FittedMultistep((0.0, 0.3, 1.0), ((0.3,), (0.8, -0.1)), Linear()), "uniform", None, Linear())
        (0.0, 0.3, 1.0)
    """
    own = None if asks(asked) else solver.times_on(path)
    if own is None:
        return grid(UNIFORM if asked is None else asked, steps, path)
    if steps not in (None, len(own) - 1):
        raise GridError("steps", got=steps, expected=f"{len(own) - 1}: {solver} has a grid of its own")
    return own


def asks(asked: str | GridFunction | Sequence[float] | None) -> bool:
    """Whether a grid is one that somebody asked for, and no default."""
    return asked is not None and not (isinstance(asked, str) and asked == UNIFORM)
