"""Gradients of the steps that were taken."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from _live_memory import LiveMemory
from small_net import DOUBLE, Net, normal
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torchdiffeq import odeint as their_odeint

import pushforward as pf
from pushforward.errors import ArgumentError, IntegrationError, UnknownNameError
from pushforward.models import GaussianOracle, adapt
from pushforward.solvers import Event, Status

FIXED = dict(first_step=0.2, max_step=0.2, rtol=10.0, atol=10.0)  # every step is accepted, and as long as the bound
MODES = (False, True, "recursive")


def small(x: Tensor, weight: Tensor, checkpoint: bool | str = False, **options: object) -> Tensor:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ weight) * (1 + t[:, None])

    return pf.solve_ode(field, x, [0.0, 0.33, 1.0], gradient="steps", checkpoint=checkpoint, **FIXED, **options).x


@pytest.mark.parametrize(
    ("method", "checkpoint"),
    [("dopri54", False), ("dopri54", "recursive"), ("bosh32", True), ("dop853", False), ("heun21", False)],
)
def test_differences_of_the_same_steps_agree(method: str, checkpoint: bool | str) -> None:
    x, weight = normal(3, 2).requires_grad_(), normal(2, 2, seed=1).requires_grad_()
    # Central differences at 1e-6 carry rounding of 1e-16 / 1e-6 and a cubic term of 1e-12.
    tight = dict(eps=1e-6, atol=1e-8, rtol=1e-6, fast_mode=True)
    assert gradcheck(lambda x, w: small(x, w, checkpoint, method=method), (x, weight), **tight)


def test_gradients_have_gradients() -> None:
    x, weight = normal(2, 2).requires_grad_(), normal(2, 2, seed=1).requires_grad_()
    assert gradgradcheck(small, (x, weight), fast_mode=True)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("method", ["dopri54", "dop853", "bosh32"])
def test_the_states_are_those_of_the_run_and_checkpoints_change_no_gradient(method: str, per_sample: bool) -> None:
    # Steps of the same number are one batch in the replay, whenever they were taken: a network may round differently.
    net, weights = Net(), normal(4, 6, 2, seed=5)
    x = (normal(6, 2) * torch.arange(1, 7)[:, None]).requires_grad_()
    options = dict(method=method, rtol=1e-5, atol=1e-5, per_sample=per_sample)
    times = [0.0, 0.1, 0.7, 1.0]
    plain = pf.solve_ode(net, x, times, **options)
    assert not plain.x.requires_grad
    assert not plain.final.requires_grad
    found = []
    for checkpoint in MODES:
        run = pf.solve_ode(net, x, times, gradient="steps", checkpoint=checkpoint, **options)
        torch.testing.assert_close(run.x, plain.x, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(run.final, plain.final, rtol=1e-13, atol=1e-13)
        assert (run.accepted == plain.accepted).all()
        loss = (run.x * weights).sum() + run.final.square().sum()
        found.append(torch.autograd.grad(loss, [x, *net.parameters()]))
    if per_sample:
        assert len(set(plain.accepted)) > 1  # samples leave at different times
        assert plain.rejected.sum() > 0
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_how_often_the_field_is_called() -> None:
    """Plain gradients call it once more than the run, for the first slope; checkpoints replay accepted steps alone."""
    options = dict(rtol=1e-6, atol=1e-6, first_step=1.0)
    for checkpoint in MODES[:2]:
        net, x = Net(), normal(1, 2) * 3
        run = pf.solve_ode(net, x, [0.0, 0.4, 1.0], gradient="steps", checkpoint=checkpoint, **options)
        assert run.rejected[0] > 0
        more = 6 * run.accepted[0] if checkpoint else 0  # the last stage of a step is the first of the next
        assert net.calls == run.nfe[0] + 1 + more
    net = Net()
    run = pf.solve_ode(net, normal(1, 2), [0.0, 1.0], gradient="steps", method="heun21", rtol=1e-2)
    assert net.calls == run.nfe[0] + 1  # the first stages of its steps, too, are evaluated once


def test_a_rejected_row_that_is_not_finite_spoils_no_parameter() -> None:
    """The second sample leaves the domain of the square root in an attempt that the first one accepts."""
    rate = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[400.0], [1.0]], dtype=DOUBLE, requires_grad=True)
    run = pf.solve_ode(
        lambda x, t: -rate * torch.sqrt(x), x, [0.0, 1.9], first_step=1.9, rtol=1e-6, atol=1e-3, gradient="steps"
    )
    assert run.accepted[0] == 1
    assert run.rejected[1] > 0
    got = torch.autograd.grad(run.final.sum(), [x, rate])
    true = torch.autograd.grad((x.sqrt() - rate * 1.9 / 2).square().sum(), [x, rate])
    for a, b in zip(got, true, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_gradient_of_the_gaussian_flow() -> None:
    oracle = GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]])
    x = oracle.sample(4, seed=2, t=0.1).double().requires_grad_()
    weights = normal(4, 2, seed=1)
    run = pf.solve_ode(oracle.model("noise"), x, [0.1, 0.9], rtol=1e-8, atol=1e-8, gradient="steps")
    (got,) = torch.autograd.grad((run.x[-1] * weights).sum(), x)
    exact = torch.autograd.grad((oracle.flow_map(x, 0.1, 0.9) * weights).sum(), x)[0]
    torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6)


def test_gradients_of_torchdiffeq() -> None:
    net, weights = Net(), normal(3, 1, 2, seed=5)
    x = normal(1, 2).requires_grad_()
    times = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
    tight = dict(rtol=1e-9, atol=1e-9)
    ours = pf.solve_ode(net, x, times, gradient="steps", **tight).x
    theirs = their_odeint(lambda t, x: net(x, t.expand(len(x))), x, times, method="dopri5", **tight)
    found = [torch.autograd.grad((y * weights).sum(), [x, *net.parameters()]) for y in (ours, theirs)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("checkpoint", MODES)
def test_conditions_of_a_model_by_rows(checkpoint: bool | str) -> None:
    """A linear field whose rate is the condition: x(1) = x exp(rate), and its derivative."""

    def network(x: Tensor, t: Tensor, rate: Tensor) -> Tensor:
        return x * rate

    model = adapt(network, prediction="velocity", interpolant="linear")
    rate = torch.tensor([[0.1], [2.0], [-3.0]], dtype=DOUBLE, requires_grad=True)
    x = normal(3, 2).requires_grad_()
    options = dict(condition={"rate": rate}, rtol=1e-9, atol=1e-9)
    run = pf.solve_ode(model, x, [0.0, 0.5, 1.0], gradient="steps", checkpoint=checkpoint, **options)
    got = torch.autograd.grad(run.x.sum(), [x, rate])
    exact = torch.autograd.grad(sum((x * torch.exp(rate * t)).sum() for t in (0.0, 0.5, 1.0)), [x, rate])
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_times_have_gradients() -> None:
    weight = normal(2, 2, seed=1)
    times = torch.tensor([0.0, 0.33, 1.0], dtype=DOUBLE, requires_grad=True)

    def solved(times: Tensor, x: Tensor) -> Tensor:
        options = dict(rtol=1e-10, atol=1e-10, gradient="steps")
        return pf.solve_ode(lambda x, t: torch.tanh(x @ weight) * (1 + t[:, None]), x, times, **options).x

    # differences see the error of the dense output, of order 4, and the tolerance over eps
    assert gradcheck(solved, (times, normal(2, 2).requires_grad_()), eps=1e-4, atol=1e-5, rtol=1e-5, fast_mode=True)


def test_events_have_gradients() -> None:
    level = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    rate = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def stopped(x: Tensor, rate: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        run = pf.solve_ode(
            lambda x, t: x * (1 + rate) + t[:, None],
            x,
            [0.0, 0.05, 10.0],
            rtol=1e-11,
            atol=1e-11,
            method="dop853",
            events=[Event(lambda x, t: x[:, 0] + 0.1 * t - level), Event(lambda x, t: t - 0.2, terminal=False)],
            gradient="steps",
        )
        assert (run.status == Status.EVENT).all()
        assert run.x[2].isnan().all()
        crossing, clock = run.events
        assert clock.time is not None
        assert not clock.time.requires_grad
        return run.final, crossing.time, crossing.x, clock.x, run.x[1]

    x = torch.tensor([[0.1, 0.2], [0.3, 0.5]], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(stopped, (x, rate, level), eps=1e-5, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_stops_begin_a_step_with_a_new_slope() -> None:
    """x' = a before 1/2 and -2 a behind it: x(1) = x - a / 2."""
    a = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t < 0.5, a, -2 * a)[:, None].expand_as(x)

    x = normal(2, 1).requires_grad_()
    run = pf.solve_ode(field, x, [0.0, 1.0], stops=[0.5], gradient="steps")
    (got,) = torch.autograd.grad(run.final.sum(), a)
    torch.testing.assert_close(got.item(), -0.5 * 2, rtol=1e-12, atol=1e-12)


