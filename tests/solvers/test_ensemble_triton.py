"""Ensembles in Triton, in its interpreter: a user's function inlined, the same steps as on the CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.errors import DeviceError
from pushforward.kernels.dispatch import interpreting, native_module
from pushforward.solvers import Status
from pushforward.solvers.ensemble import GaussianMixture, Linear, Lorenz, NativeFunction, TritonFunction, VanDerPol

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.skipif(native_module is None or not interpreting(), reason="compares the two, on the CPU")


@pytest.fixture(scope="module")
def kernels():
    from pushforward.kernels.triton import ensemble

    return ensemble


@triton.jit
def forced(t, y, p):
    """A user's: decay towards a force that depends on time; NaN from t = 0.5 on where p[1] is 1."""
    return (p[0] * (tl.cos(t) - y[0]) + tl.where((p[1] > 0) & (t > 0.5), float("nan"), 0.0),)


def starts(batch: int, dim: int) -> torch.Tensor:
    return torch.randn(batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "field", "dim", "end"),
    [
        ("van_der_pol", VanDerPol(torch.linspace(0.5, 2.0, 140)), 2, 0.8),  # more than the lanes: some are refilled
        ("lorenz", Lorenz(), 3, 0.1),
        ("linear", Linear([[-1.0, 2.0], [-2.0, -1.0]]), 2, -0.7),
        ("mixture", GaussianMixture([1, 2], [[0.5, 1.0], [-1.0, 0.0]], [[0.3, 0.2], [0.1, 0.5]]), 2, 0.4),
    ],
)
def test_the_same_steps_and_states_as_on_the_cpu(kernels, name, field, dim, end) -> None:
    """Powers for step sizes are approximate on the CPU, to 1e-8: states agree to 1e-8 of the error, some 1e-3."""
    y0 = starts(140, dim)
    times = [0.0, 0.37 * end, 0.4 * end, end]
    options = {"rtol": 1e-4, "atol": 1e-4}
    ours = pf.solve_ensemble(getattr(kernels, name), y0, times, params=field.params, **options)
    cpu = pf.solve_ensemble(field, y0, times, **options)
    assert (ours.status == Status.SUCCESS).all()
    assert (ours.nfe == cpu.nfe).all()
    assert (ours.accepted == cpu.accepted).all()
    assert (ours.t == end).all()
    torch.testing.assert_close(ours.x, cpu.x, rtol=0, atol=1e-9)
    assert torch.equal(ours.x[-1], ours.final)


def test_a_users_function_fails_for_one_trajectory_alone() -> None:
    y0, params = starts(3, 1), torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.5, 0.0]], dtype=torch.float64)
    options = {"method": "bosh32", "controller": "PID", "rtol": 1e-3, "atol": 1e-3, "first_step": 0.1, "max_step": 0.4}
    ours = pf.solve_ensemble(forced, y0, [0.0, 1.0], params=params, on_failure="return", **options)
    assert ours.status.tolist() == [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS]
    assert 0.4 < ours.t[1] <= 0.5 + 1e-9
    assert ours.x[1, 1].isnan().all()
    assert ours.final[1].isfinite().all()
    for b in (0, 2):
        a, s, c = params[b, 0].item(), math.sin(1.0), math.cos(1.0)
        forced_part = a / (a * a + 1) * (a * c + s)
        exact = forced_part + (y0[b].item() - a * a / (a * a + 1)) * math.exp(-a)
        assert abs(ours.final[b].item() - exact) < 3e-3
    bad = pf.solve_ensemble(forced, y0 * math.nan, [0.0, 1.0], params=params, on_failure="return", **options)
    assert (bad.status == Status.NOT_FINITE).all()
    assert (bad.accepted == 0).all()
    few = pf.solve_ensemble(forced, y0, [0.0, 1.0], params=params, max_steps=2, on_failure="return", **options)
    assert (few.status == Status.TOO_MANY_STEPS).all()
    small = pf.solve_ensemble(forced, y0, [0.0, 1.0], params=params * 1e6, on_failure="return", min_step=0.05)
    assert (small.status[[0, 2]] == Status.STEP_TOO_SMALL).all()


def test_it_says_where_a_function_runs(monkeypatch) -> None:
    assert TritonFunction(forced).bind(3, 1, None).params.shape == (0,)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(DeviceError, match="y0: got cpu, expected a CUDA device, for which TritonFunction"):
        pf.solve_ensemble(forced, starts(3, 1), [0.0, 1.0])
    with pytest.raises(DeviceError, match="y0: got meta, expected the CPU, for which NativeFunction"):
        pf.solve_ensemble(
            NativeFunction(1), torch.empty(3, 1, dtype=torch.float64, device="meta"), np.array([0.0, 1.0])
        )
