"""Networks that are told what they last estimated: a memory of clean estimates that is kept by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ArgumentError, ShapeError, UnknownNameError
from .binding import BoundModel
from .bound import Bound, Branches, Index, Times
from .capabilities import Remembers
from .spaces import read_as
from .wrapping import BoundWrapped, WrappedModel

UPDATES = ("step", "evaluation")
KEPT = 12  # the twelve stages of order_eight never have more than ten estimates waiting


@dataclass(frozen=True, eq=False)
class SelfConditioned(WrappedModel):
    r"""A network with one more argument: its own last estimate :math:`\hat D` of the clean sample, 0 at the start.

    Each branch of guidance has its own. With ``update="step"`` an evaluation at time t is told the estimate of the
    latest time before t, and replaces what was remembered at t and after. So a corrector at the end of a step does not
    count, since the next step evaluates there again, and neither does a rejected step. Stages inside a step do. With
    "evaluation" it is told that of the evaluation before, whatever its time.

    Such a model is no ordinary differential equation: inversion, likelihoods, searches and parallel runs are refused,
    and no order of convergence is claimed.

    Attributes:
        argument: Keyword argument of the network that receives the estimates, [B, *D].
        update: "step" or "evaluation".
        clip: Estimates are clamped to [-clip, clip], if the network was trained so.
        share: The branch whose estimate all branches are told; None for each its own.
        kept: How many estimates back an evaluation may go.

    Raises:
        UnknownNameError: Another update.
        ArgumentError: A clip that is not positive, nothing to be kept; when bound, around another wrapper.

    Source:
        Chen, Zhang & Hinton 2022, Analog Bits, section 3.2.

    Example:
        >>> from pushforward.models import adapt
        >>> network = lambda x, t, previous: previous + 1
        >>> bound = SelfConditioned.around(adapt(network, "denoised")).bind()
        >>> [bound.evaluate(torch.zeros(1, 1), t)[0].item() for t in (0.0, 0.5, 0.5, 0.75)]
        [1.0, 2.0, 2.0, 3.0]
    """

    argument: str = "previous"
    update: str = "step"
    clip: float | None = None
    share: str | None = None
    kept: int = KEPT

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise UnknownNameError("update", got=repr(self.update), expected="'step' or 'evaluation'")
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError("clip", got=self.clip, expected="a positive number, or None")
        if self.kept < 1:
            raise ArgumentError("kept", got=self.kept, expected="at least 1")

    @property
    def own_memory(self) -> Remembers:
        """Its estimates, which the network is told."""
        return Remembers.FEEDBACK

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        if not isinstance(bound, BoundModel):
            hint = "Put other wrappers around this one"
            raise ArgumentError("inner", got=type(self.inner).__name__, expected="the network's own model", hint=hint)
        return BoundSelfConditioned(self, bound, {}, None)


class BoundSelfConditioned(BoundWrapped):
    """A run of a :class:`SelfConditioned` model, or some of its rows.

    Args:
        model, inner: As of :class:`BoundWrapped`.
        memory: Of each branch that was evaluated; shared with the bound model that these are rows of.
        place: Which rows of the memory these are, int64 [B]; None before the first evaluation.
    """

    def __init__(
        self, model: SelfConditioned, inner: BoundModel, memory: dict[str, Memory], place: NDArray[np.int64] | None
    ) -> None:
        super().__init__(model, inner)
        self.own, self.network = model, inner
        self.memory, self.place = memory, place

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """What the network answers, told its last estimates."""
        rows = x.shape[0]
        place = np.arange(rows) if self.place is None else self.place
        self.place = place
        if len(place) != rows:
            hint = "A network that remembers serves the same rows throughout a run; select() takes some of them"
            raise ShapeError("x", got=f"{rows} rows", expected=f"{len(place)}, as before", hint=hint)
        times = t if isinstance(t, np.ndarray) else np.full(rows, float(t))
        told = [self.recalled(self.own.share or branch, x, place, times) for branch in branches]
        outputs = self.network.answer_with(x, t, branches, {self.own.argument: told})
        for branch, output in zip(branches, outputs, strict=True):
            if self.own.share in (None, branch):
                estimate = read_as(self.own.prediction, "denoised", t, x.detach(), output.detach())
                if self.own.clip is not None:
                    estimate = estimate.clamp(-self.own.clip, self.own.clip)
                self.memory[branch].write(place, times, estimate)
        return outputs

    def recalled(self, branch: str, x: Tensor, place: NDArray[np.int64], times: NDArray[np.float64]) -> Tensor:
        """What the branch is told at these times."""
        if branch not in self.memory:
            size = max(len(place), self.size)
            self.memory[branch] = Memory(size, self.own.kept, x, by_time=self.own.update == "step")
        return self.memory[branch].read(place, times)

    @property
    def size(self) -> int:
        """Rows of the memories there are."""
        return max((len(memory.count) for memory in self.memory.values()), default=0)

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`. Rows chosen once go on as they are; a row chosen twice becomes two."""
        inner = cast(BoundModel, self.network.select(index))
        if self.place is None:
            return BoundSelfConditioned(self.own, inner, {}, None)
        chosen = self.place[torch.as_tensor(index, dtype=torch.int64).cpu().numpy()]
        if len(np.unique(chosen)) == len(chosen):
            return BoundSelfConditioned(self.own, inner, self.memory, chosen)
        copies = {branch: memory.rows(chosen) for branch, memory in self.memory.items()}
        return BoundSelfConditioned(self.own, inner, copies, np.arange(len(chosen)))


