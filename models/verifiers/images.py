"""Rewards of pictures that a pen has drawn: amount of ink, symmetry, slant, similarity to a reference.

They look at ink, ``clamp((x + 1) / 2, 0, 1)``: what a viewer of a picture in [-1, 1] sees, so that no reward can be
gained beyond the range of the pixels; a pixel outside it has no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError
from .context import entry
from .describe import Described

AXES = {"left-right": -1, "up-down": -2}
MEASURES = ("cosine", "squared")


def ink_of(x: Tensor) -> Tensor:
    """Ink of pictures [B, C, H, W] in [-1, 1]: 0 where nothing is drawn, 1 where it is; half precision is widened.

    Raises:
        ShapeError: x is not [B, C, H, W].
        DtypeError: x is not floating.

    Example:
        >>> ink_of(torch.tensor([-1.2, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)).flatten()
        tensor([0.0000, 0.0000, 0.5000, 1.0000])
    """
    if x.ndim != 4:
        raise ShapeError("x", got=list(x.shape), expected="pictures [B, C, H, W]")
    if not x.is_floating_point():
        raise DtypeError("x", got=str(x.dtype), expected="a floating dtype, pixels in [-1, 1]")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return ((wide + 1) / 2).clamp(0, 1)


@dataclass(frozen=True, repr=False)
class Ink(Described):
    r"""Mean ink of a picture, or how near it comes to an amount.

    .. math:: r(x) = \bar a = \operatorname{mean}(a), \quad \text{or} \quad r(x) = -(\bar a - \tau)^2

    with a the ink, ``clamp((x + 1) / 2, 0, 1)``. Range: [0, 1], or [-1, 0]. Differentiable. The digits that the
    bundled models have learned have 0.13 on average.

    Args:
        target: tau in [0, 1]; None for the amount itself.

    Raises:
        ArgumentError: ``target`` outside [0, 1].
        ShapeError: When called, x is not [B, C, H, W].

    Example:
        >>> Ink()(torch.full((1, 1, 28, 28), -0.5)), Ink(target=0.5)(torch.full((1, 1, 28, 28), -0.5))
        (tensor([0.2500]), tensor([-0.0625]))
    """

    target: float | None = None

    differentiable = True

    def __post_init__(self) -> None:
        if self.target is not None and not 0 <= self.target <= 1:
            raise ArgumentError("target", got=self.target, expected="an amount of ink in [0, 1], or None")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B]."""
        amount = ink_of(x).flatten(1).mean(1)
        return amount if self.target is None else -((amount - self.target) ** 2)


@dataclass(frozen=True, repr=False)
class Symmetry(Described):
    r"""How like its mirror image a picture is: the cosine of their angle.

    .. math:: r(x) = \frac{\langle a, F a \rangle}{\langle a, a \rangle}

    with a the ink and F the flip about the middle of the picture, which keeps the norm. Range: [0, 1]; 1 for a
    symmetric picture, 0 for an empty one. Differentiable.

    Args:
        axis: "left-right" or "up-down": what is exchanged.

    Raises:
        ArgumentError: Another axis.
        ShapeError: When called, x is not [B, C, H, W].

    Example:
        >>> x = torch.tensor([[1.0, -1.0], [1.0, -1.0]]).reshape(1, 1, 2, 2)
        >>> Symmetry()(x), Symmetry("up-down")(x)
        (tensor([0.]), tensor([1.]))
    """

    axis: str = "left-right"

    differentiable = True

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ArgumentError("axis", got=repr(self.axis), expected="'left-right' or 'up-down'")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B]."""
        ink = ink_of(x)
        return _cosine(ink, ink.flip(AXES[self.axis]))


@dataclass(frozen=True, repr=False)
class Slant(Described):
    r"""The angle by which a picture leans to the right, from its second moments; or how near that comes to an angle.

    .. math:: \theta = \operatorname{atan2}(\mu_{uv}, \mu_{vv}), \quad
        \mu_{uv} = \frac{\sum a (u - \bar u)(v - \bar v)}{\sum a}, \quad r(x) = \theta \text{ or } -(\theta - \tau)^2

    with a the ink, u to the right and v upwards: shearing a picture by ``u + s v`` adds s to :math:`\tan \theta`.
    Range: (-pi/2, pi/2), or (-pi^2, 0]. Differentiable where there is ink on two rows; an empty picture or a horizontal
    line of one row has the angle 0.

    Args:
        target: tau in radians, within (-pi/2, pi/2); None for the angle itself.

    Raises:
        ArgumentError: ``target`` outside the range.
        ShapeError: When called, x is not [B, C, H, W].

    Example:
        >>> Slant()(2 * torch.eye(4).flip(0)[None, None] - 1) * 180 / torch.pi
        tensor([45.])
    """

    target: float | None = None

    differentiable = True

    def __post_init__(self) -> None:
        if self.target is not None and not -math.pi / 2 < self.target < math.pi / 2:
            raise ArgumentError("target", got=self.target, expected="an angle in (-pi/2, pi/2) radians, or None")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B]."""
        ink = ink_of(x).sum(1)
        height, width = ink.shape[1:]
        u = torch.arange(width, dtype=ink.dtype, device=ink.device) - (width - 1) / 2
        v = ((height - 1) / 2 - torch.arange(height, dtype=ink.dtype, device=ink.device))[:, None]
        share = ink / ink.sum((1, 2), keepdim=True).clamp_min(_tiny(ink))
        mean_u, mean_v = (share * u).sum((1, 2), keepdim=True), (share * v).sum((1, 2), keepdim=True)
        shear = (share * (u - mean_u) * (v - mean_v)).sum((1, 2))
        spread = (share * (v - mean_v) ** 2).sum((1, 2))
        angle = torch.atan(shear / spread.clamp_min(_tiny(ink)))  # spread = 0 implies shear = 0
        return angle if self.target is None else -((angle - self.target) ** 2)


