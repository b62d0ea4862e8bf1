"""Rewards of pictures for searches that move latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..latents import LatentCodec
from .describe import Described
from .verifier import Verifier, as_rows, check_reward, is_differentiable, is_rowwise


@dataclass(frozen=True, repr=False, eq=False)
class Decoded(Described):
    r"""A reward of decoded samples.

    .. math:: r'(z) = r(\mathrm{decode}(z))

    Range and differentiability are those of the reward, if ``decode`` keeps the graph. Any map of rows will do as
    ``decode``: an autoencoder's, a clamp, a change of units. Decoding dominates the memory of a search on latents:
    ``Batched(Decoded(...), rows)`` bounds it.

    Args:
        reward: Of what ``decode`` returns.
        decode: Maps z [B, *D] to [B, *D'].

    Raises:
        ArgumentError: One of them is not callable.
        ShapeError: When called, ``decode`` returned another number of rows.

    Example:
        >>> Decoded(lambda x, context: x.sum(1), torch.exp)(torch.zeros(1, 3))
        tensor([3.])
    """

    reward: Verifier
    decode: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_reward(self.reward)
        if not callable(self.decode):
            raise ArgumentError("decode", got=type(self.decode).__name__, expected="a function of latents")

    @classmethod
    def from_vae(cls, reward: Verifier, vae: Any) -> Decoded:
        """For the latents of a diffusers pipeline, as its network sees them: see :meth:`LatentCodec.from_vae`."""
        return cls(reward, LatentCodec.from_vae(vae).decode)

    @property
    def differentiable(self) -> bool | None:
        """As the reward."""
        return is_differentiable(self.reward)

    @property
    def rowwise(self) -> bool:
        """As the reward."""
        return is_rowwise(self.reward)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], as the reward returns them."""
        decoded = self.decode(x)
        if not isinstance(decoded, Tensor) or decoded.ndim == 0 or decoded.shape[0] != x.shape[0]:
            got = list(decoded.shape) if isinstance(decoded, Tensor) else type(decoded).__name__
            raise ShapeError("decoded samples", got=got, expected=f"a tensor of {x.shape[0]} rows")
        return as_rows(self.reward, self.reward(decoded, context), x.shape[0], "")
