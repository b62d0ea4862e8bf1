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
from ...errors import ArgumentError, NotFiniteError
from ...models import BranchWeights, Interpolant, Model
from ...models.bound import Bound
from ...models.verifiers import evaluate as evaluate_reward
from ...models.verifiers import evaluate_with_graph, take_rows
from ..executor import Executor
from ..grids import GridFunction
from ..particles import Particles, Shard, Transitions
from ..particles.shard import ids_of
from ..plan import Plan
from ..solver import FixedGridSolver
from ..start import initial_noise
from .budget import Counts, Entry, Ledger
from .row_network import RowNetwork
from .trace import Trace

Reward: TypeAlias = Callable[[Tensor, Any], Any]
Steps: TypeAlias = int | Tensor
"""A step of the sampler for all rows, or one for each row, int64 [R]."""


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
        reward: ``reward(x_clean[B, *D], context) -> [B]``; higher is better.
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
    def transitions(self) -> Transitions:
        """The solver's steps as Gaussian kernels.

        Raises:
            PlanError: They are not: the solver remembers steps, or evaluates more than once in one.
        """
        return Transitions.of(self.lowered, self.model.prediction, self.guidance)

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches that some step needs; particles keep an output for each."""
        return tuple(dict.fromkeys(branch for step in self.transitions for branch in step.branches))

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

    def propose(self, particles: Particles, step: Steps) -> Particles:
        """One draw of the step's kernel for every row, with the noise of its slot; the outputs are used up.

        Raises:
            NotFiniteError: A new state is NaN or infinite; names the step and the time.
        """
        x, ids = particles.x, self.ids(particles)
        with self.together():
            if isinstance(step, int):
                new = self._propose(x, particles.outputs, step, ids)
            else:
                new, local = torch.empty_like(x), step[particles.block]
                for k in torch.unique(local).tolist():
                    rows = (local == k).nonzero()[:, 0]
                    there = rows.to(x.device)
                    outputs = [output[there] for output in particles.outputs]
                    new[there] = self._propose(x[there], outputs, k, ids[rows])
        values, rows = dict(particles.values), dict(particles.rows)
        return Particles(self.shard, particles.request, particles.slot, new, (), values, rows)

    def _propose(self, x: Tensor, outputs: Sequence[Tensor], step: int, ids: Tensor) -> Tensor:
        transition = self.transitions[step]
        noise = [kernels.Noise(self.seed, draw, ids) for draw in transition.draws]
        weights = spread(transition.weights, transition.branches, self.branches)
        return self._combine([x, *outputs], weights, step, ids, noise, transition.noises)

    def _combine(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[float] | Tensor,
        step: Steps,
        ids: Tensor,
        noise: Sequence[kernels.Noise] = (),
        scale: Sequence[float] = (),
    ) -> Tensor:
        """A combination whose result must be finite; the rows' steps and sample ids say in errors where it is not."""
        status = torch.zeros(1, dtype=torch.int32, device=inputs[0].device)
        scales = scale if noise else None
        out = cast(Tensor, kernels.combine(inputs, weights, noise=noise or None, scale=scales, status=status))
        if int(status):
            raise self._broken(inputs[1:], out, step, ids)
        return out

    def _broken(self, outputs: Sequence[Tensor], result: Tensor, step: Steps, ids: Tensor) -> NotFiniteError:
        """The error of a result that is not finite: of a network's output if one is not, else of the state."""
        bad = [~tensor.flatten(1).isfinite().all(1) for tensor in (*outputs, result)]
        row = int(torch.stack([rows.cpu() for rows in bad]).any(0).nonzero()[0])
        network = any(bool(rows[row]) for rows in bad[:-1])
        return self._not_finite("network output" if network else "state", step, ids, row)

    def _not_finite(self, what: str, step: Steps, ids: Tensor, row: int) -> NotFiniteError:
        """The error of a run that went wrong in one of the rows."""
        k = step if isinstance(step, int) else int(step[row])
        what = f"{what} at {self._place(k, ids, row)}"
        error = NotFiniteError(what, got="NaN or infinity", expected="finite numbers")
        error.step, error.t = k, self.plan.grid[k]
        return error

    def _place(self, step: Steps | None, ids: Tensor, row: int | None) -> str:
        """Where a row is, or where all of them are, in words; without a step they are at the end."""
        if step is None:
            where = "finished samples"
        elif isinstance(step, int) or row is not None:
            k = step if isinstance(step, int) else int(step[cast(int, row)])
            where = f"step {k}, t = {self.plan.grid[k]:.4g}"
        else:
            where = f"steps {int(step.min())} to {int(step.max())}"
        return where if row is None else f"{where}, request {int(ids[row]) >> 32}, slot {int(ids[row]) % 2**32}"

    def evaluate(self, particles: Particles, step: Steps, phase: str = "search") -> Particles:
        """Run the network on all rows at the times of their steps, and keep what it returns with them.

        Raises:
            BudgetError: Some request cannot pay for it.
            ShapeError: The network returned another shape, dtype or device.
        """
        entries = self._charge(phase, step, particles, evaluations=True)
        with self.together(*entries):
            particles.outputs = self._outputs(particles, step)
        return particles

    def _outputs(self, particles: Particles, step: Steps) -> tuple[Tensor, ...]:
        """Raw outputs of the local rows, one tensor for each of :attr:`branches`; 0 for one that a step leaves out."""
        request = particles.request[particles.block]
        if isinstance(step, int):
            k = self.transitions[step]
            x = particles.x if k.scale == 1 else cast(Tensor, kernels.combine([particles.x], [k.scale]))
            found = dict(zip(k.branches, self.call(x, k.time, k.branches, request), strict=True))
            return tuple(found[b] if b in found else torch.zeros_like(x) for b in self.branches)
        local = step[particles.block].numpy()
        times, scales = (np.array([getattr(k, name) for k in self.transitions])[local] for name in ("time", "scale"))
        x = particles.x
        if (scales != 1).any():
            x = cast(Tensor, kernels.combine([x], torch.from_numpy(scales)[:, None]))
        kinds = [self.transitions[k].branches for k in local.tolist()]
        outputs = {branch: torch.zeros_like(x) for branch in self.branches}
        for branches in dict.fromkeys(kinds):
            rows = torch.tensor([i for i, kind in enumerate(kinds) if kind == branches])
            found = self.call(x[rows], times[rows.numpy()], branches, request[rows])
            for branch, output in zip(branches, found, strict=True):
                outputs[branch][rows] = output
        return tuple(outputs.values())

    @cached_property
    def call(self) -> RowNetwork:
        """The network for rows of requests; books nothing."""
        return RowNetwork(self.network, len(self.requests), np.array(self.plan.grid), self.batch, self.pad)

    # --- rewards ----------------------------------------------------------------------------------------------------

    def denoised(self, particles: Particles, step: Steps) -> Tensor:
        """Clean estimates D(x, t) of the local rows, from the outputs that they carry.

        Raises:
            ArgumentError: The network does not determine the clean sample at one of the times.
        """
        inputs, ids = [particles.x, *particles.outputs], self.ids(particles)
        if isinstance(step, int):
            weights = self._clean_weights(step)
            used = [i for i, weight in enumerate(weights) if weight != 0]
            if len(used) == 1 and weights[used[0]] == 1:  # the network's output itself
                out = inputs[used[0]]
                if out.numel() and not bool(torch.stack(out.aminmax()).isfinite().all()):  # NaN is both
                    raise self._broken(inputs[1:], out, step, ids)
                return out
            return self._combine(inputs, weights, step, ids)
        local = step[particles.block]
        distinct, which = torch.unique(local, return_inverse=True)
        table = torch.tensor([self._clean_weights(k) for k in distinct.tolist()], dtype=torch.float64)
        return self._combine(inputs, table.reshape(-1, len(inputs))[which], local, ids)

    def _clean_weights(self, step: int) -> tuple[float, ...]:
        transition = self.transitions[step]
        if transition.denoised is None:
            got = f"t = {transition.time:.6g}, where the network does not determine the clean sample"
            raise ArgumentError("grid", got=got, expected="times at which a look ahead is possible")
        return spread(transition.denoised, transition.branches, self.branches)

    def look_ahead(self, particles: Particles, step: Steps, phase: str = "search") -> Tensor:
        """``r(D(x, t))`` of all rows, float64 [R]: what the reward makes of the clean estimates."""
        entries = self._charge(phase, step, particles, rewards=True)
        with self.together(*entries):
            local = step if isinstance(step, int) else step[particles.block]
            values = self._rewards(self.denoised(particles, step), particles, local)
        return self.shard.gather(values, len(particles))

    def score(self, particles: Particles, step: int, phase: str = "finish") -> Tensor:
        """``r(x)`` of all rows of finished samples, float64 [R]; booked under a step."""
        entries = self._charge(phase, step, particles, rewards=True)
        with self.together(*entries):
            values = self._rewards(particles.x, particles, None)
        return self.shard.gather(values, len(particles))

    def _rewards(self, x: Tensor, particles: Particles, step: Steps | None) -> Tensor:
        """The reward of local clean samples."""
        ids = self.ids(particles)
        return self.judge(self.reward, x, particles.request[particles.block], lambda row: self._place(step, ids, row))

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
        request, size = particles.request[particles.block], self.batch or max(len(particles.x), 1)
        with self.together(entry):
            parts = [
                self._with_gradient(particles.x[i : i + size], step, request[i : i + size])
                for i in range(0, len(particles.x), size)
            ]
            if not parts:
                parts = [(particles.x, torch.zeros(0, dtype=torch.float64), *(particles.x for _ in self.branches))]
            gradient, rewards, *outputs = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        particles.outputs, particles.rows["gradient"] = tuple(outputs), gradient
        return self.shard.gather(rewards, len(particles))

    def _with_gradient(self, x: Tensor, step: int, request: Tensor) -> tuple[Tensor, ...]:
        """Gradient, reward and outputs of local rows."""
        transition = self.transitions[step]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            # A node of its own: the network's shares of the gradient are summed before the state's own, padded or not.
            source = leaf.view_as(leaf) if transition.scale == 1 else transition.scale * leaf
            found = self.call(source, transition.time, transition.branches, request)
            if not all(output.requires_grad for output in found):
                got, expected = "an output without a graph", "one that a gradient passes through"
                raise ArgumentError("network", got=got, expected=expected, hint="It runs under no_grad, or detaches")
            outputs = dict(zip(transition.branches, found, strict=True))
            every = [outputs[b] if b in outputs else torch.zeros_like(x) for b in self.branches]
            clean = cast(Tensor, kernels.combine([leaf, *every], list(self._clean_weights(step))))
            context = take_rows(self.context, request, len(self.requests))
            rewards = evaluate_with_graph(self.reward, clean, context, where=f"step {step}")
            (gradient,) = torch.autograd.grad(rewards.sum(), leaf)
        if not bool(gradient.isfinite().all()):
            raise not_finite(
                f"the reward's gradient in step {step} at t = {transition.time:.6g}", step, transition.time
            )
        return gradient, rewards.detach().to("cpu", torch.float64), *(output.detach() for output in every)

    def propose_twisted(self, particles: Particles, step: int, factor: Tensor) -> tuple[Particles, Tensor]:
        r"""One draw of the step's kernel with its mean moved along the gradient, and what corrects for it.

        .. math:: x' = \mu + \Gamma^2 f g + \Gamma \xi, \quad
            \log \frac{p(x')}{q(x')} = -\Gamma f\, g \cdot \xi - \tfrac12 \Gamma^2 f^2 |g|^2

        The ratio is formed from the noise itself: two log densities of an image would cancel to nothing.

        Args:
            particles: With the row "gradient", g.
            step: The sampler's.
            factor: f of every row, float64 [R].

        Returns:
            The new population, and the log ratio of every row, float64 [R].
        """
        k, local = self.transitions[step], factor[particles.block]
        ids, gradient = self.ids(particles), particles.rows["gradient"]
        with self.together():
            shape = (len(ids), *self.shape)
            draws = [
                kernels.normal(shape, seed=self.seed, draw=draw, samples=ids, dtype=self.dtype, device=self.device)
                for draw in k.draws
            ]
            inputs = [particles.x, *particles.outputs, gradient, *draws]
            weights = spread(k.weights, k.branches, self.branches)
            columns = [torch.full_like(local, w) for w in weights] + [k.noise**2 * local]
            columns += [torch.full_like(local, s) for s in k.noises]
            x = cast(Tensor, kernels.combine(inputs, torch.stack(columns, 1)))
            if not bool(x.isfinite().all()):
                raise not_finite(f"the state or the network's output in step {step} at t = {k.time:.6g}", step, k.time)
            wide = gradient.flatten(1).double()
            along = sum(s * (wide * z.flatten(1).double()).sum(1) for s, z in zip(k.noises, draws, strict=True))
            ratio = -local * torch.as_tensor(along).cpu() - 0.5 * (k.noise * local) ** 2 * (wide * wide).sum(1).cpu()
        values, rows = dict(particles.values), {n: row for n, row in particles.rows.items() if n != "gradient"}
        moved = Particles(self.shard, particles.request, particles.slot, x, (), values, rows)
        return moved, self.shard.gather(ratio, len(particles))

    # --- whole runs -------------------------------------------------------------------------------------------------

    def run(self, particles: Particles, plan: Plan, phase: str, *, known: bool = False) -> Particles:
        """Carry all rows through an optimised plan, from its first time to its last.

        Args:
            particles: At ``plan.grid[0]``.
            plan: For instance :attr:`plan`, or one that finishes a search.
            phase: What to book it under.
            known: The plan's first evaluation is the one whose outputs the particles carry.
        """
        count = self._count(particles.request)
        entries = [
            self.ledger.charge(phase, e.step, evaluations=count, passes=count * len(e.labels))
            for e in plan.evaluations[int(known) :]
        ]
        request = particles.request[particles.block]
        with self.together(*entries):
            run = Executor(plan, particles.x, seed=self.seed, samples=self.ids(particles))
            for asked in run:
                if known and asked.index == 0:
                    run.supply([particles.outputs[self.branches.index(branch)] for branch in asked.branches])
                else:
                    run.supply(self.call(asked.input, asked.time, asked.branches, request))
            x = run.result
        values, rows = dict(particles.values), dict(particles.rows)
        return Particles(self.shard, particles.request, particles.slot, x, (), values, rows)

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
        self, phase: str, step: Steps, particles: Particles, *, evaluations: bool = False, rewards: bool = False
    ) -> list[Entry]:
        """Book an evaluation or a reward of every row; the accounts, one for each step that occurs."""
        entries: list[Entry] = []
        for k in [step] if isinstance(step, int) else torch.unique(step).tolist():
            count = self._count(particles.request if isinstance(step, int) else particles.request[step == k])
            passes = count * len(self.transitions[k].branches) if evaluations else None
            bill = {"evaluations": count if evaluations else None, "passes": passes}
            entries.append(self.ledger.charge(phase, k, **bill, rewards=count if rewards else None))
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


def spread(weights: Sequence[float], branches: Sequence[str], all_branches: Sequence[str]) -> tuple[float, ...]:
    """Weights of the state and of the branches that a step has, as those of all branches: 0 for the others."""
    shares = dict(zip(branches, weights[1:], strict=True))
    return (weights[0], *(shares.get(branch, 0.0) for branch in all_branches))


def not_finite(argument: str, step: int, time: float) -> NotFiniteError:
    """The error of a run that went wrong, with its place."""
    error = NotFiniteError(argument, got="NaN or infinity", expected="finite numbers")
    error.step, error.t = step, time
    return error
