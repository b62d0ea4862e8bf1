"""An analytic head start: the flow of the data's Gaussian replaces the network where the noise is large."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, GridError, ShapeError, SingularTimeError
from ..models import Interpolant


@dataclass(frozen=True, eq=False)
class HeadStart:
    r"""Mean and covariance of data, and the flow that carries noise to the Gaussian with these moments.

    Far from the data, where the noise ratio nu is much larger than their spread, the flow of any data is that of their
    Gaussian up to terms of order (spread / nu)^3, and that flow is known:

    .. math:: x_t = \alpha_t \mu + \rho\, y + \sum_k (\rho_k - \rho) (u_k \cdot y) u_k, \quad y = x_s - \alpha_s \mu,
        \quad \rho_k = \sqrt{\frac{\alpha_t^2 l_k + \sigma_t^2}{\alpha_s^2 l_k + \sigma_s^2}}

    with eigenpairs (l_k, u_k) of the covariance, and rho the same ratio for the variance ``floor`` of all other
    directions. So a run may begin with one product by a matrix instead of its first evaluations, from the noise that
    it would have begun with anyway.

    Made by :meth:`from_data`, or by :meth:`from_moments`. For conditional models, take the moments of each condition.

    Attributes:
        mean: mu, shape of one sample, float64.
        variances: The largest eigenvalues l_k, [r], float64, descending.
        basis: Their eigenvectors over the flattened sample, [d, r], float64.
        floor: Variance of the d - r other directions.

    Source:
        Wang & Vastola 2024, The unreasonable effectiveness of Gaussian score approximation for diffusion models,
        sections 3 and 5 (the flow; "analytical teleportation").

    Example:
        >>> import pushforward as pf
        >>> oracle = pf.models.reference_mixture()
        >>> head = HeadStart.from_data(oracle.sample(1000))
        >>> grid = pf.solvers.grid("karras", 18, oracle.interpolant)
        >>> noise = torch.randn(4, 2, dtype=torch.float64)
        >>> x, rest = head.skip(noise, grid, oracle.interpolant, noise_ratio=10.0)
        >>> len(grid) - len(rest)
        5
        >>> pf.sample(oracle.model(), x, grid=rest).shape
        torch.Size([4, 2])

    """

    mean: Tensor
    variances: Tensor
    basis: Tensor
    floor: float = 0.0

    @classmethod
    def from_data(
        cls, data: Tensor | Iterable[Tensor], *, rank: int | None = None, floor: float | None = None
    ) -> HeadStart:
        """Moments of samples, which must be in the space and the scale that the network knows.

        Args:
            data: [N, *event], or batches of it, of which only the moments are kept.
            rank: How many directions to keep; all that the data span by default.
            floor: Variance of the others; by default their share of what is left of the total variance, which is 0
                where the kept ones explain all. Give one where there are fewer samples than dimensions.

        Raises:
            ArgumentError: Fewer than two samples, NaN or infinity, or a rank or floor out of range.

        """
        batches = [data] if isinstance(data, Tensor) else data
        count, mean, scatter, event = 0, torch.zeros(0), torch.zeros(0), torch.Size()
        for batch in batches:
            flat = batch.detach().double().reshape(len(batch), -1)
            if count == 0:
                mean, event = flat.new_zeros(flat.shape[1]), batch.shape[1:]
                scatter = flat.new_zeros(flat.shape[1], flat.shape[1])
            elif batch.shape[1:] != event:
                raise ShapeError("data", got=list(batch.shape), expected=f"batches of {list(event)}")
            if not len(flat):
                continue
            shift = flat.mean(0) - mean  # Chan, Golub & LeVeque 1983: moments of two parts into those of both
            centred = flat - flat.mean(0)
            share = len(flat) / (count + len(flat))
            scatter += centred.mT @ centred + count * share * torch.outer(shift, shift)
            mean, count = mean + share * shift, count + len(flat)
        if count < 2:
            raise ArgumentError("data", got=f"{count} samples", expected="at least 2")
        if rank is None:
            rank = min(count - 1, len(mean))
        return cls.from_moments(mean.reshape(event), scatter / (count - 1), rank=rank, floor=floor)

    @classmethod
    def from_moments(
        cls, mean: Any, covariance: Any, *, rank: int | None = None, floor: float | None = None
    ) -> HeadStart:
        """From a mean of one sample's shape and a covariance [d, d] over the flattened sample; the rest as above.

        Raises:
            ShapeError: The covariance does not fit the mean.
            ArgumentError: NaN or infinity, a covariance that is not symmetric or has a negative eigenvalue, or a rank
                or floor out of range.

        """
        mean, covariance = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, covariance))
        size = mean.numel()
        if covariance.shape != (size, size):
            raise ShapeError("covariance", got=list(covariance.shape), expected=f"[{size}, {size}]")
        if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
            raise ArgumentError("moments", got="NaN or infinity", expected="finite numbers")
        if not torch.allclose(covariance, covariance.mT, rtol=1e-10, atol=0):
            raise ArgumentError("covariance", got="a matrix that is not symmetric", expected="symmetry")
        kept = size if rank is None else rank
        if not 0 <= kept <= size:
            raise ArgumentError("rank", got=rank, expected=f"0 to {size}")
        variances, basis = torch.linalg.eigh(covariance)  # ascending, in float64 whatever the data
        if variances[0] < -1e-10 * variances[-1].abs():
            raise ArgumentError("covariance", got=f"the eigenvalue {variances[0].item():.6g}", expected="none below 0")
        variances, basis = variances.clamp(min=0).flip(0), basis.flip(1)
        if floor is None:
            floor = float(variances[kept:].mean()) if kept < size else 0.0
        if not 0 <= floor < float("inf"):
            raise ArgumentError("floor", got=floor, expected="a finite number, at least 0")
        return cls(mean, variances[:kept].clone(), basis[:, :kept].clone(), float(floor))

    def flow(self, x: Tensor, start: float, stop: float, interpolant: Interpolant) -> Tensor:
        """Where the Gaussian's flow carries x from time ``start`` to time ``stop``, in either direction.

        Args:
            x: State at ``start``, [B, *event], floating point.
            start, stop: Times in [0, 1].
            interpolant: The path.

        Returns:
            The state at ``stop``, in the shape, dtype and device of x; computed in float32 or better.

        Raises:
            ShapeError: x is not a batch of the mean's shape.
            SingularTimeError: At ``start`` the state has no spread in some direction.

        """
        if x.shape[1:] != self.mean.shape or not x.is_floating_point():
            expected = f"floating point [B, {', '.join(map(str, self.mean.shape))}]"
            raise ShapeError("x", got=f"{x.dtype} {list(x.shape)}", expected=expected)
        before, after = interpolant(start), interpolant(stop)
        rest = torch.tensor([self.floor], dtype=torch.float64) if len(self.variances) < self.mean.numel() else None
        spectrum = self.variances if rest is None else torch.cat([self.variances, rest])
        old = before.alpha**2 * spectrum + before.sigma**2
        if bool((old <= 0).any()):
            raise SingularTimeError("start", got=start, because="a flow cannot be followed out of a point mass")
        ratios = ((after.alpha**2 * spectrum + after.sigma**2) / old).sqrt()
        ratio, kept = float(ratios[-1]), ratios[: len(self.variances)]
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        mean = self.mean.to(x.device, wide)
        y = (x.to(wide) - before.alpha * mean).reshape(len(x), -1)
        basis = self.basis.to(x.device, wide)
        moved = ratio * y + (y @ basis * (kept - ratio).to(x.device, wide)) @ basis.mT
        return (moved.reshape(x.shape) + after.alpha * mean).to(x.dtype)

    def skip(
        self, x: Tensor, grid: Sequence[float], interpolant: Interpolant, *, noise_ratio: float
    ) -> tuple[Tensor, tuple[float, ...]]:
        """The first step of a run: from the first grid time to the last one with this noise ratio or more.

        Args:
            x: State at ``grid[0]``, usually noise.
            grid: Times of the whole run, increasing; those that are left stay where they were.
            interpolant: The path.
            noise_ratio: nu = sigma / alpha down to which the Gaussian stands for the data: several times their
                spread. 3 to 20 for images in [-1, 1], where the paper skips 15 to 30 % of the steps.

        Returns:
            The state, and the rest of the grid, which starts at its time: arguments of :func:`pushforward.sample`.

        Raises:
            GridError: The grid does not increase, or ends before the noise ratio is reached.

        """
        times = tuple(float(t) for t in grid)
        if len(times) < 2 or any(not b > a for a, b in itertools.pairwise(times)):
            raise GridError("grid", got=times, expected="at least two increasing times, from noise to data")
        last = sum(interpolant.noise_ratio(t) >= noise_ratio for t in times) - 1
        if last == len(times) - 1:
            got = f"a grid that ends at a noise ratio of {interpolant.noise_ratio(times[-1]):.6g}"
            raise GridError("grid", got=got, expected=f"one that goes below noise_ratio={noise_ratio:.6g}")
        last = max(last, 0)
        return (x if last == 0 else self.flow(x, times[0], times[last], interpolant)), times[last:]
