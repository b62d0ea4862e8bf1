from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45
from torchdiffeq._impl.odeint import SOLVERS

from pushforward.errors import ArgumentError, TableauError, UnknownNameError
from pushforward.solvers.adaptive import PAIRS, Pair, pair
from pushforward.solvers.adaptive.conditions import Conditions, Row, Rows
from pushforward.solvers.adaptive.pairs import register

NAMES = list(PAIRS)
SCIPY = {"bosh32": RK23, "dopri54": RK45}
EPS = np.finfo(float).eps


@pytest.mark.parametrize("name", NAMES)
def test_no_stated_order_could_be_higher(name: str) -> None:
    known = pair(name)
    for order, estimate in known.estimates.items():
        with pytest.raises(TableauError, match=f"of order {order + 1}:"):
            replace(known, estimates={order + 1: estimate}).check()
    for what in ("order", "dense_order"):
        wrong = replace(known, **{what: getattr(known, what) + 1})
        with pytest.raises(TableauError, match=f"of order {getattr(wrong, what)}:"):
            wrong.check()


def wrong_digits(table: Rows, rounding: Fraction) -> Iterator[tuple[tuple[int, int], Rows]]:
    """The table with one coefficient off, for each that is not zero: its numerator, or a digit above the rounding."""
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            if value:
                off = 10 * rounding * max(1, abs(round(value))) if rounding else Fraction(1, value.denominator)
                yield (i, j), (*table[:i], (*row[:j], value + off, *row[j + 1 :]), *table[i + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_every_wrong_digit_is_refused(name: str) -> None:
    known = pair(name)
    planted = 0
    for field in ("matrix", "extra", "polynomials"):
        for _, table in wrong_digits(getattr(known, field), known.rounding):
            planted += 1
            with pytest.raises(TableauError, match=r"condition|dense output"):
                replace(known, **{field: table}).check()
    for _, (weights,) in wrong_digits((known.weights,), known.rounding):
        planted += 1
        with pytest.raises(TableauError, match="condition"):
            replace(known, weights=weights).check()
    for order in known.estimates:
        for _, (estimate,) in wrong_digits((known.estimates[order],), known.rounding):
            planted += 1
            with pytest.raises(TableauError, match=f"comparison of order {order}, condition"):
                replace(known, estimates={**known.estimates, order: estimate}).check()
    assert planted > 3 * known.stages


@pytest.mark.parametrize("name", NAMES)
def test_floats_are_the_exact_numbers_rounded(name: str) -> None:
    known = pair(name)
    assert [len(row) for row in (*known.a, *known.extra_a)] == list(range(len(known.dense)))
    assert len(known.error) == len(known.estimates)
    for row in known.error:
        assert abs(sum(row)) <= len(row) * EPS * max(map(abs, row))
    for c, row in zip((*known.c, *known.extra_c), (*known.a, *known.extra_a), strict=True):
        assert abs(c - sum(row)) <= len(row) * EPS * max([1, *map(abs, row)])
    ends = [math.fsum(row) for row in known.dense]
    largest = max(abs(p) for row in known.dense for p in row)
    np.testing.assert_allclose(ends, [*known.b, *[0.0] * len(known.extra)], rtol=0, atol=4 * EPS * largest)
    if known.fsal:
        assert known.c[-1] == 1
        assert known.a[-1] == known.b[:-1]


@pytest.mark.parametrize("name", SCIPY)
def test_coefficients_are_those_of_scipy(name: str) -> None:
    known, theirs = pair(name), SCIPY[name]
    stages = known.stages - 1  # theirs leave the FSAL row out
    for ours, row in zip(known.a[:stages], theirs.A, strict=True):
        np.testing.assert_allclose(ours, row[: len(ours)], rtol=2 * EPS)
    np.testing.assert_allclose(known.b[:stages], theirs.B, rtol=2 * EPS)
    np.testing.assert_allclose(np.abs(known.error[0]), np.abs(theirs.E), rtol=2 * EPS)
    np.testing.assert_allclose(known.dense, theirs.P, rtol=2 * EPS)


@pytest.mark.parametrize("name", ["adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8"])
def test_coefficients_are_those_of_torchdiffeq(name: str) -> None:
    known, theirs = pair(name), SOLVERS[name].tableau
    for ours, row in zip(known.a[1:], theirs.beta, strict=True):
        np.testing.assert_allclose(ours, row.numpy(), rtol=2 * EPS)
    np.testing.assert_allclose(known.b, theirs.c_sol.numpy(), rtol=2 * EPS)
    error = theirs.c_error.numpy()
    scale = max(abs(theirs.c_sol.numpy()))  # theirs are differences of rounded numbers, of either sign
    np.testing.assert_allclose(np.abs(known.error[0]), np.abs(error), rtol=0, atol=8 * EPS * scale)


def slope(errors: list[float], ratio: float) -> float:
    """Order extrapolated from three lengths: where p(h) = p + c h + O(h^2), c h is removed."""
    coarse, fine = (math.log(a / b, ratio) for a, b in itertools.pairwise(errors))
    return (ratio * fine - coarse) / (ratio - 1)


def pendulum(t: float, x: np.ndarray) -> np.ndarray:
    """A nonlinear problem that depends on time, so that every tree counts; states [2] or [2, starts]."""
    return np.array([x[1], np.sin(2 * t) - np.sin(x[0]) * (1 + 0.3 * x[1])])


def stages(known: Pair, t: float, x: np.ndarray, h: float) -> np.ndarray:
    """All slopes of one step, those for dense output included: shape [stages, *x.shape]."""
    k: list[np.ndarray] = []
    for c, row in zip((*known.c, *known.extra_c), (*known.a, *known.extra_a), strict=True):
        k.append(pendulum(t + c * h, x + h * sum((a * s for a, s in zip(row, k, strict=True)), np.zeros_like(x))))
    return np.array(k)


def weighted(weights: Sequence[float] | np.ndarray, k: np.ndarray) -> np.ndarray:
    return np.tensordot(np.asarray(weights), k[: len(weights)], 1)


def dense_weights(known: Pair, theta: float) -> np.ndarray:
    return np.array(known.dense) @ theta ** np.arange(1, len(known.dense[0]) + 1)


def reference(t: float, x: np.ndarray, h: float) -> np.ndarray:
    """Sixteen steps of order 8: 16^8 times more exact than one."""
    known = pair("dop853")
    for n in range(16):
        x = x + h / 16 * weighted(known.b, stages(known, t + n * h / 16, x, h / 16))
    return x


@pytest.mark.parametrize("name", NAMES)
def test_measured_orders(name: str) -> None:
    """Errors of one step shrink with order + 1, those of the estimates and of dense output with theirs.

    From many starts, since from one a leading term may nearly vanish.
    """
    known, t, theta = pair(name), 0.3, 0.37
    x = np.random.default_rng(0).normal(size=(2, 200))
    norm = np.linalg.norm
    lengths = {2: 0.02, 3: 0.02, 4: 0.08, 5: 0.08, 6: 0.2, 7: 0.25, 8: 0.25}  # long enough to be above rounding
    shrink = np.array([1, 1 / math.sqrt(2), 1 / 2])
    local, inside, estimated = [], [], [[] for _ in known.error]
    for h in lengths[known.order] * shrink:
        k = stages(known, t, x, h)
        local.append(norm(x + h * weighted(known.b, k) - reference(t, x, h)))
        for row, found in zip(known.error, estimated, strict=True):
            found.append(norm(h * weighted(row, k)))
    for h in lengths[known.dense_order] * shrink:
        k = stages(known, t, x, h)
        inside.append(norm(x + h * weighted(dense_weights(known, theta), k) - reference(t, x, theta * h)))
    assert min(local) > 100 * EPS * norm(x), "so short a step measures rounding"
    # Where the least error of all, that of order 6 in vern65, is above rounding, it is below the one of the next order.
    orders = {"row": (known.order + (name == "vern65"), local), "dense": (known.dense_order, inside)}
    orders |= {f"estimate {p}": (p, e) for p, e in zip(known.estimates, estimated, strict=True)}
    for what, (order, errors) in orders.items():
        assert abs(slope(errors, math.sqrt(2)) - order - 1) < 0.15, what


def test_dense_output_of_dop853_is_that_of_scipy() -> None:
    x, t, h, known = np.array([1.0, 0.4]), 0.3, 0.25, pair("dop853")
    theirs = DOP853(pendulum, t, x, t + h, first_step=h, rtol=1e-3)
    theirs.step()
    assert theirs.t == t + h
    k = stages(known, t, x, h)
    for theta in (0.0, 0.2, 0.5, 0.83, 1.0):
        # The polynomials' coefficients reach 10^3 and cancel, in their nested form as in ours.
        ours = x + h * weighted(dense_weights(known, theta), k)
        np.testing.assert_allclose(ours, theirs.dense_output()(t + theta * h), rtol=0, atol=1e-13)
    e5, e3 = (h * weighted(row, k) for row in known.error)
    mine = np.linalg.norm(e5) ** 2 / math.sqrt((np.linalg.norm(e5) ** 2 + 0.01 * np.linalg.norm(e3) ** 2) * len(x))
    norm = theirs._estimate_error_norm(theirs.K, h, np.ones(2))
    assert mine == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_evaluations(name: str) -> None:
    known = pair(name)
    expected = {
        "heun21": (2, False), "fehlberg21": (3, False), "bosh32": (3, True), "dopri54": (6, True), "dopri5": (6, True),
        "tsit54": (6, True), "vern65": (8, True), "dop853": (12, True), "dopri87": (13, True),
    }  # fmt: skip
    assert (known.evaluations, known.fsal) == expected[name]
    assert known.last_is_free_of_error == (known.order == 8)


def test_names() -> None:
    assert all(pair(name).name == str(pair(name)) == name for name in PAIRS)
    assert pair("tsit5") is pair("tsit54") is PAIRS["tsit54"]
    assert set(PAIRS) < set(PAIRS.names)
    assert len(PAIRS) == len(NAMES)
    with pytest.raises(UnknownNameError, match="got 'rk99', expected one of heun21, adaptive_heun"):
        pair("rk99")


def test_a_pair_is_added_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_makers", "_names", "_made"):
        monkeypatch.setattr(PAIRS, table, dict(getattr(PAIRS, table)))

    @register("mine")
    def ralston21() -> Pair:
        third = Fraction(2, 3)
        return Pair(
            order=2,
            matrix=((), (third,)),
            weights=(Fraction(1, 4), Fraction(3, 4)),
            estimates={1: (Fraction(-3, 4), Fraction(3, 4))},
            polynomials=((Fraction(1), -Fraction(3, 4)), (Fraction(0), Fraction(3, 4))),
            dense_order=2,
            source="Ralston 1962",
        )

    assert pair("mine").name == "ralston21"
    with pytest.raises(ArgumentError, match="got 'dopri54', expected one that no pair has"):
        register("dopri54")(lambda: pair("mine"))

    @register()
    def wrong() -> Pair:
        return replace(pair("mine"), weights=(Fraction(1, 3), Fraction(2, 3)))

    with pytest.raises(TableauError, match="Ralston 1962, condition"):
        pair("wrong")


def test_rows_of_the_wrong_length_are_refused() -> None:
    known = pair("heun21")
    row: Row = (Fraction(1),)
    with pytest.raises(TableauError, match="lengths of rows: got"):
        replace(known, matrix=(row, row))
    with pytest.raises(TableauError, match="lengths of an estimate: got 1, expected 2"):
        replace(known, estimates={1: row})
    with pytest.raises(TableauError, match="lengths of dense output: got 1, expected 2"):
        replace(known, polynomials=(row,))


def test_conditions_know_what_the_message_says() -> None:
    """Heun's method meets the conditions up to order 2 and misses that of the third order's tall tree, 1/6, by all."""
    heun = Conditions("Heun", ((), (Fraction(1),)))
    half = Fraction(1, 2)
    heun.check((half, half), 2)
    with pytest.raises(
        TableauError, match=r"Heun, condition \[\[\[\]\]\] of order 3: got 0, expected 1/6|\[\[\]\[\]\]"
    ):
        heun.check((half, half), 3)
