"""Right-hand sides that come compiled: Van der Pol, Lorenz, linear, and the velocity of Gaussian mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from .functions import LINEAR, LORENZ, MIXTURE, VAN_DER_POL, Bound, RightHandSide


def numbers(name: str, value: Any) -> Tensor:
    """As a float64 tensor on the CPU.

    Raises:
        ArgumentError: NaN or infinity.

    """
    tensor = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    if not tensor.isfinite().all():
        raise ArgumentError(name, got="NaN or infinity", expected="finite numbers")
    return tensor


class Field(RightHandSide):
    """A field with its parameters: [p] for all trajectories, or [B, p]."""

    kind: int
    params: Tensor
    dim: int

    def bind(self, batch: int, dim: int, params: Tensor | None) -> Bound:
        """Check dimension and number of trajectories."""
        name = type(self).__name__
        if params is not None:
            raise ArgumentError("params", got="a value", expected=f"None: {name} has its parameters")
        if dim != self.dim:
            raise ShapeError("y0", got=[batch, dim], expected=f"[B, {self.dim}] for {name}")
        if self.params.ndim == 2 and len(self.params) != batch:
            got = f"{len(self.params)} rows of parameters"
            raise ShapeError(name, got=got, expected=f"one for each of {batch} trajectories")
        return Bound(self.kind, 0, self.params)


def rows_of(**values: Any) -> Tensor:
    """Parameters that are numbers or [B], as [p] or [B, p]."""
    columns = [numbers(name, value) for name, value in values.items()]
    for name, column in zip(values, columns, strict=True):
        if column.ndim > 1:
            raise ShapeError(name, got=list(column.shape), expected="a number, or [B]")
    try:
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1).contiguous()
    except RuntimeError:
        got = ", ".join(f"{name} {list(c.shape)}" for name, c in zip(values, columns, strict=True))
        raise ShapeError("parameters", got=got, expected="numbers, or [B] of one length") from None


class VanDerPol(Field):
    r"""Van der Pol's oscillator, :math:`y_0' = y_1,\; y_1' = \mu (1 - y_0^2) y_1 - y_0`.

    Args:
        mu: A number, or one for each trajectory, [B].

    Source: van der Pol 1926, Phil. Mag. 2(11), 978-992.

    Example:
        >>> VanDerPol(1.0).params
        tensor([1.], dtype=torch.float64)

    """

    kind, dim, on_gpu = VAN_DER_POL, 2, "van_der_pol"

    def __init__(self, mu: float | Tensor = 1.0) -> None:
        self.params = rows_of(mu=mu)


class Lorenz(Field):
    r"""Lorenz's system, :math:`y' = (\sigma (y_1 - y_0),\; y_0 (\rho - y_2) - y_1,\; y_0 y_1 - \beta y_2)`.

    Args:
        sigma, rho, beta: Numbers, or one for each trajectory, [B].

    Source: Lorenz 1963, J. Atmos. Sci. 20(2), 130-141, equations 25-27.

    """

    kind, dim, on_gpu = LORENZ, 3, "lorenz"

    def __init__(
        self, sigma: float | Tensor = 10.0, rho: float | Tensor = 28.0, beta: float | Tensor = 8.0 / 3.0
    ) -> None:
        self.params = rows_of(sigma=sigma, rho=rho, beta=beta)


class Linear(Field):
    r"""A linear system, :math:`y' = A y`.

    Args:
        matrix: A, [d, d], or one for each trajectory, [B, d, d].

    Raises:
        ShapeError: Not square.

    """

    kind, on_gpu = LINEAR, "linear"

    def __init__(self, matrix: Tensor | Sequence[Sequence[float]]) -> None:
        a = numbers("matrix", matrix)
        if a.ndim not in (2, 3) or a.shape[-1] != a.shape[-2] or a.shape[-1] == 0:
            raise ShapeError("matrix", got=list(a.shape), expected="[d, d] or [B, d, d]")
        self.dim = a.shape[-1]
        self.params = a.reshape(*a.shape[:-2], -1).contiguous()


class GaussianMixture(Field):
    r"""Velocity of the linear path from a standard normal at t = 0 to :math:`\sum_k w_k N(m_k, c_k)` at t = 1.

    .. math:: v(y, t) = \sum_k r_k \Big( m_k + \frac{t c_k - (1 - t)}{V_k} (y - t m_k) \Big), \quad
        V_k = t^2 c_k + (1 - t)^2, \quad r_k \propto w_k N(y;\, t m_k, V_k)

    Args:
        weights: K positive numbers, scaled to sum to one.
        means: [K, d].
        variances: c, positive: a number, [K] for isotropic components, or [K, d] for diagonal ones.

    Raises:
        ArgumentError: Weights or variances that are not positive.
        ShapeError: Shapes that do not fit.

    Source: Albergo, Boffi & Vanden-Eijnden 2023, appendix A; `models.oracles.MixtureOracle` is the same in torch.

    Example:
        >>> GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.1).dim
        2

    """

    kind, on_gpu = MIXTURE, "mixture"

    def __init__(self, weights: Any, means: Any, variances: Any = 1.0) -> None:
        w, m, c = numbers("weights", weights), numbers("means", means), numbers("variances", variances)
        if w.ndim != 1 or not len(w) or not (w > 0).all():
            raise ArgumentError("weights", got=w.tolist(), expected="positive numbers, one a component")
        if m.ndim != 2 or len(m) != len(w) or not m.shape[1]:
            raise ShapeError("means", got=list(m.shape), expected=f"[{len(w)}, d]")
        if c.shape not in (torch.Size([]), w.shape, m.shape):
            raise ShapeError("variances", got=list(c.shape), expected=f"a number, {list(w.shape)} or {list(m.shape)}")
        if not (c > 0).all():
            raise ArgumentError("variances", got=float(c.min()), expected="positive numbers")
        self.dim = m.shape[1]
        c = (c[:, None] if c.ndim == 1 else c).expand(m.shape)
        count = torch.tensor([len(w)], dtype=torch.float64)
        self.params = torch.cat([count, (w / w.sum()).log(), m.reshape(-1), c.reshape(-1)])
