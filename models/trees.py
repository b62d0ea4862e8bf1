"""Conditions as trees: dicts, lists and tuples whose leaves are tensors or anything else."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor


def tree_map(function: Callable[..., Any], tree: Any, *others: Any, path: str = "") -> Any:
    """The same tree with ``function(path, leaf, *leaves of the others)`` at its leaves."""
    if isinstance(tree, dict):
        inner = ((key, tree[key], [other[key] for other in others]) for key in tree)
        return {key: tree_map(function, leaf, *rest, path=_join(path, key)) for key, leaf, rest in inner}
    if isinstance(tree, list | tuple):
        rows = [
            tree_map(function, leaf, *(other[i] for other in others), path=f"{path}[{i}]")
            for i, leaf in enumerate(tree)
        ]
        return rows if isinstance(tree, list) else tuple(rows)
    return function(path, tree, *others)


def stackable(first: Any, second: Any, shared: Collection[str] = ()) -> bool:
    """Whether rows of both trees can go into one call.

    They can if the structure is the same, tensors differ in their rows only, and everything else is equal: numbers,
    strings, tensors without dimensions, and what lies under the ``shared`` keys.
    """
    if isinstance(first, dict):
        same_keys = isinstance(second, dict) and first.keys() == second.keys()
        return same_keys and all(
            equal(first[key], second[key]) if key in shared else stackable(first[key], second[key]) for key in first
        )
    if isinstance(first, list | tuple):
        return type(first) is type(second) and len(first) == len(second) and all(map(stackable, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor) and first.ndim:
        return first.shape[1:] == second.shape[1:] and first.dtype == second.dtype and second.ndim > 0
    return equal(first, second)


def stack_rows(first: Any, second: Any, shared: Collection[str] = ()) -> Any:
    """Rows of ``first``, then rows of ``second``, leaf by leaf; whatever has no rows stays single."""

    def stack(path: str, a: Any, b: Any) -> Any:
        rows = isinstance(a, Tensor) and a.ndim > 0 and root(path) not in shared
        return torch.cat([a, b]) if rows else a

    return tree_map(stack, first, second)


def equal(first: Any, second: Any) -> bool:
    """Whether both are the same tree with equal leaves; compares tensors, so it may read from a device."""
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def root(path: str) -> str:
    """The outermost key of a leaf's path."""
    return path.partition(".")[0].partition("[")[0]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
