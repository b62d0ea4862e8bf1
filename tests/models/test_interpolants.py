import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models import (
    EDM,
    VE,
    Cosine,
    DiscreteDDPM,
    Linear,
    Trigonometric,
    VPLinear,
    interpolant,
    interpolant_from_config,
)
from pushforward.models.interpolants import INTERPOLANTS

DDPM = DiscreteDDPM.linear()
PATHS = [
    Linear(),
    Trigonometric(),
    VPLinear(),
    Cosine(),
    Cosine(nu_max=None),
    VE(),
    EDM(),
    DDPM,
    DiscreteDDPM(DDPM.alphas_bar, "log_alpha"),
    DiscreteDDPM.scaled_linear(),
    DiscreteDDPM.squaredcos_cap_v2(),
    DDPM.zero_terminal_snr(),
]
VARIANCE_PRESERVING = [path for path in PATHS if path.name not in ("linear", "ve", "edm")]
TIMES = st.floats(0, 1)

each_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def test_every_registered_path_is_tested():
    assert {path.name for path in PATHS} | {"two_sided"} == INTERPOLANTS.keys()


@each_path
@given(t=TIMES)
def test_the_noise_ratio_and_its_inverse(path, t):
    nu, lam = path.noise_ratio(t), path.half_log_snr(t)
    # A time is known to the spacing of floats below 1, and every inverse is a few roundings of numbers of that size.
    # DDPM's indices are taken for integers within 1e-10, which is 1e-13 in time.
    rounding = 8 * math.ulp(1.0) + (1e-13 if path.name == "ddpm" else 0)
    assert abs(path.time_at_noise_ratio(nu) - t) <= rounding
    assert abs(path.time_at(lam) - t) <= rounding * max(1, abs(lam) if math.isfinite(lam) else 1)


@each_path
@given(lam=st.floats(-9, 9))
def test_the_time_of_a_half_log_snr(path, lam):
    low, high = path.half_log_snr(0.0), path.half_log_snr(1.0)
    if not low <= lam <= high:
        with pytest.raises(ArgumentError, match="range of"):
            path.time_at(lam)
        return
    t = path.time_at(lam)
    # The nearest float to the true time differs by half an ulp: lam follows at the rate dlam/dt = W / (alpha sigma).
    a, s, da, ds = path(t)
    rate = (da * s - a * ds) / (a * s)
    assert abs(path.half_log_snr(t) - lam) <= 8 * math.ulp(1.0) * (rate + abs(lam) + 1)


@each_path
@given(i=st.integers(1, 999))
def test_derivatives_are_those_of_central_differences(path, i):
    t, h = (i + 0.5) / 1001, 1e-5  # between the levels of DDPM and never on one
    a, s, da, ds = path(t)
    before, after = path(t - h), path(t + h)
    curvature = 1e-6 * (1 + abs(ds) / s + abs(da) / a) ** 3 * max(a, s) + 1e-9 * max(a, s)
    if path.name == "ddpm" and path.index_of_time(t + h) // 1 != path.index_of_time(t - h) // 1:
        return  # a kink lies between
    assert abs((after.alpha - before.alpha) / (2 * h) - da) <= curvature
    assert abs((after.sigma - before.sigma) / (2 * h) - ds) <= curvature


@pytest.mark.parametrize("path", VARIANCE_PRESERVING, ids=repr)
@given(t=TIMES)
def test_the_variance_is_preserved(path, t):
    a, s, da, ds = path(t)
    assert abs(a * a + s * s - 1) <= 4 * math.ulp(1.0)
    if math.isfinite(ds):
        assert abs(a * da + s * ds) <= 1e-14 * (1 + da)
    assert math.isclose(path.sigma_dsigma(t), -a * da, rel_tol=1e-12, abs_tol=1e-15)


