"""Right-hand sides of adaptive runs: a function, or a model, of states whose samples each have a time of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ...errors import ArgumentError, DeviceError, DtypeError, ShapeError
from ...models.trees import tree_map

Times = Tensor  # float64 on the host, one for each sample


class Field(Protocol):
    """What a loop evaluates: slopes of the live samples."""

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """Slopes at x [b, *D] and times [b]."""
        ...

    def rows(self, index: Tensor) -> Field:
        """The field of some of the samples, by their place among those that it has now (int64)."""
        ...


@dataclass(frozen=True)
class FunctionField:
    """``function(x, t, **condition)`` with t [b] in the state's dtype (float32 for half precision), on its device."""

    function: Callable[..., Tensor]
    condition: Mapping[str, Any]
    samples: int

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """Slopes, checked to be like x."""
        t = times
        if x.dtype is not torch.float64 or not x.is_cpu:
            t = times.to(device=x.device, dtype=torch.float64 if x.dtype is torch.float64 else torch.float32)
        slope = self.function(x, t, **self.condition)
        if (
            type(slope) is not Tensor
            or slope.shape != x.shape
            or slope.dtype is not x.dtype
            or slope.device != x.device
        ):
            check_slope(slope, x, times)
        return slope

    def rows(self, index: Tensor) -> FunctionField:
        """The same function with its conditions' rows."""
        if not self.condition:
            return self

        def gather(_: str, leaf: Any) -> Any:
            batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == self.samples
            return leaf.index_select(0, index.to(leaf.device)) if batched else leaf

        return FunctionField(self.function, tree_map(gather, dict(self.condition)), len(index))


@dataclass(frozen=True)
class JointField:
    """A batch as a single sample, [1, B, *D]: all of it is at one time."""

    field: Field

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """Slopes of the batch."""
        return self.field(x[0], times.expand(x.shape[1]))[None]

    def rows(self, index: Tensor) -> JointField:
        """Itself: there is one sample, or none."""
        return self


@dataclass(frozen=True)
class Recipe:
    """How to make a field that is neither a function nor a model.

    A run makes it once, and once more where gradients are recorded: what a field has prepared without them has none.

    Attributes:
        make: Returns the field of all samples.

    """

    make: Callable[[], Field]


def own(slope: Tensor, *others: Tensor) -> Tensor:
    """A slope in memory of its own, if a field hands out the same memory again, or its input."""
    return slope.clone() if any(slope.data_ptr() == x.data_ptr() for x in others) and slope.numel() else slope


def check_slope(slope: object, x: Tensor, times: Times) -> None:
    """Refuse a slope that is not like the state.

    Raises:
        DtypeError, ShapeError, DeviceError: Says what came, and at which time.

    """
    what = f"field at t = {float(times[0]):.6g}" if len(times) else "field"
    if not isinstance(slope, Tensor):
        raise DtypeError(what, got=type(slope).__name__, expected="a tensor")
    if slope.shape != x.shape:
        raise ShapeError(what, got=list(slope.shape), expected=f"{list(x.shape)}, like its x")
    if slope.dtype != x.dtype:
        raise DtypeError(what, got=slope.dtype, expected=f"{x.dtype}, like its x")
    if slope.device != x.device:
        raise DeviceError(what, got=slope.device, expected=f"{x.device}, like its x")


def function_field(function: object, condition: Mapping[str, Any] | None, samples: int) -> FunctionField:
    """A function as a field.

    Raises:
        ArgumentError: Not callable; a condition that is no mapping, or holds a tensor of another batch size.

    """
    if not callable(function):
        raise ArgumentError("field", got=type(function).__name__, expected="a function of (x, t), or a Model")
    if condition is not None and not isinstance(condition, Mapping):
        raise ArgumentError("condition", got=type(condition).__name__, expected="a dict of the field's arguments")

    def check(path: str, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] not in (1, samples):
            expected = f"{samples}, as x0, or 1"
            raise ShapeError(f"condition {path!r}", got=f"a batch of {leaf.shape[0]}", expected=expected)
        return leaf

    return FunctionField(cast(Callable[..., Tensor], function), tree_map(check, dict(condition or {})), samples)
