"""APG: guidance without the part that saturates, with a capped norm and a reverse momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...errors import ArgumentError
from ..branch_weights import finite
from ..spaces import Scalar
from .moments import TINY, Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class APG(GramRule):
    r"""Adaptive projected guidance, in clean estimates.

    .. math:: M = (D_c - D_u) + \beta M_{last}, \quad k = \min(1, r / \lVert M \rVert), \quad
        D = D_c + (w - 1)\, k\, (M_\perp + \eta M_\parallel)

    with the parts of M orthogonal and parallel to :math:`D_c`. What is parallel raises contrast and saturates colours.
    :math:`\eta = 1` without cap and momentum is plain guidance.

    The last update is that of the latest evaluation at an earlier time of the run: a second stage or a repeated step
    replaces what was remembered at its time, and a later time goes on from it.

    Args:
        eta: What remains of the parallel part; 0 in the paper.
        cap: r, the largest norm of M over a sample, a raw number that depends on the model: 2.5 to 15 are in use.
            None: no limit.
        momentum: :math:`\beta`, in (-1, 1); negative values, such as -0.5, are intended. 0: none.
        space: The quantity that is projected; the paper's is "denoised", and another makes another method.

    Raises:
        ArgumentError: A cap that is not positive; a momentum outside (-1, 1).

    Source:
        Sadat et al. 2024, Eliminating oversaturation and artifacts of high guidance scales in diffusion models.

    Example:
        >>> APG(cap=15.0, momentum=-0.5)
        APG(eta=0.0, cap=15.0, momentum=-0.5, space='denoised')
    """

    eta: float = 0.0
    cap: float | None = None
    momentum: float = 0.0
    space: str = "denoised"

    def __post_init__(self) -> None:
        check_space(self.space)
        finite(self.eta, "eta")
        if self.cap is not None and not 0 < self.cap < math.inf:
            raise ArgumentError("cap", got=self.cap, expected="a norm above 0, or None for no limit")
        if not -1 < self.momentum < 1:
            raise ArgumentError("momentum", got=self.momentum, expected="a number in (-1, 1)")

    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        """``m = (w - 1) k``, ``p = -m (1 - eta) <c, d> / <c, c>``."""
        update = (weight - 1.0) * torch.ones_like(m.cc)
        if self.cap is not None:
            update = update * (self.cap / m.update_norm).clamp_max(1.0)
        parallel = m.cd / m.cc.clamp_min(TINY)
        return -(1.0 - self.eta) * update * parallel, update
