"""SVDD and CoDe: at every step, or every few, the best of several continuations of each chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError
from ..particles import Particles
from ..particles.population import SLOTS
from ..particles.shard import ids_of
from .finish import check_searchable, finish_cost, finish_plan
from .method import Method, Outcome, State, affordable, at_least, register
from .task import Task

CANDIDATES = 2**20  # a chain's candidates have slots chain * 2^20 + candidate, the same however many there are
CHAINS = SLOTS // CANDIDATES


@dataclass(kw_only=True)
class Chains(State):
    """Where the chains are.

    Attributes:
        candidates: M, continuations of each chain.
        particles: The chains, S C of them; within a block, M copies of each, or one where it began without noise.
            ``step`` counts the steps that they made.
        within: Whether they are in a block.
        look: Rewards of the chains' last clean estimates, float64 [S C]; None before the first choice among those.
        values: Rewards of the finished chains, float64 [S C]; None until they are.

    """

    candidates: int
    particles: Particles
    within: bool
    look: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Blockwise(Method):
    r"""Chains that branch into M continuations, look at their rewards after a block of steps, and go on with one.

    A continuation m of chain c is weighed by :math:`r(D(x^{(m)}, t))`, and chosen with probability proportional to
    :math:`e^{r / \beta}`; for beta = 0 it is the best one. After the last block the finished sample is scored instead.
    What the network returned for the chosen one is used again. The sample of a chain does not depend on the others,
    and candidate m is the same for every M. Where the reward forbids all of them (-inf), the first goes on. When the
    time is up, so does the first, without a look.

    Attributes:
        chains: C independent chains of each request, at most 4096.
        candidates: M, at most 2^20; by default as many as the budget pays for.
        block: Steps between choices.
        beta: Temperature of the choice, at least 0; infinite chooses blindly.
        start: Whether the candidates of the first block start from one noise ("shared") or each from its own
            ("independent").
        finish: Evaluations of the flow, without noise, that carry the chains from the last time of the grid but one to
            the data, in the place of the solver's last step. 0 keeps that step.
        finish_solver: Which solver makes them.

    """

    chains: int = 2
    candidates: int | None = None
    block: int = 1
    beta: float = 0.0
    start: Literal["shared", "independent"] = "shared"
    finish: int = 0
    finish_solver: str = "ddim"

    def __post_init__(self) -> None:
        at_least("chains", self.chains, 1, most=CHAINS)
        at_least("candidates", self.candidates, 1, most=CANDIDATES)
        at_least("block", self.block, 1)
        at_least("finish", self.finish, 0)
        if not self.beta >= 0:
            raise ArgumentError("beta", got=self.beta, expected="a number, at least 0")
        if self.start not in ("shared", "independent"):
            raise ArgumentError("start", got=repr(self.start), expected="'shared' or 'independent'")

    def begin(self, task: Task) -> Chains:
        """Draw the chains' noises and evaluate them."""
        steps, shared = len(task.transitions), self.start == "shared"
        if steps < 2 and self.finish:
            raise ArgumentError("steps", got=steps, expected="at least 2: the finish replaces the last")
        if self.block > steps:
            raise ArgumentError("block", got=self.block, expected=f"at most the {steps} steps")
        fixed, each = self.cost(task)
        if self.candidates != 1:
            check_searchable(task)
            if each == (0, 0) and steps > 1:
                got = f"{self.block}, with {task.transitions.solver}, which draws no noise where a block begins"
                raise ArgumentError("block", got=got, expected="blocks that begin with a step that draws noise")
        m = min(affordable(task, "candidates", self.candidates, fixed=fixed, each=each), CANDIDATES)
        origins = torch.arange(self.chains) * CANDIDATES
        slots = origins if shared else (origins[:, None] + torch.arange(m)).reshape(-1)
        particles = task.evaluate(task.start(slots), 0, "initial", look=False)
        return Chains(candidates=m, particles=particles, within=not shared)

    def cost(self, task: Task) -> tuple[tuple[int, int], tuple[int, int]]:
        """Evaluations and rewards of each request: fixed, and for each candidate of the chains."""
        steps, last = task.transitions, len(task.transitions) - 1
        within = branched = self.start == "independent"
        paid = {False: [0, 0], True: [0, 0]}  # by a chain while it is one, and by each of its candidates
        paid[branched][0] += steps[0].evaluated(False)
        for step, k in enumerate(steps):
            if self.finish and step == last:
                paid[False][0] += finish_cost(task, self)
                paid[False][1] += 1
                break
            branched = branched if within else k.stochastic
            closed = self.closes(step, last)
            here = 0 if step == last else steps[step + 1].evaluated(closed)
            paid[branched][0] += len(k.calls) + here
            paid[branched][1] += closed
            within = not closed
        fixed, each = ((self.chains * evaluations, self.chains * rewards) for evaluations, rewards in paid.values())
        return fixed, each

    def closes(self, step: int, last: int) -> bool:
        """Whether a block ends with this step: there is a choice, at the samples or by a look ahead."""
        return step == last or (step + 1) % self.block == 0 or (bool(self.finish) and step + 1 == last)

    def advance(self, task: Task, state: Chains) -> None:
        """One step of all continuations; at the end of a block, a choice."""
        step, last = state.step, len(task.transitions) - 1
        if self.finish and step == last:
            state.particles = task.run(state.particles, finish_plan(task, self), "finish", known=True)
            state.values = task.score(state.particles, last)
            task.note("finish", last, state.values, finished=True)
            state.done = True
            return
        hurry, ends = task.out_of_time, step == last
        closed, finishes = self.closes(step, last), self.finish > 0 and step + 1 == last
        copies = task.propose(self.copies(task, state, hurry), step)
        if not ends:
            copies = task.evaluate(copies, step + 1, look=finishes or (closed and not hurry))
        state.step += 1
        if ends or (closed and not hurry):
            values = task.score(copies, last, "search") if ends else task.look_ahead(copies, step + 1)
            task.note("search", min(step + 1, last), values, finished=ends)
            chosen = choose(task, values.reshape(len(task.requests) * self.chains, -1), self.beta, step, copies)
            copies = copies.take(chosen, copies.slot[chosen] // CANDIDATES * CANDIDATES)
            if ends:
                state.values = values[chosen]
            else:
                state.look = values[chosen]
        state.particles, state.within, state.done = copies, not (closed or hurry), ends

    def copies(self, task: Task, state: Chains, hurry: bool) -> Particles:
        """The continuations that make the next step: one of a chain without noise ahead, or when the time is up."""
        particles, m = state.particles, state.candidates
        if not state.within:
            alone = hurry or not task.transitions[state.step].stochastic
            return branch(particles, 1 if alone else m)
        if not hurry:
            return particles
        first = torch.arange(0, len(particles), len(particles) // (len(task.requests) * self.chains))
        return particles.take(first, particles.slot[first])

    def outcome(self, task: Task, state: Chains) -> Outcome:
        """The chains."""
        assert state.values is not None, "the last step scores"
        shape = (len(task.requests), self.chains)
        look = None if state.look is None else state.look.reshape(shape)
        return Outcome(state.particles, state.values.reshape(shape), look)


@register("svdd")
@dataclass(frozen=True)
class SVDD(Blockwise):
    """Soft value-based decoding, derivative-free: a choice among M continuations at every step.

    The value of a continuation is the reward of its clean estimate. Options are those of :class:`Blockwise`.
    """

    source: ClassVar[str] = "Li et al. 2024, Derivative-free guidance with soft value-based decoding (SVDD-PM)"


@register("code")
@dataclass(frozen=True)
class CoDe(Blockwise):
    """Blockwise best-of-N: M independent copies for a few steps, of which the best is replicated.

    A block of one step is SVDD, one block for all steps best-of-M. Options are those of :class:`Blockwise`.
    """

    block: int = 2
    start: Literal["shared", "independent"] = "independent"

    source: ClassVar[str] = "Singh et al. 2025, CoDe: blockwise control for denoising diffusion models"


def branch(chains: Particles, candidates: int) -> Particles:
    """``candidates`` copies of every chain, each with a slot of its own."""
    sources = torch.arange(len(chains)).repeat_interleave(candidates)
    return chains.take(sources, chains.slot[sources] + torch.arange(candidates).repeat(len(chains)))


def choose(task: Task, table: Tensor, beta: float, step: int, copies: Particles) -> Tensor:
    r"""Rows chosen, one for each chain [R, M]: the best, or a draw from :math:`e^{r / \beta}`; of equals the first.

    The draw is the largest of :math:`r_m + \beta g_m` with Gumbel variates g keyed by chain and step, which needs no
    exponential: a small beta does not overflow, and candidates that are added do not change the others' variates.
    """
    candidates = table.shape[1]
    offset = candidates * torch.arange(len(table))
    if beta > 0 and candidates > 1:
        keys = ids_of(task.requests, copies.request[offset], copies.slot[offset])
        draw = kernels.Draw(kernels.PURPOSE_CATEGORICAL, step)
        u = kernels.uniform((len(table), candidates), seed=task.seed, draw=draw, samples=keys, dtype=torch.float64)
        told = table / max(beta, 1.0) if math.isfinite(beta) else torch.zeros_like(table)
        table = told - min(beta, 1.0) * (-u.log()).log()
    return table.argmax(1) + offset
