"""Point charges: the oracle of PFGM++, whose denoiser is known in closed form for data without spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError, SingularTimeError
from ...kernels import PURPOSE_CATEGORICAL, Draw, uniform
from ..adapter import Model
from ..interpolants import Interpolant
from ..interpolants import interpolant as find_interpolant
from ..pfgm import PFGMNoise, pfgm
from ..predictions import prediction
from .network import OracleNetwork, host_times, per_row

Time = float | Tensor


class PointCharges:
    r"""Weighted points under the noise of PFGM++.

    .. math:: D = \sum_k r_k y_k, \quad
        r_k \propto w_k \left( 1 + \frac{|x - \alpha y_k|^2}{D_{aug} \, \sigma^2} \right)^{-(n + D_{aug})/2}

    Computed in float64 by log-sum-exp, and returned in the dtype of x. At D_aug = infinity it is the mixture oracle of
    the same points.

    Args:
        points: [K, *event].
        dimensions: D_aug, at least 1, or ``math.inf``.
        weights: K positive numbers, scaled to sum to one; equal by default.
        interpolant: The path, by name or as an object.

    Raises:
        ArgumentError: Weights that are not positive, points that are not finite, D_aug below 1.
        ShapeError: As many weights as points are needed.

    Source:
        Xu et al. 2023, PFGM++, equation 4.

    Example:
        >>> charges = PointCharges([[-1.0], [1.0]], 128)
        >>> charges.denoised(torch.tensor([[0.0], [1.0]]), 0.9875).round(decimals=3)
        tensor([[0.0000],
                [0.7580]])

    """

    def __init__(
        self,
        points: Sequence[Any] | Tensor,
        dimensions: float,
        weights: Sequence[float] | Tensor | None = None,
        interpolant: str | Interpolant = "edm",
    ) -> None:
        self.points = torch.as_tensor(points, dtype=torch.float64)
        if self.points.ndim < 2 or not len(self.points) or not bool(self.points.isfinite().all()):
            raise ArgumentError("points", got=list(self.points.shape), expected="finite points [K, *event], K >= 1")
        self.noise_law = PFGMNoise(dimensions)
        share = torch.as_tensor([1.0] * len(self.points) if weights is None else weights, dtype=torch.float64)
        if share.shape != self.points.shape[:1]:
            raise ShapeError("weights", got=list(share.shape), expected=f"[{len(self.points)}], one a point")
        if not bool((share > 0).all()) or not bool(share.isfinite().all()):
            raise ArgumentError("weights", got=share.tolist(), expected="positive numbers")
        self.weights = share / share.sum()
        self.interpolant = find_interpolant(interpolant)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.points.shape[1:])

    @property
    def dimensions(self) -> float:
        """D_aug."""
        return self.noise_law.dimensions

    def denoised(self, x: Tensor, t: Time) -> Tensor:
        """``D = E[y | x_t = x]``, shape of x; the nearest point where sigma = 0."""
        state, (alpha, sigma, _, _) = x.double(), self._path(x, t)
        flat = self.points.to(x.device).reshape(len(self.points), -1)
        distance = (state.reshape(len(x), 1, -1) - alpha.reshape(-1, 1, 1) * flat).square().sum(-1)
        share, variance = self.weights.to(x.device).log(), sigma.reshape(-1, 1).square()
        if math.isinf(self.dimensions):
            logs = share - distance / (2 * variance)
        else:
            power = (flat.shape[1] + self.dimensions) / 2
            logs = share - power * torch.log1p(distance / (self.dimensions * variance))
        nearest = torch.where(distance == distance.min(-1, keepdim=True).values, 0.0, -math.inf)
        shares = torch.softmax(torch.where(variance == 0, nearest, logs), dim=-1)
        return (shares @ flat).reshape(x.shape).to(x.dtype)

    def noise(self, x: Tensor, t: Time) -> Tensor:
        """``n = (x - alpha D) / sigma``, the direction of the field line.

        Raises:
            SingularTimeError: sigma = 0.

        """
        alpha, sigma, _, _ = self._path(x, t)
        if bool((sigma == 0).any()):
            raise SingularTimeError("t", got=t, because="where sigma = 0 points have no field")
        return ((x.double() - alpha * self.denoised(x.double(), t)) / sigma).to(x.dtype)

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """``v = alpha' D + sigma' n``, on the path "edm" the PFGM++ ODE with sigma falling linearly in t.

        Raises:
            SingularTimeError: sigma = 0.

        """
        _, _, dalpha, dsigma = self._path(x, t)
        state = x.double()
        return (dalpha * self.denoised(state, t) + dsigma * self.noise(state, t)).to(x.dtype)

    def sample(self, count: int, seed: int = 0, t: float = 1.0) -> Tensor:
        """Exact draws of ``x_t = alpha y + sigma noise``, [count, *event], float64."""
        alpha, sigma, _, _ = self.interpolant(t)
        level = uniform((count, 1), seed=seed, draw=Draw(PURPOSE_CATEGORICAL, 0), dtype=torch.float64)[:, 0]
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1], level, right=True)
        noise = self.noise_law.noise((count, *self.event), seed=seed, dtype=torch.float64)
        return alpha * self.points[chosen] + sigma * noise

    def network(self, kind: str = "denoised", **options: Any) -> OracleNetwork:
        """A callable (x, time) that speaks like a network of this kind; arguments as for any oracle."""
        return OracleNetwork(self, prediction(kind, self.interpolant, **options))  # type: ignore[arg-type]

    def model(self, kind: str = "denoised", **options: Any) -> Model:
        """The :class:`Model` of :meth:`network`; for finite D_aug one of PFGM++."""
        network = self.network(kind, **options)
        model = Model(network=network, prediction=network.prediction, time_dtype=torch.float64)
        return model if math.isinf(self.dimensions) else pfgm(model, self.dimensions)

    def _path(self, x: Tensor, t: Time) -> list[Tensor]:
        if x.ndim < 1 or tuple(x.shape[1:]) != self.event:
            raise ShapeError("x", got=list(x.shape), expected=f"[B, {', '.join(map(str, self.event))}]")
        rows = [self.interpolant(one) for one in host_times(t)]
        return [per_row(list(column), x.double()) for column in zip(*rows, strict=True)]
