"""A schedule: the evaluations of a run, and which of them are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...errors import ArgumentError
from .policies import Interval, ReusePolicy

if TYPE_CHECKING:
    from typing import Protocol

    class _Evaluation(Protocol):
        time: float

    class _Plan(Protocol):
        solver: str
        grid: tuple[float, ...]
        evaluations: Sequence[_Evaluation]
        carried: int


@dataclass(frozen=True)
class Schedule:
    """The times at which a run evaluates the network, in its order, and a policy that decides at each.

    Stages at the same time are the same evaluation: a solver of two calls a step does not make it two steps. A time
    that is not in the schedule (a rejected step, an adaptive solver, rows with times of their own) is computed in
    full, and what is remembered is left alone: nothing that was not planned is ever answered from memory.

    Args:
        times: Distinct, in the order of the run, rising (to data) or falling (to noise).
        policy: What decides; computes always by default.

    Raises:
        ArgumentError: Times that are no such sequence; a policy made for another number of evaluations.

    Example:
        >>> schedule = Schedule([0.0, 0.25, 0.5, 0.75], Interval(2))
        >>> schedule.keys, schedule.index(0.5), schedule.index(0.6)
        ((0, 2), 2, None)
    """

    times: Sequence[float]
    policy: ReusePolicy = field(default_factory=lambda: Interval(1))

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.times)
        steps = np.diff(times)
        if not times or not np.isfinite(times).all() or not ((steps > 0).all() or (steps < 0).all()):
            raise ArgumentError("times", got=times, expected="evaluation times, strictly rising or falling")
        object.__setattr__(self, "times", times)
        self.policy.check(len(times))

    @classmethod
    def of(cls, plan: _Plan, policy: ReusePolicy | None = None, *, stale_history: bool = False) -> Schedule:
        """The schedule of a plan's evaluations.

        Args:
            plan: A lowered :class:`pushforward.solvers.Plan`, for instance one of ``pushforward.make_plan``.
            policy: What decides; computes always by default.
            stale_history: Allow a method that remembers outputs of earlier steps. It takes differences of them, and
                the difference of an output and its copy is zero: a third-order method silently becomes Euler's.

        Raises:
            ArgumentError: A multistep method, unless ``stale_history``.
        """
        policy = Interval(1) if policy is None else policy
        backward = plan.grid[-1] < plan.grid[0]
        times = sorted({evaluation.time for evaluation in plan.evaluations}, reverse=backward)
        schedule = cls(times, policy)
        if plan.carried and not stale_history and schedule.keys != tuple(range(len(times))):
            raise ArgumentError(
                "plan",
                got=f"{plan.solver!r}, which carries {plan.carried} tensors besides the state from step to step",
                expected="a one-step method: differences of reused outputs are not derivatives",
                hint="Or stale_history=True, to have it all the same",
            )
        return schedule

    @cached_property
    def keys(self) -> tuple[int, ...] | None:
        """Indices of the computed evaluations; None if the policy looks at the run to decide."""
        if self.policy.reference is not None:
            return None
        keys, memory = [], cast(Any, None)
        for index in range(len(self.times)):
            compute, memory = self.policy.decide(index, len(self.times), memory, None)
            if compute:
                keys.append(index)
        return tuple(keys)

    @cached_property
    def _places(self) -> dict[float, int]:
        return {t: i for i, t in enumerate(self.times)}

    def index(self, t: float) -> int | None:
        """Which evaluation a time is; None for times that are not in the schedule."""
        return self._places.get(t)

    def span(self, index: int) -> range:
        """The evaluations from ``index`` to the next key, without it.

        Raises:
            ArgumentError: The policy looks at the run to decide.
        """
        if self.keys is None:
            raise ArgumentError("policy", got=self.policy, expected="one that decides before the run")
        later = [key for key in self.keys if key > index]
        return range(index, later[0] if later else len(self.times))

    def __str__(self) -> str:
        """One line: how many evaluations, and the keys."""
        decided = f"keys {self.keys}" if self.keys is not None else str(self.policy)
        return f"{len(self.times)} evaluations, {decided}"
