"""Shard: which rows of a population a process holds, and how rows and numbers get from one process to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ... import kernels


class Shard:
    """The whole population in one process; the base of those that share it out.

    A population is R rows in a fixed order. Process p of P holds the contiguous block from ``p R // P`` to
    ``(p + 1) R // P``, and every process knows all numbers that decisions are made of (rewards, weights, ancestors), so
    that all of them decide alike. A shard is a context manager around what the processes do together.

    Attributes:
        rank, size: This process, and how many there are.

    """

    rank = 0
    size = 1

    def block(self, rows: int, rank: int | None = None) -> slice:
        """The rows of a population of ``rows`` that this process (or another) holds."""
        rank = self.rank if rank is None else rank
        return slice(rank * rows // self.size, (rank + 1) * rows // self.size)

    def gather(self, local: Tensor, rows: int) -> Tensor:
        """The numbers of all rows, on the CPU, from every process's own, shape [r, *D] to [rows, *D]."""
        del rows
        return local.cpu()

    def move(self, tensors: Sequence[Tensor], sources: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Rows by index: local rows of new populations whose row j is row ``sources[j]`` of the old ones.

        Args:
            tensors: Local rows, [r, *D] each.
            sources: int64 [M] on the CPU, in [0, rows), the same on every process.
            rows: Rows of the old populations.
        """
        del rows
        index = sources.to(tensors[0].device) if tensors else sources
        return kernels.gather_rows(list(tensors), index) if tensors else ()

    def fetch(self, local: Tensor, sources: Tensor, rows: int) -> Tensor:
        """Rows ``sources`` of a population, on every process: [M, *D]."""
        del rows
        return local.index_select(0, sources.to(local.device))

    def agree(self, value: float) -> float:
        """The first process's value, on every process: for clocks, which differ."""
        return value

    def all_fine(self, failure: BaseException | None, *, wait: bool = True) -> None:
        """Raise if this process, or any other, failed; every process must call it.

        Args:
            failure: What went wrong in this one.
            wait: Wait for the others; without, they learn of a failure in their next call that exchanges anything.
        """
        del wait
        if failure is not None:
            raise failure

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Raise, on every process, unless all of them were given the same facts, by name."""

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Let the other processes know whether this one failed."""


def ids_of(requests: Tensor, request: Tensor, slot: Tensor) -> Tensor:
    """Sample ids that key the noise of rows: ``2^32 id(request) + slot``, int64."""
    return torch.bitwise_left_shift(requests[request], 32) + slot
