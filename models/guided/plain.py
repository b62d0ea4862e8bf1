"""Guidance without a rule: for weights of each sample's own, or inside another wrapper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..spaces import Scalar
from .moments import Moments
from .rule import GramRule, check_space


@dataclass(frozen=True)
class Plain(GramRule):
    r"""Classifier-free guidance, :math:`q = u + w (c - u)`, the same field in every space.

    Where all samples share a weight, ``guidance=`` of a run is cheaper: there the weights are part of the plan.

    Source:
        Ho & Salimans 2022.
    """

    space: str = "output"
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_space(self.space)

    def coefficients(self, m: Moments | None, weight: Scalar) -> tuple[Scalar, Scalar]:
        """``(0, w - 1)``."""
        del m
        return 0.0, weight - 1.0
