"""Quantities of a network's input and raw output: two numbers each, for one time or for a time of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from .. import kernels
from .bound import Times
from .predictions import Prediction

Scalar: TypeAlias = float | Tensor
"""One number for all rows, or float64 [B]."""


def in_space(prediction: Prediction, space: str, t: Times, device: torch.device) -> tuple[Scalar, Scalar]:
    """``(a, b)`` such that the quantity is ``a * input + b * output`` of the network, in float64.

    Args:
        prediction: What the network returns.
        space: "output", "velocity", "denoised", "noise" or "score".
        t: One time, or [B] of them; then both numbers are [B] on ``device``.
        device: Of the state.

    Raises:
        UnknownNameError: No such quantity.
        SingularTimeError: Not determined at some time.
    """
    if not isinstance(t, np.ndarray):
        affine = prediction.quantity(space, t)
        return affine.x / prediction.input_scale(t), affine.output
    state, output = prediction.columns(space, t)
    return on_device(state / prediction.input_scales(t), device), on_device(output, device)


def read_as(prediction: Prediction, space: str, t: Times, x: Tensor, output: Tensor) -> Tensor:
    """The quantity at the network's input and raw output, in the shape and dtype of ``x``; errors of :func:`in_space`.

    Example:
        >>> from pushforward.models import GaussianOracle
        >>> oracle = GaussianOracle([0.7], [[0.09]])
        >>> model, x = oracle.model("noise"), torch.tensor([[0.5]], dtype=torch.float64)
        >>> torch.equal(read_as(model.prediction, "noise", 0.5, x, *model.evaluate(x, 0.5)), oracle.noise(x, 0.5))
        True
    """
    return combined([x, output], [[*in_space(prediction, space, t, x.device)]])[0]


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Host numbers as a float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(device)


def vanishes(value: Scalar) -> bool:
    """Whether it is the number 0 on the host; of a tensor nobody asks, as the answer would be read from a device."""
    return isinstance(value, float) and value == 0.0


def column(value: Scalar, like: Tensor) -> Scalar:
    """The same, ready to multiply a state [B, *D]."""
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) else value


def coefficient_rows(rows: Sequence[Sequence[Scalar]], count: int, device: torch.device) -> Tensor:
    """Rows of K coefficients in float64: [O, K] on the host's numbers, or [count, O, K] where samples differ."""
    if all(isinstance(value, float) for row in rows for value in row):
        return torch.tensor(rows, dtype=torch.float64, device=device)

    def spread(value: Scalar) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(device).expand(count)
        return torch.full((count,), value, dtype=torch.float64, device=device)

    return torch.stack([torch.stack([spread(value) for value in row], -1) for row in rows], 1)


def combined(inputs: list[Tensor], rows: list[list[Scalar]]) -> tuple[Tensor, ...]:
    """``sum_k rows[o][k] * inputs[k]`` for each o, with coefficients of each sample's own where some are.

    One pass, unless the coefficients are functions of something that is differentiated.
    """
    if all(isinstance(value, float) for row in rows for value in row):
        return cast(tuple[Tensor, ...], kernels.combine(inputs, cast(list[list[float]], rows)))
    coefficients = coefficient_rows(rows, inputs[0].shape[0], inputs[0].device)
    if coefficients.requires_grad:  # a kernel takes them for constants
        like = inputs[0]
        each = [[column(row[:, k], like) * x for k, x in enumerate(inputs)] for row in coefficients.unbind(1)]
        return tuple(torch.stack(terms).sum(0) for terms in each)
    return cast(tuple[Tensor, ...], kernels.combine(inputs, coefficients))
