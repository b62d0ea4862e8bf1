"""Which numbers of a step are free, and the formula that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import ArgumentError
from ...kernels.arguments import MAX_INPUTS
from ..ode.fitted import QUANTITIES, Quantity
from ..plan import Channelwise, Coefficient

Row = tuple[Coefficient, ...]
"""Coefficients of a step: the state's, then the newest output's, and so on back."""


@dataclass(frozen=True)
class Family:
    r"""Formulas :math:`y_{n+1} = a_n y_n + \sum_{j < m} w_{nj} q_{n-j}`.

    Attributes:
        memory: m, the most outputs that a step reads; None: all of the run.
        quantity: What is remembered as q.
        channels: Number of channels, where each has coefficients of its own; None: one number for all.

    Raises:
        ArgumentError: No memory at all, or an unknown quantity.
    """

    memory: int | None = None
    quantity: Quantity = "velocity"
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and (isinstance(self.memory, bool) or self.memory < 1):
            raise ArgumentError("memory", got=self.memory, expected="None (all outputs), or at least 1")
        if self.quantity not in QUANTITIES:
            raise ArgumentError("quantity", got=repr(self.quantity), expected=f"one of {', '.join(QUANTITIES)}")

    def unknowns(self, steps: int) -> int:
        """Coefficients of the step that has most."""
        return 1 + self.outputs(steps - 1)

    def outputs(self, step: int) -> int:
        """How many outputs a step reads."""
        return step + 1 if self.memory is None else min(self.memory, step + 1)

    def check_size(self, steps: int) -> None:
        """Refuse steps that read more than one pass can.

        Raises:
            ArgumentError: Too many outputs.
        """
        most = MAX_INPUTS - 1  # beside the state
        if self.outputs(steps - 1) > most:
            hint = f"memory={most} or less takes any number of steps"
            raise ArgumentError("steps", got=f"{steps}, each with all outputs", expected=f"at most {most}", hint=hint)

    def observed(self, y: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """Q from the state and the velocity of the linear path."""
        if self.quantity == "velocity":
            return u
        return y + (1 - t) * u if self.quantity == "denoised" else y - t * u

    def columns(self, y: Tensor, past: Sequence[Tensor], step: int) -> list[Tensor]:
        """What the coefficients of a step multiply; ``past`` begins with the newest."""
        return [y, *past[: self.outputs(step)]]

    def holds(self, base: Sequence[float], step: int) -> Row | None:
        """A step of the base as coefficients of this family, or None if it reads more or something else."""
        kept = self.outputs(step)
        if self.quantity != "velocity" or any(abs(weight) > 0 for weight in base[1 + kept :]):
            return None
        return tuple(map(float, base[: 1 + kept]))

    def parts(self, x: Tensor) -> Tensor:
        """[B, *D], or with coefficients by channel [B * C, *D]: what has coefficients of its own is a row."""
        return x if self.channels is None else x.flatten(0, 1)

    def row(self, parts: Sequence[Iterable[float]]) -> Row:
        """The coefficients of each part, as those of a step."""
        if self.channels is None:
            (only,) = parts
            return tuple(map(float, only))
        return tuple(Channelwise(values) for values in zip(*parts, strict=True))


def numbers(coefficient: Coefficient) -> tuple[float, ...]:
    """The number, or those of all channels."""
    return coefficient.values if isinstance(coefficient, Channelwise) else (coefficient,)