class Memory:
    """Estimates of rows at increasing times, the last ``kept`` of each.

    Args:
        rows: How many.
        kept: Estimates of a row.
        like: A tensor [B, *D] whose dtype and device, and shape behind the first, those of the estimates are.
        by_time: Whether an estimate is kept by its time; otherwise the last one is, whenever it was.
    """

    def __init__(self, rows: int, kept: int, like: Tensor, *, by_time: bool = True) -> None:
        self.kept, self.by_time = (kept if by_time else 1), by_time
        self.count = np.zeros(rows, dtype=np.int64)  # estimates before now, forgotten ones included
        self.times = np.full((rows, self.kept), -np.inf)
        self.number = np.zeros((rows, self.kept), dtype=np.int64)  # which estimate, from 1, a place holds
        self.values = torch.zeros((self.kept, rows, *like.shape[1:]), dtype=like.dtype, device=like.device)

    def read(self, rows: NDArray[np.int64], times: NDArray[np.float64]) -> Tensor:
        """The latest estimates before ``times``, [b, *D], 0 where there are none; what came later is forgotten.

        Raises:
            ArgumentError: A row goes back to a time whose estimate is kept no longer.
        """
        count = self.count[rows]
        while self.by_time:
            later = (count > 0) & (self.times[rows, (count - 1) % self.kept] >= times)
            if not later.any():
                break
            count = count - later
            last = (count - 1) % self.kept
            if ((count > 0) & (self.number[rows, last] != count)).any():
                expected = "as many estimates as a step has stages"
                raise ArgumentError("kept", got=self.kept, expected=expected, hint="Give SelfConditioned more")
        self.count[rows] = count
        last, place = (torch.from_numpy(i).to(self.values.device) for i in ((count - 1) % self.kept, rows))
        found = self.values[last, place]
        if (count == 0).any():
            found[torch.from_numpy(count == 0).to(found.device)] = 0
        return found

    def write(self, rows: NDArray[np.int64], times: NDArray[np.float64], values: Tensor) -> None:
        """Remember estimates, [b, *D], of times later than all that is remembered."""
        place = self.count[rows] % self.kept
        self.count[rows] = self.count[rows] + 1 if self.by_time else 1
        self.times[rows, place], self.number[rows, place] = times, self.count[rows]
        if not self.by_time:
            place = np.zeros_like(place)
        at, row = (torch.from_numpy(i).to(self.values.device) for i in (place, rows))
        self.values[at, row] = values

    def rows(self, index: NDArray[np.int64]) -> Memory:
        """A copy of some rows, in that order and as often as they occur."""
        other = object.__new__(Memory)
        other.kept, other.by_time = self.kept, self.by_time
        other.count, other.times, other.number = self.count[index], self.times[index], self.number[index]
        other.values = self.values[:, torch.from_numpy(index).to(self.values.device)]
        return other
