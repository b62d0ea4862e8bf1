"""`rk_step`: the end of a Runge-Kutta step with an embedded error estimate, in one pass over its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError
from . import arguments, catalogue, operators
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES
from .ordered_sum import ordered_sum

MAX_STAGES, MAX_ESTIMATES, MAX_DENSE = 16, 2, 4


class RungeKuttaStep(NamedTuple):
    """What `rk_step` returns.

    Args:
        x: The new state, like the old one.
        error: Error norm of each sample, float64, [B]; [B, E] if several rows of error weights were given.
        dense: A tensor like x for each row of dense-output weights.
    """

    x: Tensor
    error: Tensor
    dense: tuple[Tensor, ...]


class Rows(NamedTuple):
    """The tableau and the tolerances, checked: rows of one number for each stage."""

    weights: tuple[float, ...]
    estimates: tuple[tuple[float, ...], ...]
    dense: tuple[tuple[float, ...], ...]
    rtol: float
    atol: float


def rk_step(
    x: Tensor,
    stages: Sequence[Tensor],
    h: float | Tensor,
    weights: Sequence[float],
    error_weights: Sequence[float] | Sequence[Sequence[float]],
    *,
    rtol: float,
    atol: float,
    dense: Sequence[Sequence[float]] | None = None,
    out: Tensor | None = None,
) -> RungeKuttaStep:
    r"""New state, error norm and dense output of a Runge-Kutta step: every stage is read once, for all of them.

    .. math:: x'_b = x_b + \sum_i (h_b w_i) k_{bi}, \quad e_b = \sum_i (h_b \hat w_i) k_{bi}, \quad
        q_{bj} = \sum_i (h_b d_{ji}) k_{bi}

    .. math:: \mathrm{error}_b = \Big[ \mathop{\mathrm{mean}}
        \Big( \frac{e_b}{\mathrm{atol} + \mathrm{rtol} \max(|x_b|, |x'_b|)} \Big)^2 \Big]^{1/2}

    Coefficients are products in float64, rounded once to float32 (float64 for float64 tensors), in which the sums are
    formed from left to right; squares are added in float64, in the order of `ordered_sum`. So everything about a sample
    depends on that sample alone, not on the batch, strides or threads, and all backends return the same bits.

    A weight of zero is no term: what its stage holds does not matter. (A step size of zero is one: 0 * NaN is NaN.) An
    error of zero counts zero even where the tolerance is zero. Where the new state, as stored, is not finite, the error
    is NaN, and where only the estimate is not, it is infinite or NaN: compare so that NaN rejects. A sample without
    elements has the error 0.

    Args:
        x: State [B, *D], float32, float64, bfloat16 or float16. Tensors that are not contiguous are copied first.
        stages: At most 16 slopes k like x.
        h: Step size, of any sign: a number, or float64 [B] on the CPU or the device of x.
        weights: A number for each stage (a tuple is checked once, if it comes again).
        error_weights: A number for each stage, b - b_hat; or up to two such rows, for instance the two estimates of
            dop853.
        rtol: Relative tolerance, at least 0.
        atol: Absolute tolerance, at least 0; not both are 0.
        dense: Up to four rows of a number for each stage, for q.
        out: Where to write the new state; may be x or a stage.

    Returns:
        The new state, the error and q, see `RungeKuttaStep`. The new state and q are differentiable in x and the
        stages, if ``out`` is not given; the error is a constant.

    Raises:
        ShapeError, DtypeError, DeviceError: Tensors that differ, or numbers that do not fit the stages; says which.
        ArgumentError: Too many stages or rows, tolerances out of range, an ``out`` that partly overlaps or is recorded
            by autograd.

    Example:
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> step = rk_step(x, [x, 1.5 * x], 0.5, [0.0, 1.0], [-1.0, 1.0], rtol=0.0, atol=0.1)  # the midpoint rule
        >>> step.x, step.error
        (tensor([[1.7500, 1.7500]], dtype=torch.float64), tensor([2.5000], dtype=torch.float64))
    """
    stages = tuple(stages)
    single, rows = (_rows if operators.tracing() else _rows_again)(
        len(stages), weights, error_weights, rtol, atol, dense
    )
    arguments.check_dtype("x", x)
    if x.ndim == 0:
        raise ShapeError("x", got="a tensor without dimensions", expected="[B, *D]: steps belong to samples")
    arguments.check_same("stages", stages, x, "x")
    h = _step_size(h, x)
    if out is None:
        run = _call_operator if operators.needs_operator(x, *stages) else _run
        new, error, q = run(x, stages, h, rows)
    else:
        arguments.check_outputs([out], x, "x", 1)
        if torch.is_grad_enabled() and any([t.requires_grad for t in (x, *stages, out)]):
            raise ArgumentError("out", got="a tensor", expected="None where a gradient is recorded")
        if operators.tracing():
            new, error, q = _call_operator(x, stages, h, rows)
            new = out.copy_(new)
        else:
            arguments.check_overlap((x, *stages), (out,))
            new, error, q = _run(x, stages, h, rows, out)
    return RungeKuttaStep(new, error[:, 0] if single else error, tuple(q))


def prepared_rk_step(
    x: Tensor,
    stages: Sequence[Tensor],
    h: Tensor,
    weights: tuple[float, ...],
    estimates: tuple[tuple[float, ...], ...],
    rtol: float,
    atol: float,
    out: Tensor,
) -> Tensor:
    """The errors of `rk_step`, float64 [B, E], without its checks: for loops that made all of this themselves.

    The new state goes to ``out``, a tensor like x; no gradient is recorded.
    """
    error = torch.empty(x.shape[0], len(estimates), dtype=torch.float64, device=x.device)
    rows = Rows(weights, estimates, (), rtol, atol)
    implementation("rk_step", device_type(x))(x, stages, h.to(x.device), rows, out, error, [])
    return error


def _rows(count, weights, error_weights, rtol, atol, dense) -> tuple[bool, Rows]:
    if not 1 <= count <= MAX_STAGES:
        raise ArgumentError("stages", got=f"{count} tensors", expected=f"1 to {MAX_STAGES}")

    def row(name, numbers):
        if not hasattr(numbers, "__len__") or len(numbers) != count:
            raise ShapeError(name, got=numbers, expected=f"{count} numbers, one for each stage")
        numbers = tuple([float(w) for w in numbers])
        if not all(map(math.isfinite, numbers)):
            raise ArgumentError(name, got=numbers, expected="finite numbers")
        return numbers

    single = len(error_weights) == 0 or not hasattr(error_weights[0], "__len__")
    estimates = [error_weights] if single else error_weights
    dense = () if dense is None else dense
    if not 1 <= len(estimates) <= MAX_ESTIMATES:
        raise ArgumentError("error_weights", got=f"{len(estimates)} rows", expected=f"1 or {MAX_ESTIMATES}")
    if len(dense) > MAX_DENSE:
        raise ArgumentError("dense", got=f"{len(dense)} rows", expected=f"at most {MAX_DENSE}")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ArgumentError(name, got=value, expected="a number of at least 0")
    if rtol == 0 and atol == 0:
        raise ArgumentError("atol", got="0, and rtol too", expected="a tolerance above 0")
    return single, Rows(
        row("weights", weights),
        tuple(row("error_weights", w) for w in estimates),
        tuple(row("dense", w) for w in dense),
        float(rtol),
        float(atol),
    )


_cached = lru_cache(maxsize=64)(_rows)


def _rows_again(*arguments) -> tuple[bool, Rows]:
    """A solver comes with the same tuples at every step: most of them are looked up."""
    try:
        return _cached(*arguments)
    except TypeError:  # lists
        return _rows(*arguments)


def _step_size(h: float | Tensor, x: Tensor) -> Tensor:
    """As float64 [B], or [1] for a number, on the device of x."""
    if not isinstance(h, Tensor):
        return torch.tensor([float(h)], dtype=torch.float64, device=x.device)
    if h.dtype != torch.float64 or h.requires_grad:
        got = f"{h.dtype}" + (" that requires grad" if h.requires_grad else "")
        raise DtypeError("h", got=got, expected="float64 without a gradient, or a number")
    if h.ndim != 1 or (h.shape[0] != x.shape[0]):
        raise ShapeError("h", got=list(h.shape), expected=f"[{x.shape[0]}], one for each sample of x")
    if h.device != x.device and not h.is_cpu:
        raise DeviceError("h", got=h.device, expected=f"{x.device}, the device of x, or the CPU")
    return h.to(x.device)


def _run(x, stages, h, rows: Rows, out=None):
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    error = torch.empty(x.shape[0], len(rows.estimates), dtype=torch.float64, device=x.device)
    dense = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in rows.dense]
    implementation("rk_step", device_type(x))(x, stages, h, rows, out, error, dense)
    return out, error, dense


@implements("rk_step", "reference")
def _reference(x, stages, h, rows: Rows, out, error, dense) -> None:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    column = [1] * (x.ndim - 1)

    def weighted_sum(start, weights):
        for k, weight in zip(stages, weights, strict=True):
            if weight != 0:
                start = start + k.to(wide) * (h * weight).to(wide).reshape(-1, *column)
        return start

    before, zero = x.to(wide), torch.zeros_like(x, dtype=wide)
    after = weighted_sum(before, rows.weights).to(x.dtype)
    estimates = [weighted_sum(zero, weights) for weights in rows.estimates]
    for q, weights in zip(dense, rows.dense, strict=True):
        q.copy_(weighted_sum(zero, weights))
    stored = after.to(wide)
    size = torch.maximum(before.abs(), stored.abs())
    tolerance = (rows.atol + rows.rtol * size).clamp(min=torch.finfo(wide).tiny)
    for column_of_error, estimate in zip(error.unbind(1), estimates, strict=True):
        ratio = (estimate / tolerance + (stored - stored)).to(torch.float64)[..., None].flatten(1)
        column_of_error.copy_(_root(ordered_sum(ratio * ratio) / max(ratio.shape[1], 1)))
    out.copy_(after)


def _root(x: Tensor) -> Tensor:
    """Square root rounded correctly, as processors do it: on the CPU, torch's vector library may be an ulp off."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.is_cpu else x.sqrt()


@implements("rk_step", "native")
def _native(x, stages, h, rows: Rows, out, error, dense) -> None:
    x, stages, h = x.contiguous(), [k.contiguous() for k in stages], h.contiguous()
    target = out if out.is_contiguous() else torch.empty_like(x)
    native_module.rk_step(
        CODES[x.dtype],
        x.shape[0],
        x.numel() // x.shape[0] if x.shape[0] else 0,
        x.data_ptr(),
        [k.data_ptr() for k in stages],
        h.data_ptr(),
        1 if h.shape[0] > 1 else 0,
        (rows.weights, *rows.estimates, *rows.dense),
        len(rows.estimates),
        rows.rtol,
        rows.atol,
        target.data_ptr(),
        [q.data_ptr() for q in dense],
        error.data_ptr(),
    )
    if target is not out:
        out.copy_(target)


def _call_operator(x, stages, h, rows: Rows):
    estimates, dense = ([w for row in table for w in row] for table in (rows.estimates, rows.dense))
    return _operator(x, stages, h, rows.weights, estimates, dense, rows.rtol, rows.atol)


def _operator_run(x, stages, h, weights, estimates, dense, rtol, atol):
    return _run(x, stages, h, Rows(tuple(weights), _split(estimates, stages), _split(dense, stages), rtol, atol))


def _split(numbers, stages) -> tuple[tuple[float, ...], ...]:
    width = len(stages)
    return tuple(tuple(numbers[i : i + width]) for i in range(0, len(numbers), width))


def _operator_fake(x, stages, h, weights, estimates, dense, rtol, atol):
    error = torch.empty(x.shape[0], len(estimates) // len(stages), dtype=torch.float64, device=x.device)
    new = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(1 + len(dense) // len(stages))]
    return new[0], error, new[1:]


def _setup(ctx, inputs, output):
    _, stages, h, weights, _, dense, *_ = inputs
    ctx.rows = (tuple(weights), *_split(dense, stages))
    # torch matches gradients to arguments by structure, and takes an empty list for a list of tensors
    ctx.blank = None if dense else []
    ctx.save_for_backward(h)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad, _, grads):
    """The transposed sums, in torch operations, so that they can be differentiated again."""
    (h,) = ctx.saved_tensors
    grads = [grad, *grads]
    like = next((g for g in grads if g is not None), None)
    result: list[Tensor | None] = [None] * len(ctx.rows[0])
    if like is not None:
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        h = h.reshape(-1, *[1] * (like.ndim - 1))
        for i in range(len(result)):
            total = torch.zeros_like(like, dtype=wide)
            for g, row in zip(grads, ctx.rows, strict=True):
                if g is not None and row[i] != 0:
                    total = total + g.to(wide) * (h * row[i]).to(wide)
            result[i] = total.to(like.dtype)
    return grad, result, None, None, None, ctx.blank, None, None


_operator = operators.operator(
    "rk_step(Tensor x, Tensor[] stages, Tensor h, float[] weights, float[] error_weights, float[] dense, float rtol,"
    " float atol) -> (Tensor, Tensor, Tensor[])",
    _operator_run,
    _operator_fake,
    setup=_setup,
    backward=_backward,
)

catalogue.describe(
    "rk_step",
    formula="x + sum_i h b_i k_i; RMS of (sum_i h e_i k_i) / (atol + rtol max(|x|, |x'|)); q_j = sum_i h d_ji k_i",
    moved="(stages + 2 + dense rows) s B D",
    differentiable="x, stages (through the new state and q)",
    benchmark="runge_kutta.py",
    rows=("rk_step 65536x2 float64", "rk_step 64x16384 float32"),
)
