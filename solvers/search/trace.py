"""Trace: what a search saw on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..particles.genealogy import Genealogy


@dataclass
class Record:
    """One look of a search at its candidates.

    Attributes:
        phase: "initial", "search" or "finish".
        step, time: Where the candidates are: the step that starts there, and its time in [0, 1].
        finished: Whether the rewards are of finished samples, or of clean estimates on the way.
        nfe: Rows that the network had seen by then, for each request, int64 [S].
        best: Highest reward of finished samples so far, or of estimates while there are none; float64 [S].
        rewards: Rewards of the candidates, float64 [S, N]; NaN where a request had fewer. None where a search of many
            particles does not keep them.
        ess: Effective sample size of weighted particles, float64 [S]; None elsewhere.

    """

    phase: str
    step: int
    time: float
    finished: bool
    nfe: Tensor
    best: Tensor
    rewards: Tensor | None = None
    ess: Tensor | None = None


@dataclass
class Trace:
    """All records of a search, and the ancestry of its particles.

    Attributes:
        keep: Rewards of at most so many candidates of all requests together are kept in a record.
        records: In order of time.
        genealogy: Ancestors step by step, for methods whose particles have any.

    """

    keep: int = 65536
    records: list[Record] = field(default_factory=list)
    genealogy: Genealogy | None = None

    def add(
        self,
        phase: str,
        step: int,
        time: float,
        rewards: Tensor,
        nfe: Tensor,
        *,
        finished: bool = False,
        ess: Tensor | None = None,
    ) -> Record:
        """Note the rewards [S, N] of candidates."""
        best = rewards.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf).amax(1)
        last = self.records[-1] if self.records else None
        if last is not None and last.finished == finished:
            best = torch.maximum(best, last.best)
        kept = rewards.clone() if rewards.numel() <= self.keep else None
        self.records.append(Record(phase, step, time, finished, nfe, best, kept, ess))
        return self.records[-1]
