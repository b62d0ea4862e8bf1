from __future__ import annotations

import re
from fractions import Fraction

import pytest

from pushforward.errors import TableauError
from pushforward.solvers import solvers
from pushforward.solvers.ode import RungeKutta, Tableau, rooted_trees

TABLEAUS = {name: solver.tableau for name, solver in solvers() if isinstance(solver, RungeKutta)}


def test_rooted_trees_are_counted_as_in_butcher() -> None:
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]
    assert sorted(tree.density for tree in rooted_trees(4)) == [4, 8, 12, 24]


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_stated_order_is_the_highest(name: str) -> None:
    tableau = TABLEAUS[name]
    with pytest.raises(TableauError, match="condition"):
        Tableau(order=tableau.order + 1, a=tableau.a, b=tableau.b, source=tableau.source)


@pytest.mark.parametrize("name", TABLEAUS)
def test_every_wrong_digit_is_refused(name: str) -> None:
    tableau = TABLEAUS[name]
    for field in ("a", "b"):
        for match in re.finditer(r"-?\d+(/\d+)?", getattr(tableau, field)):
            text = getattr(tableau, field)
            wrong = text[: match.start()] + str(Fraction(match.group()) + Fraction(1, 100)) + text[match.end() :]
            with pytest.raises(TableauError, match="condition"):
                Tableau(order=tableau.order, source="planted", **{"a": tableau.a, "b": tableau.b, field: wrong})


def test_a_ragged_tableau_is_refused() -> None:
    with pytest.raises(TableauError, match="rows of"):
        Tableau(order=1, a="1/2 1/2", b="1 0", source="ragged")
