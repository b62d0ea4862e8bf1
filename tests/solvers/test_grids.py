from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear_response import marginal, response
from problems import rms

from pushforward import models, solvers
from pushforward.errors import ArgumentError, GridError, UnknownNameError
from pushforward.solvers import (
    GRIDS,
    AlignYourSteps,
    Arctan,
    Beta,
    DynamicShift,
    Indices,
    Karras,
    LogSNR,
    NoiseRatios,
    Offset,
    Shifted,
    Stretched,
    Sway,
    Timesteps,
    grid,
)
from pushforward.solvers.solver import check_grid

PATHS = [models.Linear(), models.Trigonometric(), models.VPLinear(), models.Cosine(), models.VE(), models.EDM(),
         models.DiscreteDDPM.linear()]  # fmt: skip
NEEDED = {"dynamic_shift": {"mu": 1.15}}  # options without a default


@given(name=st.sampled_from(sorted(GRIDS)), steps=st.integers(1, 60), path=st.sampled_from(PATHS))
def test_every_grid_is_increasing_and_ends_at_the_data(name: str, steps: int, path: models.Interpolant) -> None:
    times = grid(name, steps, path, **NEEDED.get(name, {}))
    assert len(times) == steps + 1
    assert all(0 <= a < b <= 1 for a, b in itertools.pairwise(times))
    assert times[-1] == 1.0
    assert times == check_grid(times, path)


@given(shift=st.floats(0.1, 20), steps=st.integers(2, 40))
def test_shift_lowers_the_half_log_snr_by_its_logarithm(shift: float, steps: int) -> None:
    path = models.Linear()
    plain, shifted = grid("uniform", steps, path), grid("shifted", steps, path, shift=shift)
    for t, t_shifted in zip(plain[1:-1], shifted[1:-1], strict=True):
        assert path.half_log_snr(t_shifted) == pytest.approx(path.half_log_snr(t) - math.log(shift), abs=1e-12)


def test_shifts_compose_and_one_is_the_identity() -> None:
    path = models.Linear()
    twice = Shifted(3.0, base=Shifted(2.0))(10, path)
    assert twice == pytest.approx(Shifted(6.0)(10, path), abs=1e-15)
    assert Shifted(1.0)(10, path) == pytest.approx(grid("uniform", 10, path), abs=1e-16)


def test_karras_levels_are_those_of_the_paper() -> None:
    path, n = models.EDM(), 18
    nu = [path.noise_ratio(t) for t in Karras(largest=80.0, smallest=0.002)(n, path)]
    exact = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)]
    assert nu[:-1] == pytest.approx(exact, rel=1e-9)
    assert nu[-1] == 0.0


def test_log_snr_is_uniform_and_the_limit_of_karras() -> None:
    path = models.VPLinear()
    times = LogSNR(largest=20.0, smallest=0.1)(8, path)
    gaps = [path.half_log_snr(b) - path.half_log_snr(a) for a, b in itertools.pairwise(times[:-1])]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-9)
    near = Karras(rho=1e7, largest=20.0, smallest=0.1)(8, path)
    assert near == pytest.approx(times, abs=1e-5)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("path", [models.EDM(), models.Linear()], ids=["edm", "linear"])
def test_ddim_on_the_arctan_grid_loses_the_least_variance(path: models.Interpolant, c: float) -> None:
    """On N(0, c^2) a DDIM step scales by the cosine of its angle: cos(Theta / N)^N in all, and less on other grids."""
    oracle, steps = models.GaussianOracle([0.0], [[c * c]], path), 10

    def ratio(times: tuple[float, ...]) -> float:
        variance = response(make_plan(oracle, times), oracle)[1]
        return math.sqrt(variance / marginal(oracle, times[-1])[1])

    levels = {"largest": 80.0, "smallest": 0.002}
    best = ratio(Arctan(c, **levels)(steps + 1, path)[:-1])
    angle = math.atan(80 / c) - math.atan(0.002 / c)
    # 10 steps of a few roundings each, and the time of a noise ratio of 80 is exact to eps in t, 80 eps in nu.
    assert best == pytest.approx(math.cos(angle / steps) ** steps, abs=1e-12)
    assert best == pytest.approx({0.5: 0.8849, 1.0: 0.8855, 2.0: 0.8871}[c], abs=5e-5)
    for other in (Karras(**levels), LogSNR(**levels), Arctan(2 * c, **levels)):
        assert ratio(other(steps + 1, path)[:-1]) < best - 1e-3


def make_plan(oracle: models.Oracle, times: tuple[float, ...], solver: str = "ddim") -> solvers.Plan:
    prediction = models.prediction("velocity", oracle.interpolant)
    return solvers.plan(solvers.solver(solver), times, oracle.interpolant).lower(prediction).optimise()


