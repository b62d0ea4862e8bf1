"""Data with noise on it, where every number belongs to a sample and a draw: what denoising is judged by."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from ..errors import ArgumentError, DtypeError, ShapeError
from ..kernels import PURPOSE_NOISING, Draw, combine, normal
from .adapter import Model


def keyed_noise(x: Tensor, seed: int, draw: int, samples: Tensor) -> Tensor:
    """Standard normals like x for draw number ``draw`` of samples ``samples``, int64 [B] on the CPU."""
    key = Draw(PURPOSE_NOISING, draw)
    return normal(tuple(x.shape), seed=seed, draw=key, samples=samples.to(x.device), dtype=x.dtype, device=x.device)


def noised(x: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """``alpha x + sigma noise``, in one pass."""
    return cast(Tensor, combine([x, noise], (alpha, sigma)))


def check_data(name: str, x: Tensor, samples: Tensor | None) -> Tensor:
    """Ids of the samples of data [B, *D], on the CPU.

    Raises:
        ArgumentError: No tensor.
        DtypeError: No floating-point data; ids that are not int64.
        ShapeError: Not [B, *D] with elements; not one id a sample.
    """
    if not isinstance(x, Tensor):
        raise ArgumentError(name, got=type(x).__name__, expected="a tensor [B, *D]")
    if not x.is_floating_point():
        raise DtypeError(name, got=x.dtype, expected="a floating-point dtype")
    if x.ndim < 2 or x[:1].numel() == 0:
        raise ShapeError(name, got=list(x.shape), expected="[B, *D], with B >= 1 and elements in a sample")
    if samples is None:
        return torch.arange(x.shape[0])
    if samples.dtype != torch.int64:
        raise DtypeError("samples", got=samples.dtype, expected="torch.int64")
    if tuple(samples.shape) != (x.shape[0],):
        raise ShapeError("samples", got=list(samples.shape), expected=f"[{x.shape[0]}], one id for each row of {name}")
    return samples.cpu()


def check_gaussian(model: Model) -> None:
    """Refuse models whose noise is not Gaussian, or that have another kind of path.

    Raises:
        ArgumentError: No :class:`Model`; a two-sided path; the noise of PFGM++.
    """
    if not isinstance(model, Model):
        expected = "a Model of a path from noise (pushforward.models.adapt makes one)"
        raise ArgumentError("model", got=type(model).__name__, expected=expected)
    if not model.interpolant.one_sided or math.isfinite(model.prediction.dimensions):
        expected = "a path from Gaussian noise, with which data can be noised"
        raise ArgumentError("model", got=model.prediction, expected=expected)


def check_rows_a_call(max_rows: int) -> None:
    """Refuse anything but a positive integer.

    Raises:
        ArgumentError: Anything else.
    """
    if isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:
        raise ArgumentError("max_rows", got=repr(max_rows), expected="an integer of at least 1")
