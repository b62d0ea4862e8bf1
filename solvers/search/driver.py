"""The loop of every search: begin or go on, advance, save, tell whoever watches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack

from .checkpoint import Checkpoint
from .method import Method, Outcome
from .observers import Observer
from .task import Task


def drive(
    task: Task, method: Method, *, checkpoint: Checkpoint | None = None, observers: Sequence[Observer] = ()
) -> Outcome:
    """Run a search to its end, from its beginning or from where its checkpoint stands.

    Args:
        task, method: The search.
        checkpoint: Where it is saved after every advance, before observers are told; None: nowhere.
        observers: Called at the beginning and after every advance. One that is a context manager is entered before the
            first call and left at the end, whatever that is.
    """
    with ExitStack() as stack:
        for observer in observers:
            if isinstance(observer, AbstractContextManager):
                stack.enter_context(observer)
        state = None if checkpoint is None else checkpoint.load()
        saved = state is not None
        if state is None:
            state = method.begin(task)
        while True:
            if checkpoint is not None and not saved:
                checkpoint.offer(state)
            with task.together():
                for observer in observers:
                    observer(task, state)
            if state.done:
                return method.outcome(task, state)
            method.advance(task, state)
            saved = False
