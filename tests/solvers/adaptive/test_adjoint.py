"""Gradients of the flow by its adjoint equation."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from _live_memory import LiveMemory
from small_net import DOUBLE, Net, normal
from torch import Tensor, nn
from torch.autograd import gradcheck
from torchdiffeq import odeint, odeint_adjoint

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, IntegrationError, UnknownNameError
from pushforward.models import GaussianOracle, adapt
from pushforward.solvers import Event, Status
from pushforward.solvers.adaptive import Live, pair
from pushforward.solvers.adaptive.explicit import explicit_method
from pushforward.solvers.adaptive.field import function_field
from pushforward.solvers.adaptive.tolerance import Tolerance
from pushforward.solvers.gradients.adjoint_method import AdjointField, AdjointMethod, Quadrature

TIMES = [0.0, 0.3, 0.7, 1.0]


def inputs(net: nn.Module, scale: float = 1.0) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = (scale * normal(4, 2) * torch.arange(1, 5)[:, None]).requires_grad_()
    times = torch.tensor(TIMES, dtype=DOUBLE, requires_grad=True)
    return x, times, [x, times, *net.parameters()]


def loss(states: Tensor) -> Tensor:
    return (states * normal(*states.shape, seed=5)).sum() + states[-1].square().sum()


@pytest.fixture(scope="module")
def exact() -> tuple[Tensor, ...]:
    """Gradients of x0, times and parameters at a tolerance where only rounding is left."""
    net = Net()
    x, times, wanted = inputs(net)
    run = pf.solve_ode(net, x, times, rtol=1e-12, atol=1e-12, method="dop853", gradient="steps")
    return torch.autograd.grad(loss(run.x), wanted)


@pytest.mark.parametrize("anchors", ["steps", "outputs"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients_are_as_accurate_as_asked(exact: tuple[Tensor, ...], per_sample: bool, anchors: str) -> None:
    net = Net()
    x, times, wanted = inputs(net)
    errors = []
    for tol in (1e-4, 1e-8):
        options = dict(rtol=tol, atol=tol, per_sample=per_sample, adjoint_options={"anchors": anchors})
        run = pf.solve_ode(net, x, times, gradient="adjoint", **options)
        found = torch.autograd.grad(loss(run.x), wanted)
        errors.append([(a - b).abs().max().item() / b.abs().max().item() for a, b in zip(found, exact, strict=True)])
        if per_sample:
            assert len(set(run.accepted)) > 1
    # Sums over steps, samples and outputs of errors that are within the tolerance each.
    assert max(errors[0]) < 100 * 1e-4
    assert max(errors[1]) < 100 * 1e-8


def test_a_tolerance_of_its_own(exact: tuple[Tensor, ...]) -> None:
    net = Net()
    x, times, wanted = inputs(net)
    forward = dict(rtol=1e-10, atol=1e-10, gradient="adjoint", adjoint_options={"anchors": "outputs"})
    rows, errors = [], []
    for tol in (1e-3, 1e-9):
        run = pf.solve_ode(net, x, times, **forward, adjoint_rtol=tol, adjoint_atol=tol, adjoint_method="tsit5")
        net.rows = 0
        found = torch.autograd.grad(loss(run.x), wanted)
        rows.append(net.rows)
        errors.append(max((a - b).abs().max().item() for a, b in zip(found, exact, strict=True)))
    assert errors[1] < 1e-6
    assert rows[0] < rows[1] / 2
    assert errors[0] > errors[1]


def test_gradients_do_not_depend_on_the_scale_of_the_loss() -> None:
    """The adjoint is divided by what comes in; scaling by a power of two changes no digit."""
    net = Net()
    x, _, _ = inputs(net)
    found = []
    for scale in (1.0, 2.0**-40):
        run = pf.solve_ode(net, x, TIMES, gradient="adjoint", rtol=1e-5, atol=1e-5)
        found.append([g / scale for g in torch.autograd.grad(scale * loss(run.x), [x, *net.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0.0)


def test_differences_agree() -> None:
    weight = normal(2, 2, seed=1).requires_grad_()

    def solved(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        run = pf.solve_ode(
            lambda x, t: torch.tanh(x @ weight) * (1 + t[:, None]),
            x,
            [1.0, 0.4, 0.0],
            gradient="adjoint",
            parameters=[weight],
            rtol=1e-9,
            atol=1e-9,
        )
        return run.x, run.final

    x = normal(3, 2).requires_grad_()
    # differences carry the tolerance over eps, gradients the tolerance
    assert gradcheck(solved, (x, weight), eps=1e-4, atol=1e-5, rtol=1e-5, fast_mode=True, nondet_tol=1e-12)


def test_gradient_of_the_gaussian_flow() -> None:
    oracle = GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]])
    x = oracle.sample(4, seed=2, t=0.1).double().requires_grad_()
    weights = normal(4, 2, seed=1)
    options = dict(rtol=1e-8, atol=1e-8, gradient="adjoint", parameters=())
    run = pf.solve_ode(oracle.model("noise"), x, [0.1, 0.9], **options)
    (got,) = torch.autograd.grad((run.x[-1] * weights).sum(), x)
    closed = torch.autograd.grad((oracle.flow_map(x, 0.1, 0.9) * weights).sum(), x)[0]
    torch.testing.assert_close(got, closed, rtol=1e-5, atol=1e-5)


def test_gradients_of_torchdiffeq() -> None:
    net = Net()
    x = normal(1, 2).requires_grad_()
    times = torch.tensor(TIMES, dtype=DOUBLE)
    wanted, tight = [x, *net.parameters()], dict(rtol=1e-9, atol=1e-9)

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.net(x, t.expand(len(x)))

    theirs = Theirs()
    states = [
        pf.solve_ode(net, x, times, gradient="adjoint", **tight).x,
        pf.solve_ode(net, x, times, gradient="steps", **tight).x,
        odeint(theirs, x, times, method="dopri5", **tight),
        odeint_adjoint(theirs, x, times, method="dopri5", adjoint_options={"norm": "seminorm"}, **tight),
    ]
    first, *others = (torch.autograd.grad(loss(found), wanted) for found in states)
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_flow_that_contracts_is_not_reversed() -> None:
    """An error of the first component grows by e^40 on the way back; its square is what is differentiated."""
    x = torch.tensor([[1.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    p = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([-40 * (x[:, 0] - torch.sin(3 * t)), p * x[:, 0].square()], dim=1)

    options = dict(rtol=1e-6, atol=1e-8)
    run = pf.solve_ode(field, x, [0.0, 1.0], gradient="steps", **options)
    true = torch.autograd.grad(run.final[0, 1], [x, p])
    run = pf.solve_ode(field, x, [0.0, 1.0], gradient="adjoint", parameters=[p], **options)
    for a, b in zip(torch.autograd.grad(run.final[0, 1], [x, p]), true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    reverse = dict(adjoint_options={"anchors": "outputs"}, parameters=[p], gradient="adjoint", **options)
    (of_p,) = torch.autograd.grad(pf.solve_ode(field, x, [0.0, 1.0], **reverse).final[0, 1], p)
    assert not abs(of_p - true[1]) < 1  # what the states at the steps are kept for


def test_an_implicit_run_has_an_adjoint(exact: tuple[Tensor, ...]) -> None:
    net = Net()
    x, times, wanted = inputs(net)
    run = pf.solve_ode(net, x, times, method="esdirk43", rtol=1e-6, atol=1e-6, gradient="adjoint")
    found = torch.autograd.grad(loss(run.x), wanted)
    for a, b in zip(found, exact, strict=True):  # sums of errors that are within the tolerance each
        torch.testing.assert_close(a, b, rtol=0.0, atol=100 * 1e-6 * b.abs().max().item())
    with pytest.raises(ArgumentError, match="gradient: got 'steps' of esdirk43, expected an explicit pair"):
        pf.solve_ode(net, x, times, method="esdirk43", gradient="steps")


def test_a_rejected_stage_that_is_not_finite_spoils_no_parameter() -> None:
    """The second sample's attempt leaves the domain of the square root; the first one's is accepted."""
    rate = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

    def field(x: Tensor, t: Tensor, offset: Tensor) -> Tensor:
        return -rate * torch.sqrt(x + offset) * (1 + t[:, None])

    offset = torch.tensor([[0.5], [0.0]], dtype=DOUBLE)
    z = torch.tensor([[[1.0], [0.3]], [[0.01], [1.0]]], dtype=DOUBLE)
    h, accept = np.array([-0.1, 0.5]), np.array([True, False])
    method, allowed = AdjointMethod(explicit_method(pair("dopri54")), parameters=True), Tolerance(1e-3, 1e-3)
    found, ratios = [], []
    for rows in ([0, 1], [0]):
        right = AdjointField(function_field(field, {"offset": offset[rows]}, len(rows)))
        live = Live(right, allowed, np.array(rows), z[rows], np.zeros(len(rows)))
        attempt = method.attempt(live, h[rows])
        ratios.append(attempt.ratio)
        quadrature = Quadrature([rate], torch.tensor([2.0, 3.0], dtype=DOUBLE))
        quadrature.step(live, attempt, accept[rows], h[rows], h[rows])
        found.append(quadrature.total[0])
    assert np.isnan(ratios[0][1])
    assert found[0] == found[1] != 0


def test_conditions_and_samples_without_gradient() -> None:
    """A linear field whose rate is the condition: x(t) = x exp(rate t)."""
    rows = []

    def network(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        rows.append(len(x))
        return x * rate

    model = adapt(network, prediction="velocity", interpolant="linear")
    given = torch.tensor([[0.1], [2.0], [-3.0]], dtype=DOUBLE, requires_grad=True)
    x = normal(3, 2).requires_grad_()
    rate = given * 1.0  # not a leaf
    options = dict(condition={"rate": rate}, rtol=1e-9, atol=1e-9, gradient="adjoint", parameters=())
    run = pf.solve_ode(model, x, TIMES, **options)
    rows.clear()
    got = torch.autograd.grad(run.x[:, 1:].sum(), [x, given])
    assert max(rows) == 2  # the first sample has no part in the loss
    true = torch.autograd.grad(sum((x * torch.exp(given * t))[1:].sum() for t in TIMES), [x, given])
    for a, b in zip(got, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_stops_on_the_way_back() -> None:
    """x' = a x before 1/2 and -2 a x behind it: x(1) = x exp(-a / 2)."""
    a = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, a, -2 * a)[:, None] * x

    x = normal(2, 1).requires_grad_()
    options = dict(stops=[0.5], rtol=1e-9, atol=1e-9, gradient="adjoint", parameters=[a])
    run = pf.solve_ode(field, x, [0.0, 0.5, 1.0], **options)
    got = torch.autograd.grad(run.final.sum(), [x, a])
    true = torch.autograd.grad((x * torch.exp(-a / 2)).sum(), [x, a])
    for mine, closed in zip(got, true, strict=True):
        torch.testing.assert_close(mine, closed, rtol=1e-7, atol=1e-7)


