"""A plan fitted to the reference mixture, small and quick, and others of the same coefficients."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import torch

import pushforward as pf
from pushforward.solvers import FittedPlan
from pushforward.solvers.ode.fitted import FittedMultistep

MODEL = pf.models.reference_mixture().model()


@lru_cache(maxsize=1)
def fitted() -> FittedPlan:
    """Four steps with all outputs, by least squares."""
    few = {"pairs": 32, "rounds": 0, "polish": 0, "reference_steps": 8}
    plan = pf.fit(MODEL, 4, (2,), grid="cosine", dtype=torch.float64, **few)
    assert plan.gained
    return plan


def begun_at(first: float) -> FittedPlan:
    """The same coefficients on a grid that begins later, and asks a quarter of a step after that."""
    second = fitted().times[1]
    return with_formula(fitted(), times=(first, *fitted().times[1:]), opening=first + (second - first) / 4)


def without_memory() -> FittedPlan:
    """Only the newest coefficient of each step."""
    formula = fitted().solver
    assert isinstance(formula, FittedMultistep)
    return with_formula(fitted(), weights=tuple(row[:1] for row in formula.weights))


def with_formula(plan: FittedPlan, **changes: object) -> FittedPlan:
    """The plan with another formula."""
    formula = dataclasses.replace(plan.solver, **changes)
    assert isinstance(formula, FittedMultistep)
    return dataclasses.replace(plan, solver=formula, times=formula.times)
