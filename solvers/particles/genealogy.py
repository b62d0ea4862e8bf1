"""Genealogy: who descends from whom, over the steps of a particle run."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError


@dataclass
class Genealogy:
    r"""Ancestors of every resampling of S requests, recorded step by step.

    Population 0 is the one that a run starts with; each recorded step makes the next one, of the same number of
    particles or another. Slot j of it descends from slot :math:`a_j` of the one before, or from slot j where the step
    did not resample; the slots of the end lead back to the roots of population 0. Numbers of distinct roots tell how
    far a population has degenerated; they never grow.

    An ancestor takes 4 bytes (8 where a population has 2**31 particles or more); nothing is stored for a step that did
    not resample. Steps are only ever added. All attributes are numbers, lists and tensors on the CPU.

    Attributes:
        requests: S.
        particles: Number of particles of each request in population 0.
        steps: Numbers of the recorded steps, ascending.
        resampled: Those of them that resampled.
        ancestors: Of each of these, [S, N] with the N of the population that the step made.

    Raises:
        ArgumentError: ``requests`` or ``particles`` below 1.

    Source:
        Jacob, Murray and Rubenthaler 2015, Path storage in the particle filter, Stat. Comput. 25, 487-496.

    Example:
        >>> genealogy = Genealogy(requests=1, particles=4)
        >>> genealogy.record(0, torch.tensor([[0, 0, 2, 3]]))
        >>> genealogy.record(1, None)
        >>> genealogy.record(2, torch.tensor([[1, 1, 2, 2]]))
        >>> genealogy.lineage(0)
        (0, 1, 1, 0)
        >>> genealogy.roots()
        tensor([[0, 0, 2, 2]])
        >>> genealogy.unique_roots()
        tensor([[3],
                [3],
                [2]])
    """

    requests: int
    particles: int
    steps: list[int] = field(default_factory=list)
    resampled: list[int] = field(default_factory=list)
    ancestors: list[Tensor] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        for name in ("requests", "particles"):
            if getattr(self, name) < 1:
                raise ArgumentError(name, got=getattr(self, name), expected="at least one")

    def record(self, step: int, ancestors: Tensor | None) -> None:
        """Add a step.

        Args:
            step: Its number, above those recorded.
            ancestors: [S, N] or, for a single request, [N]: slots in the population before, int64 or int32, on any
                device. None if the step did not resample.

        Raises:
            ArgumentError: A step that is not later than the last one; a slot that the population before does not have.
            DtypeError, ShapeError: Ancestors of another kind.
        """
        if self.steps and step <= self.steps[-1]:
            raise ArgumentError("step", got=step, expected=f"a step after {self.steps[-1]}, the last one recorded")
        if ancestors is not None:
            self.ancestors.append(self._checked(ancestors, step))
            self.resampled.append(step)
        self.steps.append(step)

    def size(self, populations: int | None = None) -> int:
        """Number of particles of each request after so many recorded steps; by default, at the end.

        Example:
            >>> Genealogy(requests=2, particles=8).size()
            8
        """
        count = len(self.steps) if populations is None else populations
        resampled = bisect.bisect_right(self.resampled, self.steps[count - 1]) if count > 0 else 0
        return self.ancestors[resampled - 1].shape[1] if resampled > 0 else self.particles

    def lineage(self, slot: int, request: int = 0) -> tuple[int, ...]:
        """Slots of a final particle's ancestors: in population 0, and after each of the recorded steps.

        Raises:
            ArgumentError: No such slot at the end, or no such request.
        """
        if not 0 <= request < self.requests:
            raise ArgumentError("request", got=request, expected=f"0 to {self.requests - 1}")
        if not 0 <= slot < self.size():
            raise ArgumentError("slot", got=slot, expected=f"0 to {self.size() - 1}")
        slots, at = [slot], len(self.resampled)
        for step in reversed(self.steps):
            if at > 0 and self.resampled[at - 1] == step:
                at -= 1
                slot = int(self.ancestors[at][request, slot])
            slots.append(slot)
        return tuple(reversed(slots))

    def roots(self) -> Tensor:
        """The slot in population 0 of every final particle, int64 [S, N]."""
        roots = torch.arange(self.size()).expand(self.requests, -1)
        for ancestors in reversed(self.ancestors):
            roots = ancestors.gather(1, roots).long()
        return roots

    def unique_roots(self) -> Tensor:
        """How many slots of population 0 have descendants after each recorded step: int64 [steps, S], never growing."""
        counts = torch.empty((len(self.steps), self.requests), dtype=torch.int64)
        roots = torch.arange(self.particles).expand(self.requests, -1)
        alive, at = torch.full((self.requests,), self.particles), 0
        for row, step in enumerate(self.steps):
            if at < len(self.resampled) and self.resampled[at] == step:
                roots = roots.gather(1, self.ancestors[at].long())
                alive, at = _distinct(roots, self.particles), at + 1
            counts[row] = alive
        return counts

    def unique_ancestors(self, step: int) -> Tensor:
        """How many particles the step left with children: int64 [S]; all of them if it did not resample.

        Raises:
            ArgumentError: The step was not recorded.
        """
        before, ancestors = self._of(step)
        return torch.full((self.requests,), before) if ancestors is None else _distinct(ancestors.long(), before)

    def max_children(self, step: int) -> Tensor:
        """The largest number of children that the step gave to one particle: int64 [S]; 1 if it did not resample.

        Raises:
            ArgumentError: The step was not recorded.
        """
        before, ancestors = self._of(step)
        if ancestors is None:
            return torch.ones(self.requests, dtype=torch.int64)
        children = torch.zeros((self.requests, before), dtype=torch.int32)
        children.scatter_add_(1, ancestors.long(), torch.ones((), dtype=torch.int32).expand(ancestors.shape))
        return children.amax(1).long()

    def _checked(self, ancestors: Tensor, step: int) -> Tensor:
        if ancestors.dtype not in (torch.int64, torch.int32):
            raise DtypeError("ancestors", got=ancestors.dtype, expected="torch.int64 or torch.int32")
        if ancestors.ndim == 1 and self.requests == 1:
            ancestors = ancestors[None]
        if ancestors.ndim != 2 or ancestors.shape[0] != self.requests or ancestors.shape[1] == 0:
            expected = f"[{self.requests}, N] with N >= 1, a row for each request"
            raise ShapeError("ancestors", got=list(ancestors.shape), expected=expected)
        before = self.size()
        low, high = (int(bound) for bound in ancestors.aminmax())
        if low < 0 or high >= before:
            got, expected = f"{low} to {high} at step {step}", f"0 to {before - 1}, slots of the population before"
            raise ArgumentError("ancestors", got=got, expected=expected)
        return ancestors.detach().to("cpu", torch.int32 if before < 2**31 else torch.int64, copy=True)

    def _of(self, step: int) -> tuple[int, Tensor | None]:
        """Number of particles before the step, and the step's ancestors."""
        row = bisect.bisect_left(self.steps, step)
        if row == len(self.steps) or self.steps[row] != step:
            raise ArgumentError("step", got=step, expected=f"one of those recorded: {self.steps}")
        at = bisect.bisect_left(self.resampled, step)
        found = at < len(self.resampled) and self.resampled[at] == step
        return self.size(row), self.ancestors[at] if found else None


def _distinct(slots: Tensor, size: int) -> Tensor:
    """Number of different slots in each row."""
    return torch.zeros((len(slots), size), dtype=torch.bool).scatter_(1, slots, True).sum(1)
