"""How many tokens go through the network at each evaluation of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ArgumentError
from ..branch_weights import finite


@dataclass(frozen=True)
class RegionSchedule:
    r"""Dense evaluations first and at resets, a share of the tokens at the others.

    .. math:: s_k = (1 - r) N + c N \left(\lfloor k / L \rfloor - \lfloor \lfloor (K + k_0) / L \rfloor / 2 \rfloor
        \right), \quad n_k = N - m \lfloor s_k / m \rfloor

    for evaluation k of K, with N tokens, ratio r, slope c in blocks of L evaluations, warm-up :math:`k_0`, and counts
    skipped in multiples of m. Of 4096 tokens the published numbers are c = 1/16 (256 tokens), L = 4, m = 64: few are
    skipped early, many late, and half of them on average.

    A second stage or a repeated step is no evaluation of its own here: what counts is that the time advances.

    Args:
        ratio: Share of active tokens in partial evaluations, in (0, 1]; 1 is the plain model, bit for bit.
        warmup: How many evaluations are dense at the start; at least 1, since there is nothing to keep before.
        resets: Further dense ones, counted from 0: errors of kept tokens end there.
        slope: Change of the skipped share, from a block to the next.
        block: Evaluations of a block.
        evaluations: How many evaluations the run has; needed for a slope.
        multiple: Counts of skipped tokens are rounded down to a multiple of this.

    Raises:
        ArgumentError: A ratio outside (0, 1]; a reset inside the warm-up; a slope without the number of evaluations.

    Source:
        Liu et al. 2025, Region-Adaptive Sampling for Diffusion Transformers: 28 steps of SD3 with four dense ones and
        resets at 12 and 20.

    Example:
        >>> RegionSchedule(0.5, warmup=2, resets=(4,)).counts(6, tokens=8)
        [8, 8, 4, 4, 8, 4]
        >>> late = RegionSchedule(0.5, slope=1 / 16, block=4, multiple=64, evaluations=30, resets=())
        >>> [4096 - late.count(k, 4096) for k in (4, 29)]
        [1280, 2816]
    """

    ratio: float = 0.5
    warmup: int = 4
    resets: Sequence[int] = ()
    slope: float = 0.0
    block: int = 4
    evaluations: int | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 0 < finite(self.ratio, "ratio") <= 1:
            raise ArgumentError("ratio", got=self.ratio, expected="a share of the tokens in (0, 1]")
        for name in ("warmup", "block", "multiple"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(name, got=value, expected="an integer of at least 1")
        object.__setattr__(self, "resets", tuple(self.resets))
        for reset in self.resets:
            if reset < self.warmup:
                expected = f"evaluations from {self.warmup} on: those of the warm-up are dense already"
                raise ArgumentError("resets", got=reset, expected=expected)
        if finite(self.slope, "slope") and self.evaluations is None:
            raise ArgumentError("evaluations", got=None, expected="their number, which a slope is counted from")

    def count(self, evaluation: int, tokens: int) -> int:
        """Active tokens of one evaluation, in [1, tokens]; those after the last one are as the last.

        Args:
            evaluation: Counted from 0.
            tokens: How many there are.
        """
        if evaluation < self.warmup or evaluation in self.resets or self.ratio == 1:
            return tokens
        skipped = (1 - self.ratio) * tokens
        if self.slope and self.evaluations is not None:
            middle = (self.evaluations + self.warmup) // self.block // 2
            skipped += self.slope * tokens * (min(evaluation, self.evaluations - 1) // self.block - middle)
        whole = int(skipped + 1e-9) // self.multiple * self.multiple  # 0.3 * 10 is 3 - 4e-16
        return min(tokens, max(1, tokens - max(0, whole)))

    def counts(self, evaluations: int, tokens: int) -> list[int]:
        """:meth:`count` of each evaluation of a run."""
        return [self.count(k, tokens) for k in range(evaluations)]

    def average(self, evaluations: int, tokens: int) -> float:
        """Share of the tokens that are active over a whole run, dense evaluations included.

        Example:
            >>> RegionSchedule(0.5, warmup=4, resets=(12, 20)).average(28, 4096)
            0.6071428571428571
        """
        return sum(self.counts(evaluations, tokens)) / (evaluations * tokens)
