"""A coefficient with a number for each channel."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...errors import ArgumentError, ShapeError


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Channelwise:
    r"""An immutable coefficient :math:`a_c`, one float64 number for each channel of the state [B, C, *D].

    .. math:: (a x)_{bc\ldots} = a_c\, x_{bc\ldots}

    Solvers use it where they use a number: ``+``, ``-``, ``*`` and ``/`` work channel by channel, with a number or
    with coefficients for as many channels, and give the bits that numbers would. It is equal to nothing but its like:
    not to a number, even where all channels have it, since a plan that holds it is for C channels.

    Args:
        values: The numbers, at least one, all finite. -0.0 becomes 0.0, so that equal coefficients have equal bits.

    Raises:
        ArgumentError: No values, or one that is no finite number, as may come of an overflow.
        ShapeError: Arithmetic of coefficients for different numbers of channels.
        ZeroDivisionError: As numbers do.

    Example:
        >>> a = Channelwise([0.5, 2.0])
        >>> 1 - a / 2
        Channelwise((0.75, 0.0))
        >>> a * Channelwise([1.0, 2.0, 3.0])
        Traceback (most recent call last):
            ...
        pushforward.errors.ShapeError: channels: got 3, expected 2, as in the other coefficient
    """

    values: tuple[float, ...]

    __array_ufunc__ = None  # numpy's numbers leave the arithmetic to this class

    def __init__(self, values: Iterable[float]) -> None:
        try:
            numbers = tuple([float(value) + 0.0 for value in values])
        except (TypeError, ValueError) as error:
            raise ArgumentError("channels", got=repr(values), expected="numbers, one for each channel") from error
        if not numbers:
            raise ArgumentError("channels", got="no values", expected="at least one, a number for each channel")
        for channel, number in enumerate(numbers):
            if not math.isfinite(number):
                raise ArgumentError("coefficient", got=f"{number} in channel {channel}", expected="a finite number")
        object.__setattr__(self, "values", numbers)

    @property
    def channels(self) -> int:
        """C."""
        return len(self.values)

    def __bool__(self) -> bool:
        """Whether a channel has a number other than zero."""
        return any(self.values)

    def __neg__(self) -> Channelwise:
        return Channelwise([-value for value in self.values])

    def __add__(self, other: Coefficient) -> Channelwise:
        return self._with(other, operator.add)

    __radd__ = __add__

    def __sub__(self, other: Coefficient) -> Channelwise:
        return self._with(other, operator.sub)

    def __rsub__(self, other: float) -> Channelwise:
        return self._with(other, lambda mine, its: its - mine)

    def __mul__(self, other: Coefficient) -> Channelwise:
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __truediv__(self, other: Coefficient) -> Channelwise:
        return self._with(other, operator.truediv)

    def __rtruediv__(self, other: float) -> Channelwise:
        return self._with(other, lambda mine, its: its / mine)

    def _with(self, other: object, operation: Callable[[float, float], float]) -> Any:
        """The operation in each channel; of other operands theirs is asked."""
        if isinstance(other, int | float):
            return Channelwise([operation(value, float(other)) for value in self.values])
        if not isinstance(other, Channelwise):
            return NotImplemented
        if other.channels != self.channels:
            expected = f"{self.channels}, as in the other coefficient"
            raise ShapeError("channels", got=other.channels, expected=expected)
        return Channelwise([operation(a, b) for a, b in zip(self.values, other.values, strict=True)])

    def __repr__(self) -> str:
        return f"Channelwise({self.values})"

    def __str__(self) -> str:
        """As a plan prints it: the first of many."""
        shown = [f"{value:.6g}" for value in self.values[:4]]
        return f"[{', '.join(shown)}{f', ... {self.channels} channels' if self.channels > 4 else ''}]"


Coefficient: TypeAlias = float | Channelwise
Rows: TypeAlias = Sequence[Sequence[Coefficient]]


def channels_of(*tables: Rows) -> int | None:
    """How many channels the coefficients are for; None if each is one number for all of them.

    Raises:
        ShapeError: For different numbers of channels.
    """
    sizes = {w.channels for rows in tables for row in rows for w in row if isinstance(w, Channelwise)}
    if len(sizes) > 1:
        raise ShapeError("channels", got=sorted(sizes), expected="one number of channels in all coefficients")
    return sizes.pop() if sizes else None
