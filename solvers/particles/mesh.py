"""Mesh: direct messages between all processes of a group, and the one place that says who is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import ArgumentError, DistributedError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TAG = 0x7066  # keeps these messages apart from a user's own between the same processes
COMPANIONS: WeakKeyDictionary[ProcessGroup, ProcessGroup] = WeakKeyDictionary()


class Mesh:
    """Messages from each process to each other one, without a detour over a root.

    Every pair has a connection of its own, so a wait that fails tells which process is gone (its connections close) or
    silent (the time is up), on every process that waits for it. A collective call would only tell that some is.

    Attributes:
        group: A process group that carries tensors of the CPU.
        rank, size: This process in the group, and how many there are.
        timeout: Seconds that an exchange may take; None leaves it to the group.

    """

    def __init__(self, group: ProcessGroup | None, timeout: float | None = None) -> None:
        if timeout is not None and not 0 < timeout < 1e9:
            raise ArgumentError("timeout", got=timeout, expected="seconds above 0, or None")
        if not (dist.is_available() and dist.is_initialized()):
            hint = "Call torch.distributed.init_process_group() first; torchrun starts the processes"
            raise DistributedError("group", got="no process group", expected="an initialised one", hint=hint)
        whole = dist.group.WORLD if group is None else group
        if whole is None or dist.get_rank(whole) < 0:
            raise DistributedError("group", got="a group without this process", expected="one that it is in")
        self.rank, self.size, self.timeout = dist.get_rank(whole), dist.get_world_size(whole), timeout
        self.group = whole if self.size == 1 else host_group(whole, timeout)

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, int]) -> dict[int, Tensor]:
        """Send bytes to some processes and receive from some; returns when all of it is done.

        Args:
            outgoing: By destination, uint8 [n] on the CPU. Empty messages are not sent.
            incoming: By source, the number of bytes; 0 for none.

        Returns:
            What came, by source.

        Raises:
            DistributedError: Processes that are gone or do not answer, in its ``ranks``.
        """
        received = {rank: torch.empty(size, dtype=torch.uint8) for rank, size in incoming.items()}
        begin, lost = time.monotonic(), {}

        def attempt(rank: int, call: Callable[[], object]) -> object:
            try:
                return call()
            except RuntimeError as error:  # gloo has one class for all that goes wrong
                lost.setdefault(rank, self.verdict(error))
                return None

        works = []
        for rank, buffer in received.items():
            if len(buffer):
                works.append((rank, attempt(rank, lambda b=buffer, r=rank: self._post(dist.irecv, b, r))))
        for rank, message in outgoing.items():
            if len(message):
                works.append((rank, attempt(rank, lambda m=message, r=rank: self._post(dist.isend, m, r))))
        for rank, work in works:  # even after a failure: whoever did answer is not to be blamed
            if work is not None:
                attempt(rank, lambda w=work: self._wait(w, begin))
        if lost:
            raise self.lost(lost)
        return received

    def _post(self, call: Callable[..., object], tensor: Tensor, rank: int) -> object:
        peer = "group_src" if call is dist.irecv else "group_dst"
        return call(tensor, group=self.group, tag=TAG, **{peer: rank})

    def _wait(self, work: object, begin: float) -> None:
        if self.timeout is None:
            work.wait()  # type: ignore[attr-defined]
        else:  # a millisecond at least, as zero would mean the group's own timeout
            left = max(self.timeout - (time.monotonic() - begin), 0.001)
            work.wait(timedelta(seconds=left))  # type: ignore[attr-defined]

    def verdict(self, error: RuntimeError) -> str:
        """What a failed message says of the process at its other end."""
        text = str(error).lower()
        if "timed out" in text or "timeout" in text:
            return "does not answer" + (" within the group's timeout" if self.timeout is None else self._within)
        if "closed" in text or "reset" in text or "broken pipe" in text or "refused" in text:
            return "is gone (its connection closed)"
        return f"cannot be reached ({str(error).splitlines()[0][:200]})"

    @property
    def _within(self) -> str:
        return f" within {self.timeout:g} s"

    def lost(self, verdicts: Mapping[int, str]) -> DistributedError:
        """The error that names lost processes."""
        said = "; ".join(f"rank {rank} {verdict}" for rank, verdict in sorted(verdicts.items()))
        hint = "It was killed, crashed outside the search, or hangs; its own output says more"
        error = DistributedError("process group", got=said, expected=f"all {self.size} processes", hint=hint)
        error.ranks = tuple(sorted(verdicts))
        return error


def host_group(group: ProcessGroup, timeout: float | None) -> ProcessGroup:
    """A group of the same processes that carries tensors of the CPU: itself, or a gloo group made once beside it.

    Raises:
        DistributedError: It does not, and has only some of the processes: the others would have to take part in making
            another one.
    """
    if "cpu:" in dist.get_backend_config(group):
        return group
    if group not in COMPANIONS:
        if dist.get_world_size(group) < dist.get_world_size():
            hint = "torch.distributed.new_group(ranks, backend='cpu:gloo,cuda:nccl') makes one"
            got = f"{dist.get_backend_config(group)} for some of the processes"
            raise DistributedError("group", got=got, expected="a group that carries tensors of the CPU too", hint=hint)
        limit = None if timeout is None else timedelta(seconds=timeout)
        COMPANIONS[group] = cast("ProcessGroup", dist.new_group(backend="gloo", timeout=limit))
    return COMPANIONS[group]
