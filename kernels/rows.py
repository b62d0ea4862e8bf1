"""Rows by index: `gather_rows` and `keep_in_place` for particles, `gather_tokens` and `scatter_tokens` for tokens.

One movement serves them all, ``out[b, j] = source[b, index[b, j]]`` or, where the index is negative, ``base[b, j]``.
Rows are bytes: any dtype will do, and all backends agree exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError, DtypeError, ShapeError
from . import catalogue, operators
from .dispatch import device_type, implementation, implements, native_module


@overload
def gather_rows(tensors: Tensor, ancestors: Tensor, *, in_place: bool = False) -> Tensor: ...
@overload
def gather_rows(tensors: Sequence[Tensor], ancestors: Tensor, *, in_place: bool = False) -> tuple[Tensor, ...]: ...
def gather_rows(
    tensors: Tensor | Sequence[Tensor], ancestors: Tensor, *, in_place: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """State of every particle's ancestor: row j of the result is row ``ancestors[j]``.

    In place, rows that stay are not touched (`keep_in_place` makes them as many as possible), and on the CPU the moves
    are ordered such that a single row per thread is all the extra memory: first slots that nobody reads, then cycles.
    Tensors that are not contiguous, and other devices, go through a copy.

    Args:
        tensors: One or several tensors [N, *D], or [S, N, *D] for S populations; any dtype.
        ancestors: int64 [M], or [S, M], in [0, N); on a GPU the range is not checked. M = N in place.
        in_place: Overwrite the tensors.

    Returns:
        New tensors [M, *D] or [S, M, *D], differentiable in ``tensors``; or the tensors given. A tuple for a sequence.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: Tensors that do not fit; says which.

    Example:
        >>> gather_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0, 2]))
        tensor([[3.],
                [1.],
                [3.]])
    """
    single = isinstance(tensors, Tensor)
    given = (tensors,) if single else tuple(tensors)
    if ancestors.ndim not in (1, 2):
        raise ShapeError("ancestors", got=list(ancestors.shape), expected="[M], or [S, M] for S populations")
    batched = ancestors.ndim == 2
    index = ancestors if batched else ancestors[None]
    rows = [x if batched else x[None] for x in given]
    for number, x in enumerate(rows):  # the range is that of the first, unless they have different numbers of rows
        checked = number > 0 and x.ndim > 1 and x.shape[:2] == rows[0].shape[:2]
        _check("tensors" if single else f"tensors[{number}]", x, "ancestors", index, checked=checked)
    if in_place:
        if torch.is_grad_enabled() and any(x.requires_grad for x in given):
            raise ArgumentError("in_place", got=True, expected="False where a gradient is recorded")
        for x in rows:
            if x.shape[1] != index.shape[1]:
                got, expected = f"{index.shape[1]} ancestors", f"{x.shape[1]}, one for each row, in place"
                raise ShapeError("ancestors", got=got, expected=expected)
            if operators.needs_operator(x, index):
                x.copy_(_gather_operator(x, index))
            else:
                implementation("gather_rows_", device_type(x))(x, index)
        return tensors if isinstance(tensors, Tensor) else given
    outs = [_gather("gather_rows", x, index) for x in rows]
    outs = outs if batched else [x[0] for x in outs]
    return outs[0] if single else tuple(outs)


def keep_in_place(ancestors: Tensor) -> Tensor:
    """Rearrange ancestors so that every survivor keeps its own slot, which moves as few rows as possible.

    Surplus children, in increasing order of their parents, fill the free slots in increasing order. The result depends
    on nothing but the numbers of children.

    Args:
        ancestors: int64 [N] or [S, N] in [0, N), any order.

    Returns:
        The same ancestors in another order; ``result[i] == i`` for every i that occurs.

    Raises:
        ShapeError, DtypeError, ArgumentError: Not ancestors.

    Example:
        >>> keep_in_place(torch.tensor([1, 1, 1, 3]))
        tensor([1, 1, 1, 3])
        >>> keep_in_place(torch.tensor([0, 2, 2, 3]))
        tensor([0, 2, 2, 3])
        >>> keep_in_place(torch.tensor([0, 0, 1, 2]))
        tensor([0, 1, 2, 0])
    """
    if ancestors.ndim not in (1, 2):
        raise ShapeError("ancestors", got=list(ancestors.shape), expected="[N] or [S, N]")
    if operators.needs_operator(ancestors):
        return keep_reference(ancestors)
    return implementation("survivors", device_type(ancestors))(ancestors)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens ``x[b, index[b, j]]``: those that a network is to see.

    Args:
        x: [B, N, *C], any dtype.
        index: int64 [B, M] in [0, N); on a GPU the range is not checked.

    Returns:
        [B, M, *C], differentiable in ``x``.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: Tensors that do not fit; says which.

    Example:
        >>> gather_tokens(torch.tensor([[5, 6, 7]]), torch.tensor([[2, 0]]))
        tensor([[7, 5]])
    """
    _check("x", x, "index", index)
    return _gather("gather_tokens", x, index)


