"""Regeneration: the noise that a search has found, sampled again in another number of steps."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...errors import ArgumentError
from ..particles import Particles
from ..plan import Plan
from .front import Front
from .plans import start_of, whole_plan
from .task import Task


class Regenerating(Protocol):
    """Methods that search with one number of steps and finish with another."""

    @property
    def search_steps(self) -> int | None:
        """K_s, of every candidate; None for the task's."""
        ...

    @property
    def final_steps(self) -> int | None:
        """K_f, of the winner; None to keep the sample that was found."""
        ...


def search_plan(task: Task, method: Regenerating) -> Plan:
    """What candidates are sampled with."""
    return whole_plan(task, method.search_steps)


def regeneration_cost(task: Task, method: Regenerating) -> tuple[int, int]:
    """Evaluations and rewards of the winner's second sample.

    Raises:
        ArgumentError: The solver draws noise, which other steps draw otherwise: the first noise does not determine the
            sample.
    """
    if method.final_steps is None:
        return 0, 0
    if task.plan.stochastic:
        expected = "None, or a solver whose samples are determined by the noise they start from"
        raise ArgumentError("final_steps", got=f"{method.final_steps} with {task.plan.solver}", expected=expected)
    return whole_plan(task, method.final_steps).nfe, 1


def regenerate(task: Task, noise: Particles, method: Regenerating, front: Front) -> tuple[Particles, Tensor]:
    """Samples of ``final_steps`` from the winners' noises of the task's first time, and their rewards [S, 1].

    Those are of the second samples in the places of the winners, among the candidates of the search.
    """
    plan = whole_plan(task, method.final_steps)
    particles = task.run(start_of(task, noise, plan), plan, "regenerate")
    verdicts = task.verdicts(particles, plan.steps - 1, "regenerate")
    rewards = front.rescored(task, verdicts[..., None])
    task.note("regenerate", plan.steps - 1, rewards, finished=True)
    return particles, rewards
