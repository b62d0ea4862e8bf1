"""Gradients of `odeint` and `odeint_adjoint`: torchdiffeq's, and closed forms where theirs are coarse."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import pushforward as pf
from pushforward.errors import ArgumentError, UnknownNameError

DOUBLE = torch.float64


class Network(nn.Module):
    """A small network that also looks at the time; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first, self.second = (
            nn.Parameter(torch.randn(*shape, generator=generator, dtype=DOUBLE) / 2) for shape in ((3, 6), (6, 3))
        )
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(y @ self.first) @ self.second + torch.sin(t) * y.roll(1, -1)


NETWORK = Network()
START = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
WEIGHTS = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
TIMES = {way: torch.linspace(0, 1.5, 4, dtype=DOUBLE) if way > 0 else torch.linspace(1.5, 0, 4, dtype=DOUBLE) for way in (1, -1)}  # fmt: skip  # noqa: E501


def gradients(function: Callable[..., Any], direction: int = 1, **arguments: Any) -> list[Tensor]:
    """With respect to the initial state, the times, and the parameters."""
    y0, t = START.clone().requires_grad_(), TIMES[direction].clone().requires_grad_()
    loss = (function(NETWORK, y0, t, **arguments) * WEIGHTS).sum()
    return list(torch.autograd.grad(loss, [y0, t, *NETWORK.parameters()]))


