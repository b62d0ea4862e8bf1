"""`solve_ensemble`: accuracy, steps, independence, outputs, failures, and what it refuses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from ensembles import PROBLEMS, callback, van_der_pol
from scipy.integrate import solve_ivp

import pushforward as pf
from pushforward.errors import (
    ArgumentError,
    BackendError,
    DtypeError,
    GridError,
    IntegrationError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from pushforward.kernels.dispatch import native_module
from pushforward.solvers import Status
from pushforward.solvers.adaptive import CONTROLLERS, PAIRS
from pushforward.solvers.ensemble import GaussianMixture, Linear, Lorenz, NativeFunction, VanDerPol


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    before = native_module.instruction_set()
    native_module.use_instruction_set(name)
    try:
        yield
    finally:
        native_module.use_instruction_set(before)


SCIPY = {"method": "dopri54", "controller": "I"}  # what RK45 of scipy does
pytestmark = pytest.mark.skipif(native_module is None, reason="built without a compiler")
OURS = [name for name in PAIRS if PAIRS[name].fsal and PAIRS[name].stages in (4, 7)]


def starts(batch: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_scipy(problem, y0: torch.Tensor, times: list[float], method: str, tolerance: float) -> torch.Tensor:
    """[T, B, d]."""
    solved = [
        solve_ivp(problem.rate, (times[0], times[-1]), y, method, times, rtol=tolerance, atol=tolerance).y.T
        for y in y0.numpy()
    ]
    return torch.from_numpy(np.stack(solved, axis=1))


@cache
def solved(problem) -> tuple[torch.Tensor, list[float], torch.Tensor, dict[float, torch.Tensor]]:
    """States, times, DOP853's solution at 1e-12, and the errors of RK45 at some tolerances."""
    y0 = starts(4, problem.dim)
    times = [problem.start + s * (problem.end - problem.start) for s in (0.0, 0.31, 0.75, 1.0)]
    exact = by_scipy(problem, y0, times, "DOP853", 1e-12)
    return y0, times, exact, {tol: (by_scipy(problem, y0, times, "RK45", tol) - exact).abs() for tol in (1e-4, 1e-8)}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("isa", native_module.instruction_sets() if native_module else [])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_error_follows_the_tolerance(problem, isa) -> None:
    """Hardly more than scipy's own error at the same tolerance, at the end and in between: the steps are the same."""
    y0, times, exact, theirs = solved(problem)
    with instruction_set(isa):
        for tolerance, error in theirs.items():
            ours = pf.solve_ensemble(problem.field, y0, times, rtol=tolerance, atol=tolerance, **SCIPY)
            assert 0 < (ours.x - exact).abs().amax() <= 1.5 * error.amax() + 1e-11  # the reference's own error


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_as_many_evaluations_as_scipy(problem) -> None:
    """The same formulas for steps: only a last step may be stretched by 1 %, where scipy makes two."""
    y0 = starts(6, problem.dim, seed=1)
    ours = pf.solve_ensemble(problem.field, y0, [problem.start, problem.end], rtol=1e-6, atol=1e-6, **SCIPY)
    for y, nfe in zip(y0.numpy(), ours.nfe, strict=True):
        scipy = solve_ivp(problem.rate, (problem.start, problem.end), y, rtol=1e-6, atol=1e-6).nfev
        assert abs(scipy - nfe) <= 6


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_same_steps_as_solve_ode(method, controller) -> None:
    """Step sizes agree to 1e-8, from approximated powers, times to 1e-7, and the error, some 1e-5, to 1e-5 of itself.

    Anything else in which they differed would show: states would differ by as much as the error.
    """
    y0 = starts(4, 2)
    options = {"method": method, "controller": controller, "rtol": 1e-5, "atol": 1e-6}
    times = [0.0, 0.7, 3.0]
    ours = pf.solve_ensemble(VanDerPol(), y0, times, **options)
    slope = pf.solve_ode(lambda x, t: van_der_pol(x), y0, times, **options)
    assert (ours.accepted == slope.accepted).all()
    assert (ours.rejected == slope.rejected).all()
    assert (ours.nfe == slope.nfe).all()
    torch.testing.assert_close(ours.x, slope.x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{"first_step": 0.01}, {"max_step": 0.05}, {"first_step": 0.3, "max_step": 0.25}])
