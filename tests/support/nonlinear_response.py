"""Expectations of a one-step sampler's result on a mixture in one dimension, by quadrature and without Monte Carlo.

``u_k(x) = E[f(x_N) | x_k = x]`` is computed backwards from ``u_N = f``: a step's map is evaluated for every node of a
Gauss-Hermite rule in each of its normals, and u is interpolated by a spline. The density at the start is exact.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from pushforward import solvers
from pushforward.models import MixtureOracle
from pushforward.solvers import FixedGridSolver
from pushforward.solvers.plan import Combine, Evaluate, Plan

WEIGHTS, MEANS, VARIANCES = (0.3, 0.7), (1.0, -0.6), (0.3, 0.2)
X = np.linspace(-6, 6, 201)
NODES, SHARES = np.polynomial.hermite_e.hermegauss(5)
SHARES = SHARES / SHARES.sum()
FUNCTIONS = (np.square, lambda x: np.cos(2 * x), lambda x: x**3)
START, STOP = 0.1, 0.8


@cache
def oracle() -> MixtureOracle:
    """Two modes, unequal."""
    return MixtureOracle(WEIGHTS, [[m] for m in MEANS], [[[v]] for v in VARIANCES])


def one_step_samplers() -> list[str]:
    """Registered stochastic samplers that remember nothing and draw at most two normals a step."""
    found = []
    for name, solver in solvers.solvers():
        if solver.stochastic and not solver.consistency and not solver.starting_steps and name != "restart":
            draws = {d for i in single(solver, START, 0.2).instructions if isinstance(i, Combine) for d in i.draws}
            if len(draws) <= 2:
                found.append(name)
    return found


def single(solver: FixedGridSolver, t: float, t_next: float) -> Plan:
    """A plan of one step."""
    return solvers.plan(solver, [t, t_next]).lower(oracle().model().prediction)


def density(t: float) -> np.ndarray:
    """Of x_t, at the grid of states."""
    total = np.zeros_like(X)
    for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True):
        variance = t**2 * v + (1 - t) ** 2
        total += w * np.exp(-((X - t * m) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return total


def images(plan: Plan) -> list[tuple[float, np.ndarray]]:
    """Where the step takes every state, for each combination of quadrature nodes, with its share."""
    draws = list(dict.fromkeys(d for i in plan.instructions if isinstance(i, Combine) for d in i.draws))
    found = []
    for choice in itertools.product(range(len(NODES)), repeat=len(draws)):
        z = {draw: NODES[k] for draw, k in zip(draws, choice, strict=True)}
        values = {plan.start: X}
        for instruction in plan.instructions:
            if isinstance(instruction, Evaluate):
                x = torch.from_numpy(values[instruction.input])[:, None]
                values[instruction.outs[0]] = oracle().velocity(x, instruction.time)[:, 0].numpy()
            elif isinstance(instruction, Combine):
                scales = instruction.scales or [()] * len(instruction.outs)
                for out, row, scale in zip(instruction.outs, instruction.matrix, scales, strict=True):
                    noise = sum(w * z[d] for w, d in zip(scale, instruction.draws, strict=True))
                    values[out] = sum(w * values[r] for w, r in zip(row, instruction.inputs, strict=True)) + noise
        found.append((float(np.prod(SHARES[list(choice)])), values[plan.result]))
    return found


def errors(solver: FixedGridSolver, steps: int) -> list[float]:
    """Errors of the expectations of three functions after ``steps`` uniform steps."""
    if hasattr(solver, "s_churn"):  # it is shared among the steps of a run, and a plan here has one
        solver = dataclasses.replace(solver, s_churn=solver.s_churn / steps)  # type: ignore[type-var]
    grid = [START + (STOP - START) * i / steps for i in range(steps + 1)]
    u = np.stack([f(X) for f in FUNCTIONS], axis=1)
    for t, t_next in reversed(list(itertools.pairwise(grid))):
        spline = CubicSpline(X, u)
        u = sum(share * spline(image) for share, image in images(single(solver, t, t_next)))
    exact = [(density(STOP) * f(X)).sum() * (X[1] - X[0]) for f in FUNCTIONS]
    return [abs(float(density(START) @ u[:, k]) * (X[1] - X[0]) - e) for k, e in enumerate(exact)]
