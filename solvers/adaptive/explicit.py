"""Embedded Runge-Kutta pairs as methods of the adaptive loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...kernels import combine
from ...kernels.dispatch import chosen_backend, native_module
from ...kernels.native import CODES
from ...kernels.runge_kutta import prepared_rk_step
from .field import Field
from .method import Attempt, Live
from .pairs import Pair
from .tolerance import Tolerance


@dataclass(frozen=True)
class ExplicitMethod:
    r"""Steps of an embedded pair, each sample with its own step size.

    .. math:: k_i = v(x + h \sum_{j<i} a_{ij} k_j,\; t + c_i h), \quad x' = x + h \sum_i b_i k_i, \quad
        e = h \sum_i (b_i - \hat b_i) k_i

    Stages and state are one pass over memory each, and the error ratios one more. Stages belong to the attempt: what a
    field returns is kept and never written to.
    """

    pair: Pair
    keeps_slope = True
    dense = True

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.pair.name

    @property
    def order(self) -> float:
        """Of the advancing row."""
        return self.pair.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Evaluate the stages, the new state and its error."""
        pair, x, field = self.pair, live.x, live.field
        steps, start = torch.from_numpy(h), torch.from_numpy(live.t)
        assert live.slope is not None  # keeps_slope
        stages, new = [live.slope], x
        make = stage_maker(x, steps, start)
        for row, c in self.rows:
            new, times = make(stages, row, c)
            stages.append(own(field(new, times), stages[-1]))
        if not self.ends_at_new_state:
            new, _ = make(stages, self.weights, 1.0)
        ratio = error_ratio(self, live.tolerance, x, new, stages, steps)
        slope = stages[-1] if self.ends_at_new_state else None

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return dense_output(pair, live, h, stages, index, theta)

        return Attempt(new, ratio, slope, len(self.rows), interpolate)

    @cached_property
    def rows(self) -> tuple[tuple[tuple[float, ...], float], ...]:
        """Weights and node of every stage that an attempt evaluates; not of a last one that no estimate uses."""
        pair = self.pair
        return tuple(zip(pair.a, pair.c, strict=True))[1 : pair.stages - pair.last_is_free_of_error]

    @cached_property
    def ends_at_new_state(self) -> bool:
        """Whether the last of these stages is taken at the new state."""
        return self.pair.fsal and not self.pair.last_is_free_of_error

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Of the new state, for these stages."""
        return self.pair.b[: len(self.rows) + 1]

    @cached_property
    def estimates(self) -> tuple[tuple[float, ...], ...]:
        """Rows of the error estimates, for these stages."""
        return tuple(row[: len(self.rows) + 1] for row in self.pair.error)


Maker = Callable[[list[Tensor], Sequence[float], float], tuple[Tensor, Tensor]]


def stage_maker(x: Tensor, h: Tensor, start: Tensor) -> Maker:
    """``make(slopes, weights, c)``: a stage's states and times, one pass over memory; new tensors each time."""
    if x.is_contiguous() and x.is_cpu and chosen_backend("cpu", "rk_step") == "native":
        rows = x.shape[0]
        code, size = CODES[x.dtype], x.numel() // rows if rows else 0
        x_address, h_address, t_address = x.data_ptr(), h.data_ptr(), start.data_ptr()
        rk_stage = native_module.rk_stage

        def native(stages: list[Tensor], weights: Sequence[float], c: float) -> tuple[Tensor, Tensor]:
            out, times = torch.empty_like(x), torch.empty_like(start)
            slopes = [k.data_ptr() if k.is_contiguous() else contiguous(stages, i) for i, k in enumerate(stages)]
            rk_stage(
                code, rows, size, x_address, slopes, h_address, weights, c, t_address, out.data_ptr(), times.data_ptr()
            )
            return out, times

        return native
    return lambda stages, weights, c: (add_stages(x, stages, h, weights), start + c * h)


