"""Fitted plans of the bundled models, which ship with the package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ...errors import UnknownNameError
from ...models import BranchWeights, Model
from ...models.fingerprint import fingerprint
from ..solver import FixedGridSolver
from ..solver import solver as solver_of
from .fitted_plan import FittedPlan
from .report import scale_of

FITTED = "fitted"
FOLDER = Path(__file__).parent / "plans"


@lru_cache(maxsize=1)
def bundled_fits() -> tuple[FittedPlan, ...]:
    """All of them.

    Example:
        >>> sorted({plan.steps for plan in bundled_fits()})
        [4, 5, 6, 8, 10]
    """
    found = [FittedPlan.load(path) for path in sorted(FOLDER.glob("*.json"))]
    return tuple(sorted(found, key=lambda plan: (plan.steps, *map(str, plan.guidance))))


def bundled_fit(model: Model, steps: int | None, guidance: BranchWeights | float | None = 1.0) -> FittedPlan:
    """The plan that was fitted to this model, number of steps and guidance: what ``solver="fitted"`` picks.

    Args:
        model: A bundled one, with its own weights.
        steps: Of the plan.
        guidance: Its scale, which has to be one that was fitted, or between two that were fitted together.

    Raises:
        UnknownNameError: There is none; says what there is for this model.

    Example:
        >>> from pushforward.models import load
        >>> bundled_fit(load("digits28-base"), 8, 2.0).steps
        8
    """
    own, scale = fingerprint(model), scale_of(guidance)
    known = [plan for plan in bundled_fits() if plan.fingerprint == own]
    for plan in known:
        if plan.steps == steps and plan.fits(scale):
            return plan
    there = ", ".join(f"{p.steps} steps at guidance {'/'.join(f'{s:g}' for s in p.guidance)}" for p in known)
    raise UnknownNameError(
        "solver",
        got=f"'fitted', {steps} steps, guidance {scale if isinstance(scale, str) else f'{scale:g}'}",
        expected=f"for this model one of: {there}" if known else "a bundled model, with its own weights",
        hint="pf.fit(model, steps, shape) makes one for any model",
    )


def solver_for(
    model: Model, solver: str | FixedGridSolver, steps: int | None, guidance: BranchWeights | float | None
) -> FixedGridSolver:
    """A solver by name or as an object, for a run of this model: "fitted" is the one that ships for it.

    A fitted plan warns where it meets another model or guidance than it was fitted to.

    Raises:
        UnknownNameError: No such solver, or none that was fitted to this.

    Example:
        >>> from pushforward.models import load
        >>> solver_for(load("digits28-small"), "heun", 4, 1.0).order
        2
    """
    if solver == FITTED:
        return bundled_fit(model, steps, guidance)
    chosen = solver_of(solver)
    if isinstance(chosen, FittedPlan):
        chosen.check_use(model, guidance)
    return chosen
