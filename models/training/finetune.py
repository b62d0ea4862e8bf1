"""A short training of a network that is already there, for experiments that take a minute."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import ArgumentError
from .digits import Digits
from .train_digits import batch_rows

Net = TypeVar("Net", bound=nn.Module)
Loss = Callable[..., Tensor]


def finetune(
    net: Net,
    data: Digits,
    loss: Loss,
    *,
    steps: int,
    batch: int = 64,
    rate: float = 3e-4,
    average: float = 0.97,
    seed: int = 0,
) -> Net:
    """A copy of the network after some steps of Adam, its weights averaged over the last of them.

    Batches and draws hang on the seed alone, so that runs that differ in one thing see the same of everything else.

    Args:
        net: Starting point; not changed.
        data: Images and labels, at least a batch of them.
        loss: ``loss(net, images, labels, generator) -> scalar``.
        steps: How many.
        batch: Samples a step.
        rate: Of Adam, falling to 0 in a straight line.
        average: Decay of the moving average of the weights.
        seed: Of batches and draws.

    Returns:
        The trained copy, frozen and in evaluation mode.

    Raises:
        ArgumentError: Fewer samples than a batch.

    Example:
        >>> data = Digits(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))
        >>> loss = lambda net, x, y, generator: (net(x) - 1).square().mean()
        >>> bool(finetune(nn.Linear(1, 1), data, loss, steps=300, batch=4, rate=0.1)(torch.zeros(1, 1)) > 0.9)
        True
    """
    if len(data) < batch:
        raise ArgumentError("data", got=f"{len(data)} samples", expected=f"a batch of {batch} at least")
    moving = copy.deepcopy(net).train().requires_grad_(True)
    mean = copy.deepcopy(net).eval().requires_grad_(False)
    optimiser = torch.optim.Adam(moving.parameters(), lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = batch_rows(len(data), batch, seed, step)
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad(set_to_none=True)
        loss(moving, data.images[rows], data.labels[rows], generator).backward()
        nn.utils.clip_grad_norm_(moving.parameters(), 1.0)
        optimiser.step()
        decay = min(average, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, value in zip(mean.parameters(), moving.parameters(), strict=True):
                kept.lerp_(value, 1 - decay)
    return mean
