"""`grid_sample3d_sum`: a field given by many small overlapping grids (Mosaic-SDF), evaluated at points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError
from . import catalogue, operators, planes
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES

PAIRS = 2**22  # of a point and a cube, that the reference looks at together
CELLS = 64  # of the native index, along the longest side


class GridSamples(NamedTuple):
    """Values of the field at points.

    Args:
        values: [Q]; ``outside`` where no cube covers the point.
        inside: bool [Q]; whether one does.
    """

    values: Tensor
    inside: Tensor


def grid_sample3d_sum(
    points: Tensor, centers: Tensor, scales: Tensor, values: Tensor, *, outside: float = torch.inf
) -> GridSamples:
    r"""A weighted sum of trilinear interpolations in local grids, at points.

    .. math:: F(x) = \sum_i W_i \, \mathrm{trilinear}(V_i, q_i), \quad q_i = (x - p_i) / s_i, \quad
        W_i = b_i / \textstyle\sum_j b_j, \quad b_i = \max(0, 1 - |q_i|_\infty)

    Grid node j of an edge lies at :math:`-1 + 2 j / (k - 1)`. F is defined on the union of the open cubes, continuous
    there, and exact wherever every grid is. Cubes are added in ascending order, in float64; the compiled kernel looks
    only at those near a point, whatever that is, with the same result.

    Args:
        points: Where, [Q, 3]; float32 or float64. A NaN lies outside.
        centers: Of the cubes p, [n, 3].
        scales: Their half-widths s > 0, [n].
        values: On their grids V, [n, k, k, k] with k >= 2, indexed in the order of the coordinates.
        outside: The value where no cube is.

    Returns:
        `GridSamples`. Its values are differentiable in all four tensors.

    Raises:
        ShapeError, DtypeError, DeviceError: Tensors that do not fit together; says which and how.
        ArgumentError: A half-width that is not a positive number; says which. One host read.

    Source:
        Yariv et al. 2023, Mosaic-SDF for 3D generative models, section 3.

    Example:
        >>> corners = torch.tensor([0.0, 1.0])
        >>> ramp = corners.reshape(1, 2, 1, 1).expand(1, 2, 2, 2)  # grows with the first coordinate
        >>> at = torch.tensor([[0.5, 0.0, 0.0], [3.0, 0.0, 0.0]])
        >>> grid_sample3d_sum(at, torch.zeros(1, 3), torch.ones(1), ramp, outside=9.0)
        GridSamples(values=tensor([0.7500, 9.0000]), inside=tensor([ True, False]))
    """
    _check(points, centers, scales, values)
    tensors = [points, centers, scales, values]
    return GridSamples(*planes.call("grid_sample3d_sum", _sample, tensors, float(outside)))


def _check(points: Tensor, centers: Tensor, scales: Tensor, values: Tensor) -> None:
    if points.dtype not in (torch.float32, torch.float64):
        raise DtypeError("points", got=points.dtype, expected="float32 or float64")
    for name, x in (("centers", centers), ("scales", scales), ("values", values)):
        if x.dtype != points.dtype:
            raise DtypeError(name, got=x.dtype, expected=f"{points.dtype}, the dtype of points")
        if x.device != points.device:
            raise DeviceError(name, got=x.device, expected=f"{points.device}, the device of points")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ShapeError("points", got=list(points.shape), expected="[Q, 3]")
    if centers.ndim != 2 or centers.shape[1] != 3:
        raise ShapeError("centers", got=list(centers.shape), expected="[n, 3]")
    n = centers.shape[0]
    if scales.ndim != 1 or scales.shape[0] != n:
        raise ShapeError("scales", got=list(scales.shape), expected=f"[{n}], one for each center")
    nodes = values.shape[-1] if values.ndim else 0
    if values.ndim != 4 or list(values.shape) != [n, nodes, nodes, nodes] or nodes < 2:
        raise ShapeError("values", got=list(values.shape), expected=f"[{n}, k, k, k] with k >= 2")
    if type(scales) is Tensor and not scales.is_meta and not operators.tracing():
        wrong = ~(torch.isfinite(scales) & (scales > 0))
        if wrong.any():
            at = ", ".join(str(i) for i in wrong.nonzero().flatten()[:8].tolist())
            raise ArgumentError("scales", got=f"entries that are not positive at {at}", expected="half-widths > 0")


@implements("grid_sample3d_sum", "reference")
def _sample(points: Tensor, centers: Tensor, scales: Tensor, values: Tensor, outside: float) -> tuple[Tensor, Tensor]:
    """So many points together that their pairs with cubes stay within bounds."""
    step = max(1, PAIRS // max(1, len(centers)))
    chunks = [_sample_some(some, centers, scales, values, outside) for some in points.split(step)]
    results, inside = zip(*chunks, strict=True)
    return torch.cat(results), torch.cat(inside)


def _sample_some(
    points: Tensor, centers: Tensor, scales: Tensor, values: Tensor, outside: float
) -> tuple[Tensor, Tensor]:
    point, cube = _pairs(points, centers, scales)
    counts = torch.bincount(point, minlength=len(points))
    rank = torch.arange(len(point), device=points.device) - (counts.cumsum(0) - counts)[point]
    most = int(counts.max()) if len(points) else 0
    q = (points[point] - centers[cube]) / scales[cube][:, None]
    weight = 1 - q.abs().amax(-1)
    nearest, (x, y, z), _ = _corners(values, cube, q)
    edges = nearest[..., 0] + z[:, None, None] * (nearest[..., 1] - nearest[..., 0])
    sides = edges[..., 0] + y[:, None] * (edges[..., 1] - edges[..., 0])
    term = weight * (sides[:, 0] + x * (sides[:, 1] - sides[:, 0]))
    empty = torch.zeros(len(points), most, dtype=torch.float64, device=points.device)
    weights, terms = (empty.index_put((point, rank), part.double()) for part in (weight, term))
    total, whole = empty.new_zeros(len(points)), empty.new_zeros(len(points))
    for r in range(most):  # one after the other: a fixed order
        total, whole = total + terms[:, r], whole + weights[:, r]
    inside = counts > 0
    average = total / torch.where(inside, whole, 1.0)
    return torch.where(inside, average, outside).to(points.dtype), inside


@torch.no_grad()
def _pairs(points: Tensor, centers: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Which cubes cover which points: indices of both, ascending, cubes within points."""
    reach = ((points[:, None] - centers) / scales[:, None]).abs().amax(-1)
    point, cube = (1 - reach > 0).nonzero(as_tuple=True)
    return point, cube


