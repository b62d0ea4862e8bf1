import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pushforward.errors import ArgumentError, SingularTimeError, UnknownNameError
from pushforward.models import (
    EDM,
    VE,
    Cosine,
    DiscreteDDPM,
    EDMPrediction,
    FunctionClock,
    IndexClock,
    Linear,
    NoisePrediction,
    Trigonometric,
    VelocityPrediction,
    VPLinear,
    clock,
    prediction,
    prediction_from_config,
    reference_mixture,
)
from pushforward.models.clocks import CLOCKS, SHORTHANDS
from pushforward.models.predictions import PREDICTIONS, QUANTITIES

EPS = torch.finfo(torch.float64).eps
PATHS = [Linear(), Trigonometric(), VPLinear(), Cosine(), VE(), EDM(), DiscreteDDPM.linear()]
KINDS = {
    "velocity": {},
    "velocity, negative": {"kind": "velocity", "sign": -1},
    "denoised": {},
    "denoised of x / alpha": {"kind": "denoised", "input": "ratio"},
    "noise": {},
    "score": {},
    "v": {},
    "edm": {},
    "edm, other data": {"kind": "edm", "sigma_data": 1.7},
}
LEVELS = (-8.0, -4.0, 0.0, 4.0, 8.0)

each_path = pytest.mark.parametrize("path", PATHS, ids=repr)
each_kind = pytest.mark.parametrize("name", KINDS)


def make(name, path):
    options = dict(KINDS[name])
    return prediction(options.pop("kind", name), path, **options)


def reachable(path, lam):
    return path.half_log_snr(0.0) <= lam <= path.half_log_snr(1.0)


def truth(path, t, data, noise):
    """State, quantities and the size of what they are sums of, at one time."""
    a, s, da, ds = path(t)
    values = {"denoised": data, "noise": noise, "velocity": da * data + ds * noise, "score": -noise / s}
    return a * data + s * noise, values, {"denoised": 1, "noise": 1, "velocity": abs(da) + abs(ds), "score": 1 / s}


def test_every_registered_kind_is_tested():
    assert {KINDS[name].get("kind", name) for name in KINDS} | {"on_path", "pfgm", "two_sided"} == PREDICTIONS.keys()


@each_path
@each_kind
@settings(max_examples=25)
@given(data=st.floats(-1, 1), noise=st.floats(-1, 1))
def test_conversions_are_accurate_over_the_whole_range(name, path, data, noise):
    """D from n divides by alpha, n from D by sigma, and x and D each carry a rounding: eps exp(|lam|), twice.

    At |lam| = 8 that is 1.3e-12, of quantities of order one.
    """
    for lam in filter(lambda lam: reachable(path, lam), LEVELS):
        t = path.time_at(lam)
        reading = make(name, path)
        state, expected, size = truth(path, t, data, noise)
        target = reading.target(t)
        output = target.data * data + target.noise * noise
        for quantity in QUANTITIES:
            x, o = reading.quantity(quantity, t)
            bound = (2 * math.exp(abs(lam)) + 8) * EPS * size[quantity]
            assert abs(x * state + o * output - expected[quantity]) <= bound


@each_path
@pytest.mark.parametrize("first", KINDS)
def test_round_trips_between_kinds(first, path):
    """Network output of one kind -> data and noise -> output of the other -> the velocity both agree on."""
    for lam, second in itertools.product(LEVELS, KINDS):
        if not reachable(path, lam):
            continue
        t = path.time_at(lam)
        one, other = make(first, path), make(second, path)
        state, expected, size = truth(path, t, 0.7, -0.9)
        target = one.target(t)
        output = target.data * 0.7 - target.noise * 0.9
        data, noise = ((q := one.quantity(name, t)).x * state + q.output * output for name in ("denoised", "noise"))
        target = other.target(t)
        x, o = other.velocity(t)
        velocity = x * state + o * (target.data * data + target.noise * noise)
        assert abs(velocity - expected["velocity"]) <= 3 * EPS * math.exp(abs(lam)) * size["velocity"]