def test_gradients_that_are_not_finite_stay_so() -> None:
    net = Net()
    x, _, _ = inputs(net)
    run = pf.solve_ode(net, x, TIMES, gradient="adjoint")
    weights = torch.ones(4, 2, dtype=DOUBLE)
    weights[1] = torch.inf
    of_x, *rest = torch.autograd.grad((run.final * weights).sum(), [x, *net.parameters()])
    assert of_x[1].isnan().all()
    assert of_x[[0, 2, 3]].isfinite().all()
    assert all(g.isnan().all() for g in rest)


def test_a_sample_that_failed_takes_no_part() -> None:
    x = torch.tensor([[0.5], [2.0]], dtype=DOUBLE, requires_grad=True)
    options = dict(rtol=1e-8, atol=1e-8, max_steps=40, on_failure="return", gradient="adjoint", parameters=())
    run = pf.solve_ode(lambda x, t: x * x, x, [0.0, 0.25, 1.0], **options)
    assert run.status.tolist() == [Status.SUCCESS, Status.TOO_MANY_STEPS]
    (got,) = torch.autograd.grad(run.x[1].sum() + run.x[2, 0].sum() + run.final[1].sum(), x)
    true = torch.tensor([[1 / (1 - 0.125) ** 2 + 4.0], [1 / (1 - 0.5) ** 2]], dtype=DOUBLE)  # x(t) = x / (1 - x t)
    torch.testing.assert_close(got, true, rtol=1e-6, atol=1e-6)


