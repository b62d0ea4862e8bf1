"""How much each step of a sampler contributes to its result, and training times that follow it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, GridError, UnknownNameError
from ..interpolants import Interpolant, interpolant
from .time_samplers import HistogramTimes, TimeSampler, time_sampler

SPACES = ("noise", "data")


def contributions(path: Interpolant | str, grid: Sequence[float], space: str = "data") -> NDArray[np.float64]:
    r"""The weights with which the estimates of single DDIM steps enter the last state.

    With :math:`\rho = \sigma / \alpha`, of noise estimates n or clean estimates D, telescoping to all that the steps
    do:

    .. math:: \frac{x_N}{\alpha_N} = \frac{x_0}{\alpha_0} - \sum_k (\rho_k - \rho_{k+1}) n_k, \quad
        \frac{x_N}{\sigma_N} = \frac{x_0}{\sigma_0} + \sum_k (1 / \rho_{k+1} - 1 / \rho_k) D_k

    Args:
        path: The interpolant, or its name.
        grid: Strictly increasing times, from noise to data.
        space: "noise", for grids that begin where alpha > 0, or "data", for grids that end where sigma > 0.

    Returns:
        Positive weights, one a step, [N].

    Raises:
        UnknownNameError: No such space.
        GridError: Fewer than two times, or times that do not increase.
        ArgumentError: The weight of a step is infinite: of noise estimates from alpha = 0, of clean ones to sigma = 0.

    Source:
        Song et al. 2021, DDIM, equation 13; as training times, Pang, Xu & Wang 2025 (ADDP).

    Example:
        >>> contributions("linear", [0.25, 0.5, 0.75], "noise").round(3)
        array([2.   , 0.667])
    """
    if space not in SPACES:
        raise UnknownNameError("space", got=repr(space), expected="'noise' or 'data'")
    path, times = interpolant(path), [float(t) for t in grid]
    if len(times) < 2 or any(not a < b for a, b in itertools.pairwise(times)):
        raise GridError("grid", got=times, expected="two increasing times or more")
    ends = [path(t) for t in times]
    first, last = ends[0], ends[-1]
    if space == "noise" and first.alpha == 0:
        got, hint = f"noise estimates from t = {times[0]:.4g}, where alpha = 0", "Use space='data' there"
        raise ArgumentError("contributions", got=got, expected="finite weights", hint=hint)
    if space == "data" and last.sigma == 0:
        got, hint = f"clean estimates to t = {times[-1]:.4g}, where sigma = 0", "Use space='noise' there"
        raise ArgumentError("contributions", got=got, expected="finite weights", hint=hint)
    levels = [c.sigma / c.alpha if space == "noise" else c.alpha / c.sigma for c in ends]
    return np.abs(np.diff(np.array(levels, dtype=np.float64)))


def contribution_times(path: Interpolant | str, grid: Sequence[float], space: str = "data") -> HistogramTimes:
    """Training times drawn in proportion to :func:`contributions`, uniform within each step.

    Args:
        path, grid, space: As there.

    Example:
        >>> [round(share, 3) for share in contribution_times("linear", [0.25, 0.5, 0.75], "noise").shares]
        [0.75, 0.25]
    """
    weights = contributions(path, grid, space)
    total = math.fsum(weights)
    return HistogramTimes(tuple(float(t) for t in grid), tuple(float(w) / total for w in weights))


STEPS = 20


def training_times(name: str) -> TimeSampler:
    """The density that a training script names: a registered one, or "contribution".

    The latter is that of 20 steps on the linear path in the clean estimate, the last one left out, which is infinite.

    Raises:
        UnknownNameError: Neither.

    Example:
        >>> training_times("uniform")
        UniformTimes()
    """
    if name == "contribution":
        return contribution_times("linear", [k / STEPS for k in range(STEPS)])
    return time_sampler(name)
