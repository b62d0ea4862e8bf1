"""Conditions as channels: what is appended to the network's input at every evaluation, and never to the state."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from .adapter import Model
from .calls import Call, Network, call_x_t


@dataclass(frozen=True)
class ConcatCondition:
    """A way to call a network: with a part of the condition appended to x along dimension 1.

    Solvers neither add noise to these channels nor advance them, and gradients of the output by the state have the
    state's shape.

    Args:
        argument: The key of the condition, a tensor [B or 1, C, *] that is like the state behind dimension 1.
        state: Channels of the state; None if nobody says.
        condition: C.
        call: How the network is called with the longer input.

    Raises:
        ArgumentError: Numbers of channels that are not positive.

    Source:
        Dao et al. 2023, Flow Matching in Latent Space, section 3.3.

    Example:
        >>> from pushforward.models import adapt
        >>> model = adapt(lambda x, t: x[:, :1] - x[:, 1:], call=ConcatCondition("known", 1, 1))
        >>> model.evaluate(torch.ones(2, 1, 3), 0.5, {"known": torch.zeros(1, 1, 3)})[0].shape
        torch.Size([2, 1, 3])
    """

    argument: str
    state: int | None
    condition: int
    call: Call = call_x_t

    def __post_init__(self) -> None:
        for name, channels in (("state", 1 if self.state is None else self.state), ("condition", self.condition)):
            if channels < 1:
                raise ArgumentError(name, got=channels, expected="at least one channel")

    def on(self, model: Model) -> Model:
        """The model with its network called so."""
        channels = model.channels if self.state is None else self.state
        return dataclasses.replace(model, call=dataclasses.replace(self, call=model.call), channels=channels)

    def __call__(self, network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        """The network's output for the longer input.

        Raises:
            ArgumentError: The condition lacks the key.
            ShapeError: Channels that do not add up to the network's, or another size behind them.
        """
        rest = dict(condition)
        extra = rest.pop(self.argument, None)
        if not isinstance(extra, Tensor):
            raise ArgumentError("condition", got=sorted(condition), expected=f"a tensor {self.argument!r} to append")
        given = (x.shape[1] if x.ndim > 1 else 0, extra.shape[1] if extra.ndim > 1 else 0)
        state = given[0] if self.state is None else self.state
        if given != (state, self.condition):
            total = state + self.condition
            expected = f"{total} channels, as the network takes = {state} state + {self.condition} condition"
            raise ShapeError(f"x and condition {self.argument!r}", got=f"{given[0]} + {given[1]}", expected=expected)
        if extra.shape[2:] != x.shape[2:] or extra.shape[0] != x.shape[0]:
            expected = f"{[x.shape[0], self.condition, *x.shape[2:]]}, like the state"
            raise ShapeError(f"condition {self.argument!r}", got=list(extra.shape), expected=expected)
        return self.call(network, torch.cat([x, extra.to(x.dtype)], dim=1), time, rest)


def painting_condition(latents: Tensor, mask: Tensor) -> Tensor:
    """What an inpainting network is told: the known latents and the mask, [B, C + 1, h, w].

    Args:
        latents: Scaled latents of the image, [B, C, h, w].
        mask: [B or 1, 1, h, w], any real dtype or bool; 1 where the image is to be painted, 0 where it is known.

    Raises:
        ShapeError: A mask that does not fit the latents.
        ArgumentError: Values outside [0, 1]; costs one host read.

    Example:
        >>> painting_condition(torch.ones(2, 4, 7, 7), torch.ones(1, 1, 7, 7)).shape
        torch.Size([2, 5, 7, 7])
    """
    expected = f"[{latents.shape[0]} or 1, 1, {', '.join(map(str, latents.shape[2:]))}]"
    if mask.ndim != latents.ndim or mask.shape[1:] != (1, *latents.shape[2:]) or len(mask) not in (1, len(latents)):
        raise ShapeError("mask", got=list(mask.shape), expected=expected)
    mask = mask.to(latents.dtype)
    if mask.numel() and not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = (float(v) for v in mask.aminmax())
        raise ArgumentError("mask", got=f"values from {low:.4g} to {high:.4g}", expected="values in [0, 1], 1 = paint")
    mask = mask.expand(latents.shape[0], *mask.shape[1:])
    return torch.cat([latents * (1 - mask), mask], dim=1)