def apart(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    return max(float((x - y).norm() / y.norm()) for x, y in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def exact() -> dict[int, list[Tensor]]:
    """Theirs at a tight tolerance, with steps that end at the outputs, so that nothing is interpolated."""
    tight: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
    return {
        way: gradients(torchdiffeq.odeint, way, method="dopri5", **tight, options={"step_t": TIMES[way][1:]})
        for way in (1, -1)
    }


@pytest.mark.parametrize("direction", [1, -1])
def test_gradients_of_steps(direction: int, exact: dict[int, list[Tensor]]) -> None:
    tight: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
    assert apart(gradients(pf.odeint, direction, **tight), gradients(torchdiffeq.odeint, direction, **tight)) < 1e-6
    assert apart(gradients(pf.odeint, direction, method="dopri8", **tight), exact[direction]) < 1e-6


@pytest.mark.parametrize(("method", "tol"), [("bosh3", 1e-7), ("fehlberg2", 1e-6), ("adaptive_heun", 1e-5)])
def test_gradients_of_steps_of_low_order(method: str, tol: float, exact: dict[int, list[Tensor]]) -> None:
    """As near to the truth as theirs, or nearer: outputs of theirs are interpolated at a low order."""
    ours, theirs = (gradients(f, method=method, rtol=tol, atol=tol) for f in (pf.odeint, torchdiffeq.odeint))
    assert apart(ours, exact[1]) < max(100 * tol, 1.5 * apart(theirs, exact[1]))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams"])
def test_gradients_of_fixed_steps(method: str, direction: int) -> None:
    for options in ({"step_size": 0.05}, {"step_size": 0.05, "interp": "cubic", "perturb": True}, {}):
        given: dict[str, Any] = options | ({"max_order": 6} if "adams" in method else {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = (
                gradients(f, direction, method=method, options=given) for f in (pf.odeint, torchdiffeq.odeint)
            )
        assert apart(ours, theirs) < 1e-11


@pytest.mark.parametrize("direction", [1, -1])
def test_adjoint(direction: int, exact: dict[int, list[Tensor]]) -> None:
    arguments: list[dict[str, Any]] = [
        {},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_method": "dopri8", "adjoint_rtol": 1e-9, "adjoint_atol": 1e-9},
    ]
    for more in arguments:
        ours = gradients(pf.odeint_adjoint, direction, rtol=1e-9, atol=1e-9, **more)
        assert apart(ours, exact[direction]) < 1e-6
    coarse: dict[str, Any] = {"method": "rk4", "options": {"step_size": 0.25}}
    ours, theirs = (gradients(f, direction, **coarse) for f in (pf.odeint_adjoint, torchdiffeq.odeint_adjoint))
    assert apart(ours, theirs) < 1e-12


def test_the_adjoint_calls_the_function_as_often_as_theirs() -> None:
    counts = []
    for function in (pf.odeint_adjoint, torchdiffeq.odeint_adjoint):
        before = NETWORK.calls
        gradients(function, rtol=1e-7, atol=1e-7)
        counts.append(NETWORK.calls - before)
    assert counts[0] <= 1.1 * counts[1]


class Pair(nn.Module):
    """A function of a tuple, with a complex parameter, a frozen one, and adjoint callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-0.5 + 2j, dtype=torch.complex128))
        self.frozen = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE), requires_grad=False)
        self.told = 0

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.rate * y[0], self.frozen * y[1] * torch.cos(t)

    def callback_step_adjoint(self, t: Tensor, y: Any, h: Tensor) -> None:
        self.told += 1


def test_adjoint_of_tuples_and_complex_parameters() -> None:
    """y = exp(rate t) y0, so that the gradient of |y|^2 has a closed form."""
    func = Pair()
    y0 = (torch.ones(2, dtype=torch.complex128, requires_grad=True), torch.ones((), dtype=torch.complex128))
    seen = []

    def norm(state: tuple[Tensor, ...]) -> Tensor:
        seen.append([part.shape for part in state])
        return max(part.abs().max() for part in state)

    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    with pytest.warns(UserWarning, match="require no gradient are left out"):
        y = pf.odeint_adjoint(func, y0, t, rtol=1e-9, atol=1e-9, adjoint_options={"norm": norm})
    loss = y[0][-1].abs().square().sum()
    loss.backward()
    size = torch.exp(2 * func.rate.detach().real)
    assert float(loss.detach()) == pytest.approx(2 * float(size), rel=1e-7)
    assert func.rate.grad == pytest.approx(complex(4 * size), rel=1e-6)
    assert y0[0].grad is not None
    assert float((y0[0].grad - 2 * size).abs().max()) < 1e-6
    assert func.told > 5
    assert seen[0] == [(), (2,), (), (2,), (), (2,)]  # t, y, a, and the parameter as real numbers


def test_tolerances_of_elements_serve_the_adjoint() -> None:
    rtol = torch.full((4, 3), 1e-9, dtype=DOUBLE)
    ours = gradients(pf.odeint_adjoint, rtol=rtol, atol=1e-9)
    assert apart(ours, gradients(pf.odeint_adjoint, rtol=1e-9, atol=1e-9)) < 1e-6


def test_parameters_of_a_plain_function() -> None:
    scale, y0 = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True), torch.ones(1, dtype=DOUBLE)
    t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    y = pf.odeint_adjoint(lambda t, y: -scale * y, y0, t, adjoint_params=(scale,))
    (grad,) = torch.autograd.grad(y[-1].sum(), scale)
    assert float(grad) == pytest.approx(-float(torch.exp(-scale.detach())), rel=1e-6)
    still = pf.odeint_adjoint(lambda t, y: torch.ones_like(y), y0.requires_grad_(), t, adjoint_params=())
    assert torch.autograd.grad(still[-1].sum(), y0)[0] == 1


def test_second_derivatives() -> None:
    """y' = -y^2 (1 + t) has 1 / y = 1 / y0 + (t + t^2 / 2), from the first time to the last."""

    def second(end: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        y0 = torch.tensor([1.3], dtype=DOUBLE, requires_grad=True)
        t = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True)
        first = torch.autograd.grad(end(y0, t).sum(), [y0, t], create_graph=True)
        return list(torch.autograd.grad(first[0].sum() + first[1][1] - 2 * first[1][0], [y0, t]))

    def closed(y0: Tensor, t: Tensor) -> Tensor:
        passed = t + t**2 / 2
        return 1 / (1 / y0 + passed[1] - passed[0])

    ours = second(lambda y0, t: pf.odeint(lambda t, y: -(y**2) * (1 + t), y0, t, rtol=1e-9, atol=1e-9)[-1])
    assert apart(ours, second(closed)) < 1e-6


def test_nothing_is_recorded_where_nothing_is_asked_for() -> None:
    frozen = Network().requires_grad_(False)
    assert not pf.odeint(frozen, START, TIMES[1]).requires_grad
    with torch.no_grad():
        assert not pf.odeint(NETWORK, START, TIMES[1]).requires_grad
    assert pf.odeint(NETWORK, START, TIMES[1]).requires_grad


def test_rejected_steps_leave_no_trace() -> None:
    """The backward pass visits the stages of accepted steps only."""
    visited = []

    class Visible(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            calls.append(float(t))
            slope = -200 * (y - torch.cos(t)) if t < 0.5 else 3 * y
            if slope.requires_grad:  # not where the first step is guessed
                slope.register_hook(lambda grad: visited.append(float(t)))
            return slope

        def callback_reject_step(self, t: Tensor, y: Tensor, h: Tensor) -> None:
            rejected.append(float(t))

    calls: list[float] = []
    rejected: list[float] = []
    y0 = torch.ones(1, dtype=DOUBLE, requires_grad=True)
    pf.odeint(Visible(), y0, torch.tensor([0.0, 1.0], dtype=DOUBLE), rtol=1e-5, atol=1e-5)[-1].sum().backward()
    assert len(rejected) > 3
    assert len(visited) <= len(calls) - 6 * len(rejected)


def test_bad_input_of_the_adjoint_is_named() -> None:
    plain: Any = lambda t, y: -y  # noqa: E731
    with pytest.raises(ArgumentError, match=r"func: got function, expected a torch\.nn\.Module, or adjoint_params"):
        pf.odeint_adjoint(plain, START, TIMES[1])
    with pytest.raises(ArgumentError, match="adjoint_method: got 'euler', while method='rk4' has options"):
        pf.odeint_adjoint(NETWORK, START, TIMES[1], method="rk4", options={"step_size": 1.0}, adjoint_method="euler")
    with pytest.raises(UnknownNameError, match=r"adjoint_options\['norm'\]: got 'rms'"):
        pf.odeint_adjoint(NETWORK, START, TIMES[1], adjoint_options={"norm": "rms"})
    with pytest.raises(UnknownNameError, match="method: got 'tsit5'"):
        pf.odeint_adjoint(NETWORK, START, TIMES[1], method="tsit5")
