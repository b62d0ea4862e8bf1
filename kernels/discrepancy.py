"""`mmd2` and `energy_distance`: how far two samples are from one distribution, without a matrix of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError, UnknownNameError
from . import arguments, operators
from .catalogue import describe
from .dispatch import device_type, implementation, implements, native_module

KERNELS = ("gaussian", "rational_quadratic")
DISTANCE = "distance"  # the kernel -r of the energy distance
CODES = {"gaussian": 0, "rational_quadratic": 1, DISTANCE: 2}
MAX_BANDWIDTHS = 16
TILE = 2**22  # distances that the reference holds at a time


class Weights(NamedTuple):
    """``within_x sum_{i != j} k(x_i, x_j) + within_y (the same of y) - across sum k(x_i, y_j) + rest``."""

    within_x: float
    within_y: float
    across: float
    rest: float


def mmd2(
    x: Tensor, y: Tensor, kernel: str = "gaussian", bandwidths: Sequence[float] = (1.0,), *, unbiased: bool = True
) -> Tensor:
    r"""Squared maximum mean discrepancy between two samples, for a sum of kernels of several bandwidths.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
        - \frac{2}{n m} \sum_{i, j} k(x_i, y_j), \quad k(x, y) = \sum_h \kappa(|x - y|^2 / (2 h^2))

    with :math:`\kappa(u) = e^{-u}` ("gaussian") or :math:`1 / (1 + u)` ("rational_quadratic"). The estimate without
    bias can be negative. With bias, sums run over i = j too and are divided by n squared: a squared norm.

    Every distance is summed from differences of coordinates, so points far from the origin lose nothing; pairs are
    visited a tile at a time, memory stays proportional to the points, and the diagonal is left out, not subtracted.
    Distances and kernels are computed in float32 (float64 for float64 points), sums over tiles in float64, in an order
    that depends on nothing but the shapes.

    Args:
        x: Points [n, p]; float32, float64, bfloat16 or float16.
        y: Points [m, p] of the same dtype and device.
        kernel: "gaussian" or "rational_quadratic".
        bandwidths: One to sixteen lengths h > 0. A usual choice is the median distance times 1/2, 1, 2.
        unbiased: Which estimate; the unbiased one needs two points in each sample.

    Returns:
        A number (a tensor without dimensions), float32, or float64 for float64 points. Differentiable in x and y; the
        gradient visits the tiles again. A second derivative is taken by torch, of all pairs at once.

    Raises:
        UnknownNameError, ArgumentError: No such kernel; a bandwidth that is not above 0, or not 1 to 16 of them.
        ShapeError, DtypeError, DeviceError: Points that are not [n, p], or too few, or samples that differ.

    Source:
        Gretton et al. 2012, A kernel two-sample test, equations 3 and 5.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
        >>> round(float(mmd2(x, y, bandwidths=(1.0, 2.0))), 4)
        -0.4585
    """
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", got=repr(kernel), expected=" | ".join(KERNELS))
    if not 1 <= len(bandwidths) <= MAX_BANDWIDTHS:
        raise ArgumentError("bandwidths", got=f"{len(bandwidths)} numbers", expected=f"1 to {MAX_BANDWIDTHS}")
    for h in bandwidths:
        if not 1e-15 <= h <= 1e15:
            raise ArgumentError("bandwidths", got=h, expected="lengths above 0, of ordinary size")
    return _discrepancy("mmd2", x, y, kernel, [1 / (2 * float(h) ** 2) for h in bandwidths], unbiased)


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = True) -> Tensor:
    r"""Energy distance between two samples: twice the mean distance between them less the mean distances within.

    .. math:: 2 \, E|X - Y| - E|X - X'| - E|Y - Y'|

    The squared maximum mean discrepancy of the kernel :math:`-|x - y|`: there is no bandwidth to choose. Computed, and
    differentiated, as `mmd2` is; where points coincide, their distance counts for nothing in the gradient.

    Args:
        x: Points [n, p]; float32, float64, bfloat16 or float16.
        y: Points [m, p] of the same dtype and device.
        unbiased: Leave a point's distance to itself out of the mean (divide by n (n - 1), not n squared).

    Returns:
        A number, float32, or float64 for float64 points. Differentiable in x and y.

    Raises:
        ShapeError, DtypeError, DeviceError: As `mmd2` does.

    Source:
        Szekely and Rizzo 2013, Energy statistics: a class of statistics based on distances.

    Example:
        >>> float(energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]]), unbiased=False))
        1.0
    """
    return _discrepancy("energy_distance", x, y, DISTANCE, [1.0], unbiased)


def _discrepancy(op: str, x: Tensor, y: Tensor, kernel: str, rates: list[float], unbiased: bool) -> Tensor:
    arguments.check_dtype("x", x)
    least = 2 if unbiased else 1
    for name, points in (("x", x), ("y", y)):
        if points.ndim != 2 or points.shape[1] == 0:
            raise ShapeError(name, got=list(points.shape), expected="points [n, p]")
        if points.shape[0] < least:
            hint = "The unbiased estimate needs two points in each sample" if unbiased else None
            raise ShapeError(name, got=f"{points.shape[0]} points", expected=f"at least {least}", hint=hint)
    if x.shape[1] != y.shape[1]:
        raise ShapeError("y", got=list(y.shape), expected=f"[m, {x.shape[1]}], as x has {x.shape[1]} features")
    arguments.check_same("y", [y[:0]], x[:0], "x")
    if operators.needs_operator(x, y):
        return _operators[op](x, y, kernel, rates, unbiased)
    return _value(op, x, y, kernel, rates, unbiased)


def _value(op: str, x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], unbiased: bool) -> Tensor:
    weights = _weights(len(x), len(y), kernel, len(rates), unbiased)
    return implementation(op, device_type(x))(x, y, kernel, rates, weights, False)


def _gradient(op: str, x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], unbiased: bool) -> Tensor:
    weights = _weights(len(x), len(y), kernel, len(rates), unbiased)
    return implementation(op, device_type(x))(x, y, kernel, rates, weights, True)


def _weights(n: int, m: int, kernel: str, bandwidths: int, unbiased: bool) -> Weights:
    if unbiased:
        return Weights(1 / (n * (n - 1)), 1 / (m * (m - 1)), 2 / (n * m), 0.0)
    itself = 0 if kernel == DISTANCE else bandwidths  # k(x, x)
    return Weights(1 / n**2, 1 / m**2, 2 / (n * m), itself / n + itself / m)


def wide(x: Tensor) -> torch.dtype:
    """The dtype of the result, and of the gradient before it is rounded to that of the points."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def derivatives(r2: Tensor, kernel: str, rates: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel as a function of squared distances, its slope and its curvature; the distance has none at zero."""
    if kernel == DISTANCE:
        r = r2.sqrt()
        slope = torch.where(r2 == 0, 0.0, -0.5 / r)
        return -r, slope, torch.where(r2 == 0, 0.0, slope / r2 * -0.5)
    k, slope, curvature = torch.zeros_like(r2), torch.zeros_like(r2), torch.zeros_like(r2)
    for c in rates:
        if kernel == "gaussian":
            value = first = second = torch.exp(r2 * -c)
        else:
            value = 1 / (1 + r2 * c)
            first, second = value**2, 2 * value**3
        k, slope, curvature = k + value, slope - c * first, curvature + c**2 * second
    return k, slope, curvature


