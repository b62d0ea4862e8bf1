"""Families of diffusers modules: what is particular to the call of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...calls import Call, Network
from ...clocks import Clock, ReverseClock, TimeClock
from .embedded import FLUX, HUNYUAN, LCM, SANA, EmbeddedGuidance

Config = Mapping[str, Any]
FlowClock = Callable[[float, Config], Clock]


def steps_of_training(steps: float, config: Config) -> Clock:
    """The noise level of the linear path in steps of training."""
    del config
    return ReverseClock(steps)


def scaled_steps(steps: float, config: Config) -> Clock:
    """Steps of training times the module's ``timestep_scale``."""
    return ReverseClock(steps * config.get("timestep_scale", 1.0))


def noise_level(steps: float, config: Config) -> Clock:
    """The noise level of the linear path, in [0, 1]."""
    del steps, config
    return ReverseClock()


def data_level(steps: float, config: Config) -> Clock:
    """Our own time."""
    del steps, config
    return TimeClock()


def null_label(config: Config) -> dict[str, Any]:
    """DiT's table has one label more than there are classes: the dropped one."""
    return {"class_labels": torch.tensor([config["num_embeds_ada_norm"]])}


def call_module(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """``network(x, timestep=time, return_dict=False, **condition)[0]``."""
    return network(x, timestep=time, return_dict=False, **condition)[0]


def call_z_image(network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
    """Z-Image's lists: one [C, F, H, W] and one caption [L, D] a row; images [B, C, H, W] have one frame."""
    lists = {key: list(leaf.unbind(0)) if key == "cap_feats" else leaf for key, leaf in condition.items()}
    frames = x.unsqueeze(2) if x.ndim == 4 else x
    output = torch.stack(list(network(list(frames.unbind(0)), time, return_dict=False, **lists)[0]))
    return output.squeeze(2) if x.ndim == 4 else output


@dataclass(frozen=True)
class Family:
    """How the modules of one class are called.

    Attributes:
        channels_first: Dimension 1 of the state is the channels (packed tokens have them last).
        flow_clock: The module's time on flow paths, made from the number of steps of training and its configuration.
        flow_sign: -1 for modules returning noise minus data on flow paths, 1 for data minus noise.
        shared: Conditions without a batch dimension.
        null: The unconditional condition, if the module's configuration decides it.
        embedded: How the module takes a guidance scale as an input, if its configuration says that it does.
        call: How it is called.
    """

    channels_first: bool = True
    flow_clock: FlowClock = steps_of_training
    flow_sign: int = -1
    shared: tuple[str, ...] = ()
    null: Callable[[Config], dict[str, Any]] | None = None
    embedded: EmbeddedGuidance | None = None
    call: Call = call_module


PACKED = {"channels_first": False, "flow_clock": noise_level}
IDS = ("img_ids", "txt_ids")

FAMILIES: dict[str, Family] = {
    "UNet2DModel": Family(),
    "UNet2DConditionModel": Family(embedded=LCM),
    "DiTTransformer2DModel": Family(null=null_label),
    "PixArtTransformer2DModel": Family(),
    "HunyuanDiT2DModel": Family(shared=("image_rotary_emb",)),
    "SD3Transformer2DModel": Family(),
    "FluxTransformer2DModel": Family(**PACKED, shared=IDS, embedded=FLUX),
    "Flux2Transformer2DModel": Family(**PACKED, shared=IDS, embedded=FLUX),
    "ChromaTransformer2DModel": Family(**PACKED, shared=IDS),
    "QwenImageTransformer2DModel": Family(**PACKED, embedded=FLUX),
    "AuraFlowTransformer2DModel": Family(flow_clock=noise_level),
    "CogView4Transformer2DModel": Family(),
    "SanaTransformer2DModel": Family(flow_clock=scaled_steps, embedded=SANA),
    "LuminaNextDiT2DModel": Family(flow_clock=data_level, flow_sign=1, shared=("image_rotary_emb",)),
    "Lumina2Transformer2DModel": Family(flow_clock=data_level, flow_sign=1),
    "ZImageTransformer2DModel": Family(flow_clock=data_level, flow_sign=1, call=call_z_image),
    "WanTransformer3DModel": Family(),
    "HunyuanVideoTransformer3DModel": Family(embedded=HUNYUAN),
    "LTXVideoTransformer3DModel": Family(channels_first=False),
    "MochiTransformer3DModel": Family(),
    "CogVideoXTransformer3DModel": Family(channels_first=False, shared=("image_rotary_emb",)),
}
