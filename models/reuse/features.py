"""Features reused between evaluations: submodules that are computed at key steps and answered from memory at others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import Tensor, nn

from ...errors import ArgumentError
from ..bound import Bound, Branches, Times
from ..capabilities import Remembers
from ..wrapping import WrappedModel
from .bound_reuse import BoundReuse
from .decisions import Decisions
from .modes import AddResidual, Hold, Record, RecordResidual
from .schedule import Schedule
from .state import RunState
from .taps import Taps

Reused: TypeAlias = Literal["output", "residual"]


@dataclass(frozen=True, eq=False)
class FeatureCache(WrappedModel):
    """A model whose named submodules are computed at key steps only; the rest of the network runs at every step.

    Make one with ``FeatureCache.around(model, schedule=..., hold=...)``. Samples do not depend on their batch, since
    the policy decides before the run. Where everything is computed the outputs are those of the model, bit for bit.

    Attributes:
        schedule: Times and policy. The policy must not look at the run: :class:`.stacks.ResidualCache` has probes.
        hold: Names of the submodules, as in ``named_modules()``; "" is the whole network.
        reuse: "output": answer with what was remembered; "residual": with the input plus that difference.
        order: Degree in which remembered outputs are extrapolated; 0 holds the last one.
        variable: What the extrapolation is in: "t" or "half_log_snr", where a key step at infinity is left out.
        ahead: At the first evaluation after a key step, decode all evaluations up to the next key in one call. The
            network must not see the state then, which is checked: it is told NaN.
        max_rows: Most rows of such a call; None: no limit.
        copy: Remember copies, for networks that write to features in place.
        module: The network that is tapped, if it is not the model's own callable.

    Raises:
        ArgumentError: A network that cannot be tapped, or options that contradict each other.
        UnknownNameError: No such submodule; lists the closest.

    Example:
        >>> import pushforward as pf
        >>> from pushforward.models import reuse
        >>> model = pf.models.load("digits28-small")
        >>> plan = pf.make_plan(model, solver="euler", steps=8)
        >>> schedule = reuse.Schedule.of(plan, reuse.Interval(2))
        >>> cached = reuse.FeatureCache.around(model, schedule=schedule, hold=("attention", "middle"))
        >>> x = pf.sample(cached, (1, 1, 28, 28), solver="euler", steps=8, condition={"label": torch.tensor([3])})
    """

    schedule: Schedule = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]  # given by around()
    hold: Sequence[str] = dataclasses.field(default=(), kw_only=True)
    reuse: Reused = dataclasses.field(default="output", kw_only=True)
    order: int = dataclasses.field(default=0, kw_only=True)
    variable: Literal["t", "half_log_snr"] = dataclasses.field(default="t", kw_only=True)
    ahead: bool = dataclasses.field(default=False, kw_only=True)
    max_rows: int | None = dataclasses.field(default=None, kw_only=True)
    copy: bool = dataclasses.field(default=False, kw_only=True)
    module: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if self.schedule.keys is None:
            hint = "ResidualCache has one: the first block of a stack"
            raise ArgumentError("policy", got=self.schedule.policy, expected="one that needs no probe", hint=hint)
        if isinstance(self.hold, str):
            object.__setattr__(self, "hold", (self.hold,))
        if not self.hold:
            raise ArgumentError("hold", got="no names", expected="submodules, as in named_modules()")
        if self.reuse not in ("output", "residual"):
            raise ArgumentError("reuse", got=repr(self.reuse), expected="'output' or 'residual'")
        if self.variable not in ("t", "half_log_snr"):
            raise ArgumentError("variable", got=repr(self.variable), expected="'t' or 'half_log_snr'")
        if self.order < 0:
            raise ArgumentError("order", got=self.order, expected="at least 0")
        if self.reuse == "residual" and (self.order or self.ahead):
            got = f"order={self.order}, ahead={self.ahead}"
            raise ArgumentError("reuse", got=f"'residual' with {got}", expected="'output', whose call sees no state")
        if self.max_rows is not None and self.max_rows < 1:
            raise ArgumentError("max_rows", got=self.max_rows, expected="at least 1, or None")
        Taps(tapped(self)).tap(self.hold, Record(RunState()))  # names that do not exist are refused now

    @property
    def own_memory(self) -> Remembers:
        """Features of the rows."""
        return Remembers.ROWS

    def wrap(self, bound: Bound) -> BoundFeatures:
        """See :meth:`WrappedModel.wrap`."""
        return BoundFeatures(self, bound)


class BoundFeatures(BoundReuse):
    """What a run evaluates of a :class:`FeatureCache`."""

    def __init__(self, model: FeatureCache, inner: Bound) -> None:
        state = RunState(keep=model.order + 1)
        super().__init__(model, inner, state, Decisions(model.schedule))
        self.options = model
        record = Record(state, model.copy) if model.reuse == "output" else RecordResidual(state)
        hold = Hold(state, model.order) if model.reuse == "output" else AddResidual(state)
        self.recording = Taps(tapped(model)).tap(model.hold, record)
        self.holding = Taps(tapped(model)).tap(model.hold, hold)
        self._ahead: dict[Branches, Ahead] = {}
        self._wide: dict[tuple[int, int], Bound] = {}
        self._place: Callable[[float], float] = (
            model.interpolant.half_log_snr if model.variable == "half_log_snr" else float
        )

    @property
    def calls(self) -> int:
        """How often the network was called so far."""
        return self.inner.calls + sum(wide.calls for wide in self._wide.values())

    @property
    def rows(self) -> int:
        """On how many rows in all."""
        return self.inner.rows + sum(wide.rows for wide in self._wide.values())

    def scheduled(self, x: Tensor, t: Times, index: int, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs, computed or with features from memory."""
        self.state.begin(branches, index, self._place(self.schedule.times[index]))
        latest = self.state.latest(branches)
        self.fresh = self.decisions(branches, branches, index, latest is not None)
        if self.fresh:
            self._ahead.pop(branches, None)
            with self.recording:
                return self.inner.answer(x, t, branches)
        if self.options.ahead:
            return self._from_ahead(x, index, branches, latest)
        with self.holding:
            outputs = self.inner.answer(x, t, branches)
        return tuple(o.clone() if self.state.owns(o) else o for o in outputs)  # held outputs are nobody's to keep

    # --- evaluations that do not depend on the state ------------------------------------------------------------

    def _from_ahead(self, x: Tensor, index: int, branches: Branches, key: int | None) -> tuple[Tensor, ...]:
        """The answer from those that were decoded together, decoding the next ones if it is not there."""
        ahead = self._ahead.get(branches)
        if ahead is None or ahead.key != key or index not in ahead.answers:
            ahead = self._ahead[branches] = Ahead(key, self._decode(x, index, branches))
        outputs = ahead.answers[index]
        if index in ahead.given:  # a second stage at the same time
            return tuple(output.clone() for output in outputs)
        ahead.given.add(index)
        return outputs

    def _decode(self, x: Tensor, index: int, branches: Branches) -> dict[int, tuple[Tensor, ...]]:
        """Outputs from evaluation ``index`` to the next key, by index, in one call."""
        rows, span = x.shape[0], self.schedule.span(index)
        most = len(span) if self.options.max_rows is None else max(1, self.options.max_rows // max(rows, 1))
        span = span[:most]
        count = len(span)
        times = np.repeat(np.asarray(self.schedule.times)[span.start : span.stop], rows)
        wide = self._wide.get((rows, count))
        if wide is None:
            wide = self._wide[rows, count] = self.inner.select(np.tile(np.arange(rows), count))
        unknown = x.new_full((count * rows, *x.shape[1:]), math.nan)
        self.state.begin(branches, index, [self._place(self.schedule.times[i]) for i in span], rows)
        with self.holding:
            outputs = wide.answer(unknown, times if count > 1 else float(self.schedule.times[index]), branches)
        if branches not in self._ahead and not all(bool(output.isfinite().all()) for output in outputs):
            raise ArgumentError(
                "ahead",
                got="a network whose output depends on the state, though the named modules are held",
                expected="one that sees it through them alone",
                hint=f"Hold all that sees the state, or ahead=False; held are {list(self.options.hold)}",
            )
        return {i: tuple(o.narrow(0, k * rows, rows) for o in outputs) for k, i in enumerate(span)}


@dataclass(slots=True)
class Ahead:
    """Answers that were decoded together: the key step that they belong to, the answers, and which were given."""

    key: int | None
    answers: dict[int, tuple[Tensor, ...]]
    given: set[int] = dataclasses.field(default_factory=set)


def tapped(model: Any) -> nn.Module:
    """The network whose submodules are tapped.

    Raises:
        ArgumentError: It is no module.
    """
    network = model.network if model.module is None else model.module
    if not isinstance(network, nn.Module):
        hint = "Pass module=, the torch.nn.Module that the function calls"
        raise ArgumentError("network", got=type(network).__name__, expected="a torch.nn.Module to tap", hint=hint)
    return network


def check_schedule(schedule: object) -> None:
    """Refuse anything but a schedule, in words."""
    if not isinstance(schedule, Schedule):
        hint = "Schedule.of(plan, policy) reads the times from a plan"
        raise ArgumentError("schedule", got=type(schedule).__name__, expected="a reuse.Schedule", hint=hint)
