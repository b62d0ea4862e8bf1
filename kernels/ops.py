"""`pushforward::combine` and `pushforward::normal`: what tracing, compilation and autograd see of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import Terms
from .dispatch import device_type, implementation
from .noise import Draw, Noise

# Coefficients are host numbers, [O][K] row after row; where samples differ, tensors [B, O, K] and [B, O, D].
# A draw is four integers (purpose, step, stage, attempt) and its seed, as a signed 64-bit number.
library = torch.library.Library("pushforward", "DEF")
library.define(
    "combine(Tensor[] inputs, int outputs, float[] weights, Tensor? weights_of, int[] draws, Tensor?[] samples,"
    " float[] scales, Tensor? scales_of, Tensor? like) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(
    "normal(SymInt[] shape, int[] draw, Tensor? samples, ScalarType dtype, Device device) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def combine(inputs: Sequence[Tensor], parts: Terms, like: Tensor | None = None) -> list[Tensor]:
    """Call the operator: new outputs, differentiable in ``inputs``."""
    weights, weights_of = _flat(parts.weights)
    scales, scales_of = _flat(parts.scales)
    draws = [number for noise in parts.noises for number in _pack(noise)]
    samples = [noise.samples for noise in parts.noises]
    return torch.ops.pushforward.combine(
        list(inputs), parts.outputs, weights, weights_of, draws, samples, scales, scales_of, None if inputs else like
    )


def normal(shape: Sequence[int], noise: Noise, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Call the operator."""
    return torch.ops.pushforward.normal(list(shape), _pack(noise), noise.samples, dtype, device)


def _flat(rows: Any) -> tuple[list[float], Tensor | None]:
    return ([], rows) if isinstance(rows, Tensor) else ([number for row in rows for number in row], None)


def _pack(noise: Noise) -> list[int]:
    return [noise.seed - (noise.seed >> 63 << 64), *noise.draw]


def _unpack(draw: Sequence[int], samples: Tensor | None) -> Noise:
    return Noise(draw[0] % 2**64, Draw(*draw[1:]), samples)


def _rows(flat: Sequence[float], outputs: int) -> tuple[tuple[float, ...], ...]:
    width = len(flat) // outputs
    return tuple(tuple(flat[o * width : (o + 1) * width]) for o in range(outputs))


def _combine(inputs, outputs, weights, weights_of, draws, samples, scales, scales_of, like):
    noises = tuple(_unpack(draws[5 * d : 5 * d + 5], ids) for d, ids in enumerate(samples))
    weights = _rows(weights, outputs) if weights_of is None else weights_of
    scales = _rows(scales, outputs) if scales_of is None else scales_of
    like = inputs[0] if inputs else like
    outs = [torch.empty_like(like) for _ in range(outputs)]
    implementation("combine", device_type(like))(inputs, Terms(weights, noises, scales, False), outs, None)
    return outs


def _normal(shape, draw, samples, dtype, device):
    out = torch.empty(shape, dtype=dtype, device=device)
    parts = Terms(((),), (_unpack(draw, samples),), ((1.0,),), True)
    implementation("combine", device_type(out))((), parts, (out,), None)
    return out


def _combine_fake(inputs, outputs, weights, weights_of, draws, samples, scales, scales_of, like):
    return [torch.empty_like(inputs[0] if inputs else like) for _ in range(outputs)]


def _normal_fake(shape, draw, samples, dtype, device):
    return torch.empty(shape, dtype=dtype, device=device)


def _setup(ctx, inputs, output):
    tensors, ctx.outputs, ctx.weights, weights_of, *_ = inputs
    ctx.count = len(tensors)
    # torch matches gradients to arguments by structure, and takes an empty list for a list of tensors
    ctx.blanks = tuple(_blank(argument) for argument in inputs[1:])
    ctx.save_for_backward(weights_of)


def _blank(argument):
    is_tensor_list = isinstance(argument, list | tuple) and all(isinstance(item, Tensor) for item in argument)
    return [None] * len(argument) if is_tensor_list else None


def _backward(ctx, grads):
    """Combine the gradients with the transposed weights, at most four inputs a pass."""
    weights_of = ctx.saved_tensors[0]
    used = [o for o, grad in enumerate(grads) if grad is not None]
    result: list[Tensor | None] = [None] * ctx.count
    wanted = list(range(ctx.count)) if used else []
    for start in range(0, len(wanted), 4):
        ks = wanted[start : start + 4]
        if weights_of is None:
            transposed: Any = tuple(tuple(ctx.weights[o * ctx.count + k] for o in used) for k in ks)
        else:
            transposed = weights_of[:, used][:, :, ks].transpose(1, 2).contiguous()
        parts = Terms(transposed, (), ((),) * len(ks), False)
        for k, value in zip(ks, combine([grads[o] for o in used], parts), strict=True):
            result[k] = value
    return result, *ctx.blanks


library.impl("combine", _combine, "CompositeExplicitAutograd")
library.impl("normal", _normal, "CompositeExplicitAutograd")
torch.library.register_fake("pushforward::combine", _combine_fake, lib=library)
torch.library.register_fake("pushforward::normal", _normal_fake, lib=library)
torch.library.register_autograd("pushforward::combine", _backward, setup_context=_setup, lib=library)