def _corners(values: Tensor, cube: Tensor, q: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Values at the eight nodes around each q, [P, 2, 2, 2], how far it is between them, and their places."""
    nodes = values.shape[-1]
    u = (q + 1) * ((nodes - 1) / 2)
    at = u.detach().long().clamp(0, nodes - 2)
    corner = ((cube * nodes + at[:, 0]) * nodes + at[:, 1]) * nodes + at[:, 2]
    steps = torch.arange(2, device=q.device)
    steps = (steps[:, None, None] * nodes + steps[:, None]) * nodes + steps
    places = corner[:, None, None, None] + steps
    return values.reshape(-1).index_select(0, places.flatten()).reshape(-1, 2, 2, 2), (u - at).unbind(-1), places


@implements("grid_sample3d_sum", "native")
def _sample_native(
    points: Tensor, centers: Tensor, scales: Tensor, values: Tensor, outside: float, cells: int = CELLS
) -> tuple[Tensor, Tensor]:
    points, centers, scales, values = (x.contiguous() for x in (points, centers, scales, values))
    out, inside = points.new_empty(len(points)), points.new_empty(len(points), dtype=torch.bool)
    addresses = [x.data_ptr() for x in (points, centers, scales, values, out, inside)]
    sizes = len(points), len(centers), values.shape[-1]
    native_module.grid_sample3d_sum(CODES[points.dtype], *addresses, *sizes, outside, cells)
    return out, inside


def _setup(ctx, inputs, output):
    *tensors, ctx.outside = inputs
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gradient, _):
    return *torch.ops.pushforward.grid_sample3d_sum_gradients(gradient, *ctx.saved_tensors), None


def _gradients(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the definition, in float64, some points at a time."""
    points, *others = tensors
    of_points = torch.empty_like(points, memory_format=torch.contiguous_format)
    sums = [torch.zeros_like(x, dtype=torch.float64, memory_format=torch.contiguous_format) for x in others]
    step = max(1, PAIRS // max(1, len(others[0])))
    for start in range(0, len(points), step):
        some = slice(start, start + step)
        of_points[some], *parts = _gradients_of_some(gradient[some], points[some], *others)
        for total, part in zip(sums, parts, strict=True):
            total += part
    return of_points, *(total.to(points.dtype) for total in sums)


def _gradients_of_some(
    gradient: Tensor, points: Tensor, centers: Tensor, scales: Tensor, values: Tensor
) -> tuple[Tensor, ...]:
    """By the product rule through the weights and the interpolation; differentiable."""
    point, cube = _pairs(points, centers, scales)
    gradient, points, centers, scales, values = (x.double() for x in (gradient, points, centers, scales, values))
    half_width = scales[cube][:, None]
    q = (points[point] - centers[cube]) / half_width
    size, axis = q.abs().max(-1)
    weight = 1 - size
    nearest, parts, places = _corners(values, cube, q)
    x, y, z = (torch.stack([1 - part, part], -1) for part in parts)
    x, y, z = x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]
    step = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=points.device)
    inner = (nearest * x * y * z).sum((1, 2, 3))
    slopes = (step[:, None, None] * y * z, x * step[:, None] * z, x * y * step)
    slope = torch.stack([(nearest * one).sum((1, 2, 3)) for one in slopes], -1) * ((values.shape[-1] - 1) / 2)

    def added(like: Tensor, at: Tensor, what: Tensor) -> Tensor:
        return torch.zeros_like(like).index_add(0, at, what)  # in this order on the CPU

    whole = added(points[:, 0], point, weight)
    average = added(points[:, 0], point, weight * inner)[point] / whole[point]
    share = gradient[point] / whole[point]
    of_inner, of_weight = share * weight, share * (inner - average)
    largest = torch.nn.functional.one_hot(axis, 3) * q.sign()
    of_q = of_inner[:, None] * slope - of_weight[:, None] * largest
    of_x = of_q / half_width
    of_values = added(values.flatten(), places.flatten(), (of_inner[:, None, None, None] * x * y * z).flatten())
    return (
        added(points, point, of_x),
        added(centers, cube, -of_x),
        added(scales, cube, -(of_x * q).sum(-1)),
        of_values.reshape(values.shape),
    )


