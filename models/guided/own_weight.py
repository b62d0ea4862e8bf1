"""Models that hold the weight of their guidance: one branch outside, two inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError
from ..bound import Branches
from ..branch_weights import CONDITIONAL, BranchWeights
from ..wrapping import BoundWrapped


def check_no_other_weight(guidance: BranchWeights | float | None) -> None:
    """Refuse guidance beside the model's own.

    Raises:
        ArgumentError: There is some.
    """
    if guidance is not None and guidance != 1:
        hint = "Leave guidance= out, or pass it to the model inside"
        raise ArgumentError("guidance", got=guidance, expected="none: the model holds its own weight", hint=hint)


class BoundToOwnWeight(BoundWrapped):
    """What a run evaluates of such a model: the branch "cond"."""

    @property
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """The condition of the one branch that it answers."""
        return {CONDITIONAL: self.inner.conditions[CONDITIONAL]}

    def check_branches(self, branches: Branches, holder: str) -> None:
        """Refuse any branch but that one.

        Raises:
            ArgumentError: Another, or several.
        """
        if branches != (CONDITIONAL,):
            raise ArgumentError("branches", got=branches, expected=f"'cond' alone: {holder} holds its own weight")
