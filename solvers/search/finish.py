"""The way from where a search ends to the data: the flow, without noise."""

from __future__ import annotations

import math
from typing import Protocol

from ...errors import ArgumentError
from ..plan import Plan, evaluation_at_start
from ..solver import solver
from .plans import optimised_plan
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
    start, steps, prediction = task.transitions[-1].time, method.finish, task.model.prediction
    times = (*(start + (1 - start) * i / steps for i in range(steps)), 1.0)
    path = prediction.interpolant  # the network's own, which states are on
    return optimised_plan(solver(method.finish_solver), times, path, prediction, task.guidance)


def finish_cost(task: Task, method: Finishing) -> int:
    """Evaluations to pay for the finish of a chain, of which the first is that of the last look, known already.

    In units of ``task.evaluation_cost`` rows: where guidance has an interval, the finish may need more of them than the
    search, or fewer.
    """
    if not method.finish:
        return 0
    found = finish_plan(task, method)
    if found.stochastic:  # its normals would be those of the search's first steps
        got, expected = f"{method.finish_solver}, which draws noise", "a solver of the flow, for instance 'ddim'"
        raise ArgumentError("finish_solver", got=got, expected=expected)
    start = evaluation_at_start(found)
    if start is None:
        got = f"{method.finish_solver}, which evaluates elsewhere"
        raise ArgumentError("finish_solver", got=got, expected="a solver that evaluates at the state it starts from")
    passes = sum(len(e.labels) for index, e in enumerate(found.evaluations) if index != start.index)
    return math.ceil(passes / task.evaluation_cost)


def check_searchable(task: Task) -> None:
    """Refuse candidates that would all be the same.

    Raises:
        ArgumentError: No step before the last draws noise.
    """
    before = task.transitions[:-1]
    if before and not any(step.stochastic for step in before):
        got = f"{task.transitions.solver}, which draws no noise before its last step"
        hint = "For instance 'euler_maruyama' or 'ddpm', or candidates=1"
        raise ArgumentError("solver", got=got, expected="steps whose candidates differ", hint=hint)
