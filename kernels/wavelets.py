"""Wavelet transforms of image planes, one level, each in one pass: `haar2d`, `dwt2d` and their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..errors import ShapeError, UnknownNameError
from . import catalogue, planes, wavelet_ops
from .wavelet_filters import WAVELETS, Wavelet


class Bands(NamedTuple):
    """The four bands of one level, each [..., h, w]; an image of constant rows has no horizontal band.

    Args:
        low: Averages.
        horizontal: Differences between rows: horizontal edges.
        vertical: Differences between columns: vertical edges.
        diagonal: Both.
    """

    low: Tensor
    horizontal: Tensor
    vertical: Tensor
    diagonal: Tensor


def haar2d(x: Tensor) -> Bands:
    r"""Haar bands of the 2 x 2 blocks of every plane.

    .. math:: \begin{pmatrix} L & V \\ H & D \end{pmatrix} = \tfrac12 \begin{pmatrix} 1 & 1 \\ 1 & -1 \end{pmatrix}
        \begin{pmatrix} a & b \\ c & d \end{pmatrix} \begin{pmatrix} 1 & 1 \\ 1 & -1 \end{pmatrix}

    Orthonormal. Only sums and an exact half: whole numbers below 2**22 come back exactly from `ihaar2d` in float32.
    Sums are formed in float32 (float64 for float64), rows first, and rounded once.

    Args:
        x: [..., H, W] with even H and W; float32, float64, bfloat16 or float16; copied if not contiguous.

    Returns:
        `Bands`, each [..., H/2, W/2]. Differentiable.

    Raises:
        ShapeError: An odd height or width; `dwt2d` with ``mode="symmetric"`` takes those.
        DtypeError: Another dtype.

    Source:
        Haar 1910, Math. Ann. 69, 331-371.

    Example:
        >>> haar2d(torch.tensor([[1.0, 2.0], [3.0, 6.0]])).low
        tensor([[6.]])
    """
    planes.check("x", x)
    _check_even("x", x)
    return Bands(*planes.call("haar2d", wavelet_ops.haar2d, [x]))


def ihaar2d(bands: Sequence[Tensor]) -> Tensor:
    """The planes whose `haar2d` is ``bands``.

    Args:
        bands: `Bands`, or four tensors in that order, each [..., h, w]; copied if not contiguous.

    Returns:
        [..., 2 h, 2 w]. Differentiable.

    Raises:
        ShapeError, DtypeError, DeviceError: Bands that differ, or not four of them.

    Example:
        >>> x = torch.arange(16.0).reshape(4, 4)
        >>> torch.equal(ihaar2d(haar2d(x)), x)
        True
    """
    _check_bands(bands)
    return planes.call("ihaar2d", wavelet_ops.ihaar2d, bands)


def dwt2d(x: Tensor, filter: str | Wavelet = "db4", mode: str = "periodic") -> Bands:
    r"""One level of the orthogonal wavelet transform of every plane.

    .. math:: L_{ij} = \sum_{k l} h_k h_l \, x_{2i + o + k,\, 2j + o + l}, \quad
        H: g_k h_l, \quad V: h_k g_l, \quad D: g_k g_l, \quad g_k = (-1)^k h_{K-1-k}

    The numbers and sizes are those of PyWavelets: ``"periodic"`` (its ``"periodization"``, with o = 1 - K/2) is an
    orthonormal map of even sizes onto half of them; ``"symmetric"`` (reflected, the edge element repeated) and
    ``"zero"`` (both o = 2 - K) take any size n to (n + K - 1) // 2. Products are added from left to right, along
    columns first, in float32 (float64 for float64), and rounded once.

    Args:
        x: [..., H, W]; float32, float64, bfloat16 or float16; copied if not contiguous.
        filter: ``"haar"``, ``"db2"`` ... ``"db8"``, ``"sym4"``, or a `Wavelet`.
        mode: What lies beyond the borders.

    Returns:
        `Bands`. Differentiable.

    Raises:
        UnknownNameError: No such filter or mode.
        ShapeError: Odd sizes in periodic mode, or an empty plane.
        DtypeError: Another dtype.

    Source:
        Mallat 1989, IEEE Trans. Pattern Anal. Mach. Intell. 11(7), 674-693.

    Example:
        >>> x = torch.randn(3, 9, 13, dtype=torch.float64)
        >>> bands = dwt2d(x, "db4", "symmetric")
        >>> bands.low.shape
        torch.Size([3, 8, 10])
        >>> torch.allclose(idwt2d(bands, "db4", "symmetric", size=(9, 13)), x)
        True
    """
    taps = _taps(filter)
    _check_mode(mode)
    planes.check("x", x)
    height, width = x.shape[-2:]
    if mode == "periodic":
        _check_even("x", x)
    if height == 0 or width == 0:
        raise ShapeError("x", got=list(x.shape), expected="planes of at least one element")
    if len(taps) == 2 and height % 2 == 0 and width % 2 == 0:  # no border to cross, and no rounding of 1/sqrt(2)
        return Bands(*planes.call("haar2d", wavelet_ops.haar2d, [x]))
    if mode == "periodic":
        sizes = 1 - len(taps) // 2, height // 2, width // 2
    else:
        sizes = 2 - len(taps), (height + len(taps) - 1) // 2, (width + len(taps) - 1) // 2
    return Bands(*planes.call("dwt2d", wavelet_ops.dwt2d, [x], taps, mode, *sizes))


def idwt2d(
    bands: Sequence[Tensor],
    filter: str | Wavelet = "db4",
    mode: str = "periodic",
    *,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The planes whose `dwt2d` is ``bands``: the transposed sum.

    Args:
        bands: `Bands`, or four tensors in that order, each [..., h, w]; copied if not contiguous.
        filter: As for `dwt2d`.
        mode: As for `dwt2d`.
        size: Height and width of the result. By default (2 h, 2 w) in periodic mode, else (2 h - K + 2, 2 w - K + 2);
            one less where the transformed plane had an odd size.

    Returns:
        [..., *size]. Differentiable.

    Raises:
        UnknownNameError: No such filter or mode.
        ShapeError, DtypeError, DeviceError: Bands that differ, are too small for the filter, or are not four; a size
            that they do not have.

    Example:
        >>> x = torch.randn(4, 6, dtype=torch.float64)
        >>> torch.allclose(idwt2d(dwt2d(x, "db2"), "db2"), x)
        True
    """
    taps = _taps(filter)
    _check_mode(mode)
    _check_bands(bands)
    h, w = bands[0].shape[-2:]
    loss = 0 if mode == "periodic" else len(taps) - 2
    whole = 2 * h - loss, 2 * w - loss
    if min(whole) < 1:
        raise ShapeError("bands", got=list(bands[0].shape), expected=f"sides of at least {loss // 2 + 1} for {mode}")
    size = whole if size is None else (int(size[0]), int(size[1]))
    for got, most in zip(size, whole, strict=True):
        if not (got == most or (got == most - 1 and mode != "periodic")):
            odd = "" if mode == "periodic" else ", or one less"
            raise ShapeError("size", got=list(size), expected=f"{list(whole)}{odd}, for bands {[h, w]}")
    if len(taps) == 2 and size == whole:
        return planes.call("ihaar2d", wavelet_ops.ihaar2d, bands)
    offset = 1 - len(taps) // 2 if mode == "periodic" else 2 - len(taps)
    return planes.call("idwt2d", wavelet_ops.idwt2d, bands, taps, mode == "periodic", offset, *size)


