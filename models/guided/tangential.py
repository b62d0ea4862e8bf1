"""Tangential guidance: the unconditional prediction without what both predictions disagree about."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..spaces import Scalar
from .moments import Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class Tangential(GramRule):
    r"""Guidance against u projected on the leading right singular vector of the pair [c; u].

    .. math:: u' = U_u (U_c\, c + U_u\, u), \quad q = u' + w (c - u')

    with U the leading eigenvector of the pair's 2 x 2 Gram matrix, so that no decomposition of tensors is needed.

    Args:
        space: The quantity that is projected; the paper's scores, and so "noise", at which alpha must not be 0.

    Source:
        Kwon et al. 2025, TCFG: tangential damping classifier-free guidance.

    Example:
        >>> Tangential()
        Tangential(space='noise')
    """

    space: str = "noise"

    def __post_init__(self) -> None:
        check_space(self.space)

    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        r"""``p = (w - 1) U_c (U_c - U_u) / b``, ``m = (w - 1) U_u^2``.

        .. math:: U_{c,u}^2 = (1 \pm \cos 2\theta) / 2, \quad \cos 2\theta = (\lVert c \rVert^2 - \lVert u \rVert^2) / R
        """
        cross, difference = m.cu, m.cd + m.ud  # |c|^2 - |u|^2 is b times this
        root = torch.hypot(m.scale * difference, 2 * cross)
        safe = torch.where(root > 0, root, torch.ones_like(root))
        cosine = (m.scale * difference / safe).clamp(-1.0, 1.0)
        of_c, size = ((1 + cosine) / 2).sqrt(), ((1 - cosine) / 2).sqrt()
        aligned = cross >= 0
        # Where c and u are aligned, (U_c - U_u) / b without dividing by b; elsewhere b is not small.
        gap = torch.where(aligned, difference / (safe * (of_c + size)), (of_c + size) / m.scale)
        excess = weight - 1.0
        return excess * of_c * gap, excess * size * size
