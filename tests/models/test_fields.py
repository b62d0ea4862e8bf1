"""A model as a field of state and time, and the calls with a time for each row that it makes."""

import math

import numpy as np
import pytest
import torch

from pushforward.errors import ArgumentError, ShapeError, SingularTimeError, UnknownNameError
from pushforward.models import (
    CouplingOracle,
    Guidance,
    IndexClock,
    ModelField,
    TwoSided,
    adapt,
    adapt_two_sided,
    load,
    prediction,
    reference_mixture,
)
from pushforward.models.predictions import QUANTITIES

TIMES = np.array([0.2, 0.35, 0.35, 0.5, 0.8])
PATHS = ("linear", "trigonometric", "vp", "edm")
KINDS = ("velocity", "denoised", "noise", "score", "v", "edm")
ORACLES = {path: reference_mixture(path) for path in PATHS}


def states(oracle, rows=5):
    return oracle.sample(rows, seed=3, t=0.5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_quantity_of_every_kind_at_a_time_for_each_row(path, kind):
    oracle = ORACLES[path]
    x, t = states(oracle), torch.from_numpy(TIMES)
    for quantity in QUANTITIES:
        exact = getattr(oracle, quantity)(x, t)
        found = ModelField(oracle.model(kind), quantity=quantity)(x, TIMES)
        # a conversion divides by sigma or alpha at most twice, and the oracle's inverse clock adds a few ulps of t
        assert (found - exact).abs().max() <= 1e-11 * exact.abs().max()
        alone = [ModelField(oracle.model(kind), quantity=quantity)(x[i : i + 1], t[i].item()) for i in range(5)]
        # the call for one time and the call for many share their numbers; clocks with loops and without agree to an ulp
        assert (found - torch.cat(alone)).abs().max() <= 1e-13 * exact.abs().max()


def test_rows_of_another_path():
    oracle = ORACLES["vp"]
    field = ModelField(oracle.model("noise").on("linear"), quantity="denoised")
    t = np.array([0.3, 0.6])
    there = [oracle.interpolant.time_at_noise_ratio((1 - s) / s) for s in t]
    scale = torch.tensor([oracle.interpolant.alpha(u) / s for u, s in zip(there, t, strict=True)], dtype=torch.float64)
    x = states(oracle, 2)
    exact = oracle.denoised(scale[:, None] * x, torch.tensor(there, dtype=torch.float64))
    assert (field(x, t) - exact).abs().max() < 1e-11


class Spy:
    """A network that records its calls and returns what depends on every argument, row by row."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, time, y):
        self.calls.append((x.shape[0], time.clone(), y.clone()))
        column = (time.to(x.dtype) + y.to(x.dtype)).reshape(-1, *[1] * (x.ndim - 1))
        return torch.sin(x) * column


def expected(x, t, y):
    return torch.sin(x) * (t + y)[:, None]


X = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
LABELS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
T = torch.from_numpy(TIMES)


def test_guidance_weighs_each_row_at_its_own_time():
    spy = Spy()
    model = adapt(spy, null={"y": torch.zeros(1, dtype=torch.float64)})
    guidance = Guidance(lambda t: 1 + 2 * t, interval=(0.3, 0.6))
    field = ModelField(model, {"y": LABELS}, guidance=guidance)
    weight = torch.tensor([1.0, 1.7, 1.7, 2.0, 1.0], dtype=torch.float64)[:, None]
    exact = weight * expected(X, T, LABELS) + (1 - weight) * expected(X, T, 0 * LABELS)
    assert (field(X, TIMES) - exact).abs().max() < 1e-14
    assert [call[0] for call in spy.calls] == [10]
    assert torch.equal(spy.calls[0][1], torch.cat([T, T]))
    assert (field.calls, field.nfe, field.forward_passes) == (1, 5, 10)
    outside = field(X, [0.1, 0.2, 0.2, 0.7, 0.9])
    assert [call[0] for call in spy.calls] == [10, 5], "no row needs the second branch"
    assert (
        outside - expected(X, torch.tensor([0.1, 0.2, 0.2, 0.7, 0.9], dtype=torch.float64), LABELS)
    ).abs().max() < 1e-14


def test_rows_have_their_conditions_and_add_to_the_same_counts():
    spy = Spy()
    field = ModelField(adapt(spy), {"y": LABELS})
    for index in ([3, 0], np.array([3, 0]), torch.tensor([3, 0])):
        part = field.rows(index)
        assert torch.equal(part(X[[3, 0]], TIMES[[3, 0]]), field(X, TIMES)[[3, 0]])
    again = field.rows([4, 2, 0]).rows([1, 1])
    assert torch.equal(again(X[[2, 2]], TIMES[[2, 3]]), expected(X[[2, 2]], T[[2, 3]], LABELS[[2, 2]]))
    assert (field.calls, field.nfe) == (7, 3 * (2 + 5) + 2)


def test_conditions_without_a_batch_serve_all_rows():
    def network(x, time, y, ids, number):
        assert ids.shape == (7, 2)
        return x * y + number

    model = adapt(network, shared=("ids",))
    condition = {"y": torch.full((1, 2), 2.0), "ids": torch.zeros(7, 2), "number": 3.0}
    part = ModelField(model, condition).rows([4, 6])
    assert torch.equal(part(X[:2].float(), [0.1, 0.2]), 2 * X[:2].float() + 3)


def test_equal_times_are_told_as_a_fixed_grid_tells_them():
    seen = []
    field = ModelField(adapt(lambda x, t: seen.append(t) or -x, time_shape="scalar"))
    assert torch.equal(field(X, 0.25), field(X, [0.25] * 5))
    assert seen[0] is seen[1]
    assert seen[0].shape == ()
    with pytest.raises(ArgumentError, match=r"times: got rows with times of their own, expected one time.*'scalar'"):
        field(X, TIMES)


def test_a_velocity_is_what_the_network_returned_unless_that_is_its_input():
    outputs = []
    field = ModelField(adapt(lambda x, t: outputs.append(2 * x) or outputs[-1]))
    assert field(X, TIMES) is outputs[0]
    same = ModelField(adapt(lambda x, t: x))(X, TIMES)
    assert torch.equal(same, X)
    assert same.data_ptr() != X.data_ptr()


def test_times_an_ulp_past_the_ends_are_the_ends():
    field = ModelField(adapt(lambda x, t: t[:, None].expand_as(x)))
    found = field(X[:3], [-1e-17, 1 + 2e-16, 0.5])
    assert found[:, 0].tolist() == [0.0, 1.0, 0.5]
    for bad in (-1e-9, 1.0001, math.nan):
        with pytest.raises(ArgumentError, match="t: got"):
            field(X[:2], [0.5, bad])


def test_a_guided_pair_at_a_whole_number():
    null = {"y": torch.zeros(1, dtype=torch.float64)}
    bound = adapt(Spy(), null=null).bind({"y": LABELS})
    for cond in (bound.evaluate(X, 1, ("cond", "null"))[0], bound.evaluate_rows(X, [1] * 5, ("cond", "null"))[0]):
        assert torch.equal(cond, expected(X, 1.0, LABELS))


def test_whole_times_for_tables():
    path = prediction("velocity", "linear", network_time=IndexClock(1000))
    seen = []
    field = ModelField(adapt(lambda x, t: seen.append(t) or x, path, time_dtype=torch.int64))
    field(X[:2], [0.3, 0.8])
    assert seen[0].tolist() == [699, 199]
    with pytest.raises(ArgumentError, match=r"network time: got 699\.3.*expected an integer.*quantise=True"):
        field(X[:2], [0.3, 0.2997])


def test_states_in_float32_keep_their_dtype_and_times_their_bits():
    oracle = ORACLES["linear"]
    x = states(oracle).float()
    found = ModelField(oracle.model("noise"), quantity="velocity")(x, TIMES)
    assert found.dtype == torch.float32
    exact = oracle.velocity(x.double(), T)
    assert (found.double() - exact).abs().max() <= 4 * torch.finfo(torch.float32).eps * exact.abs().max() / 0.2


def test_gradients_flow_to_the_state_and_the_network():
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    null = {"y": torch.zeros(1, dtype=torch.float64)}
    model = adapt(lambda x, t, y: torch.sin(weight * x) * (t + y)[:, None], "noise", null=null)
    field = ModelField(model, {"y": LABELS}, guidance=2.0)
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: field(x, TIMES), (x, weight))


def test_a_field_of_two_heads_calls_those_that_it_needs():
    oracle = CouplingOracle([0.6, 0.4], [([0.0], [[1.0]]), ([1.0], [[0.5]])], [([2.0], [[0.25]]), ([-1.0], [[0.1]])])
    x = X[:, :1]
    for quantity, calls in (("velocity", 1), ("score", 1)):
        field = ModelField(oracle.model(), quantity=quantity)
        exact = getattr(oracle, quantity)(x, T)
        assert (field(x, TIMES) - exact).abs().max() < 1e-13 * exact.abs().max()
        assert (field.rows([2, 0])(x[[2, 0]], TIMES[[2, 0]]) - exact[[2, 0]]).abs().max() < 1e-13 * exact.abs().max()
        assert (field.calls, field.nfe) == (2 * calls, 7)
    drift = ModelField(oracle.model(motion="drift"))
    assert (drift(x, TIMES) - oracle.velocity(x, T)).abs().max() < 1e-13
    assert drift.calls == 2
    plain = adapt_two_sided(lambda x, t: -x, lambda x, t: x, TwoSided())
    assert ModelField(plain)(x[:0], []).shape == (0, 1)


def test_an_empty_batch():
    for kind in ("velocity", "noise"):
        assert ModelField(adapt(lambda x, t: -x, kind))(X[:0], []).shape == (0, 2)


def test_the_bundled_digits_take_a_time_for_each_row():
    model = load("digits28-small")
    x = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels, times = torch.tensor([3, 7, 1]), [0.2, 0.5, 0.9]
    field = ModelField(model, {"label": labels}, guidance=2.0)
    with torch.no_grad():
        together = field(x, times)
        alone = torch.cat([field.rows([i])(x[i : i + 1], times[i]) for i in range(3)])
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()  # float32 convolutions sum in another order
    assert field.forward_passes == 12


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ModelField(adapt(abs), quantity="speed"), UnknownNameError, "quantity: got 'speed'"),
        (lambda: ModelField(adapt(abs), guidance=2.0), ArgumentError, "guidance weight 2.0 needs an unconditional"),
        (lambda: ModelField(adapt(lambda x, t: x))(X, TIMES[:4]), ShapeError, r"times: got \[4\], expected \[5\]"),
        (lambda: ModelField(adapt(lambda x, t: x))(X, T.to("meta")), ArgumentError, "times: got a tensor on meta"),
        (lambda: ModelField(adapt(lambda x, t: x[:2]))(X, TIMES), ShapeError, "network output: got torch.float64"),
        (lambda: ModelField(adapt(lambda x, t: x, "noise"))(X[:2], [0.0, 0.5]), SingularTimeError, "t: got 0.0"),
        (lambda: ModelField(adapt(Spy()), {"y": LABELS}).rows([5]), ArgumentError, "index: got 5.*'y', which has 5"),
        (lambda: ModelField(adapt(Spy()), {"y": LABELS}).rows([-1]), ArgumentError, "index: got -1"),
        (lambda: ModelField(adapt(Spy()), {"y": LABELS})(X[:2], 0.5), ShapeError, "'y'.*batch of 5, expected 2"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
