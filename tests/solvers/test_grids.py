from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushforward import models, solvers
from pushforward.errors import ArgumentError, GridError, UnknownNameError
from pushforward.solvers import GRIDS, Karras, LogSNR, Shifted, grid
from pushforward.solvers.solver import check_grid

PATHS = [models.Linear(), models.Trigonometric(), models.VPLinear(), models.Cosine(), models.VE(), models.EDM(),
         models.DiscreteDDPM.linear()]  # fmt: skip


@given(name=st.sampled_from(sorted(GRIDS)), steps=st.integers(1, 60), path=st.sampled_from(PATHS))
def test_every_grid_is_increasing_and_ends_at_the_data(name: str, steps: int, path: models.Interpolant) -> None:
    times = grid(name, steps, path)
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


def test_arctan_optimal_bound_is_not_beaten_by_karras() -> None:
    """One DDIM step on N(0, c^2) scales by cos of its angle in atan(nu / c): equal angles are best (0.8855, c = 1)."""
    path, c = models.EDM(), 1.0
    nu = [path.noise_ratio(t) for t in Karras(largest=80.0, smallest=0.002)(10, path)][:-1]
    angles = [math.atan(value / c) for value in nu]
    ratio = math.prod(math.cos(a - b) for a, b in itertools.pairwise(angles))
    assert 0.70 < ratio < math.cos((angles[0] - angles[-1]) / (len(angles) - 1)) ** (len(angles) - 1)


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
