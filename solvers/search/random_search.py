"""Random search over noise: many cheap samples, of which the winner's noise is sampled again in more steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..particles import Particles
from .best_of_n import Drawing, IndependentDraws
from .method import Outcome, at_least, register
from .regenerate import regenerate, regeneration_cost, search_plan
from .task import Task


@dataclass(kw_only=True)
class Searching(Drawing):
    """Candidates so far, and what became of the winners.

    Attributes:
        final: The winners' noises sampled again; None before, and without regeneration.
        final_rewards: Their rewards, float64 [S, 1].

    """

    final: Particles | None = None
    final_rewards: Tensor | None = None


@register("random")
@dataclass(frozen=True)
class RandomSearch(IndependentDraws):
    """Best of N in few steps each; the winner's noise is then sampled in many.

    Costs N K_s + K_f evaluations with a solver of one a step. With ``final_steps`` the reward that counts is that of
    the second sample, and ``look_ahead`` of the result is the one that the search saw. The first never falls as N
    grows; the second may, as far as the rewards of few steps and of many disagree. A rank ensemble scores the second
    sample in the place of the first, among the candidates of the search.

    Attributes:
        candidates, chunk: As in :class:`BestOfN`: N, and how many are drawn at once.
        search_steps: K_s, steps of a candidate; by default those of the search.
        final_steps: K_f, steps of the winner's second sample; by default there is none, and this is best of N.

    """

    search_steps: int | None = None
    final_steps: int | None = None

    source: ClassVar[str] = "Ma et al. 2025, Inference-time scaling for diffusion models: random search"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("search_steps", self.search_steps, 1)
        at_least("final_steps", self.final_steps, 1)

    def begin(self, task: Task) -> Searching:
        """Set the second sample's evaluations aside, and count the candidates."""
        return Searching(**self.counted(task, search_plan(task, self), regeneration_cost(task, self)))

    def advance(self, task: Task, state: Searching) -> None:
        """Draw, finish and score a chunk; after the last, sample the winners again."""
        if state.drawn < state.candidates:
            self.draw(task, state, search_plan(task, self))
            state.done = state.drawn == state.candidates and self.final_steps is None
            return
        best, _ = state.front.best(task)
        noise = task.start(best.slot.reshape(-1, 1))
        state.final, state.final_rewards = regenerate(task, noise, self, state.front)
        state.step += 1
        state.done = True

    def outcome(self, task: Task, state: Searching) -> Outcome:
        """The best of each request."""
        found = self.found(task, state)
        if state.final is None or state.final_rewards is None:
            return found
        return Outcome(state.final, state.final_rewards, look_ahead=found.rewards)
