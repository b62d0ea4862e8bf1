"""torchdiffeq's method names: which family each belongs to here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import UnknownNameError
from .adaptive import PAIRS, AdaptiveRun, adaptive_run
from .fixed import ADAMS, FixedRun, fixed_run
from .problem import Problem
from .scipy_solver import ScipyRun, scipy_run
from .stepping import TABLEAUS

METHODS = (*PAIRS, *TABLEAUS, *ADAMS, "scipy_solver")
DEFAULT = "dopri5"


def run_of(problem: Problem, method: str | None, options: Mapping[str, Any]) -> AdaptiveRun | FixedRun | ScipyRun:
    """The run of a problem by the name of its method.

    Raises:
        UnknownNameError: No such method; lists those that there are.
        ArgumentError: An option out of its range.

    """
    name = DEFAULT if method is None else method
    if name in PAIRS:
        return adaptive_run(problem, name, options)
    if name in ADAMS or name in TABLEAUS:
        return fixed_run(problem, name, options)
    if name == "scipy_solver":
        return scipy_run(problem, name, options)
    raise UnknownNameError("method", got=repr(method), expected="one of " + ", ".join(METHODS))
