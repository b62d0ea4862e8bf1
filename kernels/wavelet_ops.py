"""The wavelet transforms behind `pushforward.kernels.wavelets`: definitions, calls of compiled code, operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import operators, planes
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES
from .wavelet_filters import quadrature_mirror

MODES = ("periodic", "symmetric", "zero")  # in the order of csrc/cpu/planes.hpp


@implements("haar2d", "reference")
def haar2d(x: Tensor) -> tuple[Tensor, ...]:
    """Sums and differences of rows, then of columns, halved."""
    x, dtype = x.contiguous().to(planes.wide(x.dtype)), x.dtype
    above, below = x[..., 0::2, :], x[..., 1::2, :]
    total, change = above + below, above - below
    low, horizontal = (y[..., 0::2] + y[..., 1::2] for y in (total, change))
    vertical, diagonal = (y[..., 0::2] - y[..., 1::2] for y in (total, change))
    return tuple((band * 0.5).to(dtype) for band in (low, horizontal, vertical, diagonal))


@implements("ihaar2d", "reference")
def ihaar2d(low: Tensor, horizontal: Tensor, vertical: Tensor, diagonal: Tensor) -> Tensor:
    """Sums and differences along rows, then between them, halved."""
    dtype = low.dtype
    low, horizontal, vertical, diagonal = (
        x.contiguous().to(planes.wide(dtype)) for x in (low, horizontal, vertical, diagonal)
    )
    total = torch.stack([low + vertical, low - vertical], -1).flatten(-2)
    change = torch.stack([horizontal + diagonal, horizontal - diagonal], -1).flatten(-2)
    return (torch.stack([total + change, total - change], -2).flatten(-3, -2) * 0.5).to(dtype)


@implements("dwt2d", "reference")
def dwt2d(x: Tensor, taps: Sequence[float], mode: str, offset: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Bands of ``height`` x ``width``: ``sum_kl h_k h_l x[2 i + offset + k, 2 j + offset + l]`` and so on."""
    rows = _analysed(x.to(planes.wide(x.dtype)), -2, taps, mode, offset, height)
    (low, vertical), (horizontal, diagonal) = [_analysed(row, -1, taps, mode, offset, width) for row in rows]
    return tuple(band.to(x.dtype) for band in (low, horizontal, vertical, diagonal))


def _analysed(x: Tensor, dim: int, taps: Sequence[float], mode: str, offset: int, count: int) -> list[Tensor]:
    """``sum_k h_k x[2 i + offset + k]`` for i < count, and the same with g."""
    last = 2 * (count - 1) + offset + len(taps)
    x = planes.extended(x, dim, -offset, last - x.shape[dim], mode)
    shifted = [_every_other(x.narrow(dim, k, 2 * count - 1), dim) for k in range(len(taps))]
    return [_weighted(shifted, weights) for weights in (taps, quadrature_mirror(taps))]


def _every_other(x: Tensor, dim: int) -> Tensor:
    return x[..., 0::2] if dim == -1 else x[..., 0::2, :]


