"""SearchResult: what a search returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .budget import Ledger
from .trace import Trace


@dataclass(frozen=True)
class SearchResult:
    """The best samples of every request, and how they were found.

    Attributes:
        method, solver: Their names, with options.
        samples: The best ``keep`` finished samples of each request, best first, [S, keep, *D].
        rewards: Rewards of all finished samples that the method kept, [S, N], float64; measured on the samples
            themselves.
        best: Reward of the best, [S]: that of ``samples[:, 0]``.
        order: Which of the N samples ``samples`` are, int64 [S, keep].
        look_ahead: What the search saw of the N samples, [S, N]: rewards of their last clean estimates, or of the same
            noises in fewer steps. None where it saw the samples themselves.
        held_out: What the held-out verifier says of ``samples``, [S, keep], or None. Report this one: a search that has
            found what its verifier likes too much shows here.
        log_weights: Normalised, [S, N]; or None.
        log_evidence: Estimate of log E[exp(strength r)], [S]; or None.
        ledger: What it cost.
        trace: What it saw on the way.

    """

    method: str
    solver: str
    samples: Tensor
    rewards: Tensor
    best: Tensor
    order: Tensor
    look_ahead: Tensor | None
    held_out: Tensor | None
    log_weights: Tensor | None
    log_evidence: Tensor | None
    ledger: Ledger
    trace: Trace

    @property
    def x(self) -> Tensor:
        """The best sample of each request, [S, *D]."""
        return self.samples[:, 0]

    def __str__(self) -> str:
        spent = self.ledger.nfe
        used = f"{spent.max()} NFE" if (spent == spent.max()).all() else f"{spent.min()} to {spent.max()} NFE"
        best = ", ".join(f"{value:.4g}" for value in self.best[:4].tolist()) + (" ..." if len(self.best) > 4 else "")
        return f"{self.method} with {self.solver}: {used} a request, best reward {best}"
