"""`threshold`: dynamic thresholding of clean estimates, by selection instead of a sort."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from . import arguments, operators
from .catalogue import describe
from .dispatch import device_type, implementation, implements, native_module
from .native import CODES


def threshold(
    x: Tensor, ratio: float = 0.995, *, floor: float = 1.0, cap: float | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Clamp each sample to a quantile of its absolute values, then scale it back into range.

    .. math:: q = \mathrm{quantile}(|x|, \mathrm{ratio}), \quad S = \min(\max(q, \mathrm{floor}), \mathrm{cap}), \quad
        \mathrm{out} = \mathrm{clamp}(x, -S, S) \cdot (\mathrm{floor} / S)

    The quantile interpolates linearly between the two order statistics around position ``ratio * (n - 1)``, as
    `torch.quantile` does, with the position in float64. Computed in float32 (float64 for float64 tensors) and rounded
    once; the same bits on every backend, and for a sample alone or in any batch. The gradient takes S for a constant.

    A NaN makes its whole sample NaN. Infinities are large values: they are clamped, unless they are so many that S is
    infinite, which makes finite elements zero and infinite ones NaN.

    Args:
        x: Clean estimates of shape [B, *D]; float32, float64, bfloat16 or float16. Other than contiguous (or channels
            last) ones are copied first.
        ratio: Share of elements that stay unclamped, in (0, 1].
        floor: Half-width of the data range: a sample within it stays as it is. Above 0.
        cap: Largest S, at least ``floor``; ``cap=floor`` is static clamping. None: no limit.
        out: Where to write; may be ``x``. By default new, like ``x``.

    Returns:
        ``out``. Differentiable if allocated here.

    Raises:
        ArgumentError: A number outside its range, ``out`` that partly overlaps ``x``, or ``out`` under autograd.
        ShapeError, DtypeError, DeviceError: ``x`` without a batch dimension or of another dtype; an ``out`` unlike it.

    Source:
        Saharia et al. 2022, Photorealistic text-to-image diffusion models (Imagen), section 2.3.

    Example:
        >>> threshold(torch.tensor([[0.5, -4.0, 1.0, 2.0], [0.1, 0.2, 0.3, 0.4]]), 1.0)
        tensor([[ 0.1250, -1.0000,  0.2500,  0.5000],
                [ 0.1000,  0.2000,  0.3000,  0.4000]])
    """
    arguments.check_dtype("x", x)
    if x.ndim == 0:
        raise ShapeError("x", got="a tensor without dimensions", expected="[B, *D]")
    wide = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if not 0 < ratio <= 1:
        raise ArgumentError("ratio", got=ratio, expected="a share of elements in (0, 1]")
    if not wide.tiny <= floor <= wide.max:
        raise ArgumentError("floor", got=floor, expected="the half-width of the data range, above 0 and finite")
    cap = math.inf if cap is None else cap
    if not cap >= floor:
        raise ArgumentError("cap", got=cap, expected=f"at least floor = {floor}")
    if out is None:
        if operators.needs_operator(x):
            return _operator(x, ratio, floor, cap)[0]
        out = torch.empty_like(x)
        _run(x, ratio, floor, cap, out)
        return out
    arguments.check_outputs([out], x, "x", 1)
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise ArgumentError("out", got="a tensor", expected="None where a gradient is recorded")
    if operators.tracing():
        return out.copy_(_operator(x, ratio, floor, cap)[0])
    arguments.check_overlap([x], [out])
    _run(x, ratio, floor, cap, out)
    return out


def position(ratio: float, size: int) -> tuple[int, float]:
    """Order statistic below the quantile of ``size`` numbers, and the way from it to the next, in [0, 1)."""
    place = ratio * (size - 1)
    lower = math.floor(place)
    return lower, place - lower


def _run(x: Tensor, ratio: float, floor: float, cap: float, out: Tensor) -> Tensor:
    limits = torch.empty(x.shape[:1], dtype=_wide(x), device=x.device)
    if x.numel() == 0:
        return limits.fill_(floor)
    implementation("threshold", device_type(x))(x, *position(ratio, x[0].numel()), floor, cap, out, limits)
    return limits


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@implements("threshold", "reference")
def _reference(x: Tensor, lower: int, fraction: float, floor: float, cap: float, out: Tensor, limits: Tensor) -> None:
    wide = x.to(limits.dtype)
    ordered = wide.abs().reshape(len(x), -1).sort(1).values
    low, high = ordered[:, lower], ordered[:, min(lower + 1, ordered.shape[1] - 1)]
    equal = (low == high) if fraction else torch.ones_like(low, dtype=torch.bool)
    quantile = torch.where(equal, low, low + (high - low) * fraction)
    quantile = torch.where(ordered[:, -1].isnan(), math.nan, quantile)
    limits.copy_(quantile.clamp(floor, cap))
    s, scale = _per_sample(limits, x), _per_sample(_scale(limits, floor), x)
    out.copy_(wide.clamp(-s, s) * scale)


def _scale(limits: Tensor, floor: float) -> Tensor:
    return torch.full_like(limits, floor) / limits  # a number over a tensor would be its reciprocal, rounded, times it


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def dense(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Both as tensors whose samples lie one after the other, elements in the same order: themselves or copies."""
    if x.stride() == out.stride() and (
        x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
    ):
        return x, out
    return x.contiguous(), out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)


@implements("threshold", "native")
def _native(x: Tensor, lower: int, fraction: float, floor: float, cap: float, out: Tensor, limits: Tensor) -> None:
    source, target = dense(x, out)
    batch = x.shape[0]
    native_module.threshold(
        CODES[x.dtype],
        source.data_ptr(),
        target.data_ptr(),
        batch,
        x.numel() // batch,
        lower,
        fraction,
        floor,
        cap,
        limits.data_ptr(),
    )
    if target is not out:
        out.copy_(target)


def _run_operator(x: Tensor, ratio: float, floor: float, cap: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x)
    return out, _run(x, ratio, floor, cap, out)


def _fake(x: Tensor, ratio: float, floor: float, cap: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[:1], dtype=_wide(x))


def _setup(ctx, inputs, output):
    x, _, ctx.floor, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _backward(ctx, gradient, _):
    x, limits = ctx.saved_tensors
    s, scale = _per_sample(limits, x), _per_sample(_scale(limits, ctx.floor), x)
    passed = gradient.to(limits.dtype) * scale
    return torch.where(x.abs().to(limits.dtype) > s, torch.zeros_like(passed), passed).to(x.dtype), None, None, None


_operator = operators.operator(
    "threshold(Tensor x, float ratio, float floor, float cap) -> (Tensor, Tensor)",
    _run_operator,
    _fake,
    setup=_setup,
    backward=_backward,
)
describe(
    "threshold",
    formula="out = clamp(x, -S, S) floor / S, S = min(max(quantile(|x|, ratio), floor), cap), per sample",
    moved="4 n s for n elements: three reads, one write",
    differentiable="x (S constant)",
    benchmark="threshold.py",
    rows=("threshold 16x12288 float32", "threshold 1x3x512x512 float32"),
)
