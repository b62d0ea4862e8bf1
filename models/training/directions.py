"""Contrastive learning of directions: edits of a conditional network, found without labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError


def direction_contrast(effects: Tensor, temperature: float = 0.5) -> Tensor:
    r"""How much a direction does the same to every image, and other directions something else.

    With the effects :math:`e_{ik} = n(x_i, d_k) - n(x_i, \varnothing)` of direction k on image i at one shared time,
    the first direction against the others:

    .. math:: -\log \frac{\mathrm{mean}_{i<j} \exp(\cos(e_{i1}, e_{j1}) / \tau)}
        {\mathrm{mean}_{i,\,k>1} \exp(\cos(e_{i1}, e_{ik}) / \tau)}

    It is :math:`-1/\tau` where effects of one direction are parallel and those of different ones orthogonal.

    Args:
        effects: [K, B, *D], the contrasted direction first; K >= 2 directions on B >= 2 images.
        temperature: :math:`\tau > 0`.

    Returns:
        A number, differentiable in the effects.

    Raises:
        ShapeError: Fewer than two directions, or a single image, which has no pair.
        ArgumentError: A temperature that is not positive.

    Source:
        Dalva & Yanardag 2023, NoiseCLR, eq. 5.

    Example:
        >>> same, orthogonal = torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 1.0]] * 3)
        >>> direction_contrast(torch.stack([same, orthogonal]))
        tensor(-2.)
    """
    if effects.ndim < 3 or effects.shape[0] < 2 or effects.shape[1] < 2:
        expected = "[K, B, *D] with at least two directions and two images"
        raise ShapeError("effects", got=list(effects.shape), expected=expected)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ArgumentError("temperature", got=temperature, expected="a positive number")
    units = torch.nn.functional.normalize(effects.flatten(2), dim=2)
    first, others = units[0], units[1:]
    pairs = torch.triu_indices(len(first), len(first), offset=1)
    same = (first @ first.T)[pairs[0], pairs[1]] / temperature
    across = (first * others).sum(2).flatten() / temperature
    return _log_mean_exp(across) - _log_mean_exp(same)


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, 0) - math.log(len(values))
