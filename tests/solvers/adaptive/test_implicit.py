from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ode_problems import PROBLEMS, van_der_pol
from torch import Tensor

import pushforward as pf
from pushforward.errors import DtypeError, NotFiniteError, UnknownNameError
from pushforward.models import GaussianOracle
from pushforward.solvers.adaptive import IMPLICIT, METHODS, ImplicitMethod, Live, Newton, solve_ode
from pushforward.solvers.adaptive.field import function_field
from pushforward.solvers.adaptive.tolerance import tolerance

NAMES = list(IMPLICIT)
MATRIX_FREE = Newton(largest_dense=0)


def one_tolerance_a_sample(name: str, method: str, tolerances: list[float], small: float = 1.0) -> None:
    """The achieved error is within ten times the tolerance, for all of them in one batch."""
    problem = PROBLEMS[name]
    rtol = torch.tensor(tolerances, dtype=torch.float64)[:, None]
    x0 = problem.x0.expand(len(tolerances), -1).contiguous()
    solution = solve_ode(problem.field, x0, problem.times, method=method, rtol=rtol, atol=small * rtol)
    for found, tol in zip(solution.final, tolerances, strict=True):
        assert problem.error(found[None]) < 10 * tol, tol
    assert (np.diff(solution.nfe) > 0).all(), "a finer tolerance costs more"


@pytest.mark.parametrize("method", NAMES)
def test_accuracy_on_robertson(method: str) -> None:
    finest = {"kvaerno32": 5, "esdirk43": 8}[method]
    one_tolerance_a_sample("robertson", method, [10.0**-k for k in range(3, finest + 1)], small=1e-4)


@pytest.mark.parametrize(("method", "finest"), [("kvaerno32", 4), ("esdirk43", 6)])
def test_accuracy_on_van_der_pol(method: str, finest: int) -> None:
    one_tolerance_a_sample("van-der-pol-100", method, [10.0**-k for k in range(3, finest + 1)])


def pendulum(x: Tensor, t: Tensor) -> Tensor:
    """A nonlinear problem that depends on time."""
    a, b = x.unbind(-1)
    return torch.stack([b, torch.sin(2 * t) - torch.sin(a) * (1 + 0.3 * b)], -1)


def live_samples(field: Callable[..., Tensor], x: Tensor, t: float = 0.0, tol: float = 1e-3) -> Live:
    """As a run would hand them to a method."""
    count = len(x)
    times, right = np.full(count, t), function_field(field, None, count)
    slope = right(x, torch.from_numpy(times))
    return Live(right, tolerance(tol, tol, "rms", x), np.arange(count), x, times, slope)


@pytest.mark.parametrize("method", NAMES)
def test_measured_orders(method: str) -> None:
    """Errors of one step shrink with order + 1, those of its estimate and of dense output with theirs; many starts."""
    pair = IMPLICIT[method]
    solver = ImplicitMethod(method, Newton(tolerance=1e-7, iterations=20))
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 2)))
    lengths = {3: 0.04, 4: 0.12, 5: 0.2}[pair.order] * np.array([1, 1 / math.sqrt(2), 1 / 2])
    theta, live = 0.37, live_samples(pendulum, x, 0.3, tol=1e-8)
    local, inside, estimated = [], [], []
    for h in lengths:
        attempt = solver.attempt(live, np.full(len(x), h))
        assert attempt.interpolate is not None
        dense, spent = attempt.interpolate(torch.arange(len(x)), np.full(len(x), theta))
        assert spent == 0
        exact = solve_ode(pendulum, x, [0.3, 0.3 + theta * h, 0.3 + h], method="dop853", rtol=1e-13, atol=1e-13).x
        local.append(float((attempt.x - exact[2]).norm()))
        inside.append(float((dense - exact[1]).norm()))
        scale = 1e-8 * (1 + torch.maximum(x.abs(), attempt.x.abs()))
        size = torch.from_numpy(attempt.ratio) * scale.square().mean(1).sqrt()  # the rms of the estimate, nearly
        estimated.append(float(size.norm()))
    (order,) = pair.estimates
    for what, expected, errors in (
        ("row", pair.order, local),
        ("dense", pair.dense_order, inside),
        ("estimate", order, estimated),
    ):
        coarse, fine = (math.log(a / b, math.sqrt(2)) for a, b in itertools.pairwise(errors))
        extrapolated = (math.sqrt(2) * fine - coarse) / (math.sqrt(2) - 1)
        assert abs(extrapolated - expected - 1) < 0.35, what


