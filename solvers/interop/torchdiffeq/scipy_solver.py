"""SciPy's `solve_ivp` behind torchdiffeq's name for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import IntegrationError, UnknownNameError
from .problem import Problem, known_options, number

SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")
OPTIONS: dict[str, Any] = {"solver": "LSODA", "min_step": 0.0, "max_step": math.inf, "norm": None}


@dataclass(frozen=True)
class ScipyRun:
    """A run of one of SciPy's solvers: on the host, in float64, without gradients.

    Attributes:
        problem: What is integrated.
        solver: SciPy's name.
        bounds: ``min_step`` and ``max_step``.

    """

    problem: Problem
    solver: str
    bounds: Mapping[str, float]

    @torch.no_grad()
    def solve(self) -> Tensor:
        """States at the times asked for, [T, 1, n].

        Raises:
            IntegrationError: SciPy gave up; says why.

        """
        from scipy.integrate import solve_ivp  # here, as it takes half a second to import

        problem, x0 = self.problem, self.problem.x0.detach()
        if len(problem.times) == 1:
            return x0[None].clone()

        def slope(t: float, x: np.ndarray) -> np.ndarray:
            row = torch.from_numpy(x).to(x0)[None]
            return problem.slope(t, row).cpu().numpy()[0]

        tolerances: dict[str, Any] = {
            name: value.cpu().numpy()[0] if isinstance(value, Tensor) else value
            for name, value in (("rtol", problem.rtol), ("atol", problem.atol))
        }
        options: dict[str, Any] = dict(self.bounds)
        ends, start = problem.times[[0, -1]], x0[0].double().cpu().numpy()
        found = solve_ivp(
            slope, ends, start, method=self.solver, t_eval=problem.times, vectorized=False, **tolerances, **options
        )
        if not found.success:
            raise IntegrationError(f"scipy's {self.solver}", got=found.message, expected="a run to the last time")
        return torch.from_numpy(found.y.T.copy()).to(x0)[:, None]


def scipy_run(problem: Problem, method: str, options: Mapping[str, Any]) -> ScipyRun:
    """A run from torchdiffeq's options.

    Raises:
        UnknownNameError: SciPy has no such solver.
        ArgumentError: A bound out of its range.

    """
    given = known_options(options, OPTIONS, method)
    if given["solver"] not in SOLVERS:
        got, expected = repr(given["solver"]), f"one of {', '.join(SOLVERS)}"
        raise UnknownNameError("options['solver']", got=got, expected=expected)
    bounds = {"max_step": number(given, "max_step")}
    if given["solver"] == "LSODA":
        bounds["min_step"] = number(given, "min_step")
    return ScipyRun(problem, given["solver"], bounds)
