"""`odeint` against torchdiffeq's: the same problems, arguments and shapes; and what goes wrong."""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor

import pushforward as pf
from pushforward.errors import (
    ArgumentError,
    DtypeError,
    GridError,
    IntegrationError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from pushforward.solvers.interop.torchdiffeq import METHODS, adaptive, fixed, scipy_solver
from pushforward.solvers.interop.torchdiffeq.stepping import unit_weights

DOUBLE = torch.float64
MATRIX = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=DOUBLE)
START = torch.tensor([[2.0, 0.0], [1.0, 0.3]], dtype=DOUBLE)
ADAPTIVE = {"dopri8": 1e-8, "dopri5": 1e-8, "bosh3": 1e-6, "fehlberg2": 1e-5, "adaptive_heun": 1e-4}
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")
ADAMS = ("explicit_adams", "implicit_adams", "fixed_adams")


class Counted:
    """A slope that depends on time and on the state, non-linearly, and remembers when it was asked."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == ()
        assert t.dtype == y.dtype
        self.times.append(float(t))
        return 2 * torch.tanh(y @ MATRIX.to(y.dtype)) + 0.1 * torch.sin(3 * t)


def both(y0: Any, t: Tensor, **arguments: Any) -> tuple[Any, Any, Counted, Counted]:
    ours, theirs = Counted(), Counted()
    return pf.odeint(ours, y0, t, **arguments), torchdiffeq.odeint(theirs, y0, t, **arguments), ours, theirs


def error(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max())


def linspace(direction: int, count: int = 9) -> Tensor:
    ends = (0, 2) if direction > 0 else (2, 0)
    return torch.linspace(*ends, count, dtype=DOUBLE)


@pytest.fixture(scope="module")
def exact() -> dict[int, Tensor]:
    """By their best method, with steps that end at the outputs: their interpolation is of low order."""
    tight: dict[str, Any] = {"method": "dopri8", "rtol": 1e-12, "atol": 1e-12}
    return {
        way: torchdiffeq.odeint(Counted(), START, t, options={"step_t": t[1:]}, **tight)
        for way in (1, -1)
        for t in [linspace(way)]
    }


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_are_as_exact_at_no_more_evaluations(
    method: str, direction: int, exact: dict[int, Tensor]
) -> None:
    """A problem whose errors grow by less than e^4 in the interval. Theirs ends its steps at the outputs, like ours."""
    t, tol = linspace(direction), ADAPTIVE[method]
    ours, theirs, we, they = both(START, t, method=method, rtol=tol, atol=tol)
    stops = torchdiffeq.odeint(Counted(), START, t, method=method, rtol=tol, atol=tol, options={"step_t": t[1:]})
    truth = exact[direction]
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours[0], START)
    assert error(ours, truth) <= 2 * max(error(theirs, truth), error(stops, truth)) + 10 * tol
    if method != "fehlberg2":  # whose estimate is a 512th of what it estimates
        assert error(ours, truth) < math.e**4 * tol
        assert error(ours, stops) < 2 * math.e**4 * tol
    assert len(we.times) <= 1.1 * len(they.times) + 4
    assert 0 <= min(we.times) <= max(we.times) <= 2  # never beyond the last time; theirs is
    assert not 0 <= min(they.times) <= max(they.times) <= 2


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step_size": 0.1},
        {"step_size": 0.1, "interp": "cubic"},
        {"step_size": 0.05, "perturb": True},
        {"grid_constructor": lambda func, y0, t: torch.linspace(float(t[0]), float(t[-1]), 33, dtype=DOUBLE)},
    ],
    ids=["grid", "step_size", "cubic", "perturb", "constructor"],
)
@pytest.mark.parametrize("method", [*FIXED, *ADAMS])
def test_fixed_steps_are_theirs_to_rounding(method: str, options: dict[str, Any], direction: int) -> None:
    """With uniform grids; explicit Adams methods of high order amplify rounding, so no more than six points."""
    options = options | ({"max_order": 6} if method in ADAMS else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # iterations that do not converge: at these steps both give up
        ours, theirs, we, they = both(START, linspace(direction), method=method, options=options, rtol=1e-7, atol=1e-7)
    assert error(ours, theirs) < 1e-12 * float(theirs.abs().max())
    assert len(we.times) <= len(they.times)
    if options.get("interp") != "cubic":
        assert we.times == pytest.approx(they.times, abs=1e-15)


def test_a_step_size_that_does_not_divide_the_interval() -> None:
    ours, theirs, *_ = both(START, linspace(1), method="rk4", options={"step_size": 0.03})
    assert error(ours, theirs) < 1e-13


def test_high_orders_of_adams() -> None:
    t = torch.linspace(0, 2, 201, dtype=DOUBLE)
    ours, theirs, *_ = both(START, t, method="implicit_adams", rtol=1e-9, atol=1e-9)
    assert error(ours, theirs) < 1e-12
    whole = [w * 479001600 for w in unit_weights(tuple(float(-j) for j in range(11)))]
    assert whole == pytest.approx([round(w) for w in whole], rel=1e-12)  # weights are multiples of 1/12!


def test_adams_weights_are_those_of_the_actual_grid() -> None:
    """Theirs are those of a uniform one: on another their order is lost."""
    share = torch.linspace(0, 1, 321, dtype=DOUBLE)
    t = 2 * share * (1 + share) / 2
    ours, theirs, *_ = both(START, t, method="explicit_adams", options={"max_order": 5})
    truth = pf.odeint(Counted(), START, t, rtol=1e-11, atol=1e-11)
    assert error(ours, truth) < 0.1 * error(theirs, truth)


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
def test_scipy() -> None:
    """Their numbers forwards (their times have the default dtype); backwards they negate time, and rounding differs."""
    for direction, within in ((1, 1e-12), (-1, 1e-6)):
        for solver in ("LSODA", "RK45"):
            given: dict[str, Any] = {
                "method": "scipy_solver",
                "options": {"solver": solver},
                "rtol": 1e-6,
                "atol": 1e-6,
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # theirs hands min_step to solvers that have none
                ours, theirs, *_ = both(START, linspace(direction), **given)
            assert error(ours, theirs) < within
    assert torch.equal(pf.odeint(Counted(), START, linspace(1)[:1], method="scipy_solver"), START[None])


# --- states ----------------------------------------------------------------------------------------------------------


def several(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    assert [part.shape for part in y] == [(), (2, 3)]
    return -y[0] * y[1].mean(), y[1] * torch.sin(3 * t)


STATE = (torch.tensor(1.0, dtype=DOUBLE), torch.ones(2, 3, dtype=torch.float32))


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_tuples(method: str) -> None:
    options: dict[str, Any] = {} if method == "dopri5" else {"step_size": 0.125}
    options |= {"max_iters": 30} if method == "implicit_adams" else {}
    t = linspace(1)
    ours = pf.odeint(several, STATE, t, method=method, options=options)
    theirs = torchdiffeq.odeint(several, STATE, t, method=method, options=options)
    assert type(ours) is tuple
    for x, y in zip(ours, theirs, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert error(x, y) < 2e-6
    nothing = pf.odeint(lambda t, y: y, (torch.zeros(0, 2), torch.ones(1)), t, method=method, options=options)
    assert nothing[0].shape == (9, 0, 2)


def test_tolerances_of_components_and_of_elements() -> None:
    """Loose tolerances of the first component shorten the way; each element has its own."""
    t = linspace(1, 2)
    loose: dict[str, Any] = {"rtol": (1e-2, torch.full((2, 3), 1e-3)), "atol": (1e-2, 1e-3)}
    ours = pf.odeint(several, STATE, t, **loose)
    theirs = torchdiffeq.odeint(several, STATE, t, rtol=(1e-2, 1e-3), atol=(1e-2, 1e-3))
    assert 1e-7 < error(ours[1], pf.odeint(several, STATE, t, rtol=1e-9, atol=1e-9)[1]) < 1e-2
    assert error(ours[1], theirs[1]) < 1e-2
    tight, one = Counted(), Counted()
    pf.odeint(tight, START, t, rtol=torch.full((2, 2), 1e-9, dtype=DOUBLE), atol=torch.tensor(1e-9, dtype=DOUBLE))
    pf.odeint(one, START, t, rtol=1e-9, atol=1e-9)
    assert tight.times == pytest.approx(one.times, rel=1e-9)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_complex_states(method: str) -> None:
    z0 = torch.tensor([1 + 1j, 2 - 0.5j], dtype=torch.complex128)

    def func(t: Tensor, z: Tensor) -> Tensor:
        assert t.dtype == DOUBLE
        return 1j * z

    t = torch.linspace(0, 1, 65, dtype=DOUBLE)
    options = {"solver": "RK45"} if method == "scipy_solver" else {}
    ours = pf.odeint(func, z0, t, method=method, rtol=1e-8, atol=1e-8, options=options)
    assert ours.dtype == torch.complex128
    assert error(ours, torch.exp(1j * t)[:, None] * z0) < 1e-6


def test_scalars_and_single_precision() -> None:
    t = torch.linspace(0, 1, 3)
    ours = pf.odeint(lambda t, y: -y, torch.tensor(1.0), t, rtol=1e-5)
    assert ours.shape == (3,)
    assert ours.dtype == torch.float32
    assert error(ours, torch.exp(-t)) < 1e-5
    assert torch.equal(pf.odeint(lambda t, y: -y, torch.ones(2), t[:1]), torch.ones(1, 2))
    broadcast = pf.odeint(lambda t, y: t, torch.zeros(2, 3), t)
    assert error(broadcast[-1], torch.full((2, 3), 0.5)) < 1e-6


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"min_step": 0.05},
        {"max_step": 0.1},
        {"first_step": 0.2},
        {"step_t": torch.tensor([0.3, 0.7])},
        {"safety": 0.8, "ifactor": 5.0, "dfactor": 0.3},
        {"dtype": torch.float32},
        {"norm": lambda y: y.abs().max()},
    ],
    ids=lambda options: "-".join(options),
)
def test_options_do_what_theirs_do(options: dict[str, Any], exact: dict[int, Tensor]) -> None:
    ours, theirs, we, they = both(START, linspace(1), method="dopri5", rtol=1e-6, atol=1e-6, options=options)
    assert error(ours, theirs) <= 2 * error(theirs, exact[1]) + 1e-5
    assert abs(len(we.times) - len(they.times)) <= 0.2 * len(they.times)


def test_a_norm_of_a_tuple_sees_the_tuple() -> None:
    seen = []

    def norm(y: tuple[Tensor, Tensor]) -> Tensor:
        seen.append([part.shape for part in y])
        return y[1].abs().max()

    pf.odeint(several, STATE, linspace(1), rtol=1e-4, atol=1e-4, options={"norm": norm})
    assert seen
    assert all(shapes == [(), (2, 3)] for shapes in seen)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("direction", [1, -1])
def test_jumps_are_seen_from_the_right_side(dtype: torch.dtype, direction: int) -> None:
    """A slope of 1 before 0.5 and of -3 behind: no step may mix them, in either precision."""
    calls = []

    def func(t: Tensor, y: Tensor) -> Tensor:
        calls.append(float(t))
        return torch.where(t < 0.5, torch.ones_like(y), -3 * torch.ones_like(y))

    t = torch.tensor([0.0, 1.0][::direction], dtype=dtype)
    options = {"jump_t": torch.tensor([0.5])}
    y = pf.odeint(func, torch.zeros(2, dtype=dtype), t, rtol=1e-6, atol=1e-6, options=options)
    assert error(y[-1], -direction * torch.ones(2, dtype=dtype)) < 1e-6
    ours = len(calls)
    torchdiffeq.odeint(func, torch.zeros(2, dtype=dtype), t, rtol=1e-6, atol=1e-6, options=options)
    assert ours <= len(calls) - ours + 2


class Told(torch.nn.Module):
    """A function with callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, float, float]] = []

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -50 * (y[0] - torch.cos(t)), y[0].expand(2)

    def tell(self, name: str, t: Tensor, y: tuple[Tensor, Tensor], h: Tensor) -> None:
        assert y[1].shape == (2,)
        self.log.append((name, float(t), float(h)))

    def callback_step(self, t: Tensor, y: Any, h: Tensor) -> None:
        self.tell("step", t, y, h)

    def callback_accept_step(self, t: Tensor, y: Any, h: Tensor) -> None:
        self.tell("accept", t, y, h)

    def callback_reject_step(self, t: Tensor, y: Any, h: Tensor) -> None:
        self.tell("reject", t, y, h)