@dataclass(frozen=True, repr=False, eq=False)
class Similarity(Described):
    r"""How like a reference a picture is.

    .. math:: r(x) = \frac{\langle a, b \rangle}{|a| |b|}, \quad \text{or} \quad r(x) = -\operatorname{mean} (a - b)^2

    with a the ink of the picture and b that of the reference. Range: [0, 1], or [-1, 0]. Differentiable.

    Args:
        reference: A picture [C, H, W] in [-1, 1] for all rows; None reads ``context["reference"]``, [B or 1, C, H, W].
        measure: "cosine" or "squared".

    Raises:
        ArgumentError: Another measure; when called, no reference anywhere.
        ShapeError: The reference or x has another shape.

    Example:
        >>> Similarity(torch.ones(1, 28, 28), "squared")(torch.zeros(1, 1, 28, 28))
        tensor([-0.2500])
    """

    reference: Tensor | None = None
    measure: str = "cosine"

    differentiable = True

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ArgumentError("measure", got=repr(self.measure), expected="'cosine' or 'squared'")
        if self.reference is not None and self.reference.ndim != 3:
            raise ShapeError("reference", got=list(self.reference.shape), expected="[C, H, W]")

    def __call__(self, x: Tensor, context: Any = None) -> Tensor:
        """Rewards [B]."""
        ink = ink_of(x)
        given = entry(context, "reference", self) if self.reference is None else self.reference[None]
        if given.shape[1:] != x.shape[1:] or given.shape[0] not in (1, x.shape[0]):
            raise ShapeError("reference", got=list(given.shape), expected=f"{list(x.shape)}, as x, or one row")
        wanted = ink_of(given.to(ink)).expand_as(ink)
        return _cosine(ink, wanted) if self.measure == "cosine" else -((ink - wanted) ** 2).flatten(1).mean(1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [B] of inks; 0 if one of the pictures is empty, without a division by 0 in its gradient."""
    a, b = a.flatten(1), b.flatten(1)
    norms = (a.square().sum(1) * b.square().sum(1)).clamp_min(_tiny(a)).sqrt()
    return (a * b).sum(1) / norms


def _tiny(x: Tensor) -> float:
    """Far below any ink that a pixel of eight bits can hold, far above underflow, its square too."""
    return 1e-12 if x.dtype == torch.float32 else 1e-30
