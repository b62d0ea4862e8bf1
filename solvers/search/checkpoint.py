"""Checkpoint: a search on disk, from which it goes on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import ArgumentError, CheckpointError, CorruptFileError
from .. import particles
from .budget import Budget, Entry, Ledger
from .fingerprint import differences, fingerprint
from .method import Method, State, at_least
from .task import Task
from .trace import Record, Trace
from .tree import Reader, Table, Writer

FORMAT = 1
DIGEST = 32  # bytes of a SHA-256


class Checkpoint:
    """State, ledger and trace of a search in files: JSON under the path, tensors of each process beside it.

    For the path ``run.json`` the tensors of process p are in ``run.json.G.p.safetensors``, with the number G of the
    generation. A generation is written under other names, flushed to the disk and only then renamed, tensors first;
    the JSON names its tensor files with their checksums, and carries one of itself. It also describes the tensors of
    the first process; those of another one, whose block may have more rows or fewer, are described in their own file.
    So whenever a process is killed, one complete generation is there. Files of older ones are removed afterwards.

    Nothing is pickled, and no class is looked up by a name in a file except among the dataclasses of the method's
    module and those of the search itself.

    Args:
        path: Of the JSON, in an existing folder; all processes must see the same one.
        task, method: The search.
        every: Advances between two generations. The last one is always written.
        every_seconds: Wall time between them, at least, by the clock of the first process.

    Raises:
        ArgumentError: The folder does not exist, or an interval out of range.
    """

    def __init__(
        self, path: str | Path, task: Task, method: Method, *, every: int = 1, every_seconds: float = 0.0
    ) -> None:
        self.path = Path(path)
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ArgumentError("checkpoint", got=str(path), expected="a file in an existing folder")
        at_least("every", every, 1)
        if not every_seconds >= 0:
            raise ArgumentError("every_seconds", got=every_seconds, expected="a number, at least 0")
        self.task, self.every, self.every_seconds = task, every, every_seconds
        self.table = Table(known_classes(method))
        self.fingerprint = fingerprint(task, method)
        self._history, self._records = Writer(self.table, "trace"), []
        self.generation, self._waiting, self._saved_at = 0, 0, -float("inf")

    # --- writing ----------------------------------------------------------------------------------------------------

    def offer(self, state: State) -> bool:
        """Count an advance, and save if it is time to; every process must call it. Returns whether it saved."""
        self._waiting += 1
        due = state.done or self._waiting >= self.every
        if due and not state.done and self.every_seconds:
            due = self.task.shard.agree(time.perf_counter() - self._saved_at) >= self.every_seconds
        if due:
            self.save(state)
        return due

    def save(self, state: State) -> None:
        """Write a generation; every process must call it.

        Raises:
            ArgumentError: The state holds what cannot be written; names it.
            OSError: The disk is full, or the like; the generation before is still there.
        """
        task, shard = self.task, self.task.shard
        self.generation += 1
        file, content, mine = self.tensor_file(shard.rank), None, b""
        with task.together():
            content, tensors = self._content(state)
            mine = write_tensors(file, tensors, content if shard.rank else None)
        digests = shard.gather(torch.tensor([list(mine)], dtype=torch.float64), shard.size)
        with task.together(wait=True):  # the generation before goes only when this one is complete
            if shard.rank == 0:
                files = [
                    {"name": self.tensor_file(rank).name, "sha256": bytes(map(int, digests[rank].tolist())).hex()}
                    for rank in range(shard.size)
                ]
                body = {"generation": self.generation, "files": files, "fingerprint": self.fingerprint}
                write_json(self.path, body | {"content": content})
        for old in self.tensor_files(shard.rank):
            if old != file:
                old.unlink(missing_ok=True)
        self._waiting, self._saved_at = 0, time.perf_counter()

    def _content(self, state: State) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The search as JSON and tensors. Records of the trace never change: each is translated once."""
        records, known = self.task.trace.records, len(self._records)
        self._records += [self._history.write(record, f"record{i}") for i, record in enumerate(records[known:], known)]
        writer = Writer(self.table)
        ledger = dataclasses.replace(self.task.ledger, spent_seconds=self.task.ledger.seconds)
        rest = {"state": state, "ledger": ledger, "trace": dataclasses.replace(self.task.trace, records=[])}
        content = {name: writer.write(value, name) for name, value in rest.items()}
        return content | {"records": self._records}, writer.all_tensors() | self._history.all_tensors()

    def tensor_file(self, rank: int) -> Path:
        """Tensors of a process in the present generation."""
        return self.path.with_name(f"{self.path.name}.{self.generation}.{rank}.safetensors")

    def tensor_files(self, rank: int) -> list[Path]:
        """Those of all generations."""
        pattern = re.compile(rf"{re.escape(self.path.name)}\.\d+\.{rank}\.safetensors")
        return [file for file in self.path.parent.iterdir() if pattern.fullmatch(file.name)]

    # --- reading ----------------------------------------------------------------------------------------------------

    def load(self) -> State | None:
        """The state of the saved search, whose ledger and trace the task takes over; None if there is no file yet.

        Raises:
            CheckpointError: It is another search; says what differs.
            CorruptFileError: A file is missing, cut off or changed.
        """
        if not self.task.shard.agree(float(self.path.exists())):
            return None
        state = None
        with self.task.together():
            state = self._load()
        return state

    def _load(self) -> State:
        body = read_json(self.path)
        if found := differences(body["fingerprint"], self.fingerprint):
            got = "; ".join(f"{name} = {wanted}" for name, _, wanted in found)
            expected = "; ".join(f"{name} = {saved}" for name, saved, _ in found)
            hint = "Go on with the settings that it was started with, or give this search a file of its own"
            raise CheckpointError(f"checkpoint {self.path}", got=got, expected=expected, hint=hint)
        task, self.generation = self.task, body["generation"]
        tensors = read_tensors(self.tensor_file(task.shard.rank), body["files"][task.shard.rank]["sha256"])
        content = read_content(self.tensor_file(task.shard.rank)) if task.shard.rank else body["content"]
        reader = Reader(self.table, tensors, task.device, task.shard)
        task.ledger, task.trace, state = (reader.read(content[name]) for name in ("ledger", "trace", "state"))
        task.trace.records = reader.read(content["records"])
        self._saved_at = time.perf_counter()
        return state


