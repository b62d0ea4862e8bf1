"""Contexts: what a verifier is told beside the samples, as a tree whose entries have the samples' rows."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ArgumentError, ShapeError

Index: TypeAlias = Tensor | NDArray[np.int64] | Sequence[int] | slice


def is_column(leaf: Any) -> bool:
    """Whether a list or tuple is one entry a row: strings, numbers or None, not a tree of tensors.

    Example:
        >>> is_column(["a cat", "a dog"]), is_column([torch.ones(2)]), is_column([])
        (True, False, False)
    """
    plain = str | bytes | numbers.Number | np.generic | None
    return isinstance(leaf, list | tuple) and len(leaf) > 0 and all(isinstance(item, plain) for item in leaf)


def map_context(function: Callable[[str, Any], Any], context: Any, path: str = "context") -> Any:
    """The same tree with ``function(path, leaf)`` at its leaves; a column of strings or numbers is one leaf."""
    if isinstance(context, dict):
        return {key: map_context(function, leaf, f"{path}[{key!r}]") for key, leaf in context.items()}
    if isinstance(context, list | tuple) and not is_column(context):
        inner = [map_context(function, leaf, f"{path}[{i}]") for i, leaf in enumerate(context)]
        return inner if isinstance(context, list) else tuple(inner)
    return function(path, context)


def entry_rows(leaf: Any) -> int | None:
    """Number of rows of a leaf; None if it has none: a string, a number, a tensor without dimensions."""
    if isinstance(leaf, Tensor | np.ndarray):
        return leaf.shape[0] if leaf.ndim else None
    return len(leaf) if is_column(leaf) else None


def check_context(context: Any, rows: int) -> None:
    """Refuse a context whose entries have neither one row for each sample nor one for all.

    Raises:
        ShapeError: Names the entry.
    """

    def check(path: str, leaf: Any) -> None:
        count = entry_rows(leaf)
        if count is not None and count not in (1, rows):
            what = f"shape {list(leaf.shape)}" if isinstance(leaf, Tensor | np.ndarray) else f"{count} entries"
            hint = "An entry that all rows share has a first dimension of 1, or belongs to the verifier"
            raise ShapeError(path, got=what, expected=f"{rows} rows, as the samples, or 1", hint=hint)

    map_context(check, context)


def take_rows(context: Any, index: Index, rows: int) -> Any:
    """The context of rows ``index``, in that order and as often as they occur.

    Tensors, NumPy arrays and lists of strings or numbers whose first dimension is ``rows`` are indexed; entries of one
    row, without rows, or None serve every row and stay as they are.

    Args:
        context: A tree of dicts, lists, tensors, arrays, strings and numbers, or None.
        index: Rows in [0, rows), or a slice.
        rows: Number of rows of the samples that the context belongs to.

    Raises:
        ShapeError: An entry whose rows are neither ``rows`` nor 1; names it.

    Example:
        >>> take_rows({"label": torch.tensor([3, 1, 4]), "prompt": ["a", "b", "c"], "unit": "mm"}, [2, 2, 0], 3)
        {'label': tensor([4, 4, 3]), 'prompt': ['c', 'c', 'a'], 'unit': 'mm'}
    """
    check_context(context, rows)
    chosen = index if isinstance(index, slice) else torch.as_tensor(index, dtype=torch.int64).cpu()

    def take(path: str, leaf: Any) -> Any:
        del path
        if entry_rows(leaf) in (None, 1):
            return leaf
        if isinstance(chosen, slice):
            return leaf[chosen]
        if isinstance(leaf, Tensor):
            return leaf.index_select(0, chosen.to(leaf.device))
        if isinstance(leaf, np.ndarray):
            return leaf[chosen.numpy()]
        return type(leaf)(leaf[i] for i in chosen.tolist())

    return map_context(take, context)


def entry(context: Any, key: str, who: object) -> Any:
    """``context[key]``.

    Raises:
        ArgumentError: No context, or none with that key; says which verifier wanted it.
    """
    if not isinstance(context, dict) or key not in context:
        got = f"a context with the keys {sorted(map(str, context))}" if isinstance(context, dict) else type(context)
        raise ArgumentError(f"context[{key!r}]", got=got, expected=f"an entry {key!r}, which {who} reads")
    return context[key]


def tensor_entry(context: Any, key: str, who: object, rows: int, shape: Sequence[int | None]) -> Tensor:
    """``context[key]`` as a tensor [rows, *shape]: entries of one row are expanded.

    Raises:
        ArgumentError: It is missing.
        ShapeError: It has another shape; None in ``shape`` is any size.
    """
    value = torch.as_tensor(entry(context, key, who))
    expected = "[" + ", ".join([f"{rows} or 1", *("any" if size is None else str(size) for size in shape)]) + "]"
    fits = value.ndim == 1 + len(shape) and value.shape[0] in (1, rows)
    if not fits or any(size not in (None, have) for size, have in zip(shape, value.shape[1:], strict=True)):
        raise ShapeError(f"context[{key!r}]", got=list(value.shape), expected=expected, hint=f"{who} reads it")
    return value.expand(rows, *value.shape[1:])
