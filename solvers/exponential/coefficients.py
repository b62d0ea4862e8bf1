"""Coefficients of exponential integrators: moments of the kernel, and the weights of nodes that reproduce them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from ...errors import ArgumentError

SERIES_BELOW = 1.0  # the recursion loses k! eps / |y|^k, which is 24 eps at most from here on
SERIES_TERMS = 22  # |y|^22 / 22! < 1e-21
QUADRATURE_NODES = 32


def kernel_moments(y: float, count: int) -> tuple[float, ...]:
    r"""Moments :math:`\mu_k(y) = \int_0^1 y\, e^{-y (1 - s)} s^k\, ds` for k = 0 .. count - 1.

    They carry every exponential step. With ``y = h``, the step in the half log-SNR, the clean estimate
    :math:`D = \sum_k c_k s^k` contributes :math:`\alpha' \sum_k c_k \mu_k(h)`; with ``y = -h`` the noise estimate
    contributes :math:`\sigma' \sum_k c_k \mu_k(-h)`; with :math:`y = (1 + \tau^2) h` they are those of the SDE. In the
    literature's functions :math:`\mu_k(y) = k!\, y\, \varphi_{k+1}(-y)`.

    .. math:: \mu_0 = 1 - e^{-y}, \quad \mu_k = 1 - \tfrac{k}{y} \mu_{k-1}, \quad
        \mu_k = \sum_{j \ge 1} (-1)^{j+1} \frac{k!}{(k + j)!} y^j \text{ for } |y| < 1

    Args:
        y: Any number; at ``inf`` the kernel is a point mass at s = 1 and every moment is 1.
        count: How many, at least 1.

    Raises:
        ArgumentError: ``y`` is NaN or ``-inf``, where the moments are infinite.

    Source: Hochbruck & Ostermann 2010, Exponential integrators, Acta Numerica 19, section 2.

    Example:
        >>> [round(moment, 6) for moment in kernel_moments(1.0, 3)]
        [0.632121, 0.367879, 0.264241]

    """
    if math.isnan(y) or y == -math.inf:
        raise ArgumentError("y", got=y, expected="a number above -inf")
    if y == math.inf:
        return (1.0,) * count
    if abs(y) < SERIES_BELOW:
        return tuple(_series(y, k) for k in range(count))
    moments = [-math.expm1(-y)]
    for k in range(1, count):
        moments.append(1.0 - k / y * moments[-1])
    return tuple(moments)


def _series(y: float, k: int) -> float:
    """The power series of one moment, which does not cancel where the recursion does."""
    total, term = 0.0, -1.0
    for j in range(1, SERIES_TERMS):
        term *= -y / (k + j)
        total += term
    return total


def lagrange_weights(nodes: Sequence[float], moments: Sequence[float]) -> tuple[float, ...]:
    r"""The weights :math:`w_j` with :math:`\sum_j w_j s_j^k = m_k` for as many moments as there are nodes.

    With the moments of a kernel these are the integrals of the kernel times the Lagrange basis on the nodes. A method
    of this package is its nodes and its moments: the published variants differ in one moment each.

    Args:
        nodes: Distinct numbers; 0 is the start of the step and 1 its end.
        moments: One for each node.

    Raises:
        ArgumentError: Two nodes coincide, a node is not finite, or the numbers of both differ.

    Example:
        >>> [round(12 * w, 12) for w in lagrange_weights([0.0, -1.0, -2.0], [1.0, 1 / 2, 1 / 3])]
        [23.0, -16.0, 5.0]

    """
    s = np.asarray(nodes, dtype=np.float64)
    if len(s) != len(moments):
        raise ArgumentError("moments", got=f"{len(moments)}", expected=f"{len(s)}, one for each node")
    if not np.isfinite(s).all() or len(set(s.tolist())) != len(s):
        raise ArgumentError("nodes", got=tuple(s.tolist()), expected="distinct finite numbers")
    powers = s[None, :] ** np.arange(len(s))[:, None]
    return tuple(np.linalg.solve(powers, np.asarray(moments, dtype=np.float64)).tolist())


def exponential_weights(nodes: Sequence[float], y: float) -> tuple[float, ...]:
    r""":math:`w_j = \int_0^1 y\, e^{-y (1 - s)} \ell_j(s)\, ds`: exact for polynomials in the half log-SNR.

    Example:
        >>> from math import isclose
        >>> weights = exponential_weights([0.0, -0.5], 0.3)
        >>> isclose(sum(weights), kernel_moments(0.3, 1)[0])
        True

    """
    return lagrange_weights(nodes, kernel_moments(y, len(nodes)))


def clock_weights(nodes: Sequence[float], clock: Callable[[float], float], y: float) -> tuple[float, ...]:
    r""":math:`w_j = \int_0^1 y\, e^{-y (1 - s)} \ell_j(\tau(s))\, ds`: exact for polynomials in another clock.

    By Gauss-Legendre with 32 nodes: for a smooth clock exact to rounding up to |y| of about 20.

    Args:
        nodes: Values of the clock at the nodes, distinct.
        clock: tau, from the fraction s of the step in the half log-SNR.
        y: As in :func:`kernel_moments`, finite.

    Raises:
        ArgumentError: Two nodes coincide, or ``y`` is not finite.

    Example:
        >>> weights = clock_weights([0.0, -0.5], lambda s: s, 0.3)
        >>> max(abs(a - b) for a, b in zip(weights, exponential_weights([0.0, -0.5], 0.3))) < 1e-15
        True

    """
    if not math.isfinite(y):
        raise ArgumentError("y", got=y, expected="a finite number")
    if len(set(nodes)) != len(nodes):
        raise ArgumentError("nodes", got=tuple(nodes), expected="distinct numbers")
    total = [0.0] * len(nodes)
    for s, share in _gauss_legendre():
        tau, kernel = clock(s), share * y * math.exp(-y * (1 - s))
        for j, node in enumerate(nodes):
            others = (other for k, other in enumerate(nodes) if k != j)
            total[j] += kernel * math.prod((tau - other) / (node - other) for other in others)
    return tuple(total)


@cache
def _gauss_legendre() -> tuple[tuple[float, float], ...]:
    """Nodes and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    return tuple(zip(((1 + x) / 2).tolist(), (w / 2).tolist(), strict=True))