def test_what_is_kept_grows_with_states_not_with_stages() -> None:
    def peak(gradient: str, steps: int) -> int:
        net, x = Net(2, 256), (0.3 * normal(32, 2)).requires_grad_()
        with LiveMemory() as memory:
            size = dict(first_step=1 / steps, max_step=1 / steps, rtol=1e4, atol=1e4)
            run = pf.solve_ode(net, x, [0.0, 1.0], gradient=gradient, **size)
            run.final.sum().backward()
        return memory.peak

    assert peak("steps", 10) > 4 * peak("adjoint", 10)
    assert peak("adjoint", 20) < 1.1 * peak("adjoint", 10)


def test_nothing_outlives_its_use() -> None:
    net = Net()
    gc.collect()
    gc.disable()  # reference cycles would stay
    try:
        with LiveMemory() as memory:
            for _ in range(2):
                x = normal(3, 2).requires_grad_()
                alive, held = weakref.ref(x), memory.now
                run = pf.solve_ode(net, x, [0.0, 0.5], gradient="adjoint")
                torch.autograd.grad(run.x.sum(), [x, *net.parameters()])
                del run, x
                assert alive() is None
        assert memory.now < held
    finally:
        gc.enable()


def test_what_is_refused() -> None:
    x, net = normal(1, 2).requires_grad_(), Net()

    def solve(field: object = net, **options: object) -> None:
        pf.solve_ode(field, x, [0.0, 1.0], **{"gradient": "adjoint", **options})

    with pytest.raises(ArgumentError, match="events: got some, with gradient='adjoint', expected none"):
        solve(events=Event(lambda x, t: x[:, 0]))
    with pytest.raises(ArgumentError, match="parameters: got none, and a field that is no Module"):
        solve(lambda x, t: -x)
    with pytest.raises(DtypeError, match=r"parameters\[0\]: got str"):
        solve(parameters=["weight"])
    with pytest.raises(ArgumentError, match="parameters: got a value, with gradient='steps'"):
        solve(gradient="steps", parameters=())
    with pytest.raises(ArgumentError, match="adjoint_rtol: got a value, with gradient='none'"):
        solve(gradient="none", adjoint_rtol=1e-3)
    with pytest.raises(UnknownNameError, match="adjoint_options: got 'seminorm'"):
        solve(adjoint_options={"seminorm": True})
    with pytest.raises(UnknownNameError, match="anchors: got 'never'"):
        solve(adjoint_options={"anchors": "never"})
    with pytest.raises(UnknownNameError, match="pair: got 'adams'"):
        solve(adjoint_method="adams")
    with pytest.raises(ArgumentError, match="rtol: got -1"):
        solve(adjoint_rtol=-1.0)
    run = pf.solve_ode(net, x, [0.0, 1.0], gradient="adjoint", adjoint_options={"max_steps": 1}, adjoint_rtol=1e-9)
    with pytest.raises(IntegrationError, match="1 attempts were not enough"):
        run.final.sum().backward()
    run = pf.solve_ode(net, x, [0.0, 1.0], gradient="adjoint")
    with pytest.raises(ArgumentError, match="create_graph: got True"):
        torch.autograd.grad(run.final.sum(), x, create_graph=True)
