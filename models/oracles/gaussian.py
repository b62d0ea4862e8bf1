"""The Gaussian oracle: the one distribution whose flow map is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import SingularTimeError
from ..interpolants import Interpolant
from .oracle import Oracle


class GaussianOracle(Oracle):
    r"""Data N(m, C); its quantities are those of :class:`Oracle` with one component.

    The probability-flow ODE scales every eigendirection by the ratio of standard deviations:

    .. math:: x_t = \alpha_t m + U \, \mathrm{diag} \sqrt{V_t / V_s} \, U^T (x_s - \alpha_s m), \quad
        V = \alpha^2 l + \sigma^2

    Args:
        mean: A number (then samples may have any shape), or anything of one sample's shape.
        covariance: A variance, variances of one sample's shape, or a matrix over the flattened sample. May be
            singular, or 0 for a point mass.
        interpolant: The path, by name or as an object.

    Raises:
        ArgumentError: A covariance that is not symmetric or has a negative eigenvalue, or anything not finite.
        ShapeError: Shapes that do not fit.

    Source:
        Wang & Vastola 2023.

    Example:
        >>> oracle = GaussianOracle([0.7, -0.4], [[0.09, 0.03], [0.03, 0.2]])
        >>> oracle.flow_map(torch.zeros(1, 2), 0.0, 1.0)
        tensor([[ 0.7000, -0.4000]])
    """

    def __init__(self, mean: Any = 0.7, covariance: Any = 0.09, interpolant: str | Interpolant = "linear") -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        self.covariance = torch.as_tensor(covariance, dtype=torch.float64)
        super().__init__(torch.ones(1, dtype=torch.float64), [self.mean], [self.covariance], interpolant)

    def flow_map(self, x: Tensor, start: float | Tensor, stop: float | Tensor) -> Tensor:
        """Where the flow carries x from time ``start`` to time ``stop``, in either direction; shape and dtype of x.

        Raises:
            SingularTimeError: At ``start``, sigma = 0 and there is no spread in some direction.
        """
        before = self._at(x, start)
        if bool((before.variance == 0).any()):
            raise SingularTimeError("start", got=start, because="a flow cannot be followed out of a point mass")
        after = self._at(x, stop)
        return self._mean(x, before, after.alpha, (after.variance / before.variance).sqrt())

    def __repr__(self) -> str:
        return f"GaussianOracle(mean={self.mean.tolist()}, covariance={self.covariance.tolist()}, {self.interpolant})"
