"""What a rule of guidance is: two coefficients a sample, from inner products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ...errors import UnknownNameError
from ..spaces import Scalar
from .moments import Moments

SPACES = ("output", "velocity", "denoised", "noise", "score")


class GramRule(ABC):
    r"""Guidance that is linear in the outputs with coefficients of each sample's own.

    A rule says what guidance makes of a conditional quantity c and an unconditional one u of one space. It is written
    as :math:`q = c + b\,(p\, c + m\, d)` with the numbers b and the direction d of :class:`Moments` (:math:`u = c - b
    d`), since then the network's output becomes

    .. math:: o = o_{cond} + p\, c + m\, d

    Plain guidance is p = 0, m = w - 1. Subclasses are frozen dataclasses of their options.

    Attributes:
        space: The quantity that the rule acts on: "output" is the network's own.
        momentum: What multiplies the last step's update, see :class:`APG`.
        hold_until: Until when states stand still, see :class:`CFGZero`.
        measures: Whether the coefficients need moments.
    """

    space: str
    momentum: ClassVar[float] | float = 0.0
    hold_until: ClassVar[float] | float = 0.0
    measures: ClassVar[bool] = True

    @abstractmethod
    def coefficients(self, m: Moments, weight: Scalar) -> tuple[Scalar, Scalar]:
        """``(p, m)``, numbers or float64 [B], on the device of the moments; nothing is read back.

        Args:
            m: Inner products of c and d.
            weight: w, a number or float64 [B].
        """


def check_space(space: str) -> None:
    """Refuse a space that there is not.

    Raises:
        UnknownNameError: Not one of :data:`SPACES`.
    """
    if space not in SPACES:
        raise UnknownNameError("space", got=repr(space), expected="one of " + ", ".join(SPACES))