@implements("energy_distance", "reference")
@implements("mmd2", "reference")
def _reference(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], weights: Weights, gradient: bool) -> Tensor:
    """All in float64, from exact differences, some rows at a time; the gradient is that of ``x``."""
    dtype, x, y = wide(x), x.double(), y.double()
    if gradient:
        within = _slopes(x, x, kernel, rates, True) * (4 * weights.within_x)
        return (within - _slopes(x, y, kernel, rates, False) * (2 * weights.across)).to(dtype)
    sums = [_sum(x, x, kernel, rates, True), _sum(y, y, kernel, rates, True), _sum(x, y, kernel, rates, False)]
    total = sums[0] * weights.within_x + sums[1] * weights.within_y - sums[2] * weights.across + weights.rest
    return total.to(dtype)


def _rows(x: Tensor, y: Tensor, same: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Squared distances of some rows to all of y, where those rows start, and which pairs are a point with itself."""
    count = max(1, TILE // len(y))
    for start in range(0, len(x), count):
        r2 = torch.cdist(x[start : start + count], y, compute_mode="donot_use_mm_for_euclid_dist").square()
        itself = torch.zeros_like(r2, dtype=torch.bool)
        if same:
            itself[:, start : start + count].fill_diagonal_(True)
        yield start, r2, itself


def _sum(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], same: bool) -> Tensor:
    rows = _rows(x, y, same)
    return torch.stack([derivatives(r2, kernel, rates)[0].masked_fill(itself, 0).sum() for _, r2, itself in rows]).sum()


def _slopes(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], same: bool) -> Tensor:
    parts = []
    for start, r2, itself in _rows(x, y, same):
        slope = derivatives(r2, kernel, rates)[1].masked_fill(itself, 0)
        parts.append(slope.sum(1, keepdim=True) * x[start : start + len(r2)] - slope @ y)
    return torch.cat(parts)


def _second(x: Tensor, y: Tensor, u: Tensor, kernel: str, rates: Sequence[float], same: bool) -> tuple[Tensor, Tensor]:
    """Gradients in x and y of ``sum_ij slope_ij u_i (x_i - y_j)``: differentiable operations on all pairs at once."""
    r2 = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    with torch.no_grad():
        apart = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") > 0
    r2 = torch.where(apart, r2.clamp(min=torch.finfo(r2.dtype).tiny), 0.0)  # the product may miss zero
    _, slope, curvature = derivatives(r2, kernel, rates)
    if same:
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        slope, curvature = slope.masked_fill(itself, 0), curvature.masked_fill(itself, 0)
    along = 2 * curvature * ((u * x).sum(1)[:, None] - u @ y.T)
    of_x = along.sum(1)[:, None] * x - along @ y + slope.sum(1)[:, None] * u
    of_y = along.sum(0)[:, None] * y - along.T @ x - slope.T @ u
    return of_x, of_y


@implements("energy_distance", "native")
@implements("mmd2", "native")
def _native(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], weights: Weights, gradient: bool) -> Tensor:
    dtype = wide(x)
    x, y = x.to(dtype).contiguous(), y.to(dtype).contiguous()
    n, features = x.shape
    what = (dtype == torch.float64, CODES[kernel], list(rates), x.data_ptr(), n, y.data_ptr(), len(y), features)
    if gradient:
        out = torch.empty_like(x)
        native_module.pair_gradients(*what, 4 * weights.within_x, -2 * weights.across, out.data_ptr())
        return out
    of_x, of_y, across = native_module.pair_sums(*what)
    total = of_x * weights.within_x + of_y * weights.within_y - across * weights.across + weights.rest
    return torch.tensor(total, dtype=dtype)


def _fake(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], unbiased: bool) -> Tensor:
    return x.new_empty((), dtype=wide(x))


def _fake_gradient(x: Tensor, y: Tensor, kernel: str, rates: Sequence[float], unbiased: bool) -> Tensor:
    return torch.empty_like(x, dtype=wide(x), memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output):
    x, y, *ctx.rest = inputs
    ctx.save_for_backward(x, y)


def _register(op: str):
    """The operator, and one for its gradient in ``x``, which by symmetry serves ``y`` too."""

    def backward(ctx, upstream):
        x, y = ctx.saved_tensors
        of_x, of_y = ctx.needs_input_grad[:2]
        first = (gradient(x, y, *ctx.rest) * upstream).to(x.dtype) if of_x else None
        second = (gradient(y, x, *ctx.rest) * upstream).to(y.dtype) if of_y else None
        return first, second, None, None, None

    def backward_of_gradient(ctx, upstream):
        (x, y), (kernel, rates, unbiased) = ctx.saved_tensors, ctx.rest
        weights = _weights(len(x), len(y), kernel, len(rates), unbiased)
        mean = (x.double().sum(0) + y.double().sum(0)) / (len(x) + len(y))  # so that less cancels in the distances
        points, others, u = x.double() - mean, y.double() - mean, upstream.double()
        near, far = _second(points, points, u, kernel, rates, True)
        across, of_y = _second(points, others, u, kernel, rates, False)
        of_x = (near + far) * (4 * weights.within_x) - across * (2 * weights.across)
        return of_x.to(x.dtype), (of_y * (-2 * weights.across)).to(y.dtype), None, None, None

    def value(*arguments):
        return _value(op, *arguments)

    def slopes(*arguments):
        return _gradient(op, *arguments)

    schema = "(Tensor x, Tensor y, str kernel, float[] rates, bool unbiased) -> Tensor"
    gradient = operators.operator(
        f"{op}_gradient{schema}", slopes, _fake_gradient, setup=_setup, backward=backward_of_gradient
    )
    return operators.operator(f"{op}{schema}", value, _fake, setup=_setup, backward=backward)


_operators = {op: _register(op) for op in ("mmd2", "energy_distance")}
describe(
    "mmd2",
    formula="mean k(x, x') + mean k(y, y') - 2 mean k(x, y), k = sum exp(-r^2 / 2 h^2) or sum 1 / (1 + r^2 / 2 h^2)",
    moved="(n + m) p s, twice; no matrix of pairs",
    differentiable="x, y",
    benchmark="discrepancy.py",
    rows=("mmd2 4000x64", "mmd2 and gradient 4000x64", "mmd2 50000x64"),
)
describe(
    "energy_distance",
    formula="2 mean |x - y| - mean |x - x'| - mean |y - y'|",
    moved="(n + m) p s, twice; no matrix of pairs",
    differentiable="x, y",
    benchmark="discrepancy.py",
    rows=("energy_distance 4000x64", "energy_distance and gradient 4000x64"),
)
