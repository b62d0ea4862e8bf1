"""Particles: a population as a struct of arrays that only moves as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ... import kernels
from .shard import Shard

SLOTS = 2**32


@dataclass
class Particles:
    """R particles of S requests. Every per-particle tensor is here, and :meth:`take` moves all of them alike.

    Attributes:
        shard: Who holds which rows.
        request: Which request a row belongs to, int64 [R], in [0, S); the same on every process.
        slot: The number that keys a row's noise within its request, int64 [R], in [0, 2**32). It belongs to the place
            and not to the ancestor, so that copies of a particle go apart.
        x: States, the local rows [r, *D].
        outputs: What the network returned at them, one tensor a branch; empty where it was not asked.
        values: Numbers of the particles, [R] each, float64 on the CPU; the same on every process.
        rows: Further tensors of the particles, local rows [r, *E] each.

    """

    shard: Shard
    request: Tensor
    slot: Tensor
    x: Tensor
    outputs: tuple[Tensor, ...] = ()
    values: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.request)

    @property
    def block(self) -> slice:
        """The local rows."""
        return self.shard.block(len(self))

    def moved(self, x: Tensor) -> Particles:
        """The same particles at other states; what the network said of the old ones stays behind."""
        return Particles(self.shard, self.request, self.slot, x, (), dict(self.values), dict(self.rows))

    def take(self, sources: Tensor, slot: Tensor | None = None, request: Tensor | None = None) -> Particles:
        """The population whose row j is a copy of row ``sources[j]`` of this one.

        Args:
            sources: int64 [M] in [0, R), on the CPU; the same on every process.
            slot: Slots of the new rows, int64 [M]; by default those of this population, in their places.
            request: Requests of the new rows, where they are known to be those of their sources.
        """
        slot = self.slot if slot is None else slot
        names = list(self.rows)
        moved = self.shard.move([self.x, *self.outputs, *(self.rows[name] for name in names)], sources, len(self))
        kept = 1 + len(self.outputs)
        return Particles(
            self.shard,
            self.request[sources] if request is None else request,
            slot,
            moved[0],
            moved[1:kept],
            dict(zip(self.values, kernels.gather_rows(list(self.values.values()), sources), strict=True)),
            dict(zip(names, moved[kept:], strict=True)),
        )

    def descend(self, ancestors: Tensor) -> Particles:
        """The population in which slot j of request s is a copy of the request's slot ``ancestors[s, j]``.

        Args:
            ancestors: int64 [S, N] in [0, N), on the CPU, for a population of N particles of each request in turn.
        """
        requests, count = ancestors.shape
        sources = ancestors.reshape(-1)
        if requests > 1:
            sources = (ancestors + count * torch.arange(requests)[:, None]).reshape(-1)
        return self.take(sources, self.slot, self.request)

    def where(self, chosen: Tensor, other: Particles) -> Particles:
        """Row by row the other population's particle where ``chosen`` (bool [R]) says so, else this one's."""
        local = chosen[self.block].to(self.x.device)

        def pick(mine: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
            return torch.where(mask.reshape(-1, *[1] * (mine.ndim - 1)), theirs, mine)

        return Particles(
            self.shard,
            self.request,
            torch.where(chosen, other.slot, self.slot),
            pick(self.x, other.x, local),
            tuple(pick(a, b, local) for a, b in zip(self.outputs, other.outputs, strict=True)),
            {name: pick(self.values[name], other.values[name], chosen) for name in self.values},
            {name: pick(self.rows[name], other.rows[name], local) for name in self.rows},
        )