def _taps(filter: str | Wavelet) -> list[float]:
    if isinstance(filter, Wavelet):
        return list(filter.taps)
    if filter not in WAVELETS:
        raise UnknownNameError("filter", got=repr(filter), expected=" | ".join(WAVELETS))
    return list(WAVELETS[filter].taps)


def _check_mode(mode: str) -> None:
    if mode not in wavelet_ops.MODES:
        raise UnknownNameError("mode", got=repr(mode), expected=" | ".join(wavelet_ops.MODES))


def _check_even(name: str, x: Tensor) -> None:
    for size in x.shape[-2:]:
        if size % 2:
            raise ShapeError(name, got=list(x.shape), expected="even height and width", hint='Use mode="symmetric"')


def _check_bands(bands: Sequence[Tensor]) -> None:
    if len(bands) != 4:
        raise ShapeError("bands", got=f"{len(bands)} tensors", expected="four: low, horizontal, vertical, diagonal")
    planes.check("bands.low", bands[0])
    planes.check_like([f"bands.{name}" for name in Bands._fields], bands)


_MOVED = "s P H W read, s P H W written (P planes)"
catalogue.describe(
    "haar2d",
    formula="(L, V; H, D) = 1/2 (1, 1; 1, -1) (a, b; c, d) (1, 1; 1, -1) of every 2 x 2 block",
    moved=_MOVED,
    differentiable="x",
    benchmark="wavelets.py",
)
catalogue.describe(
    "ihaar2d", formula="inverse of haar2d", moved=_MOVED, differentiable="all bands", benchmark="wavelets.py"
)
catalogue.describe(
    "dwt2d",
    formula="L_ij = sum_kl h_k h_l x[2i+o+k, 2j+o+l]; H with g_k h_l, V with h_k g_l, D with g_k g_l",
    moved=_MOVED,
    differentiable="x",
    benchmark="wavelets.py",
)
catalogue.describe(
    "idwt2d", formula="inverse of dwt2d", moved=_MOVED, differentiable="all bands", benchmark="wavelets.py"
)
