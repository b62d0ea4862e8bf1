"""Sequential Monte Carlo: weighted particles of the tilted law, by Feynman-Kac steering, twisting and tempering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, NotFiniteError, UnknownNameError
from ..particles import Genealogy, Particles
from ..particles.ladder import Ladder, next_share, tempered
from ..particles.potentials import Difference, Potential, potential
from ..sde import Diffusion, EulerMaruyama
from ..solver import FixedGridSolver, solver
from .method import Method, Outcome, State, affordable, at_least, register
from .task import Task


@dataclass(kw_only=True)
class Cloud(State):
    """The particles and their weights; ``step`` is where they are on the grid.

    Attributes:
        particles: S N of them. Their values: "level", the log-weight that their potentials have given so far; what the
            potential remembers; and for twisted proposals "correction", the log ratio of kernel and proposal since the
            last look. Their rows: "gradient" of the look-ahead reward, for those.
        rewards: What the last look saw, float64 [S, N]; it is used up by then, and does not follow the particles.
        log_weights: Normalised, float64 [S, N].
        log_evidence: float64 [S].
        ess: Effective sample sizes of the weights, float64 [S].
        share: Of the strength, by the ladder, float64 [S].

    """

    particles: Particles
    rewards: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor
    share: Tensor


@register("smc")
@dataclass(frozen=True)
class SMC(Method):
    r"""Weighted particles of :math:`p^*(x) \propto p(x)\, e^{\lambda r(x)}`, p the law of the solver's samples.

    .. math:: \log w_k = \log w_{k-1} + L_k - L_{k-1} + \log \frac{p(x_k | x_{k-1})}{q(x_k | x_{k-1})}, \quad
        \log \hat Z = \sum_k \log \sum_i \bar w_{k-1}^{(i)} G_k^{(i)}

    with L of the :class:`..particles.potentials.Potential`, resampled where the effective sample size falls below
    ``threshold`` N. Weights are carried where it does not: :math:`\hat Z` is an unbiased estimate of
    :math:`E[e^{\lambda r(x_K)}]` under the solver, for every potential, scheme, threshold and proposal. The reward of a
    finished sample is that of the sample itself. A look ahead of -inf is final: whatever the sample would become, its
    weight is 0.

    Attributes:
        particles: N; by default as many as the budget pays for.
        strength: lambda, above 0.
        potential: "difference", "max", "sum", "current", or a :class:`..particles.potentials.Potential`.
        scheme: One of :data:`pushforward.kernels.RESAMPLING_SCHEMES`.
        threshold: Of the effective sample size, in [0, 1]; 0 never resamples, 1 always does.
        resample_at: Steps at which particles are weighted and may be resampled; None: all.
        ladder: Tempering: None, "exponential", "polynomial", "adaptive", or K + 1 shares. Needs the potential
            "difference". The adaptive share is the largest that keeps the effective sample size at ``threshold`` N;
            particles are resampled whenever it stops short of 1. It makes the evidence slightly biased, and holds back
            nothing while all clean estimates are alike, as they are where a run starts from pure noise.
        twist: Factor tau of the gradient in the proposal, :math:`\mu + \Gamma^2 \tau \nabla_x \beta \lambda r(D)`; 0
            is the solver's own step. Needs a differentiable reward and a solver whose steps are Gaussian kernels, and
            counts a backward pass for each evaluation.

    """

    particles: int | None = None
    strength: float = 1.0
    potential: str | Potential = "difference"
    scheme: str = "systematic"
    threshold: float = 0.5
    resample_at: tuple[int, ...] | None = None
    ladder: str | Sequence[float] | Ladder | None = None
    twist: float = 0.0

    source: ClassVar[str] = "Singhal et al. 2025, Feynman-Kac steering of diffusion models, algorithm 1"
    solver: ClassVar[FixedGridSolver] = EulerMaruyama(Diffusion("square", 4.5))
    steps: ClassVar[int] = 20
    interruptible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least("particles", self.particles, 1)
        object.__setattr__(self, "potential", potential(self.potential))
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise ArgumentError("strength", got=self.strength, expected="a finite number above 0")
        if self.scheme not in kernels.RESAMPLING_SCHEMES:
            expected = f"one of {', '.join(kernels.RESAMPLING_SCHEMES)}"
            raise UnknownNameError("scheme", got=repr(self.scheme), expected=expected)
        if not 0 <= self.threshold <= 1:
            raise ArgumentError("threshold", got=self.threshold, expected="a number in [0, 1]")
        if not (math.isfinite(self.twist) and self.twist >= 0):
            raise ArgumentError("twist", got=self.twist, expected="a finite number, at least 0")
        if self.resample_at is not None:
            object.__setattr__(self, "resample_at", tuple(self.resample_at))
            for step in self.resample_at:
                at_least("resample_at", step, 0)
        if self.adaptive and not 0 < self.threshold < 1:
            raise ArgumentError("threshold", got=self.threshold, expected="a number in (0, 1) with an adaptive ladder")
        if (self.ladder is not None or self.twist) and self.potential != Difference():
            raise ArgumentError("potential", got=self.potential, expected="'difference', with a ladder or a twist")

    def begin(self, task: Task) -> Cloud:
        """Draw the particles, and look ahead."""
        steps, requests = len(task.transitions), len(task.requests)
        if not self.adaptive:
            Ladder.of(self.ladder, steps)
        if self.resample_at is not None and max(self.resample_at, default=0) >= steps:
            raise ArgumentError("resample_at", got=self.resample_at, expected=f"steps in [0, {steps})")
        if self.twist:
            task.transitions.gaussian("a twisted proposal")
        looks = [bool(self.twist) or self.looks(step) for step in range(steps)]
        evaluations = sum(k.evaluated(look) + len(k.calls) for k, look in zip(task.transitions, looks, strict=True))
        n = affordable(task, "particles", self.particles, each=(evaluations, 1 + sum(looks)))
        particles = task.start(torch.arange(n))
        carried = {"level": 0.0, **self._potential.carried}
        for name, value in (carried | {"correction": 0.0} if self.twist else carried).items():
            particles.values[name] = torch.full((requests * n,), value, dtype=torch.float64)
        task.trace.genealogy = Genealogy(requests, n)
        zeros = torch.zeros(requests, dtype=torch.float64)
        ess = torch.full_like(zeros, n)
        nothing = torch.empty(0, dtype=torch.float64)
        state = Cloud(
            particles=particles,
            rewards=nothing,
            log_weights=uniform(requests, n),
            log_evidence=zeros,
            ess=ess,
            share=zeros,
        )
        self.look(task, state, "initial")
        return state

    def advance(self, task: Task, state: Cloud) -> None:
        """Resample if need be, propose, evaluate; at the end score the samples and close the product of weights."""
        step, last = state.step, len(task.transitions) - 1
        self.propose(task, state, self.resample(task, state) if self.looks(step) else None)
        state.step += 1
        if step < last:
            self.look(task, state, "search")
            return
        state.rewards = self.table(state, task.score(state.particles, last))
        state.share = torch.ones_like(state.share)
        self.weigh(task, state, self.strength * state.rewards)
        state.done = True

    def outcome(self, task: Task, state: Cloud) -> Outcome:
        """All particles, with their weights."""
        return Outcome(state.particles, state.rewards, None, state.log_weights, state.log_evidence)

    # --- the parts --------------------------------------------------------------------------------------------------

    @property
    def _potential(self) -> Potential:
        return potential(self.potential)

    @property
    def adaptive(self) -> bool:
        """Whether the ladder follows the effective sample size."""
        return isinstance(self.ladder, str) and self.ladder == "adaptive"

    def looks(self, step: int) -> bool:
        """Whether particles are weighted at this step."""
        return self.resample_at is None or step in self.resample_at

    def table(self, state: Cloud, name: str | Tensor) -> Tensor:
        """A value of the particles, or numbers [R], as [S, N]."""
        value = state.particles.values[name] if isinstance(name, str) else name
        return value.reshape(state.log_weights.shape)

    def look(self, task: Task, state: Cloud, phase: str) -> None:
        """Evaluate the particles, and weigh them by what their clean estimates promise."""
        step, particles = state.step, state.particles
        if self.twist:
            reward = task.look_ahead_with_gradient(particles, step, phase)
        else:
            task.evaluate(particles, step, phase, look=self.looks(step))
            reward = task.look_ahead(particles, step, phase) if self.looks(step) else None
        if reward is None or not self.looks(step):
            return
        state.rewards = self.table(state, reward)
        scaled = self.strength * state.rewards
        if self.adaptive:
            wanted = self.threshold * state.log_weights.shape[1]
            state.share = next_share(self.pending(state), self.table(state, "level"), scaled, state.share, wanted)
        elif self.ladder is not None:
            share = Ladder.of(self.ladder, len(task.transitions)).shares[step]
            state.share = torch.full_like(state.share, share)
        if self.ladder is not None:
            scaled = tempered(scaled, state.share)
        carried = {name: self.table(state, name) for name in (*self._potential.carried, "level")}
        level, remembered = self._potential.level(scaled, carried)
        for name, value in remembered.items():
            particles.values[name] = value.reshape(-1)
        self.weigh(task, state, level)

    def pending(self, state: Cloud) -> Tensor:
        """Log-weights [S, N] with what corrects for the proposals since the last look."""
        return state.log_weights + self.table(state, "correction") if self.twist else state.log_weights

    def weigh(self, task: Task, state: Cloud, level: Tensor) -> None:
        """Raise the particles' log-weight to the level [S, N], and normalise the weights into the evidence."""
        values, correction = state.particles.values, self.table(state, "correction") if self.twist else None
        try:
            new = kernels.reweigh(state.log_weights, level, self.table(state, "level"), correction)
        except NotFiniteError as error:
            got, hint = str(error.got).replace("in row", "in request"), "The reward is -inf or very large"
            told = NotFiniteError(f"log-weights at step {state.step}", got=got, expected=error.expected, hint=hint)
            told.step = state.step
            raise told from error
        values["level"] = level.reshape(-1)
        if self.twist:
            values["correction"] = torch.zeros_like(values["correction"])
        state.log_weights, state.ess = new.log_weights, new.ess
        state.log_evidence = state.log_evidence + new.log_sum
        finished = state.step == len(task.transitions)
        phase = "finish" if finished else "search" if state.step else "initial"
        task.note(phase, state.step, state.rewards, finished=finished, ess=state.ess)

    def due(self, state: Cloud) -> Tensor:
        """Which requests are to be resampled, bool [S]."""
        if self.threshold == 1:
            return torch.ones_like(state.ess, dtype=torch.bool)
        wanted = self.threshold * state.log_weights.shape[1]
        return (state.ess < wanted) | (state.share < 1) if self.adaptive else state.ess < wanted

    def resample(self, task: Task, state: Cloud) -> Tensor | None:
        """Resample the requests that are due: ancestors [S, N], and uniform weights; None if no request is."""
        due = self.due(state).nonzero()[:, 0]
        if len(due) == 0:
            return None
        requests, n = state.log_weights.shape
        draw = kernels.Draw(kernels.PURPOSE_RESAMPLING, state.step)
        drawn = kernels.resample(
            state.log_weights if len(due) == requests else state.log_weights[due],
            self.scheme,
            seed=task.seed,
            draw=draw,
            samples=task.requests[due],
        ).ancestors
        ancestors = kernels.keep_in_place(drawn)
        if len(due) < requests:
            ancestors = torch.arange(n).repeat(requests, 1).index_copy_(0, due, ancestors)
        if len(due) == requests:
            state.log_weights = uniform(requests, n)
        else:
            state.log_weights = state.log_weights.index_fill(0, due, -math.log(n))
        state.ess = state.ess.index_fill(0, due, n)
        state.particles = state.particles.descend(ancestors)
        return ancestors

    def propose(self, task: Task, state: Cloud, ancestors: Tensor | None) -> None:
        """Draw the next states, by the solver's kernel or the twisted one."""
        if task.trace.genealogy is not None:
            task.trace.genealogy.record(state.step, ancestors)
        if not self.twist:
            state.particles = task.propose(state.particles, state.step)
            return
        ahead = state.share
        if not self.adaptive:
            ahead = torch.full_like(ahead, Ladder.of(self.ladder, len(task.transitions)).shares[state.step + 1])
        factor = (self.twist * self.strength * ahead).repeat_interleave(state.log_weights.shape[1])
        state.particles, correction = task.propose_twisted(state.particles, state.step, factor)
        state.particles.values["correction"] = state.particles.values["correction"] + correction


def uniform(requests: int, particles: int) -> Tensor:
    """Equal log-weights, [S, N], of one number a request."""
    return torch.full((requests, 1), -math.log(particles), dtype=torch.float64).expand(-1, particles)


@register("tds")
@dataclass(frozen=True)
class TDS(SMC):
    """Twisted diffusion sampler: proposals that follow the gradient of the reward, corrected exactly by weights.

    Options are those of :class:`SMC`; resampled at every step, with the ancestral kernel by default.
    """

    threshold: float = 1.0
    twist: float = 1.0

    source: ClassVar[str] = "Wu et al. 2023, Practical and asymptotically exact conditional sampling (TDS)"
    solver: ClassVar[FixedGridSolver] = solver("ddpm")


@register("das")
@dataclass(frozen=True)
class DAS(SMC):
    """Diffusion alignment as sampling: twisted proposals, tempered, so that rewards are not over-optimised.

    Options are those of :class:`SMC`.
    """

    scheme: str = "ssp"
    ladder: Any = "exponential"
    twist: float = 1.0

    source: ClassVar[str] = "Kim, Kim & Park 2025, Test-time alignment without reward over-optimization (DAS)"
    solver: ClassVar[FixedGridSolver] = solver("ddpm")
