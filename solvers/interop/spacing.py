"""Grids as diffusers' configurations describe them: spaced indices, shifted flow levels, EDM's levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import betaincinv

from ...errors import ArgumentError, GridError, UnknownNameError
from ...models import DiscreteDDPM, Prediction
from .. import grids

CONVENTIONS = ("indices", "levels", "dropped_last")
BETA = 0.6  # both parameters of the beta spacing: Lee et al. 2024, Beta sampling is all you need


def trained_times(
    config: Mapping[str, Any],
    prediction: Prediction,
    training: str,
    steps: int | None,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> tuple[float, ...]:
    """Times of a run on the network's own path, increasing, from what a pipeline asks of ``set_timesteps``.

    Args:
        config: Of the scheduler.
        prediction: How the network is read.
        training: "ddpm", "flow", "edm" or "ve".
        steps: Number of steps; may be None with ``timesteps`` or ``sigmas``.
        timesteps: The network's own times instead, decreasing.
        sigmas: Noise levels instead: of flows 1 - t, still to be shifted as configured (so pipelines expect); of
            others sigma / alpha. A last 0 may be given or left out.
        mu: Of dynamic shifting.

    Raises:
        ArgumentError: Arguments that contradict each other or the configuration.
        GridError: Values that are not a grid.

    """
    given = timesteps if timesteps is not None else sigmas
    if given is not None:
        given = [float(value) for value in given]
        count = len(given) - (timesteps is None and given[-1:] == [0.0])
        if steps is not None and steps != count:
            name = "sigmas" if timesteps is None else "timesteps"
            raise ArgumentError(name, got=f"{count} values", expected=f"{steps}, the number of steps")
        steps = count
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ArgumentError("num_inference_steps", got=repr(steps), expected="an integer, at least 1, or own values")
    if config.get("grid") is not None and given is None:
        options = dict(config.get("grid_options") or {})
        return grids.grid(config["grid"], steps, prediction.interpolant, **options)
    if training == "flow":
        return flow_times(config, steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
    if mu is not None:
        raise ArgumentError("mu", got=mu, expected="None: the network is not one of flow matching")
    path = prediction.interpolant
    if timesteps is not None:
        return ended([prediction.network_time.inverse(time, path) for time in given or ()], config, prediction)
    if sigmas is not None:
        levels = (given or [])[:steps]
    elif isinstance(path, DiscreteDDPM):
        return ddpm_times(config, steps, prediction)
    else:
        largest, smallest = float(config["sigma_max"]), float(config["sigma_min"])
        kind = "exponential" if config.get("sigma_schedule") == "exponential" or training == "ve" else "karras"
        points = steps + (path.sigma(1.0) > 0)  # a path that never gets clean ends at its smallest level
        levels = respaced(largest, smallest, points, kind, rho=float(config.get("rho") or 7.0))
    return ended([path.time_at_noise_ratio(level) for level in levels], config, prediction)


def asks_for_levels(sigmas: Sequence[float] | None, training: str) -> bool:
    """Whether noise levels are any but those that pipelines of flow networks pass unasked: 1, 1 - 1/n, ..., 1/n.

    Example:
        >>> asks_for_levels([1.0, 0.75, 0.5, 0.25], "flow"), asks_for_levels([1.0, 0.4], "flow")
        (False, True)

    """
    if sigmas is None:
        return False
    n = len(sigmas)
    return training != "flow" or any(abs(s - (1 - k / n)) > 1e-6 for k, s in enumerate(sigmas))  # float32, for some


def ended(times: Sequence[float], config: Mapping[str, Any], prediction: Prediction) -> tuple[float, ...]:
    """The times with the last one, clean data or the smallest trained noise level, after them if it is not there."""
    path = prediction.interpolant
    if len(times) > 1 and times[-1] == 1.0 and path.sigma(1.0) > 0:
        return tuple(times)
    if config.get("final_sigmas_type", "zero") == "zero":
        end = 1.0
    else:
        end = path.time_at_noise_ratio(path.noise_range[0]) if path.noise_range[0] > 0 else 1.0
    if times and times[-1] >= end:
        hint = "Use final_sigmas_type='zero', or end before the smallest noise level"
        raise GridError("grid", got=f"{times[-1]} as the last evaluation", expected=f"a time before {end}", hint=hint)
    return (*times, end)


def choice(config: Mapping[str, Any]) -> str | None:
    """Which respacing the ``use_..._sigmas`` flags ask for."""
    asked = [kind for kind in ("karras", "exponential", "beta") if config.get(f"use_{kind}_sigmas")]
    if len(asked) > 1:
        raise ArgumentError("config", got=[f"use_{kind}_sigmas" for kind in asked], expected="at most one of them")
    return asked[0] if asked else None


def respaced(largest: float, smallest: float, steps: int, kind: str, rho: float = 7.0) -> list[float]:
    r"""Levels from ``largest`` to ``smallest``, both included.

    "karras": uniform in the root ``rho`` (Karras et al. 2022, equation 5); "exponential": in the logarithm; "beta":
    quantiles of Beta(0.6, 0.6) (Lee et al. 2024).

    Example:
        >>> respaced(8.0, 2.0, 3, "exponential")
        [8.0, 4.0, 2.0]

    """
    share = np.linspace(0.0, 1.0, steps)
    if kind == "karras":
        levels = (largest ** (1 / rho) + share * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    elif kind == "exponential":
        levels = np.exp(math.log(largest) + share * (math.log(smallest) - math.log(largest)))
    else:
        levels = smallest + betaincinv(BETA, BETA, 1.0 - share) * (largest - smallest)
    if steps > 1:
        levels[-1] = smallest
    levels[0] = largest
    return levels.tolist()


def trained_indices(config: Mapping[str, Any], levels: int, steps: int) -> list[float]:
    """Indices of the trained noise levels at which the network is asked, decreasing.

    ``timestep_spacing`` "linspace", "leading" or "trailing" (Lin et al. 2024, table 2); ``timestep_convention`` says
    how a family of schedulers reads them: "indices" (DDIM, DDPM: whole numbers), "levels" (Euler, Heun: not rounded),
    "dropped_last" (DPM-Solver, UniPC, DEIS: of one more point, the last is left out).

    Example:
        >>> trained_indices({"timestep_spacing": "leading", "steps_offset": 1}, 1000, 4)
        [751.0, 501.0, 251.0, 1.0]

    """
    spacing, convention = config.get("timestep_spacing", "leading"), config.get("timestep_convention", "indices")
    if convention not in CONVENTIONS:
        raise UnknownNameError("timestep_convention", got=repr(convention), expected="one of " + ", ".join(CONVENTIONS))
    dropped = convention == "dropped_last"
    points = steps + dropped
    if points > levels:
        raise ArgumentError(
            "num_inference_steps", got=steps, expected=f"at most {levels - dropped}, the trained levels"
        )
    if spacing == "linspace":
        indices = np.linspace(0, levels - 1, points)[::-1][:steps]
        indices = indices if convention == "levels" else indices.round()
    elif spacing == "leading":
        indices = (np.arange(points) * (levels // points))[::-1][:steps] + int(config.get("steps_offset") or 0)
    elif spacing == "trailing":
        indices = np.arange(levels, 0, -levels / steps).round()[:steps] - 1
    else:
        raise UnknownNameError("timestep_spacing", got=repr(spacing), expected="'linspace', 'leading' or 'trailing'")
    return [float(index) for index in indices]


def ddpm_times(config: Mapping[str, Any], steps: int, prediction: Prediction) -> tuple[float, ...]:
    """Times of a network trained on discrete noise levels."""
    path, kind = prediction.interpolant, choice(config)
    assert isinstance(path, DiscreteDDPM)
    times = [path.time_of_index(index) for index in trained_indices(config, path.levels, steps)]
    if kind is not None:
        smallest, largest = path.noise_range
        if config.get("timestep_convention") != "dropped_last":  # those schedulers respace the whole trained range
            largest, smallest = path.noise_ratio(times[0]), path.noise_ratio(times[-1])
        times = [path.time_at_noise_ratio(level) for level in respaced(largest, smallest, steps, kind)]
    return ended(times, config, prediction)


def flow_times(
    config: Mapping[str, Any],
    steps: int,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> tuple[float, ...]:
    """Times of a flow-matching network, t = 1 - sigma.

    As diffusers does, a static shift acts twice on the default grid: its ends are the shifted first and last trained
    level, and the points between are then shifted. That is what users of a pipeline have; for the shift alone use
    ``grid="shifted"``. Dynamic shifting (``mu``), ``shift_terminal`` and the respacings follow in this order.
    """
    trained = int(config["num_train_timesteps"])
    shift, dynamic = float(config.get("shift") or 1.0), bool(config.get("use_dynamic_shifting"))
    if dynamic and mu is None:
        raise ArgumentError("mu", got=None, expected="a number, since use_dynamic_shifting=True")
    if config.get("invert_sigmas"):
        raise ArgumentError("invert_sigmas", got=True, expected="False")

    def static(level: np.ndarray) -> np.ndarray:
        return shift * level / (1 + (shift - 1) * level)

    if sigmas is not None:
        levels = np.asarray([float(level) for level in sigmas], dtype=np.float64)[:steps]
    elif timesteps is not None:
        levels = np.asarray([float(time) for time in timesteps], dtype=np.float64) / trained
    elif config.get("timestep_convention") == "dropped_last":
        levels = np.linspace(1 - 1 / trained, 0, steps + 1)[:-1]
    else:
        ends = np.asarray([1.0, 1 / trained])
        first, last = (ends if dynamic else static(ends)).tolist()
        levels = np.linspace(first, last, steps)
    levels = (
        time_shifted(levels, float(mu or 0.0), config.get("time_shift_type", "exponential"))
        if dynamic
        else static(levels)
    )
    if config.get("shift_terminal"):
        levels = 1 - (1 - levels) * (1 - float(config["shift_terminal"])) / (1 - levels[-1])
    kind = choice(config)
    if kind is not None:
        levels = np.asarray(respaced(float(levels[0]), float(levels[-1]), steps, kind))
    return (*(1.0 - levels).tolist(), 1.0)


def time_shifted(levels: np.ndarray, mu: float, kind: str) -> np.ndarray:
    """The noise level's odds multiplied by exp(mu) ("exponential", Flux) or by mu ("linear")."""
    if kind not in ("exponential", "linear"):
        raise UnknownNameError("time_shift_type", got=repr(kind), expected="'exponential' or 'linear'")
    factor = math.exp(mu) if kind == "exponential" else mu
    return factor * levels / (1 + (factor - 1) * levels)
