"""Couplings of Gaussians: the oracle of two-sided paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError, SingularTimeError
from ...kernels import PURPOSE_CATEGORICAL, PURPOSE_INITIAL, PURPOSE_USER, Draw, normal, uniform
from ..adapter import Model
from ..two_heads import TwoSidedModel, TwoSidedPrediction
from ..two_sided import TwoSided
from .network import host_times, per_row

Time = float | Tensor


class Posterior(NamedTuple):
    """Conditional means over the components, each [B, d], and responsibilities [B, K]."""

    source: Tensor
    data: Tensor
    whitened: Tensor  # sum_k r_k V_k^-1 (x - mu_k), minus the score


class CouplingOracle:
    r"""Pairs (x_0, x_1) from a mixture of K joint Gaussians, under a two-sided path.

    With :math:`V_k = a^2 C_0 + b^2 C_1 + a b (X + X^T) + \gamma^2` and :math:`z_k = x - a m_0 - b m_1`,

    .. math:: E[x_0 | x] = \sum_k r_k (m_0 + (a C_0 + b X) V_k^{-1} z_k), \quad
        E[x_1 | x] = \sum_k r_k (m_1 + (a X^T + b C_1) V_k^{-1} z_k), \quad s = -\sum_k r_k V_k^{-1} z_k

    and :math:`\eta = -\gamma s, \; v_I = \dot a E[x_0 | x] + \dot b E[x_1 | x], \; v = v_I - \gamma \dot\gamma s`,
    which is finite also where gamma' is not. Computed in float64, returned in the dtype of x.

    Args:
        weights: K positive numbers, scaled to sum to one.
        sources, targets: For each component (mean [d], covariance [d, d]) of x_0, and of x_1.
        crosses: Covariances X of x_0 with x_1, [d, d] each; independent ends by default.
        interpolant: The path.

    Raises:
        ArgumentError: Numbers of components that differ, or a joint covariance with a negative eigenvalue.

    Source:
        Albergo, Boffi & Vanden-Eijnden 2023, appendix A.

    Example:
        >>> one = CouplingOracle([1.0], [([0.0], [[1.0]])], [([2.0], [[0.25]])])
        >>> one.velocity(torch.zeros(1, 1), 0.0)
        tensor([[2.]])

    """

    def __init__(
        self,
        weights: Sequence[float],
        sources: Sequence[tuple[Any, Any]],
        targets: Sequence[tuple[Any, Any]],
        crosses: Sequence[Any] | None = None,
        interpolant: TwoSided | None = None,
    ) -> None:
        share = torch.as_tensor(weights, dtype=torch.float64)
        if not len(share) == len(sources) == len(targets) == len(crosses or sources) or not bool((share > 0).all()):
            got = f"{share.tolist()}, {len(sources)} sources, {len(targets)} targets"
            raise ArgumentError("components", got=got, expected="positive weights, and as many of each")
        self.weights, self.interpolant = share / share.sum(), interpolant or TwoSided()
        self.source_means, self.source_covariances = stacked(sources)
        self.target_means, self.target_covariances = stacked(targets)
        if crosses is None:
            self.crosses = torch.zeros_like(self.source_covariances)
        else:
            self.crosses = torch.stack([torch.as_tensor(cross, dtype=torch.float64) for cross in crosses])
        upper = torch.cat([self.source_covariances, self.crosses], -1)
        joint = torch.cat([upper, torch.cat([self.crosses.mT, self.target_covariances], -1)], -2)
        values, vectors = torch.linalg.eigh(joint)
        if bool((values < -1e-12 * values.abs().max()).any()):
            raise ArgumentError("covariance", got=f"the eigenvalue {values.min().item():.6g}", expected="none below 0")
        self._root = vectors * values.clamp(min=0).sqrt()[:, None]

    @classmethod
    def independent(
        cls,
        sources: Sequence[tuple[float, Any, Any]],
        targets: Sequence[tuple[float, Any, Any]],
        interpolant: TwoSided | None = None,
    ) -> CouplingOracle:
        """Two mixtures, drawn independently: components (weight, mean, covariance) of each."""
        pairs = [(s, t) for s in sources for t in targets]
        return cls(
            [s[0] * t[0] for s, t in pairs], [s[1:] for s, _ in pairs], [t[1:] for _, t in pairs], None, interpolant
        )

    # --- the fields --------------------------------------------------------------------------------------------

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """``v = E[dx_t/dt | x_t = x]``, shape of x."""
        posterior = self._posterior(x, t)
        (rate,) = self._numbers(x, t, lambda s: (self.interpolant.sigma_dsigma(s),))
        return (self._drift(posterior, x, t) + rate * posterior.whitened).to(x.dtype)

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """``v_I = E[a' x_0 + b' x_1 | x_t = x]``, shape of x."""
        return self._drift(self._posterior(x, t), x, t).to(x.dtype)

    def denoiser(self, x: Tensor, t: Time) -> Tensor:
        """``eta = E[z | x_t = x]``, shape of x."""
        (gamma,) = self._numbers(x, t, lambda s: (self.interpolant.sigma(s),))
        return (gamma * self._posterior(x, t).whitened).to(x.dtype)

    def score(self, x: Tensor, t: Time) -> Tensor:
        """``grad log p_t(x)``, shape of x."""
        return (-self._posterior(x, t).whitened).to(x.dtype)

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean [d] and covariance [d, d] of x_t."""
        means, covariances = self._components(t)
        mean = self.weights @ means
        second = torch.einsum("k,kij->ij", self.weights, covariances + means[:, :, None] * means[:, None])
        return mean, second - torch.outer(mean, mean)

    # --- samples, networks -------------------------------------------------------------------------------------

    def pairs(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Draws of (x_0, x_1), [count, d] each, float64; sample i of a seed is always the same."""
        size = self.source_means.shape[1]
        level = uniform((count, 1), seed=seed, draw=Draw(PURPOSE_CATEGORICAL, 0), dtype=torch.float64)[:, 0]
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1], level, right=True)
        z = normal((count, 2 * size), seed=seed, draw=Draw(PURPOSE_USER, 0), dtype=torch.float64)
        joint = torch.einsum("bij,bj->bi", self._root[chosen], z)
        joint = joint + torch.cat([self.source_means, self.target_means], -1)[chosen]
        return joint[:, :size], joint[:, size:]

    def sample(self, count: int, seed: int = 0, t: float = 1.0) -> Tensor:
        """Exact draws of x_t, [count, d], float64."""
        x0, x1 = self.pairs(count, seed)
        z = normal(tuple(x0.shape), seed=seed, draw=Draw(PURPOSE_INITIAL, 0), dtype=torch.float64)
        return self.interpolant.interpolate(x0, x1, z, t)

    def model(self, motion: str = "velocity", noise_head: str | None = "denoiser", **options: Any) -> TwoSidedModel:
        """The fields as the heads of a network; arguments as for :class:`TwoSidedPrediction`."""
        read = TwoSidedPrediction(self.interpolant, motion=motion, noise_head=noise_head, **options)
        signs = dict(zip(read.heads, (1, read.noise_sign), strict=False))

        def head(name: str) -> Model:
            field = getattr(self, name)
            return Model(lambda x, t: signs[name] * field(x, t), read, time_dtype=torch.float64)

        return TwoSidedModel(read, {name: head(name) for name in read.heads})

    # --- inside ------------------------------------------------------------------------------------------------

    def _drift(self, posterior: Posterior, x: Tensor, t: Time) -> Tensor:
        da, db = self._numbers(x, t, lambda s: self.interpolant.ends_at(s)[2:])
        return da * posterior.source + db * posterior.data

    def _numbers(self, x: Tensor, t: Time, values: Any) -> list[Tensor]:
        return [per_row(list(column), x.double()) for column in zip(*(values(s) for s in host_times(t)), strict=True)]

    def _components(self, t: float) -> tuple[Tensor, Tensor]:
        a, b, _, _ = self.interpolant.ends_at(t)
        mixed = a * b * (self.crosses + self.crosses.mT)
        latent = self.interpolant.variance(t)[0] * torch.eye(self.source_means.shape[1], dtype=torch.float64)
        covariance = a * a * self.source_covariances + b * b * self.target_covariances + mixed + latent
        return a * self.source_means + b * self.target_means, covariance

    def _posterior(self, x: Tensor, t: Time) -> Posterior:
        if x.ndim != 2 or x.shape[1] != self.source_means.shape[1]:
            raise ShapeError("x", got=list(x.shape), expected=f"[B, {self.source_means.shape[1]}]")
        times = host_times(t)
        if len(times) > 1:
            rows = [self._posterior(x[i : i + 1], one) for i, one in enumerate(times)]
            return Posterior(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        a, b, _, _ = self.interpolant.ends_at(times[0])
        means, covariances = self._components(times[0])
        factor, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()):
            raise SingularTimeError("t", got=t, because="the state has no density there")
        centred = x.double()[:, None] - means
        whitened = torch.cholesky_solve(centred.permute(1, 2, 0), factor).permute(2, 0, 1)
        determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        logs = self.weights.log() - 0.5 * (centred * whitened).sum(-1) - determinant
        share = torch.softmax(logs, -1)[..., None]
        source = (a * self.source_covariances + b * self.crosses) @ whitened[..., None]
        data = (a * self.crosses.mT + b * self.target_covariances) @ whitened[..., None]
        return Posterior(
            (share * (self.source_means + source[..., 0])).sum(1),
            (share * (self.target_means + data[..., 0])).sum(1),
            (share * whitened).sum(1),
        )


def stacked(components: Sequence[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Means [K, d] and covariances [K, d, d], float64."""
    means, covariances = zip(*components, strict=True)
    return tuple(torch.stack([torch.as_tensor(p, dtype=torch.float64) for p in part]) for part in (means, covariances))  # type: ignore[return-value]
