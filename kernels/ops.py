"""`pushforward::combine`: what tracing, compilation and autograd see of linear combinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import arguments, operators, reference
from .arguments import Terms
from .dispatch import device_type, implementation
from .noise import pack_noise, unpack_noise

# Coefficients are host numbers, [O][K] row after row; where samples or groups differ, tensors [G, O, K] and [G, O, D].
SCHEMA = (
    "combine(Tensor[] inputs, int outputs, float[] weights, Tensor? weights_of, int[] draws, Tensor?[] samples,"
    " float[] scales, Tensor? scales_of, Tensor? like, Tensor? groups) -> Tensor[]"
)


def combine(inputs: Sequence[Tensor], parts: Terms, like: Tensor | None = None) -> list[Tensor]:
    """Call the operator: new outputs, differentiable in ``inputs``."""
    weights, weights_of = _flat(parts.weights)
    scales, scales_of = _flat(parts.scales)
    draws = [number for noise in parts.noises for number in pack_noise(noise)]
    samples = [noise.samples for noise in parts.noises]
    like = None if inputs else like
    return torch.ops.pushforward.combine(
        list(inputs), parts.outputs, weights, weights_of, draws, samples, scales, scales_of, like, parts.groups
    )


def _flat(rows: Any) -> tuple[list[float], Tensor | None]:
    return ([], rows) if isinstance(rows, Tensor) else ([number for row in rows for number in row], None)


def _rows(flat: Sequence[float], outputs: int) -> tuple[tuple[float, ...], ...]:
    width = len(flat) // outputs
    return tuple(tuple(flat[o * width : (o + 1) * width]) for o in range(outputs))


def _combine(inputs, outputs, weights, weights_of, draws, samples, scales, scales_of, like, groups):
    noises = tuple(unpack_noise(draws[5 * d : 5 * d + 5], ids) for d, ids in enumerate(samples))
    weights = _rows(weights, outputs) if weights_of is None else weights_of
    scales = _rows(scales, outputs) if scales_of is None else scales_of
    like = inputs[0] if inputs else like
    outs = [torch.empty_like(like) for _ in range(outputs)]
    parts = Terms(weights, noises, scales, False, groups)
    arguments.check_group_range(parts)
    implementation("combine", device_type(like))(inputs, parts, outs, None)
    return outs


def _combine_fake(inputs, outputs, weights, weights_of, draws, samples, scales, scales_of, like, groups):
    return [torch.empty_like(inputs[0] if inputs else like) for _ in range(outputs)]


def _setup(ctx, inputs, output):
    tensors, ctx.outputs, ctx.weights, weights_of, *_, groups = inputs
    ctx.count = len(tensors)
    # torch matches gradients to arguments by structure, and takes an empty list for a list of tensors
    ctx.blanks = tuple(_blank(argument) for argument in inputs[1:])
    ctx.save_for_backward(weights_of, None if weights_of is None else groups)


def _blank(argument):
    is_tensor_list = isinstance(argument, list | tuple) and all(isinstance(item, Tensor) for item in argument)
    return [None] * len(argument) if is_tensor_list else None


def _backward(ctx, grads):
    """Combine the gradients with the transposed weights, at most four inputs a pass."""
    weights_of, groups = ctx.saved_tensors
    used = [o for o, grad in enumerate(grads) if grad is not None]
    result: list[Tensor | None] = [None] * ctx.count
    wanted = list(range(ctx.count)) if used else []
    for start in range(0, len(wanted), 4):
        ks = wanted[start : start + 4]
        if weights_of is None:
            transposed: Any = tuple(tuple(ctx.weights[o * ctx.count + k] for o in used) for k in ks)
        else:
            transposed = weights_of[:, used][:, :, ks].transpose(1, 2).contiguous()
        parts = Terms(transposed, (), ((),) * len(ks), False, groups)
        given = [grads[o] for o in used]
        if torch._C._are_functorch_transforms_active():  # a batch of gradients at once: the operator has no such rule
            values = [total.to(given[0].dtype) for total in reference.totals(given, parts, given[0])]
        else:
            values = combine(given, parts)
        for k, value in zip(ks, values, strict=True):
            result[k] = value
    return result, *ctx.blanks


operators.operator(SCHEMA, _combine, _combine_fake, setup=_setup, backward=_backward)
