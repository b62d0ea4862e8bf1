"""The reference backend: the definitions in torch operations, on any device. Other backends are tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from . import arguments, philox
from .arguments import Terms
from .dispatch import implements
from .noise import Noise


@implements("combine", "reference")
def combine(inputs: Sequence[Tensor], parts: Terms, outs: Sequence[Tensor], status: Tensor | None) -> None:
    """``outs = weights @ inputs + scales @ normals``, summed from left to right in the wide type, rounded once.

    Element ``e`` takes row ``groups[e]`` of coefficients that are a table, or that of its sample.
    """
    if not outs[0].is_meta:
        arguments.check_overlap(inputs, outs)
    for out, total in zip(outs, totals(inputs, parts, outs[0]), strict=True):  # all sums first: outputs may be inputs
        out.copy_(total)
    if status is not None:
        status |= torch.stack([(~torch.isfinite(out)).any() for out in outs]).any().to(status)


def totals(inputs: Sequence[Tensor], parts: Terms, like: Tensor) -> list[Tensor]:
    """The sums, in the wide type, as new tensors."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    normals = [normal_like(noise, like).to(wide) for noise in parts.noises]
    sums = []
    for o in range(parts.outputs):
        weights, scales = (coefficients(rows, o, parts.groups, like, wide) for rows in (parts.weights, parts.scales))
        products = [x.to(wide) * w for x, w in zip(inputs, weights, strict=True)]
        products += [z * s for z, s in zip(normals, scales, strict=True)]
        total = products[0] if products else torch.zeros_like(like, dtype=wide)
        for product in products[1:]:
            total = total + product  # two roundings, never a fused multiply-add: the same on every machine
        sums.append(total)
    return sums


def coefficients(rows: Any, o: int, groups: Tensor | None, like: Tensor, wide: torch.dtype) -> Sequence[float | Tensor]:
    """Coefficients of output ``o``: numbers, or tensors that broadcast to the inputs' shape."""
    if not isinstance(rows, Tensor):
        return rows[o]
    columns = rows[:, o].to(device=like.device, dtype=wide).unbind(-1)
    if groups is not None:
        return [column[groups] for column in columns]
    return [column.reshape(-1, *[1] * (like.ndim - 1)) for column in columns]


def normal_like(noise: Noise, like: Tensor) -> Tensor:
    """The normals of this key as a float32 tensor of the shape of ``like``."""
    elements, samples = _stream(noise, like)
    return philox.normals(elements, seed=noise.seed, draw=noise.draw, samples=samples).reshape(like.shape)


def _stream(noise: Noise, like: Tensor) -> tuple[int, Tensor]:
    """Elements of a sample, and the samples' ids on the device of ``like``."""
    samples = torch.arange(like.shape[0], device=like.device) if noise.samples is None else noise.samples
    return like.shape[1:].numel(), samples.to(like.device)


@implements("normal", "reference")
def normal(out: Tensor, noise: Noise) -> None:
    """Fill ``out`` with the normals of this key, rounded to its dtype."""
    out.copy_(normal_like(noise, out))


@implements("uniform", "reference")
def uniform(out: Tensor, noise: Noise) -> None:
    """Fill ``out``, float32 or float64, with the uniforms of this key."""
    elements, samples = _stream(noise, out)
    uniforms = philox.uniforms(elements, seed=noise.seed, draw=noise.draw, samples=samples, dtype=out.dtype)
    out.copy_(uniforms.reshape(out.shape))


@implements("prepare", "reference")
class Prepared:
    """A combination whose remaining inputs come with the call; see `pushforward.kernels.prepare`."""

    def __init__(self, inputs: Sequence[Tensor | None], parts: Terms, outs: Sequence[Tensor]) -> None:
        self._inputs, self._parts, self._outs = list(inputs), parts, outs
        self._slots = [index for index, given in enumerate(inputs) if given is None]
        self._status = torch.zeros(1, dtype=torch.int32) if outs[0].is_cpu else None

    def __call__(self, *tensors: Tensor) -> int:
        """Run; returns 1 if an output is not finite (on the CPU), else 0."""
        if len(tensors) != len(self._slots):
            raise TypeError(f"got {len(tensors)} tensors, expected {len(self._slots)}")
        inputs = list(self._inputs)
        for slot, tensor in zip(self._slots, tensors, strict=True):
            inputs[slot] = tensor
        with torch.no_grad():
            combine(cast(list[Tensor], inputs), self._parts, self._outs, self._status)
        if self._status is None:
            return 0
        status = int(self._status)
        self._status.zero_()
        return status
