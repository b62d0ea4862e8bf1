"""Image pyramids: `pyramid_down` and `pyramid_up`, one pass each, and the Laplacian pyramid made of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ArgumentError, ShapeError, UnknownNameError
from . import catalogue, operators, planes
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES

DOWN, UP = ("box", "bilinear"), ("nearest", "bilinear")


def pyramid_down(x: Tensor, filter: str = "box") -> Tensor:
    r"""Planes of half the size.

    .. math:: y_i = \tfrac12 (x_{2i} + x_{2i+1}) \; \text{("box")}, \quad
        y_i = \tfrac18 (x_{2i-1} + 3 x_{2i} + 3 x_{2i+1} + x_{2i+2}) \; \text{("bilinear")}

    in both directions; beyond the edge the edge element repeats. A quarter of the transpose of `pyramid_up` with
    ``"nearest"`` or ``"bilinear"``. Sums are formed in float32 (float64 for float64), down the columns first, and
    rounded once.

    Args:
        x: [..., H, W], any H, W >= 1; float32, float64, bfloat16 or float16; copied if not contiguous.
        filter: ``"box"`` (also what bilinear interpolation to half the size does without anti-aliasing) or
            ``"bilinear"`` (the triangle filter, with anti-aliasing).

    Returns:
        [..., ceil(H/2), ceil(W/2)]. Differentiable.

    Raises:
        UnknownNameError: No such filter.
        ShapeError, DtypeError: Not planes, or empty ones; another dtype.

    Source:
        Burt & Adelson 1983, IEEE Trans. Commun. 31(4), 532-540.

    Example:
        >>> pyramid_down(torch.tensor([[1.0, 3.0, 5.0, 7.0]]))
        tensor([[2., 6.]])
    """
    _check_name(filter, DOWN)
    _check_planes("x", x)
    return planes.call("pyramid_down", _down, [x], filter, 1.0)


def pyramid_up(x: Tensor, filter: str = "bilinear", *, size: tuple[int, int] | None = None) -> Tensor:
    r"""Planes of twice the size.

    .. math:: y_{2i} = y_{2i+1} = x_i \; \text{("nearest")}, \quad
        y_{2i} = \tfrac14 x_{i-1} + \tfrac34 x_i, \; y_{2i+1} = \tfrac34 x_i + \tfrac14 x_{i+1} \; \text{("bilinear")}

    in both directions; beyond the edge the edge element repeats. The same as `torch.nn.functional.interpolate`.

    Args:
        x: [..., h, w], h, w >= 1; float32, float64, bfloat16 or float16; copied if not contiguous.
        filter: ``"nearest"`` or ``"bilinear"``.
        size: Height and width of the result: 2 h or 2 h - 1, 2 w or 2 w - 1. By default (2 h, 2 w).

    Returns:
        [..., *size]. Differentiable.

    Raises:
        UnknownNameError: No such filter.
        ShapeError, DtypeError: Not planes, or empty ones; a size that is not twice theirs; another dtype.

    Example:
        >>> pyramid_up(torch.tensor([[0.0, 4.0]]), size=(1, 4))
        tensor([[0., 1., 3., 4.]])
    """
    _check_name(filter, UP)
    _check_planes("x", x)
    h, w = x.shape[-2:]
    size = (2 * h, 2 * w) if size is None else (int(size[0]), int(size[1]))
    for got, low in zip(size, (h, w), strict=True):
        if got not in (2 * low - 1, 2 * low):
            raise ShapeError("size", got=list(size), expected=f"{[2 * h, 2 * w]}, or one less, for planes {[h, w]}")
    return planes.call("pyramid_up", _up, [x, None], filter, 1.0, *size)


def laplacian_pyramid(x: Tensor, levels: int, *, down: str = "box", up: str = "bilinear") -> tuple[Tensor, ...]:
    r"""An image as its coarsest version and what each doubling of the size lacks, coarsest first.

    .. math:: X_1 = \mathrm{down}^{S-1} x, \quad X_s = \mathrm{down}^{S-s} x - \mathrm{up} \, \mathrm{down}^{S-s+1} x

    Args:
        x: [..., H, W], any H, W >= 1; float32, float64, bfloat16 or float16.
        levels: Number S of levels, 1 or more.
        down: As for `pyramid_down`.
        up: As for `pyramid_up`; `collapse` must be given the same.

    Returns:
        S tensors; the last has the size of ``x``. Differentiable.

    Raises:
        ArgumentError: Fewer than one level.
        UnknownNameError, ShapeError, DtypeError: As `pyramid_down` and `pyramid_up` do.

    Source:
        Burt & Adelson 1983, IEEE Trans. Commun. 31(4), 532-540.

    Example:
        >>> x = torch.randn(2, 12, 7, dtype=torch.float64)
        >>> pyramid = laplacian_pyramid(x, 3)
        >>> [list(level.shape) for level in pyramid]
        [[2, 3, 2], [2, 6, 4], [2, 12, 7]]
        >>> torch.allclose(collapse(pyramid), x)
        True
    """
    _check_name(down, DOWN, "down")
    _check_name(up, UP, "up")
    _check_planes("x", x)
    if levels < 1:
        raise ArgumentError("levels", got=levels, expected="1 or more")
    details = []
    for _ in range(levels - 1):
        low = planes.call("pyramid_down", _down, [x], down, 1.0)
        details.append(planes.call("pyramid_up", _up, [low, x], up, -1.0, *x.shape[-2:]))
        x = low
    return x, *reversed(details)


def collapse(pyramid: Sequence[Tensor], *, up: str = "bilinear") -> Tensor:
    """The image of a `laplacian_pyramid`: up and add, from the coarsest level on.

    Exact up to rounding in the tensors' dtype, whatever ``down`` was.

    Args:
        pyramid: Levels, coarsest first, each at most twice as large as the one before.
        up: What the pyramid was built with.

    Returns:
        An image of the size of the last level. Differentiable.

    Raises:
        ArgumentError: No levels.
        ShapeError, DtypeError, DeviceError: Levels that do not fit together; says which.
        UnknownNameError: No such filter.
    """
    _check_name(up, UP, "up")
    if len(pyramid) == 0:
        raise ArgumentError("pyramid", got="no levels", expected="one or more")
    for s, level in enumerate(pyramid):
        _check_planes(f"pyramid[{s}]", level)
    planes.check_like([f"pyramid[{s}]" for s in range(len(pyramid))], pyramid, shapes=False)
    for s, (low, detail) in enumerate(itertools.pairwise(pyramid)):
        *batch, height, width = detail.shape
        if list(low.shape) != [*batch, (height + 1) // 2, (width + 1) // 2]:
            hint = f"pyramid[{s}] is {list(low.shape)}, and the next level at most twice as large"
            raise ShapeError(f"pyramid[{s + 1}]", got=list(detail.shape), hint=hint)
    image = pyramid[0]
    for detail in pyramid[1:]:
        image = planes.call("pyramid_up", _up, [image, detail], up, 1.0, *detail.shape[-2:])
    return image


def _check_name(name: str, names: Sequence[str], argument: str = "filter") -> None:
    if name not in names:
        raise UnknownNameError(argument, got=repr(name), expected=" | ".join(names))


def _check_planes(name: str, x: Tensor) -> None:
    planes.check(name, x)
    if x.shape[-2] == 0 or x.shape[-1] == 0:
        raise ShapeError(name, got=list(x.shape), expected="planes of at least one element")


@implements("pyramid_down", "reference")
def _down(x: Tensor, filter: str, gain: float) -> Tensor:
    """``gain`` times the smaller planes: sums of small whole multiples, scaled at the end by a power of two."""
    total = x.contiguous().to(planes.wide(x.dtype))
    for dim in (-2, -1):
        size = total.shape[dim]
        total = planes.extended(total, dim, 1, 1 + size % 2, "edge")
        before, even, odd, after = (_every_other(total, dim, k, (size + 1) // 2) for k in range(4))
        total = even + odd
        if filter == "bilinear":
            total = total * 3.0 + (before + after)
    return (total * (gain / (4 if filter == "box" else 64))).to(x.dtype)


def _every_other(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    x = x.narrow(dim, start, 2 * count - 1)
    return x[..., 0::2] if dim == -1 else x[..., 0::2, :]


@implements("pyramid_up", "reference")
def _up(x: Tensor, base: Tensor | None, filter: str, gain: float, height: int, width: int) -> Tensor:
    """``base`` (or nothing) plus ``gain`` times the larger planes."""
    total = x.contiguous().to(planes.wide(x.dtype))
    for dim, size in ((-2, height), (-1, width)):
        even = odd = total
        if filter == "bilinear":
            around = planes.extended(total, dim, 1, 1, "edge")
            even, odd = (total * 3.0 + around.narrow(dim, start, total.shape[dim]) for start in (0, 2))
        joined = torch.stack([even, odd], dim=-1 if dim == -1 else -2).flatten(*((-2, -1) if dim == -1 else (-3, -2)))
        total = joined.narrow(dim, 0, size)
    total = total * (gain / (1 if filter == "nearest" else 16))
    if base is not None:
        total = base.to(total.dtype) + total
    return total.to(x.dtype).clone(memory_format=torch.contiguous_format)


@implements("pyramid_down", "native")
def _down_native(x: Tensor, filter: str, gain: float) -> Tensor:
    x = x.contiguous()
    height, width = x.shape[-2:]
    out = x.new_empty([*x.shape[:-2], (height + 1) // 2, (width + 1) // 2])
    count = x.shape[:-2].numel()
    native_module.pyramid_down(
        CODES[x.dtype], x.data_ptr(), out.data_ptr(), count, height, width, filter == "bilinear", gain
    )
    return out


@implements("pyramid_up", "native")
def _up_native(x: Tensor, base: Tensor | None, filter: str, gain: float, height: int, width: int) -> Tensor:
    x = x.contiguous()
    base = None if base is None else base.contiguous()
    out = x.new_empty([*x.shape[:-2], height, width])
    addresses = x.data_ptr(), 0 if base is None else base.data_ptr(), out.data_ptr()
    count = x.shape[:-2].numel()
    native_module.pyramid_up(CODES[x.dtype], *addresses, count, height, width, filter == "bilinear", gain)
    return out


def _setup_down(ctx, inputs, output):
    x, ctx.filter, ctx.gain = inputs
    ctx.size = x.shape[-2:]


def _down_backward(ctx, gradient):
    """Larger planes of even size, whose last row and column fall on the edge that was repeated for an odd size."""
    height, width = ctx.size
    sizes = height + height % 2, width + width % 2
    filter = "nearest" if ctx.filter == "box" else "bilinear"
    large = planes.call("pyramid_up", _up, [gradient, None], filter, ctx.gain / 4, *sizes)
    if height % 2:
        large = torch.cat([large[..., : height - 1, :], large[..., height - 1 :, :].sum(-2, keepdim=True)], -2)
    if width % 2:
        large = torch.cat([large[..., : width - 1], large[..., width - 1 :].sum(-1, keepdim=True)], -1)
    return large, None, None


def _setup_up(ctx, inputs, output):
    _, base, ctx.filter, ctx.gain, ctx.height, ctx.width = inputs
    ctx.has_base = base is not None


def _up_backward(ctx, gradient):
    filter = "box" if ctx.filter == "nearest" else "bilinear"
    even = pad(gradient, (0, ctx.width % 2, 0, ctx.height % 2)) if ctx.width % 2 or ctx.height % 2 else gradient
    small = planes.call("pyramid_down", _down, [even], filter, 4 * ctx.gain)
    return small, gradient if ctx.has_base else None, None, None, None, None


operators.operator(
    "pyramid_down(Tensor x, str filter, float gain) -> Tensor",
    lambda x, *rest: implementation("pyramid_down", device_type(x))(x, *rest),
    lambda x, *_: x.new_empty([*x.shape[:-2], (x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2]),
    setup=_setup_down,
    backward=_down_backward,
)
operators.operator(
    "pyramid_up(Tensor x, Tensor? base, str filter, float gain, SymInt height, SymInt width) -> Tensor",
    lambda x, *rest: implementation("pyramid_up", device_type(x))(x, *rest),
    lambda x, base, filter, gain, *size: x.new_empty([*x.shape[:-2], *size]),
    setup=_setup_up,
    backward=_up_backward,
)

catalogue.describe(
    "pyramid_down",
    formula='y_i = (x_2i + x_2i+1) / 2 ("box") or (x_2i-1 + 3 x_2i + 3 x_2i+1 + x_2i+2) / 8 ("bilinear"), both ways',
    moved="s P H W read, s P H W / 4 written (P planes)",
    differentiable="x",
    benchmark="pyramid.py",
)
catalogue.describe(
    "pyramid_up",
    formula='y_2i = y_2i+1 = x_i ("nearest") or (x_i-1 + 3 x_i) / 4, (3 x_i + x_i+1) / 4 ("bilinear"), both ways',
    moved="s P H W / 4 read, s P H W written (P planes of H x W); s P H W more read where a detail is added",
    differentiable="x, detail",
    benchmark="pyramid.py",
)
