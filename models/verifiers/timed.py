"""What a reward costs: calls, rows, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .combined import Combined
from .verifier import Verifier, as_rows, check_reward


@dataclass(repr=False, eq=False)
class Timed(Combined):
    """A reward that counts. Its values are the reward's; whatever wraps or is wrapped can be counted by itself.

    ``Timed(Cached(Timed(reward)))`` tells what a search asked for from what was computed. Work that a GPU has queued is
    waited for, before and after, so that the seconds are the reward's own.

    Args:
        reward: What is counted.

    Attributes:
        calls, rows, seconds: So far, calls that raised included; :meth:`reset` sets them to 0.

    Raises:
        ArgumentError: The reward is not callable.

    Example:
        >>> reward = Timed(lambda x, context: x[:, 0])
        >>> reward(torch.ones(3, 1)), reward.calls, reward.rows, reward.seconds > 0
        (tensor([1., 1., 1.]), 1, 3, True)
    """

    reward: Verifier
    calls: int = field(default=0, init=False, repr=False)
    rows: int = field(default=0, init=False, repr=False)
    seconds: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_reward(self.reward)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], as the reward returns them."""
        _wait(x)
        begin = time.perf_counter()
        try:
            returned = self.reward(x, context)
            _wait(x)
        finally:
            self.seconds += time.perf_counter() - begin
            self.calls += 1
            self.rows += x.shape[0]
        return as_rows(self.reward, returned, x.shape[0], "")

    def reset(self) -> None:
        """Counts from 0 again."""
        self.calls = self.rows = 0
        self.seconds = 0.0


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
