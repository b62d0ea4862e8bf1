"""Models from diffusers modules: path, prediction and clock are read from the scheduler's configuration.

The library itself is not imported here: modules are recognised by the name of their class.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, UnknownNameError
from .adapter import Model
from .clocks import IndexClock, NoiseRatioClock, ReverseClock
from .discrete import DiscreteDDPM
from .interpolants import Linear
from .kinds import (
    DenoisedPrediction,
    EDMPrediction,
    NoisePrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from .predictions import Prediction
from .schedules import EDM, VE


@dataclass(frozen=True)
class Family:
    """How the modules of one class are called.

    Attributes:
        channels_first: Dimension 1 of the state is the channels (packed tokens have them last).
        flow_time_in_unit: On flow paths the module takes the noise level in [0, 1], not in steps of training.
        shared: Conditions without a batch dimension.
        null: The unconditional condition, if the module's configuration decides it.
    """

    channels_first: bool = True
    flow_time_in_unit: bool = False
    shared: tuple[str, ...] = ()
    null: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None


def _null_label(config: Mapping[str, Any]) -> dict[str, Any]:
    """DiT's table has one label more than there are classes: the dropped one."""
    return {"class_labels": torch.tensor([config["num_embeds_ada_norm"]])}


FAMILIES: dict[str, Family] = {
    "UNet2DModel": Family(),
    "UNet2DConditionModel": Family(),
    "DiTTransformer2DModel": Family(null=_null_label),
    "PixArtTransformer2DModel": Family(),
    "SD3Transformer2DModel": Family(),
    "FluxTransformer2DModel": Family(channels_first=False, flow_time_in_unit=True, shared=("img_ids", "txt_ids")),
}

DISCRETE: dict[str, type[Prediction]] = {
    "epsilon": NoisePrediction,
    "sample": DenoisedPrediction,
    "v_prediction": VPrediction,
}


def call_module(network: Callable[..., Any], x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, timestep=time, return_dict=False, **condition)[0]``."""
    return network(x, timestep=time, return_dict=False, **condition)[0]


def from_diffusers(
    module: Callable[..., Any],
    scheduler_config: Any = None,
    *,
    prediction: Prediction | None = None,
    null: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    sequential: bool = False,
) -> Model:
    r"""A model from a diffusers module and the scheduler it was trained with.

    The configuration decides, and nothing is guessed:

    - ``beta_schedule`` or ``trained_betas``: :class:`DiscreteDDPM`, the index as time, and ``prediction_type``;
    - flow matching: :class:`Linear`, output noise minus data, time 1000 (1 - t) (Flux: 1 - t). A ``shift`` is a matter
      of the grid, not of the path: use the grid "shifted";
    - EDM's schedulers: :class:`EDM` with its preconditioning; score SDE (VE): :class:`VE` with the score.

    Modules returning 2C channels (learned variance) are cut to the first C. The state of Flux is its packed
    sequence [B, L, 4 C]; ``img_ids`` and ``txt_ids`` are conditions without a batch dimension.

    Args:
        module: UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, PixArtTransformer2DModel,
            SD3Transformer2DModel or FluxTransformer2DModel. Its conditions are its own keyword arguments.
        scheduler_config: A scheduler, its ``config``, or the contents of scheduler_config.json.
        prediction: Path, prediction and clock, instead of a scheduler.
        null: The unconditional condition. DiT's follows from its configuration; prompts have none by themselves.
        dtype: Dtype of the module, if states have another; by default that of its parameters.
        sequential: Run guided branches one after another.

    Raises:
        UnknownNameError: A module or scheduler this cannot read.
        ArgumentError: What the configuration does not say; names the key.

    Example:
        >>> from_diffusers(unet, {"beta_schedule": "linear", ...})  # doctest: +SKIP
    """
    name = type(module).__name__
    config = getattr(module, "config", None)
    if name not in FAMILIES and isinstance(config, Mapping):
        name = config.get("_class_name", name)
    if name not in FAMILIES or not isinstance(config, Mapping):
        hint = "Other networks: pushforward.models.adapt(network, prediction, interpolant, call=...)"
        raise UnknownNameError("module", got=name, expected="one of " + ", ".join(FAMILIES), hint=hint)
    family = FAMILIES[name]
    if prediction is None:
        prediction = read_scheduler(scheduler_config, family)
    channels, split = _channels(config) if family.channels_first else (None, False)
    prediction, time_dtype = _for_lookup(prediction, config)
    if getattr(module, "training", False):
        warnings.warn(f"{name} is in training mode: dropout makes its samples random; call eval() on it", stacklevel=2)
    if null is None and family.null is not None and config.get("num_embeds_ada_norm") is not None:
        null = family.null(config)
    return Model(
        network=module,
        prediction=prediction,
        null=null,
        dtype=_dtype(module) if dtype is None else dtype,
        time_dtype=time_dtype,
        call=call_module,
        shared=family.shared,
        split_variance=split,
        sequential=sequential,
        channels=channels,
    )


def read_scheduler(scheduler: Any, family: Family = FAMILIES["UNet2DModel"]) -> Prediction:
    """Path, prediction and clock of the networks that a diffusers scheduler serves.

    Args:
        scheduler: A scheduler, its ``config``, or the contents of scheduler_config.json.
        family: How the network takes its time.

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
        if config.get("invert_sigmas"):
            raise ArgumentError("scheduler_config['invert_sigmas']", got=True, expected="False; else pass prediction=")
        scale = 1.0 if family.flow_time_in_unit else float(_need(config, "num_train_timesteps"))
        return VelocityPrediction(Linear(), ReverseClock(scale), sign=-1)
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


def _channels(config: Mapping[str, Any]) -> tuple[int, bool]:
    """Channels of the state, and whether as many of a variance follow in the output."""
    given, returned = config["in_channels"], config.get("out_channels")
    if returned in (None, given):
        return given, False
    if returned == 2 * given:
        return given, True
    got, hint = (
        f"in_channels={given}, out_channels={returned}",
        "A network that takes a condition as channels: adapt(call=)",
    )
    raise ArgumentError("module.config", got=got, expected="as many, or twice as many out as in", hint=hint)


def _for_lookup(prediction: Prediction, config: Mapping[str, Any]) -> tuple[Prediction, torch.dtype | None]:
    """Whole indices for the modules that look their time up in a table."""
    clock = prediction.network_time
    if config.get("time_embedding_type") != "learned" or not isinstance(clock, IndexClock):
        return prediction, None
    return dataclasses.replace(prediction, network_time=IndexClock(clock.levels, quantise=True)), torch.int64


def _dtype(module: Any) -> torch.dtype | None:
    """Dtype of the module's parameters."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
