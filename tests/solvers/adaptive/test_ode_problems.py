from __future__ import annotations

import pytest
from ode_problems import PROBLEMS, OdeProblem


@pytest.mark.parametrize("problem", [p for p in PROBLEMS.values() if not p.stiff], ids=str)
def test_references_are_those_of_scipy(problem: OdeProblem) -> None:
    tolerance = 1e-10
    found, _ = problem.scipy("DOP853", tolerance)
    assert problem.error(found) < 10 * tolerance * problem.amplification


@pytest.mark.parametrize("problem", [p for p in PROBLEMS.values() if p.stiff], ids=str)
def test_references_of_stiff_problems_are_those_of_scipy(problem: OdeProblem) -> None:
    tolerance = 1e-7
    found, _ = problem.scipy("LSODA", tolerance)
    assert problem.error(found) < 50 * tolerance  # LSODA needs 28 on Van der Pol's equation
