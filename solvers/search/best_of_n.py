"""Best-of-N: independent samples, of which the best is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..plan import Plan
from ..solver import FixedGridSolver, solver
from .front import Front
from .method import Method, Outcome, State, affordable, at_least, register
from .plans import start_of
from .task import Task


@dataclass(kw_only=True)
class Drawing(State):
    """Candidates so far.

    Attributes:
        candidates: How many there will be for each request; no more than were drawn once the time is up.
        drawn: How many there are.
        front: Of these, those that may be the best.

    """

    candidates: int
    drawn: int = 0
    front: Front


@dataclass(frozen=True)
class IndependentDraws(Method):
    """Base of the methods that draw independent samples in chunks, of which only the best of each request is kept.

    Candidate n is the same for every N, so that the best reward never falls as N grows, unless it is one of ranks.

    Attributes:
        candidates: N; by default as many as the budget pays for.
        chunk: Candidates of each request that are drawn at once; by default such that all requests together have at
            most 256 rows.

    """

    candidates: int | None = None
    chunk: int | None = None

    solver: ClassVar[FixedGridSolver] = solver("euler")
    ranks: ClassVar[bool] = True
    stored: ClassVar[tuple[type, ...]] = (Front,)

    def __post_init__(self) -> None:
        at_least("candidates", self.candidates, 1)
        at_least("chunk", self.chunk, 1)

    def counted(self, task: Task, plan: Plan, fixed: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """Fields of a state before the first candidate; ``fixed`` evaluations and rewards are for other things."""
        n = affordable(task, "candidates", self.candidates, fixed=fixed, each=(plan.nfe, 1), otherwise=2**31)
        return {"candidates": n, "front": Front.empty(len(task.verifiers), len(task.requests))}

    def draw(self, task: Task, state: Drawing, plan: Plan) -> None:
        """The next candidates, samples of ``plan``, of which those stay that may turn out the best."""
        chunk = min(self.chunk or max(1, 256 // len(task.requests)), state.candidates - state.drawn)
        particles = start_of(task, task.start(torch.arange(state.drawn, state.drawn + chunk)), plan)
        particles = task.run(particles, plan, "search")
        verdicts = task.verdicts(particles, plan.steps - 1, "search")
        state.front.add(particles, verdicts.reshape(len(verdicts), -1, chunk))
        scores = task.scores(state.front.verdicts)[:, state.drawn :]
        task.note("search", plan.steps - 1, scores, finished=True)
        state.step += 1
        state.drawn += chunk
        if task.out_of_time:
            state.candidates = state.drawn

    def found(self, task: Task, state: Drawing) -> Outcome:
        """The best of each request."""
        best, score = state.front.best(task)
        return Outcome(best, score[:, None])


@register("best_of_n")
@dataclass(frozen=True)
class BestOfN(IndependentDraws):
    r"""N independent samples of any solver; the one of the highest reward is the result.

    For a continuous reward the law of the winner is at :math:`\log N - (N - 1)/N` nats from the sampler's, whatever the
    reward. Options are those of :class:`IndependentDraws`.

    With a rank ensemble the score is minus the mean rank among all N, and more candidates may put another one first.
    """

    source: ClassVar[str] = "Stiennon et al. 2020, Learning to summarize from human feedback (best-of-N); baseline"

    def begin(self, task: Task) -> Drawing:
        """Count the candidates."""
        return Drawing(**self.counted(task, task.plan))

    def advance(self, task: Task, state: Drawing) -> None:
        """Draw, finish and score a chunk."""
        self.draw(task, state, task.plan)
        state.done = state.drawn == state.candidates

    def outcome(self, task: Task, state: Drawing) -> Outcome:
        """The best of each request."""
        return self.found(task, state)


def best_rows(rewards: Tensor, keep: int = 1) -> Tensor:
    """Rows of the ``keep`` highest rewards of each request, best first, int64 [S keep], of S N rows.

    Of equal ones the first comes first.
    """
    requests, count = rewards.shape
    order = torch.argsort(rewards, dim=1, descending=True, stable=True)[:, :keep]
    return (order + count * torch.arange(requests)[:, None]).reshape(-1)
