"""Models around models: what stands between a network and a solver without being linear in the outputs."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from .adapter import Model, model_fields
from .bound import Bound, Branches, Index, Times
from .branch_weights import BranchWeights
from .capabilities import Remembers
from .interpolants import Interpolant
from .predictions import Prediction

Wrapper = TypeVar("Wrapper", bound="WrappedModel")


@dataclass(frozen=True, eq=False)
class WrappedModel(Model):
    """A model that answers with the help of another, and that solvers, searches and likelihoods take as any model.

    A subclass is a frozen dataclass of its options with a method :meth:`wrap`; make one with :meth:`around`, which
    gives it the dialect of the model inside. It has no state: what a run remembers lives in what ``wrap`` returns.

    Attributes:
        inner: The model inside.
    """

    inner: Model = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]  # given by around()

    @classmethod
    def around(cls: type[Wrapper], inner: Model, **own: Any) -> Wrapper:
        """The wrapper with the network, the prediction and the conditions of ``inner``, and options of its own."""
        return cls(**model_fields(inner), **own, inner=inner)

    @property
    def own_memory(self) -> Remembers:
        """What the wrapper remembers of a run; one whose bound model keeps something between calls says so here."""
        return Remembers.NOTHING

    @property
    def remembers(self) -> Remembers:
        """What the wrapper or the model inside remembers, whichever is more."""
        return max(self.own_memory, self.inner.remembers)

    @abstractmethod
    def wrap(self, bound: Bound) -> Bound:
        """What one run evaluates, around ``bound``, which is ``inner`` with the run's conditions."""

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> Bound:
        """See :meth:`Model.bind`."""
        return self.wrap(self.inner.bind(condition, null, guidance))

    def on(self, path: Interpolant | str) -> Model:
        """See :meth:`Model.on`."""
        return self.rewrapped(self.inner.on(path))

    def reading(self, prediction: Prediction) -> Model:
        """See :meth:`Model.reading`."""
        return self.rewrapped(self.inner.reading(prediction))

    def with_branches(self, **conditions: Mapping[str, Any]) -> Model:
        """See :meth:`Model.with_branches`."""
        return self.rewrapped(self.inner.with_branches(**conditions))

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Model:
        """See :meth:`Model.with_networks`."""
        return self.rewrapped(self.inner.with_networks(change))

    def rewrapped(self: Wrapper, inner: Model) -> Wrapper:
        """The same wrapper around another model."""
        outer = {field.name for field in dataclasses.fields(Model)} | {"inner"}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in outer}
        return type(self).around(inner, **own)


class BoundWrapped(Bound):
    """What a run evaluates of a :class:`WrappedModel`; a subclass overrides :meth:`answer` and keeps the run's state.

    One that remembers something for each row also overrides :meth:`select`; its model says so in ``own_memory``.
    """

    def __init__(self, model: WrappedModel, inner: Bound) -> None:
        self._model, self.inner = model, inner

    @property
    def model(self) -> Model:
        """Where it came from."""
        return self._model

    @property
    def calls(self) -> int:
        """How often a network was called so far."""
        return self.inner.calls

    @property
    def rows(self) -> int:
        """On how many rows in all."""
        return self.inner.rows

    @property
    def conditions(self) -> Mapping[str, dict[str, Any] | None]:
        """What each branch is bound to."""
        return self.inner.conditions

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """What the model inside answers."""
        return self.inner.answer(x, t, branches)

    def refine(self, x: Tensor, t: float, branches: Branches, base: Tensor) -> tuple[Tensor, ...]:
        """What the model inside says of a velocity's change."""
        return self.inner.refine(x, t, branches, base)

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`."""
        return self._model.wrap(self.inner.select(index))

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`."""
        self.inner.check_rows(rows)
