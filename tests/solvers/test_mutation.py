from __future__ import annotations

import pytest
from mutation import Mutant, Place, places, shows_its_order, survivors, variance_errors
from problems import shows_order

from pushforward import solvers

ALL = {name: solver.at_full_order() for name, solver in solvers.solvers()}


@pytest.mark.parametrize("name", ALL)
def test_every_planted_error_is_noticed(name: str) -> None:
    assert survivors(ALL[name]) == []


@pytest.mark.parametrize("name", ALL)
def test_the_unchanged_solver_passes_the_same_verdict(name: str) -> None:
    assert list(places(ALL[name]))
    assert shows_its_order(ALL[name])
    assert shows_its_order(Mutant(ALL[name], Place(0, 0, 0), factor=1.0))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_planted_errors_in_the_noise_of_ddim_are_noticed(eta: float) -> None:
    solver = solvers.solver("ddim", eta=eta)
    unnoticed = [p for p in places(solver) if shows_order(variance_errors(Mutant(solver, p), (64, 128, 256)), 1, 0.1)]
    assert unnoticed == []
