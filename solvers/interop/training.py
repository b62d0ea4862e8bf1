"""What the configuration of a diffusers scheduler says about the training of its network: path, prediction, clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import ArgumentError, UnknownNameError
from ...models import DiscreteDDPM, Linear, Prediction
from ...models.adapters.diffusers import read_scheduler
from ...models.clocks import LogNoiseRatioClock
from ...models.predictions import Affine, OnPath, Target

Training = Literal["ddpm", "flow", "edm", "ve"]

CLASSES: dict[str, str] = {"ddpm": "DDPM", "flow": "FlowMatch", "edm": "EDM", "ve": "ScoreSdeVe"}
KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
    "prediction_type", "invert_sigmas", "timestep_type", "sigma_min", "sigma_max", "sigma_data",
)  # fmt: skip


def training_of(config: Mapping[str, Any], name: str = "") -> Training:
    """Which family of training a scheduler's configuration belongs to, by its class and, without one, by its keys."""
    flow = config.get("prediction_type") == "flow_prediction" or bool(config.get("use_flow_sigmas"))
    discrete = config.get("beta_schedule") is not None or config.get("trained_betas") is not None
    if flow or "FlowMatch" in name or (not discrete and "shift" in config):
        return "flow"
    if name.startswith("EDM") or (not discrete and "sigma_data" in config):
        return "edm"
    if name.startswith("ScoreSdeVe") or (not discrete and "snr" in config):
        return "ve"
    if discrete:
        return "ddpm"
    hint = "Pass training= 'ddpm', 'flow', 'edm' or 've'"
    raise UnknownNameError("config", got=sorted(config), expected="that of a scheduler that can be read", hint=hint)


def trained_prediction(config: Mapping[str, Any], training: str) -> Prediction:
    """How to read the network, on the path it was trained on; kept, since a thousand levels take a while.

    Raises:
        UnknownNameError: No such ``training`` or ``prediction_type``.
        ArgumentError: A key that the training needs is missing.

    """
    if training not in CLASSES:
        raise UnknownNameError("training", got=repr(training), expected="one of " + ", ".join(CLASSES))
    betas = config.get("trained_betas")
    read = {key: config[key] for key in KEYS if key in config}
    read |= {"trained_betas": None if betas is None else tuple(float(beta) for beta in betas)}
    if training in ("flow", "edm", "ve"):  # read_scheduler goes by the class, and these keys would outvote it
        read |= {"beta_schedule": None, "trained_betas": None}
    return _read(tuple(sorted(read.items())), CLASSES[training])


@lru_cache(maxsize=32)
def _read(items: tuple[tuple[str, Any], ...], name: str) -> Prediction:
    return read_scheduler(dict(items) | {"_class_name": name})


@dataclass(frozen=True)
class Unscaled(OnPath):
    """The same network with its input scaled by someone else: by the pipeline, with ``scale_model_input``.

    Args:
        interpolant, network_time: Those of ``inner``.
        inner: How to read the network.

    """

    def target(self, t: float) -> Target:
        """That of ``inner``."""
        return self.inner.target(t)

    def input_scale(self, t: float) -> float:
        """1: plans then ask for the network at the state itself."""
        del t
        return 1.0

    def time(self, t: float) -> float:
        """That of ``inner``."""
        return self.inner.time(t)

    def denoised(self, t: float) -> Affine:
        """That of ``inner``."""
        return self.inner.denoised(t)

    def noise(self, t: float) -> Affine:
        """That of ``inner``."""
        return self.inner.noise(t)

    def check_callable(self, t: float) -> None:
        """As ``inner`` does: the scale of the input counts, whoever applies it."""
        self.inner.check_callable(t)


class Mixing:
    """alpha and sigma at network times that lie on a device, for ``add_noise``: tables and formulas, nothing read back.

    Args:
        prediction: Of the trained path.

    """

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self._placed: dict[torch.device, Tensor] = {}

    @cached_property
    def _table(self) -> Tensor:
        """Rows alpha, sigma, log nu at each trained level."""
        path = self.prediction.interpolant
        assert isinstance(path, DiscreteDDPM)
        rows = [path(path.time_of_index(i)) for i in range(path.levels)]
        values = [[row.alpha, row.sigma, math.log(row.sigma / row.alpha)] for row in rows]
        return torch.tensor(values, dtype=torch.float32).T.contiguous()

    def __call__(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha, sigma)`` at the network's times, float32 (float64 for float64 times), of the same shape.

        Between trained levels log nu is linear in the index, as on the path; outside them the nearest level counts.
        """
        path, clock = self.prediction.interpolant, self.prediction.network_time
        if isinstance(path, DiscreteDDPM):
            return self._discrete(times)
        times = times if times.dtype == torch.float64 else times.float()
        if isinstance(path, Linear):
            sigma = times / getattr(clock, "scale", 1.0)
            return 1 - sigma, sigma
        nu = (times / clock.scale).exp() if isinstance(clock, LogNoiseRatioClock) else times
        return torch.ones_like(nu), nu

    def _discrete(self, times: Tensor) -> tuple[Tensor, Tensor]:
        if times.device not in self._placed:
            self._placed[times.device] = self._table.to(times.device)
        alpha, sigma, log_nu = self._placed[times.device]
        if not times.is_floating_point():
            index = times.clamp(0, len(alpha) - 1)
            return alpha[index], sigma[index]
        index = times.clamp(0, len(alpha) - 1)
        lower = index.floor().long().clamp(max=len(alpha) - 2)
        nu = torch.lerp(log_nu[lower], log_nu[lower + 1], (index - lower).to(log_nu.dtype)).exp()
        alpha = (1 + nu * nu).rsqrt()
        return alpha, nu * alpha


def check_flow_path(training: str, path: str | None) -> None:
    """Pipelines of flow networks do not scale the network's input, so the state must be the network's own.

    Raises:
        ArgumentError: Another path for a flow network, or a path that is not known here.

    """
    if path not in (None, "edm"):
        raise UnknownNameError("path", got=repr(path), expected="None (the network's own) or 'edm'")
    if path == "edm" and training == "flow":
        raise ArgumentError(
            "path", got="'edm'", expected="None: pipelines of flow networks never call scale_model_input"
        )
