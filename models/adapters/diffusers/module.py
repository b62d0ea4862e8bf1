"""Models from diffusers modules: path, prediction and clock are read from the scheduler's configuration."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ....errors import ArgumentError, UnknownNameError
from ...adapter import Model, adapt
from ...clocks import IndexClock
from ...concatenation import ConcatCondition
from ...predictions import Prediction
from .embedded import no_embedding
from .families import FAMILIES
from .scheduler import read_scheduler

AUTOENCODERS = ("vae", "vqvae", "movq")
BOTH_SCALES = (
    "This network embeds its guidance scale (pass embedded_guidance=3.5); guidance= would run a second, unconditional "
    "row and needs null="
)


def from_diffusers(
    module: Callable[..., Any],
    scheduler_config: Any = None,
    *,
    prediction: Prediction | None = None,
    null: Mapping[str, Any] | None = None,
    embedded_guidance: float | Tensor | None = None,
    concatenated: int = 0,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    sequential: bool = False,
) -> Model:
    r"""A model from a diffusers module and the scheduler it was trained with.

    The configuration decides, and nothing is guessed:

    - ``beta_schedule`` or ``trained_betas``: :class:`DiscreteDDPM`, the index as time, and ``prediction_type``;
    - flow matching: :class:`Linear`; the family says whether the module takes 1000 (1 - t), 1 - t or t, and whether it
      returns noise minus data. A ``shift`` is a matter of the grid, not of the path: use the grid "shifted";
    - EDM's schedulers: :class:`EDM` with its preconditioning; score SDE (VE): :class:`VE` with the score.

    Modules returning 2C channels (learned variance) are cut to the first C. The states are what the module takes: the
    packed sequence [B, L, 4 C] of Flux, Chroma, Qwen-Image and LTX, [B, C, F, H, W] for video, [B, F, C, H, W] for
    CogVideoX; ``img_ids`` and ``txt_ids`` are conditions without a batch dimension.

    Args:
        module: A pipeline, whose network and scheduler are taken, and whose autoencoder, if it has one, says that the
            states are latents; or a module of one of the classes in
            ``pushforward.models.adapters.diffusers.FAMILIES``. Its conditions are its own keyword arguments; Z-Image's
            captions are a tensor ``cap_feats`` [B, L, D].
        scheduler_config: A scheduler, its ``config``, or the contents of scheduler_config.json.
        prediction: Path, prediction and clock, instead of a scheduler.
        null: The unconditional condition. DiT's follows from its configuration; prompts have none by themselves.
        embedded_guidance: For modules that take a guidance scale as an input (FLUX.1-dev, HunyuanVideo, distilled
            UNets): the scale, a number or one for each sample [B]. Not the ``guidance`` of a run, which weighs a
            second, unconditional row and may be used beside it.
        concatenated: How many of the module's input channels are a condition: ``condition["concatenated"]``,
            [B, n, ...], is appended to the state.
        dtype: Dtype of the module, if states have another; by default that of its parameters.
        autocast: As in :func:`adapt`.
        sequential: Run guided branches one after another.

    Raises:
        UnknownNameError: A module or scheduler this cannot read.
        ArgumentError: What the configuration does not say; names the key. A scale for a module without an embedding,
            and, when it is called, none for a module with one.

    Example:
        >>> from_diffusers(unet, {"beta_schedule": "linear", ...})  # doctest: +SKIP
    """
    latent = False
    if hasattr(module, "components") and hasattr(module, "scheduler"):
        latent = has_autoencoder(module)
        module, scheduler_config = parts_of(module, scheduler_config)
    name = type(module).__name__
    config = getattr(module, "config", None)
    if name not in FAMILIES and isinstance(config, Mapping):
        name = config.get("_class_name", name)
    if name not in FAMILIES or not isinstance(config, Mapping):
        hint = "Other networks: pushforward.models.adapt(network, prediction, interpolant, call=...)"
        raise UnknownNameError("module", got=name, expected="one of " + ", ".join(FAMILIES), hint=hint)
    family = FAMILIES[name]
    if prediction is None:
        prediction = read_scheduler(scheduler_config, family, config)
    channels, split = _channels(config, concatenated) if family.channels_first else (None, False)
    prediction, time_dtype = _for_lookup(prediction, config)
    if getattr(module, "training", False):
        warnings.warn(f"{name} is in training mode: dropout makes its samples random; call eval() on it", stacklevel=2)
    if null is None and family.null is not None and config.get("num_embeds_ada_norm") is not None:
        null = family.null(config)
    call, defaults, hint = family.call, None, None
    if family.embedded is not None:
        call, defaults = family.embedded.call(call, config), family.embedded.defaults(embedded_guidance, config, name)
        hint = BOTH_SCALES if config.get(family.embedded.switch) else None
    elif embedded_guidance is not None:
        raise no_embedding(embedded_guidance, name)
    if concatenated:
        call = ConcatCondition("concatenated", channels, concatenated, call)
    model = adapt(
        module,
        prediction,
        prediction.interpolant,
        null=null,
        dtype=_dtype(module) if dtype is None else dtype,
        time_dtype=time_dtype,
        call=call,
        shared=family.shared,
        split_variance=split,
        sequential=sequential,
        channels=channels,
        defaults=defaults,
        latent=latent,
        autocast=autocast,
    )
    return dataclasses.replace(model, null_hint=hint)


def has_autoencoder(pipeline: Any) -> bool:
    """Whether what the pipeline's network makes is decoded afterwards."""
    return any(pipeline.components.get(name) is not None for name in AUTOENCODERS)


def parts_of(pipeline: Any, scheduler: Any) -> tuple[Any, Any]:
    """The network of a pipeline, and its scheduler unless another is given.

    Raises:
        ArgumentError: A pipeline with several networks, or none.
    """
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    networks = [name for name in parts if name.rstrip("_0123456789") in ("unet", "transformer")]
    if len(networks) != 1:
        got, expected = ", ".join(networks) or "no unet and no transformer", "a pipeline with one network"
        hint = "Give the module that is meant; several can be stitched together afterwards"
        raise ArgumentError("module", got=got, expected=expected, hint=hint)
    return parts[networks[0]], parts.get("scheduler") if scheduler is None else scheduler


def _channels(config: Mapping[str, Any], concatenated: int) -> tuple[int, bool]:
    """Channels of the state, and whether as many of a variance follow in the output."""
    given, returned = config["in_channels"] - concatenated, config.get("out_channels")
    if returned is None:
        returned = 2 * given if config.get("learn_sigma") else given
    if returned == given:
        return given, False
    if returned == 2 * given:
        return given, True
    hint = "If the module takes conditions as channels, say how many: concatenated=n"
    got = f"in_channels={config['in_channels']}, out_channels={returned}"
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