@each_path
def test_ends(path):
    start, end = path(0.0), path(1.0)
    assert end.alpha == 1.0
    assert end.sigma == (0.01 if path.name == "ve" else 0.0)
    assert start.alpha == pytest.approx(0.0, abs=0.07) or path.alpha(0.5) == 1.0
    assert all(math.isfinite(value) for value in start)
    assert math.isfinite(end.dalpha)
    square_root_end = path.name in ("vp", "cosine") or getattr(path, "interpolation", "") == "log_alpha"
    assert (end.dsigma == -math.inf) == square_root_end
    assert path.half_log_snr(1.0) == (math.inf if end.sigma == 0 else math.log(1 / end.sigma))


@each_path
def test_json_round_trip_equality_and_hash(path):
    again = interpolant_from_config(json.loads(json.dumps(path.to_config())))
    assert again == path
    assert hash(again) == hash(path)
    assert len({*PATHS, again}) == len(PATHS)
    assert len(repr(path)) < 100


def test_known_end_points():
    """Figures of the literature, to the digits given there."""
    assert DDPM.alphas_bar[-1] == pytest.approx(4.0358e-5, rel=1e-5)
    assert DDPM.noise_range == pytest.approx((0.0100005, 157.407), rel=3e-6)
    stable = DiscreteDDPM.scaled_linear()
    assert stable.alphas_bar[-1] == pytest.approx(4.6601e-3, rel=1e-4)
    assert stable.alpha(0.0) == pytest.approx(0.068265, rel=1e-5)
    assert stable.noise_range == pytest.approx((0.0291672, 14.61464), rel=1e-5)
    assert DiscreteDDPM.squaredcos_cap_v2().noise_range == pytest.approx((0.0064254, 2.0291e4), rel=1e-4)
    assert VPLinear().noise_ratio(0.0) == pytest.approx(152.167, rel=1e-6)
    assert VPLinear().noise_ratio(1 - 1e-3) == pytest.approx(0.010486, rel=1e-4)
    assert VPLinear().noise_ratio(1 - 1e-5) == pytest.approx(0.0010005, rel=1e-4)
    assert Cosine().noise_ratio(Cosine().t_min) == pytest.approx(20291.0, rel=1e-9)


@pytest.mark.parametrize("path", [path for path in PATHS if path.name == "ddpm"], ids=repr)
def test_levels_are_exact_at_their_times(path):
    for i in (0, 1, 371, 500, 998, 999):
        t = path.time_of_index(i)
        assert path.index_of_time(t) == i
        a, s, _, _ = path(t)
        assert a * a == pytest.approx(path.alphas_bar[i], rel=1e-13)
        assert s * s == pytest.approx(1 - path.alphas_bar[i], rel=1e-12)
        assert abs(path.time_at_noise_ratio(path.noise_ratio(t)) - t) <= 1e-14


def test_between_levels_the_named_quantity_is_linear():
    half = DDPM.time_of_index(500.5)
    low, high = DDPM.half_log_snr(DDPM.time_of_index(500)), DDPM.half_log_snr(DDPM.time_of_index(501))
    assert DDPM.half_log_snr(half) == pytest.approx((low + high) / 2, rel=1e-13)
    other = DiscreteDDPM(DDPM.alphas_bar, "log_alpha")
    ends = [math.log(other.alpha(other.time_of_index(i))) for i in (500, 501)]
    assert math.log(other.alpha(half)) == pytest.approx(sum(ends) / 2, rel=1e-13)
    # From the first level to clean data nu falls on a line.
    assert DDPM.noise_ratio(1 - 0.25e-3) == pytest.approx(0.25 * DDPM.noise_range[0], rel=1e-10)


def test_at_a_level_the_derivative_is_that_of_the_side_of_the_data():
    t, h = DDPM.time_of_index(500), 1e-6
    after = (DDPM.alpha(t + h) - DDPM.alpha(t)) / h
    before = (DDPM.alpha(t) - DDPM.alpha(t - h)) / h
    assert abs(DDPM(t).dalpha - after) < 1e-5 < abs(after - before)


