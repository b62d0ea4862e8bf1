"""A run as a plan over what the network returns, written once for every caller."""

from __future__ import annotations

from functools import lru_cache

from ..models import BranchWeights, Interpolant, Prediction
from ..models.capabilities import check_source_is_noise
from .plan import Plan
from .solver import FixedGridSolver, LastStep, plan


@lru_cache(maxsize=256)
def lowered_plan(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    path: Interpolant,
    prediction: Prediction,
    guidance: BranchWeights | None,
    transform: str | None = None,
    last_step: LastStep = "auto",
) -> Plan:
    """A run over ``times`` of ``path``, with states and network on the prediction's own path, not optimised.

    Kept, since every argument is immutable and so is the plan.
    """
    if solver.stochastic:
        check_source_is_noise(prediction, "a stochastic solver")
    written = plan(
        solver,
        times,
        path,
        prediction=prediction.on(path),
        transform=transform,
        last_step=last_step,
        restarts=() if guidance is None else guidance.restart_steps(times, path),
    )
    return written.on(prediction.interpolant).lower(prediction, guidance)
