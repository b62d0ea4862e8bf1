"""Outputs of modules as trees: tensors in tuples, named tuples, lists, mappings and dataclasses, nested in any way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The same tree with ``function(tensor, *tensors of the others)`` in the place of its tensors.

    Whatever is no tensor (None, numbers, strings) stays as it is in ``tree``.

    Example:
        >>> import torch
        >>> map_tensors(lambda a, b: a + b, (torch.ones(1), None), (torch.ones(1), None))
        (tensor([2.]), None)
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, tuple | list):
        inner = [map_tensors(function, leaf, *(other[i] for other in others)) for i, leaf in enumerate(tree)]
        return type(tree)(*inner) if hasattr(tree, "_fields") else type(tree)(inner)
    if isinstance(tree, Mapping):  # before dataclasses: diffusers' outputs are both, and must be built from keywords
        fields = {key: map_tensors(function, tree[key], *(other[key] for other in others)) for key in tree}
        return type(tree)(**fields) if dataclasses.is_dataclass(tree) else type(tree)(fields)  # type: ignore[call-arg]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree) if field.init]
        parts = {n: map_tensors(function, getattr(tree, n), *(getattr(other, n) for other in others)) for n in names}
        return dataclasses.replace(tree, **parts)
    return tree


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a tree, from left to right.

    Example:
        >>> import torch
        >>> [x.shape[0] for x in tensors({"a": torch.ones(2), "b": [None, torch.ones(3)]})]
        [2, 3]
    """
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for leaf in tree:
            yield from tensors(leaf)
    elif isinstance(tree, Mapping):
        for leaf in tree.values():
            yield from tensors(leaf)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))