def contiguous(stages: list[Tensor], i: int) -> int:
    """The address of a stage after it was made contiguous, for all passes to come."""
    stages[i] = stages[i].contiguous()
    return stages[i].data_ptr()


def own(slope: Tensor, last: Tensor) -> Tensor:
    """A copy if a field hands out one buffer again and again: the last slope is still needed."""
    return slope.clone() if slope.data_ptr() == last.data_ptr() and slope.numel() else slope


def add_stages(x: Tensor, stages: Sequence[Tensor], h: Tensor, weights: Sequence[float]) -> Tensor:
    """``x + h sum_i w_i k_i`` in one pass; stages of weight zero are not read."""
    used = [(k, w) for k, w in zip(stages, weights, strict=True) if w != 0]
    table = torch.ones(len(h), 1 + len(used), dtype=torch.float64)
    for column, (_, weight) in enumerate(used, start=1):
        torch.mul(h, weight, out=table[:, column])
    return combine([x, *(k for k, _ in used)], table)


def error_ratio(
    method: ExplicitMethod, tolerance: Tolerance, x: Tensor, new: Tensor, stages: Sequence[Tensor], h: Tensor
) -> np.ndarray:
    """Error ratios of the samples, read from the device once."""
    if tolerance.plain:
        step = prepared_rk_step(x, stages, h, method.weights, method.estimates, tolerance.rtol, tolerance.atol, new)
        norms = step.cpu().numpy().T
    else:
        zero = torch.zeros_like(x)
        norms = [tolerance.ratio(add_stages(zero, stages, h, row), x, new) for row in method.estimates]
    return norms[0] if len(norms) == 1 else two_estimates(norms[0], norms[1])


def two_estimates(fifth: np.ndarray, third: np.ndarray) -> np.ndarray:
    r"""The error of DOP853, :math:`e_5^2 / \sqrt{e_5^2 + 0.01 e_3^2}` (Hairer, Norsett & Wanner 1993, II.10)."""
    with np.errstate(invalid="ignore", over="ignore"):
        both = np.sqrt(fifth**2 + 0.01 * third**2)
        return np.where(both == 0, 0.0, fifth**2 / np.where(both == 0, 1.0, both))


def dense_output(
    pair: Pair, live: Live, h: np.ndarray, stages: list[Tensor], index: Tensor, theta: np.ndarray
) -> tuple[Tensor, int]:
    """States of some samples within the step, and the evaluations that further stages took."""
    rows = index.numpy()
    everyone = len(rows) == len(h) and bool((rows == np.arange(len(h))).all())

    def pick(x: Tensor) -> Tensor:
        return x if everyone else x.index_select(0, index.to(x.device))

    x, steps, slopes = pick(live.x), h[rows], [pick(k) for k in stages]
    every = zip((*pair.a, *pair.extra_a), (*pair.c, *pair.extra_c), strict=True)
    missing = list(every)[len(stages) :]
    if missing:
        field: Field = live.field if everyone else live.field.rows(index)
        for row, c in missing:
            at = add_stages(x, slopes, torch.from_numpy(steps), row)
            slopes.append(own(field(at, torch.from_numpy(live.t[rows] + c * steps)), slopes[-1]))
    table = np.ones((len(rows), 1 + len(slopes)))
    for column, polynomial in enumerate(pair.dense, start=1):
        value = np.zeros_like(theta)
        for coefficient in reversed(polynomial):
            value = (value + coefficient) * theta
        table[:, column] = steps * value
    return weighted(x, slopes, torch.from_numpy(table)), len(missing)


def weighted(x: Tensor, stages: Sequence[Tensor], table: Tensor) -> Tensor:
    """``x + sum_i w_bi k_i`` for stages with any weight; one pass for up to fifteen of them."""
    used = [i for i in range(len(stages)) if bool((table[:, 1 + i] != 0).any())]
    most = 15
    for first in range(0, len(used), most):
        some = used[first : first + most]
        x = combine([x, *(stages[i] for i in some)], table[:, [0, *(1 + i for i in some)]].contiguous())
    return x