def test_a_sample_that_failed_has_no_graph_and_spoils_none() -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:  # the second sample is infinite at t = 1/2
        return x * x

    x = torch.tensor([[0.5], [2.0]], dtype=DOUBLE, requires_grad=True)
    options = dict(rtol=1e-8, atol=1e-8, max_steps=40)
    run = pf.solve_ode(field, x, [0.0, 1.0], gradient="steps", on_failure="return", **options)
    assert run.status.tolist() == [Status.SUCCESS, Status.TOO_MANY_STEPS]
    assert run.x[1, 1].isnan().all()
    (got,) = torch.autograd.grad(run.x[1, 0].sum(), x)
    torch.testing.assert_close(got, torch.tensor([[4.0], [0.0]], dtype=DOUBLE), rtol=1e-6, atol=1e-6)  # 1 / (1 - x)^2
    with pytest.raises(IntegrationError):
        pf.solve_ode(field, x, [0.0, 1.0], gradient="steps", **options)


@pytest.mark.parametrize("checkpoint", MODES)
def test_nothing_outlives_its_use(checkpoint: bool | str) -> None:
    net = Net()
    pf.solve_ode(
        net, normal(1, 2), [0.0, 0.5], gradient="steps", checkpoint=checkpoint
    )  # what is imported on first use
    gc.collect()
    gc.disable()  # reference cycles would stay
    try:
        with LiveMemory() as memory:
            for _ in range(2):
                x = normal(3, 2).requires_grad_()
                alive, held = weakref.ref(x), memory.now
                run = pf.solve_ode(net, x, [0.0, 0.5], gradient="steps", checkpoint=checkpoint)
                torch.autograd.grad(run.x.sum(), x)
                del run, x
                assert alive() is None
        assert memory.now < held
    finally:
        gc.enable()


