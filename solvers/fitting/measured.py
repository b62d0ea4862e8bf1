"""The error of a solver on starts whose exact samples are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PushforwardError
from ..pilot import Times
from ..solver import FixedGridSolver
from .starts import Starts


@dataclass(frozen=True)
class Measured:
    """Errors of one solver.

    Attributes:
        name: Solver and grid.
        error: Root mean square over all samples and elements.
        median: The median sample's.
        worst: The worst sample's.
    """

    name: str
    error: float
    median: float
    worst: float

    @classmethod
    def of(cls, name: str, squares: Tensor) -> Measured:
        """From the mean square of each sample."""
        roots = squares.sqrt()
        return cls(name, squares.mean().sqrt().item(), roots.median().item(), roots.max().item())

    def __str__(self) -> str:
        return f"error {self.error:.4g}, median sample {self.median:.4g}, worst {self.worst:.4g}"


def measure(name: str, solver: FixedGridSolver, times: Times, groups: Sequence[Starts]) -> Measured | None:
    """The errors of a solver on a grid of the model's path; None where it cannot run there."""
    squares = squared_errors(solver, times, groups)
    return None if squares is None else Measured.of(name, squares)


def squared_errors(solver: FixedGridSolver, times: Times, groups: Sequence[Starts]) -> Tensor | None:
    """Mean squares of what samples lack, float64 [B], as a user's run draws them; None where it cannot run there."""
    found = list[Tensor]()
    for starts in groups:
        try:
            x = starts.samples(starts.program(solver, times))
        except PushforwardError:
            return None
        found.append((x.double() - starts.exact.double()).flatten(1).square().mean(1).cpu())
    return torch.cat(found)
