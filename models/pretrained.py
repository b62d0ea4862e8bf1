"""Bundled networks as models: loaded, adapted, with their unconditional label."""

from __future__ import annotations

import torch

from ..errors import ArgumentError
from . import bundled
from .adapter import Model, adapt
from .latents import LatentCodec
from .nets import DigitAutoencoder, DigitDiT, LatentUNet


def load(name: str = "digits28-base", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """A bundled generative model; its condition is ``{"label": int64 [B]}``.

    Args:
        name: "digits28-base", "digits28-small" or "digits28-dit" (a transformer): digits [B, 1, 28, 28] in [-1, 1].
            "digits28-latent": the latents [B, 4, 7, 7] of :func:`latent_codec`. "digits28-refiner", which corrects
            velocities of the first: as ``refiner`` of a :class:`~pushforward.models.RefinedModel`.
        device: Where the network goes.
        dtype: Of the network. States may have another: they are cast to it and the velocities back.

    Raises:
        UnknownNameError: No bundled network has this name.
        ArgumentError: It is a classifier: load that with ``pushforward.models.bundled.load``.
        CorruptFileError: The weights are missing or changed.

    Example:
        >>> load("digits28-small").evaluate(torch.zeros(1, 1, 28, 28), 0.5, {"label": torch.tensor([3])})[0].shape
        torch.Size([1, 1, 28, 28])
    """
    card = bundled.card(name)
    if "null_id" not in card:
        hint = f"pushforward.models.bundled.load({name!r}) returns the network"
        raise ArgumentError("name", got=repr(name), expected="a velocity network", hint=hint)
    network = bundled.load(name, device, dtype)
    null = {"label": torch.tensor([card["null_id"]], device=device)}
    time_shape = "token" if isinstance(network, DigitDiT) else "batch"
    channels = card["shape"][0]
    return adapt(
        network,
        "velocity",
        "linear",
        null=null,
        dtype=dtype,
        channels=channels,
        time_shape=time_shape,
        latent=isinstance(network, LatentUNet),
    )


def latent_codec(
    name: str = "digits28-autoencoder", device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LatentCodec:
    """The maps between digits [B, 1, 28, 28] in [-1, 1] and the scaled latents that "digits28-latent" makes.

    Args:
        name: Of a bundled autoencoder.
        device: Where the network goes.
        dtype: Of the network, and of what it is given.

    Raises:
        UnknownNameError: No bundled network has this name.
        ArgumentError: It is no autoencoder.
        CorruptFileError: The weights are missing or changed.

    Example:
        >>> latent_codec().decode(torch.zeros(2, 4, 7, 7)).shape
        torch.Size([2, 1, 28, 28])
    """
    card = bundled.card(name)
    network = bundled.load(name, device, dtype)
    if not isinstance(network, DigitAutoencoder):
        raise ArgumentError("name", got=repr(name), expected="an autoencoder")
    return LatentCodec(network.mean, network.decode, tuple(card["latent_scale"]), tuple(card["latent_shift"]))
