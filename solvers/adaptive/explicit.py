"""Embedded Runge-Kutta pairs as methods of the adaptive loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...kernels import combine
from ...kernels.dispatch import native_module, native_runs
from ...kernels.native import CODES
from ...kernels.runge_kutta import prepared_rk_step
from .method import Attempt, Live
from .pairs import Pair
from .tolerance import Tolerance


@dataclass(frozen=True)
class ExplicitMethod:
    r"""Steps of an embedded pair, each sample with its own step size.

    .. math:: k_i = v(x + h \sum_{j<i} a_{ij} k_j,\; t + c_i h), \quad x' = x + h \sum_i b_i k_i, \quad
        e = h \sum_i (b_i - \hat b_i) k_i

    Stages and state are one pass over memory each, and the error ratios one more. What a field returns is kept, and
    never written to.
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
        x, evaluate = live.x, live.evaluate
        assert live.slope is not None  # keeps_slope
        work = stage_work(x, torch.from_numpy(h), torch.from_numpy(live.t))
        work.add(live.slope)
        new = x
        for row, c in self.rows:
            new, times = work.stage(row, c)
            work.add(evaluate(new, times))
        if not self.ends_at_new_state:
            new, _ = work.stage(self.weights, 1.0)
        stages = work.slopes
        ratio = self.error_ratio(work, new, live.tolerance)
        slope = stages[-1] if self.ends_at_new_state else None

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return self.interpolate(live, h, stages, index, theta)

        return Attempt(new, ratio, slope, len(self.rows), interpolate)

    def error_ratio(self, work: StageWork, new: Tensor, tolerance: Tolerance) -> np.ndarray:
        """Error ratios of the samples, float64 [b] on the host; one host read an estimate at most."""
        if tolerance.plain:
            norms = work.errors(new, self.weights, self.estimates, tolerance)
        else:
            zero = torch.zeros_like(work.x)
            errors = [add_stages(zero, work.slopes, work.h, row) for row in self.estimates]
            norms = [tolerance.ratio(error, work.x, new) for error in errors]
        return norms[0] if len(norms) == 1 else two_estimates(norms[0], norms[1])

    def interpolate(
        self, live: Live, h: np.ndarray, stages: list[Tensor], index: Tensor, theta: np.ndarray
    ) -> tuple[Tensor, int]:
        """Dense output of an attempt with these slopes; see `Attempt.interpolate`."""
        return dense_output(self.pair, live, h, stages, index, theta)

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


@cache
def explicit_method(pair: Pair) -> ExplicitMethod:
    """The method of a pair, its conditions checked."""
    return ExplicitMethod(pair.verified)


class StageWork:
    """The tensors of one attempt.

    Args:
        x: State.
        h: Step sizes, float64 [b] on the host.
        start: Times, likewise.

    Attributes:
        slopes: Of the stages so far.

    """

    def __init__(self, x: Tensor, h: Tensor, start: Tensor) -> None:
        self.x, self.h, self.start = x, h, start
        self.slopes: list[Tensor] = []

    def add(self, slope: Tensor) -> None:
        """Take the slope of the next stage."""
        self.slopes.append(slope)

    def stage(self, weights: Sequence[float], c: float) -> tuple[Tensor, Tensor]:
        """``x + h sum_i w_i k_i`` and ``t + c h``, in new tensors; one pass over memory."""
        return add_stages(self.x, self.slopes, self.h, weights), self.start + c * self.h

    def errors(
        self,
        new: Tensor,
        weights: tuple[float, ...],
        estimates: tuple[tuple[float, ...], ...],
        tolerance: Tolerance,
    ) -> np.ndarray:
        """Error ratios of each estimate, [E, b], in one pass; read from the device once."""
        rtol, atol = float(tolerance.rtol), float(tolerance.atol)
        return prepared_rk_step(self.x, self.slopes, self.h, weights, estimates, rtol, atol, new).cpu().numpy().T