@pytest.mark.parametrize("newton", [Newton(), MATRIX_FREE], ids=["dense", "matrix-free"])
def test_steps_do_not_depend_on_stiffness(newton: Newton) -> None:
    """Prothero & Robinson's problem, x = cos t whatever the rate; stiffness grows by a million across the batch."""
    rates = torch.tensor([[1e1], [1e3], [1e5], [1e7]], dtype=torch.float64)

    def field(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return -rate * (x - torch.cos(t)[:, None]) - torch.sin(t)[:, None]

    x0, tol = torch.ones(4, 1, dtype=torch.float64), 1e-6
    solution = solve_ode(
        field, x0, [0.0, 2.0], method=ImplicitMethod("esdirk43", newton), condition={"rate": rates}, rtol=tol, atol=tol
    )
    assert (solution.final - math.cos(2.0)).abs().max() < 10 * tol
    assert solution.nfe.max() < 1000  # an explicit method would need ten million


def heat(x: Tensor, t: Tensor) -> Tensor:
    """Heat on a rod with its ends at 0, by central differences on [0, 1]."""
    padded = torch.nn.functional.pad(x, (1, 1))
    return (padded[:, 2:] - 2 * x + padded[:, :-2]) * (x.shape[1] + 1) ** 2


def test_a_large_system_is_solved_without_its_matrix() -> None:
    """Seventy elements, eigenvalues to -20,000: an explicit method would need 0.1 * 20,000 / 3.3 steps."""
    count = 70
    x0 = torch.from_numpy(np.random.default_rng(1).normal(size=(2, count)))
    matrix = torch.func.jacrev(lambda x: heat(x[None], torch.zeros(1))[0])(x0[0])
    exact = x0 @ torch.linalg.matrix_exp(0.1 * matrix).T
    solution = solve_ode(heat, x0, [0.0, 0.1], method="esdirk43", rtol=1e-4, atol=1e-4)
    assert (solution.final - exact).abs().max() < 10 * 1e-4
    assert solution.jacobians.tolist() == [0, 0]
    assert (solution.products > 0).all()
    dense = solve_ode(
        heat, x0, [0.0, 0.1], method=ImplicitMethod("esdirk43", Newton(largest_dense=count)), rtol=1e-4, atol=1e-4
    )
    assert (dense.final - solution.final).abs().max() < 1e-4
    assert dense.accepted.max() < 100
    assert dense.products.tolist() == [0, 0]
    np.testing.assert_array_equal(dense.jacobians, dense.accepted + dense.rejected)


def counting(field: Callable[[Tensor, Tensor], Tensor]) -> tuple[Callable[[Tensor, Tensor], Tensor], list[int]]:
    """The field, and the rows it was asked for."""
    asked: list[int] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        asked.append(len(x))
        return field(x, t)

    return counted, asked


@pytest.mark.parametrize("newton", [Newton(), MATRIX_FREE], ids=["dense", "matrix-free"])
def test_evaluations_are_counted_by_sample(newton: Newton) -> None:
    field, asked = counting(van_der_pol(30))
    x0 = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.1, 0.0]], dtype=torch.float64)
    solution = solve_ode(field, x0, [0.0, 1.0], method=ImplicitMethod("esdirk43", newton), rtol=1e-5, atol=1e-5)
    # A product evaluates once; within a space of GMRES all of its samples go on until the last has converged.
    assert sum(asked) == solution.nfe.sum() + solution.products.sum()
    assert len(set(solution.nfe)) == 3
    attempts = (solution.accepted + solution.rejected).max()
    # At least one read a stage, one a linear solve if iterative, and one for the error.
    assert solution.host_reads >= 6 * attempts


