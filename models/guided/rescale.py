"""Guidance rescale: the spread of the conditional prediction, put back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import ArgumentError, ShapeError
from ..spaces import Scalar
from .moments import TINY, Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class Rescale(GramRule):
    r"""Guided predictions, scaled towards the spread of the conditional one.

    .. math:: q_w = u + w (c - u), \quad q = \left( \phi \frac{\mathrm{std}(c)}{\mathrm{std}(q_w)} + 1 - \phi \right)
        q_w

    Standard deviations run over the elements of a sample. The rule depends on the space: the authors apply it to the
    network's own output, noise or v; in velocities it also rescales the part that is the state's.

    Args:
        phi: Share of the correction, in [0, 1]; 0 is plain guidance. The authors use 0.7 with w = 7.5.
        space: The quantity whose spread is kept.

    Raises:
        ArgumentError: ``phi`` outside [0, 1].
        ShapeError: When called, samples of one element, which have no spread.

    Source:
        Lin et al. 2023, Common diffusion noise schedules and sample steps are flawed, section 3.4.

    Example:
        >>> Rescale(0.7)
        Rescale(phi=0.7, space='output')
    """

    phi: float = 0.7
    space: str = "output"

    def __post_init__(self) -> None:
        check_space(self.space)
        if not 0 <= self.phi <= 1:
            raise ArgumentError("phi", got=self.phi, expected="a share in [0, 1]")

    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        r"""With :math:`\mathrm{var}(q_w) = \mathrm{var}(c) (1 + b e)`, :math:`r = (1 + b e)^{-1/2}`: ``f = 1 + b p``.

        .. math:: p = \phi (r - 1) / b = -\phi\, e / ((1 + b e)(1 + r)), \quad m = f (w - 1)
        """
        if m.size < 2:
            raise ShapeError("state", got=f"samples of {m.size} element", expected="two or more: one has no spread")
        variance, covariance = m.cc - m.c * m.c / m.size, m.cd - m.c * m.d / m.size
        excess = weight - 1.0
        change = excess * (2 * covariance + excess * m.scale * (m.dd - m.d * m.d / m.size)) / variance.clamp_min(TINY)
        grown = 1 + m.scale * change
        p = -self.phi * change / (grown * (1 + grown.rsqrt()))
        p = torch.where(variance > 0, p, torch.full_like(p, -self.phi) / m.scale)  # std(c) = 0: f = 1 - phi
        return p, (1 + m.scale * p) * excess
