"""Stages of adaptive classification: how many pairs to look at, and how many candidates to keep after them."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from ...errors import ArgumentError


@dataclass(frozen=True)
class Stages:
    r"""After ``pairs[s]`` pairs of a time and a noise in all, the ``keep[s]`` best candidates stay.

    A stage looks at the pairs that its candidates have not seen, so that C candidates cost

    .. math:: \sum_s K_{s-1} (n_s - n_{s-1}), \quad n_0 = 0, \; K_0 = C

    evaluations an image.

    Args:
        pairs: :math:`n_s`, rising from at least 1.
        keep: :math:`K_s`, falling to at least 1.

    Raises:
        ArgumentError: No stage, numbers of both that differ, or a stage out of order; names the stage.

    Source:
        Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, section 4 and appendix.

    Example:
        >>> stages = Stages((50, 100, 500, 1000), (500, 50, 10, 1))
        >>> stages.evaluations(1000), stages.without_pruning.evaluations(1000)
        (100000, 1000000)
    """

    pairs: tuple[int, ...]
    keep: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("pairs", "keep"):
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        if not self.pairs or len(self.pairs) != len(self.keep):
            got = f"{len(self.pairs)} numbers of pairs and {len(self.keep)} of candidates"
            raise ArgumentError("stages", got=got, expected="one of each for every stage, and a stage")
        before, left = 0, None
        for stage, (seen, kept) in enumerate(zip(self.pairs, self.keep, strict=True), start=1):
            if seen <= before:
                expected = f"more than {before}: the number of pairs rises"
                raise ArgumentError(f"pairs of stage {stage}", got=seen, expected=expected)
            if kept < 1 or (left is not None and kept >= left):
                expected = "at least 1" if left is None else f"at least 1 and fewer than {left}: candidates are dropped"
                raise ArgumentError(f"keep of stage {stage}", got=kept, expected=expected)
            before, left = seen, kept

    @property
    def without_pruning(self) -> Stages:
        """All pairs for all candidates."""
        return Stages(self.pairs[-1:], (1,))

    def evaluations(self, candidates: int) -> int:
        """Network evaluations an image with so many candidates.

        Raises:
            ArgumentError: Fewer than two candidates, or no more than the first stage keeps.
        """
        if candidates < 2:
            raise ArgumentError("candidates", got=candidates, expected="at least 2: one needs no classifier")
        if self.keep[0] >= candidates > 1 and self.keep[0] > 1:
            raise ArgumentError("keep of stage 1", got=self.keep[0], expected=f"fewer than the {candidates} candidates")
        new = (n - m for n, m in zip(self.pairs, (0, *self.pairs), strict=False))
        return sum(count * left for count, left in zip(new, (candidates, *self.keep), strict=False))


def as_stages(stages: Stages | int | Iterable[tuple[int, int]]) -> Stages:
    """Stages from themselves, from a number of pairs for every candidate, or from (pairs, keep) of each stage."""
    if isinstance(stages, Stages):
        return stages
    if isinstance(stages, numbers.Integral):
        return Stages((int(stages),), (1,))
    try:
        rows = [(n, k) for n, k in cast(Iterable[tuple[int, int]], stages)]
    except (TypeError, ValueError) as error:
        expected = "Stages, a number of pairs, or (pairs, keep) for each stage"
        raise ArgumentError("stages", got=repr(stages), expected=expected) from error
    return Stages(tuple(n for n, _ in rows), tuple(k for _, k in rows))


def _integers(name: str, values: Iterable[int]) -> tuple[int, ...]:
    found = tuple(values)
    for stage, value in enumerate(found, start=1):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ArgumentError(f"{name} of stage {stage}", got=repr(value), expected="an integer")
    return tuple(int(value) for value in found)


PAPER_STAGES = {
    "imagenet": Stages((50, 100, 500, 1000), (500, 50, 10, 1)),
    "objectnet": Stages((50, 100, 500, 1000), (25, 10, 5, 1)),
    "food": Stages((20, 50, 100, 500), (20, 10, 5, 1)),
    "flowers": Stages((20, 50, 100, 500), (20, 10, 5, 1)),
    "aircraft": Stages((20, 50, 100, 500), (20, 10, 5, 1)),
    "cifar10": Stages((50, 500), (5, 1)),
    "pets": Stages((25, 250), (5, 1)),
    "stl10": Stages((100, 500), (5, 1)),
}
"""The stages of Li et al. 2023, by data set; CIFAR-10, Pets, Flowers and STL-10 with ``loss="l1"``."""
