"""Events of `odeint` and `odeint_event`: torchdiffeq's times and gradients, and a problem with a closed form."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torchdiffeq
from torch import Tensor, nn

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, GridError, IntegrationError

DOUBLE = torch.float64
FIXED = {"rk4": {"step_size": 0.1}, "midpoint": {"step_size": 0.02}, "implicit_adams": {"step_size": 0.1}}
HEIGHT, SPEED, GRAVITY = 10.0, 1.0, 9.8


class Fall(nn.Module):
    """A body that is thrown up and falls: position and speed."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor([GRAVITY], dtype=DOUBLE))

    def forward(self, t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[1], -self.gravity.expand(1)


def landing(library: Any, interface: str = "odeint", **arguments: Any) -> list[Tensor]:
    """Time and speed of landing, and the gradients of a sum of both."""
    func, t0 = Fall(), torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    y0 = tuple(torch.tensor([value], dtype=DOUBLE, requires_grad=True) for value in (HEIGHT, SPEED))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        time, (position, speed) = library.odeint_event(
            func, y0, t0, event_fn=lambda t, y: y[0], odeint_interface=getattr(library, interface), **arguments
        )
    assert position.shape == speed.shape == (2, 1)
    grads = torch.autograd.grad(2 * time + speed[-1].sum(), [*y0, t0, func.gravity])
    return [time.detach().reshape(1), speed[-1].detach(), *grads]


def closed_form() -> list[Tensor]:
    values = [torch.tensor([v], dtype=DOUBLE, requires_grad=True) for v in (HEIGHT, SPEED, 0.3, GRAVITY)]
    height, speed, t0, gravity = values
    root = torch.sqrt(speed**2 + 2 * gravity * height)
    time = t0 + (speed + root) / gravity
    return [time.detach(), -root.detach(), *torch.autograd.grad((2 * time - root).sum(), values)]


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((x.reshape(-1) - y.reshape(-1)).abs().max()) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_landing(method: str, interface: str) -> None:
    """A parabola, which all methods of order 3 follow exactly."""
    if method == "bosh3" and interface == "odeint_adjoint":
        interface = "odeint"
    ours = landing(pf, interface, method=method, rtol=1e-8, atol=1e-8)
    assert apart(ours, closed_form()) < 1e-7
    if method == "dopri5":
        assert apart(ours, landing(torchdiffeq, interface, method=method, rtol=1e-8, atol=1e-8)) < 1e-6


@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps(method: str, interp: str) -> None:
    """Theirs finds the time to atol."""
    options = FIXED[method] | {"interp": interp}
    arguments: dict[str, Any] = {"method": method, "options": options, "rtol": 1e-9, "atol": 1e-11}
    ours, theirs = landing(pf, **arguments), landing(torchdiffeq, **arguments)
    assert apart(ours, theirs) < 1e-9


def turning(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y[1], -y[0]])


def first_of_three(t: Tensor, y: Tensor) -> Tensor:
    """Zeros of sin(t) - 0.5 and of the others: in both directions one of the elements comes first."""
    return torch.stack([y[0] - 0.5, y[1] + 0.5, t + 0.2])[:, None]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_of_several(reverse: bool) -> None:
    start = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    arguments: dict[str, Any] = {"event_fn": first_of_three, "reverse_time": reverse, "rtol": 1e-9, "atol": 1e-9}
    time, y = pf.odeint_event(turning, start, torch.tensor(0.0, dtype=DOUBLE), **arguments)
    theirs, _ = torchdiffeq.odeint_event(turning, start, torch.tensor(0.0, dtype=DOUBLE), **arguments)
    assert float(time) == pytest.approx(-0.2 if reverse else math.asin(0.5), abs=1e-7)
    assert float(time) == pytest.approx(float(theirs), abs=1e-7)
    assert torch.equal(y[0], start)
    assert float((y[1] - torch.stack([time.sin(), time.cos()])).abs().max()) < 1e-7


def test_odeint_itself_returns_time_and_states() -> None:
    t = torch.tensor([0.0, 1.0])
    start = torch.tensor([0.0, 1.0], dtype=DOUBLE, requires_grad=True)
    time, y = pf.odeint(turning, start, t, event_fn=first_of_three)
    assert time.dtype == t.dtype
    assert not time.requires_grad
    assert y.shape == (2, 2)
    (grad,) = torch.autograd.grad(y[1, 0], start)  # at a time that does not move
    assert float((grad - torch.tensor([math.cos(math.pi / 6), 0.5])).abs().max()) < 1e-6


def test_a_zero_at_the_start_is_the_end() -> None:
    time, y = pf.odeint(
        turning, torch.tensor([0.5, 1.0], dtype=DOUBLE), torch.tensor([2.0, 3.0]), event_fn=first_of_three
    )
    assert time == 2
    assert torch.equal(y[0], y[1])


def test_parameters_of_the_event_function() -> None:
    """sin(time) = level, so that the gradient of the time is 1 / cos(time); theirs has none."""
    level = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    start = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    for options in ({}, {"method": "rk4", "options": {"step_size": 0.01, "interp": "cubic"}}):
        given: dict[str, Any] = options
        time, y = pf.odeint_event(
            turning, start, torch.tensor(0.0, dtype=DOUBLE), event_fn=lambda t, y: y[0] - level, **given
        )
        (grad,) = torch.autograd.grad(time, level, retain_graph=True)
        assert float(grad) == pytest.approx(1 / math.cos(math.pi / 6), rel=1e-6)
        (grad,) = torch.autograd.grad(y[1, 1], level)
        assert float(grad) == pytest.approx(-math.tan(math.pi / 6), rel=1e-6)


def test_a_function_that_saves_its_input_has_gradients_at_an_event() -> None:
    """The loop writes the event's state where the step's was, which autograd must not notice."""
    start = torch.tensor([1.0], dtype=DOUBLE, requires_grad=True)
    time, _ = pf.odeint_event(
        lambda t, y: y**2, start, torch.tensor(0.0, dtype=DOUBLE), event_fn=lambda t, y: y - 2, rtol=1e-10, atol=1e-10
    )
    (grad,) = torch.autograd.grad(time, start)  # time = 1 / y0 - 1 / 2
    assert float(grad) == pytest.approx(-1.0, rel=1e-7)


def test_bad_input_is_named() -> None:
    start, t = torch.tensor([0.0, 1.0], dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"event_fn": 3}, ArgumentError, "event_fn: got int"),
        ({"event_fn": lambda t, y: 0.5}, DtypeError, "event_fn: got float"),
        ({"event_fn": first_of_three, "t": torch.linspace(0, 1, 3)}, GridError, "t: got 3 times, expected two"),
        ({"event_fn": first_of_three, "method": "rk4"}, ArgumentError, "got no step_size, with event_fn"),
        ({"event_fn": first_of_three, "method": "scipy_solver"}, ArgumentError, "SciPy's has no events"),
        (
            {"event_fn": lambda t, y: y[0] + 2, "method": "euler", "options": {"step_size": 1e-9}},
            IntegrationError,
            "no zero",
        ),
    ]
    for arguments, kind, message in bad[:-1]:
        with pytest.raises(kind, match=message):
            pf.odeint(turning, start, arguments.pop("t", t), **arguments)
    with pytest.raises(GridError, match="t0: got float, expected a tensor of one time"):
        pf.odeint_event(turning, start, 0.0, event_fn=first_of_three)  # pyright: ignore[reportArgumentType]
