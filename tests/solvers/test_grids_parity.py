"""Grids against diffusers' schedulers, which compute in float32 here and there: agreement to its rounding."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from pushforward import models, solvers
from pushforward.errors import ArgumentError
from pushforward.solvers import DynamicShift, Indices, Karras, LogSNR, Shifted, Stretched
from pushforward.solvers.grids import Beta, GridFunction

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = [1, 2, 5, 10, 20, 50]
FLOAT32 = torch.finfo(torch.float32).eps
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# Between nodes their flow times are float32 products and differences of a few roundings of numbers up to 1.
FLOW_TIME = 8 * FLOAT32


def flow_levels(grid: GridFunction, steps: int) -> np.ndarray:
    """Noise levels k = 1 - t."""
    return 1 - np.array(grid(steps, models.Linear()))


def table_grid(**options: float) -> Karras:
    """Diffusers' flow levels before a shift: a line from 1 to 1/1000, the last node of its training table, then 0."""
    return Karras(rho=1, over="time", smallest=1e-3, **options)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"use_karras_sigmas": True}, Karras()),
        ({"use_exponential_sigmas": True}, LogSNR()),
        ({"use_beta_sigmas": True}, Beta(over="noise_ratio")),
    ],
    ids=["karras", "exponential", "beta"],
)
@pytest.mark.parametrize("kind", [diffusers.DPMSolverMultistepScheduler, diffusers.EulerDiscreteScheduler])
def test_levels_of_diffusion_schedulers(kind: type, options: dict, grid: GridFunction, steps: int) -> None:
    """The range is that of 1000 cumulative products in float32, each off by up to a rounding: 1e-3 relative at most."""
    if kind is diffusers.EulerDiscreteScheduler and steps == 1:
        pytest.skip("one point of its linspace is clean data: it would start at the smallest level")
    scheduler = kind(**BETAS, **options)
    scheduler.set_timesteps(steps)
    path = models.DiscreteDDPM.scaled_linear()
    ours = [path.noise_ratio(t) for t in grid(steps, path)]
    assert ours[-1] == scheduler.sigmas[-1] == 0
    # The levels follow from the two ends, whose relative error is at most that of abar over 1 - abar at node 0
    # (eps / 8.5e-4) or of a product of a thousand factors in float32 (about 1000 eps at the other).
    tolerance = 2 * 1000 * FLOAT32
    assert scheduler.sigmas[:-1].tolist() == pytest.approx(ours[:-1], rel=tolerance)
    # The same, with the ends that diffusers has, to the rounding of its float32 list.
    high, low = scheduler.sigmas[0].item(), scheduler.sigmas[-2].item()
    if steps > 1:
        level = [grid.level(i / (steps - 1), high, low) for i in range(steps)]  # type: ignore[attr-defined]
        assert scheduler.sigmas[:-1].tolist() == pytest.approx(level, rel=8 * FLOAT32)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_levels(shift: float, steps: int) -> None:
    """Diffusers shifts its table when it is built and its end points again in set_timesteps (its issue 13243).

    So its levels are ours over a line that ends at the table's shifted last level, where one shift would end at 1/1000
    of it; with shift 1 the two agree.
    """
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    last = scheduler.sigma_min
    twice = Shifted(shift, base=Karras(rho=1, over="time", smallest=last))
    theirs = scheduler.sigmas.numpy()
    assert np.abs(theirs - flow_levels(twice, steps)).max() < FLOW_TIME
    once = flow_levels(Shifted(shift, base=table_grid()), steps)
    differs = shift != 1 and steps > 1
    assert (np.abs(theirs - once).max() > 1e-3) == differs


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_flow_levels_with_mu(kind: str, steps: int) -> None:
    """As Flux calls it: its own line of sigmas, 1 to 1/N, and mu from the number of tokens."""
    shift = DynamicShift(tokens=1024) if kind == "exponential" else DynamicShift(mu=1.7, kind="linear")
    mu = 0.5 + (1024 - 256) * (1.15 - 0.5) / (4096 - 256) if kind == "exponential" else 1.7
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=mu)
    assert np.abs(scheduler.sigmas.numpy() - flow_levels(shift, steps)).max() < FLOW_TIME


@pytest.mark.parametrize("steps", [2, 4, 28])
@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"shift_terminal": 0.1}, Stretched(0.1, base=table_grid())),
        ({"use_karras_sigmas": True}, Karras(over="time", smallest=1e-3)),
        ({"use_exponential_sigmas": True}, LogSNR(over="time", smallest=1e-3)),
        ({"use_beta_sigmas": True}, Beta(smallest=1e-3)),
    ],
    ids=["stretched", "karras", "exponential", "beta"],
)
def test_flow_levels_of_other_curves(options: dict, grid: GridFunction, steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(steps)
    # Their range ends at float32(1/1000), relative error eps; a power of 7 of its root keeps relative errors.
    assert np.abs(scheduler.sigmas.numpy() - flow_levels(grid, steps)).max() < FLOW_TIME


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 333])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("family", ["ddim", "dpm"])
def test_indices_are_those_of_diffusers(family: str, spacing: str, steps: int) -> None:
    kind = {"ddim": diffusers.DDIMScheduler, "dpm": diffusers.DPMSolverMultistepScheduler}[family]
    if (spacing, family, steps) == ("linspace", "ddim", 1):
        pytest.skip("ours starts at noise, theirs at clean data")
    scheduler = kind(**BETAS, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    indices = Indices(spacing, family, offset=1).indices(steps)  # type: ignore[arg-type]
    theirs = scheduler.timesteps.tolist()
    if spacing == "trailing":  # np.arange over floats may add an index of -1 or lose the last by rounding
        theirs = theirs[:steps]
    assert indices == theirs


def test_indices_are_nodes_of_the_path() -> None:
    path = models.DiscreteDDPM.scaled_linear()
    times = solvers.grid("indices", 20, path)
    assert [path.index_of_time(t) for t in times[:-1]] == Indices().indices(20)
    with pytest.raises(ArgumentError, match="60 different ones"):
        Indices(levels=50)(60, path)
    with pytest.raises(ArgumentError, match="indices"):
        Indices("leading", offset=500)(2, path)
