"""Reuse in stacks of blocks: the residual of a whole transformer, added to new inputs while a probe changes little."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ArgumentError
from ..bound import Bound, Branches, Times
from ..capabilities import Remembers
from ..wrapping import WrappedModel
from .bound_reuse import BoundReuse
from .decisions import Decisions
from .features import check_schedule, tapped
from .modes import Record, stream
from .outputs import map_tensors, tensors
from .schedule import Schedule
from .state import RunState
from .taps import Call, Taps


@dataclass(frozen=True, eq=False)
class ResidualCache(WrappedModel):
    r"""A model whose stack of blocks is replaced by its last residual where the policy says so.

    .. math:: y = \begin{cases} B_L(\cdots B_1(x)) & \text{computed; remember } r = y - x \\ x + r & \text{reused}
        \end{cases}

    Whatever stands before the stack and behind it (embedding, output head) runs with the new state and the current
    time. With ``first`` the first block always runs too, and x is its output: what :class:`FirstBlock` probes. Without,
    the probe is the stack's input, or the output of a submodule of the first block, for instance its modulated norm:
    that of TeaCache. :class:`MagnitudeRatio`, :class:`Interval` and :class:`Static` need no probe.

    A policy with a probe reads one number over all rows of a call, so a sample then depends on its batch; the others
    decide before the run. Make one with ``ResidualCache.around(model, schedule=..., blocks=...)``.

    Attributes:
        schedule: Times and policy.
        blocks: Names of the blocks, in their order, or of the list that holds them. Each returns a tensor, or a tree
            of tensors like the first one's; the last may return None in the place of some.
        first: Run the first block always.
        probe: Name of a submodule of the first block whose output is the probe; by default the stack's first input,
            or with ``first`` the residual of the first block.
        lag: See :class:`.decisions.Decisions`.
        measure: Compare residuals of computed evaluations, for :meth:`BoundResiduals.magnitude_ratios`.
        module: The network that is tapped, if it is not the model's own callable.

    Raises:
        ArgumentError: Fewer than two blocks; a probe outside the first block; a network that cannot be tapped.
        UnknownNameError: No such submodule; lists the closest.

    Source:
        Liu et al. 2024 (TeaCache); First-Block Cache (ParaAttention, 2025); Ma et al. 2025 (MagCache).

    Example:
        >>> from pushforward.models import adapt, reuse
        >>> blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model = adapt(nn.Sequential(blocks, nn.Tanh()), call="x")
        >>> schedule = reuse.Schedule([0.0, 0.25, 0.5, 0.75], reuse.FirstBlock(0.1))
        >>> cached = reuse.ResidualCache.around(model, schedule=schedule, blocks="0")
    """

    schedule: Schedule = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]  # given by around()
    blocks: str | Sequence[str] = dataclasses.field(default=(), kw_only=True)
    first: bool = dataclasses.field(default=True, kw_only=True)
    probe: str | None = dataclasses.field(default=None, kw_only=True)
    lag: int | None = dataclasses.field(default=None, kw_only=True)
    measure: bool = dataclasses.field(default=False, kw_only=True)
    module: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if self.lag not in (None, 0, 1):
            raise ArgumentError("lag", got=self.lag, expected="0, 1 or None")
        names = self.names
        if len(names) < 2:
            raise ArgumentError("blocks", got=names, expected="two or more, or the list that holds them")
        if self.probe is not None and not self.probe.startswith(f"{names[0]}."):
            raise ArgumentError("probe", got=repr(self.probe), expected=f"a submodule of the first block, {names[0]}.*")
        Taps(tapped(self)).tap(names, Record(RunState())).tap(self.probe or (), Record(RunState()))

    @property
    def names(self) -> tuple[str, ...]:
        """The blocks in their order."""
        if not isinstance(self.blocks, str):
            return tuple(self.blocks)
        held = dict(tapped(self).named_modules()).get(self.blocks)
        if isinstance(held, nn.ModuleList | nn.Sequential):
            return tuple(f"{self.blocks}.{i}" for i in range(len(held)))
        return (self.blocks,)

    @property
    def own_memory(self) -> Remembers:
        """Residuals of the rows."""
        return Remembers.ROWS

    def wrap(self, bound: Bound) -> BoundResiduals:
        """See :meth:`WrappedModel.wrap`."""
        return BoundResiduals(self, bound)


Pass = tuple[Branches, int]
"""Which branches, and which call of the stack in one evaluation."""


class Skip(Exception):
    """Leaves the first block at its probe, when the stack is not to run; caught around that block."""


class BoundResiduals(BoundReuse):
    """What a run evaluates of a :class:`ResidualCache`."""

    def __init__(self, model: ResidualCache, inner: Bound) -> None:
        super().__init__(model, inner, RunState(), Decisions(model.schedule, model.lag))
        self.options = model
        first, *middle, self.final = model.names
        self.taps = Taps(tapped(model)).tap(first, self._first).tap(middle, self._middle).tap(self.final, self._last)
        if model.probe is not None:
            self.taps.tap(model.probe, self._probe)
        self.number, self.skip = 0, False  # of the pass through the stack that is under way, as the next
        self.base: Any = None
        self.where: Any = None
        self.seen: Any = None
        self._residuals: dict[Pass, list[tuple[int, Any]]] = {}
        self._ratios: dict[tuple[int, Pass], Tensor] = {}

    def scheduled(self, x: Tensor, t: Times, index: int, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs, computed or with the stack's residual from memory."""
        self.state.begin(branches, index)
        before = len(self.log)
        try:
            with self.taps:
                return self.inner.answer(x, t, branches)
        finally:
            self.base = self.where = self.seen = None
            self.fresh = all(decision.fresh for decision in self.log[before:])

    def magnitude_ratios(self) -> tuple[float, ...]:
        r"""The table of :class:`MagnitudeRatio`, from a run that computed every evaluation with ``measure``.

        .. math:: g_k = \operatorname{mean}_{b, n} \; |r_k(b, n)|_2 / |r_{k-1}(b, n)|_2

        over samples and tokens, norms over the last dimension; g_0 = 1.

        Raises:
            ArgumentError: Not every evaluation was measured.
        """
        count = len(self.schedule.times)
        missing = sorted(set(range(1, count)) - {index for index, _ in self._ratios})
        if missing:
            hint = "Run once with measure=True and a policy that always computes"
            raise ArgumentError("measure", got=f"no ratios at evaluations {missing}", hint=hint)
        found = ([float(r) for (i, _), r in self._ratios.items() if i == index] for index in range(1, count))
        return (1.0, *(sum(ratios) / len(ratios) for ratios in found))

    # --- what the taps do ---------------------------------------------------------------------------------------

    def _decide(self, probe: Any) -> bool:
        """Whether the stack runs."""
        state = self.state
        key, possible = (state.branches, self.number), state.remembers(self.final, self.number)
        return self.decisions(key, state.branches, state.index, possible, probe)

    def _probe(self, call: Call) -> Any:
        output = call.run(*call.args, **call.kwargs)
        self.seen = next(tensors(output))
        if not self.options.first:
            self.skip = not self._decide(self.seen)
            if self.skip:
                raise Skip
        return output

    def _first(self, call: Call) -> Any:
        self.number, self.skip, self.seen, self.where = call.number, False, None, None
        return self._run_first(call) if self.options.first else self._enter(call)

    def _run_first(self, call: Call) -> Any:
        """The first block, which is always run, and the decision by what it does."""
        output = self.base = call.run(*call.args, **call.kwargs)
        probe = self.seen
        if probe is None and self.schedule.policy.reference is not None:
            given = list(tensors((call.args, call.kwargs)))
            probe = map_tensors(lambda leaf, i: leaf - given[i], output, stream(call, output))
        self.skip = not self._decide(probe)
        return output

    def _enter(self, call: Call) -> Any:
        """The decision by what enters the stack; the first block is run if all are."""
        given, output = list(tensors((call.args, call.kwargs))), None
        if self.options.probe is None:
            self.skip = not self._decide(given[0])
        if not self.skip:
            with contextlib.suppress(Skip):
                output = call.run(*call.args, **call.kwargs)
        if self.skip:
            self.where, like = self.state.newest(self.final, self.number)
        else:
            self.where, like = stream(call, output), output
        self.base = map_tensors(lambda _, i: given[i], like, self.where)
        return self.base if self.skip else output

    def _middle(self, call: Call) -> Any:
        return self.base if self.skip else call.run(*call.args, **call.kwargs)

    def _last(self, call: Call) -> Any:
        if self.skip:
            return map_tensors(lambda r, base: base + r, self.state.get(call)[-1].value[1], self.base)
        output = call.run(*call.args, **call.kwargs)
        residual = map_tensors(self._difference, output, self.base)
        self.state.put(call, (self.where, residual))
        if self.options.measure:
            self._measure(residual)
        return output

    def _difference(self, output: Tensor, base: Any) -> Tensor:
        if not isinstance(base, Tensor) or base.shape != output.shape:
            got = f"the last returns {list(output.shape)} where the first has {list(getattr(base, 'shape', []))}"
            raise ArgumentError("blocks", got=got, expected="blocks that return tensors of the same shapes")
        return output - base

    def _measure(self, residual: Any) -> None:
        """The ratio of this residual to the one before."""
        place, index = (self.state.branches, self.number), self.state.index
        history = [(i, old) for i, old in self._residuals.get(place, []) if i < index]
        if history:
            pairs = zip(tensors(residual), tensors(history[-1][1]), strict=True)
            ratios = [(new.norm(dim=-1) / old.norm(dim=-1)).flatten() for new, old in pairs]
            self._ratios[index, place] = torch.cat(ratios).mean()
        self._residuals[place] = [*history[-1:], (index, residual)]