def test_grids_on_the_mixture_rank_as_measured() -> None:
    """Euler in ten steps on the linear path: uniform and arctan ahead of grids made for other paths."""
    oracle = models.reference_mixture()
    start = oracle.sample(256, seed=5, t=0.0)
    model = oracle.model()

    def run(times: tuple[float, ...], solver: str) -> torch.Tensor:
        return solvers.Executor(make_plan(oracle, times, solver), start).run(model.bind().evaluate)

    exact = run(grid("uniform", 256, oracle.interpolant), "rk4")
    grids = {"uniform": solvers.Uniform(), "arctan": Arctan(1.0), "log_snr": LogSNR(), "karras": Karras()}
    errors = {}
    for name, function in grids.items():
        times = (0.0, *function(10, oracle.interpolant)[1:])  # all start at pure noise
        errors[name] = rms(run(times, "euler") - exact)
    assert max(errors["uniform"], errors["arctan"]) < 0.7 * min(errors["log_snr"], errors["karras"]), errors


def test_levels_over_time_are_curves_in_the_clock() -> None:
    path = models.Linear()
    assert Karras(rho=1, over="time")(7, path) == pytest.approx(grid("uniform", 7, path), abs=1e-15)
    quadratic = Karras(rho=2, over="time")(5, path)
    assert quadratic == pytest.approx([1 - (1 - i / 5) ** 2 for i in range(6)], abs=1e-15)
    bounded = Karras(rho=1, over="time", largest=0.9, smallest=0.1)(5, path)
    assert bounded == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], abs=1e-15)
    gaps = [math.log((1 - a) / (1 - b)) for a, b in itertools.pairwise(LogSNR(over="time")(9, path)[:-1])]
    assert gaps == pytest.approx([math.log(1000) / 8] * 8, rel=1e-9)


def test_power_of_the_exponential_grid() -> None:
    path = models.EDM()
    nu = [path.noise_ratio(t) for t in LogSNR(power=2.0, largest=80.0, smallest=0.02)(5, path)][:-1]
    assert nu == pytest.approx([0.02 * 4000 ** ((1 - i / 4) ** 2) for i in range(5)], rel=1e-9)


def test_beta_grid_has_equal_probabilities() -> None:
    from scipy.stats import beta

    times = Beta(a=0.7, b=0.5)(12, models.Linear())
    shares = beta.cdf(1 - np.array(times), 0.7, 0.5)
    # The quantile is good to eps in 1 - t; near the ends, where the density is large, times its slope.
    assert shares == pytest.approx(1 - np.arange(13) / 12, abs=1e-7)
    assert Beta(a=1.0, b=1.0)(6, models.Linear()) == pytest.approx(grid("uniform", 6, models.Linear()), abs=1e-14)


@given(coefficient=st.floats(-1, 2 / (math.pi - 2)), steps=st.integers(1, 50))
def test_sway_is_the_formula(coefficient: float, steps: int) -> None:
    times = Sway(coefficient)(steps, models.Linear())
    formula = [u + coefficient * (math.cos(math.pi * u / 2) - 1 + u) for u in (i / steps for i in range(steps + 1))]
    assert times == pytest.approx(formula, abs=1e-15)


def test_dynamic_shift_is_a_shift_by_the_exponential_of_mu() -> None:
    path = models.Linear()
    assert DynamicShift(tokens=256).shift == pytest.approx(math.exp(0.5), rel=1e-15)
    assert [DynamicShift(tokens=n).shift for n in (256, 1024, 4096)] == pytest.approx([1.649, 1.878, 3.158], abs=5e-4)
    assert DynamicShift(mu=math.log(3))(9, path) == pytest.approx(Shifted(3.0)(9, path), abs=1e-15)
    assert DynamicShift(mu=3.0, kind="linear")(9, path) == pytest.approx(Shifted(3.0)(9, path), abs=1e-15)
    for t, moved in zip((i / 6 for i in range(1, 6)), DynamicShift(mu=1.0, exponent=0.7)(6, path)[1:-1], strict=True):
        k = 1 - t
        assert 1 - moved == pytest.approx(math.e / (math.e + (1 / k - 1) ** 0.7), abs=1e-15)


def test_offset_grid_begins_where_the_half_log_snr_is_finite() -> None:
    path = models.Linear()
    times = Offset(base=Shifted(2.0))(8, path)
    assert times[0] == 0.001
    assert times[-1] == 1.0
    assert all(math.isfinite(path.half_log_snr(t)) for t in times[:-1])
    np.testing.assert_allclose(np.subtract(times, 0.001) / 0.999, Shifted(2.0)(8, path), atol=1e-15)


def test_stretched_grid_ends_at_the_terminal_level() -> None:
    times = Stretched(0.05, base=Shifted(2.0))(8, models.Linear())
    assert (times[0], times[-1]) == (0.0, 1.0)
    assert times[-2] == pytest.approx(0.95, abs=1e-15)
    assert Stretched(0.1)(1, models.Linear()) == (0.0, 1.0)


def test_published_tables_and_their_interpolation() -> None:
    path = models.VE(nu_max=800.0)
    for table, levels in solvers.grids.tables.ALIGN_YOUR_STEPS.items():
        ten, nineteen = (AlignYourSteps(table)(n, path) for n in (10, 19))
        assert [path.noise_ratio(t) for t in ten[:-1]] == pytest.approx(levels, rel=1e-9)
        assert [path.noise_ratio(t) for t in nineteen[:-1:2]] == pytest.approx(levels, rel=1e-9)
        assert path.noise_ratio(nineteen[1]) == pytest.approx(math.sqrt(levels[0] * levels[1]), rel=1e-9)


