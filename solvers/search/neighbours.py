"""Neighbours of a noise: directions at a fixed angle, of the same norm, for searches that move step by step."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError, ShapeError
from ...kernels import Draw, combine, gram, normal
from ...kernels.arguments import check_dtype


def neighbours(noise: Tensor, cosine: float, *, seed: int, draw: Draw, ids: Tensor | None = None) -> Tensor:
    r"""A random neighbour of each row: of its norm, and at a given angle to it.

    .. math:: n' = |n| \left( \tau \frac{n}{|n|} + \sqrt{1 - \tau^2} \, z \right), \quad z = \frac{g_\perp}{|g_\perp|},
        \quad g_\perp = g - \frac{g \cdot n}{n \cdot n} n, \quad g \sim N(0, I)

    z is uniform on the unit vectors orthogonal to n. So if n is standard normal, n' is too, and a search stays where
    the network was trained: in high dimensions nearly all the mass of N(0, I) lies close to one norm. Inner products
    and sums are in float64, and the result is rounded once; that of a row depends on nothing but this row and its id.

    Args:
        noise: Pivots [R, *D] with at least two numbers in D; float32, float64, bfloat16 or float16. For several
            neighbours of one pivot, repeat it and give ids.
        cosine: tau in (0, 1): cosine of the angle between n and n'; the larger, the closer.
        seed: Integer in [0, 2**64).
        draw: Which draw of each id; its purpose normally is ``PURPOSE_NEIGHBOUR``.
        ids: Whose random numbers a row gets, int64 [R]; default 0, ..., R - 1.

    Returns:
        [R, *D], of the dtype and on the device of ``noise``.

    Raises:
        ArgumentError: tau outside (0, 1); a pivot that is zero, which has no direction; says which row.
        NotFiniteError: A pivot with NaN or infinity. Both checks read R numbers back from a device.
        ShapeError: No second number in a row, or not an id for each.
        DtypeError: Numbers of another kind.

    Source:
        Ma et al. 2025, Inference-time scaling for diffusion models beyond scaling denoising steps (zero-order search).

    Example:
        >>> from pushforward.kernels import PURPOSE_NEIGHBOUR
        >>> pivot = torch.tensor([[3.0, 4.0]]).repeat(2, 1)
        >>> near = neighbours(pivot, 0.8, seed=0, draw=Draw(PURPOSE_NEIGHBOUR, step=0))
        >>> near.norm(dim=1)
        tensor([5., 5.])
        >>> torch.cosine_similarity(near, pivot)
        tensor([0.8000, 0.8000])
    """
    if not 0 < cosine < 1:
        raise ArgumentError("cosine", got=cosine, expected="a number in (0, 1): 1 is the pivot itself")
    check_dtype("noise", noise)
    if noise.shape[1:].numel() < 2:
        expected = "[R, *D] with at least two numbers in D, or nothing is orthogonal to a row"
        raise ShapeError("noise", got=list(noise.shape), expected=expected)
    pivots = noise.double()
    normals = normal(noise.shape, seed=seed, draw=draw, samples=ids, dtype=torch.float64, device=noise.device)
    products = gram([pivots, normals]).products
    squares = products[:, 0, 0]
    _check(squares)
    along = products[:, 0, 1] / squares
    across = _weighted(normals, pivots, torch.ones_like(along), -along)
    length = (squares / gram([across]).products[:, 0, 0]).sqrt()
    tau = torch.full_like(length, cosine)
    return _weighted(pivots, across, tau, (1 - cosine**2) ** 0.5 * length).to(noise.dtype)


def _weighted(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    return cast(Tensor, combine([x, y], torch.stack([of_x, of_y], 1)))


def _check(squares: Tensor) -> None:
    trouble = ~(torch.isfinite(squares) & (squares > 0))
    if not bool(trouble.any()):
        return
    row = int(trouble.nonzero()[0])
    place = f"row {row} of {len(squares)}"
    if float(squares[row]) == 0:
        raise ArgumentError("noise", got=f"zeros in {place}", expected="a vector with a direction")
    raise NotFiniteError("noise", got=f"NaN or infinity in {place}", expected="finite numbers")