def test_zero_terminal_snr_keeps_the_first_level_and_floors_the_last():
    stable = DiscreteDDPM.scaled_linear()
    rescaled = stable.zero_terminal_snr()
    assert rescaled.alphas_bar[0] == pytest.approx(stable.alphas_bar[0], rel=1e-12)
    assert rescaled.alphas_bar[-1] == 2.0**-24
    # DDPM's own last level but one is already below that floor.
    levels = DDPM.zero_terminal_snr().alphas_bar
    assert 0 < levels[-1] < levels[-2] < 2.0**-24


def test_reading_scheduler_configurations():
    config = {"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
    assert DiscreteDDPM.from_config(config) == DiscreteDDPM.scaled_linear()
    assert DiscreteDDPM.from_config(config | {"rescale_betas_zero_snr": True}).alphas_bar[-1] == 2.0**-24
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(DiscreteDDPM.from_config({"trained_betas": betas}).alphas_bar, DDPM.alphas_bar)
    with pytest.raises(ArgumentError, match=r"scheduler_config\['beta_end'\].*nothing"):
        DiscreteDDPM.from_config({key: value for key, value in config.items() if key != "beta_end"})
    with pytest.raises(UnknownNameError, match="laplace"):
        DiscreteDDPM.from_config(config | {"beta_schedule": "laplace"})


@each_path
@pytest.mark.parametrize("t", [math.nan, -1e-9, 1 + 1e-9, math.inf, "0.5", None], ids=str)
def test_bad_times(path, t):
    with pytest.raises(ArgumentError, match=r"^t: got"):
        path(t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPLinear(beta_min=0), "beta_min: got 0, expected a finite number above 0"),
        (lambda: VPLinear(beta_max=0.05), "beta_max: got 0.05, expected a finite number above 0.1"),
        (lambda: VE(nu_min=math.nan), "nu_min: got nan"),
        (lambda: EDM(sigma_max=math.inf), "sigma_max: got inf"),
        (lambda: Cosine(offset=-1), "offset: got -1"),
        (lambda: DiscreteDDPM((0.9, 0.95)), r"alphas_bar\[1\]: got 0.95, expected below alphas_bar\[0\]"),
        (lambda: DiscreteDDPM((0.9, 0.0)), "zero_terminal_snr"),
        (lambda: DiscreteDDPM((1.2, 0.5)), r"alphas_bar\[0\]: got 1.2, expected between 0 and 1"),
        (lambda: DiscreteDDPM((0.9, 0.9)), r"alphas_bar\[1\]: got 0.9, expected below alphas_bar\[0\]"),
        (lambda: DiscreteDDPM((0.9, math.nan)), r"alphas_bar\[1\]: got nan"),
        (lambda: DiscreteDDPM.from_betas((0.5, 1.5)), r"alphas_bar\[1\]: got -0.25, .* above 0"),
        (lambda: DiscreteDDPM((0.9,)), "1 levels, expected at least 2"),
        (lambda: DiscreteDDPM((0.9, 0.8), "cubic"), "'cubic', expected one of log_nu, log_alpha"),
        (lambda: DiscreteDDPM.linear(1), "levels: got 1"),
        (lambda: DDPM.time_of_index(1000), "index: got 1000, expected -1"),
        (lambda: Linear().time_at_noise_ratio(-0.1), "noise ratio: got -0.1"),
        (lambda: Linear().time_at(math.nan), "half_log_snr: got nan"),
        (lambda: EDM().time_at_noise_ratio(80.1), "noise ratio: got 80.1, expected 0 <= nu <= 80"),
        (lambda: VE().time_at(math.inf), "noise ratio: got 0.0"),
        (lambda: VPLinear().time_at(-math.inf), "noise ratio: got inf"),
        (lambda: interpolant("straight"), "'straight', expected one of cosine, ddpm, edm, linear"),
        (lambda: interpolant("vp", beta=1), r"\['beta'\], expected beta_max, beta_min"),
        (lambda: interpolant(Linear(), beta=1), "none beside an instance"),
        (lambda: interpolant_from_config({"beta_min": 1}), "'name'"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