def _setup_gradients(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients_backward(ctx, *gradients):
    """The second derivative, all points at once; there is no third."""
    with torch.enable_grad():
        tensors = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        first = _gradients_of_some(*tensors)
        product = torch.stack([(a * b).sum() for a, b in zip(first, gradients, strict=True)]).sum()
        return torch.autograd.grad(product, tensors, materialize_grads=True)


def _empty(points: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape[:1]), points.new_empty(points.shape[:1], dtype=torch.bool)


_TENSORS = "Tensor points, Tensor centers, Tensor scales, Tensor values"
operators.operator(
    f"grid_sample3d_sum({_TENSORS}, float outside) -> (Tensor, Tensor)",
    lambda points, *rest: implementation("grid_sample3d_sum", device_type(points))(points, *rest),
    _empty,
    setup=_setup,
    backward=_backward,
)
operators.operator(
    f"grid_sample3d_sum_gradients(Tensor gradient, {_TENSORS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _gradients,
    lambda gradient, *tensors: tuple(x.new_empty(x.shape) for x in tensors),
    setup=_setup_gradients,
    backward=_gradients_backward,
)

catalogue.describe(
    "grid_sample3d_sum",
    formula="F(x) = sum_i b_i trilinear(V_i, q_i) / sum_j b_j, q_i = (x - p_i) / s_i, b_i = max(0, 1 - |q_i|_inf)",
    moved="4 s Q read and written; s n (k^3 + 4) read, from cache where points are near each other",
    differentiable="points, centers, scales, values",
    benchmark="mosaic.py",
)
