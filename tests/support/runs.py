"""Runs to look at: plans over a fixed grid, a network that treats rows alone, and seeded starts."""

from __future__ import annotations

import torch

from pushforward import solvers
from pushforward.models import Linear, prediction
from pushforward.solvers import Plan

GRID = [0.1 + 0.1 * i for i in range(9)]
ALL = dict(solvers.solvers())


def make(name: str = "heun", kind: str = "velocity", grid: list[float] = GRID, **options: bool) -> Plan:
    read = prediction(kind, Linear())
    return solvers.plan(ALL[name], grid, prediction=read).lower(read).optimise(**options)


def field(x: torch.Tensor, t: float, branches: tuple[str, ...] = ("cond",)) -> list[torch.Tensor]:
    """A nonlinear elementwise network, so that rows do not depend on their batch."""
    return [torch.sin(3 * x) * (1 + t) - x / (1 + t) for _ in branches]


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
