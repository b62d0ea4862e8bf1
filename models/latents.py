"""Latents: a pair of maps between data and the space that a flow lives in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError

Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class LatentCodec:
    r"""An encoder and a decoder, with the scale that gives latents about unit variance.

    .. math:: z = (E(x) - b)\, s, \quad \hat x = G(z / s + b)

    Scale and shift are numbers, or one for each channel (dimension 1). Both maps keep gradients where their functions
    do. Range checks and thresholds belong to the data, not to latents, which have no range.

    Args:
        encoder: E, from data [B, *D] to latents [B, C, *].
        decoder: G, back.
        scale: s; finite, not 0.
        shift: b; finite.

    Raises:
        ArgumentError: A scale of 0, or numbers that are not finite; functions that are none.
        ShapeError: When called: numbers for other channels than the latents have.

    Source:
        Rombach et al. 2022.

    Example:
        >>> codec = LatentCodec(lambda x: 2 * x, lambda z: z / 2, scale=0.5, shift=1.0)
        >>> codec.encode(torch.tensor([[3.0]])), codec.decode(torch.tensor([[2.5]]))
        (tensor([[2.5000]]), tensor([[3.]]))
    """

    encoder: Callable[[Tensor], Tensor]
    decoder: Callable[[Tensor], Tensor]
    scale: Numbers = 1.0
    shift: Numbers = 0.0

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            if not callable(getattr(self, name)):
                raise ArgumentError(name, got=type(getattr(self, name)).__name__, expected="a function of tensors")
        for name in ("scale", "shift"):
            given = getattr(self, name)
            numbers = tuple(map(float, given)) if isinstance(given, Sequence | Tensor) else (float(given),)
            if not numbers or not all(map(math.isfinite, numbers)) or (name == "scale" and 0.0 in numbers):
                expected = "finite numbers" + (" other than 0" if name == "scale" else "")
                raise ArgumentError(name, got=given, expected=expected)
            object.__setattr__(self, name, numbers if isinstance(given, Sequence | Tensor) else numbers[0])

    @classmethod
    def from_vae(cls, vae: Any) -> LatentCodec:
        """The codec of a diffusers autoencoder, its constants read from its configuration.

        ``scaling_factor`` s0 and ``shift_factor`` b, or one number a channel where it has ``latents_mean`` b and
        ``latents_std`` d: then s = s0 / d. Latents are the modes of the encoder's distribution; what goes in is cast to
        the dtype and device of the parameters, and what comes out to those of what went in.

        Args:
            vae: With ``encode``, ``decode`` and ``config``.

        Raises:
            ArgumentError: An autoencoder without these, or whose configuration has no constants.
        """
        config = getattr(vae, "config", None)
        if not isinstance(config, Mapping) or not (hasattr(vae, "encode") and hasattr(vae, "decode")):
            expected = "an autoencoder with encode, decode and a config"
            raise ArgumentError("vae", got=type(vae).__name__, expected=expected)
        scale, shift = config.get("scaling_factor"), config.get("shift_factor")
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        paired = (mean is None) == (deviation is None)
        if not paired or (scale is None and deviation is None):
            hint = "Or give its numbers to LatentCodec(encode, decode, scale, shift)"
            expected = "'scaling_factor', or 'latents_mean' and 'latents_std'"
            raise ArgumentError("vae.config", got=sorted(config), expected=expected, hint=hint)
        functions = (VAEEncoder(vae), VAEDecoder(vae))
        factor = 1.0 if scale is None else float(scale)
        if deviation is None or mean is None:
            return cls(*functions, factor, 0.0 if shift is None else float(shift))
        return cls(*functions, tuple(factor / float(one) for one in deviation), tuple(map(float, mean)))

    def encode(self, x: Tensor) -> Tensor:
        """Latents of data."""
        z = self.encoder(x)
        return (z - self._numbers("shift", z)) * self._numbers("scale", z)

    def decode(self, z: Tensor) -> Tensor:
        """Data of latents."""
        return self.decoder(z / self._numbers("scale", z) + self._numbers("shift", z))

    def _numbers(self, name: str, z: Tensor) -> float | Tensor:
        """The number, or a tensor [1, C, 1, ...] of one a channel."""
        numbers = getattr(self, name)
        if isinstance(numbers, float):
            return numbers
        if z.ndim < 2 or z.shape[1] != len(numbers):
            expected = f"[B, {len(numbers)}, ...], since {name} has {len(numbers)} numbers"
            raise ShapeError("latents", got=list(z.shape), expected=expected)
        return torch.tensor(numbers, dtype=z.dtype, device=z.device).reshape(1, -1, *[1] * (z.ndim - 2))


@dataclass(frozen=True)
class VAEEncoder:
    """The mode of ``vae.encode(x)``: of its ``latent_dist``, or its ``latents`` or ``latent``."""

    vae: Any

    def __call__(self, x: Tensor) -> Tensor:
        """In the dtype and on the device of x."""
        found = self.vae.encode(as_weights(self.vae, x))
        for name in ("latent_dist", "latents", "latent"):
            if hasattr(found, name):
                latents = getattr(found, name)
                return (latents.mode() if name == "latent_dist" else latents).to(x)
        expected = "something with latent_dist, latents or latent"
        raise ArgumentError("vae.encode", got=type(found).__name__, expected=expected)


@dataclass(frozen=True)
class VAEDecoder:
    """``vae.decode(z)``."""

    vae: Any

    def __call__(self, z: Tensor) -> Tensor:
        """In the dtype and on the device of z."""
        return self.vae.decode(as_weights(self.vae, z), return_dict=False)[0].to(z)


def as_weights(vae: Any, x: Tensor) -> Tensor:
    """``x`` in the dtype and on the device of the autoencoder's parameters; itself if there are none."""
    return x.to(next(iter(vae.parameters()), x)) if hasattr(vae, "parameters") else x
