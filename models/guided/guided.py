"""A model under a rule of guidance that is not linear in its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError
from ..adapter import Model
from ..bound import Bound, Branches, Index, Times
from ..branch_weights import CONDITIONAL, BranchWeights, finite
from ..capabilities import Remembers
from ..guidance import Guidance
from ..row_memory import RowMemory
from ..spaces import Scalar, combined, in_space, on_device, vanishes
from ..wrapping import WrappedModel
from .moments import Moments, moments
from .own_weight import BoundToOwnWeight, check_no_other_weight
from .plain import Plain
from .rule import GramRule

UPDATE = "update"
Weight: TypeAlias = float | Tensor | Guidance | Callable[[float], float | Tensor]


@dataclass(frozen=True, eq=False)
class GuidedModel(WrappedModel):
    """A model that answers with its guided output; made by :func:`guided`.

    It answers the branch "cond" alone, as its weight is its own: runs take it without ``guidance=``.

    Attributes:
        weight: w: a :class:`Guidance`, float64 [B] on some device, or a function of t returning a number or [B].
        rule: What is made of the two branches.
    """

    weight: Guidance | Tensor | Callable[[float], float | Tensor] = dataclasses.field(default=Guidance(), kw_only=True)
    rule: GramRule = dataclasses.field(default=Plain(), kw_only=True)

    @property
    def against(self) -> str:
        """The branch that guidance moves away from."""
        return self.weight.against if isinstance(self.weight, Guidance) else Guidance().against

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> Bound:
        """See :meth:`Model.bind`.

        Raises:
            ArgumentError: Guidance beside the model's own; no condition of the branch that it needs.
        """
        check_no_other_weight(guidance)
        own = self.weight if isinstance(self.weight, Guidance) else Guidance(lambda t: float("nan"))
        return self.wrap(self.inner.bind(condition, null, own))

    @property
    def own_memory(self) -> Remembers:
        """The last updates of the rows, under momentum."""
        return Remembers.ROWS if self.rule.momentum else Remembers.NOTHING

    def wrap(self, bound: Bound) -> Bound:
        """See :meth:`WrappedModel.wrap`."""
        weight = self.weight.double() if isinstance(self.weight, Tensor) else None
        return BoundGuided(self, bound, weight, RowMemory())


def guided(model: Model, weight: Weight, rule: GramRule | None = None) -> GuidedModel:
    r"""A model under guidance whose coefficients depend on the outputs, each sample's on its own.

    An evaluation costs both branches, one reduction over outputs and state, and one combination; no value is read back
    from the device. Where the weight is 1 for all, the second branch is not run, and the conditional output returned.
    Solvers, searches and likelihoods take the result as any model; searches refuse a rule with momentum, which belongs
    to rows.

    A grid should have nodes at ``weight.breakpoints(path)`` of an interval: here each evaluation has the weight of its
    own time.

    Args:
        model: The model.
        weight: A number, a :class:`Guidance` (with an interval, or against another branch), a tensor [B] of weights of
            each sample's own, or a function of t returning a number or such a tensor.
        rule: :class:`Rescale`, :class:`CFGZero`, :class:`APG`, :class:`Tangential`, :class:`MagnitudeAware`;
            :class:`Plain` by default.

    Raises:
        ArgumentError: A weight that is not finite; a rule that is none.
        ShapeError, DtypeError: A tensor of weights that is not [B] floating-point numbers.

    Example:
        >>> from pushforward.models import APG, GaussianOracle, composed
        >>> sharp, broad = (GaussianOracle([0.0, 1.0], s).model() for s in (0.25, 0.49))
        >>> model = guided(composed(sharp, weak=broad), Guidance(2.0, against="weak"), APG(eta=0.0))
        >>> model.evaluate(torch.ones(3, 2), 0.5)[0].shape
        torch.Size([3, 2])
    """
    if rule is not None and not isinstance(rule, GramRule):
        raise ArgumentError("rule", got=type(rule).__name__, expected="a GramRule, such as Rescale(0.7)")
    if isinstance(weight, Tensor):
        if weight.ndim != 1:
            raise ShapeError("weight", got=list(weight.shape), expected="[B], one a sample")
        if not weight.is_floating_point():
            raise DtypeError("weight", got=str(weight.dtype), expected="a floating-point dtype")
        if not bool(weight.isfinite().all()):
            raise ArgumentError("weight", got="NaN or infinity", expected="finite numbers")
    elif isinstance(weight, BranchWeights) and not isinstance(weight, Guidance):
        raise ArgumentError("weight", got=type(weight).__name__, expected="a Guidance: a rule is about two branches")
    elif not callable(weight) and not isinstance(weight, Guidance):
        weight = Guidance(weight)
    return GuidedModel.around(model, weight=weight, rule=rule or Plain())


class BoundGuided(BoundToOwnWeight):
    """What a run evaluates of a :class:`GuidedModel`: with the rows' weights and, under momentum, their updates."""

    def __init__(self, model: GuidedModel, inner: Bound, weight: Tensor | None, updates: RowMemory) -> None:
        super().__init__(model, inner)
        self.guided, self.rule, self.weight, self.updates = model, model.rule, weight, updates

    def select(self, index: Index) -> Bound:
        """See :meth:`Bound.select`."""
        weight = self.weight
        if weight is not None and len(weight) > 1:
            weight = weight.index_select(0, torch.as_tensor(index, dtype=torch.int64).to(weight.device))
        return BoundGuided(self.guided, self.inner.select(index), weight, self.updates.select(index))

    def check_rows(self, rows: int) -> None:
        """See :meth:`Bound.check_rows`.

        Raises:
            ShapeError: Weights of another number of samples.
        """
        if self.weight is not None and len(self.weight) not in (1, rows):
            raise ShapeError("weight", got=f"{len(self.weight)} of them", expected=f"{rows}, as the state, or 1")
        self.inner.check_rows(rows)

    def answer(self, x: Tensor, t: Times, branches: Branches) -> tuple[Tensor, ...]:
        """The guided output."""
        self.check_branches(branches, "a guided model")
        held = np.asarray(t) < self.rule.hold_until
        if held.all():
            state, output = in_space(self.guided.prediction, "velocity", t, x.device)
            return combined([x], [[self._rest(state, output)]])
        weight = self._weight_at(t, x)
        if isinstance(weight, float) and weight == 1.0 and not held.any():
            return self.inner.answer(x, t, branches)
        cond, other = self.inner.answer(x, t, (CONDITIONAL, self.guided.against))
        tensors, rows = self._combined(x, t, cond, other, weight)
        if held.any():
            state, scale = in_space(self.guided.prediction, "velocity", t, x.device)
            rest = [0.0, 0.0, self._rest(state, scale), 0.0]
            keep = on_device(1.0 - held, x.device)
            tensors = tensors if len(tensors) > 2 else [cond, other, x]
            guided_row = [*rows[0], 0.0][: len(tensors)]
            rows[0] = [keep * a + (1.0 - keep) * b for a, b in zip(guided_row, rest[: len(tensors)], strict=True)]
        output, *update = combined(tensors, rows)
        if update:
            self.updates.add(UPDATE, t, update[0])
        return (output,)

    def _combined(
        self, x: Tensor, t: Times, cond: Tensor, other: Tensor, weight: Scalar
    ) -> tuple[list[Tensor], list[list[Scalar]]]:
        """Tensors, and their coefficients in the output and, under momentum, in the update."""
        rule = self.rule
        if not rule.measures:
            p, m = rule.coefficients(cast(Moments, None), weight)
            return [cond, other], [[1.0 + p + m, -m]]
        state, scale = in_space(self.guided.prediction, rule.space, t, x.device)
        tensors: list[Tensor] = [cond, other]
        remembered, share = self._remembered(t, scale, x)
        if not vanishes(state) or remembered is not None:
            tensors.append(x)
        c, u = [scale, 0.0, state], [0.0, scale, state]
        d: list[Scalar] = [1.0, -1.0, 0.0]
        if remembered is not None:
            tensors.append(remembered)
            c, d, u = [*c, 0.0], [*d, share], [*u, 0.0]
        c, d, u = c[: len(tensors)], d[: len(tensors)], u[: len(tensors)]
        p, m = rule.coefficients(moments(tensors, c, d, u, scale), weight)
        rows = [[(1.0 if k == 0 else 0.0) + p * a + m * b for k, (a, b) in enumerate(zip(c, d, strict=True))]]
        if rule.momentum:
            rows.append([scale * b for b in d])
        return tensors, rows

    def _remembered(self, t: Times, scale: Scalar, x: Tensor) -> tuple[Tensor | None, Scalar]:
        """The last update, and what multiplies it in the direction of guidance: beta / b, or 0 without one."""
        if not self.rule.momentum:
            return None, 0.0
        value, known = self.updates.latest(UPDATE, t, x.shape[0])
        if value is None:
            return None, 0.0
        if isinstance(scale, Tensor):
            share: Scalar = torch.where(scale == 0, torch.zeros_like(scale), self.rule.momentum / scale)
        else:
            share = self.rule.momentum / scale if scale else 0.0
        return value, share if known is None else share * on_device(known, x.device)

    def _weight_at(self, t: Times, x: Tensor) -> Scalar:
        weight, path = self.guided.weight, self.guided.interpolant
        if self.weight is not None:
            return self.weight.to(x.device)
        if isinstance(weight, Guidance):
            if not isinstance(t, np.ndarray):
                return weight.weight_at(t, path)
            each = np.array([weight.weight_at(time, path) for time in t.tolist()])
            return 1.0 if (each == 1).all() else on_device(each, x.device)
        function = cast(Callable[[float], float | Tensor], weight)
        if not isinstance(t, np.ndarray):
            return number_or_rows(function(t), t, x)
        found = [number_or_rows(function(time), time, x) for time in t.tolist()]
        rows = [w.expand(len(t))[row] if isinstance(w, Tensor) else w for row, w in enumerate(found)]
        return torch.stack([torch.as_tensor(w, dtype=torch.float64, device=x.device) for w in rows])

    def _rest(self, state: Scalar, output: Scalar) -> Scalar:
        """What the network's input is multiplied by to give the output of zero velocity."""
        return -(state / output)


def number_or_rows(weight: float | Tensor, t: float, x: Tensor) -> Scalar:
    """What a weight function returned: a finite number, or float64 on the state's device.

    Raises:
        ArgumentError: NaN or infinity, where the number is on the host.
        ShapeError: Neither a number nor [B].
    """
    if not isinstance(weight, Tensor):
        return finite(weight, f"weight at t = {t:.4g}")
    if weight.shape not in ((1,), (x.shape[0],)):
        raise ShapeError(f"weight at t = {t:.4g}", got=list(weight.shape), expected=f"[{x.shape[0]}] or [1]")
    return weight.to(device=x.device, dtype=torch.float64)
