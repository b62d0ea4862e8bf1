"""Bounded batches: at most so many rows of a reward at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from .combined import Combined
from .context import take_rows
from .verifier import Verifier, check_reward, is_rowwise, name_of, scores


@dataclass(frozen=True, repr=False)
class Batched(Combined):
    """A reward called on at most ``rows`` rows at a time, in their order, each call with its rows of the context.

    Values are those of the reward, but for rounding where its arithmetic depends on the batch size. Differentiable if
    the reward is; the graph of all batches is kept.

    Args:
        reward: Scores rows one by one.
        rows: At least 1.

    Raises:
        ArgumentError: ``rows`` below 1; a reward whose rows depend on each other.

    Example:
        >>> Batched(lambda x, context: x[:, 0], 2)(torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([1., 2., 3.], dtype=torch.float64)
    """

    reward: Verifier
    rows: int

    def __post_init__(self) -> None:
        check_reward(self.reward)
        check_rowwise(self.reward)
        if not isinstance(self.rows, int) or self.rows < 1:
            raise ArgumentError("rows", got=repr(self.rows), expected="an integer >= 1")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        count = x.shape[0]
        if count <= self.rows:
            return scores(self.reward, x, context)
        spans = [slice(first, min(first + self.rows, count)) for first in range(0, count, self.rows)]
        return torch.cat([scores(self.reward, x[span], take_rows(context, span, count)) for span in spans])


def check_rowwise(reward: Verifier) -> None:
    """Refuse a reward of sets.

    Raises:
        ArgumentError: It says ``rowwise = False``.
    """
    if not is_rowwise(reward):
        hint = "Wrap the verifiers inside it instead"
        raise ArgumentError(
            f"reward {name_of(reward)}", got="rows that depend on each other", expected="rows", hint=hint
        )
