"""Gaussian components in the eigenbases of their covariances, with operations that treat every row alike.

Sums are written out over the short dimension: a matrix product may round one row differently in another batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError

WRITTEN_OUT = 64  # longest dimension that is summed element by element
NEGATIVE = 1e-12  # eigenvalues this much below zero, relative to the largest, are rounding


@dataclass(frozen=True, eq=False)
class Components:
    """K Gaussians over flattened events.

    Attributes:
        event: Shape of one sample; None if mean and variance are numbers that any shape shares.
        means: [K, d], or [K, 1] without an event.
        variances: Eigenvalues of the covariances, [K, d] or [K, 1].
        bases: Eigenvectors in columns, [K, d, d]; None where covariances are diagonal.
    """

    event: tuple[int, ...] | None
    means: Tensor
    variances: Tensor
    bases: Tensor | None

    def to(self, device: torch.device) -> Components:
        """The same on a device."""
        if self.means.device == device:
            return self
        bases = None if self.bases is None else self.bases.to(device)
        return Components(self.event, self.means.to(device), self.variances.to(device), bases)

    def rotate(self, z: Tensor) -> Tensor:
        """``z U``: [B, K, d] into the eigenbases."""
        if self.bases is None:
            return z
        return written_sum(z[..., j, None] * self.bases[:, j] for j in range(z.shape[-1]))

    def rotate_back(self, y: Tensor) -> Tensor:
        """``y U^T``: [B, K, d] out of the eigenbases."""
        if self.bases is None:
            return y
        return written_sum(y[..., j, None] * self.bases[:, :, j] for j in range(y.shape[-1]))


def components(means: Sequence[Tensor], covariances: Sequence[Tensor]) -> Components:
    """Check the parameters and diagonalise, once.

    Args:
        means: Per component a tensor of the event's shape, or a number.
        covariances: Per component a variance, variances of the event's shape, or a matrix over the flattened event.

    Raises:
        ShapeError: Shapes that do not fit, or differ between components.
        ArgumentError: Not finite, not symmetric, or not positive semi-definite; names the smallest eigenvalue.
    """
    event = tuple(means[0].shape)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        check_component(k, mean, covariance, event)
    flat = torch.stack([mean.reshape(-1) for mean in means])
    if any(is_matrix(covariance, event) for covariance in covariances):
        matrices = torch.stack([as_matrix(covariance, event) for covariance in covariances])
        variances, bases = torch.linalg.eigh(matrices)
    else:
        variances, bases = torch.stack([c.expand(event).reshape(-1) for c in covariances]), None
    smallest = variances.min().item()
    if smallest < -NEGATIVE * variances.max().item():
        raise ArgumentError("covariance", got=f"the eigenvalue {smallest:.6g}", expected="none below 0")
    return Components(event or None, flat, variances.clamp(min=0), bases)


def check_component(k: int, mean: Tensor, covariance: Tensor, event: tuple[int, ...]) -> None:
    """Refuse parameters that are not finite, or do not fit the event."""
    if mean.shape != event:
        raise ShapeError(f"means[{k}]", got=list(mean.shape), expected=f"{list(event)}, as means[0]")
    if not mean.isfinite().all() or not covariance.isfinite().all():
        raise ArgumentError(f"component {k}", got="NaN or infinity", expected="a finite mean and covariance")
    if is_matrix(covariance, event):
        if not torch.allclose(covariance, covariance.mT, rtol=1e-12, atol=0):
            raise ArgumentError(
                f"covariance of component {k}", got="a matrix that is not symmetric", expected="symmetry"
            )
    elif covariance.ndim > 0 and covariance.shape != event:
        size = max(mean.numel(), 1)
        expected = f"a number, {list(event)}, or [{size}, {size}]"
        raise ShapeError(f"covariance of component {k}", got=list(covariance.shape), expected=expected)


def is_matrix(covariance: Tensor, event: tuple[int, ...]) -> bool:
    """Whether it is one over the flattened event, rather than variances of the event's shape."""
    size = torch.Size(event).numel()
    return bool(event) and covariance.shape == (size, size) and covariance.shape != event


def as_matrix(covariance: Tensor, event: tuple[int, ...]) -> Tensor:
    """The covariance over the flattened event."""
    return covariance if is_matrix(covariance, event) else torch.diag(covariance.expand(event).reshape(-1))


def written_sum(terms: Iterable[Tensor]) -> Tensor:
    """Sum in order, term by term."""
    terms = iter(terms)
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def sum_last(x: Tensor) -> Tensor:
    """Sum over the last dimension, written out where it is short."""
    if 0 < x.shape[-1] <= WRITTEN_OUT:
        return written_sum(x.unbind(-1))
    return x.sum(-1)