@pytest.mark.parametrize("newton", [Newton(), MATRIX_FREE], ids=["dense", "matrix-free"])
def test_a_sample_does_not_depend_on_its_batch(newton: Newton) -> None:
    """Others that are hard, leave early, or fail: none of them is felt."""
    method, mu = ImplicitMethod("esdirk43", newton), torch.tensor([[1.0], [30.0], [5.0], [math.nan]])

    def field(x: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack([b, mu[:, 0] * (1 - a**2) * b - a], -1)

    x0 = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    mu = mu.double()
    together = solve_ode(
        field, x0, [0.0, 1.0], method=method, condition={"mu": mu}, rtol=1e-6, atol=1e-6, on_failure="return"
    )
    assert together.success.tolist() == [True, True, True, False]
    for i in range(3):
        alone = solve_ode(
            field, x0[i : i + 1], [0.0, 1.0], method=method, condition={"mu": mu[i : i + 1]}, rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(together.final[i], alone.final[0], rtol=1e-12, atol=1e-12)
        assert together.nfe[i] == alone.nfe[0]
        assert together.accepted[i] == alone.accepted[0]


class Opaque(torch.autograd.Function):
    """Sine with a backward rule and no forward one, like a kernel of somebody else."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


@pytest.mark.parametrize("newton", [Newton(), MATRIX_FREE], ids=["dense", "matrix-free"])
@pytest.mark.parametrize("hidden", ["no graph", "no forward rule"])
def test_differences_replace_derivatives_that_are_not_there(newton: Newton, hidden: str) -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        if hidden == "no graph":
            with torch.no_grad():
                return -300 * (x.sin() - torch.cos(t)[:, None])
        return -300 * (Opaque.apply(x) - torch.cos(t)[:, None])

    x0 = torch.tensor([[0.3, 1.0], [0.0, 0.5]], dtype=torch.float64)
    expected = solve_ode(field, x0, [0.0, 1.0], method="dop853", rtol=1e-9, atol=1e-9).final
    found = solve_ode(field, x0, [0.0, 1.0], method=ImplicitMethod("esdirk43", newton), rtol=1e-6, atol=1e-6)
    assert (found.final - expected).abs().max() < 1e-5
    assert found.accepted.max() < 100


@pytest.mark.parametrize("newton", [Newton(), MATRIX_FREE], ids=["dense", "matrix-free"])
def test_a_network_in_single_precision(newton: Newton) -> None:
    """Images of 3 x 4 x 4, a small network and a stiff pull; tolerances near what single precision resolves."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )
    stiffness = torch.logspace(0, 2.5, 16).reshape(4, 4)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return network.to(x.dtype)(x) - stiffness.to(x.dtype) * (x - t[:, None, None, None])

    x0 = torch.randn(2, 3, 4, 4)
    exact = solve_ode(field, x0.double(), [0.0, 1.0], method="dop853", rtol=1e-9, atol=1e-9).final
    found = solve_ode(field, x0, [0.0, 1.0], method=ImplicitMethod("esdirk43", newton), rtol=1e-5, atol=1e-5)
    assert found.final.dtype == torch.float32
    assert (found.final - exact).abs().max() < 10 * 1e-5
    assert found.accepted.max() < 60


def test_a_model_is_solved_too() -> None:
    """Its field goes through the library's own operations, which have gradients."""
    oracle = GaussianOracle([0.7, -0.4], [[1e-4, 0.0], [0.0, 0.2]])
    x0 = oracle.sample(4, seed=3, t=0.01)
    found = pf.solve_ode(oracle.model("noise"), x0, [0.01, 0.999], method="esdirk43", rtol=1e-6, atol=1e-6)
    exact = oracle.flow_map(x0, 0.01, 0.999)
    assert ((found.final - exact) / (1 + exact.abs())).square().mean(1).sqrt().max() < 10 * 1e-6


def test_outputs_dense_output_and_backward_time() -> None:
    problem, times = PROBLEMS["van-der-pol-1"], np.linspace(0, 10, 23)
    exact = solve_ode(problem.field, problem.x0, times, method="dop853", rtol=1e-12, atol=1e-12).x
    found = solve_ode(problem.field, problem.x0, times, method="esdirk43", rtol=1e-6, atol=1e-6, dense=True)
    bound = 10 * 1e-6 * 3 * problem.amplification  # over 1 + abs(x), at most 3
    assert (found.x - exact).abs().max() < bound
    assert found.dense is not None
    assert (found.dense(float(times[5])) - exact[5]).abs().max() < bound
    back = solve_ode(pendulum, exact[3], [1.0, 0.2], method="esdirk43", rtol=1e-6, atol=1e-6).final
    there = solve_ode(pendulum, back, [0.2, 1.0], method="kvaerno32", rtol=1e-6, atol=1e-6).final
    assert (there - exact[3]).abs().max() < 2e-5


def test_a_stage_that_does_not_converge_halves_the_step_of_its_sample() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    attempt = METHODS["esdirk43"].attempt(live_samples(van_der_pol(100), x), np.array([50.0, 50.0]))
    assert attempt.ratio[0] == np.inf  # steps over the jump of a relaxation oscillation
    assert attempt.ratio[1] == 0  # rests in its equilibrium
    assert isinstance(attempt.evaluations, np.ndarray)
    assert attempt.evaluations[0] < attempt.evaluations[1]  # nothing is spent on what has failed


def test_failures_are_said() -> None:
    x0 = torch.ones(2, 1, dtype=torch.float64)
    with pytest.raises(NotFiniteError, match="sample 0"):
        solve_ode(lambda x, t: -x / (t[:, None] < 0.5), x0, [0.0, 1.0], method="esdirk43")
    with pytest.raises(DtypeError, match=r"x0: got torch.bfloat16, expected float32 or float64 for esdirk43"):
        solve_ode(lambda x, t: -x, x0.bfloat16(), [0.0, 1.0], method="esdirk43", rtol=1e-1, atol=1e-1)
    with pytest.raises(UnknownNameError, match="esdirk43, kvaerno32"):
        solve_ode(lambda x, t: -x, x0, [0.0, 1.0], method="kvaerno")


def test_a_singular_matrix_is_a_failed_attempt_and_no_crash() -> None:
    """I - h gamma J is singular where h gamma is the inverse of an eigenvalue; the step is halved, the run goes on."""
    method = METHODS["esdirk43"]
    assert isinstance(method, ImplicitMethod)
    x = torch.ones(1, 1, dtype=torch.float64)
    attempt = method.attempt(live_samples(lambda x, t: 4 * x, x), np.array([1.0]))
    assert not attempt.ratio[0] <= 1
    found = solve_ode(lambda x, t: 4 * x, x, [0.0, 1.0], method=method, first_step=1.0, rtol=1e-7, atol=1e-7)
    assert float(found.final) == pytest.approx(math.exp(4), rel=1e-5)