def _weighted(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = terms[0] * weights[0]
    for term, weight in zip(terms[1:], weights[1:], strict=True):
        total = total + term * weight
    return total


@implements("idwt2d", "reference")
def idwt2d(
    low: Tensor,
    horizontal: Tensor,
    vertical: Tensor,
    diagonal: Tensor,
    taps: Sequence[float],
    periodic: bool,
    offset: int,
    height: int,
    width: int,
) -> Tensor:
    """Planes of ``height`` x ``width``: the transposed sum, where bands end or (``periodic``) repeat."""
    dtype = low.dtype
    low, horizontal, vertical, diagonal = (x.to(planes.wide(dtype)) for x in (low, horizontal, vertical, diagonal))
    mode = "periodic" if periodic else "zero"
    total = _synthesised(low, horizontal, -2, taps, mode, offset, height)
    change = _synthesised(vertical, diagonal, -2, taps, mode, offset, height)
    image = _synthesised(total, change, -1, taps, mode, offset, width).to(dtype)
    return image.clone(memory_format=torch.contiguous_format)


def _synthesised(
    low: Tensor, high: Tensor, dim: int, taps: Sequence[float], mode: str, offset: int, size: int
) -> Tensor:
    """``sum_i h[n - offset - 2 i] low[i] + g[n - offset - 2 i] high[i]`` for n < size."""
    half = len(taps) // 2
    first, last = -offset // 2, (size - 1 - offset) // 2  # n - offset = 2 q + parity, for q from first to last
    count, before = last - first + 1, half - 1 - first
    low, high = (planes.extended(x, dim, before, last + 1 - x.shape[dim], mode) for x in (low, high))
    both = [(low.narrow(dim, half - 1 - j, count), high.narrow(dim, half - 1 - j, count)) for j in range(half)]
    terms = [term for pair in both for term in pair]
    weights = list(zip(taps, quadrature_mirror(taps), strict=True))
    classes = [_weighted(terms, [w for pair in weights[parity::2] for w in pair]) for parity in (0, 1)]
    joined = torch.stack(classes, dim=-1 if dim == -1 else -2)
    return joined.flatten(*((-2, -1) if dim == -1 else (-3, -2))).narrow(dim, -offset - 2 * first, size)


@implements("haar2d", "native")
def haar2d_native(x: Tensor) -> tuple[Tensor, ...]:
    """The same numbers, bit for bit."""
    x = x.contiguous()
    height, width = x.shape[-2:]
    outs = [x.new_empty([*x.shape[:-2], height // 2, width // 2]) for _ in range(4)]
    native_module.haar2d(CODES[x.dtype], x.data_ptr(), [out.data_ptr() for out in outs], _count(x), height, width)
    return tuple(outs)


@implements("ihaar2d", "native")
def ihaar2d_native(*bands: Tensor) -> Tensor:
    """The same numbers, bit for bit."""
    bands = tuple([band.contiguous() for band in bands])
    low = bands[0]
    height, width = 2 * low.shape[-2], 2 * low.shape[-1]
    out = low.new_empty([*low.shape[:-2], height, width])
    addresses = [band.data_ptr() for band in bands]
    native_module.ihaar2d(CODES[low.dtype], addresses, out.data_ptr(), _count(low), height, width)
    return out


@implements("dwt2d", "native")
def dwt2d_native(
    x: Tensor, taps: Sequence[float], mode: str, offset: int, height: int, width: int
) -> tuple[Tensor, ...]:
    """The same numbers, bit for bit."""
    x = x.contiguous()
    outs = [x.new_empty([*x.shape[:-2], height, width]) for _ in range(4)]
    native_module.dwt2d(
        CODES[x.dtype],
        x.data_ptr(),
        [out.data_ptr() for out in outs],
        (_count(x), *x.shape[-2:], height, width),
        taps,
        MODES.index(mode),
        offset,
    )
    return tuple(outs)


@implements("idwt2d", "native")
def idwt2d_native(
    low: Tensor,
    horizontal: Tensor,
    vertical: Tensor,
    diagonal: Tensor,
    taps: Sequence[float],
    periodic: bool,
    offset: int,
    height: int,
    width: int,
) -> Tensor:
    """The same numbers, bit for bit."""
    bands = [band.contiguous() for band in (low, horizontal, vertical, diagonal)]
    out = low.new_empty([*low.shape[:-2], height, width])
    native_module.idwt2d(
        CODES[low.dtype],
        [band.data_ptr() for band in bands],
        out.data_ptr(),
        (_count(low), height, width, *low.shape[-2:]),
        taps,
        MODES.index("periodic" if periodic else "zero"),
        offset,
    )
    return out


def _count(x: Tensor) -> int:
    """Number of planes."""
    return x.shape[:-2].numel()


def _nothing(ctx, inputs, output):
    pass


def _haar2d_backward(ctx, *gradients):
    return planes.call("ihaar2d", ihaar2d, gradients)


def _ihaar2d_backward(ctx, gradient):
    return planes.call("haar2d", haar2d, [gradient])


def _setup_dwt2d(ctx, inputs, output):
    x, ctx.taps, ctx.mode, ctx.offset, *_ = inputs
    ctx.size = x.shape[-2:]


def _dwt2d_backward(ctx, *gradients):
    """The transpose: for reflected borders that of the borderless transform, folded back."""
    nothing = (None,) * 5
    if ctx.mode != "symmetric":
        rest = ctx.taps, ctx.mode == "periodic", ctx.offset, *ctx.size
        return planes.call("idwt2d", idwt2d, gradients, *rest), *nothing
    sizes = [2 * n + len(ctx.taps) - 2 for n in gradients[0].shape[-2:]]
    unfolded = planes.call("idwt2d", idwt2d, gradients, ctx.taps, False, 0, *sizes)
    for dim in (-2, -1):
        unfolded = _folded(unfolded, dim, -ctx.offset, ctx.size[dim])
    return unfolded, *nothing


def _folded(x: Tensor, dim: int, left: int, size: int) -> Tensor:
    """Sum of the pieces that reflection at the borders of [left, left + size) lays on each other."""
    before = -(-left // size)
    after = -(-(x.shape[dim] - left) // size)
    x = planes.extended(x, dim, before * size - left, left + after * size - x.shape[dim], "zero")
    pieces = [piece.flip(dim) if tile % 2 else piece for tile, piece in enumerate(x.split(size, dim), -before)]
    return torch.stack(pieces).sum(0)


def _setup_idwt2d(ctx, inputs, output):
    *bands, ctx.taps, ctx.periodic, ctx.offset, _, _ = inputs
    ctx.size = bands[0].shape[-2:]


def _idwt2d_backward(ctx, gradient):
    rest = ctx.taps, "periodic" if ctx.periodic else "zero", ctx.offset, *ctx.size
    return *planes.call("dwt2d", dwt2d, [gradient], *rest), *(None,) * 5


def _run(op):
    return lambda first, *rest: implementation(op, device_type(first))(first, *rest)


_BANDS = "Tensor low, Tensor horizontal, Tensor vertical, Tensor diagonal"
operators.operator(
    "haar2d(Tensor x) -> (Tensor, Tensor, Tensor, Tensor)",
    _run("haar2d"),
    lambda x: tuple(x.new_empty([*x.shape[:-2], x.shape[-2] // 2, x.shape[-1] // 2]) for _ in range(4)),
    setup=_nothing,
    backward=_haar2d_backward,
)
operators.operator(
    f"ihaar2d({_BANDS}) -> Tensor",
    _run("ihaar2d"),
    lambda low, *_: low.new_empty([*low.shape[:-2], 2 * low.shape[-2], 2 * low.shape[-1]]),
    setup=_nothing,
    backward=_ihaar2d_backward,
)
operators.operator(
    "dwt2d(Tensor x, float[] taps, str mode, int offset, SymInt height, SymInt width)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run("dwt2d"),
    lambda x, taps, mode, offset, *size: tuple(x.new_empty([*x.shape[:-2], *size]) for _ in range(4)),
    setup=_setup_dwt2d,
    backward=_dwt2d_backward,
)
operators.operator(
    f"idwt2d({_BANDS}, float[] taps, bool periodic, int offset, SymInt height, SymInt width) -> Tensor",
    _run("idwt2d"),
    lambda low, *rest: low.new_empty([*low.shape[:-2], *rest[-2:]]),
    setup=_setup_idwt2d,
    backward=_idwt2d_backward,
)
