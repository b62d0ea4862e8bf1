"""Path, prediction and clock from the configuration of a diffusers scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ArgumentError, UnknownNameError
from ...clocks import IndexClock, NoiseRatioClock, TimeClock
from ...discrete import DiscreteDDPM
from ...interpolants import Linear
from ...kinds import (
    DenoisedPrediction,
    EDMPrediction,
    NoisePrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from ...predictions import Prediction
from ...schedules import EDM, VE
from .families import FAMILIES, Family

DISCRETE: dict[str, type[Prediction]] = {
    "epsilon": NoisePrediction,
    "sample": DenoisedPrediction,
    "v_prediction": VPrediction,
}


def read_scheduler(
    scheduler: Any, family: Family = FAMILIES["UNet2DModel"], module_config: Mapping[str, Any] | None = None
) -> Prediction:
    """Path, prediction and clock of the networks that a diffusers scheduler serves.

    Args:
        scheduler: A scheduler, its ``config``, or the contents of scheduler_config.json.
        family: How the network takes its time.
        module_config: The configuration of the module, where its time depends on that too.

    Raises:
        UnknownNameError: The scheduler's class or its ``prediction_type`` is not known.
        ArgumentError: A key is missing.
    """
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        hint = "For instance pipeline.scheduler, or pass prediction= (a pushforward.models.Prediction)"
        got = "nothing" if scheduler is None else type(scheduler).__name__
        raise ArgumentError("scheduler_config", got=got, expected="the scheduler used in training", hint=hint)
    name = config.get("_class_name") or (type(scheduler).__name__ if scheduler is not config else "")
    if _is_flow(name, config):
        steps = float(_need(config, "num_train_timesteps"))
        if config.get("invert_sigmas"):  # its levels are our time, and its steps go along our velocity
            return VelocityPrediction(Linear(), TimeClock(steps), sign=1)
        return VelocityPrediction(Linear(), family.flow_clock(steps, module_config or {}), sign=family.flow_sign)
    if name.startswith("EDM"):
        _one_of(config, {"epsilon": EDMPrediction})
        path = EDM(_need(config, "sigma_min"), _need(config, "sigma_max"))
        return EDMPrediction(path, sigma_data=_need(config, "sigma_data"))
    if name.startswith("ScoreSdeVe"):
        return ScorePrediction(VE(_need(config, "sigma_min"), _need(config, "sigma_max")), NoiseRatioClock())
    if "beta_schedule" in config or config.get("trained_betas") is not None:
        if config.get("timestep_type") == "continuous":
            raise ArgumentError(
                "scheduler_config['timestep_type']", got="continuous", expected="discrete; else pass prediction="
            )
        path = DiscreteDDPM.from_config(config)
        return _one_of(config, DISCRETE)(path, IndexClock(path.levels))
    expected = "'beta_schedule', 'trained_betas' or the '_class_name' of a flow-matching, EDM or VE scheduler"
    hint = "Pass the scheduler itself, or prediction="
    raise UnknownNameError("scheduler_config", got=sorted(config), expected=f"a mapping with {expected}", hint=hint)


def _is_flow(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the scheduler is one of the linear path."""
    said = config.get("prediction_type") == "flow_prediction" or bool(config.get("use_flow_sigmas"))
    return said or "FlowMatch" in name or ("base_image_seq_len" in config and "beta_schedule" not in config)


def _one_of(config: Mapping[str, Any], kinds: Mapping[str, type[Prediction]]) -> type[Prediction]:
    """The class that ``prediction_type`` names."""
    named = _need(config, "prediction_type")
    if named not in kinds:
        expected = "one of " + ", ".join(kinds)
        raise UnknownNameError("scheduler_config['prediction_type']", got=repr(named), expected=expected)
    return kinds[named]


def _need(config: Mapping[str, Any], key: str) -> Any:
    """A value that must be there."""
    if config.get(key) is None:
        hint = "Pass the scheduler itself, whose config also has the defaults"
        raise ArgumentError(f"scheduler_config[{key!r}]", got="nothing", expected="the value of training", hint=hint)
    return config[key]
