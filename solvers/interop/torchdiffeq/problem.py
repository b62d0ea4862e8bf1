"""An initial value problem as torchdiffeq poses it, checked once: function, state, times, tolerances."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....errors import ArgumentError, DtypeError, GridError, ShapeError
from .layout import Layout, State, layout

Time = float | Tensor
Function = Callable[[Tensor, Any], Any]
CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


@dataclass(frozen=True)
class Problem:
    """Integrate ``func(t, y)`` from ``y0`` at ``t[0]`` through the other times.

    Attributes:
        func: The function, called with a time of no dimensions, in the real dtype of the state, and a state like y0.
        layout: Of the state.
        x0: The initial state as a row [1, n].
        t: The times as given, [T], on the state's device.
        times: The same on the host, float64.
        rtol, atol: Numbers, or rows [1, n].
        norm: The user's norm of a state, or None.
        callbacks: Those that the function has, by name.

    """

    func: Function
    layout: Layout
    x0: Tensor
    t: Tensor
    times: np.ndarray
    rtol: float | Tensor
    atol: float | Tensor
    norm: Callable[[Any], Any] | None
    callbacks: Mapping[str, Callable[[Tensor, Any, Tensor], object]]

    def detached(self) -> Problem:
        """The same without gradients of state and times."""
        return replace(self, x0=self.x0.detach(), t=self.t.detach())

    @property
    def direction(self) -> float:
        """1 forwards in time, -1 backwards."""
        return -1.0 if len(self.times) > 1 and self.times[1] < self.times[0] else 1.0

    def time(self, value: Time) -> Tensor:
        """A time as functions are given it; from a number without waiting for the device."""
        if isinstance(value, Tensor):
            return value.to(device=self.layout.device, dtype=self.layout.real)
        return torch.full((), value, dtype=self.layout.real, device=self.layout.device)

    def slope(self, t: Time, x: Tensor, beside: float = 0.0) -> Tensor:
        """The function at a row, as a row; ``beside`` is 1 or -1 for the next representable time on that side."""
        at = self.time(t)
        if beside:
            at = at + (torch.nextafter(at.detach(), at.detach() + beside) - at.detach())
        return self.layout.pack(self.func(at, self.layout.unpack(x)), "func")

    def tell(self, callback: str, t: Time, x: Tensor, h: Time) -> None:
        """Call a callback with time, state and (positive) length of a step, if the function has it."""
        if (told := self.callbacks.get(callback)) is not None:
            t, h = (v if isinstance(v, Tensor) else torch.full((), v, dtype=torch.float64) for v in (t, h))
            told(t.to(self.layout.device), self.layout.unpack(x), h.abs().to(self.layout.device))

    def size(self, quotient: Tensor) -> Tensor:
        """The norm of rows [1, n] as [1]: the user's, or the largest root mean square of the components."""
        state = self.layout.unpack(quotient)
        if self.norm is not None:
            found = self.norm(state)
            value = found if isinstance(found, Tensor) else torch.tensor(float(found), dtype=torch.float64)
            if value.numel() != 1:
                raise ShapeError("options['norm']", got=list(value.shape), expected="one number")
            return value.detach().abs().reshape(1)
        parts = [part for part in ((state,) if isinstance(state, Tensor) else state) if part.numel()]
        sizes = [part.abs().square().mean().sqrt() for part in parts]
        return torch.stack(sizes).amax()[None] if sizes else quotient.new_zeros(1)

    @property
    def plain(self) -> bool:
        """Whether the norm is the root mean square over the whole row."""
        return self.norm is None and self.layout.single and not self.layout.dtype.is_complex


def problem(
    func: object, y0: object, t: object, rtol: object, atol: object, norm: Callable[[Any], Any] | None = None
) -> Problem:
    """Check what `odeint` was given.

    Raises:
        ArgumentError, DtypeError, ShapeError, DeviceError, GridError: What is wrong, and with which argument.

    """
    if not callable(func):
        raise ArgumentError("func", got=type(func).__name__, expected="a function of (t, y)")
    if norm is not None and not callable(norm):
        raise ArgumentError("options['norm']", got=repr(norm), expected="a function from a state to a number")
    lay = layout(y0)
    if not isinstance(t, Tensor) or not t.is_floating_point():
        got = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise DtypeError("t", got=got, expected="a floating-point tensor of times")
    if t.ndim != 1 or len(t) < 1:
        raise ShapeError("t", got=list(t.shape), expected="[T], one time at least")
    times = t.detach().cpu().to(torch.float64).numpy()
    steps = np.diff(times)
    if not np.isfinite(times).all():
        raise GridError("t", got="NaN or infinity", expected="finite times")
    if steps.size and not ((steps > 0).all() or (steps < 0).all()):
        raise GridError("t", got=str(times.tolist()[:8]), expected="strictly increasing or strictly decreasing times")
    if t.device != lay.device:
        warnings.warn(f"t is on {t.device}; it is moved to y0's device, {lay.device}", UserWarning, stacklevel=3)
        t = t.to(lay.device)
    return Problem(
        func,
        lay,
        lay.pack(y0, "y0"),
        t,
        times,
        lay.per_element(rtol, "rtol"),
        lay.per_element(atol, "atol"),
        norm,
        {name: told for name in CALLBACKS if (told := getattr(func, name, None)) is not None},
    )


def known_options(options: Mapping[str, Any], known: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The options of a method with its defaults; a warning for those that it does not have.

    As in torchdiffeq: an option that belongs to another method is no error.
    """
    strange = sorted(set(options) - set(known))
    if strange:
        said = f"method {method!r} ignores the options {', '.join(strange)}; it has {', '.join(known) or 'none'}"
        warnings.warn(said, UserWarning, stacklevel=4)
    return dict(known) | {name: value for name, value in options.items() if name in known}


def number(options: Mapping[str, Any], name: str, least: float = 0.0, most: float = math.inf) -> float:
    """An option as a number in [least, most].

    Raises:
        ArgumentError: It is none, or outside.

    """
    try:
        value = float(options[name])
    except (TypeError, ValueError):
        raise ArgumentError(f"options[{name!r}]", got=options[name], expected="a number") from None
    if not least <= value <= most:
        raise ArgumentError(f"options[{name!r}]", got=value, expected=f"a number in [{least:g}, {most:g}]")
    return value


__all__ = ["CALLBACKS", "Function", "Problem", "State", "Time", "known_options", "number", "problem"]
