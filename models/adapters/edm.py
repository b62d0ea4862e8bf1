"""Preconditioned networks of EDM and EDM2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..adapter import Model, adapt
from ..calls import Network
from ..schedules import EDM


def from_edm(
    network: Callable[..., Any],
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    *,
    null: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = torch.float32,
    **options: Any,
) -> Model:
    r"""A model from a network of EDM or EDM2 with its preconditioning: ``network(x / alpha, sigma, class_labels) = D``.

    .. math:: D = c_{skip} \hat x + c_{out} F(c_{in} \hat x; c_{noise}), \quad
        \hat x = x / \alpha = x_1 + \nu x_0, \quad \sigma = \nu

    The bare network F is ``adapt(F, "edm", "edm")``, which multiplies the same numbers into the plan.

    Args:
        network: Takes states [B, C, H, W] and noise levels [B], and returns clean estimates. Its ``sigma_min``,
            ``sigma_max``, ``img_channels`` and ``label_dim`` are read where it has them.
        sigma_min, sigma_max: Noise levels of the run, 0 < min < max; narrowed to those of the network.
        null: The unconditional condition; for a network with classes the zero vector, as in training.
        dtype: What the network computes in. These convert inputs to float32 and return float32 whatever their
            parameters are.
        **options: Of :func:`adapt`.

    Returns:
        A model on the path :class:`EDM`. Its condition is ``class_labels``, one-hot, float [B, label_dim].

    Raises:
        ArgumentError: Levels that leave nothing; when called, labels that are numbers of classes.

    Source:
        Karras et al. 2022, 2024.
    """
    low = max(float(sigma_min), float(getattr(network, "sigma_min", 0.0)))
    high = min(float(sigma_max), float(getattr(network, "sigma_max", math.inf)))
    classes = int(getattr(network, "label_dim", 0))
    if null is None and classes:
        null = {"class_labels": torch.zeros(1, classes)}
    options = {"channels": getattr(network, "img_channels", None), "call": EDMCall(classes)} | options
    return adapt(network, "denoised", EDM(low, high), input="ratio", null=null, dtype=dtype, **options)


class EDMCall:
    """``network(x, sigma, class_labels=None, **others)``, after a look at the labels.

    Args:
        classes: Size of the one-hot vectors; 0 if not known.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, network: Network, x: Tensor, time: Tensor, condition: dict[str, Any]) -> Tensor:
        """The clean estimate.

        Raises:
            ArgumentError: Labels that are integers.
            ShapeError: Vectors of another size.
        """
        labels = condition.get("class_labels")
        if isinstance(labels, Tensor):
            size = self.classes or "label_dim"
            if not labels.is_floating_point():
                hint = f"Try torch.nn.functional.one_hot(labels, {size}).float()"
                expected = f"one-hot vectors, float [B, {size}]"
                raise ArgumentError("class_labels", got=f"{labels.dtype}", expected=expected, hint=hint)
            if self.classes and labels.shape[-1] != self.classes:
                raise ShapeError("class_labels", got=list(labels.shape), expected=f"[B, {self.classes}]")
        return network(x, time, **condition)