def test_bounds_of_steps_are_those_of_solve_ode(options) -> None:
    y0 = starts(3, 2)
    ours = pf.solve_ensemble(VanDerPol(), y0, [0.0, 2.0], **SCIPY, **options)
    slope = pf.solve_ode(lambda x, t: van_der_pol(x), y0, [0.0, 2.0], rtol=1e-6, atol=1e-6, **options)
    assert (ours.accepted == slope.accepted).all()
    assert (ours.nfe == slope.nfe).all()
    torch.testing.assert_close(ours.final, slope.final, rtol=0, atol=1e-10)


def test_outputs_in_between_change_no_step_and_are_of_order_four() -> None:
    y0 = starts(40, 2)
    plain = pf.solve_ensemble(VanDerPol(), y0, [0.0, 5.0])
    times = np.linspace(0.0, 5.0, 301)
    ours = pf.solve_ensemble(VanDerPol(), y0, times)
    assert torch.equal(ours.x[-1], plain.x[-1])
    assert torch.equal(ours.x[0], y0)
    assert torch.equal(ours.final, plain.final)
    exact = by_scipy(PROBLEMS[0], y0[:3], list(times), "DOP853", 1e-12)
    at_steps = (plain.final[:3] - exact[-1]).abs().amax()
    assert (ours.x[:, :3] - exact).abs().amax() < 10 * at_steps


def test_backwards_in_time() -> None:
    """Against the matrix exponential, with the same error as the mirrored system forwards."""
    y0, a = starts(33, 2), torch.tensor([[0.1, 2.0], [-1.0, 0.2]], dtype=torch.float64)
    times = torch.tensor([3.0, 2.5, 1.0, 0.0], dtype=torch.float64)
    ours = pf.solve_ensemble(Linear(a), y0, times, rtol=1e-9, atol=1e-9)
    exact = y0 @ torch.linalg.matrix_exp(a * (times - 3.0)[:, None, None]).mT
    forwards = pf.solve_ensemble(Linear(-a), y0, 3.0 - times, rtol=1e-9, atol=1e-9)
    assert (ours.x - exact).abs().amax() < 1e-7
    torch.testing.assert_close(ours.x, forwards.x, rtol=0, atol=1e-12)
    assert (ours.t == 0.0).all()


def test_a_trajectory_is_the_same_in_any_batch_place_and_thread(threads) -> None:
    """Bit for bit: alone, in any company, with one and with several threads."""
    y0 = starts(1000, 2)
    mu = torch.linspace(0.1, 6.0, 1000, dtype=torch.float64)
    times = [0.0, 0.9, 4.0]
    threads(1)
    together = pf.solve_ensemble(VanDerPol(mu), y0, times)
    threads(3)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    shuffled = pf.solve_ensemble(VanDerPol(mu[order]), y0[order], times)
    assert torch.equal(shuffled.x, together.x[:, order])
    assert (shuffled.nfe == together.nfe[order.numpy()]).all()
    for batch in (1, 31, 97):
        some = pf.solve_ensemble(VanDerPol(mu[:batch]), y0[:batch], times)
        assert torch.equal(some.x, together.x[:, :batch])


