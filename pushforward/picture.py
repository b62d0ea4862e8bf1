"""Samples as a labelled picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import ArgumentError, ShapeError

GAP, MARGIN, BACKGROUND, INK = 2, 24, 255, 0


def save_grid(images: Tensor, path: str | Path, *, rows: Sequence[str], title: str = "", scale: int = 2) -> None:
    """Write images as a PNG grid, one labelled row after another.

    Args:
        images: Shape [R * C, 1 or 3, H, W], float, -1 black to 1 white; values outside are clamped, as a picture must.
        path: Where to write; the folder must exist.
        rows: One label for each of the R rows.
        title: A line above the grid; the picture is at least as wide.
        scale: Each pixel becomes ``scale`` x ``scale``.

    Raises:
        ShapeError: The images do not fill the rows, or are not images.
        ArgumentError: The folder does not exist.

    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not rows or images.shape[0] % len(rows):
        raise ShapeError("images", got=list(images.shape), expected=f"[{len(rows)} * C, 1 or 3, H, W]")
    if not Path(path).parent.is_dir():
        raise ArgumentError("path", got=str(path), expected="a file in an existing folder")
    bytes_ = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    tiles = np.repeat(np.repeat(np.moveaxis(bytes_, 1, -1), scale, 1), scale, 2)
    height, width, columns = tiles.shape[1] + GAP, tiles.shape[2] + GAP, tiles.shape[0] // len(rows)
    top = MARGIN if title else GAP
    font = ImageFont.load_default()
    across = max(MARGIN + columns * width, math.ceil(font.getlength(title)) + 2 * GAP)
    canvas = Image.new("RGB", (across, top + len(rows) * height), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, fill=(INK,) * 3, font=font)
    for row, label in enumerate(rows):
        y = top + row * height
        draw.text((GAP + 4, y + height // 2 - 6), label, fill=(INK,) * 3, font=font)
        for column in range(columns):
            tile = np.broadcast_to(tiles[row * columns + column], (*tiles.shape[1:3], 3))
            canvas.paste(Image.fromarray(np.ascontiguousarray(tile)), (MARGIN + column * width, y))
    canvas.save(path, format="PNG")