@each_path
@each_kind
def test_quantities_of_the_oracle(name, path):
    """A network of any dialect and the oracle itself give the same velocity, D, n and score."""
    oracle = reference_mixture(path)
    options = dict(KINDS[name])
    model = oracle.model(options.pop("kind", name), **options)
    for t in (0.05, 0.4, 0.8, 0.97):
        x = oracle.sample(5, seed=3, t=t)
        (raw,) = model.evaluate(x * model.prediction.input_scale(t), t)
        for quantity in QUANTITIES:
            affine = model.prediction.quantity(quantity, t)
            exact = getattr(oracle, quantity)(x, t)
            condition = math.exp(abs(path.half_log_snr(t)))
            error = (affine.x * x + affine.output * raw - exact).abs().max()
            assert error <= 50 * EPS * condition * (1 + exact.abs().max())


@each_path
@each_kind
@settings(max_examples=50)
@given(t=st.floats(0.01, 0.99))
def test_the_velocity_is_the_path_applied_to_data_and_noise(name, path, t):
    reading = make(name, path)
    a, s, da, ds = path(t)
    data, noise, velocity, score = (reading.quantity(q, t) for q in ("denoised", "noise", "velocity", "score"))
    for part in ("x", "output"):
        d, n, v = getattr(data, part), getattr(noise, part), getattr(velocity, part)
        assert v == pytest.approx(da * d + ds * n, rel=1e-12, abs=1e-12 * (abs(da * d) + abs(ds * n) + 1e-30))
        assert getattr(score, part) == pytest.approx(-n / s, rel=1e-12)
        whole = 1.0 if part == "x" else 0.0  # x = alpha D + sigma n
        assert a * d + s * n == pytest.approx(whole, abs=1e-11 * (abs(a * d) + abs(s * n)))


@given(nu=st.floats(1e-3, 1e3), sigma_data=st.floats(0.05, 5), path=st.sampled_from([Linear(), Trigonometric()]))
def test_edm_preconditioning_is_karras(nu, sigma_data, path):
    t = path.time_at_noise_ratio(nu)
    nu, alpha = path.noise_ratio(t), path.alpha(t)
    reading = EDMPrediction(path, sigma_data=sigma_data)
    x, output = reading.denoised(t)
    skip, out, scale = x * alpha, output, reading.input_scale(t) * alpha
    total = nu**2 + sigma_data**2
    assert skip == pytest.approx(sigma_data**2 / total, rel=1e-12)
    assert out == pytest.approx(nu * sigma_data / math.sqrt(total), rel=1e-12)
    assert scale == pytest.approx(1 / math.sqrt(total), rel=1e-12)
    assert reading.time(t) == pytest.approx(math.log(nu) / 4, rel=1e-12, abs=1e-12)
    assert skip**2 * total + out**2 == pytest.approx(sigma_data**2, rel=1e-12)  # c_skip^2 total: unit variance of D
    assert scale**2 * total == pytest.approx(1, rel=1e-12)


def test_edm_with_unit_data_on_a_variance_preserving_path_is_minus_v():
    path = Trigonometric()
    edm, v = EDMPrediction(path, sigma_data=1.0), prediction("v", path)
    for t in (0.1, 0.5, 0.9):
        assert edm.target(t).data == pytest.approx(-v.target(t).data, rel=1e-13)
        assert edm.target(t).noise == pytest.approx(-v.target(t).noise, rel=1e-13)


def test_on_the_trigonometric_path_the_velocity_is_a_multiple_of_v():
    v = prediction("v", Trigonometric()).velocity(0.3)
    assert v.x == pytest.approx(0, abs=1e-15)
    assert v.output == pytest.approx(-math.pi / 2, rel=1e-14)


def test_linear_conversions_by_hand():
    velocity = VelocityPrediction(Linear())
    assert velocity.denoised(0.25) == (1.0, 0.75)  # D = x + (1 - t) v
    assert velocity.noise(0.25) == (1.0, -0.25)  # n = x - t v
    assert VelocityPrediction("linear", sign=-1).velocity(0.25) == (0.0, -1.0)


