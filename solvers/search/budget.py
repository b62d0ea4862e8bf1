"""Budget and Ledger: what a search may spend, and what it spent, step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, BudgetError

Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Budget:
    """What one request of a search may spend; every request has its own, so that none depends on its batch.

    Attributes:
        nfe: Rows that the network may see: an evaluation counts one for each guidance branch. None: no limit.
        rewards: Clean samples that the reward may see. None: no limit.
        seconds: Wall time of the whole search. It is read between network calls, so the last one may end later; the
            method then goes the shortest way to the end. A result under this limit depends on the machine.

    Raises:
        ArgumentError: A limit that is not positive, or none at all.

    Example:
        >>> Budget(500).nfe
        500

    """

    nfe: int | None = None
    rewards: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("nfe", "rewards"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"budget.{name}", got=repr(value), expected="an integer, at least 1, or None")
        if self.seconds is not None and not is_positive(self.seconds):
            raise ArgumentError("budget.seconds", got=repr(self.seconds), expected="a positive number, or None")
        if self.nfe is None and self.rewards is None and self.seconds is None:
            raise ArgumentError("budget", got="no limit", expected="at least one of nfe, rewards, seconds")

    @classmethod
    def of(cls, value: BudgetLike) -> Budget:
        """A budget from itself, or from a number of evaluations."""
        return value if isinstance(value, Budget) else cls(value)

    def split(self, weights: Sequence[float]) -> tuple[Budget, ...]:
        """Shares of the budget in proportion to ``weights``; what does not divide goes to the first ones.

        Raises:
            ArgumentError: Weights that are not positive, or a share that would be empty.

        Example:
            >>> [part.nfe for part in Budget(10).split([1, 2])]
            [4, 6]
        """
        if not weights or not all(is_positive(w) for w in weights):
            raise ArgumentError("weights", got=list(weights), expected="positive numbers")
        shares = [w / sum(weights) for w in weights]
        parts = {name: divide(getattr(self, name), shares) for name in ("nfe", "rewards")}
        seconds = [None if self.seconds is None else self.seconds * share for share in shares]
        return tuple(Budget(parts["nfe"][i], parts["rewards"][i], seconds[i]) for i in range(len(shares)))


BudgetLike: TypeAlias = Budget | int


def is_positive(value: object) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def now() -> float:
    """The clock of ledgers, in seconds."""
    return time.perf_counter()


def divide(total: int | None, shares: Sequence[float]) -> list[int | None]:
    """Whole parts of a total; None of None."""
    if total is None:
        return [None] * len(shares)
    parts = [math.floor(total * share + 1e-9) for share in shares]
    for index in range(total - sum(parts)):
        parts[index % len(parts)] += 1
    return list(parts)


@dataclass
class Entry:
    """What one step of one phase cost.

    Attributes:
        phase: "initial", "search", "finish" or "regenerate".
        step: Step of the sampler.
        evaluations: Guided evaluations of each request, int64 [S]: what papers call NFE.
        passes: Rows that the network saw.
        gradients: Rows that were differentiated.
        rewards: Clean samples that the reward saw.
        seconds: Wall time, of all requests together.

    """

    phase: str
    step: int
    evaluations: Counts
    passes: Counts
    gradients: Counts
    rewards: Counts
    seconds: float = 0.0


@dataclass
class Ledger:
    """What a search has spent, request by request and step by step; refuses what the budget does not hold.

    Attributes:
        budget: The limits, of each request.
        requests: Their number S.
        entries: One for each (phase, step), in the order in which they first occurred.
        spent_seconds: Wall time before an interruption.
        started: The clock when the search began, or went on.

    """

    budget: Budget
    requests: int
    entries: list[Entry] = field(default_factory=list)
    spent_seconds: float = 0.0
    started: float = field(default_factory=now, repr=False, metadata={"stored": False})

    def charge(
        self,
        phase: str,
        step: int,
        *,
        evaluations: Counts | None = None,
        passes: Counts | None = None,
        gradients: Counts | None = None,
        rewards: Counts | None = None,
    ) -> Entry:
        """Book what is about to be spent.

        Raises:
            BudgetError: Some request would exceed its budget; nothing is booked then.
        """
        for name, more in (("nfe", passes), ("rewards", rewards)):
            limit, left = getattr(self.budget, name), self.left(name)
            if limit is not None and more is not None and left is not None and (more > left).any():
                worst = int(np.argmax(more - left))
                got = f"{int(more[worst])} more in step {step} ({phase}) of request {worst}"
                raise BudgetError(f"budget.{name}", got=got, expected=f"at most {int(left[worst])} of {limit}")
        entry = self.entry(phase, step)
        for name, more in (
            ("evaluations", evaluations),
            ("passes", passes),
            ("gradients", gradients),
            ("rewards", rewards),
        ):
            if more is not None:
                setattr(entry, name, getattr(entry, name) + more)
        return entry

    def entry(self, phase: str, step: int) -> Entry:
        """The account of a step, opened if need be."""
        for entry in reversed(self.entries):
            if entry.phase == phase and entry.step == step:
                return entry
        evaluations, passes, gradients, rewards = np.zeros((4, self.requests), dtype=np.int64)
        self.entries.append(Entry(phase, step, evaluations, passes, gradients, rewards))
        return self.entries[-1]

    def total(self, name: str, phase: str | None = None) -> Counts:
        """Sum over steps of "evaluations", "passes", "gradients" or "rewards", for each request [S]."""
        counts = np.zeros(self.requests, dtype=np.int64)
        for entry in self.entries:
            if phase is None or entry.phase == phase:
                counts = counts + getattr(entry, name)
        return counts

    @property
    def nfe(self) -> Counts:
        """Rows that the network saw, for each request; at most ``budget.nfe``."""
        return self.total("passes")

    @property
    def cost(self) -> Counts:
        """Forward passes, and twice the backward ones: the usual estimate of the work."""
        return self.total("passes") + 2 * self.total("gradients")

    def left(self, name: str) -> Counts | None:
        """What is left of "nfe" or "rewards", for each request; None without that limit."""
        limit = getattr(self.budget, name)
        return None if limit is None else limit - self.total("passes" if name == "nfe" else name)

    @property
    def seconds(self) -> float:
        """Wall time of the search, the parts before interruptions included."""
        return self.spent_seconds + now() - self.started
