"""Events: found on the dense output, sample by sample."""

import numpy as np
import pytest
import torch
from ode_problems import van_der_pol
from scipy.integrate import solve_ivp

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError
from pushforward.solvers import Event, Status

FIELD = van_der_pol(1)


def starts(count):
    return torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 4 - 2


def position(x, t):
    return x[:, 0]


def test_a_line_is_crossed_where_it_is():
    x0 = 0.3 * torch.rand(7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    event = Event(lambda x, t: x[:, 0] - 0.37)
    solution = pf.solve_ode(lambda x, t: torch.ones_like(x), x0, [0.0, 1.0], events=event)
    assert np.abs(solution.t - (0.37 - x0[:, 0].numpy())).max() < 1e-12
    assert (solution.status == Status.EVENT).all()
    assert (solution.final - 0.37).abs().max() < 1e-12
    assert solution.x[-1].isnan().all()  # nobody arrived at the requested time


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("terminal", [False, True])
def test_zeros_are_those_that_scipy_finds(direction, terminal):
    x0 = starts(6)
    event = Event(position, terminal=terminal, direction=direction)
    solution = pf.solve_ode(FIELD, x0, [0.0, 10.0], rtol=1e-9, atol=1e-9, events=event)
    record = solution.events[0]

    def zero(t, x):
        return x[0]

    zero.terminal, zero.direction = terminal, direction
    for sample in range(6):
        peer = solve_ivp(
            lambda t, x: [x[1], (1 - x[0] ** 2) * x[1] - x[0]],
            (0, 10),
            x0[sample].numpy(),
            rtol=1e-9,
            atol=1e-9,
            events=zero,
        )
        own = record.t[record.samples == sample]
        assert own.shape == peer.t_events[0].shape
        # both interpolate with order 4 between steps of order 5: errors of the size of the tolerance, amplified by 8
        assert np.abs(own - peer.t_events[0]).max(initial=0) < 1e-6
    assert record.x[:, 0].abs().max() < 1e-12


def test_the_first_of_two_terminal_events_counts():
    events = [lambda x, t: x[:, 0] - 0.5, Event(lambda x, t: x[:, 0] - 0.25), Event(position, terminal=False)]
    x0 = torch.tensor([[0.0], [0.3], [-0.1]], dtype=torch.float64)
    solution = pf.solve_ode(lambda x, t: torch.ones_like(x), x0, [0.0, 0.1, 2.0], events=events)
    assert solution.t == pytest.approx([0.25, 0.2, 0.35])
    assert [sorted(record.samples.tolist()) for record in solution.events] == [[1], [0, 2], [2]]
    assert solution.x[1, :, 0].tolist() == pytest.approx([0.1, 0.4, 0.0], abs=1e-12)
    assert solution.x[2].isnan().all()


def test_others_go_on_and_outputs_before_the_event_are_there():
    x0 = torch.tensor([[0.0], [-9.0]], dtype=torch.float64)
    event = Event(lambda x, t: x[:, 0] - 0.5)
    solution = pf.solve_ode(lambda x, t: torch.ones_like(x), x0, [0.0, 0.4, 0.6, 1.0], events=event)
    assert solution.status.tolist() == [Status.EVENT, Status.SUCCESS]
    assert solution.x[:2, 0, 0].tolist() == pytest.approx([0.0, 0.4])
    assert solution.x[2:, 0].isnan().all()
    assert solution.x[:, 1, 0].tolist() == pytest.approx([-9.0, -8.6, -8.4, -8.0])


def test_backward_and_with_further_stages():
    x0 = starts(5)
    forward = pf.solve_ode(FIELD, x0, [0.0, 3.0], rtol=1e-10, atol=1e-10, method="dop853", dense=True)
    event = Event(lambda x, t: t - 2.0)
    solution = pf.solve_ode(FIELD, forward.final, [3.0, 1.5], rtol=1e-10, atol=1e-10, method="dop853", events=event)
    assert solution.t == pytest.approx(2.0, abs=1e-12)
    assert (solution.final - forward.dense(2.0)).abs().max() < 1e-6


def test_bad_events():
    with pytest.raises(ArgumentError, match="direction"):
        Event(position, direction=2)
    with pytest.raises(ShapeError, match="event"):
        pf.solve_ode(lambda x, t: -x, torch.ones(2, 1), [0.0, 1.0], events=Event(lambda x, t: x))
    with pytest.raises(ArgumentError, match="per_sample"):
        pf.solve_ode(lambda x, t: -x, torch.ones(2, 1), [0.0, 1.0], events=Event(position), per_sample=False)
