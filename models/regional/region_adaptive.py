"""A model whose network sees, at most evaluations, only the tokens that it is working on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor, nn

from ...errors import ArgumentError, ShapeError
from ..bound import Bound, Branches, Times
from ..branch_weights import finite
from ..capabilities import Remembers
from ..reuse.taps import Call, Taps
from ..wrapping import BoundWrapped, WrappedModel
from .memory import Memory, TokenPass
from .schedule import RegionSchedule
from .selectors import SELECTORS, Selector, Tokens, choose
from .sites import TokenSites, token_sites


@dataclass(frozen=True, eq=False)
class RegionAdaptive(WrappedModel):
    r"""A transformer that sends the active tokens of each sample through its network; the others keep their output.

    .. math:: o_k(i) = \begin{cases} \text{network output} & i \in A_k \\ o_{k-1}(i) & \text{else} \end{cases}, \quad
        A_k = \text{the } n_k \text{ largest of } \log s_i + \kappa a_i

    with the score s of a selector and the number a of evaluations since the token was last active. All tokens stay at
    one time, so solvers, guidance and grids are what they were. Queries are those of active tokens; keys and values
    are remembered for all, and those of active tokens are replaced. Make one with
    ``RegionAdaptive.around(model, schedule=...)``.

    A token waits at most ``floor(R / kappa) + 1 + floor((N - 1) / n)`` evaluations, where R is the range of
    ``log s``: once older than R / kappa, it can be beaten by each other token only once.

    Steps of a multistep solver difference kept outputs too, and those of a token that is kept do not change: its
    solver is Euler's until it is active again. A run that goes back behind its last evaluation begins with a dense one,
    and rows with times of their own are always dense. What is remembered belongs to rows, so a search that moves
    particles must not have this model.

    Attributes:
        schedule: How many tokens at each evaluation.
        selector: "change", "drift", "std" (low first), "random", or a function of :class:`.Tokens` that returns
            ``log s``, [B, N]; see :mod:`.selectors`.
        starvation: The :math:`\kappa \ge 0` above; 0: tokens may wait for ever.
        seed: Of random choices.
        sites: Where tokens enter, are attended to and leave; found by :func:`.token_sites` if None.
        module: The network that is looked into, if it is not the model's own callable.

    Raises:
        ArgumentError: A network without token structure or that is no module; an option outside its range.
        UnknownNameError: A site that the network does not have.

    Source:
        Liu et al. 2025, Region-Adaptive Sampling for Diffusion Transformers. There ages favour the tokens that are
        kept, if all of the kept ones are those of the highest scores: here they favour the active.

    Example:
        >>> import pushforward as pf
        >>> from pushforward.models.regional import RegionAdaptive, RegionSchedule
        >>> model = pf.models.load("digits28-dit")
        >>> fast = RegionAdaptive.around(model, schedule=RegionSchedule(0.5, warmup=2))
        >>> x = pf.sample(fast, (1, 1, 28, 28), solver="euler", steps=6, condition={"label": torch.tensor([3])})
    """

    schedule: RegionSchedule = dataclasses.field(default_factory=RegionSchedule, kw_only=True)
    selector: str | Selector = dataclasses.field(default="change", kw_only=True)
    starvation: float = dataclasses.field(default=0.1, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)
    sites: TokenSites | None = dataclasses.field(default=None, kw_only=True)
    module: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, RegionSchedule):
            raise ArgumentError("schedule", got=type(self.schedule).__name__, expected="a RegionSchedule")
        if finite(self.starvation, "starvation") < 0:
            raise ArgumentError("starvation", got=self.starvation, expected="at least 0")
        if not callable(self.selector) and self.selector not in SELECTORS:
            expected = f"a function, or one of {', '.join(SELECTORS)}"
            raise ArgumentError("selector", got=repr(self.selector), expected=expected)
        network = self.network if self.module is None else self.module
        if not isinstance(network, nn.Module) or hasattr(network, "_orig_mod"):
            hint = "Pass module=, the torch.nn.Module that the function calls; compile its blocks, not the whole"
            raise ArgumentError("network", got=type(network).__name__, expected="a torch.nn.Module", hint=hint)
        if self.sites is None:
            object.__setattr__(self, "sites", token_sites(network))
        Taps(network).tap((self.where.entry, *self.where.keys, self.where.exit), _itself)  # names are refused now

    @property
    def where(self) -> TokenSites:
        """The sites, given or found."""
        return cast(TokenSites, self.sites)

    @property
    def tapped(self) -> nn.Module:
        """The network that is looked into."""
        return cast(nn.Module, self.network if self.module is None else self.module)

    @property
    def own_memory(self) -> Remembers:
        """Tokens of the rows."""
        return Remembers.ROWS

    def wrap(self, bound: Bound) -> BoundRegionAdaptive:
        """See :meth:`WrappedModel.wrap`."""
        return BoundRegionAdaptive(self, bound)

    def scores(self, tokens: Tokens) -> Tensor:
        """The selector's logarithms of scores, [B, N]."""
        return SELECTORS[self.selector](tokens) if isinstance(self.selector, str) else self.selector(tokens)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation of a run.

    Attributes:
        index: Which, counted from 0; a later stage or a repeated step has the index of what it replaces.
        time: Solver time.
        branches: Of guidance.
        active: How many tokens of a sample went through the network.
        tokens: How many there are.
    """

    index: int
    time: float
    branches: Branches
    active: int
    tokens: int


class BoundRegionAdaptive(BoundWrapped):
    """What a run evaluates of a :class:`RegionAdaptive`: it holds the caches, and they go with it.

    Attributes:
        log: The evaluations so far.
    """

    def __init__(self, model: RegionAdaptive, inner: Bound) -> None:
        super().__init__(model, inner)
        self.options = model
        self.log: list[Evaluated] = []
        self._taps = self._tapped(model)
        self._pass: TokenPass | None = None
        self._memory: Memory | None = None
        self._times: list[float] = []
        self._direction = 0.0

    @property
    def share(self) -> float:
        """Active tokens so far as a share of all, dense evaluations included; NaN before the first."""
        seen = sum(entry.tokens for entry in self.log)
        return sum(entry.active for entry in self.log) / seen if seen else math.nan

    @property
    def active(self) -> Tensor | None:
        """Tokens of the last evaluation, int64 [B, n], ascending; None if it was dense."""
        return None if self._memory is None else self._memory.active

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """The outputs: new for active tokens, remembered for the others."""
        model = self.options
        if isinstance(t, np.ndarray) or not x.shape[0] or model.schedule.ratio == 1:
            return self.inner.answer(x, t, branches)
        index, back = self._place(float(t))
        memory = self._matching(branches, x.shape[0], index, back)
        if memory is None:
            active, base = None, None
        elif back:
            active, base = memory.active, memory.before
        else:
            base = memory
            active = self._choose(memory, index, x.shape[0])
        run = TokenPass(x.shape[0], active, base, memory)
        self._pass = run
        with self._taps:
            outputs = self.inner.answer(x, t, branches)
        self._memory, self._pass = run.remember(branches, index), None
        if self._memory is not None:
            tokens = self._memory.tokens
            count = tokens if active is None else active.shape[1]
            self.log.append(Evaluated(index, float(t), branches, count, tokens))
        return outputs

    def _tapped(self, model: RegionAdaptive) -> Taps:
        """Taps that hand what comes by to the pass of the evaluation that runs."""

        def entry(call: Call) -> Tensor:
            return cast(TokenPass, self._pass).enter(_itself(call))

        def keys(call: Call) -> Tensor:
            return cast(TokenPass, self._pass).attend(call.name, _itself(call))

        def leave(call: Call) -> Tensor:
            return cast(TokenPass, self._pass).leave(_itself(call))

        where = model.where
        return Taps(model.tapped).tap(where.entry, entry).tap(where.keys, keys).tap(where.exit, leave)

    def _choose(self, memory: Memory, index: int, rows: int) -> Tensor | None:
        """The active tokens, [B, n]; None for all."""
        model, count = self.options, self.options.schedule.count(index, memory.tokens)
        if count == memory.tokens:
            return None
        seen = Tokens(memory.stacked(rows), memory.change, memory.age, index, model.seed)
        scores = model.scores(seen)
        if scores.shape != memory.age.shape:
            expected = f"{list(memory.age.shape)}, one for each token"
            raise ShapeError("selector", got=list(scores.shape), expected=expected)
        return choose(scores + model.starvation * memory.age, count)

    def _matching(self, branches: Branches, rows: int, index: int, back: int) -> Memory | None:
        """What is remembered for this evaluation to go on from; None if it has to be dense."""
        memory = self._memory
        if memory is None or back > 1 or memory.index != index - (not back):
            return None
        if memory.rows != rows:
            hint = "What is remembered belongs to one run: bind the model again for other rows"
            raise ShapeError("x", got=f"{rows} rows", expected=f"{memory.rows}, as before", hint=hint)
        return memory if memory.branches == branches else memory.of_branches(branches)

    def _place(self, t: float) -> tuple[int, int]:
        """Which evaluation of the run this is, and how many remembered ones it takes the place of."""
        times, back = self._times, 0
        if len(times) == 1:
            self._direction = float(np.sign(t - times[0]))
        while times and (t - times[-1]) * self._direction <= 0:
            times.pop()
            back += 1
        times.append(t)
        return len(times) - 1, back


def _itself(call: Call) -> Tensor:
    """What the module returns."""
    return call.run(*call.args, **call.kwargs)