def test_levels_of_ones_own() -> None:
    path = models.Linear()
    sigmas, indices = NoiseRatios((4.0, 1.0, 0.25, 0.0)), Timesteps((999, 499.5, 99))
    assert grid(sigmas, None, path) == grid(sigmas, 3, path) == (0.2, 0.5, 0.8, 1.0)
    assert grid(indices, None, path) == pytest.approx((0.0, 0.4995, 0.9, 1.0), abs=1e-15)
    assert grid(NoiseRatios((4.0, 1.0)), None, path) == (0.2, 0.5)
    for levels in (sigmas, indices):
        with pytest.raises(GridError, match="steps: got 4, expected 3"):
            grid(levels, 4, path)
    for make, message in [
        (lambda: NoiseRatios((1.0, 2.0)), r"levels\[1\]: got 2.0 after 1.0"),
        (lambda: NoiseRatios((1.0, -0.5)), r"levels\[1\]: got -0.5"),
        (lambda: NoiseRatios((1.0,)), "at least 2"),
        (lambda: NoiseRatios((float("nan"), 0.0)), r"levels\[0\]: got nan"),
        (lambda: Timesteps(()), "at least 1"),
        (lambda: Timesteps((1000,)), r"indices\[0\]: got 1000.0, expected a number in \[0, 999\]"),
        (lambda: Timesteps((5, 5)), r"indices\[1\]"),
    ]:
        with pytest.raises(GridError, match=message):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sway(-1.1), "coefficient: got -1.1"),
        (lambda: DynamicShift(), "mu, tokens: got neither"),
        (lambda: DynamicShift(mu=1.0, tokens=4), "mu, tokens: got both"),
        (lambda: DynamicShift(mu=0.0, kind="linear"), "shift: got 0.0, expected a positive number"),
        (lambda: DynamicShift(mu=1.0, kind="cubic"), "kind: got 'cubic'"),  # type: ignore[arg-type]
        (lambda: DynamicShift(mu=1.0, exponent=0.0), "exponent"),
        (lambda: DynamicShift(tokens=0), "tokens"),
        (lambda: Stretched(1.0), "terminal"),
        (lambda: Offset(0.0), "start"),
        (lambda: Beta(a=0.0), "a: got 0.0"),
        (lambda: Arctan(-1.0), "scale"),
        (lambda: LogSNR(power=0.0), "power"),
        (lambda: LogSNR(over="time", smallest=0.0)(4, models.Linear()), "noise range"),
        (lambda: Karras(over="sigma")(4, models.Linear()), "over: got 'sigma'"),  # type: ignore[arg-type]
        (lambda: Karras(over="time", largest=1.5)(4, models.Linear()), "noise range"),
        (lambda: AlignYourSteps("sd3"), "table: got 'sd3', expected one of sd15"),
        (lambda: Indices("random"), "spacing"),  # type: ignore[arg-type]
        (lambda: Indices(family="pndm"), "family"),  # type: ignore[arg-type]
        (lambda: Shifted(float("inf")), "shift"),
    ],
)
def test_bad_options_are_named(make: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0], "at least 2"),
        ([0.0, 0.5, 0.5, 1.0], r"grid\[2\]: got 0.5 after 0.5"),
        ([0.0, 0.5, 0.4], r"grid\[2\]: got 0.4 after 0.5"),
        ([1.0, 0.5, 0.6], r"grid\[2\]"),
        ([0.0, float("nan")], r"grid\[1\]: got nan"),
        ([0.0, 1.5], r"grid\[1\]: got 1.5"),
        ([-0.1, 1.0], r"grid\[0\]: got -0.1"),
    ],
)
def test_bad_times_are_named(times: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message):
        solvers.plan(solvers.solver("euler"), times)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, None])
def test_bad_step_counts_are_named(steps: object) -> None:
    with pytest.raises(ArgumentError, match="steps"):
        grid("uniform", steps, models.Linear())  # type: ignore[arg-type]


def test_other_bad_arguments_are_named() -> None:
    path = models.Linear()
    with pytest.raises(UnknownNameError, match="'nope', expected one of uniform"):
        grid("nope", 4, path)
    with pytest.raises(ArgumentError, match="grid_options"):
        grid("karras", 4, path, rhoo=7)
    with pytest.raises(ArgumentError, match="shift"):
        Shifted(0.0)
    with pytest.raises(ArgumentError, match="rho"):
        Karras(rho=0.5)
    with pytest.raises(ArgumentError, match="noise range"):
        Karras(largest=1.0, smallest=2.0)(4, path)
    with pytest.raises(ArgumentError, match="noise range"):
        LogSNR(largest=500.0)(4, models.EDM())
    with pytest.raises(GridError, match="expected 5"):
        grid([0.0, 0.5, 1.0], 4, path)
