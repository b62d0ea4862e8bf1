import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.errors import ArgumentError
from pushforward.models import GaussianOracle, Guidance, Linear, VPLinear

FINITE = st.floats(-1e3, 1e3)


@given(weight=FINITE, t=st.floats(0, 1))
def test_weights_sum_to_one_and_zero_weights_have_no_branch(weight, t):
    weights = Guidance(weight).weights_at(t)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)
    assert 0 not in weights.values()
    assert tuple(weights) == Guidance(weight).branches_at(t)
    if weight == 1:
        assert weights == {"cond": 1.0}
    elif weight == 0:
        assert weights == {"null": 1.0}


def test_a_weight_of_a_half_is_not_one():
    assert Guidance(0.5).weights_at(0.3) == {"cond": 0.5, "null": 0.5}


def test_an_interval_in_time():
    guidance = Guidance(4.0, interval=(0.25, 0.75))
    assert [guidance.weight_at(t) for t in (0.2, 0.25, 0.5, 0.75, 0.8)] == [1, 4, 4, 1, 1]
    assert guidance.breakpoints(Linear()) == (0.25, 0.75)


def test_an_interval_in_noise_ratios_means_the_same_on_every_path():
    guidance = Guidance(2.0, interval=(0.283, 1.609), in_="noise_ratio")
    low, high = guidance.breakpoints(Linear())
    assert (low, high) == pytest.approx((0.383, 0.779), abs=5e-4)  # the published values of the linear path
    for path in (Linear(), VPLinear()):
        for nu in (0.2, 0.3, 1.5, 1.7):
            t = path.time_at_noise_ratio(nu)
            assert guidance.weight_at(t, path) == (2.0 if 0.283 < nu <= 1.609 else 1.0)
    with pytest.raises(ArgumentError, match="interpolant: got nothing"):
        guidance.weight_at(0.5)


def test_breakpoints_outside_the_path_are_none():
    assert Guidance(2.0, interval=(0.5, 1e6), in_="noise_ratio").breakpoints(VPLinear()) == (
        VPLinear().time_at_noise_ratio(0.5),
    )
    assert Guidance(2.0).breakpoints(Linear()) == ()


def test_an_interval_without_a_step_is_refused():
    model, x = GaussianOracle([0.0], [[1.0]]).model(), torch.zeros(1, 1)
    between = "guidance interval: got .*, expected .* from 0 to 0.75.* never act"
    with pytest.raises(ArgumentError, match=between):
        pf.sample(model, x, grid=[0.0, 0.5, 0.75, 1.0], guidance=Guidance(4.0, interval=(0.6, 0.7)))
    with pytest.raises(ArgumentError, match=r"in noise_ratio, .* from 0.3333 to inf"):
        pf.make_plan(model, grid=[0.0, 0.5, 0.75, 1.0], guidance=Guidance(4.0, (0.001, 0.1), "noise_ratio"))
    assert pf.make_plan(model, grid=[0.0, 0.5, 1.0], guidance=Guidance(4.0, interval=(0.5, 0.7))).nfe == 4
    plan = pf.make_plan(model, solver="euler", steps=10, guidance=Guidance(4.0, interval=(0.25, 0.75)))
    assert plan.cost().forward_passes == 10 + 5, "a second row in the steps that begin inside"


def test_a_weight_that_depends_on_time():
    guidance = Guidance(lambda t: 1 + 3 * t, interval=(0.0, 0.5))
    assert guidance.weight_at(0.25) == 1.75
    assert guidance.weight_at(0.5) == 1.0
    with pytest.raises(ArgumentError, match=r"weight at t = 0\.3: got nan"):
        Guidance(lambda t: math.nan).weight_at(0.3)
    with pytest.raises(ArgumentError, match="weight: got a function"):
        guidance.to_config()


@given(weight=FINITE, low=st.floats(0, 0.5), high=st.floats(0.6, 1), unit=st.sampled_from(["t", "noise_ratio"]))
def test_json_round_trip(weight, low, high, unit):
    guidance = Guidance(weight, (low, high), unit)
    assert Guidance.from_config(json.loads(json.dumps(guidance.to_config()))) == guidance
    assert Guidance.from_config(json.loads(json.dumps(Guidance(weight).to_config()))) == Guidance(weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": math.nan}, "weight: got nan, expected a finite number"),
        ({"weight": math.inf}, "weight: got inf"),
        ({"weight": "4"}, "weight: got '4'"),
        ({"interval": (0.5, 0.5)}, r"interval: got \(0.5, 0.5\), expected \(lo, hi\) with lo < hi"),
        ({"interval": (0.8, 0.2)}, "lo < hi"),
        ({"interval": (math.nan, 0.2)}, "lo < hi"),
        ({"in_": "sigma"}, "in_: got 'sigma', expected 't' or 'noise_ratio'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Guidance(**arguments)
