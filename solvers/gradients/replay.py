"""Accepted steps once more, with gradients: what was computed is what is differentiated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..adaptive.explicit import ExplicitMethod, dense_weights
from ..adaptive.field import Field, own
from ..adaptive.pairs import Pair
from .linear import weighted_sum
from .tape import Group

Checkpoint = bool | Literal["recursive"]
MOST_TENSORS = 16  # that one pass of `combine` reads


@dataclass
class Replay:
    r"""The recorded steps of a pair as a differentiable function of the first state.

    .. math:: x_{n+1} = \Phi(x_n; t_n, h_n), \qquad \frac{\partial L}{\partial x_n} =
        \Big(\frac{\partial \Phi}{\partial x_n}\Big)^T \frac{\partial L}{\partial x_{n+1}}

    with the step sizes constant, so that gradients are those of the scheme itself, to rounding; rejected attempts and
    the controller take no part. The n-th steps of all samples are one batch, whenever they were taken.

    Attributes:
        method: The method.
        field: Of all samples.
        groups: The steps, and what is wanted of each.
        checkpoint: Keep what autograd keeps (False); keep the states at the steps and compute the stages again, step by
            step, in the backward pass (True); keep the states at every :math:`\sqrt N`-th step only, and compute those
            between them again too ("recursive").

    """

    method: ExplicitMethod
    field: Field
    groups: Sequence[Group]
    checkpoint: Checkpoint = False

    def run(self, x: Tensor) -> list[Tensor]:
        """The wanted states, in the order in which groups list them; each with its slope behind it where asked for."""
        count = len(self.groups)
        if self.checkpoint != "recursive":
            return list(self.stretch(0, count, x, None)[2:])
        length = max(1, math.isqrt(count))
        slope, pieces = None, []
        for first in range(0, count, length):
            x, slope, *some = again(self.stretch, first, min(first + length, count), x, slope)
            pieces += some
        return pieces

    def stretch(self, first: int, last: int, x: Tensor, slope: Tensor | None) -> tuple[Any, ...]:
        """Steps ``first`` to ``last``: state and slope behind them, then the wanted states."""
        pieces: list[Tensor] = []
        for n in range(first, last):
            taken = again(self.step, n, x, slope) if self.checkpoint else self.step(n, x, slope)
            x, slope, *some = taken
            pieces += some
        return x, slope, *pieces

    def step(self, n: int, x: Tensor, slope: Tensor | None) -> tuple[Any, ...]:
        """The n-th steps: the new state, the slope there if it is known, then the wanted states."""
        group = self.groups[n]
        if group.place is not None:
            x = picked(x, group.place)
            slope = None if slope is None else picked(slope, group.place)
        field = self.field if group.everyone else self.field.rows(torch.from_numpy(group.samples))
        slope = first_slope(field, group, x, slope)
        stages, new = take_step(self.method, field, x, slope, group.t, group.h)
        inner = [w.rows for w in group.wanted if w.theta is not None or w.slope]
        union = np.unique(np.concatenate(inner)) if inner else np.zeros(0, dtype=np.int64)
        whole = self.dense(field, group, x, stages, union) if inner else []
        pieces: list[Tensor] = []
        for wanted in group.wanted:
            if wanted.theta is None:
                pieces.append(picked(new, wanted.rows))
            if wanted.theta is None and not wanted.slope:
                continue
            theta = np.ones(len(wanted.rows)) if wanted.theta is None else wanted.theta
            state, *every = (picked(k, np.searchsorted(union, wanted.rows)) for k in whole)
            if wanted.theta is not None:
                table = dense_weights(self.method.pair, group.h[wanted.rows], theta)
                pieces.append(weighted(state, every, table))
            if wanted.slope:
                pieces.append(dense_slope(self.method.pair, every, theta))
        return new, stages[-1] if self.method.ends_at_new_state else None, *pieces

    def dense(self, field: Field, group: Group, x: Tensor, stages: Sequence[Tensor], rows: np.ndarray) -> list[Tensor]:
        """States and all stages of some samples, those that only the dense output needs included."""
        if len(rows) < len(x):
            x, *stages = (picked(k, rows) for k in (x, *stages))
            field = field.rows(torch.from_numpy(rows)) if self.method.pair.extra else field
        return [x, *complete(self.method.pair, field, x, stages, group.t[rows], group.h[rows])]


def picked(x: Tensor, rows: np.ndarray) -> Tensor:
    """Some rows of x."""
    if len(rows) == len(x) and bool((rows == np.arange(len(rows))).all()):
        return x
    return x.index_select(0, torch.from_numpy(rows).to(x.device))


def again(function: Callable[..., tuple[Any, ...]], *arguments: object) -> tuple[Any, ...]:
    """Call it, and call it again in the backward pass instead of keeping what it computed."""
    return checkpoint(function, *arguments, use_reentrant=False)


def first_slope(field: Field, group: Group, x: Tensor, slope: Tensor | None) -> Tensor:
    """The first stage: the last one of the step before, except where the run evaluated it."""
    if slope is None or group.fresh.all():
        return field(x, torch.from_numpy(group.t))
    if group.fresh.any():
        index = torch.from_numpy(np.flatnonzero(group.fresh))
        place = index.to(x.device)
        some = field.rows(index)(x.index_select(0, place), torch.from_numpy(group.t[group.fresh]))
        return slope.index_copy(0, place, some)
    return slope


def take_step(
    method: ExplicitMethod, field: Field, x: Tensor, slope: Tensor, t: np.ndarray, h: np.ndarray
) -> tuple[list[Tensor], Tensor]:
    """The stages of a step that begins with ``slope``, and the new state."""
    stages, new = [slope], x
    for row, c in method.rows:
        new = weighted(x, stages, stage_weights(h, row))
        stages.append(own(field(new, torch.from_numpy(t + c * h)), stages[-1]))
    if not method.ends_at_new_state:
        new = weighted(x, stages, stage_weights(h, method.weights))
    return stages, new


def complete(
    pair: Pair, field: Field, x: Tensor, stages: Sequence[Tensor], t: np.ndarray, h: np.ndarray
) -> list[Tensor]:
    """The stages of a step and those that only its dense output needs."""
    slopes = list(stages)
    every = zip((*pair.a, *pair.extra_a), (*pair.c, *pair.extra_c), strict=True)
    for row, c in list(every)[len(stages) :]:
        at = weighted(x, slopes, stage_weights(h, row))
        slopes.append(own(field(at, torch.from_numpy(t + c * h)), slopes[-1]))
    return slopes


def stage_weights(h: np.ndarray, row: Sequence[float]) -> np.ndarray:
    """Weights 1, h a_1, h a_2, ... of the state and the stages, [b, 1 + stages]."""
    return np.concatenate([np.ones((len(h), 1)), h[:, None] * np.asarray(row)], axis=1)


def weighted(x: Tensor, stages: Sequence[Tensor], table: np.ndarray) -> Tensor:
    """``x + sum_i w_bi k_i``; stages of weight zero are not read."""
    used = 1 + np.flatnonzero((table[:, 1:] != 0).any(axis=0))
    for first in range(0, len(used), MOST_TENSORS - 1):
        some = used[first : first + MOST_TENSORS - 1]
        weights = torch.from_numpy(np.ascontiguousarray(table[:, [0, *some]]))
        x = weighted_sum([x, *(stages[i - 1] for i in some)], weights)
    return x


def dense_slope(pair: Pair, stages: Sequence[Tensor], theta: np.ndarray) -> Tensor:
    r"""Slope of the dense output, :math:`\sum_i b_i'(\theta) k_i`."""
    table = np.zeros((len(theta), len(stages)))
    for column, polynomial in enumerate(pair.dense):
        for power, coefficient in enumerate(polynomial):
            table[:, column] += (power + 1) * coefficient * theta**power
    used = np.flatnonzero((table != 0).any(axis=0))
    total: Tensor | None = None
    for first in range(0, len(used), MOST_TENSORS):
        some = used[first : first + MOST_TENSORS]
        weights = torch.from_numpy(np.ascontiguousarray(table[:, some]))
        part = weighted_sum([stages[i] for i in some], weights)
        total = part if total is None else total + part
    assert total is not None  # b_1'(0) = 1
    return total
