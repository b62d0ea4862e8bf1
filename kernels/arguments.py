"""Checks and normal form of the arguments that `combine` and `prepare` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError
from .noise import MAX_ELEMENTS, Noise

MAX_INPUTS, MAX_OUTPUTS, MAX_DRAWS = 16, 4, 4
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

Rows: TypeAlias = "tuple[tuple[float, ...], ...]"
Weights: TypeAlias = "Sequence[float] | Sequence[Sequence[float]] | Tensor"


class Terms(NamedTuple):
    """The right-hand side of ``outs = weights @ inputs + scales @ normals``, checked.

    ``weights`` is [O][K] and ``scales`` [O][D] as nested tuples, or float64 tensors (on the CPU or with the inputs)
    [G, O, K] and [G, O, D] where they differ between elements: ``groups`` gives the row of each element, an int64
    tensor that broadcasts to the inputs' shape; None: each sample has its own row, G = B. ``single``: the caller gave
    one row and gets one tensor.
    """

    weights: Rows | Tensor
    noises: tuple[Noise, ...]
    scales: Rows | Tensor
    single: bool
    groups: Tensor | None = None

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.weights.shape[1] if isinstance(self.weights, Tensor) else len(self.weights)


def terms(
    inputs: int,
    weights: Weights,
    noise: Noise | Sequence[Noise] | None,
    scale: object,
    groups: Tensor | None,
    like: Tensor,
) -> Terms:
    """Bring coefficients and noise into normal form, for ``inputs`` inputs like this one.

    Raises:
        ArgumentError: Too many inputs, outputs or draws, or noise without a scale (or the reverse).
        ShapeError: A number of coefficients that does not fit.
        DtypeError: Coefficients in a tensor that is not float64, or groups that are not int64.
        DeviceError: Such a tensor on a device that is neither the CPU nor the inputs'.
    """
    shape = like.shape
    if groups is not None:
        check_groups(groups, like)
    first = "B" if groups is None else "G"
    if inputs > MAX_INPUTS:
        raise ArgumentError("inputs", got=f"{inputs} tensors", expected=f"at most {MAX_INPUTS}")
    if isinstance(weights, Tensor):
        single = weights.ndim == 2
        weights = _table("weights", weights, f"[{first}, K] or [{first}, O, K]", (2, 3), groups, like)
        weights = weights[:, None] if single else weights
        outputs, width = weights.shape[1:]
        widths = (width,)
    else:
        single = len(weights) == 0 or not _is_row(weights[0])
        rows: Any = (weights,) if single else weights
        weights = tuple([tuple([float(w) for w in row]) for row in rows])
        outputs, widths = len(weights), [len(row) for row in weights]
    if not 1 <= outputs <= MAX_OUTPUTS:
        raise ArgumentError("weights", got=f"{outputs} rows", expected=f"1 to {MAX_OUTPUTS} outputs")
    for width in widths:
        if width != inputs:
            raise ShapeError("weights", got=f"a row of {width} coefficients", expected=f"{inputs}, one for each input")

    many = not (noise is None or isinstance(noise, Noise))
    noises: tuple[Noise, ...] = () if noise is None else (noise,) if isinstance(noise, Noise) else tuple(noise)
    if (noise is None) != (scale is None):
        raise ArgumentError("scale", got=scale, expected="a scale where there is noise, and only there")
    if groups is not None and not (isinstance(weights, Tensor) or isinstance(scale, Tensor)):
        raise ArgumentError("groups", got="a tensor", expected="weights or scale [G, ...] as a tensor, a row a group")
    if not noises:
        return Terms(weights, (), ((),) * outputs, single, groups)
    if len(noises) > MAX_DRAWS:
        raise ArgumentError("noise", got=f"{len(noises)} draws", expected=f"at most {MAX_DRAWS}")
    _check_noises(noises, shape)
    if isinstance(scale, Tensor):
        sizes = (outputs,) * (not single) + (len(noises),) * many
        expected = "[" + ", ".join([first, *["O"] * (not single), *["draws"] * many]) + "]"
        scale = _table("scale", scale, expected, (1 + len(sizes),), groups, like)
        rows_given = weights.shape[0] if isinstance(weights, Tensor) else scale.shape[0]
        if tuple(scale.shape) != (rows_given, *sizes):
            raise ShapeError("scale", got=list(scale.shape), expected=f"{expected} = {[rows_given, *sizes]}")
        return Terms(weights, noises, scale.reshape(-1, outputs, len(noises)), single, groups)
    given: Any = [scale] if single else scale
    try:
        scales = tuple([tuple([float(s) for s in (row if many else [row])]) for row in given])
    except TypeError:
        scales = ()
    if len(scales) != outputs or any(len(row) != len(noises) for row in scales):
        wanted = "a number" if not many else f"{len(noises)} numbers, one for each draw"
        raise ShapeError("scale", got=scale, expected=wanted if single else f"{outputs} rows, each {wanted}")
    return Terms(weights, noises, scales, single, groups)


def check_groups(groups: Tensor, like: Tensor) -> None:
    """Raise unless ``groups`` is an int64 tensor that broadcasts to the shape of ``like``, on its device."""
    if groups.dtype != torch.int64:
        raise DtypeError("groups", got=groups.dtype, expected="torch.int64")
    if groups.device != like.device:
        raise DeviceError("groups", got=groups.device, expected=f"{like.device}, the device of the inputs")
    fits = groups.ndim == like.ndim and all([g in (1, n) for g, n in zip(groups.shape, like.shape, strict=True)])
    if not fits:
        expected = f"as many dimensions as {list(like.shape)}, each extent the same or 1"
        raise ShapeError("groups", got=list(groups.shape), expected=expected)


def check_group_range(parts: Terms) -> None:
    """Raise unless every group has its coefficients. Only on the CPU: elsewhere it would read the device."""
    groups = parts.groups
    if groups is None or not groups.is_cpu or groups.numel() == 0:
        return
    count = next(rows.shape[0] for rows in (parts.weights, parts.scales) if isinstance(rows, Tensor))
    low, high = [int(bound) for bound in groups.aminmax()]
    if low < 0 or high >= count:
        raise ArgumentError("groups", got=f"{low} to {high}", expected=f"0 to {count - 1}, a row of coefficients each")


def check_same(name: str, tensors: Sequence[Tensor], like: Tensor, like_name: str) -> None:
    """Raise unless all tensors have the dtype, device and shape of ``like``; name the first that differs, and how."""
    for index, tensor in enumerate(tensors):
        if tensor.dtype != like.dtype:
            raise DtypeError(f"{name}[{index}]", got=tensor.dtype, expected=f"{like.dtype}, the dtype of {like_name}")
        if tensor.device != like.device:
            raise DeviceError(
                f"{name}[{index}]", got=tensor.device, expected=f"{like.device}, the device of {like_name}"
            )
        if tensor.shape != like.shape:
            expected = f"{list(like.shape)}, the shape of {like_name}"
            raise ShapeError(f"{name}[{index}]", got=list(tensor.shape), expected=expected)


def check_dtype(name: str, tensor: Tensor) -> None:
    """Raise unless this is a dtype the kernels compute in."""
    if tensor.dtype not in DTYPES:
        raise DtypeError(name, got=tensor.dtype, expected="float32, float64, bfloat16 or float16")


def check_outputs(outs: Sequence[Tensor], like: Tensor, like_name: str, outputs: int) -> None:
    """Raise unless there is one output for each row, like the inputs, without elements sharing memory."""
    if len(outs) != outputs:
        raise ShapeError("out", got=f"{len(outs)} tensors", expected=f"{outputs}, one for each row of weights")
    check_same("out", outs, like, like_name)
    for index, out in enumerate(outs):
        if not _injective(out):
            raise ArgumentError(
                f"out[{index}]", got="elements that share memory", expected="a tensor of its own elements"
            )


def check_status(status: Tensor) -> None:
    """Raise unless ``status`` is one int32."""
    if status.dtype != torch.int32:
        raise DtypeError("status", got=status.dtype, expected="torch.int32")
    if status.numel() != 1:
        raise ShapeError("status", got=list(status.shape), expected="one element")


def check_overlap(inputs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
    """Raise if an output shares memory with another tensor, except an input that it coincides with.

    Only CPU tensors that interleave (strided views of one buffer) need a search, and numpy's is exact.
    """
    spans = [_span(tensor) for tensor in (*inputs, *outs)]
    for o, out in enumerate(outs):
        begin, end = spans[len(inputs) + o]
        for index, tensor in enumerate((*inputs, *outs[:o])):
            other_begin, other_end = spans[index]
            if end <= other_begin or other_end <= begin:
                continue
            is_input = index < len(inputs)
            if is_input and begin == other_begin and _same_strides(out, tensor):
                continue
            if _share_memory(out, tensor):
                other = f"inputs[{index}]" if is_input else f"out[{index - len(inputs)}]"
                hint = "An output may coincide with an input, element by element, or be apart from it"
                raise ArgumentError(f"out[{o}]", got=f"memory that partly overlaps {other}", hint=hint)


def _is_row(value: object) -> bool:
    return hasattr(value, "__len__")


def _table(
    name: str, value: Tensor, expected: str, ndims: tuple[int, ...], groups: Tensor | None, like: Tensor
) -> Tensor:
    if value.dtype != torch.float64 or value.requires_grad:
        got = f"{value.dtype}" + (" that requires grad" if value.requires_grad else "")
        raise DtypeError(name, got=got, expected="float64 that is not differentiated: coefficients are rounded once")
    if not value.is_cpu and value.device != like.device:
        raise DeviceError(name, got=value.device, expected=f"cpu or {like.device}, the device of the inputs")
    if value.ndim not in ndims:
        raise ShapeError(name, got=list(value.shape), expected=expected)
    if groups is None and (like.ndim == 0 or value.shape[0] != like.shape[0]):
        raise ShapeError(name, got=list(value.shape), expected=f"{expected} for inputs of shape {list(like.shape)}")
    return value


def _check_noises(noises: Sequence[Noise], shape: Sequence[int]) -> None:
    if len(shape) == 0:
        raise ShapeError("inputs", got="a tensor without dimensions", expected="[B, *D]: noise belongs to samples")
    elements = 1
    for size in shape[1:]:
        elements *= size
    if elements > MAX_ELEMENTS:
        raise ShapeError("inputs", got=list(shape), expected="at most 2**34 elements a sample: the counter ends there")
    for noise in noises:
        if noise.samples is not None and noise.samples.shape[0] != shape[0]:
            raise ShapeError(
                "noise.samples", got=list(noise.samples.shape), expected=f"[{shape[0]}], one id for each row"
            )


def _span(tensor: Tensor) -> tuple[int, int]:
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.numel() * tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (begin, begin + (last + 1) * tensor.element_size()) if tensor.numel() else (begin, begin)


def _same_strides(a: Tensor, b: Tensor) -> bool:
    return all(s <= 1 or x == y for s, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))


def _injective(tensor: Tensor) -> bool:
    """True if strides prove that elements are apart (each dimension steps over all the smaller ones)."""
    if tensor.is_contiguous() or tensor.numel() == 0:
        return True
    end = 0
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride <= end:
            return False
        end += stride * (size - 1)
    return True


def _share_memory(a: Tensor, b: Tensor) -> bool:
    if not a.is_cpu:
        return True
    import numpy as np

    bits = torch.int64 if a.element_size() == 8 else torch.int32 if a.element_size() == 4 else torch.int16
    try:
        return np.shares_memory(a.detach().view(bits).numpy(), b.detach().view(bits).numpy(), max_work=10**6)  # type: ignore[arg-type]  # the stubs allow -1, 0 and 1 only
    except np.exceptions.TooHardError:
        return True
