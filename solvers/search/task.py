"""Task: one search's model, reward and accounts; the only place where networks and rewards are called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError
from ...models import BranchWeights, Interpolant, Model
from ...models.bound import Bound
from ...models.verifiers import RankEnsemble, evaluate_with_graph, take_rows
from ...models.verifiers import evaluate as evaluate_reward
from ..grids import GridFunction
from ..particles import Particles, Shard, Transition, Transitions
from ..particles.shard import ids_of
from ..particles.transitions import Branches
from ..plan import Plan, evaluation_at_start
from ..solver import FixedGridSolver
from ..start import initial_noise
from .budget import Counts, Entry, Ledger
from .row_network import RowNetwork
from .sampler import Rows, Sampler, Steps
from .trace import Trace

Reward: TypeAlias = Callable[[Tensor, Any], Any]


@dataclass
class Task:
    """What a method works with: it starts, proposes, evaluates, scores and finishes populations, and keeps the books.

    Every call concerns all processes and all of them make the same calls. Numbers that come back (rewards) are those of
    all rows.

    Attributes:
        model, guidance: The network, and its weight of guidance.
        network: The model bound to the conditions of the requests.
        path: Interpolant that the sampler's grid is on; states are on the model's.
        plan: The whole run of the solver, optimised, for methods that only look at finished samples.
        lowered: The same before optimisation; its steps are the ``transitions``.
        solver, schedule: What it was made of: the solver, and the grid by name, as a function, or as times of ``path``.
        reward: ``reward(x_clean[B, *D], context) -> [B]``; higher is better. A :class:`RankEnsemble` scores sets.
        context: Tree with an entry a request, or one for all.
        requests: Ids of the requests, int64 [S].
        shape: Of one sample, D.
        dtype, device: Of states.
        seed: Of all noise.
        ledger, trace: The accounts.
        shard: This process's part.
        batch: Rows of a network or reward call, at most; None: all.
        pad: Fill every network call up to ``batch`` rows, so that a row's result does not depend on how many there are.

    """

    model: Model
    guidance: BranchWeights | None
    network: Bound
    path: Interpolant
    plan: Plan
    lowered: Plan
    solver: FixedGridSolver
    schedule: str | GridFunction | tuple[float, ...]
    reward: Reward
    context: Any
    requests: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    seed: int
    ledger: Ledger
    trace: Trace
    shard: Shard = field(default_factory=Shard)
    batch: int | None = None
    pad: bool = False
    _counted: tuple[Tensor, Counts] | None = field(default=None, repr=False)
    _ids: tuple[Tensor, Tensor, Tensor] | None = field(default=None, repr=False)

    # --- the sampler ------------------------------------------------------------------------------------------------

    @cached_property
    def sampler(self) -> Sampler:
        """What does the arithmetic of local rows."""
        network = RowNetwork(self.network, len(self.requests), np.array(self.plan.grid), self.batch, self.pad)
        return Sampler(self.lowered, self.model.prediction, self.guidance, network, self.seed)

    @property
    def transitions(self) -> Transitions:
        """The solver's steps; see :attr:`Sampler.transitions`."""
        return self.sampler.transitions

    @property
    def evaluation_cost(self) -> int:
        """Rows that the network sees for one evaluation, at most: 2 with guidance."""
        return max(len(evaluation.labels) for evaluation in self.lowered.evaluations)

    def evaluations_left(self) -> int | None:
        """Evaluations that every request can still pay for; None without a limit."""
        left = self.ledger.left("nfe")
        return None if left is None else int(left.min()) // self.evaluation_cost

    def rewards_left(self) -> int | None:
        """Rewards that every request can still pay for; None without a limit."""
        left = self.ledger.left("rewards")
        return None if left is None else int(left.min())

    @property
    def out_of_time(self) -> bool:
        """Whether the wall time is used up, by the clock of the first process."""
        limit = self.ledger.budget.seconds
        return limit is not None and self.shard.agree(self.ledger.seconds) >= limit

    # --- populations ------------------------------------------------------------------------------------------------

    def start(self, slot: Tensor) -> Particles:
        """Pure noise at the first time of the grid: ``sigma(t_0) z``, keyed by request and slot.

        Args:
            slot: int64 [N], or [S, N], in [0, 2**32): the slots of each request's particles.
        """
        table = slot.expand(len(self.requests), -1) if slot.ndim == 1 else slot
        request = torch.arange(len(self.requests)).repeat_interleave(table.shape[1])
        particles = Particles(self.shard, request, table.reshape(-1), torch.empty(0))
        ids = self.ids(particles)
        where = {"seed": self.seed, "samples": ids, "dtype": self.dtype, "device": self.device}
        particles.x = initial_noise(self.plan, self.model.prediction, (len(ids), *self.shape), **where)
        return particles

    def ids(self, particles: Particles) -> Tensor:
        """Sample ids of the local rows, which key their noise; the last ones are kept, as populations share them."""
        request, slot, block = particles.request, particles.slot, particles.block
        if self._ids is None or self._ids[0] is not request or self._ids[1] is not slot:
            self._ids = request, slot, ids_of(self.requests, request[block], slot[block])
        return self._ids[2]

    def rows(self, particles: Particles) -> Rows:
        """The local rows, as the sampler takes them."""
        return Rows(particles.x, particles.outputs, self.ids(particles), particles.request[particles.block])

    def evaluate(self, particles: Particles, step: Steps, phase: str = "search", *, look: bool = True) -> Particles:
        """Run the network on all rows at the times of their steps, and keep what it returns with them.

        Where nobody will ``look`` at clean estimates, it is only run if the step that follows begins with it.

        Raises:
            BudgetError: Some request cannot pay for it.
            ShapeError: The network returned another shape, dtype or device.
        """
        if isinstance(step, int) and not self.transitions[step].evaluated(look):
            return particles
        with self.together(*self._charge(phase, step, particles, lambda k: (k.branches,))):
            particles.outputs = self.sampler.outputs(self.rows(particles), self.local(particles, step))
        return particles

    def propose(self, particles: Particles, step: Steps, phase: str = "search") -> Particles:
        """One draw of the step for every row, with the noise of its slot; the outputs are used up.

        Raises:
            BudgetError: Some request cannot pay for the evaluations within the step.
            NotFiniteError: A new state is NaN or infinite; names the step and the time.
        """
        with self.together(*self._charge(phase, step, particles, lambda k: k.calls)):
            new = self.sampler.draw(self.rows(particles), self.local(particles, step))
        return particles.moved(new)

    def local(self, particles: Particles, step: Steps) -> Steps:
        """The steps of the local rows."""
        return step if isinstance(step, int) else step[particles.block]

    # --- rewards ----------------------------------------------------------------------------------------------------

    def denoised(self, particles: Particles, step: Steps) -> Tensor:
        """Clean estimates D(x, t) of the local rows, from the outputs that they carry.

        Raises:
            ArgumentError: The network does not determine the clean sample at one of the times.
        """
        return self.sampler.denoised(self.rows(particles), self.local(particles, step))

    def look_ahead(self, particles: Particles, step: Steps, phase: str = "search") -> Tensor:
        """``r(D(x, t))`` of all rows, float64 [R]: what the reward makes of the clean estimates."""
        entries = self._charge(phase, step, particles, rewards=True)
        with self.together(*entries):
            values = self._rewards(self.denoised(particles, step), particles, self.local(particles, step))
        return self.shard.gather(values, len(particles))

    def score(self, particles: Particles, step: int, phase: str = "finish") -> Tensor:
        """``r(x)`` of all rows of finished samples, float64 [R]; booked under a step."""
        return self.verdicts(particles, step, phase)[0]

    def verdicts(self, particles: Particles, step: int, phase: str = "finish") -> Tensor:
        """What each verifier says of all rows of finished samples, float64 [V, R]; V = 1 for a reward of rows.

        :meth:`scores` makes scores of it. A sample is booked once, however many verifiers see it.
        """
        entries = self._charge(phase, step, particles, rewards=True)
        with self.together(*entries):
            local = [self._rewards(particles.x, particles, None, reward) for reward in self.verifiers]
        return torch.stack([self.shard.gather(values, len(particles)) for values in local])

    @property
    def verifiers(self) -> tuple[Reward, ...]:
        """Those of a rank ensemble; else the reward itself."""
        return self.reward.verifiers if isinstance(self.reward, RankEnsemble) else (self.reward,)

    def scores(self, verdicts: Tensor) -> Tensor:
        """Scores [S, N] of a set of N candidates a request, from [V, S, N]: of a reward of rows its values."""
        return self.reward.scores(verdicts) if isinstance(self.reward, RankEnsemble) else verdicts[0]

    def _rewards(self, x: Tensor, particles: Particles, step: Steps | None, reward: Reward | None = None) -> Tensor:
        """A reward of local clean samples; by default the task's."""
        ids, place = self.ids(particles), self.sampler.place
        request = particles.request[particles.block]
        return self.judge(reward or self.reward, x, request, lambda row: place(step, ids, row))

    def judge(self, reward: Reward, x: Tensor, request: Tensor, where: Callable[[int | None], str]) -> Tensor:
        """Any reward of clean samples with the contexts of their requests, in calls of at most ``batch`` rows.

        What comes back is checked, and errors begin with ``where(row)``; books nothing.
        """
        size, parts = self.batch or max(len(x), 1), []
        for i in range(0, len(x), size):
            context = take_rows(self.context, request[i : i + size], len(self.requests))
            place = partial(_behind, where, i)
            parts.append(evaluate_reward(reward, x[i : i + size], context, where=place))
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    # --- gradients --------------------------------------------------------------------------------------------------

    def look_ahead_with_gradient(self, particles: Particles, step: int, phase: str = "search") -> Tensor:
        """:meth:`evaluate` and :meth:`look_ahead` in one, with the gradient of each row's reward by its state.

        The gradient goes through the network; it is kept as the particles' row "gradient", and counted.

        Raises:
            ArgumentError: The reward is not differentiable, or the network's output has no graph.
        """
        count, transition = self._count(particles.request), self.transitions[step]
        passes = count * len(transition.branches)
        entry = self.ledger.charge(phase, step, evaluations=count, passes=passes, gradients=passes, rewards=count)
        size = self.batch or max(len(particles.x), 1)
        with self.together(entry):
            rows = self.rows(particles)
            parts = [self._with_gradient(rows.take(slice(i, i + size)), step) for i in range(0, len(rows.x), size)]
            if not parts:
                nothing = (particles.x for _ in self.sampler.branches)
                parts = [(particles.x, torch.zeros(0, dtype=torch.float64), *nothing)]
            gradient, rewards, *outputs = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        particles.outputs, particles.rows["gradient"] = tuple(outputs), gradient
        return self.shard.gather(rewards, len(particles))

    def _with_gradient(self, rows: Rows, step: int) -> tuple[Tensor, ...]:
        """Gradient, reward and outputs of local rows."""
        transition, sampler = self.transitions[step], self.sampler
        with torch.enable_grad():
            leaf = rows.x.detach().requires_grad_()
            # A node of its own: the network's shares of the gradient are summed before the state's own, padded or not.
            source = leaf.view_as(leaf) if transition.scale == 1 else transition.scale * leaf
            found = sampler.call(source, transition.time, transition.branches, rows.request)
            if not all(output.requires_grad for output in found):
                got, expected = "an output without a graph", "one that a gradient passes through"
                raise ArgumentError("network", got=got, expected=expected, hint="It runs under no_grad, or detaches")
            outputs = dict(zip(transition.branches, found, strict=True))
            every = [outputs[b] if b in outputs else torch.zeros_like(leaf) for b in sampler.branches]
            clean = cast(Tensor, kernels.combine([leaf, *every], list(sampler.clean_weights(step))))
            sampler.check_finite(clean, every, step, rows)
            context = take_rows(self.context, rows.request, len(self.requests))
            rewards = evaluate_with_graph(self.reward, clean, context, where=f"step {step}")
            (gradient,) = torch.autograd.grad(rewards.sum(), leaf)
        sampler.check_finite(gradient, (), step, rows, "gradient of the reward")
        return gradient, rewards.detach().to("cpu", torch.float64), *(output.detach() for output in every)

    def propose_twisted(self, particles: Particles, step: int, factor: Tensor) -> tuple[Particles, Tensor]:
        """:meth:`propose` with the mean moved along the gradient; see :meth:`Sampler.draw_twisted`.

        Args:
            particles: With the row "gradient".
            step: The sampler's.
            factor: What multiplies the gradient of every row, float64 [R].

        Returns:
            The new population, and the log ratio of kernel and proposal of every row, float64 [R].
        """
        with self.together():
            gradient, local = particles.rows["gradient"], factor[particles.block]
            x, ratio = self.sampler.draw_twisted(self.rows(particles), step, gradient, local)
        moved = particles.moved(x)
        del moved.rows["gradient"]
        return moved, self.shard.gather(ratio, len(particles))

    # --- whole runs -------------------------------------------------------------------------------------------------

    def run(self, particles: Particles, plan: Plan, phase: str, *, known: bool = False) -> Particles:
        """Carry all rows through an optimised plan, from its first time to its last.

        Args:
            particles: At ``plan.grid[0]``.
            plan: For instance :attr:`plan`, or one that finishes a search.
            phase: What to book it under.
            known: The particles carry the outputs of the plan's evaluation at its first state.
        """
        plan.check_plain("a search")
        start = evaluation_at_start(plan) if known else None
        count, skipped = self._count(particles.request), None if start is None else start.index
        entries = [
            self.ledger.charge(phase, e.step, evaluations=count, passes=count * len(e.labels))
            for index, e in enumerate(plan.evaluations)
            if index != skipped
        ]
        with self.together(*entries):
            x = self.sampler.run(self.rows(particles), plan, skipped)
        return particles.moved(x)

    def note(
        self,
        phase: str,
        step: int,
        rewards: Tensor,
        *,
        finished: bool = False,
        ess: Tensor | None = None,
        time: float | None = None,
    ) -> None:
        """Write the rewards [R] or [S, N] of candidates into the trace; by default at the time of the step."""
        if time is None:
            time = 1.0 if finished else self.plan.grid[step]
        table = rewards.reshape(len(self.requests), -1)
        self.trace.add(phase, step, time, table, torch.from_numpy(self.ledger.nfe), finished=finished, ess=ess)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _count(self, request: Tensor) -> Counts:
        """How many of the rows each request has; the last counts are kept, as populations share their requests."""
        if self._counted is None or self._counted[0] is not request:
            self._counted = request, torch.bincount(request, minlength=len(self.requests)).numpy()
        return self._counted[1]

    def _charge(
        self,
        phase: str,
        step: Steps,
        particles: Particles,
        calls: Callable[[Transition], Sequence[Branches]] | None = None,
        *,
        rewards: bool = False,
    ) -> list[Entry]:
        """Book calls of the network and a reward for every row; the accounts, one for each step that occurs."""
        entries: list[Entry] = []
        for k in [step] if isinstance(step, int) else torch.unique(step).tolist():
            count, bill = self._count(particles.request if isinstance(step, int) else particles.request[step == k]), {}
            asked = () if calls is None else calls(self.transitions[k])
            if asked:
                bill |= {"evaluations": len(asked) * count, "passes": sum(map(len, asked)) * count}
            if rewards:
                bill["rewards"] = count
            if bill:
                entries.append(self.ledger.charge(phase, k, **bill))
        return entries

    @contextmanager
    def together(self, *entries: Entry, wait: bool = False) -> Iterator[None]:
        """What may fail in one process alone: if it does, all of them raise.

        Args:
            entries: Accounts over which its time is shared out.
            wait: Go on only when all processes have come through; without, they learn of a failure when they next
                exchange anything, and nobody waits here.
        """
        failure: BaseException | None = None
        started = time.perf_counter()
        try:
            yield
        except Exception as error:  # told to the others, and raised again by all_fine
            failure = error
        for entry in entries:
            entry.seconds += (time.perf_counter() - started) / len(entries)
        self.shard.all_fine(failure, wait=wait)


def _behind(where: Callable[[int | None], str], rows: int, row: int | None) -> str:
    """``where`` of a row that is counted from a later one."""
    return where(None if row is None else rows + row)
