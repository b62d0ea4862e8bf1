"""Inner products that rules of guidance are functions of, from one read of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ... import kernels
from ..spaces import Scalar, coefficient_rows

TINY = 1e-200  # in the place of a squared norm of zero, which has no root with a derivative


class Moments(NamedTuple):
    r"""Per sample, of the conditional quantity c and of the direction d in which guidance goes.

    With c in the rule's space, :math:`c = a x + b\, o_{cond}`, the unconditional one is :math:`u = c - b d` for
    :math:`d = o_{cond} - o_{null}`. Rules are written in c and d, not in c and u: what they add to the network's
    output is a multiple of c and one of d, neither of which divides by b, so that b may vanish.

    Attributes:
        scale: b, a number or float64 [B].
        size: Elements of a sample.
        cc, cd, dd, cu, ud, uu: Inner products, float64 [B].
        c, d: Sums of elements, float64 [B].
    """

    scale: Scalar
    size: int
    cc: Tensor
    cd: Tensor
    dd: Tensor
    cu: Tensor
    ud: Tensor
    uu: Tensor
    c: Tensor
    d: Tensor

    @property
    def update_norm(self) -> Tensor:
        """``|b d|``: the norm of what guidance would add in the rule's space, above zero."""
        return (self.scale * self.scale * self.dd).clamp_min(TINY).sqrt()


def moments(
    tensors: Sequence[Tensor], c: Sequence[Scalar], d: Sequence[Scalar], u: Sequence[Scalar], scale: Scalar
) -> Moments:
    """The moments of three combinations of up to four tensors: one pass, whatever the combinations.

    Args:
        tensors: [B, *D], of one dtype.
        c, d, u: Their coefficients, one a tensor; numbers or float64 [B].
        scale: b.
    """
    products, sums = kernels.gram(tensors)
    rows = coefficient_rows([c, d, u], len(sums), sums.device)  # [3, K] or [B, 3, K]
    squares = rows @ products @ rows.mT
    totals = (rows @ sums[..., None])[..., 0]
    (cc, cd, cu), (_, dd, ud), (_, _, uu) = (row.unbind(1) for row in squares.unbind(1))
    return Moments(scale, tensors[0][0].numel(), cc, cd, dd, cu, ud, uu, totals[:, 0], totals[:, 1])
