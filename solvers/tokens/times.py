"""When each token is where, and which part of a state it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, GridError, ShapeError


class TokenGrid:
    """Times of N tokens at the boundaries of K steps; a token whose time stays is not advanced in that step.

    Args:
        times: [K + 1, N] in [0, 1]. All tokens go the same way, from noise to data or back.

    Attributes:
        times: As a float64 array.

    Raises:
        ShapeError: Not [K + 1, N] with a step and a token at least.
        GridError: A time outside [0, 1] or not finite, a token that turns back, tokens that go different ways.

    Example:
        >>> grid = TokenGrid([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]])
        >>> grid.steps, grid.tokens, grid.moving(0).tolist()
        (2, 2, [True, False])
    """

    def __init__(self, times: Sequence[Sequence[float]] | NDArray[np.floating]) -> None:
        self.times = np.array(times, dtype=np.float64)
        self.times.setflags(write=False)
        if self.times.ndim != 2 or self.times.shape[0] < 2 or not self.times.shape[1]:
            raise ShapeError("times", got=list(self.times.shape), expected="[K + 1, N]: K steps, N tokens")
        inside = np.isfinite(self.times) & (self.times >= 0) & (self.times <= 1)
        if not inside.all():
            step, token = np.argwhere(~inside)[0].tolist()
            got = float(self.times[step, token])
            raise GridError(f"times[{step}, {token}]", got=got, expected="a time in [0, 1], 0 = noise, 1 = data")
        steps = np.diff(self.times, axis=0)
        if (steps < 0).any() and (steps > 0).any():
            step, token = np.argwhere(steps * np.sign(steps.sum()) <= 0)[0].tolist()
            expected = "tokens that all go from noise to data, or all back"
            raise GridError(f"times[{step + 1}, {token}]", got=float(self.times[step + 1, token]), expected=expected)

    @classmethod
    def uniform(cls, times: Sequence[float], tokens: int) -> TokenGrid:
        """All tokens on one grid."""
        return cls(np.repeat(np.asarray(times, dtype=np.float64)[:, None], tokens, axis=1))

    @classmethod
    def wave(cls, steps: int, delays: Sequence[int]) -> TokenGrid:
        """Tokens that start one after another, and take ``steps`` equal steps each from noise to data.

        Args:
            steps: Of a token.
            delays: Steps that each token waits; pyramids and autoregressive orders are such.

        Example:
            >>> TokenGrid.wave(2, [0, 1]).times.tolist()
            [[0.0, 0.0], [0.5, 0.0], [1.0, 0.5], [1.0, 1.0]]
        """
        if steps < 1 or min(delays) < 0:
            raise ArgumentError(
                "steps, delays", got=(steps, list(delays)), expected="a step at least, no negative delay"
            )
        own = np.arange(steps + max(delays) + 1)[:, None] - np.asarray(delays)
        return cls(np.clip(own, 0, steps) / steps)

    @property
    def steps(self) -> int:
        """Number K of steps."""
        return self.times.shape[0] - 1

    @property
    def tokens(self) -> int:
        """Number N of tokens."""
        return self.times.shape[1]

    def moving(self, step: int) -> NDArray[np.bool_]:
        """Which tokens are advanced in a step, [N]."""
        return self.times[step + 1] != self.times[step]

    @cached_property
    def groups(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The grids that differ, [K + 1, G], and which of them each token has, [N]."""
        columns, which = np.unique(self.times, axis=1, return_inverse=True)
        return columns, which.reshape(-1)


def patch_tokens(shape: Sequence[int], patch: int) -> Tensor:
    """Which token each element of a state [B, C, H, W] belongs to, where tokens are square patches, row by row.

    Args:
        shape: Of the state, or its last two extents.
        patch: Pixels of a token in each direction; divides both.

    Returns:
        int64 [1, 1, H, W].

    Example:
        >>> patch_tokens((4, 4), 2)[0, 0]
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1],
                [2, 2, 3, 3],
                [2, 2, 3, 3]])
    """
    height, width = shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise ArgumentError("patch", got=patch, expected=f"a divisor of {height} and {width}")
    rows, columns = torch.arange(height) // patch, torch.arange(width) // patch
    return (rows[:, None] * (width // patch) + columns)[None, None]


def check_tokens(tokens: Tensor, grid: TokenGrid, state: Tensor) -> Tensor:
    """``tokens`` if each element of the state is of a token of the grid; on the state's device.

    Raises:
        ShapeError: Dimensions that do not broadcast to the state's.
        ArgumentError: Another dtype than int64; a token that the grid does not have.
    """
    shape: Any = tuple(tokens.shape)
    fits = len(shape) == state.ndim and all(a in (1, b) for a, b in zip(shape, state.shape, strict=True))
    if not fits:
        expected = f"{state.ndim} dimensions that are those of the state {list(state.shape)}, or 1"
        raise ShapeError("tokens", got=list(shape), expected=expected)
    if tokens.dtype != torch.int64:
        raise ArgumentError("tokens", got=tokens.dtype, expected="torch.int64")
    if tokens.is_cpu and math.prod(shape):
        low, high = (int(v) for v in tokens.aminmax())
        if low < 0 or high >= grid.tokens:
            raise ArgumentError("tokens", got=low if low < 0 else high, expected=f"numbers in [0, {grid.tokens})")
    return tokens.to(state.device)
