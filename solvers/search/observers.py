"""Observers: who is told of every advance of a search; a progress bar, and a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from ...errors import ArgumentError
from .method import State
from .task import Task

if TYPE_CHECKING:
    from rich.progress import Progress


class Observer(Protocol):
    """Any function of a task and a state; it must not change them.

    It is called once at the beginning (or where a checkpoint stands) and after every advance, in every process. An
    observer that is a context manager too is entered before and left after the search.

    Example:
        >>> def report(task, state):
        ...     print(state.step, task.ledger.nfe.max(), [record.best for record in task.trace.records[-1:]])
    """

    def __call__(self, task: Task, state: State, /) -> None:
        """Look at a search between two steps."""
        ...


class ProgressBar:
    """A bar on stderr: what is spent of the budget, the best reward so far, the time; of the first process alone.

    The budget is that of evaluations if it has one, else that of rewards, else that of seconds. The best reward is the
    mean over requests: of finished samples, or of clean estimates while there are none.
    """

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, task: Task, state: State) -> None:
        """Move the bar."""
        if task.shard.rank != 0:
            return
        unit, limit, spent = spending(task)
        if self._bar is None:
            self._bar = progress_bar()
            self._bar.add_task(f"{task.lowered.solver.partition('(')[0]}, {unit}", total=limit, best="")
            self._bar.start()
        best = f"best {float(task.trace.records[-1].best.mean()):.4g}" if task.trace.records else ""
        self._bar.update(self._bar.task_ids[0], completed=min(spent, limit), best=best, refresh=state.done)


def spending(task: Task) -> tuple[str, int, int]:
    """Unit, limit and what the request that spent most has spent of it."""
    budget, ledger = task.ledger.budget, task.ledger
    if budget.nfe is not None:
        return "NFE", budget.nfe, int(ledger.nfe.max())
    if budget.rewards is not None:
        return "rewards", budget.rewards, int(ledger.total("rewards").max())
    return "s", round(budget.seconds or 0), int(ledger.seconds)


def progress_bar() -> Progress:
    """What runs, a bar, how much is spent, the best reward, time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


class Log:
    """A file of JSON lines, one a record of the trace (:meth:`Record.to_dict`), each flushed when it is written.

    A search that goes on from a checkpoint writes the lines of its saved trace again, so that none is missing and none
    is there twice, wherever it was interrupted. The first process writes.

    Args:
        path: In an existing folder; a file that is there is replaced.

    Raises:
        ArgumentError: The folder does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.written = Path(path), 0
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise ArgumentError("log", got=str(path), expected="a file in an existing folder")
        self._file: TextIO | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __call__(self, task: Task, state: State) -> None:
        """Write the records that are new."""
        if task.shard.rank != 0:
            return
        if self._file is None:
            self._file, self.written = self.path.open("w", encoding="utf-8"), 0
        for record in task.trace.records[self.written :]:
            self._file.write(json.dumps(record.to_dict(), allow_nan=False) + "\n")
            self._file.flush()
            self.written += 1
