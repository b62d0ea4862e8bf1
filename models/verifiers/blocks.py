"""Rewards of pictures that are flat with jumps: a coarse drawing to match, a number of holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ArgumentError, ShapeError
from .context import tensor_entry
from .describe import Described
from .images import ink_of

MARKS = {"#": 1, ".": -1, "?": 0}


@dataclass(frozen=True, repr=False)
class InkBlocks(Described):
    r"""Minus the number of cells of a coarse grid that are inked where they must not be, or empty where they must not.

    .. math:: r(x) = -\#\{c : (\bar a_c > \vartheta) \ne (w_c = 1), w_c \ne 0\}

    with :math:`\bar a_c` the mean ink of cell c and w its wish: 1 inked, -1 empty, 0 either. Range: integers in
    [-number of wishes, 0]. Flat between jumps, not differentiable. A picture with NaN has the reward NaN.

    Args:
        pattern: One string a row of cells: "#" inked, "." empty, "?" either; None reads ``context["blocks"]``,
            integers [B or 1, rows, columns] in {1, -1, 0}. Where they do not
            divide the picture evenly, neighbouring cells share a line of pixels.
        threshold: The mean ink above which a cell counts as inked, in (0, 1).

    Raises:
        ArgumentError: Another mark, rows of different length, a threshold outside (0, 1), a pattern without a wish.
        ShapeError: When called, x is not [B, C, H, W], or has fewer pixels than cells.

    Example:
        >>> x = -torch.ones(1, 1, 28, 28)
        >>> x[..., :14] = 1.0
        >>> InkBlocks(("#.", "#.")) (x), InkBlocks(("##", "?."))(x)
        (tensor([0.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """

    pattern: tuple[str, ...] | None = None
    threshold: float = 0.25
    wishes: Tensor | None = field(init=False, repr=False, compare=False)

    differentiable = False

    def __init__(self, pattern: Sequence[str] | None = None, threshold: float = 0.25) -> None:
        """Reads the pattern."""
        if not 0 < threshold < 1:
            raise ArgumentError("threshold", got=threshold, expected="a mean ink in (0, 1)")
        object.__setattr__(self, "pattern", None if pattern is None else tuple(pattern))
        object.__setattr__(self, "threshold", threshold)
        object.__setattr__(self, "wishes", None if pattern is None else _read(tuple(pattern)))

    @classmethod
    def like(cls, picture: Tensor, cells: int = 7, threshold: float = 0.25) -> InkBlocks:
        """The pattern of a picture [C, H, W]: every cell of ``cells`` by ``cells`` wants what the picture has."""
        if picture.ndim != 3:
            raise ShapeError("picture", got=list(picture.shape), expected="[C, H, W]")
        inked = _cells(picture[None], cells, cells)[0] > threshold
        return cls(["".join("#" if cell else "." for cell in row) for row in inked.tolist()], threshold)

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        wishes = self.wishes
        if wishes is None:
            wishes = tensor_entry(context, "blocks", self, x.shape[0], (None, None))
        else:
            wishes = wishes[None]
        wishes = wishes.to(x.device)
        amount = _cells(x.detach(), *wishes.shape[1:])
        violated = ((amount > self.threshold) != (wishes > 0)) & (wishes != 0)
        counts = violated.flatten(1).sum(1).double()
        return (0 - counts).masked_fill(amount.isnan().flatten(1).any(1), torch.nan)


@dataclass(frozen=True, repr=False)
class Holes(Described):
    r"""Minus the distance of the number of holes from a wanted one: 0 has one hole, 8 has two, 1 has none.

    .. math:: r(x) = -|h(x) - n|

    h counts the connected regions of paper, pixels with ink at most the threshold and joined by edges, that do not
    reach the border of the picture and have at least ``least`` pixels. Range: integers <= 0. Flat between jumps, not
    differentiable; computed on the CPU. A picture with NaN has the reward NaN.

    Args:
        count: n >= 0.
        threshold: The ink above which a pixel is drawn, in (0, 1).
        least: Pixels of the smallest hole that counts.

    Raises:
        ArgumentError: A negative count, a threshold outside (0, 1), ``least`` below 1.
        ShapeError: When called, x is not [B, C, H, W].

    Example:
        >>> ring = -torch.ones(1, 1, 8, 8)
        >>> ring[..., 1:6, 1:6] = 1.0
        >>> ring[..., 2:5, 2:5] = -1.0
        >>> Holes(1)(ring), Holes(0)(ring)
        (tensor([0.], dtype=torch.float64), tensor([-1.], dtype=torch.float64))
    """

    count: int
    threshold: float = 0.5
    least: int = 2

    differentiable = False

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ArgumentError("count", got=self.count, expected="a number of holes >= 0")
        if not 0 < self.threshold < 1:
            raise ArgumentError("threshold", got=self.threshold, expected="an ink in (0, 1)")
        if self.least < 1:
            raise ArgumentError("least", got=self.least, expected="a number of pixels >= 1")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B], float64."""
        ink = ink_of(x.detach()).amax(1).cpu().numpy()
        found = [np.nan if np.isnan(picture).any() else -abs(self._holes(picture) - self.count) for picture in ink]
        return torch.tensor(found, dtype=torch.float64, device=x.device)

    def _holes(self, picture: np.ndarray[Any, Any]) -> int:
        from scipy import ndimage  # a quarter of a second, which the import of the library need not cost

        # One pixel of paper around: all regions that reach the border are then one, which is no hole.
        paper = np.pad(picture <= self.threshold, 1, constant_values=True)
        regions = np.zeros(paper.shape, dtype=np.int32)
        ndimage.label(paper, output=regions)
        sizes = np.bincount(regions.ravel())
        sizes[[0, regions[0, 0]]] = 0  # what is drawn, and the paper outside
        return int((sizes >= self.least).sum())


def _cells(x: Tensor, rows: int, columns: int) -> Tensor:
    """Mean ink of each cell, [B, rows, columns]."""
    ink = ink_of(x).mean(1, keepdim=True)
    if rows > ink.shape[2] or columns > ink.shape[3]:
        raise ShapeError("x", got=list(x.shape), expected=f"at least {rows} x {columns} pixels, one a cell")
    return functional.adaptive_avg_pool2d(ink, (rows, columns))[:, 0]


def _read(pattern: tuple[str, ...]) -> Tensor:
    if len({len(row) for row in pattern}) != 1 or set("".join(pattern)) - set(MARKS):
        raise ArgumentError("pattern", got=list(pattern), expected="strings of equal length of '#', '.' and '?'")
    wishes = torch.tensor([[MARKS[mark] for mark in row] for row in pattern])
    if not bool(wishes.any()):
        raise ArgumentError("pattern", got=list(pattern), expected="at least one '#' or '.'")
    return wishes
