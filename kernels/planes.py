"""What the operations on image planes share: tensors [..., H, W], each plane treated alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ShapeError
from . import arguments
from .dispatch import device_type, implementation
from .operators import needs_operator

_transforms = torch._C._are_functorch_transforms_active


def check(name: str, x: Tensor) -> None:
    """Raise unless ``x`` is a tensor of planes in a dtype the kernels compute in."""
    arguments.check_dtype(name, x)
    if x.ndim < 2:
        raise ShapeError(name, got=list(x.shape), expected="[..., H, W]")


def check_like(names: Sequence[str], tensors: Sequence[Tensor], *, shapes: bool = True) -> None:
    """Raise unless all tensors have the dtype, device and (with ``shapes``) shape of the first."""
    like = tensors[0]
    for name, x in zip(names[1:], tensors[1:], strict=True):
        if x.dtype != like.dtype:
            raise DtypeError(name, got=x.dtype, expected=f"{like.dtype}, the dtype of {names[0]}")
        if x.device != like.device:
            raise DeviceError(name, got=x.device, expected=f"{like.device}, the device of {names[0]}")
        if shapes and x.shape != like.shape:
            raise ShapeError(name, got=list(x.shape), expected=f"{list(like.shape)}, the shape of {names[0]}")


def call(op: str, reference: Callable[..., Any], tensors: Sequence[Tensor | None], *rest: Any) -> Any:
    """Run ``op``: the operator where torch wants to see one, the definition within transforms, else the kernel."""
    if _transforms():  # tensors have no addresses there, but torch operations can be transformed
        return reference(*tensors, *rest)
    given = [x for x in tensors if x is not None]
    if needs_operator(*given):
        return getattr(torch.ops.pushforward, op)(*tensors, *rest)
    return implementation(op, device_type(given[0]))(*tensors, *rest)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are formed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def extended(x: Tensor, dim: int, left: int, right: int, mode: str) -> Tensor:
    """``x`` with so many more (if negative, fewer) elements on either side of a dimension.

    Args:
        x: Any tensor.
        dim: The dimension.
        left: Elements in front.
        right: Elements behind.
        mode: ``"zero"``, ``"periodic"``, ``"symmetric"`` (reflected, the edge element repeated) or ``"edge"``.
    """
    size = x.shape[dim]
    at = torch.arange(-left, size + right, device=x.device)
    if mode == "zero":
        inside = (at >= 0) & (at < size)
        shape = [-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]
        if size == 0:
            return x.new_zeros([*x.shape[: dim % x.ndim], len(at), *x.shape[dim % x.ndim + 1 :]])
        return torch.where(inside.reshape(shape), x.index_select(dim, at.clamp(0, size - 1)), 0.0)
    if mode == "periodic":
        at = at % size
    elif mode == "symmetric":
        at = at % (2 * size)
        at = torch.minimum(at, 2 * size - 1 - at)
    else:
        at = at.clamp(0, size - 1)
    return x.index_select(dim, at)