class NativeStageWork(StageWork):
    """The same through the compiled module, without a check or a look-up at every call."""

    def __init__(self, x: Tensor, h: Tensor, start: Tensor) -> None:
        super().__init__(x, h, start)
        rows = x.shape[0]
        self.kind = (CODES[x.dtype], rows, x.numel() // rows if rows else 0, x.data_ptr())
        self.addresses: list[int] = []
        self.h_address, self.t_address = h.data_ptr(), start.data_ptr()

    def add(self, slope: Tensor) -> None:
        """Take a slope; if it is not contiguous, a copy that is."""
        if not slope.is_contiguous():
            slope = slope.contiguous()
        self.slopes.append(slope)
        self.addresses.append(slope.data_ptr())

    def stage(self, weights: Sequence[float], c: float) -> tuple[Tensor, Tensor]:
        """A stage's states and times."""
        out, times = torch.empty_like(self.x), torch.empty_like(self.start)
        native_module.rk_stage(
            *self.kind, self.addresses, self.h_address, weights, c, self.t_address, out.data_ptr(), times.data_ptr()
        )
        return out, times

    def errors(
        self,
        new: Tensor,
        weights: tuple[float, ...],
        estimates: tuple[tuple[float, ...], ...],
        tolerance: Tolerance,
    ) -> np.ndarray:
        """Error ratios of each estimate."""
        result, count = np.empty((self.kind[1], len(estimates))), len(estimates)
        native_module.rk_step(
            *self.kind,
            self.addresses,
            self.h_address,
            1,
            (weights, *estimates),
            count,
            tolerance.rtol,
            tolerance.atol,
            new.data_ptr(),
            [],
            torch.from_numpy(result).data_ptr(),
        )
        return result.T


def stage_work(x: Tensor, h: Tensor, start: Tensor) -> StageWork:
    """Compiled, where that may be used."""
    native = x.is_cpu and x.is_contiguous() and native_runs("rk_step")
    return (NativeStageWork if native else StageWork)(x, h, start)


def add_stages(x: Tensor, stages: Sequence[Tensor], h: Tensor, weights: Sequence[float]) -> Tensor:
    """``x + h sum_i w_i k_i`` in one pass; stages of weight zero are not read."""
    used = [(k, w) for k, w in zip(stages, weights, strict=True) if w != 0]
    table = torch.ones(len(h), 1 + len(used), dtype=torch.float64)
    for column, (_, weight) in enumerate(used, start=1):
        torch.mul(h, weight, out=table[:, column])
    return cast(Tensor, combine([x, *(k for k, _ in used)], table))


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
        some = live if everyone else replace(live, field=live.field.rows(index))
        for row, c in missing:
            at = add_stages(x, slopes, torch.from_numpy(steps), row)
            slopes.append(some.evaluate(at, torch.from_numpy(live.t[rows] + c * steps)))
    return weighted(x, slopes, torch.from_numpy(dense_weights(pair, steps, theta))), len(missing)


def dense_weights(pair: Pair, h: np.ndarray, theta: np.ndarray) -> np.ndarray:
    r"""Weights :math:`1, h b_1(\theta), h b_2(\theta), \dots` of the state and all stages, [b, 1 + stages]."""
    table = np.ones((len(h), 1 + pair.all_stages))
    for column, polynomial in enumerate(pair.dense, start=1):
        value = np.zeros_like(theta)
        for coefficient in reversed(polynomial):
            value = (value + coefficient) * theta
        table[:, column] = h * value
    return table


def weighted(x: Tensor, stages: Sequence[Tensor], table: Tensor) -> Tensor:
    """``x + sum_i w_bi k_i`` for stages with any weight; one pass for up to fifteen of them."""
    used = [i for i in range(len(stages)) if bool((table[:, 1 + i] != 0).any())]
    most = 15
    for first in range(0, len(used), most):
        some = used[first : first + most]
        columns = table[:, [0, *(1 + i for i in some)]].contiguous()
        x = cast(Tensor, combine([x, *(stages[i] for i in some)], columns))
    return x
