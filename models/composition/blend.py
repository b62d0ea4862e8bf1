"""Any weighted sum of branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ..branch_weights import BranchWeights, finite, to_json
from ..interpolants import Interpolant
from ..window import check_unit, times_of

Weight = float | Callable[[float], float]
TOLERANCE = 1e-6  # of the sum of the weights: that of numbers written with six digits


@dataclass(frozen=True, init=False)
class Blend(BranchWeights):
    r"""Branches with a weight each: :math:`\sum_b w_b(t)\, o_b`, where the weights sum to one at every time.

    Averages of networks, soft switches from one to another, and nested guidance: for an image and a text, with the
    branches "null", "image" and "cond" (both), :math:`o_{null} + w_I (o_{image} - o_{null}) + w_T (o_{cond} -
    o_{image})` is ``Blend(null=1 - w_I, image=w_I - w_T, cond=w_T)``.

    Args:
        jumps: Where weights that are functions jump: bounds at which solvers start afresh.
        in_: Unit of the jumps, "t" or "noise_ratio".
        restarts: Whether multistep solvers forget their history there.
        **weights: A number or a function of t, by the branch's name.

    Raises:
        ArgumentError: No branch; a weight that is NaN or infinite; weights that do not sum to one.

    Source:
        Liu et al. 2022, composable diffusion; Brooks et al. 2023, eq. 3 (two conditions).

    Example:
        >>> Blend(cond=0.75, other=0.25).weights_at(0.5)
        {'cond': 0.75, 'other': 0.25}
    """

    weights: tuple[tuple[str, Weight], ...]
    jumps: tuple[float, ...] = ()
    in_: str = "t"
    restarts: bool = True

    def __init__(
        self, *, jumps: tuple[float, ...] = (), in_: str = "t", restarts: bool = True, **weights: Weight
    ) -> None:
        check_unit(in_)
        if not weights:
            raise ArgumentError("weights", got="none", expected="a weight for each branch, for instance cond=1.0")
        fixed = [w if callable(w) else finite(w, f"weight of {name!r}") for name, w in weights.items()]
        for name, value in (
            ("weights", tuple(zip(weights, fixed, strict=True))),
            ("jumps", tuple(float(bound) for bound in jumps)),
            ("in_", in_),
            ("restarts", restarts),
        ):
            object.__setattr__(self, name, value)
        if not any(callable(weight) for weight in fixed):
            check_sum(dict(self.weights), "weights")  # type: ignore[arg-type]  # numbers, as just checked

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that some time may need."""
        return tuple(name for name, weight in self.weights if callable(weight) or weight != 0)

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``.

        Raises:
            ArgumentError: The functions returned what is no number, or do not sum to one there.
        """
        del interpolant
        found = {
            name: finite(weight(t), f"weight of {name!r} at t = {t:.4g}") if callable(weight) else weight
            for name, weight in self.weights
        }
        check_sum(found, f"weights at t = {t:.4g}")
        return {name: weight for name, weight in found.items() if weight != 0}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """The jumps, as times."""
        return times_of(self.jumps, self.in_, interpolant)

    def to_config(self) -> dict[str, Any]:
        """See :meth:`BranchWeights.to_config`."""
        return {"weights": {name: to_json(weight) for name, weight in self.weights}}


def check_sum(weights: dict[str, float], name: str) -> None:
    """Refuse weights that are no weighted mean: what they make would depend on what the network predicts.

    Raises:
        ArgumentError: They do not sum to one.
    """
    total = sum(weights.values())
    if abs(total - 1) > TOLERANCE:
        raise ArgumentError(name, got=f"{weights}, sum {total:.6g}", expected="weights that sum to 1")
