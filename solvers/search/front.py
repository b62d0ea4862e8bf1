"""Front: of all candidates so far, those that may still turn out the best, whatever comes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..particles import Particles
from .task import Task

PIECE = 256  # candidates that are compared with all at once


@dataclass
class Front:
    r"""Candidates of each request, in the order in which they came, of which only the undominated are kept.

    One verifier's best is known at once. Several that vote by ranks are another matter: more candidates change the
    ranks of those there are, and may put another one first. But never one that some other equals in everything and
    beats in something, since that has the lower ranks in any set: only the Pareto front is kept. With one verifier it
    is the first of the highest.

    Attributes:
        verdicts: What each verifier says of all candidates so far, float64 [V, S, n].
        numbers: Which of them are kept, int64 [S, F]; a request that keeps fewer has its first again in their places.
        kept: These, S F samples with their numbers as slots; None before there are any.

    """

    verdicts: Tensor
    numbers: Tensor
    kept: Particles | None = None

    @classmethod
    def empty(cls, verifiers: int, requests: int) -> Front:
        """Before the first candidate."""
        verdicts = torch.empty(verifiers, requests, 0, dtype=torch.float64)
        return cls(verdicts, torch.empty(requests, 0, dtype=torch.int64))

    def add(self, found: Particles, verdicts: Tensor) -> None:
        """More candidates, as many for each request.

        Args:
            found: S N finished samples.
            verdicts: [V, S, N].
        """
        _, requests, old = self.verdicts.shape
        more, before = verdicts.shape[2], self.numbers.shape[1]
        self.verdicts = torch.cat([self.verdicts, verdicts], 2)
        union = torch.cat([self.numbers, torch.arange(old, old + more).expand(requests, -1)], 1)
        alive = undominated(self.verdicts.gather(2, union.expand(len(verdicts), -1, -1)))
        place = torch.argsort(~alive, dim=1, stable=True)[:, : int(alive.sum(1).max())]
        place = torch.where(alive.gather(1, place), place, place[:, :1])
        self.numbers, fresh = union.gather(1, place), place >= before
        each, slots = torch.arange(requests)[:, None], self.numbers.reshape(-1)
        new = found.take((each * more + (place - before).clamp(min=0)).reshape(-1), slots)
        if self.kept is None:
            self.kept = new
        else:
            kept = self.kept.take((each * before + place.clamp(max=before - 1)).reshape(-1), slots)
            self.kept = kept.where(fresh.reshape(-1), new)

    def best(self, task: Task) -> tuple[Particles, Tensor]:
        """The best candidate of each request, S of them, and their scores among all, float64 [S]; of equals the first.

        The scores are what the task makes of the verdicts.
        """
        assert self.kept is not None, "there are candidates"
        score, winner = task.scores(self.verdicts).max(1)
        place = (self.numbers == winner[:, None]).int().argmax(1)
        rows = torch.arange(len(winner)) * self.numbers.shape[1] + place
        return self.kept.take(rows, winner), score

    def rescored(self, task: Task, verdicts: Tensor) -> Tensor:
        """Scores [S, 1] of other samples [V, S, 1] in the places of the best ones, among all the rest."""
        winner = task.scores(self.verdicts).argmax(1)
        each, replaced = torch.arange(len(winner)), self.verdicts.clone()
        replaced[:, each, winner] = verdicts[..., 0]
        return task.scores(replaced)[each, winner][:, None]


def undominated(verdicts: Tensor) -> Tensor:
    """Which candidates of each set no other beats: it is nowhere lower and somewhere higher, or equal and earlier.

    Args:
        verdicts: [V, S, N].

    Returns:
        bool [S, N].

    Example:
        >>> undominated(torch.tensor([[[1.0, 2.0, 2.0, 0.0]], [[3.0, 1.0, 1.0, 2.0]]]))
        tensor([[ True,  True, False, False]])
    """
    verifiers, requests, count = verdicts.shape
    if verifiers == 1:
        best = verdicts[0].argmax(1, keepdim=True)
        return torch.zeros(requests, count, dtype=torch.bool).scatter(1, best, torch.ones_like(best, dtype=torch.bool))
    alive, numbers = [], torch.arange(count)
    for i in range(0, count, PIECE):
        this, other = verdicts[:, :, i : i + PIECE, None], verdicts[:, :, None, :]
        earlier = numbers < numbers[i : i + PIECE, None]
        alive.append(~((other >= this).all(0) & ((other > this).any(0) | earlier)).any(2))
    return torch.cat(alive, 1)
