"""States as torchdiffeq takes them, a tensor or a tuple of tensors, and as solvers here do: one row of real numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor

from ....errors import DeviceError, DtypeError, ShapeError

State: TypeAlias = "Tensor | tuple[Tensor, ...]"


@dataclass(frozen=True)
class Layout:
    """How a state lies in a row [1, n].

    Attributes:
        shapes: Of the components.
        single: Whether the state is a tensor, not a tuple of them.
        dtype: Of all components: what they are promoted to together, as by `torch.cat`.
        device: Of all components.

    """

    shapes: tuple[torch.Size, ...]
    single: bool
    dtype: torch.dtype
    device: torch.device

    @property
    def real(self) -> torch.dtype:
        """Of the row, and of the times that a function is given."""
        return self.dtype.to_real()

    @property
    def sizes(self) -> list[int]:
        """How many real numbers each component has."""
        return [math.prod(shape) * (2 if self.dtype.is_complex else 1) for shape in self.shapes]

    def pack(self, state: object, what: str) -> Tensor:
        """The row of a state, or of a slope; a view if the state is a real tensor.

        Raises:
            DtypeError, ShapeError, DeviceError: Not like the initial state; ``what`` names it.

        """
        if self.single:
            return self.flat(state, 0, what).reshape(1, -1)
        if not isinstance(state, tuple | list) or len(state) != len(self.shapes):
            got = f"{len(state)} of them" if isinstance(state, tuple | list) else type(state).__name__
            raise ShapeError(what, got=got, expected=f"a tuple of {len(self.shapes)} tensors, like y0")
        return torch.cat([self.flat(part, i, f"{what}[{i}]").reshape(-1) for i, part in enumerate(state)])[None]

    def flat(self, part: object, index: int, what: str) -> Tensor:
        """A component, checked and cast to the common dtype, as real numbers."""
        shape = self.shapes[index]
        if type(part) is not Tensor or part.shape != shape or part.dtype != self.dtype or part.device != self.device:
            part = self.fitted(part, shape, what)
        return torch.view_as_real(part.resolve_conj()) if self.dtype.is_complex else part

    def fitted(self, part: object, shape: torch.Size, what: str) -> Tensor:
        """A component that needs to be broadcast or promoted, or an error."""
        if not isinstance(part, Tensor):
            raise DtypeError(what, got=type(part).__name__, expected="a tensor")
        if part.device != self.device:
            raise DeviceError(what, got=part.device, expected=f"{self.device}, like y0")
        if torch.promote_types(part.dtype, self.dtype) != self.dtype:
            raise DtypeError(what, got=part.dtype, expected=f"{self.dtype}, like y0")
        try:
            return part.to(self.dtype).expand(shape)
        except RuntimeError:
            raise ShapeError(what, got=list(part.shape), expected=f"{list(shape)}, like y0") from None

    def unpack(self, rows: Tensor) -> State:
        """The state of a row [1, n], or the states of rows [T, 1, n]: views, if they are real."""
        lead = rows.shape[:-2]
        if self.single and not self.dtype.is_complex:
            return rows.reshape((*lead, *self.shapes[0]))
        parts = rows.squeeze(-2).split(self.sizes, dim=-1)
        if self.dtype.is_complex:
            pairs = [part.reshape((*part.shape[:-1], -1, 2)).unbind(-1) for part in parts]
            parts = [torch.complex(*pair) for pair in pairs]  # a view as complex numbers would need alignment
        state = tuple(part.reshape((*lead, *shape)) for part, shape in zip(parts, self.shapes, strict=True))
        return state[0] if self.single else state

    def per_element(self, value: object, name: str) -> float | Tensor:
        """A tolerance as a number or a row: a number, a tensor that broadcasts against the state, or one a component.

        Raises:
            ShapeError: As many as components, or a shape that does not broadcast.

        """
        if isinstance(value, Tensor) and value.requires_grad:
            raise DtypeError(name, got="a tensor that requires a gradient", expected="a constant")
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0):
            return float(value)
        if self.single:
            values: Sequence[object] = (value,)
        else:
            values = tuple(value)  # pyright: ignore[reportArgumentType]
            if len(values) != len(self.shapes):
                expected = f"a number, or {len(self.shapes)} of them, one for each component of y0"
                raise ShapeError(name, got=f"{len(values)} values", expected=expected)
        row = []
        for part, shape in zip(values, self.shapes, strict=True):
            given = torch.as_tensor(part, dtype=torch.float64, device=self.device)
            try:
                spread = given.expand(shape).reshape(-1)
            except RuntimeError:
                expected = f"a shape that broadcasts to {list(shape)}"
                raise ShapeError(name, got=list(given.shape), expected=expected) from None
            row.append(spread.repeat_interleave(2) if self.dtype.is_complex else spread)
        return torch.cat(row)[None]


def layout(y0: object) -> Layout:
    """The layout of an initial state.

    Raises:
        DtypeError: Not a tensor or a tuple of tensors, or not of floating-point or complex numbers.
        DeviceError: Components on different devices.
        ShapeError: An empty tuple.

    """
    single = isinstance(y0, Tensor)
    parts = (y0,) if single else y0
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Tensor) for part in parts):
        raise DtypeError("y0", got=type(y0).__name__, expected="a tensor or a tuple of tensors")
    if not parts:
        raise ShapeError("y0", got="an empty tuple", expected="a component at least")
    dtype = reduce(torch.promote_types, [part.dtype for part in parts])
    if not (dtype.is_floating_point or dtype.is_complex):
        raise DtypeError("y0", got=dtype, expected="floating-point or complex numbers")
    for index, part in enumerate(parts):
        if part.device != parts[0].device:
            raise DeviceError(f"y0[{index}]", got=part.device, expected=f"{parts[0].device}, like y0[0]")
    return Layout(tuple(part.shape for part in parts), single, dtype, parts[0].device)