@pytest.mark.parametrize("direction", [1, -1])
def test_callbacks(direction: int) -> None:
    """Backwards in time the problem is unstable but short; times count down and lengths are positive."""
    y0, t = (
        (torch.zeros(1, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)),
        torch.tensor([0.0, 0.2 * direction], dtype=DOUBLE),
    )
    ours, theirs = Told(), Told()
    pf.odeint(ours, y0, t, rtol=1e-3, atol=1e-3, method="bosh3")
    torchdiffeq.odeint(theirs, y0, t, rtol=1e-3, atol=1e-3, method="bosh3")
    names = [name for name, *_ in ours.log]
    assert names[0::2] == ["step"] * (len(names) // 2)
    assert set(names[1::2]) == ({"accept", "reject"} if direction > 0 else {"accept"})
    for name, at, length in ours.log:
        assert length > 0
        assert 0 <= direction * at < 0.2, name
    assert ours.log[0][0] == theirs.log[0][0]
    assert ours.log[0][1:] == pytest.approx(theirs.log[0][1:])
    fixed = Told()
    pf.odeint(fixed, y0, t, method="euler", options={"step_size": 0.05})
    assert [name for name, *_ in fixed.log] == ["step"] * 4


def test_options_of_other_methods_are_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="ignores the options max_step, safety"):
        pf.odeint(Counted(), START, linspace(1), method="euler", options={"safety": 0.5, "max_step": 1.0})


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_unknown_methods_are_refused_with_a_list() -> None:
    with pytest.raises(UnknownNameError, match="method: got 'implicit_euler', expected one of dopri8, dopri5") as info:
        pf.odeint(Counted(), START, linspace(1), method="implicit_euler")
    assert all(method in str(info.value) for method in METHODS)
    assert set(METHODS) == set(importlib.import_module("torchdiffeq._impl.odeint").SOLVERS)  # all of 0.2.5


