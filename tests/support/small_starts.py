"""A few starts with exact trajectories, to fit to and to judge by."""

from __future__ import annotations

import torch

from pushforward import models
from pushforward.solvers.fitting.starts import Groups, Starts

MIXTURE = models.reference_mixture().model()


def small_groups(model: models.Model, size: int, first: float = 0.0) -> Groups:
    """Thirty-two starts to fit to and as many to judge by."""
    parts = []
    for seed in (1, 2):
        noise = torch.randn(32, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        parts.append(Starts(model, noise, 1.0, None, None))
        parts[-1].find_trajectory(first, 24)
    return Groups((parts[0],), (parts[1],))