def peak(steps: int, checkpoint: bool | str) -> int:
    net, x = Net(2, 256), (0.3 * normal(32, 2)).requires_grad_()
    with LiveMemory() as memory:
        size = dict(first_step=1 / steps, max_step=1 / steps, rtol=1e4, atol=1e4)
        run = pf.solve_ode(net, x, [0.0, 1.0], gradient="steps", checkpoint=checkpoint, **size)
        assert run.accepted.max() == steps
        run.final.sum().backward()
    return memory.peak


def test_memory_of_checkpoints() -> None:
    plain, every, recursive = (peak(9, mode) for mode in MODES)
    assert plain > 5 * every  # nine steps of stages against one, and the weights
    assert every >= recursive
    assert peak(18, "recursive") < 1.2 * recursive
    assert peak(18, False) > 1.7 * plain


def test_no_graph_where_none_is_wanted() -> None:
    net, x = Net(), normal(2, 2).requires_grad_()
    with torch.no_grad():
        run = pf.solve_ode(net, x, [0.0, 1.0], gradient="steps")
    assert not run.x.requires_grad
    assert net.calls == run.calls  # not replayed either


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    x = normal(2, 3).to(dtype).requires_grad_()
    run = pf.solve_ode(lambda x, t: -x, x, [0.0, 1.0], gradient="steps", rtol=1e-2, atol=1e-2)
    run.final.float().sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.36788), rtol=3e-2, atol=0.0)


def test_a_single_time_and_an_empty_batch() -> None:
    x = normal(2, 3).requires_grad_()
    run = pf.solve_ode(lambda x, t: -x, x, [0.5], gradient="steps")
    assert torch.equal(torch.autograd.grad(run.x.sum(), x)[0], torch.ones_like(x))
    none = pf.solve_ode(lambda x, t: -x, x[:0], [0.0, 1.0], gradient="steps")
    assert none.x.shape == (2, 0, 3)


def test_what_is_refused() -> None:
    x = normal(1, 1)
    with pytest.raises(UnknownNameError, match="gradient: got 'forward'"):
        pf.solve_ode(lambda x, t: -x, x, [0.0, 1.0], gradient="forward")
    with pytest.raises(UnknownNameError, match="checkpoint: got 'all'"):
        pf.solve_ode(lambda x, t: -x, x, [0.0, 1.0], gradient="steps", checkpoint="all")
    with pytest.raises(ArgumentError, match="checkpoint: got True with gradient='none'"):
        pf.solve_ode(lambda x, t: -x, x, [0.0, 1.0], checkpoint=True)


def test_the_page_is_true() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "gradients.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(block, names)
    assert all(parameter.grad.isfinite().all() for parameter in names["net"].parameters())