def bad(**changed: Any) -> Callable[[], object]:
    arguments = {"func": Counted(), "y0": START, "t": linspace(1)} | changed
    return lambda: pf.odeint(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t"), **arguments)


def options(method: str = "dopri5", **given: Any) -> dict[str, Any]:
    return {"method": method, "options": given}


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "func": (bad(func=3), ArgumentError, "func: got int"),
    "y0": (bad(y0=[1.0]), DtypeError, "y0: got list"),
    "empty": (bad(y0=()), ShapeError, "y0: got an empty tuple"),
    "integers": (bad(y0=torch.ones(2, dtype=torch.int64)), DtypeError, "y0: got torch.int64"),
    "t list": (bad(t=[0.0, 1.0]), DtypeError, "t: got list"),
    "t integers": (bad(t=torch.arange(3)), DtypeError, "t: got torch.int64"),
    "t 2d": (bad(t=torch.zeros(2, 2)), ShapeError, r"t: got \[2, 2\]"),
    "t turns": (bad(t=torch.tensor([0.0, 1.0, 0.5])), GridError, "strictly increasing or strictly decreasing"),
    "t repeats": (bad(t=torch.tensor([0.0, 1.0, 1.0])), GridError, "strictly increasing or strictly decreasing"),
    "t infinite": (bad(t=torch.tensor([0.0, math.inf])), GridError, "finite"),
    "rtol": (bad(rtol=-1.0), ArgumentError, "rtol: got -1.0"),
    "rtol shape": (bad(rtol=torch.ones(3)), ShapeError, r"rtol: got \[3\]"),
    "atol grad": (bad(atol=torch.ones(2, 2, requires_grad=True)), DtypeError, "atol: got a tensor that requires"),
    "slope": (bad(func=lambda t, y: y[:, :1].T.expand(3, 2)), ShapeError, r"func: got \[3, 2\]"),
    "slope kind": (bad(func=lambda t, y: None), DtypeError, "func: got NoneType"),
    "slope dtype": (bad(func=lambda t, y: 1j * y), DtypeError, "func: got torch.complex128"),
    "tuple": (bad(func=lambda t, y: y[:1], y0=STATE), ShapeError, "func: got 1 of them, expected a tuple of 2"),
    "tolerances": (bad(func=several, y0=STATE, rtol=(1e-3,)), ShapeError, "rtol: got 1 values"),
    "first_step": (bad(**options(first_step=0.0)), ArgumentError, r"options\['first_step'\]: got 0"),
    "max_step": (bad(**options(max_step=0.1, min_step=0.2)), ArgumentError, r"options\['max_step'\]: got 0.1"),
    "safety": (bad(**options(safety=2.0)), ArgumentError, r"options\['safety'\]: got 2.0"),
    "dfactor": (bad(**options(dfactor="x")), ArgumentError, r"options\['dfactor'\]: got x"),
    "dtype": (bad(**options(dtype=torch.int32)), ArgumentError, r"options\['dtype'\]: got torch.int32"),
    "norm": (bad(**options(norm="max")), ArgumentError, r"options\['norm'\]: got 'max'"),
    "norm shape": (bad(**options(norm=lambda y: y)), ShapeError, r"options\['norm'\]: got \[2, 2\]"),
    "jump_t": (bad(**options(jump_t=torch.tensor([math.nan]))), ArgumentError, r"options\['jump_t'\]"),
    "step_size": (bad(**options("euler", step_size=-1.0)), ArgumentError, r"options\['step_size'\]: got -1.0"),
    "two grids": (
        bad(**options("euler", step_size=0.1, grid_constructor=lambda f, y, t: t)), ArgumentError, "both step_size and"
    ),
    "grid": (
        bad(**options("euler", grid_constructor=lambda f, y, t: t[1:])), GridError, r"constructor.*times from t\[0\]"
    ),
    "grid turns": (
        bad(**options("euler", grid_constructor=lambda f, y, t: t[[0, 2, 1, -1]])), GridError, "times that turn back"
    ),
    "interp": (bad(**options("euler", interp="spline")), UnknownNameError, r"options\['interp'\]: got 'spline'"),
    "max_order": (bad(**options("explicit_adams", max_order=13)), ArgumentError, r"options\['max_order'\]: got 13"),
    "solver": (bad(**options("scipy_solver", solver="LSODE")), UnknownNameError, r"options\['solver'\]: got 'LSODE'"),
    "max_num_steps": (bad(**options(max_num_steps=1), rtol=1e-12), IntegrationError, "8 attempts were not enough"),
    "nan": (bad(func=lambda t, y: y / (t < 0.5)), NotFiniteError, "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_failed_run_carries_its_state() -> None:
    with pytest.raises(IntegrationError) as info:
        pf.odeint(lambda t, y: (y[0] ** 2, y[1]), STATE, linspace(1), options={"max_num_steps": 50})
    assert info.value.t == pytest.approx(1.0, abs=1e-6)  # where 1 / (1 - t) has its pole
    assert info.value.x[1].shape == (2, 3)  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]


def test_the_page_is_true() -> None:
    """The Python of docs/odeint.md runs, and its tables name every method and option."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "odeint.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["y"].shape == (5, 8, 2)
    assert names["network"].weight.grad is not None
    rows = re.findall(r"^\| (.*) \| (.*) \|$", page, re.M)
    assert {name for methods, _ in rows for name in re.findall(r"`(\w+)`", methods)} >= set(METHODS)
    told = {name for _, given in rows for name in re.findall(r"`(\w+)`", given)}
    assert told >= {*adaptive.OPTIONS, *fixed.ADAMS_OPTIONS, *scipy_solver.OPTIONS}
