"""Networks that are told what they last estimated: a memory of clean estimates that is kept by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..errors import ArgumentError, UnknownNameError
from .binding import BoundModel
from .bound import Bound, Branches, Index, Times
from .capabilities import Remembers
from .row_memory import KEPT, RowMemory
from .spaces import read_as
from .wrapping import BoundWrapped, WrappedModel

UPDATES = ("step", "evaluation")


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
        by_time = self.update == "step"
        memory = RowMemory(self.kept, by_time=by_time, direction=1.0, forgotten="Give SelfConditioned more")
        return BoundSelfConditioned(self, bound, memory)


class BoundSelfConditioned(BoundWrapped):
    """A run of a :class:`SelfConditioned` model, or some of its rows.

    Args:
        model, inner: As of :class:`BoundWrapped`.
        memory: The estimates, by branch.
    """

    def __init__(self, model: SelfConditioned, inner: BoundModel, memory: RowMemory) -> None:
        super().__init__(model, inner)
        self.own, self.network, self.memory = model, inner, memory

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """What the network answers, told its last estimates."""
        told = [self.recalled(self.own.share or branch, x, t) for branch in branches]
        outputs = self.network.answer_with(x, t, branches, {self.own.argument: told})
        for branch, output in zip(branches, outputs, strict=True):
            if self.own.share in (None, branch):
                estimate = read_as(self.own.prediction, "denoised", t, x.detach(), output.detach())
                if self.own.clip is not None:
                    estimate = estimate.clamp(-self.own.clip, self.own.clip)
                self.memory.add(branch, t, estimate)
        return outputs

    def recalled(self, branch: str, x: Tensor, t: Times) -> Tensor:
        """What the branch is told at these times."""
        value, _ = self.memory.latest(branch, t, x.shape[0])
        return torch.zeros_like(x) if value is None else value

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`."""
        inner = cast(BoundModel, self.network.select(index))
        return BoundSelfConditioned(self.own, inner, self.memory.select(index))
