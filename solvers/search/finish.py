"""The way from where a search ends to the data: the flow, without noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from ...errors import ArgumentError
from ...models import Guidance, Prediction
from ..plan import Plan
from ..solver import plan, solver
from .task import Task


class Finishing(Protocol):
    """Methods with a finish."""

    @property
    def finish(self) -> int:
        """Evaluations."""
        ...

    @property
    def finish_solver(self) -> str:
        """Name of the solver."""
        ...


def finish_plan(task: Task, method: Finishing) -> Plan:
    """``finish`` steps of the flow, uniform in time, from the start of the last transition to the data."""
    return flow(
        method.finish_solver, method.finish, task.transitions[-1].time, task.model.prediction, task.guidance
    ).optimise()


@lru_cache(maxsize=64)
def flow(name: str, steps: int, start: float, prediction: Prediction, guidance: Guidance | None) -> Plan:
    """A lowered plan from ``start`` to 1 on the network's own path."""
    times = [start + (1 - start) * i / steps for i in range(steps)] + [1.0]
    path = prediction.interpolant
    return plan(solver(name), times, path, prediction=prediction).lower(prediction, guidance)


def finish_cost(task: Task, method: Finishing) -> int:
    """Evaluations that the finish of a chain adds: the first is that of the last look, known already."""
    if not method.finish:
        return 0
    found = finish_plan(task, method)
    if found.evaluations[0].input != found.start:
        got = f"{method.finish_solver}, which evaluates elsewhere first"
        raise ArgumentError("finish_solver", got=got, expected="a solver whose first evaluation is at the state")
    return found.nfe - 1


def check_searchable(task: Task) -> None:
    """Refuse candidates that would all be the same.

    Raises:
        ArgumentError: A step before the last draws no noise.
    """
    for index, step in enumerate(task.transitions[:-1]):
        if step.noise == 0:
            got = f"{task.transitions.solver}, whose step {index} at t = {step.time:.4g} draws no noise"
            hint = "For instance 'euler_maruyama' or 'ddpm', or candidates=1"
            raise ArgumentError("solver", got=got, expected="a step whose candidates differ", hint=hint)
