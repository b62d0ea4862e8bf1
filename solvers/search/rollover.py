"""Rollover Budget Forcing: a step that succeeds early leaves the rest of its quota to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from ...errors import ArgumentError, BudgetError
from ..particles import Particles
from .blockwise import CANDIDATES, CHAINS
from .finish import check_searchable, finish_cost, finish_plan
from .method import Method, Outcome, State, at_least, register
from .task import Task

Allocation: TypeAlias = Literal["rollover", "uniform", "linear"] | tuple[int, ...]


@dataclass(kw_only=True)
class Climb(State):
    """Where the chains are, R = S C of them; a call of ``advance`` is an attempt of each.

    Attributes:
        origin: The chains' states and outputs at the steps they are at.
        best: The best attempt of the present step.
        at: The step that each chain is at, int64 [R].
        attempts: How many each chain made at each step, int64 [R, K - 1].
        table: Quotas before anything is rolled over, in evaluations, int64 [R, K - 1].
        quota: What it may spend at the present step, int64 [R].
        share: Evaluations that it has left, int64 [R].
        record: Highest reward so far, float64 [R].
        step_best: That of the present step.
        look: Reward of the clean estimate of each chain's present best.
        values: Rewards of the finished chains, once there are any.

    """

    origin: Particles
    best: Particles
    at: Tensor
    attempts: Tensor
    table: Tensor
    quota: Tensor
    share: Tensor
    record: Tensor
    step_best: Tensor
    look: Tensor
    values: Tensor


@register("rbf")
@dataclass(frozen=True)
class RolloverBudgetForcing(Method):
    r"""Rollover budget forcing (RBF): go on as soon as a candidate beats the record, and take the saved quota along.

    A chain at x_i draws candidates x' from the step's kernel one after another and looks at r' = r(D'). With the quota
    Q of the step, of which j are used, and the record :math:`r^*` over all steps so far:

    - :math:`r' > r^*`: accept x', :math:`r^* \leftarrow r'`, and the next step may try :math:`Q' = q + (Q - j)` times;
    - j = Q: accept the best of the step's candidates, and Q' = q; the record stays;
    - the last step that is searched takes all that is left of the chain's share.

    q is the chain's share over the K times of the grid. Quotas are evaluations: with a solver of several a step an
    attempt costs as many, q is a multiple of that, and the rest of a quota that pays for no further attempt is rolled
    over too. A step that draws no noise has one attempt. Chains share the budget equally, and each spends its own, so
    that none depends on another. Then the best of the last step is carried to the data along the flow, and scored
    there. Of equal candidates the first counts; equal to the record is no improvement; where the reward forbids all
    (-inf), the first goes on. When the time is up, every step left is one attempt.

    Made for rewards of which improvements are rare: flat ones with jumps, counts, rules. With a smooth reward every
    other candidate is an improvement, early steps are rushed through, and the budget goes to the last, least random
    one: then SVDD is better.

    Attributes:
        chains: C, of each request, at most 4096.
        initial: n_0, noises of each chain, of which the best is the start; by default a tenth of the budget over the
            chains, or what the least search leaves of it.
        allocation: "rollover"; or quotas without early acceptance: "uniform" (which is SVDD), "linear" (falling from
            the first step to the last), or one number of attempts for each of the K - 1 searched steps.
        min_attempts: Attempts of a step before one is accepted early.
        finish, finish_solver: Evaluations of the flow that end a chain, the first of them known already, and its
            solver; 0 returns the clean estimate.

    """

    chains: int = 2
    initial: int | None = None
    allocation: Allocation = "rollover"
    min_attempts: int = 1
    finish: int = 4
    finish_solver: str = "ddim"

    source: ClassVar[str] = "Kim, Yoon, Hwang & Sung 2025, Inference-time scaling for flow models, section 5"
    path: ClassVar[str | None] = "vp"
    grid: ClassVar[str] = "circular"

    def __post_init__(self) -> None:
        at_least("chains", self.chains, 1, most=CHAINS)
        at_least("initial", self.initial, 1, most=CANDIDATES)
        at_least("min_attempts", self.min_attempts, 1)
        at_least("finish", self.finish, 0)
        if isinstance(self.allocation, Sequence) and not isinstance(self.allocation, str):
            object.__setattr__(self, "allocation", tuple(self.allocation))
            for number in self.allocation:
                at_least("allocation", number, 1)
        elif self.allocation not in ("rollover", "uniform", "linear"):
            raise ArgumentError(
                "allocation", got=repr(self.allocation), expected="'rollover', 'uniform', 'linear', numbers"
            )

    # --- the budget -------------------------------------------------------------------------------------------------

    def shares(self, task: Task) -> tuple[int, list[int]]:
        """Initial noises of each chain, and the evaluations that each chain may then search with.

        Raises:
            BudgetError: Fewer than the least: one for each of the K times, or what the allocation says.
        """
        c, finish, prices = self.chains, finish_cost(task, self), Prices.of(task)
        least = self.least(prices)
        limits: list[tuple[int, int]] = []  # what a request has for its chains, in units that buy so many evaluations
        for name, have, price, end, worth in (
            ("nfe", task.evaluations_left(), task.evaluation_cost, finish, 1),
            ("rewards", task.rewards_left(), 1, 1, prices.lowest),  # each attempt is looked at, and each end
        ):
            if have is None:
                continue
            initial, units = self.initial or 1, math.ceil(least / worth)
            if have < c * (initial + units + end):
                need = c * (initial + units + end) * price
                expected = f"at least {need} ({c} chains x ({initial} initial + {units} search + {end} finish))"
                raise BudgetError(f"budget.{name}", got=have * price, expected=expected)
            limits.append((have - c * end, worth))
        if not limits:
            raise ArgumentError("budget", got="no number", expected="budget.nfe or budget.rewards: what is rolled over")
        tenth = min(min(max(1, (n // c + finish) // 10), n // c - math.ceil(least / worth)) for n, worth in limits)
        initial = self.initial or tenth
        shares = [min((n // c + (chain < n % c) - initial) * worth for n, worth in limits) for chain in range(c)]
        attempts = min(shares) // prices.lowest
        if attempts >= CANDIDATES:
            raise ArgumentError("budget", got=f"{attempts} attempts a chain", expected=f"less than {CANDIDATES}")
        return initial, shares

    def least(self, prices: Prices) -> int:
        """Evaluations that a chain searches with at least."""
        if isinstance(self.allocation, tuple):
            return sum(prices.quotas(self.allocation))
        return sum(prices.steps) + (prices.steps[-1] if self.allocation == "rollover" else 0)

    def quotas(self, share: int, prices: Prices) -> list[int]:
        """Evaluations of each searched step before anything is rolled over; the last takes all that is left anyway."""
        if isinstance(self.allocation, tuple):
            return prices.quotas(self.allocation)
        searched = [price for price, noisy in zip(prices.steps, prices.noisy, strict=True) if noisy]
        left = share - (sum(prices.steps) - sum(searched))
        if self.allocation == "linear" and searched:
            numbers = iter(linear_quotas(max(left // max(searched), len(searched)), len(searched)))
            return prices.quotas([next(numbers) if noisy else 1 for noisy in prices.noisy])
        round_of_all = sum(searched) + (prices.steps[-1] if self.allocation == "rollover" else 0)
        return prices.quotas([max(1, left // max(1, round_of_all))] * len(prices.steps))

    # --- the search -------------------------------------------------------------------------------------------------

    def begin(self, task: Task) -> Climb:
        """Draw and evaluate the initial noises, and keep the best of each chain."""
        times, prices = len(task.transitions), Prices.of(task)
        if times < 2:
            raise ArgumentError("steps", got=times, expected="at least 2: the last is not searched")
        if isinstance(self.allocation, tuple) and len(self.allocation) != times - 1:
            got, expected = f"{len(self.allocation)} numbers", f"{times - 1}, one for each step that is searched"
            raise ArgumentError("allocation", got=got, expected=expected)
        initial, shares = self.shares(task)
        rows = len(task.requests) * self.chains
        table = torch.tensor([self.quotas(share, prices) for share in shares]).repeat(len(task.requests), 1)
        if self.allocation == "rollover" or (table > torch.tensor(prices.steps)).any():
            check_searchable(task)
        slots = torch.arange(self.chains)[:, None] * CANDIDATES + torch.arange(initial)
        particles = task.evaluate(task.start(slots.reshape(-1)), 0, "initial")
        values = task.look_ahead(particles, 0, "initial")
        task.note("initial", 0, values)
        chosen = values.reshape(rows, initial).argmax(1) + initial * torch.arange(rows)
        origin = particles.take(chosen, torch.arange(self.chains).repeat(len(task.requests)) * CANDIDATES)
        return Climb(
            origin=origin,
            best=origin,
            at=torch.zeros(rows, dtype=torch.int64),
            attempts=torch.zeros(rows, times - 1, dtype=torch.int64),
            table=table,
            quota=table[:, 0],
            share=torch.tensor(shares).repeat(len(task.requests)),
            record=values[chosen],
            step_best=torch.full((rows,), -torch.inf, dtype=torch.float64),
            look=values[chosen],
            values=values[chosen],
        )

    def advance(self, task: Task, state: Climb) -> None:
        """One attempt of every chain that is still searching; after the last, the finish of all."""
        hurry = task.out_of_time
        last = len(task.transitions) - 2
        tried = state.attempts.gather(1, state.at[:, None])[:, 0]
        prices = Prices.of(task)
        searching = self.searching(state, prices, tried, last, hurry)
        if not searching.any():
            self.end(task, state)
            return
        rows = searching.nonzero()[:, 0]
        candidates = state.origin.take(rows, state.origin.slot[rows] + tried[rows])
        candidates = task.propose(candidates, state.at[rows])
        candidates = task.evaluate(candidates, state.at[rows] + 1)
        values = task.look_ahead(candidates, state.at[rows] + 1)
        self.note(task, state, rows, values)
        self.update(state, prices, rows, candidates, values, last, hurry)
        state.step += 1

    def searching(self, state: Climb, prices: Prices, tried: Tensor, last: int, hurry: bool) -> Tensor:
        """Which chains make another attempt, bool [R]."""
        if hurry:
            return (state.at < last) | (tried == 0)
        price, noisy = prices.at(state.at)
        another = noisy | (tried == 0)
        if self.allocation == "rollover":
            return another & (state.share >= price)
        return (state.at < last) | (another & ((tried + 1) * price <= state.quota))

    def update(
        self,
        state: Climb,
        prices: Prices,
        rows: Tensor,
        candidates: Particles,
        values: Tensor,
        last: int,
        hurry: bool,
    ) -> None:
        """Accept, or count: what the rules above say."""
        everyone = len(state.at)
        price, noisy = prices.at(state.at)
        reward = torch.full((everyone,), -torch.inf, dtype=torch.float64).index_copy(0, rows, values)
        tried = torch.zeros(everyone, dtype=torch.bool).index_fill(0, rows, True)
        place = torch.zeros(everyone, dtype=torch.int64).index_copy(0, rows, torch.arange(len(rows)))
        state.attempts[rows, state.at[rows]] += 1
        state.share = state.share - tried * price
        count = state.attempts.gather(1, state.at[:, None])[:, 0]
        left = state.quota - count * price
        better = tried & ((count == 1) | (reward > state.step_best))
        spread = candidates.take(place, state.origin.slot)
        state.best = state.best.where(better, spread)
        state.step_best = torch.where(better, reward, state.step_best)
        early = self.allocation == "rollover"
        improved = tried & (state.step_best > state.record) & (count >= self.min_attempts) & early
        moves = tried & (state.at < last) & (improved | (left < price) | ~noisy | hurry)
        state.record = torch.where(improved, state.step_best, state.record)
        state.look = torch.where(moves | (tried & (state.at == last)), state.step_best, state.look)
        state.origin = state.origin.where(moves, state.best)
        state.at = state.at + moves.long()
        base = state.table.gather(1, state.at[:, None])[:, 0]
        state.quota = torch.where(moves, base + early * left.clamp(min=0), state.quota)
        state.step_best = torch.where(moves, torch.full_like(state.step_best, -torch.inf), state.step_best)

    def note(self, task: Task, state: Climb, rows: Tensor, values: Tensor) -> None:
        """The attempts of this round, NaN for chains that have ended."""
        table = torch.full((len(state.at),), torch.nan, dtype=torch.float64).index_copy(0, rows, values)
        task.note("search", int(state.at[rows].min()) + 1, table)

    def end(self, task: Task, state: Climb) -> None:
        """Carry the best of the last step to the data, and score it there."""
        last = len(task.transitions) - 1
        if self.finish:
            state.origin = task.run(state.best, finish_plan(task, self), "finish", known=True)
        else:
            clean = task.denoised(state.best, last)
            state.origin = Particles(state.best.shard, state.best.request, state.best.slot, clean)
        state.values = task.score(state.origin, last)
        task.note("finish", last, state.values, finished=True)
        state.done = True

    def outcome(self, task: Task, state: Climb) -> Outcome:
        """The chains."""
        requests = len(task.requests)
        return Outcome(state.origin, state.values.reshape(requests, -1), state.look.reshape(requests, -1))


@dataclass(frozen=True)
class Prices:
    """What attempts cost.

    Attributes:
        steps: Evaluations of an attempt at each of the K - 1 searched steps: those within the step, and the look.
        noisy: Whether attempts at it differ.

    """

    steps: tuple[int, ...]
    noisy: tuple[bool, ...]

    @classmethod
    def of(cls, task: Task) -> Prices:
        """Those of the task's solver."""
        searched = task.transitions[:-1]
        return cls(tuple(len(k.calls) + 1 for k in searched), tuple(k.stochastic for k in searched))

    @property
    def lowest(self) -> int:
        """The price of the cheapest attempt."""
        return min(self.steps)

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Price, and whether attempts differ, at the step of each chain [R]."""
        return torch.tensor(self.steps)[step], torch.tensor(self.noisy)[step]

    def quotas(self, attempts: Sequence[int]) -> list[int]:
        """Evaluations of so many attempts at each step; of one where they do not differ."""
        return [n * p if noisy else p for n, p, noisy in zip(attempts, self.steps, self.noisy, strict=True)]


def linear_quotas(total: int, steps: int) -> list[int]:
    """Quotas that fall by one difference from step to step and sum to ``total``; the remainder goes to the first ones.

    Example:
        >>> linear_quotas(500, 10)
        [95, 85, 75, 65, 55, 45, 35, 25, 15, 5]
    """
    if steps == 1:
        return [total]
    difference = max(0, 2 * (total - steps) // (steps * (steps - 1)))
    first = (total + difference * steps * (steps - 1) // 2) // steps
    quotas = [first - i * difference for i in range(steps)]
    for index in range(total - sum(quotas)):
        quotas[index % steps] += 1
    return quotas
