"""TorchShard: a population shared out over the processes of a torch.distributed group."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import ArgumentError, DistributedError
from .mesh import Mesh
from .routes import Route, owners
from .shard import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

GroupLike: TypeAlias = "ProcessGroup | Literal['auto'] | bool | None"
OPERATIONS = ("leave", "all_fine", "gather", "move", "fetch", "agree", "check_same")
ALIGNMENT = 16  # bytes; what torch needs at most to look at them as numbers
NOTE = 4096  # bytes that all processes exchange at a meeting: five numbers, and what they pass if it fits
ROOM = NOTE - 5 * 8


@dataclass
class Traffic:
    """What a process has sent in moves: rows, counted once for each destination, their bytes, and messages."""

    rows: int = 0
    bytes: int = 0
    messages: int = 0


class TorchShard(Shard):
    """A block of rows of a population, in a process of a group.

    Processes meet in every call that sends anything: they tell each other which call they are in, a checksum of what
    must agree, and whether they failed. So a process that raised, that took another way through the program, or that is
    lost, ends all of them with an error that says so, and none waits longer than ``timeout``.

    Rows move directly from the process that has them to those that need them, as one message for each pair however many
    tensors there are: by gloo from the CPU, by NCCL between GPUs. Numbers and decisions go over the CPU.

    Use it as a context manager: on leaving, an exception of one process becomes known to the others.

    Args:
        group: The process group; None for the default one. One of NCCL alone gets a companion of gloo,
            if it has all processes.
        timeout: Seconds that a process may keep the others waiting; by default the group's own.

    Attributes:
        traffic: What this process has sent in :meth:`move`.

    Raises:
        DistributedError: There is no process group, this process is not in it, or it carries no tensors of the CPU.

    """

    def __init__(self, group: ProcessGroup | None = None, timeout: float | None = None) -> None:
        self.mesh = Mesh(group, timeout)
        self.group = group
        self.rank, self.size = self.mesh.rank, self.mesh.size
        self.traffic = Traffic()
        self._meetings = 0
        self._over = False

    # --- what processes agree on ------------------------------------------------------------------------------------

    def all_fine(self, failure: BaseException | None, *, wait: bool = True) -> None:
        """Raise if any process failed: this one its own failure, the others an error that names it."""
        if failure is not None:
            with suppress(DistributedError):
                self._meet("all_fine", failure=failure)
            raise failure
        if wait:
            self._meet("all_fine")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._over:
            return
        if error is None:
            self._meet("leave")
            return
        with suppress(DistributedError):  # the error that brought us here is the one to be seen
            self._meet("leave", failure=error)

    def agree(self, value: float) -> float:
        """The value of rank 0."""
        return struct.unpack("d", self._meet("agree", as_tensor(struct.pack("d", value)))[0].numpy().tobytes())[0]

    def check_same(self, facts: Mapping[str, str]) -> None:
        """Raise, on every process, unless all were given the same.

        Raises:
            DistributedError: Says what differs, and what the first process that differs has.
        """
        told = {name: [zlib.crc32(text.encode()), text[:80]] for name, text in facts.items()}
        payload = as_tensor(json.dumps(told).encode())
        first, *others = (json.loads(part.numpy().tobytes()) for part in self._meet("check_same", payload))
        nothing = [0, "nothing"]
        for rank, other in enumerate(others, 1):
            names = [name for name in {**first, **other} if first.get(name, nothing) != other.get(name, nothing)]
            if names:
                got, expected = (
                    ", ".join(f"{name} = {table.get(name, nothing)[1]}" for name in names) for table in (other, first)
                )
                self._over = True
                error = DistributedError(f"rank {rank}", got=got, expected=f"{expected}, as rank 0")
                error.ranks = (rank,)
                raise error

    # --- numbers and rows -------------------------------------------------------------------------------------------

    def gather(self, local: Tensor, rows: int) -> Tensor:
        """The numbers of all rows, on the CPU, from every process's own, shape [r, *D] to [rows, *D]."""
        here = local.detach().cpu()
        parts = self._meet("gather", as_bytes(here), check=checksum(rows, *layout([here])))
        blocks = (self.block(rows, rank) for rank in range(self.size))
        return torch.cat([from_bytes(p, here, b.stop - b.start) for p, b in zip(parts, blocks, strict=True)])

    def move(self, tensors: Sequence[Tensor], sources: Tensor, rows: int) -> tuple[Tensor, ...]:
        """Rows by index; those whose source is here stay, the others are sent for."""
        if not tensors:
            return ()
        route = Route.of(sources, rows, self.rank, self.size)
        if not route.crosses:  # all processes know, and none waits
            return super().move(tensors, route.sources, rows)
        self._meet("move", check=checksum(rows, *layout(tensors), content=sources))
        arrived = self._exchange(route, tensors)
        stayed = super().move(tensors, route.sources, rows)
        if not route.arrive:
            return stayed
        moved = []
        for old, stay, came in zip(tensors, stayed, arrived, strict=True):
            new = old.new_empty((len(route.kept) + len(route.come), *old.shape[1:]))
            new.index_copy_(0, route.kept.to(old.device), stay)
            new.index_copy_(0, route.come.to(old.device), came.index_select(0, route.pick.to(old.device)))
            moved.append(new)
        return tuple(moved)

    def fetch(self, local: Tensor, sources: Tensor, rows: int) -> Tensor:
        """Rows ``sources`` of a population, on every process: [M, *D]."""
        wanted = torch.unique(sources)
        owner = owners(wanted, rows, self.size)
        mine = wanted[owner == self.rank] - self.block(rows).start
        here = local.detach().index_select(0, mine.to(local.device)).cpu()
        parts = self._meet("fetch", as_bytes(here), check=checksum(rows, *layout([here]), content=sources))
        counts = torch.bincount(owner, minlength=self.size).tolist()
        found = torch.cat([from_bytes(part, here, n) for part, n in zip(parts, counts, strict=True)])
        return found.index_select(0, torch.searchsorted(wanted, sources)).to(local.device)

    def _exchange(self, route: Route, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The rows that come here, in order of their number, one tensor for each of ``tensors``."""
        device = self._carrier(tensors)
        packed = {
            rank: pack([x.index_select(0, row.to(x.device)) for x in tensors], device)
            for rank, row in route.leave.items()
        }
        sizes = {rank: sum(section(x, n) for x in tensors) for rank, n in route.arrive.items()}
        self.traffic.rows += sum(len(row) for row in route.leave.values())
        self.traffic.bytes += sum(len(message) for message in packed.values())
        self.traffic.messages += len(packed)
        received = self._deliver(packed, sizes, device)
        pieces = [list(unpack(received[rank], tensors, n)) for rank, n in sorted(route.arrive.items())]
        if not pieces:
            return []
        return [torch.cat(column).to(x.device) for x, column in zip(tensors, zip(*pieces, strict=True), strict=True)]

    def _carrier(self, tensors: Sequence[Tensor]) -> torch.device:
        """Where messages are made: on a GPU if all is there and NCCL links it with the others, else on the CPU."""
        devices = {x.device for x in tensors}
        device = devices.pop()
        if devices or device.type == "cpu":
            return torch.device("cpu")
        linked = f"{device.type}:nccl" in dist.get_backend_config(self.group)
        return device if linked else torch.device("cpu")

    def _deliver(
        self, packed: Mapping[int, Tensor], sizes: Mapping[int, int], device: torch.device
    ) -> dict[int, Tensor]:
        """Bytes by destination, and how many come from whom, to bytes by source."""
        if device.type == "cpu":
            return self.mesh.exchange(packed, sizes)
        return self._all_to_all(packed, sizes, device)

    def _all_to_all(
        self, packed: Mapping[int, Tensor], sizes: Mapping[int, int], device: torch.device
    ) -> dict[int, Tensor]:
        """The same by one collective call, which NCCL makes of messages between pairs."""
        nothing = torch.empty(0, dtype=torch.uint8, device=device)
        sent = [packed.get(rank, nothing) for rank in range(self.size)]
        splits = [sizes.get(rank, 0) for rank in range(self.size)]
        out = torch.empty(sum(splits), dtype=torch.uint8, device=device)
        try:
            dist.all_to_all_single(out, torch.cat(sent), splits, [len(part) for part in sent], group=self.group)
        except RuntimeError as error:
            got = str(error).splitlines()[0][:200]
            raise DistributedError("exchange of rows", got=got, expected="an answer of all processes") from error
        return dict(enumerate(out.split(splits)))

    # --- meetings ---------------------------------------------------------------------------------------------------

    def _meet(
        self, what: str, payload: Tensor | None = None, *, check: int = 0, failure: BaseException | None = None
    ) -> list[Tensor]:
        """All processes say where they are, and pass each other some bytes; what each passed, by rank.

        Raises:
            DistributedError: A process failed, is elsewhere in the program, has other numbers, or is lost. Not on one
                that comes with its own failure.
        """
        if self._over:
            raise DistributedError("shard", got="another call", expected="none after a search that failed")
        if failure is not None:
            payload = as_tensor(f"{type(failure).__name__}: {failure}".encode()[:ROOM])
        mine = torch.empty(0, dtype=torch.uint8) if payload is None else payload
        self._meetings += 1
        header = torch.tensor([self._meetings, OPERATIONS.index(what), failure is not None, len(mine), check])
        fits = mine if len(mine) <= ROOM else mine[:0]
        note = torch.cat([as_bytes(header), fits, fits.new_zeros(ROOM - len(fits))])
        heard = self._to_all(note, dict.fromkeys(self._others(), NOTE)) | {self.rank: note}
        headers = [heard[rank][: NOTE - ROOM].clone().view(torch.int64).tolist() for rank in range(self.size)]
        passed = {rank: heard[rank][NOTE - ROOM :][: told[3]].clone() for rank, told in enumerate(headers)}
        if any(told[2] for told in headers):
            self._over = True
            if failure is None:
                raise failed_elsewhere({rank: passed[rank] for rank, told in enumerate(headers) if told[2]})
            return []
        self._check_step(headers)
        long = {rank: told[3] for rank, told in enumerate(headers) if told[3] > ROOM and rank != self.rank}
        passed |= self._to_all(mine if len(mine) > ROOM else mine[:0], long) | {self.rank: mine}
        return [passed[rank] for rank in range(self.size)]

    def _others(self) -> Iterator[int]:
        return (rank for rank in range(self.size) if rank != self.rank)

    def _to_all(self, message: Tensor, incoming: Mapping[int, int]) -> dict[int, Tensor]:
        """Send a message to all others; whoever is lost at a meeting is lost for all, and nobody need be told."""
        try:
            return self.mesh.exchange(dict.fromkeys(self._others(), message), incoming)
        except DistributedError:
            self._over = True
            raise

    def _check_step(self, headers: Sequence[Sequence[int]]) -> None:
        """Refuse to go on where processes are in different calls, or in one with different arguments."""
        for rank, told in enumerate(headers):
            differs = [a != b for a, b in zip(told, headers[0], strict=True)]
            if differs[0] or differs[1] or differs[4]:
                self._over = True
                got, expected = (f"{OPERATIONS[h[1]]} as call {h[0]}" for h in (told, headers[0]))
                if got == expected:
                    got = f"{got}, with other rows"
                hint = "Decisions must not depend on the process, on its clock, or on random numbers of its own"
                error = DistributedError(f"rank {rank}", got=got, expected=f"{expected}, as rank 0", hint=hint)
                error.ranks = (rank,)
                raise error


def shard_of(group: GroupLike, timeout: float | None = None) -> Shard:
    """The shard that an argument ``group`` asks for.

    Args:
        group: None or False for one process; True for the default process group; "auto" for the default group if
            torch.distributed is initialised, else one process; or a process group.
        timeout: Of a :class:`TorchShard`.

    Example:
        >>> shard_of(None).size, shard_of("auto").size
        (1, 1)
    """
    if group is None or group is False:
        return Shard()
    if isinstance(group, str):
        if group != "auto":
            raise ArgumentError("group", got=repr(group), expected="a process group, 'auto', True or None")
        running = dist.is_available() and dist.is_initialized()
        return TorchShard(None, timeout) if running else Shard()
    return TorchShard(None if group is True else group, timeout)


def failed_elsewhere(said: Mapping[int, Tensor]) -> DistributedError:
    """The error of a process that is fine, from what the others said."""
    texts = {rank: text.numpy().tobytes().decode(errors="replace") for rank, text in said.items()}
    got = "; ".join(texts.values() if len(texts) == 1 else (f"rank {rank}: {text}" for rank, text in texts.items()))
    names = ("rank " if len(texts) == 1 else "ranks ") + ", ".join(map(str, texts))
    error = DistributedError(names, got=got, hint="The search has ended on all processes")
    error.ranks = tuple(texts)
    return error


def as_tensor(content: bytes) -> Tensor:
    """Bytes as uint8 [n]; none make an empty tensor."""
    return torch.tensor(list(content), dtype=torch.uint8)


def as_bytes(x: Tensor) -> Tensor:
    """The content of a tensor, uint8 [n]."""
    flat = x.contiguous().reshape(-1)
    if flat.stride() != (1,):  # a single number is contiguous whatever its stride, but not for a view
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def from_bytes(content: Tensor, like: Tensor, rows: int) -> Tensor:
    """So many rows like those of a tensor, from their content."""
    return content.view(like.dtype).reshape(rows, *like.shape[1:])


def layout(tensors: Sequence[Tensor]) -> Iterator[str]:
    """Dtypes and shapes of single rows."""
    return (f"{x.dtype}{tuple(x.shape[1:])}" for x in tensors)


def checksum(*facts: object, content: Tensor | None = None) -> int:
    """32 bits of facts and of a tensor's content."""
    total = zlib.crc32(repr(facts).encode())
    return total if content is None else zlib.crc32(content.contiguous().numpy().tobytes(), total)


def section(x: Tensor, rows: int) -> int:
    """Bytes that so many rows like those of a tensor take in a message."""
    return math.ceil(rows * row_bytes(x) / ALIGNMENT) * ALIGNMENT


def row_bytes(x: Tensor) -> int:
    """Bytes of a row, whether the tensor has any or not."""
    return x.element_size() * math.prod(x.shape[1:])


def pack(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors behind each other as bytes, each at an aligned place."""
    parts = []
    for x in tensors:
        content = as_bytes(x).to(device)
        parts += [content, content.new_zeros(-len(content) % ALIGNMENT)]
    return torch.cat(parts)


def unpack(message: Tensor, like: Sequence[Tensor], rows: int) -> Iterator[Tensor]:
    """What :func:`pack` packed: so many rows of tensors like these."""
    at = 0
    for x in like:
        yield from_bytes(message[at : at + rows * row_bytes(x)], x, rows)
        at += section(x, rows)