# What each kind determines where alpha = 0 and where sigma = 0; all else must raise.
DETERMINED = {
    "velocity": ("velocity denoised noise score", "velocity denoised noise"),
    "denoised": ("velocity denoised noise score", "denoised"),
    "noise": ("noise score", "velocity denoised noise"),
    "score": ("noise score", "denoised"),
    "v": ("velocity denoised noise score", "velocity denoised noise"),
    "edm": ("", ""),  # its clock is infinite at both ends
}


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("kind", DETERMINED)
def test_singular_ends(kind, quantity, path):
    reading = prediction(kind, path)
    for t, determined in zip((0.0, 1.0), DETERMINED[kind], strict=True):
        if quantity in determined.split():
            assert all(math.isfinite(part) for part in reading.quantity(quantity, t))
        else:
            with pytest.raises(
                SingularTimeError, match=r"^t: got [01].0, expected another time, since .*\. (Start|End)"
            ):
                reading.quantity(quantity, t)


@each_path
@each_kind
def test_limits_at_the_ends_are_reached_continuously(name, path):
    reading = make(name, path)
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        for quantity in QUANTITIES:
            try:
                limit = reading.quantity(quantity, end)
            except SingularTimeError:
                continue
            close = reading.quantity(quantity, near)
            assert limit.x == pytest.approx(close.x, rel=1e-4, abs=1e-4)
            assert limit.output == pytest.approx(close.output, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("path", [VPLinear(), Cosine()], ids=repr)
@each_kind
def test_no_velocity_where_the_derivative_is_infinite(name, path):
    with pytest.raises(SingularTimeError):
        make(name, path).velocity(1.0)
    if not name.startswith("edm"):  # at sigma = 0 the state decides alone, or the network says D itself
        assert make(name, path).denoised(1.0) == ((0.0, 1.0) if name.startswith("denoised") else (1.0, 0.0))


def test_trained_noise_levels_never_reach_alpha_zero():
    assert NoisePrediction(DiscreteDDPM.linear()).velocity(0.0).output < 0


@pytest.mark.parametrize(
    ("name", "path", "t", "time"),
    [
        ("t", Linear(), 0.3, 0.3),
        ("1000*t", Linear(), 0.3, 300.0),
        ("1-t", Linear(), 0.3, 0.7),
        ("1000*(1-t)", Linear(), 0.3, 700.0),
        ("index", DiscreteDDPM.linear(), 0.3, 699.0),
        ("index", DiscreteDDPM.linear(), 0.0, 999.0),
        ("index", DiscreteDDPM.linear(), 1.0, 0.0),
        ("nu", Linear(), 0.25, 3.0),
        ("log(nu)/4", Linear(), 0.25, math.log(3) / 4),
    ],
)
def test_clocks(name, path, t, time):
    assert clock(name)(t, path) == pytest.approx(time, rel=1e-14)
    assert clock(name)(0.3, DiscreteDDPM.linear()) == clock(clock(name).to_config())(0.3, DiscreteDDPM.linear())


@pytest.mark.parametrize("name", SHORTHANDS)
@given(t=st.floats(0.01, 0.99))
def test_clocks_invert(name, t):
    path = Trigonometric()
    assert clock(name).inverse(clock(name)(t, path), path) == pytest.approx(t, abs=1e-12)


def test_every_registered_clock_is_tested():
    assert {shorthand.name for shorthand in SHORTHANDS.values()} == CLOCKS.keys()


def test_a_quantised_index_is_whole_and_a_level_is_exact():
    assert IndexClock(1000, quantise=True)(0.30041, DiscreteDDPM.linear()) == 699.0
    assert all(IndexClock(1000)(1 - (i + 1) / 1000, Linear()) == i for i in range(1000))


def test_default_clocks():
    assert prediction("noise", DiscreteDDPM.scaled_linear(50)).network_time == IndexClock(50)
    assert prediction("edm", "edm").network_time == clock("log(nu)/4")
    assert prediction("denoised", "edm", input="ratio").network_time == clock("nu")
    assert prediction("velocity", "linear").network_time == clock("t")
    doubled = prediction("velocity", "linear", network_time=lambda t: 2 * t)
    assert isinstance(doubled.network_time, FunctionClock)
    assert doubled.time(0.25) == 0.5


def test_input_scales():
    assert prediction("velocity").input_scale(0.3) == 1
    assert prediction("denoised", "linear", input="ratio").input_scale(0.25) == 4
    with pytest.raises(SingularTimeError, match="inf"):
        prediction("denoised", "linear", input="ratio").denoised(0.0)


@each_kind
@pytest.mark.parametrize("target", [Linear(), EDM(), VE(), Trigonometric()], ids=repr)
def test_the_same_network_on_another_path(name, target):
    """State of equal noise ratio, scaled: data and noise estimates agree, the velocity is the new path's."""
    source = VPLinear()
    inner, outer = make(name, source), make(name, source).on(target)
    for nu in (0.02, 0.5, 3.0, 40.0):
        ours, theirs = target.time_at_noise_ratio(nu), source.time_at_noise_ratio(nu)
        state, expected, size = truth(target, ours, 0.3, -0.8)
        goal = inner.target(theirs)
        output = goal.data * 0.3 - goal.noise * 0.8
        assert outer.time(ours) == pytest.approx(inner.time(theirs), rel=1e-10)
        seen = inner.input_scale(theirs) * (source.alpha(theirs) * 0.3 - source.sigma(theirs) * 0.8)
        assert outer.input_scale(ours) * state == pytest.approx(seen, rel=1e-9)
        for quantity in QUANTITIES:
            x, o = outer.quantity(quantity, ours)
            assert abs(x * state + o * output - expected[quantity]) <= 1e-10 * size[quantity]
    assert outer.on(source) == inner
    assert inner.on(source) is inner


def test_a_noise_level_that_the_networks_path_never_has():
    with pytest.raises(SingularTimeError, match="does not reach this noise level"):
        prediction("noise", "vp").on("linear").denoised(0.0)


@each_kind
@each_path
def test_json_round_trip(name, path):
    reading = make(name, path)
    assert prediction_from_config(json.loads(json.dumps(reading.to_config()))) == reading
    other = reading.on("edm" if path.name != "edm" else "ve")
    assert prediction_from_config(json.loads(json.dumps(other.to_config()))) == other
    assert hash(other) == hash(prediction_from_config(other.to_config()))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: prediction("eps"), UnknownNameError, "'eps', expected one of denoised, edm, noise"),
        (lambda: prediction("velocity", sigma_data=1), ArgumentError, r"\['sigma_data'\], expected network_time, sign"),
        (lambda: prediction("velocity", sign=2), ArgumentError, "sign: got 2"),
        (lambda: prediction("denoised", input="x"), ArgumentError, "input: got 'x'"),
        (lambda: prediction("edm", sigma_data=0), ArgumentError, "sigma_data: got 0"),
        (lambda: prediction("noise", "noise"), UnknownNameError, "interpolant: got 'noise'"),
        (
            lambda: prediction("noise", network_time="seconds"),
            UnknownNameError,
            "clock: got 'seconds', expected one of t",
        ),
        (lambda: prediction("noise").quantity("x0", 0.5), UnknownNameError, "quantity: got 'x0'"),
        (lambda: prediction("noise").velocity(1.5), ArgumentError, "t: got 1.5"),
        (lambda: prediction(prediction("noise"), sign=1), ArgumentError, "none beside an instance"),
        (lambda: prediction("noise", network_time=abs).to_config(), ArgumentError, "clock: got a function"),
        (lambda: clock(abs).inverse(1.0, Linear()), ArgumentError, "clock: got a function"),
        (lambda: clock({"scale": 2}), UnknownNameError, "clock: got None"),
        (lambda: prediction_from_config({}), ArgumentError, "'kind', 'interpolant'"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_raw_outputs_by_name():
    assert prediction("v").quantity("v", 0.5) == (0.0, 1.0)
    assert prediction("velocity", sign=-1).quantity("output", 0.5) == (0.0, 1.0)
