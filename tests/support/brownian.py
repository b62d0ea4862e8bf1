"""Runs of one plan on grids of any fineness along one and the same Brownian path.

A fine path is a list of increments W and space-time areas H; coarser steps aggregate them exactly, so that the
difference of two runs is a path-wise error. Normals may be tensors (sample paths) or coefficient vectors over the fine
normals (on scalar Gaussian data every run is affine in them, and the root mean square error is exact).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import linear_response
import numpy as np
import torch
from problems import START, STOP, Problem

from pushforward import solvers
from pushforward.models import GaussianOracle
from pushforward.solvers import FixedGridSolver, Plan
from pushforward.solvers.plan import Combine, Evaluate

FINEST = 512  # steps of the path; runs whose number of steps divides it may be compared


def coarsened(path: Sequence[tuple[Any, Any]], step: float, factor: int) -> list[tuple[Any, Any]]:
    """The same path in steps ``factor`` times as long: W adds up, and so does the integral of the path."""
    coarse = []
    for k in range(0, len(path), factor):
        total, integral = 0.0, 0.0
        for w, h in path[k : k + factor]:
            integral = integral + step * (total + 0.5 * w + h)
            total = total + w
        coarse.append((total, integral / (factor * step) - 0.5 * total))
    return coarse


def follow(plan: Plan, start: Any, path: Sequence[tuple[Any, Any]], evaluate: Callable[[Any, float], Any]) -> Any:
    """The plan's result along the path: stage 0 of a step draws its increment, stage 1 its area."""
    values = {plan.start: start}
    for instruction in plan.instructions:
        if isinstance(instruction, Evaluate):
            values[instruction.outs[0]] = evaluate(values[instruction.input], instruction.time)
        elif isinstance(instruction, Combine):
            length = abs(plan.grid[1] - plan.grid[0])
            units = [
                path[draw.step][draw.stage] / math.sqrt(length if draw.stage == 0 else length / 12)
                for draw in instruction.draws
            ]
            scales = instruction.scales or [()] * len(instruction.outs)
            for out, row, scale in zip(instruction.outs, instruction.matrix, scales, strict=True):
                terms = [w * values[r] for w, r in zip(row, instruction.inputs, strict=True)]
                values[out] = sum(terms + [w * unit for w, unit in zip(scale, units, strict=True)])
    return values[plan.result]


def uniform(steps: int, backward: bool = False) -> list[float]:
    """The grid of a run, between the ends that all problems share."""
    grid = [START + (STOP - START) * i / steps for i in range(steps + 1)]
    return grid[::-1] if backward else grid


@cache
def coefficient_path() -> list[tuple[np.ndarray, np.ndarray]]:
    """Each W and H of the finest path as a row over (1, start, the fine normals)."""
    step, size = (STOP - START) / FINEST, 2 + 2 * FINEST
    rows = np.eye(size)[2:]
    return [(math.sqrt(step) * w, math.sqrt(step / 12) * h) for w, h in zip(rows[::2], rows[1::2], strict=True)]


def linear_run(solver: FixedGridSolver, steps: int, oracle: GaussianOracle, backward: bool = False) -> np.ndarray:
    """Coefficients of the result on scalar Gaussian data over (1, start, the fine normals)."""
    read = oracle.model().prediction
    plan = solvers.plan(solver, uniform(steps, backward), oracle.interpolant).lower(read)

    def evaluate(x: np.ndarray, t: float) -> np.ndarray:
        slope, offset = linear_response.affine(oracle, t)
        out = slope * x
        out[0] += offset
        return out

    mean, variance = linear_response.marginal(oracle, plan.grid[0])
    start = np.zeros(2 + 2 * FINEST)
    start[:2] = mean, math.sqrt(variance)
    path = coarsened(coefficient_path(), (STOP - START) / FINEST, FINEST // steps)
    return follow(plan, start, path, evaluate)


@cache
def linear_reference(oracle: GaussianOracle, diffusion: str, backward: bool = False) -> np.ndarray:
    """The finest run of a method of strong order 1.5: its error is below a fiftieth of those that tests measure."""
    return linear_run(solvers.solver("sra3", diffusion=diffusion), FINEST, oracle, backward)


def linear_errors(
    solver: FixedGridSolver, steps: Sequence[int], oracle: GaussianOracle, diffusion: str, backward: bool = False
) -> list[float]:
    """Root mean square path-wise errors on scalar Gaussian data, without Monte Carlo."""
    reference = linear_reference(oracle, diffusion, backward)
    return [float(np.linalg.norm(linear_run(solver, n, oracle, backward) - reference)) for n in steps]


def sampled_path(shape: tuple[int, ...], seed: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Increments and areas of independent Brownian paths, float64."""
    generator = torch.Generator().manual_seed(seed)
    step = (STOP - START) / steps
    z = torch.randn((steps, 2, *shape), generator=generator, dtype=torch.float64)
    return [(math.sqrt(step) * w, math.sqrt(step / 12) * h) for w, h in z]


def sampled_run(solver: FixedGridSolver, problem: Problem, path: list, start: torch.Tensor, steps: int) -> torch.Tensor:
    """The solver's results along sampled paths."""
    network, read = problem.oracle.network("velocity"), problem.oracle.model().prediction
    plan = solvers.plan(solver, uniform(steps), problem.oracle.interpolant).lower(read)
    coarse = coarsened(path, (STOP - START) / len(path), len(path) // steps)
    return follow(plan, start, coarse, lambda x, t: network(x, read.time(t)))


LINEAR_STEPS = (64, 128)  # so fine that 5 % of what multiplies a space-time area shows as order 1


def linear_order(solver: FixedGridSolver) -> float:
    """The path-wise order on linear problems, where methods of strong order 1.5 have 2: their remainder is f_xx G^2."""
    return {1.0: 1.0, 1.5: 2.0}[getattr(solver, "original", solver).strong_order]


def shows_strong_order(solver: FixedGridSolver, oracle: GaussianOracle, backward: bool = False) -> bool:
    """Whether path-wise errors on scalar Gaussian data fall with the method's order."""
    diffusion = getattr(solver, "original", solver).diffusion
    errors = linear_errors(solver, LINEAR_STEPS, oracle, diffusion, backward)
    return abs(math.log2(errors[0] / errors[1]) - linear_order(solver)) < 0.15
