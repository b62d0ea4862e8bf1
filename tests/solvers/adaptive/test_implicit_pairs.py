from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pushforward.errors import TableauError
from pushforward.solvers.adaptive import IMPLICIT, ImplicitPair, Pair
from pushforward.solvers.adaptive.conditions import Rows

NAMES = list(IMPLICIT)


def implicit(name: str) -> ImplicitPair:
    found = IMPLICIT[name]
    assert isinstance(found, ImplicitPair)
    return found


def stability(pair: Pair, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """R(z) = 1 + z b (I - z A)^-1 1, from the matrix itself."""
    a = np.zeros((pair.stages, pair.stages))
    for i, row in enumerate(pair.a):
        a[i, : len(row)] = row
    solved = np.linalg.solve(np.eye(pair.stages) - z[:, None, None] * a, np.ones((pair.stages, 1), dtype=complex))
    return 1 + z * (solved[..., 0] @ weights)


@pytest.mark.parametrize("name", NAMES)
def test_no_stated_order_could_be_higher(name: str) -> None:
    pair = implicit(name)
    for order, estimate in pair.estimates.items():
        with pytest.raises(TableauError, match=f"of order {order + 1}:"):
            replace(pair, estimates={order + 1: estimate}).check()
    for what in ("order", "dense_order"):
        wrong = replace(pair, **{what: getattr(pair, what) + 1})
        with pytest.raises(TableauError, match=f"of order {getattr(wrong, what)}:"):
            wrong.check()


def planted(table: Rows, rounding: Fraction) -> Iterator[Rows]:
    """The table with one coefficient off, for each that is not zero."""
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            if value:
                off = 100 * rounding if rounding else Fraction(1, value.denominator)
                yield (*table[:i], (*row[:j], value + off, *row[j + 1 :]), *table[i + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_every_wrong_digit_is_refused(name: str) -> None:
    pair, count = implicit(name), 0
    for field in ("matrix", "polynomials"):
        for table in planted(getattr(pair, field), pair.rounding):
            count += 1
            weights = table[-1] if field == "matrix" else pair.weights  # else the last row alone would give it away
            with pytest.raises(TableauError, match=r"condition|dense output|diagonal|infinity"):
                replace(pair, **{field: table}, weights=weights).check()
    (order, estimate), *none = pair.estimates.items()
    for (wrong,) in planted((estimate,), pair.rounding):
        count += 1
        with pytest.raises(TableauError, match=f"comparison of order {order}, condition"):
            replace(pair, estimates={order: wrong}).check()
    assert not none
    assert count > 4 * pair.stages


@pytest.mark.parametrize("name", NAMES)
def test_stable_in_the_left_half_plane_and_zero_at_infinity(name: str) -> None:
    """By the maximum principle the imaginary axis is enough: the only pole is at 1/gamma, to its right."""
    pair = implicit(name)
    b = np.array(pair.b)
    assert pair.gamma > 0
    axis = 1j * np.concatenate([[0.0], np.logspace(-4, 6, 2000)])
    size = np.abs(stability(pair, b, axis))
    assert size.max() <= 1 + 1e-13  # rounding of the solve
    far = np.abs(stability(pair, b, -np.logspace(3, 6, 7).astype(complex)))
    assert (far * np.logspace(3, 6, 7) < 50).all()  # falls like 1/z
    numerator = np.array([float(p) for p in pair.numerator])
    z = np.array([0.3 + 0.2j, -2.0, 5j])
    closed = np.polyval(numerator[::-1], z) / (1 - pair.gamma * z) ** (pair.stages - 1)
    np.testing.assert_allclose(closed, stability(pair, b, z), rtol=1e-12)
    # The comparison need not be L-stable; its part in the error must stay bounded by what is wrong with the state.
    compared = np.abs(stability(pair, b - np.array(pair.error[0]), axis.real - np.logspace(-4, 9, len(axis))))
    assert compared.max() <= 1 + 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_of_an_esdirk(name: str) -> None:
    pair = implicit(name)
    assert pair.fsal
    assert pair.c[0] == 0
    assert pair.c[-1] == pytest.approx(1, abs=2e-16)
    for row, c in zip(pair.matrix[1:], pair.c[1:], strict=True):  # stage order 2: less order is lost on stiff problems
        assert float(sum(a * sum(other) for a, other in zip(row, pair.matrix, strict=False))) == pytest.approx(c**2 / 2)
    for weights in pair.guesses:
        assert sum(weights.values()) == pytest.approx(1)
        assert sum(map(abs, weights.values())) <= 8


def test_a_pair_that_is_no_esdirk_is_refused() -> None:
    pair = implicit("kvaerno32")
    row = pair.matrix[2]
    with pytest.raises(TableauError, match="diagonal: got"):
        replace(pair, matrix=(*pair.matrix[:2], (*row[:-1], row[-1] + 1), pair.matrix[3])).check()
    with pytest.raises(TableauError, match="last row: got"):
        replace(pair, weights=(*row, Fraction(0))).check()
    with pytest.raises(TableauError, match="lengths of rows"):
        replace(pair, matrix=pair.matrix[:3])
    half = Fraction(1, 2)
    trapezoidal = replace(
        pair,
        order=2,
        matrix=((Fraction(0),), (half, half)),
        weights=(half, half),
        estimates={1: (half, -half)},
        polynomials=((Fraction(1), -half), (Fraction(0), half)),
        dense_order=2,
    )
    with pytest.raises(TableauError, match="R at infinity: got -1"):
        trapezoidal.check()
