"""Newton's form of an interpolating polynomial, as weights of the values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ArgumentError


def newton_weights(nodes: Sequence[float], at: float) -> list[float]:
    r"""Weights of the values at ``nodes`` in the polynomial through them, at another place.

    .. math:: p(u) = \sum_k f[u_n, \ldots, u_{n-k}] \prod_{j < k} (u - u_{n-j})

    In backward form, from the last node; on equal distances h and with s = (u - u_n) / h that is
    ``f + s Df + s (s + 1) / 2 D2f + ...``. The weights sum to one and reproduce polynomials of degree
    ``len(nodes) - 1``.

    Args:
        nodes: Different from each other, finite; the newest last.
        at: Where, finite.

    Raises:
        ArgumentError: Nodes that coincide or are infinite; an infinite place.

    Example:
        >>> newton_weights([0.0, 1.0, 2.0], 3.0)
        [1.0, -3.0, 3.0]
    """
    points = np.asarray(nodes, dtype=np.float64)
    if len(set(points.tolist())) != len(points) or not np.isfinite(points).all() or not np.isfinite(at):
        raise ArgumentError("nodes", got=(list(nodes), at), expected="finite nodes that differ, and a finite place")
    points = points[::-1]
    difference = np.eye(len(points))  # row i: the difference f[u_i, ..., u_{i+k}] as weights of the values
    weights, product = difference[0].copy(), 1.0
    for k in range(1, len(points)):
        product *= at - points[k - 1]
        difference = (difference[1:] - difference[:-1]) / (points[k:] - points[:-k])[:, None]
        weights += product * difference[0]
    return weights[::-1].tolist()
