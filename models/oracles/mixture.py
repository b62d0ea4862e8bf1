"""The Gaussian mixture oracle: multimodal, with curved trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import ArgumentError
from ..interpolants import Interpolant
from .oracle import Oracle


class MixtureOracle(Oracle):
    r"""Data from :math:`\sum_k w_k N(m_k, C_k)`; its quantities are those of :class:`Oracle`.

    Args:
        weights: K positive numbers; scaled to sum to one.
        means: K means, as in :class:`GaussianOracle`.
        covariances: K covariances, or one that all components share; 0 for point masses.
        interpolant: The path, by name or as an object.

    Raises:
        ArgumentError: Numbers of weights, means and covariances that differ, weights that are not positive, or
            a covariance that is not symmetric positive semi-definite.
        ShapeError: Shapes that do not fit.

    Example:
        >>> oracle = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], 0.0)
        >>> oracle.denoised(torch.tensor([[0.0], [0.25]]), 0.5)
        tensor([[0.0000],
                [0.4621]])
    """

    def __init__(
        self,
        weights: Sequence[float] | torch.Tensor,
        means: Sequence[Any] | torch.Tensor,
        covariances: Any = 0.0,
        interpolant: str | Interpolant = "linear",
    ) -> None:
        share = torch.as_tensor(weights, dtype=torch.float64)
        if share.ndim != 1 or not share.numel() or not (share > 0).all() or not share.isfinite().all():
            raise ArgumentError("weights", got=share.tolist(), expected="positive numbers, one a component")
        self.means = [torch.as_tensor(mean, dtype=torch.float64) for mean in means]
        if isinstance(covariances, int | float):
            covariances = [covariances] * len(share)
        self.covariances = [torch.as_tensor(covariance, dtype=torch.float64) for covariance in covariances]
        if not len(share) == len(self.means) == len(self.covariances):
            got = f"{len(share)} weights, {len(self.means)} means, {len(self.covariances)} covariances"
            raise ArgumentError("components", got=got, expected="as many of each")
        super().__init__(share / share.sum(), self.means, self.covariances, interpolant)

    def __repr__(self) -> str:
        return f"MixtureOracle({len(self.weights)} components of shape {self.event}, {self.interpolant})"


def reference_mixture(interpolant: str | Interpolant = "linear") -> MixtureOracle:
    """Three Gaussians in the plane, neither symmetric nor aligned: the problem behind measured orders.

    Example:
        >>> reference_mixture()
        MixtureOracle(3 components of shape (2,), Linear())
    """
    return MixtureOracle(
        [0.3, 0.5, 0.2],
        [[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2]],
        [[[0.15, 0.05], [0.05, 0.1]], [[0.08, -0.03], [-0.03, 0.2]], [[0.1, 0.0], [0.0, 0.05]]],
        interpolant,
    )
