"""What one run evaluates of a model that reuses: a schedule, decisions, and what was decided."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor

from ..bound import Bound, Branches, Times
from ..wrapping import BoundWrapped, WrappedModel
from .decisions import Decision, Decisions
from .schedule import Schedule
from .state import RunState


class BoundReuse(BoundWrapped):
    """A base: evaluations that are not in the schedule are computed in full, and nothing is remembered of them.

    Attributes:
        fresh: Whether the last answer reused nothing.
    """

    def __init__(self, model: WrappedModel, inner: Bound, state: RunState, decisions: Decisions) -> None:
        super().__init__(model, inner)
        self.schedule: Schedule = decisions.schedule
        self.state, self.decisions, self.fresh = state, decisions, True

    @property
    def log(self) -> list[Decision]:
        """What was decided so far, evaluation by evaluation; those that are not in the schedule are not listed."""
        return self.decisions.log

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs, computed or with what is in memory."""
        index = None if isinstance(t, np.ndarray) else self.schedule.index(t)
        if index is None:
            self.fresh = True
            return self.inner.answer(x, t, branches)
        return self.scheduled(x, t, index, branches)

    @abstractmethod
    def scheduled(self, x: Tensor, t: Times, index: int, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs of evaluation ``index`` of the schedule."""
