"""One branch after another along the trajectory: stitched networks, experts of noise ranges, timelines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ..branch_weights import CONDITIONAL, BranchWeights
from ..guidance import as_guidance
from ..interpolants import Interpolant
from ..window import check_unit, time_of, times_of

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Stitch(BranchWeights):
    r"""Branch i serves :math:`t \in [b_{i-1}, b_i)`, the last one up to and including t = 1.

    With networks of growing cost it is trajectory stitching; with networks trained for ranges of noise, experts; with
    branches of one network, a timeline of conditions. All stages of a step use the branch of its start, and multistep
    solvers forget their history at a switch, since it is another network's.

    For Gaussian data on a path with spread s, a bias :math:`\delta` of the first network survives as :math:`\delta\,
    r(b_1)` with :math:`r = s \alpha / \sqrt{\alpha^2 s^2 + \sigma^2}`.

    Args:
        order: Names of the branches, from noise to data.
        bounds: Where each but the last ends: increasing times, or decreasing noise ratios.
        in_: Unit of the bounds, "t" or "noise_ratio".
        guidance: Weights of guidance of single branches, by name: of networks in :func:`composed`, each against its own
            null branch.
        restarts: Whether multistep solvers forget their history at a switch.

    Raises:
        ArgumentError: Fewer than two branches, bounds that are not one less, or not in order.

    Source:
        Pan et al. 2024, T-Stitch; by time and half-open, where their code has three rules that count differently.

    Example:
        >>> stitched = Stitch.shares({"small": 0.4, "cond": 0.6})
        >>> stitched.bounds, stitched.weights_at(0.3), stitched.weights_at(0.4)
        ((0.4,), {'small': 1.0}, {'cond': 1.0})
    """

    order: tuple[str, ...]
    bounds: tuple[float, ...]
    in_: str = "t"
    guidance: tuple[tuple[str, float | BranchWeights], ...] = ()
    restarts: bool = True

    def __post_init__(self) -> None:
        check_unit(self.in_)
        object.__setattr__(self, "order", tuple(self.order))
        object.__setattr__(self, "bounds", tuple(float(b) for b in self.bounds))
        given = self.guidance.items() if isinstance(self.guidance, Mapping) else self.guidance
        object.__setattr__(self, "guidance", tuple(given))
        if len(self.order) < 2 or len(self.bounds) != len(self.order) - 1:
            expected = "two branches or more, and a bound less than branches"
            raise ArgumentError("order, bounds", got=(self.order, self.bounds), expected=expected)
        rising = self.bounds if self.in_ == "t" else self.bounds[::-1]
        if any(not a < b for a, b in itertools.pairwise(rising)):
            expected = "increasing times" if self.in_ == "t" else "decreasing noise ratios"
            raise ArgumentError("bounds", got=self.bounds, expected=f"{expected}: ranges without gap or overlap")
        unknown = {name for name, _ in self.guidance} - set(self.order)
        if unknown:
            raise ArgumentError("guidance", got=sorted(unknown), expected="weights of " + ", ".join(self.order))

    @classmethod
    def shares(
        cls,
        shares: Mapping[str, float],
        *,
        grid: Sequence[float] | None = None,
        guidance: Mapping[str, float | BranchWeights] | None = None,
        restarts: bool = True,
    ) -> Stitch:
        """Each branch with its share of the trajectory.

        Args:
            shares: By name, from noise to data; non-negative, with sum 1.
            grid: Shares of the steps of this grid, rounded to whole steps, instead of shares of time.
            guidance, restarts: As above.

        Raises:
            ArgumentError: A negative share, or a sum that is not 1; shows it.
        """
        total = sum(shares.values())
        if abs(total - 1) > SUM_TOLERANCE or min(shares.values()) < 0:
            raise ArgumentError("shares", got=f"{dict(shares)}, sum {total:.6g}", expected="shares >= 0 that sum to 1")
        present = [name for name, share in shares.items() if share > 0]
        if len(present) == 1:  # the whole trajectory: a bound that no time reaches
            name = present[0]
            other = next(other for other in shares if other != name)
            return cls((name, other), (2.0,), guidance=_of(guidance, (name, other)), restarts=restarts)
        ends = list(itertools.accumulate(shares[name] for name in present))[:-1]
        if grid is not None:
            steps = len(grid) - 1
            ends = [float(grid[round(end * steps)]) for end in ends]
        return cls(tuple(present), tuple(ends), guidance=_of(guidance, present), restarts=restarts)

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that some time may need."""
        found: dict[str, None] = {}
        for name in self.order:
            found.update(dict.fromkeys(own_branch(name, b) for b in self._inner(name)))
        return tuple(found)

    def active(self, t: float, interpolant: Interpolant | None = None) -> str:
        """The branch that serves ``t``.

        Raises:
            ArgumentError: The path is missing, and the bounds are in noise ratios.
        """
        return self.order[sum(t >= time_of(bound, self.in_, interpolant) for bound in self.bounds)]

    def weights_at(self, t: float, interpolant: Interpolant | None = None) -> dict[str, float]:
        """The weights of the branches that are evaluated at ``t``: of the active one, with its guidance."""
        name = self.active(t, interpolant)
        weights = as_guidance(dict(self.guidance).get(name, 1.0))
        inner = {CONDITIONAL: 1.0} if weights is None else weights.weights_at(t, interpolant)
        return {own_branch(name, branch): weight for branch, weight in inner.items()}

    def breakpoints(self, interpolant: Interpolant) -> tuple[float, ...]:
        """The switches, as times, and the jumps of the branches' guidance."""
        own = set(times_of(self.bounds, self.in_, interpolant))
        for _, weights in self.guidance:
            if isinstance(weights, BranchWeights):
                own.update(weights.breakpoints(interpolant))
        return tuple(sorted(own))

    def to_config(self) -> dict[str, Any]:
        """See :meth:`BranchWeights.to_config`."""
        guidance = {name: w.to_config() if isinstance(w, BranchWeights) else w for name, w in self.guidance}
        return {"order": list(self.order), "bounds": list(self.bounds), "in_": self.in_, "guidance": guidance}

    def _inner(self, name: str) -> tuple[str, ...]:
        weights = as_guidance(dict(self.guidance).get(name, 1.0))
        return (CONDITIONAL,) if weights is None else weights.branches


def own_branch(name: str, branch: str) -> str:
    """A branch of a network: "small" and "small.null" of the network "small"; "cond" and "null" of the leading one."""
    if branch == CONDITIONAL:
        return name
    return branch if name == CONDITIONAL else f"{name}.{branch}"


def _of(guidance: Mapping[str, float | BranchWeights] | None, names: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Those of the branches that are there."""
    return tuple((name, weights) for name, weights in (guidance or {}).items() if name in names)
