"""Guidance scales that a network takes as an input: one row does the work of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....errors import ArgumentError
from ...calls import Call, Network

Config = Mapping[str, Any]


@dataclass(frozen=True)
class EmbeddedGuidance:
    """How a family of networks takes its guidance scale.

    Args:
        key: The argument.
        switch: The key of the configuration that is set if the network has the embedding.
        encode: From scales [G] and the configuration to what the argument wants, [G] or [G, D].
        source: Where the encoding is from.
    """

    key: str
    switch: str
    encode: Callable[[Tensor, Config], Tensor]
    source: str

    def defaults(self, scale: float | Tensor | None, config: Config, name: str) -> dict[str, Tensor] | None:
        """The condition of a scale, a number or one for each sample [B]; None without one.

        Raises:
            ArgumentError: The network has no such embedding, or the scale is not a finite number.
        """
        if scale is None:
            return None
        if not config.get(self.switch):
            raise no_embedding(scale, f"{name} with {self.switch}={config.get(self.switch)}")
        scales = torch.as_tensor(scale, dtype=torch.float32).reshape(-1)
        if not scales.isfinite().all():
            raise ArgumentError("embedded_guidance", got=scale, expected="finite numbers")
        return {self.key: self.encode(scales, config)}

    def call(self, inner: Call, config: Config) -> Call:
        """``inner``, after a look at whether the argument is there if and only if the network takes it."""
        return EmbeddingCall(inner, self.key, bool(config.get(self.switch)))


@dataclass(frozen=True)
class EmbeddingCall:
    """A call that names the argument of the scale where the network would fail obscurely, or not at all."""

    inner: Call
    key: str
    needed: bool

    def __call__(self, network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        """As ``inner``.

        Raises:
            ArgumentError: The scale is missing, or the network has no embedding for it.
        """
        given = condition.get(self.key) is not None
        if given != self.needed:
            if given:
                raise no_embedding(f"condition[{self.key!r}]", type(network).__name__)
            hint = f"Pass embedded_guidance=3.5, for instance, or condition[{self.key!r}]"
            raise ArgumentError("embedded_guidance", got="nothing", expected="the scale that it embeds", hint=hint)
        return self.inner(network, x, time, condition)


def no_embedding(got: object, name: str) -> ArgumentError:
    """The error of a scale for a network that takes none."""
    hint = "guidance= of a run is classifier-free guidance, which needs null="
    return ArgumentError("embedded_guidance", got=got, expected=f"None: {name} embeds no guidance scale", hint=hint)


def plain(scales: Tensor, config: Config) -> Tensor:
    """The scale itself; the network multiplies it by 1000."""
    del config
    return scales


def thousands(scales: Tensor, config: Config) -> Tensor:
    """1000 times the scale."""
    del config
    return 1000.0 * scales


def scaled(scales: Tensor, config: Config) -> Tensor:
    """The scale times the configuration's ``guidance_embeds_scale``."""
    return scales * config["guidance_embeds_scale"]


def sinusoids(scales: Tensor, config: Config) -> Tensor:
    r"""Sines, then cosines, of :math:`1000 (w - 1) 10^{-4 k / (K - 1)}`, k = 0 .. K - 1; [G, 2 K]."""
    half = config["time_cond_proj_dim"] // 2
    frequencies = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half, dtype=torch.float64))
    angles = 1000.0 * (scales.double()[:, None] - 1.0) * frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    return torch.nn.functional.pad(features, (0, config["time_cond_proj_dim"] - 2 * half))


FLUX = EmbeddedGuidance("guidance", "guidance_embeds", plain, "FLUX.1-dev, 2024")
HUNYUAN = EmbeddedGuidance("guidance", "guidance_embeds", thousands, "Kong et al. 2024, HunyuanVideo")
SANA = EmbeddedGuidance("guidance", "guidance_embeds", scaled, "Chen et al. 2025, SANA-Sprint")
LCM = EmbeddedGuidance("timestep_cond", "time_cond_proj_dim", sinusoids, "Luo et al. 2023, latent consistency models")
