"""Candidates: the rows of a condition, one of which is the class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ArgumentError, ShapeError
from ..adapter import Model
from ..trees import root, tree_map


def candidate_count(model: Model, condition: Mapping[str, Any]) -> int:
    """How many candidates a condition holds: the batch of its tensors, where those of 1 serve all.

    Raises:
        ShapeError: Tensors whose numbers of rows differ.
        ArgumentError: Fewer than two candidates; no mapping.

    Example:
        >>> from pushforward.models import load
        >>> import torch
        >>> candidate_count(load("digits28-small"), {"label": torch.arange(10)})
        10
    """
    counts: dict[str, int] = {}

    def count(path: str, leaf: object) -> None:
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and root(path) not in model.shared:
            counts[path] = leaf.shape[0]

    tree_map(count, model.bind(condition).conditions["cond"] or {})
    most = max(counts.values(), default=0)
    for path, rows in counts.items():
        if rows not in (1, most):
            raise ShapeError(f"condition {path!r}", got=f"{rows} candidates", expected=f"{most}, as another has, or 1")
    if most < 2:
        hint = "Its tensors have a row for each candidate, for instance {'label': torch.arange(10)}"
        raise ArgumentError("condition", got=f"{most} candidates", expected="at least 2", hint=hint)
    return most