def scatter_tokens(base: Tensor, index: Tensor, values: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Copy of ``base`` in which token ``index[b, j]`` is ``values[b, j]``; of equal indices the last one counts.

    Args:
        base: [B, N, *C], any dtype.
        index: int64 [B, M] in [0, N); on a GPU the range is not checked.
        values: [B, M, *C], like ``base``.
        out: Where to write: ``base`` itself, or a contiguous tensor like it that shares no memory with the others.

    Returns:
        [B, N, *C]; if allocated here, differentiable in ``base`` and ``values`` (a value that was overwritten gets 0).

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: Tensors that do not fit; says which.

    Example:
        >>> scatter_tokens(torch.zeros(1, 3), torch.tensor([[2, 0, 2]]), torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[2., 0., 3.]])
    """
    _check("base", base, "index", index)
    for name, x, shape in (("values", values, (*index.shape, *base.shape[2:])), ("out", out, base.shape)):
        if x is None:
            continue
        if x.dtype != base.dtype:
            raise DtypeError(name, got=x.dtype, expected=f"{base.dtype}, the dtype of base")
        if x.device != base.device:
            raise DeviceError(name, got=x.device, expected=f"{base.device}, the device of base")
        if x.shape != torch.Size(shape):
            raise ShapeError(name, got=list(x.shape), expected=str(list(shape)))
    if out is not None and torch.is_grad_enabled() and any(x.requires_grad for x in (base, values, out)):
        raise ArgumentError("out", got="a tensor", expected="None where a gradient is recorded")
    if operators.needs_operator(base, index, values):
        result = _scatter_operator(base, index, values)
        return result if out is None else out.copy_(result)
    winners = last_of(index, base.shape[1])
    if out is not None and (not out.is_contiguous() or (out is not base and out.data_ptr() == base.data_ptr())):
        return out.copy_(scatter_tokens(base, index, values))
    target = torch.empty_like(base, memory_format=torch.contiguous_format) if out is None else out
    implementation("scatter_tokens", device_type(base))(base, winners, values, target)
    return target


def last_of(index: Tensor, rows: int) -> Tensor:
    """For each of the rows the last j with ``index[b, j]`` equal to it, or -1: int64 [B, rows]."""
    order = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return index.new_full((index.shape[0], rows), -1).scatter_reduce(1, index, order, "amax")


def _check(name: str, x: Tensor, index_name: str, index: Tensor, *, checked: bool = False) -> None:
    if index.ndim != 2:
        raise ShapeError(index_name, got=list(index.shape), expected="[B, M]")
    if x.ndim < 2 or x.shape[0] != index.shape[0]:
        raise ShapeError(name, got=list(x.shape), expected=f"[{index.shape[0]}, N, ...], like {index_name}")
    if index.device != x.device:
        raise DeviceError(index_name, got=index.device, expected=f"{x.device}, the device of {name}")
    if not checked:
        _check_index(index_name, index, x.shape[1])


def _check_index(name: str, index: Tensor, rows: int) -> None:
    if index.dtype != torch.int64:
        raise DtypeError(name, got=index.dtype, expected="torch.int64")
    if index.is_cpu and index.numel() and not operators.tracing() and type(index) is Tensor:
        if native_module is not None and index.is_contiguous():  # a fifth of the time
            if not native_module.any_outside(index.data_ptr(), index.numel(), rows):
                return
        low, high = (int(x) for x in index.aminmax())
        if low < 0 or high >= rows:
            raise ArgumentError(name, got=low if low < 0 else high, expected=f"numbers in [0, {rows})")


def _gather(op: str, x: Tensor, index: Tensor) -> Tensor:
    if operators.needs_operator(x, index):
        return _gather_operator(x, index)
    return implementation(op, device_type(x))(x, index)


@implements("gather_tokens", "reference")
@implements("gather_rows", "reference")
def gather_reference(x: Tensor, index: Tensor) -> Tensor:
    """Run the definition."""
    batch = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[batch, index]


@implements("gather_rows_", "reference")
def gather_in_place_reference(x: Tensor, index: Tensor) -> None:
    """Through a copy."""
    x.copy_(gather_reference(x, index))


@implements("scatter_tokens", "reference")
def scatter_reference(base: Tensor, winners: Tensor, values: Tensor, out: Tensor) -> None:
    """Run the definition: ``winners`` says which value goes to each row, -1 for none."""
    batch, row = (winners >= 0).nonzero(as_tuple=True)
    if out is not base:
        out.copy_(base)
    out[batch, row] = values[batch, winners[batch, row]]


@implements("survivors", "cuda")  # torch is fast enough on a GPU
@implements("survivors", "triton")
@implements("survivors", "reference")
def keep_reference(ancestors: Tensor) -> Tensor:
    """Match the number of every free slot with the children that are too many, counted from the first parent on."""
    _check_index("ancestors", ancestors, ancestors.shape[-1])
    children = torch.zeros_like(ancestors).scatter_add(-1, ancestors, torch.ones_like(ancestors))
    free = (children == 0).cumsum(-1) - 1  # number of a free slot
    surplus = (children - 1).clamp(min=0).cumsum(-1)
    own = torch.arange(ancestors.shape[-1], device=ancestors.device)
    return torch.where(children > 0, own, torch.searchsorted(surplus, free, right=True))


@implements("survivors", "native")
def keep_native(ancestors: Tensor) -> Tensor:
    """Count the children, and walk along the slots and the parents once."""
    if ancestors.dtype != torch.int64:
        raise DtypeError("ancestors", got=ancestors.dtype, expected="torch.int64")
    ancestors, rows = ancestors.contiguous(), ancestors.shape[-1]
    out = torch.empty_like(ancestors)
    wrong = native_module.keep_in_place(ancestors.data_ptr(), out.data_ptr(), ancestors.numel() // max(1, rows), rows)
    if wrong:
        raise ArgumentError("ancestors", got=wrong, expected=f"numbers in [0, {rows})")
    return out


@implements("gather_tokens", "native")
@implements("gather_rows", "native")
def gather_native(x: Tensor, index: Tensor) -> Tensor:
    """Copy rows of bytes; what is not contiguous is copied first."""
    out = x.new_empty((*index.shape, *x.shape[2:]))
    _move_native(out, x, None, index)
    return out


@implements("gather_rows_", "native")
def gather_in_place_native(x: Tensor, index: Tensor) -> None:
    """Within the same memory, if that is contiguous."""
    if not x.is_contiguous():
        x.copy_(gather_native(x, index))
        return
    index = index.contiguous()
    native_module.permute_rows(x.data_ptr(), index.data_ptr(), *index.shape, row_bytes(x))


@implements("scatter_tokens", "native")
def scatter_native(base: Tensor, winners: Tensor, values: Tensor, out: Tensor) -> None:
    """Copy rows of bytes; what is not contiguous is copied first."""
    _move_native(out, values, None if out is base else base, winners)


def _move_native(out: Tensor, source: Tensor, base: Tensor | None, index: Tensor) -> None:
    source, index = source.contiguous(), index.contiguous()
    base = None if base is None else base.contiguous()
    addresses = [0 if x is None else x.data_ptr() for x in (out, source, base, index)]
    native_module.move_rows(*addresses, *out.shape[:2], source.shape[1], row_bytes(out))


def row_bytes(x: Tensor) -> int:
    """Bytes of a row of [B, N, *C]."""
    return x.shape[2:].numel() * x.element_size()


def _gather_run(x, index):
    return implementation("gather_rows", device_type(x))(x, index)


def _gather_fake(x, index):
    return x.new_empty((*index.shape, *x.shape[2:]))


def _gather_setup(ctx, inputs, output):
    ctx.rows = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _gather_backward(ctx, grad):
    """Sum over children; this form is deterministic on a GPU too."""
    (index,) = ctx.saved_tensors
    batch = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    zeros = grad.new_zeros((index.shape[0], ctx.rows, *grad.shape[2:]))
    return zeros.index_put((batch, index), grad, accumulate=True), None


def _scatter_run(base, index, values):
    out = torch.empty_like(base, memory_format=torch.contiguous_format)
    implementation("scatter_tokens", device_type(base))(base, last_of(index, base.shape[1]), values, out)
    return out


def _scatter_fake(base, index, values):
    return torch.empty_like(base, memory_format=torch.contiguous_format)


def _scatter_setup(ctx, inputs, output):
    ctx.rows = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _scatter_backward(ctx, grad):
    (index,) = ctx.saved_tensors
    winners = last_of(index, ctx.rows)
    kept = (winners < 0).reshape(*winners.shape, *[1] * (grad.ndim - 2))
    won = winners.gather(1, index) == torch.arange(index.shape[1], device=index.device)
    won = won.reshape(*won.shape, *[1] * (grad.ndim - 2))
    return torch.where(kept, grad, 0), None, torch.where(won, gather_tokens(grad, index), 0)


_gather_operator = operators.operator(
    "gather_rows(Tensor x, Tensor index) -> Tensor",
    _gather_run,
    _gather_fake,
    setup=_gather_setup,
    backward=_gather_backward,
)
_scatter_operator = operators.operator(
    "scatter_tokens(Tensor base, Tensor index, Tensor values) -> Tensor",
    _scatter_run,
    _scatter_fake,
    setup=_scatter_setup,
    backward=_scatter_backward,
)
catalogue.describe(
    "gather_rows",
    formula="out[j] = x[a_j], out of place or within x; N rows of D elements",
    moved="2 M D s + 8 M; in place 2 D s for every row that moves",
    differentiable="x (out of place)",
    benchmark="rows.py",
    rows=("gather_rows 64x", "gather_rows in place 64x", "gather_rows 100000x", "gather_rows in place 100000x"),
)
catalogue.describe(
    "gather_tokens",
    formula="out[b, j] = x[b, i_bj]; M of N tokens of C channels",
    moved="B M (2 C s + 8)",
    differentiable="x",
    benchmark="rows.py",
)
catalogue.describe(
    "scatter_tokens",
    formula="out = base, but out[b, i_bj] = values[b, j], the last of equal indices",
    moved="B N (2 C s + 8); in place B (2 M C s + 8 N)",
    differentiable="base, values",
    benchmark="rows.py",
)