def known_classes(method: Method) -> set[type]:
    """Dataclasses that a checkpoint of this method may hold.

    They are those of every search and of :mod:`pushforward.solvers.particles`, those that the modules of the method and
    of its base classes define or import, and the method's ``stored``.
    """
    known: set[type] = {Budget, Entry, Ledger, Record, Trace, State, *method.stored}
    for module in (particles, *(sys.modules[kind.__module__] for kind in type(method).__mro__)):
        for value in vars(module).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                known.add(value)
    return known


def write_tensors(path: Path, tensors: dict[str, Tensor], content: dict[str, Any] | None = None) -> bytes:
    """Write a safetensors file, with a description of what the tensors are, in one atomic step; its SHA-256."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, None if content is None else {"content": json.dumps(content, allow_nan=False)})
    found = file_digest(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    replace(temporary, path)
    return found


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file with that checksum.

    Raises:
        CorruptFileError: It is missing, or another one.
    """
    try:
        found = file_digest(path).hex()
        if found != sha256:
            raise CorruptFileError(str(path), got=f"sha256 {found}", expected=sha256)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(str(path), got=str(error), expected="the tensors of the JSON beside it") from error


def read_content(path: Path) -> dict[str, Any]:
    """The description in a file of tensors, whose checksum is known to be right."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["content"])


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Write a body with its checksum in one atomic step."""
    text = json.dumps(body, allow_nan=False)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"format": {FORMAT}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()}", "body": {text}}}\n')
        file.flush()
        os.fsync(file.fileno())
    replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """The body of a file.

    Raises:
        CorruptFileError: It is cut off, changed, no checkpoint, or one of another format.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        number, sha256, body = whole["format"], whole["sha256"], whole["body"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(str(path), got=f"{type(error).__name__}: {error}", expected="a checkpoint") from error
    if number != FORMAT:
        raise CorruptFileError(str(path), got=f"format {number}", expected=f"format {FORMAT}")
    found = hashlib.sha256(json.dumps(body, allow_nan=False).encode()).hexdigest()
    if found != sha256:
        raise CorruptFileError(str(path), got=f"sha256 {found}", expected=sha256)
    return body


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            total.update(chunk)
    return total.digest()


def replace(temporary: Path, path: Path) -> None:
    """Give a file its name, and have the folder remember that after a crash of the machine."""
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