def test_parameters_of_each_trajectory_and_shared_ones_agree() -> None:
    y0 = starts(50, 3)
    a = torch.randn(50, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = pf.solve_ensemble(Linear(a), y0, [0.0, 1.0], rtol=1e-10, atol=1e-10)
    exact = torch.linalg.matrix_exp(a) @ y0[..., None]
    torch.testing.assert_close(ours.final, exact[..., 0], rtol=1e-8, atol=1e-8)
    shared = pf.solve_ensemble(Linear(a[0]), y0, [0.0, 1.0])
    copies = pf.solve_ensemble(Linear(a[:1].expand(50, 3, 3)), y0, [0.0, 1.0])
    assert torch.equal(shared.x, copies.x)
    each = pf.solve_ensemble(Lorenz(rho=torch.full((50,), 20.0)), y0, [0.0, 0.5])
    assert torch.equal(each.x, pf.solve_ensemble(Lorenz(rho=20.0), y0, [0.0, 0.5]).x)


def test_many_dimensions_and_far_components() -> None:
    """More rows than the first cache holds; and states so far from every component that all densities underflow."""
    dim = 70
    means = 3 * starts(4, dim, seed=5)
    oracle = pf.models.oracles.MixtureOracle([0.1, 0.2, 0.3, 0.4], list(means), [0.2, 0.5, 1.0, 0.1])
    field = GaussianMixture([1, 2, 3, 4], means, [0.2, 0.5, 1.0, 0.1])
    y0 = torch.cat([starts(40, dim), 300 * starts(2, dim)])
    ours = pf.solve_ensemble(field, y0, [0.0, 1.0], rtol=1e-8, atol=1e-8)
    slope = pf.solve_ode(
        lambda x, t: oracle.velocity(x, t), y0, [0.0, 1.0], rtol=1e-8, atol=1e-8, method="tsit54", controller="PI"
    )
    assert (ours.nfe == slope.nfe).all()
    # the exponents of the far states, some 1e6, are rounded to 1e-10, and so are the shares of components
    torch.testing.assert_close(ours.final, slope.final, rtol=1e-8, atol=1e-10)


def test_tolerances_of_components() -> None:
    """A component whose tolerance is huge does not ask for steps."""
    y0 = starts(4, 2)
    fine = torch.tensor([1e-8, 1e-8], dtype=torch.float64)
    coarse = torch.tensor([1e-8, 1e3], dtype=torch.float64)
    decoupled = Linear([[-1.0, 0.0], [0.0, -50.0]])
    both, first = (pf.solve_ensemble(decoupled, y0, [0.0, 1.0], rtol=0.0, atol=a) for a in (fine, coarse))
    assert (first.accepted < both.accepted / 2).all()
    alone = pf.solve_ensemble(decoupled, y0, [0.0, 1.0], rtol=0.0, atol=1e-8)
    assert torch.equal(alone.x, both.x)


def test_nothing_to_do() -> None:
    y0 = starts(3, 2)
    only = pf.solve_ensemble(VanDerPol(), y0, [0.5])
    assert torch.equal(only.x, y0[None])
    assert only.nfe.sum() == 0
    none = pf.solve_ensemble(VanDerPol(), y0[:0], [0.0, 1.0])
    assert none.x.shape == (2, 0, 2)
    still = pf.solve_ensemble(Linear(torch.zeros(2, 2)), y0, [0.0, 1.0])
    assert torch.equal(still.final, y0)


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_trajectory_that_meets_nan_fails_alone() -> None:
    """Of y' = -y, NaN where y > 5: the others come out as without it, bit for bit."""
    function, keep = callback(lambda t, y, p: np.where(y > 5, np.nan, -y))
    y0 = starts(40, 1)
    bad = y0.clone()
    bad[7], bad[21] = 6.0, torch.nan
    good = pf.solve_ensemble(function, y0, [0.0, 0.5, 1.0])
    ours = pf.solve_ensemble(function, bad, [0.0, 0.5, 1.0], on_failure="return")
    others = [b for b in range(40) if b not in (7, 21)]
    assert torch.equal(ours.x[:, others], good.x[:, others])
    assert (ours.nfe[others] == good.nfe[others]).all()
    assert [ours.status[b] for b in (7, 21)] == [Status.NOT_FINITE] * 2
    assert ours.x[1:, [7, 21]].isnan().all()
    assert ours.final[7] == 6.0
    assert ours.t[7] == 0.0
    with pytest.raises(NotFiniteError, match="sample 7 at t = 0") as caught:
        pf.solve_ensemble(function, bad, [0.0, 0.5, 1.0])
    assert caught.value.solution.success.sum() == 38
    with pytest.warns(RuntimeWarning, match="2 of 40 samples failed"):
        pf.solve_ensemble(function, bad, [0.0, 1.0], on_failure="warn")
    assert keep


def test_nan_on_the_way_keeps_what_was_reached() -> None:
    function, _ = callback(lambda t, y, p: np.where(t > 0.6, np.nan, -y))
    ours = pf.solve_ensemble(function, starts(3, 1), [0.0, 0.5, 1.0], on_failure="return")
    assert (ours.status == Status.NOT_FINITE).all()
    assert ours.x[:2].isfinite().all()
    assert ours.x[2].isnan().all()
    assert (np.abs(ours.t - 0.6) < 1e-9).all()
    assert ours.final.isfinite().all()


def test_a_singularity_and_too_many_steps_have_a_status() -> None:
    function, _ = callback(lambda t, y, p: y * y)  # infinite at t = 1 / y0
    y0 = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    ours = pf.solve_ensemble(function, y0, [0.0, 1.0], on_failure="return")
    assert ours.status[0] in (Status.STEP_TOO_SMALL, Status.NOT_FINITE)
    assert abs(ours.t[0] - 0.5) < 1e-6
    assert ours.status[1] == Status.SUCCESS
    assert abs(float(ours.final[1, 0]) - 1.0) < 1e-5
    ours = pf.solve_ensemble(VanDerPol(), starts(2, 2), [0.0, 10.0], max_steps=5, on_failure="return")
    assert (ours.status == Status.TOO_MANY_STEPS).all()
    assert (ours.accepted + ours.rejected == 5).all()
    with pytest.raises(IntegrationError, match="5 attempts were not enough"):
        pf.solve_ensemble(VanDerPol(), starts(2, 2), [0.0, 10.0], max_steps=5)
    with pytest.raises(IntegrationError, match=r"the step size fell below 0\.01"):
        pf.solve_ensemble(Linear([[-1e6]]), starts(2, 1), [0.0, 10.0], min_step=0.01)


GOOD = {"rhs": VanDerPol(), "y0": torch.zeros(3, 2, dtype=torch.float64), "times": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"y0": [[0.0, 1.0]]}, ArgumentError, "y0: got a list"),
        ({"y0": torch.zeros(3, 2)}, DtypeError, "y0: got torch.float32, expected float64"),
        ({"y0": torch.zeros(2, dtype=torch.float64)}, ShapeError, r"y0: got \[2\]"),
        ({"y0": torch.zeros(3, 3, dtype=torch.float64)}, ShapeError, r"expected \[B, 2\] for VanDerPol"),
        ({"times": [0.0, 1.0, 1.0]}, GridError, r"times\[1\] = 1, then 1"),
        ({"times": [0.0, math.nan]}, GridError, "NaN"),
        ({"times": [[0.0, 1.0]]}, ShapeError, "times"),
        ({"rtol": -1e-3}, ArgumentError, "rtol: got -0.001"),
        ({"rtol": 0.0, "atol": 0.0}, ArgumentError, "atol: got 0, and rtol too"),
        ({"atol": math.nan}, ArgumentError, "atol"),
        ({"atol": [1e-6, 1e-6, 1e-6]}, ShapeError, r"atol: got \[3\], expected a number, or \[2\]"),
        ({"rtol": torch.full((2,), 1e-6)}, ShapeError, "rtol"),
        ({"method": "rk46"}, UnknownNameError, "rk46"),
        ({"method": "heun21"}, ArgumentError, "method: got heun21, .*dopri54"),
        ({"method": "dop853"}, ArgumentError, "method: got dop853"),
        ({"controller": "PD"}, UnknownNameError, "controller"),
        ({"first_step": 0.0}, ArgumentError, "first_step"),
        ({"max_step": -1.0}, ArgumentError, "max_step"),
        ({"min_step": 1.0, "max_step": 0.5}, ArgumentError, "min_step"),
        ({"max_steps": 0}, ArgumentError, "max_steps"),
        ({"on_failure": "ignore"}, UnknownNameError, "on_failure"),
        ({"rhs": lambda t, y: y}, ArgumentError, "rhs: got a function.*numba_rhs"),
        ({"rhs": 12345}, ArgumentError, "rhs: got a int.*NativeFunction"),
        ({"rhs": VanDerPol(torch.ones(4))}, ShapeError, "4 rows of parameters"),
        ({"params": torch.ones(1, dtype=torch.float64)}, ArgumentError, "VanDerPol has its parameters"),
        ({"rhs": NativeFunction(1), "params": torch.ones(1)}, DtypeError, "params: got torch.float32"),
        ({"rhs": NativeFunction(1), "params": torch.ones(2, 1, dtype=torch.float64)}, ShapeError, r"or \[3, p\]"),
    ],
)
def test_bad_input_is_refused(change, error, says) -> None:
    with pytest.raises(error, match=says):
        pf.solve_ensemble(**(GOOD | change))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: NativeFunction(0), ArgumentError),
        (lambda: Linear([[1.0, 2.0]]), ShapeError),
        (lambda: Linear([[math.inf]]), ArgumentError),
        (lambda: VanDerPol(torch.ones(2, 2)), ShapeError),
        (lambda: Lorenz(torch.ones(2), torch.ones(3)), ShapeError),
        (lambda: GaussianMixture([0.5, -0.5], [[0.0], [1.0]]), ArgumentError),
        (lambda: GaussianMixture([1.0], [[0.0], [1.0]]), ShapeError),
        (lambda: GaussianMixture([1.0], [[0.0]], 0.0), ArgumentError),
        (lambda: GaussianMixture([1.0], [[0.0, 1.0]], torch.ones(3)), ShapeError),
    ],
)
def test_fields_refuse_what_makes_no_sense(make, error) -> None:
    with pytest.raises(error):
        make()


def test_without_the_compiled_module_it_says_so(monkeypatch) -> None:
    monkeypatch.setattr("pushforward.solvers.ensemble.solve.native_module", None)
    with pytest.raises(BackendError, match="solve_ensemble"), warnings.catch_warnings():
        pf.solve_ensemble(**GOOD)
