"""Linear conditions on clean estimates, met exactly: transforms of a run, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError

TOLERANCE = 1e-3


class Projection:
    r"""Clean estimates moved to where a linear condition holds: :math:`D \leftarrow D - A^+ (A D - y)`.

    For ``pf.sample(..., transform=...)``; super-resolution, colourisation, tomography. In the paper's terms the
    conditioning is implicit: noise and velocity follow from the moved estimate.

    Args:
        forward: A, a linear function of images [B, *D].
        inverse: A+, with A A+ A = A; probed once, on random numbers.
        target: y, [B or 1, ...].

    Raises:
        ArgumentError: ``inverse`` is no pseudo-inverse of ``forward``.

    Source:
        Nair et al. 2023, Steered Diffusion, section 3; Wang et al. 2023, DDNM, eq. 8.

    Example:
        >>> first = Projection(lambda x: x[:, :1], lambda y: torch.cat([y, 0 * y], 1), torch.tensor([[2.0]]))
        >>> first(torch.tensor([[5.0, 7.0]]), 0.5)
        tensor([[2., 7.]])
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], target: Tensor):
        self.forward, self.inverse, self.target = forward, inverse, target
        check_pair(forward, inverse, target)

    def __call__(self, denoised: Tensor, t: float) -> Tensor:
        """The moved estimate."""
        del t
        return denoised - self.inverse(self.forward(denoised) - self.target.to(denoised))

    @classmethod
    def pooled(cls, target: Tensor, factor: int) -> Projection:
        """Super-resolution: means over blocks of ``factor`` pixels square are those of ``target``, [B, C, H, W].

        Raises:
            ArgumentError: A factor below 2.
        """
        if not isinstance(factor, int) or factor < 2:
            raise ArgumentError("factor", got=factor, expected="an integer above 1")

        def repeat(y: Tensor) -> Tensor:
            return y.repeat_interleave(factor, -2).repeat_interleave(factor, -1)

        return cls(lambda x: torch.nn.functional.avg_pool2d(x, factor), repeat, target)


class KnownPixels:
    """Clean estimates whose known elements are replaced: inpainting, and the projection of a mask, without rounding.

    For ``pf.sample(..., transform=...)``. What is known is the same, bit for bit, at the end of a run whose last step
    returns the clean estimate.

    Args:
        known: True where the image is known, bool [B or 1, *D].
        image: [B or 1, *D]; what it holds elsewhere does not matter.

    Raises:
        ShapeError: Mask and image of shapes that do not broadcast.
        ArgumentError: A mask that is not bool.

    Source:
        Nair et al. 2023, Steered Diffusion, section 3.

    Example:
        >>> KnownPixels(torch.tensor([[True, False]]), torch.tensor([[2.0, 0.0]]))(torch.tensor([[5.0, 7.0]]), 0.5)
        tensor([[2., 7.]])
    """

    def __init__(self, known: Tensor, image: Tensor) -> None:
        if known.dtype != torch.bool:
            raise ArgumentError("known", got=str(known.dtype), expected="a bool mask, for instance mask > 0.5")
        try:
            torch.broadcast_shapes(known.shape, image.shape)
        except RuntimeError as error:
            raise ShapeError("known", got=list(known.shape), expected=f"that of image, {list(image.shape)}") from error
        self.known, self.image = known, image

    def __call__(self, denoised: Tensor, t: float) -> Tensor:
        """The estimate with what is known in its place."""
        del t
        return torch.where(self.known.to(denoised.device), self.image.to(denoised), denoised)


def check_pair(forward: Callable[[Tensor], Any], inverse: Callable[[Tensor], Any], target: Tensor) -> None:
    """Refuse an inverse that is none, by what the pair does to random numbers.

    Raises:
        ArgumentError: ``forward(inverse(forward(v)))`` is not ``forward(v)``, to 1e-3.
    """
    y = target.double()[:1]
    shape = inverse(y).shape
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(y.device)
    once = forward(v)
    again = forward(inverse(once))
    error = float((again - once).norm() / once.norm().clamp_min(1e-30))
    if not error <= TOLERANCE:
        hint = "Check the scale of the inverse"
        expected = f"A A+ A v = A v, to {TOLERANCE:g}: the operator pair is not consistent"
        raise ArgumentError("inverse", got=f"a relative difference of {error:.2g}", expected=expected, hint=hint)
