"""Steps of the adjoint equation, with the integral that is the parameters' gradient as a quadrature over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..adaptive.explicit import ExplicitMethod, stage_work
from ..adaptive.field import Field, Times
from ..adaptive.method import Attempt, Live


@dataclass
class Pullback:
    """The field at some states, with its graph.

    Attributes:
        x: States [b, *D], a leaf.
        slope: Slopes there.
        adjoint: What they were pulled back by, [b, *D].
        t: Times [b].

    """

    x: Tensor
    slope: Tensor
    adjoint: Tensor
    t: Times


@dataclass(frozen=True)
class AdjointField:
    r"""Slopes of state and adjoint, side by side: [b, 2, *D].

    .. math:: \dot x = v(x, t), \qquad \dot a = -a^T \frac{\partial v}{\partial x}(x, t)

    Attributes:
        field: v.

    """

    field: Field

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        """Both slopes."""
        return self.pull(x, times, keep=False)[0]

    def pull(self, z: Tensor, times: Times, *, keep: bool) -> tuple[Tensor, Pullback]:
        """Both slopes, and with ``keep`` a graph that can be pulled back once more, to parameters."""
        with torch.enable_grad():
            x, a = z[:, 0].contiguous().detach().requires_grad_(), z[:, 1]
            slope = self.field(x, times)
            back = None
            if slope.requires_grad:
                (back,) = torch.autograd.grad(slope, x, -a, retain_graph=keep, allow_unused=True)
        back = torch.zeros_like(x) if back is None else back
        return torch.stack([slope.detach(), back], dim=1), Pullback(x, slope, a, times)

    def rows(self, index: Tensor) -> AdjointField:
        """The field of some of the samples; gradients of conditions go through the choice."""
        with torch.enable_grad():
            return AdjointField(self.field.rows(index))


@dataclass
class AdjointAttempt(Attempt):
    """An attempt that remembers its stages, as far as they have a weight."""

    pullbacks: list[tuple[float, Pullback]] = field(default_factory=list)


@dataclass(frozen=True)
class AdjointMethod:
    """Steps of an embedded pair for state and adjoint; every first stage is evaluated, as adjoints jump.

    Attributes:
        base: The pair's own method.
        parameters: Whether stages are to keep their graphs for :class:`Quadrature`.

    """

    base: ExplicitMethod
    parameters: bool
    keeps_slope = False
    dense = False

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.base.name

    @property
    def order(self) -> float:
        """Of the pair."""
        return self.base.order

    def attempt(self, live: Live, h: np.ndarray) -> AdjointAttempt:
        """Evaluate the stages, the new state and its error."""
        base, z = self.base, live.x
        assert isinstance(live.field, AdjointField)
        work = stage_work(z, torch.from_numpy(h), torch.from_numpy(live.t))
        kept: list[tuple[float, Pullback]] = []
        new, times = z, torch.from_numpy(live.t.copy())
        for stage, weight in enumerate(base.weights):
            if stage:
                new, times = work.stage(*base.rows[stage - 1])
            keep = self.parameters and weight != 0
            slope, pullback = live.field.pull(new, times, keep=keep)
            work.add(slope)
            if keep:
                kept.append((weight, pullback))
        if not base.ends_at_new_state:
            new, _ = work.stage(base.weights, 1.0)
        ratio = base.error_ratio(work, new, live.tolerance)
        return AdjointAttempt(new, ratio, None, len(base.weights), pullbacks=kept)


class Quadrature:
    r"""Gradients of parameters, summed over samples and accepted steps as the loop goes.

    .. math:: \frac{dL}{dp} = \int_{t_0}^{t_1} a^T \frac{\partial v}{\partial p} dt \approx
        -\sum_{steps} h \sum_i b_i\, a_i^T \frac{\partial v}{\partial p}(x_i, t + c_i h)

    with the weights and stages of the step itself: what integrating them along with the state would give, of the same
    order, but no state of B rows and all parameters, and no part in the error norm. One backward pass a step.

    Args:
        parameters: What to differentiate by.
        scale: What adjoints have been divided by, [b].

    Attributes:
        total: The gradients so far, one for each parameter.

    """

    def __init__(self, parameters: Sequence[Tensor], scale: Tensor) -> None:
        self.parameters, self.scale = list(parameters), scale
        self.total = [torch.zeros_like(parameter) for parameter in self.parameters]

    def renew(self, live: Live, fresh: np.ndarray) -> Tensor | None:
        """First stages are always evaluated."""

    def step(self, live: Live, attempt: Attempt, accept: np.ndarray, h: np.ndarray, after: np.ndarray) -> None:
        """Add the accepted steps."""
        if not isinstance(attempt, AdjointAttempt) or not attempt.pullbacks or not accept.any():
            return
        samples = torch.from_numpy(live.samples).to(live.x.device)
        size = torch.from_numpy(np.where(accept, -h, 0.0)).to(live.x.device)
        size = size * self.scale.index_select(0, samples).to(size.dtype)
        kept = attempt.pullbacks
        if not np.isfinite(attempt.ratio[~accept]).all():  # a weight of zero would not keep NaN out
            index = torch.from_numpy(np.flatnonzero(accept))
            place = index.to(live.x.device)
            size = size.index_select(0, place)
            kept = [(weight, renewed(live.field, pullback, index)) for weight, pullback in kept]
        used = [(weight, pullback) for weight, pullback in kept if pullback.slope.requires_grad]
        cotangents = []
        for weight, pullback in used:
            column = (weight * size).to(pullback.adjoint.dtype).reshape(-1, *[1] * (pullback.adjoint.ndim - 1))
            cotangents.append(pullback.adjoint * column)
        if not used:
            return
        slopes = [pullback.slope for _, pullback in used]
        # The stages' graphs go with the attempt; what they share, rows of conditions for one, is needed again.
        found = torch.autograd.grad(slopes, self.parameters, cotangents, retain_graph=True, allow_unused=True)
        for total, gradient in zip(self.total, found, strict=True):
            if gradient is not None:
                total += gradient


def renewed(field: Field, pullback: Pullback, index: Tensor) -> Pullback:
    """The field evaluated again, of some samples."""
    rows, place = field.rows(index), index.to(pullback.x.device)
    assert isinstance(rows, AdjointField)
    with torch.enable_grad():
        x = pullback.x.detach().index_select(0, place)
        t = pullback.t.index_select(0, index)
        return Pullback(x, rows.field(x, t), pullback.adjoint.index_select(0, place), t)
