"""`combine`: several linear combinations, with noise, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ArgumentError, ShapeError
from . import arguments, catalogue, operators, ops, reference
from .arguments import Weights
from .dispatch import device_type, implementation, native_module, short_way
from .noise import Noise

_grad_enabled = torch.is_grad_enabled
_transforms = torch._C._are_functorch_transforms_active


def combine(
    inputs: Sequence[Tensor],
    weights: Weights,
    *,
    out: Tensor | Sequence[Tensor] | None = None,
    noise: Noise | Sequence[Noise] | None = None,
    scale: float | Sequence[float] | Sequence[Sequence[float]] | Tensor | None = None,
    status: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    r"""Weighted sums of tensors, several at once, plus scaled standard normals.

    .. math:: \mathrm{out}_o = \sum_k w_{ok} \, x_k + \sum_d s_{od} \, z_d, \quad z_d \sim N(0, 1)

    Summed from left to right in float32 (float64 for float64 tensors) with coefficients rounded once to that type, and
    rounded once to the tensors' dtype. The result of an element depends on nothing but its own inputs: not on the
    batch, strides, alignment, aliasing or the number of threads, and it is the same on the reference and native
    backends. A zero weight still multiplies: 0 * NaN is NaN.

    Args:
        inputs: At most 16 tensors of one dtype (float32, float64, bfloat16, float16), device and shape [B, *D]; any
            strides.
        weights: K numbers for one output; O rows of K numbers for several (at most 4). Where samples differ, a float64
            tensor [B, K] or [B, O, K]; with ``groups``, [G, K] or [G, O, K]. On the CPU or with the inputs.
        out: Where to write, one tensor for each output; may coincide with inputs. By default new, like ``inputs[0]``.
        noise: Key of the normals `z` (at most 4 of them); see `Noise`. They are never written to memory.
        scale: Their scales: [O][D] numbers, where O is left out with one row of weights, and D with one `Noise` that is
            not in a list. Where samples or groups differ, a float64 tensor with B or G in front.
        status: int32 tensor of one element, set to ``status | 1`` if an element of an output is NaN or infinite.
        groups: Which row of ``weights`` (and of ``scale``) an element uses: int64, as many dimensions as the inputs,
            each extent theirs or 1. [B, 1, 1, 1] chooses by sample, [B, N, 1] by token, [1, 1, H, W] by pixel, and
            the inputs' whole shape by element.

    Returns:
        ``out``: a tensor if one row of weights was given, else a tuple. Differentiable in ``inputs`` if allocated here.

    Raises:
        ShapeError, DtypeError, DeviceError: Tensors that differ, or coefficients that do not fit; says which and how.
        ArgumentError: Too many tensors; an output that partly overlaps another tensor; ``out`` under autograd; a group
            outside [0, G), where groups are on the CPU (elsewhere nothing is read back, and none may be).

    Example:
        >>> x, v = torch.ones(1, 3), torch.full((1, 3), 2.0)
        >>> combine([x, v], [1.0, 0.5])
        tensor([[2., 2., 2.]])
        >>> both = combine([x, v], [[1, 1], [1, -1]])
        >>> both[1]
        tensor([[-1., -1., -1.]])
        >>> from pushforward.kernels import Draw, normal
        >>> key = Noise(seed=7, draw=Draw(purpose=1, step=0))
        >>> noisy = combine([x], [1.0], noise=key, scale=2.0)
        >>> torch.equal(noisy, x + 2 * normal((1, 3), seed=7, draw=key.draw))
        True
        >>> table = torch.tensor([[1.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
        >>> combine([x, v], table, groups=torch.tensor([[0, 1, 1]]))
        tensor([[1., 2., 2.]])
    """
    tracing = operators.tracing()
    if status is None and groups is None and not tracing and (short := short_way("combine_eager")):
        result = short(inputs, weights, out, noise, scale)
        if result is not None:
            return result
    if len(inputs) == 0:
        if out is None:
            raise ArgumentError("inputs", got="none", expected="at least one tensor, or out")
        like, like_name = (out if isinstance(out, Tensor) else out[0]), "out[0]"
    else:
        like, like_name = inputs[0], "inputs[0]"
    parts = arguments.terms(len(inputs), weights, noise, scale, groups, like)
    arguments.check_dtype(like_name, like)
    arguments.check_same("inputs", inputs, like, like_name)
    if status is not None:
        arguments.check_status(status)
    if _transforms():  # within vmap, jvp ...: tensors have no addresses, but torch operations can be transformed
        values = [total.to(like.dtype) for total in reference.totals(inputs, parts, like)]
        if status is not None:
            status |= _not_finite(values)
        if out is not None:
            for target, value in zip([out] if isinstance(out, Tensor) else out, values, strict=True):
                target.copy_(value)
            return out if isinstance(out, Tensor) else tuple(out)
        return values[0] if parts.single else tuple(values)
    if out is None:
        if tracing or _needs_operator(inputs):
            outs = ops.combine(inputs, parts)
            if status is not None:
                status |= _not_finite(outs)
            return outs[0] if parts.single else tuple(outs)
        outs = tuple([torch.empty_like(like) for _ in range(parts.outputs)])
    else:
        outs = (out,) if isinstance(out, Tensor) else tuple(out)
        arguments.check_outputs(outs, like, like_name, parts.outputs)
        if _grad_enabled() and any([x.requires_grad for x in (*inputs, *outs)]):
            raise ArgumentError("out", got="a tensor", expected="None where a gradient is recorded")
        if tracing:
            for target, value in zip(outs, ops.combine(inputs, parts, like), strict=True):
                target.copy_(value)
            if status is not None:
                status |= _not_finite(outs)
            return out if isinstance(out, Tensor) else outs
    arguments.check_group_range(parts)
    implementation("combine", device_type(like))(tuple(inputs), parts, outs, status)
    return outs[0] if parts.single else outs


class PreparedCombine(Protocol):
    """What `prepare` returns: call it with the tensors that were ``None``; it returns the status."""

    def __call__(self, *tensors: Tensor) -> int:
        """Run; the result is 1 if an element of an output is NaN or infinite, else 0 (always 0 on other devices)."""
        ...


def prepare(
    inputs: Sequence[Tensor | None],
    weights: Weights,
    outs: Tensor | Sequence[Tensor],
    *,
    noise: Noise | Sequence[Noise] | None = None,
    scale: float | Sequence[float] | Sequence[Sequence[float]] | Tensor | None = None,
    groups: Tensor | None = None,
) -> PreparedCombine:
    """`combine` with everything settled but a few inputs, for loops where its argument checks would cost more than it.

    Args:
        inputs: As in `combine`; ``None`` stands for a tensor that comes with each call.
        weights: As in `combine`.
        outs: Where to write: a tensor, or one for each row of weights. They, and the inputs given, are kept alive.
        noise: As in `combine`.
        scale: As in `combine`.
        groups: As in `combine`; kept alive, and not to be changed.

    Returns:
        A callable: ``prepared(*tensors) -> status``, one tensor for each ``None``, in order. It trusts that they have
        the shape, dtype, device and strides of ``outs[0]``, and records no gradient.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: As `combine` does, for everything known here.

    Example:
        >>> x, v = torch.ones(2), torch.ones(2)
        >>> step = prepare([x, None], [1.0, 0.5], x)  # x += v / 2
        >>> step(v), step(v), x
        (0, 0, tensor([2., 2.]))
    """
    if groups is None and (short := short_way("prepare_eager")):
        prepared = short(inputs, weights, outs, noise, scale)
        if prepared is not None:
            return prepared
    outs = (outs,) if isinstance(outs, Tensor) else tuple(outs)
    if not outs:
        raise ShapeError("outs", got="none", expected="at least one tensor")
    parts = arguments.terms(len(inputs), weights, noise, scale, groups, outs[0])
    arguments.check_dtype("outs[0]", outs[0])
    for index, given in enumerate(inputs):
        if given is not None:
            arguments.check_same(f"inputs[{index}]"[:-3], [given], outs[0], "outs[0]")
    arguments.check_outputs(outs, outs[0], "outs[0]", parts.outputs)
    arguments.check_group_range(parts)
    return implementation("prepare", device_type(outs[0]))(tuple(inputs), parts, outs)


class OpenCombine(Protocol):
    """What `combination` returns: call it with the tensors."""

    def __call__(self, *tensors: Tensor) -> Any:
        """The new tensor, or a tuple of them if several rows of weights were given."""
        ...


def combination(
    weights: Weights,
    *,
    noise: Noise | Sequence[Noise] | None = None,
    scale: float | Sequence[float] | Sequence[Sequence[float]] | Tensor | None = None,
) -> OpenCombine:
    """`combine` with the coefficients settled: a function of tensors of any shape, which returns new ones.

    For loops whose results go to other hands, so that no buffer can be bound. Coefficients are read once; a call checks
    the tensors as `combine` does, under the backend that is chosen then, and is differentiable as it is. Copies and
    pickles of what is returned do the same.

    Args:
        weights: As in `combine`; not to be changed afterwards.
        noise: As in `combine`.
        scale: As in `combine`; not to be changed afterwards.

    Returns:
        ``f(*tensors) -> combine(tensors, weights, noise=noise, scale=scale)``, whose errors it raises.

    Example:
        >>> euler = combination([1.0, 0.5])
        >>> euler(torch.ones(2), torch.full((2,), 4.0)), euler(torch.zeros(1, 1), torch.ones(1, 1))
        (tensor([3., 3.]), tensor([[0.5000]]))
    """
    if native_module is not None:
        return native_module.OpenCombination(weights, noise, scale, combine)
    return partial(_combine_all, weights, noise, scale)


class RegisterStep(Protocol):
    """What `register_step` returns."""

    def __call__(self, registers: dict[int, Tensor], first: Tensor, second: Tensor) -> Tensor | None:
        """The combination's result; None, with nothing changed, where it must be called by itself."""
        ...


def register_step(
    combination: OpenCombine,
    inputs: tuple[int, ...],
    first: int | None,
    second: int | None,
    kept: tuple[int, ...],
    dying: tuple[int, ...],
) -> RegisterStep | None:
    """A combination of one output on registers, with what happens around it, as one native call.

    Args:
        combination: From `combination`.
        inputs: The registers it reads, in order.
        first, second: The registers of the two tensors that come with each call; None: of none.
        kept: Which of these two are stored.
        dying: Registers that are let go afterwards.

    Returns:
        A callable ``step(registers, first, second)``; None without the compiled module. Its result is not stored.

    """
    if native_module is None:
        return None
    return native_module.RegisterStep(combination, inputs, first, second, kept, dying)


def _combine_all(weights: Any, noise: Any, scale: Any, *tensors: Tensor) -> Any:
    return combine(tensors, weights, noise=noise, scale=scale)


def _needs_operator(inputs: Sequence[Tensor]) -> bool:
    grad = _grad_enabled()
    return any([type(x) is not Tensor or (grad and x.requires_grad) for x in inputs])


def _not_finite(outs: Sequence[Tensor]) -> Tensor:
    return (~torch.stack([torch.isfinite(x).all() for x in outs]).all()).to(torch.int32)


catalogue.describe(
    "combine",
    formula="out[o, e] = sum_k weights[groups[e], o, k] inputs[k, e] + sum_d scale[groups[e], o, d] z[d, e]",
    moved="(K + O) n s, n elements (and 8 for each group index)",
    differentiable="inputs",
    benchmark="combine.py",
    rows=(
        "combine K=4 2^24 float32",
        "combine euler-maruyama 2^24",
        "combine 8 groups by token 2^22",
        "combine by sample 65536x2",
    ),
)
