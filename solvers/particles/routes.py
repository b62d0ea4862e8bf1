"""Routes: which rows a move takes from which process to which, worked out alike by all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """One process's part in a move.

    A row that several new ones of a process copy travels there once.

    Attributes:
        crosses: Whether any row changes its process, anywhere.
        kept: Places of the new local rows whose source is here, int64.
        sources: Their sources, among the local rows.
        come: Places of the new local rows whose source is elsewhere.
        pick: Which arriving row each of them copies; arriving rows are in order of their number in the population.
        leave: Local rows that go to a process, in order, by process; those to which none goes are left out.
        arrive: How many rows come from a process; those from which none comes are left out.

    """

    crosses: bool
    kept: Tensor
    sources: Tensor
    come: Tensor
    pick: Tensor
    leave: dict[int, Tensor]
    arrive: dict[int, int]

    @classmethod
    def of(cls, sources: Tensor, rows: int, rank: int, size: int) -> Route:
        """The route of ``rank``, of ``size`` processes that hold contiguous blocks.

        Args:
            sources: Row j of the new population is row ``sources[j]`` of the old one; int64 [M] on the CPU.
            rows: Rows of the old population.
            rank, size: Of the process.

        Example:
            >>> route = Route.of(torch.tensor([0, 0, 0, 3]), 4, rank=1, size=2)
            >>> route.arrive, route.come.tolist(), route.kept.tolist(), route.sources.tolist()
            ({0: 1}, [0], [1], [1])
        """
        owner = owners(sources, rows, size)
        home = owners(torch.arange(len(sources)), len(sources), size)
        moves = owner != home
        local, first = home == rank, rank * rows // size
        mine, comes = sources[local], moves[local]
        kept, come = (~comes).nonzero()[:, 0], comes.nonzero()[:, 0]
        needed = torch.unique(mine[comes])
        pick = torch.searchsorted(needed, mine[comes])
        counts = torch.bincount(owners(needed, rows, size), minlength=size)
        leaves = moves & (owner == rank)
        keys = torch.unique(home[leaves] * rows + sources[leaves])  # sorted by destination, then by row
        to, row = keys // max(rows, 1), keys % max(rows, 1) - first
        leave = {int(r): row[to == r] for r in torch.unique(to)}
        arrive = {r: int(n) for r, n in enumerate(counts.tolist()) if n}
        return cls(bool(moves.any()), kept, mine[~comes] - first, come, pick, leave, arrive)


def owners(index: Tensor, rows: int, size: int) -> Tensor:
    """The process that holds each row: p holds rows ``p rows // size`` to ``(p + 1) rows // size``.

    Example:
        >>> owners(torch.arange(2), 2, 4)
        tensor([1, 3])
    """
    ends = torch.tensor([(p + 1) * rows // size for p in range(size)])
    return torch.searchsorted(ends, index, right=True)
