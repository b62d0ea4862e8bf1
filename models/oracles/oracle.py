"""Oracle: everything that a mixture of Gaussians says exactly about a path."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError, SingularTimeError
from ...kernels import PURPOSE_CATEGORICAL, PURPOSE_INITIAL, PURPOSE_USER, Draw, normal
from ..adapter import Model
from ..interpolants import Interpolant, interpolant
from ..predictions import prediction
from .components import Components, components, sum_last, written_sum
from .network import OracleNetwork, host_times

Time = float | Tensor


class Point(NamedTuple):
    """States of one call seen from the components; path values are [1, 1, 1], or [B, 1, 1] where times differ."""

    components: Components
    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    sigma_dsigma: Tensor
    variance: Tensor  # of x_t in the eigenbases, alpha^2 l + sigma^2, [1 or B, K, d or 1]
    centred: Tensor  # x - alpha mu in the eigenbases, [B, K, d]


class Oracle:
    r"""Data from a mixture of K Gaussians under any interpolant, in closed form.

    With :math:`V_k = \alpha^2 C_k + \sigma^2`, :math:`z_k = x - \alpha m_k` and responsibilities :math:`r_k`,

    .. math:: D = \sum_k r_k (m_k + \alpha C_k V_k^{-1} z_k), \quad n = \sum_k r_k \sigma V_k^{-1} z_k, \quad
        s = -\sum_k r_k V_k^{-1} z_k, \quad
        v = \sum_k r_k (\alpha' m_k + (\alpha \alpha' C_k + \sigma \sigma') V_k^{-1} z_k)

    Computed in float64 whatever the dtype of x, and returned in it. Times are floats, or [B] tensors where samples
    differ. A row's result does not depend, bit for bit, on the rest of its batch.

    Attributes:
        interpolant: The path.
        event: Shape of one sample; None if any will do.
        weights: Of the components, [K].
    """

    def __init__(
        self, weights: Tensor, means: list[Tensor], covariances: list[Tensor], path: str | Interpolant
    ) -> None:
        self.interpolant = interpolant(path)
        self.weights = weights
        self._parts = components(means, covariances)

    @property
    def event(self) -> tuple[int, ...] | None:
        """Shape of one sample; None if mean and variance are numbers."""
        return self._parts.event

    # --- the quantities ----------------------------------------------------------------------------------------

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """``v = E[dx_t/dt | x_t = x]``, shape of x; its exact limit where dsigma is infinite.

        Raises:
            SingularTimeError: sigma = 0 and a component has no spread in some direction.
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        gain = (p.alpha * p.dalpha * p.components.variances + p.sigma_dsigma) / p.variance
        return self._mean(x, p, p.dalpha, gain)

    def denoised(self, x: Tensor, t: Time) -> Tensor:
        """``D = E[x_1 | x_t = x]``, shape of x; x / alpha where sigma = 0."""
        p = self._at(x, t)
        gain = p.alpha * p.components.variances / p.variance
        # Only a direction without spread has variance 0, at sigma = 0, where x = alpha x_1 decides.
        gain = torch.where(p.variance == 0, 1 / p.alpha, gain)
        return self._mean(x, p, torch.ones_like(p.alpha), gain)

    def noise(self, x: Tensor, t: Time) -> Tensor:
        """``n = E[x_0 | x_t = x]``, shape of x.

        Raises:
            SingularTimeError: sigma = 0 and a component has no spread in some direction.
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        return self._mean(x, p, torch.zeros_like(p.alpha), p.sigma / p.variance)

    def score(self, x: Tensor, t: Time) -> Tensor:
        """``s = grad log p_t(x)``, shape of x; that of the data at sigma = 0.

        Raises:
            SingularTimeError: sigma = 0 and a component has no spread in some direction.
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        return self._mean(x, p, torch.zeros_like(p.alpha), -1 / p.variance)

    def log_prob(self, x: Tensor, t: Time = 1.0) -> Tensor:
        """``log p_t(x)``, shape [B], float64.

        Raises:
            SingularTimeError: sigma = 0 and a component has no spread in some direction.
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        largest, masses = self._masses(p)
        return largest + written_sum(masses).log()

    def responsibilities(self, x: Tensor, t: Time) -> Tensor:
        """Posterior probability of each component, shape [B, K], float64, by log-sum-exp."""
        p = self._at(x, t)
        self._check_spread(p, t)
        return torch.stack(self._shares(p), dim=1)

    def jacobian(self, x: Tensor, t: Time) -> Tensor:
        r"""``dD/dx`` over flattened events, shape [B, d, d], float64.

        .. math:: \sum_k r_k \left( \alpha C_k V_k^{-1} + D_k (s_k - s)^T \right)
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        parts, size = p.components, p.centred.shape[-1]
        gain = (p.alpha * parts.variances / p.variance).expand(p.centred.shape)
        if parts.bases is None:
            inner = torch.diag_embed(gain)
        else:
            inner = written_sum(
                gain[..., k, None, None] * parts.bases[:, :, None, k] * parts.bases[:, None, :, k] for k in range(size)
            )
        each = parts.means + parts.rotate_back(gain * p.centred)
        scores = parts.rotate_back(-p.centred / p.variance)
        shares = self._shares(p)
        mean = written_sum(r[:, None] * scores[:, k] for k, r in enumerate(shares))
        return written_sum(
            r[:, None, None] * (inner[:, k] + each[:, k, :, None] * (scores[:, k] - mean)[:, None, :])
            for k, r in enumerate(shares)
        )

    def divergence(self, x: Tensor, t: Time) -> Tensor:
        r"""Divergence of the velocity, shape [B], float64.

        .. math:: \sum_k r_k \left( \mathrm{tr}\,(\alpha \alpha' C_k + \sigma \sigma') V_k^{-1}
            + v_k \cdot (s_k - s) \right)
        """
        p = self._at(x, t)
        self._check_spread(p, t)
        parts = p.components
        gain = ((p.alpha * p.dalpha * parts.variances + p.sigma_dsigma) / p.variance).expand(p.centred.shape)
        velocities = p.dalpha * parts.means + parts.rotate_back(gain * p.centred)
        scores = parts.rotate_back(-p.centred / p.variance)
        shares, traces = self._shares(p), sum_last(gain)
        mean = written_sum(r[:, None] * scores[:, k] for k, r in enumerate(shares))
        return written_sum(
            r * (traces[:, k] + sum_last(velocities[:, k] * (scores[:, k] - mean))) for k, r in enumerate(shares)
        )

    # --- samples -----------------------------------------------------------------------------------------------

    def pairs(
        self,
        count: int,
        *,
        seed: int = 0,
        samples: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Independent draws ``(x_0, x_1)`` of noise and data, float64; sample i of a seed is always the same.

        Args:
            count: How many, B.
            seed: In [0, 2**64). ``x_0`` is the noise that a run with this seed starts from.
            samples: Sample ids, int64 [B]; 0 .. B - 1 by default.
            shape: Of one sample, for oracles without one; (1,) by default.

        Returns:
            Two tensors [B, *event].
        """
        event = self.event or shape or (1,)
        if self.event is not None and shape not in (None, self.event):
            raise ShapeError("shape", got=shape, expected=self.event)

        def draw(purpose: int, *size: int) -> Tensor:
            return normal((count, *size), seed=seed, draw=Draw(purpose, 0), samples=samples, dtype=torch.float64)

        parts = self._parts
        spread = parts.variances.sqrt() * draw(PURPOSE_USER, *event).reshape(count, 1, -1)
        data = parts.means + parts.rotate_back(spread)
        if len(self.weights) > 1:
            level = torch.special.ndtr(draw(PURPOSE_CATEGORICAL, 1)[:, 0])
            chosen = torch.searchsorted(self.weights.cumsum(0)[:-1], level, right=True)
            data = data[torch.arange(count), chosen]
        return draw(PURPOSE_INITIAL, *event), data.reshape(count, *event)

    def sample(
        self,
        count: int,
        seed: int = 0,
        t: float = 1.0,
        *,
        samples: Tensor | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Exact draws of ``x_t = alpha x_1 + sigma x_0``, [count, *event], float64; arguments as in :meth:`pairs`."""
        alpha, sigma, _, _ = self.interpolant(t)
        noise, data = self.pairs(count, seed=seed, samples=samples, shape=shape)
        return alpha * data + sigma * noise

    # --- as a network ------------------------------------------------------------------------------------------

    def network(self, kind: str = "velocity", **options: Any) -> OracleNetwork:
        """A callable (x, time) that speaks like a network of this kind: its scale, its clock, its output.

        Args:
            kind: As in :func:`prediction`.
            **options: Of the prediction, ``network_time`` among them.
        """
        return OracleNetwork(self, prediction(kind, self.interpolant, **options))

    def model(self, kind: str = "velocity", **options: Any) -> Model:
        """The :class:`Model` of :meth:`network`; its times stay float64 for states of any dtype."""
        network = self.network(kind, **options)
        return Model(network=network, prediction=network.prediction, time_dtype=torch.float64)

    # --- inside ------------------------------------------------------------------------------------------------

    def _at(self, x: Tensor, t: Time) -> Point:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ArgumentError("x", got=getattr(x, "dtype", type(x).__name__), expected="a floating-point tensor")
        if x.ndim < 1 or (self.event is not None and tuple(x.shape[1:]) != self.event):
            expected = "[B, *D]" if self.event is None else f"[B, {', '.join(map(str, self.event))}]"
            raise ShapeError("x", got=list(x.shape), expected=expected)
        parts, path = self._parts.to(x.device), self.interpolant
        # Tensors also where all times agree: torch divides a number by a tensor in other bits than a tensor by one.
        rows = [(*path(one)[:3], path.sigma_dsigma(one)) for one in host_times(t)]
        columns = torch.tensor(rows, dtype=torch.float64, device=x.device).t()
        alpha, sigma, dalpha, rate = (column[:, None, None] for column in columns)
        flat = x.double().reshape(x.shape[0], 1, -1)
        variance = alpha * alpha * parts.variances + sigma * sigma
        return Point(parts, alpha, sigma, dalpha, rate, variance, parts.rotate(flat - alpha * parts.means))

    def _mean(self, x: Tensor, p: Point, offset: Tensor, gain: Tensor) -> Tensor:
        """``sum_k r_k (offset m_k + U_k (gain_k * centred_k))`` in the shape and dtype of x."""
        each = p.components.rotate_back(gain * p.centred) + offset * p.components.means
        if len(self.weights) == 1:
            total = each[:, 0]
        else:
            total = written_sum(r[:, None] * each[:, k] for k, r in enumerate(self._shares(p)))
            # Where a component is a point mass and sigma = 0, densities are infinite, but all components agree.
            total = torch.where((p.variance == 0).any(-1).any(-1, keepdim=True), each[:, 0], total)
        return total.reshape(x.shape).to(x.dtype)

    def _masses(self, p: Point) -> tuple[Tensor, list[Tensor]]:
        """The largest ``log(w_k N_k(x))``, and all of them relative to it, exponentiated; each [B]."""
        variance = p.variance.expand(p.centred.shape)
        terms = sum_last(p.centred.square() / variance + (2 * math.pi * variance).log())
        logs = [w.log() - 0.5 * terms[:, k] for k, w in enumerate(self.weights.to(terms.device).unbind())]
        largest = logs[0]
        for log in logs[1:]:
            largest = torch.maximum(largest, log)
        return largest, [(log - largest).exp() for log in logs]

    def _shares(self, p: Point) -> list[Tensor]:
        _, masses = self._masses(p)
        total = written_sum(masses)
        return [mass / total for mass in masses]

    def _check_spread(self, p: Point, t: Time) -> None:
        if bool((p.variance == 0).any()):
            raise SingularTimeError("t", got=t, because="where sigma = 0 data without spread have no density")
