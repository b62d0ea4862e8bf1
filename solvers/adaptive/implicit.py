"""Diagonally implicit methods of the adaptive loop, for stiff problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ...errors import DtypeError
from ...kernels import combine
from .explicit import add_stages, dense_output
from .implicit_pairs import IMPLICIT, ImplicitPair
from .linear import DenseSystem, KrylovSystem, LinearSystem
from .method import Attempt, Live, register_method


@dataclass(frozen=True)
class Newton:
    """How the stages are solved.

    Attributes:
        tolerance: What may remain of a stage's error, in units of the step's tolerance.
        iterations: Most of them for a stage; a sample that needs more has its step halved.
        largest_dense: Largest number of elements of a sample for which Jacobians are formed and factorised; larger ones
            are solved by GMRES.
        residual, vectors: Of GMRES: what may remain of a right side, and the largest dimension of a Krylov space.

    """

    tolerance: float = 0.02
    iterations: int = 8
    largest_dense: int = 64
    residual: float = 0.02
    vectors: int = 30


@dataclass(frozen=True)
class ImplicitMethod:
    r"""Steps of a diagonally implicit pair; every stage by Newton's method, each sample until it has converged.

    .. math:: z = h \gamma\, v(y + z,\; t + c_i h), \quad y = x + h \sum_{j<i} a_{ij} k_j, \quad k_i = z / (h \gamma)

    by :math:`z \leftarrow z - (I - h \gamma J)^{-1} (z - h \gamma\, v(y + z))` with one Jacobian J, of the start of
    the step, for all stages. The slope is read from z and not evaluated, which in a stiff problem would amplify what is
    left of its error. A sample whose iteration does not converge has an infinite error ratio, and its step is halved.
    """

    name: str
    newton: Newton = field(default_factory=Newton)
    keeps_slope = True
    dense = True

    @property
    def pair(self) -> ImplicitPair:
        """Its coefficients."""
        found = IMPLICIT[self.name]
        assert isinstance(found, ImplicitPair)
        return found

    @property
    def order(self) -> float:
        """Of the advancing row."""
        return self.pair.order

    def attempt(self, live: Live, h: np.ndarray) -> Attempt:
        """Solve for the stages, and estimate the error.

        Raises:
            DtypeError: A state of half precision, whose digits do not suffice for linear systems.

        """
        pair, x = self.pair, live.x
        if x.dtype not in (torch.float32, torch.float64):
            raise DtypeError(
                "x0", got=x.dtype, expected=f"float32 or float64 for {self.name}: it solves linear systems"
            )
        assert live.slope is not None  # keeps_slope
        steps = torch.from_numpy(h)
        system = self.system(live, steps * pair.gamma)
        run = Iteration(live, system, self.newton, h * pair.gamma)
        stages, new = [live.slope], x
        for row, c, weights in zip(pair.a[1:], pair.c[1:], pair.guesses, strict=True):
            base = add_stages(x, stages, steps, row[:-1])
            guess = sum_of([stages[j] for j in weights], list(weights.values()))
            new, slope = run.stage(base, guess, torch.from_numpy(live.t + c * h))
            stages.append(slope)
        zero = torch.zeros_like(x)
        ratio = live.tolerance.ratio(add_stages(zero, stages, steps, pair.error[0]), x, new)
        ratio = np.where(run.failed, np.inf, ratio)

        def interpolate(index: Tensor, theta: np.ndarray) -> tuple[Tensor, int]:
            return dense_output(pair, live, h, stages, index, theta)

        return Attempt(
            new,
            ratio,
            stages[-1],
            run.evaluations + system.evaluations,
            interpolate,
            reads=1 + run.reads + system.reads,
            jacobians=system.jacobians,
            products=system.products,
        )

    def system(self, live: Live, weight: Tensor) -> LinearSystem:
        """The linear systems of the attempt."""
        newton, start = self.newton, torch.from_numpy(live.t)
        if math.prod(live.x.shape[1:]) <= newton.largest_dense:
            return DenseSystem(live.field, live.x, start, weight)
        return KrylovSystem(live.field, live.x, start, weight, newton.residual, newton.vectors)


class Iteration:
    """Newton's method for the stages of one attempt.

    Attributes:
        failed: Which samples did not converge, bool [b].
        evaluations: Of the field by each sample, int64 [b].
        reads: How often the host waited for the device.

    """

    def __init__(self, live: Live, system: LinearSystem, newton: Newton, weight: np.ndarray) -> None:
        self.live, self.system, self.newton = live, system, newton
        self.weight = torch.from_numpy(weight)
        count = len(weight)
        self.failed, self.evaluations, self.reads = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64), 0
        self.rate = np.ones(count)  # by which a correction is smaller than the one before: nothing known yet
        self.enough = np.full(count, newton.tolerance)
        if live.x.dtype == torch.float32:  # corrections do not become smaller than some roundings of the state
            rounding = live.tolerance.ratio(4 * torch.finfo(torch.float32).eps * live.x, live.x, live.x)
            self.enough, self.reads = np.clip(rounding, newton.tolerance, 0.5), 1

    def stage(self, base: Tensor, slope: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The state and the slope of a stage, from a guess of its slope.

        A sample stops where its correction d, and with it all that would follow, is small enough: rate / (1 - rate) d,
        with the rate of the last stage at the first correction. It fails where corrections do not shrink, or would not
        shrink enough in the iterations that are left.
        """
        live, x = self.live, self.live.x
        scale = column(self.weight, x)
        z = scale * slope
        index = torch.arange(len(self.failed))[torch.from_numpy(~self.failed)]
        before = np.full(len(self.failed), np.inf)
        for iteration in range(self.newton.iterations):
            if not len(index):
                break
            everyone, rows = len(index) == len(x), index.numpy()
            place = index.to(x.device)
            field = live.field if everyone else live.field.rows(index)
            start, at, by = (base, z, scale) if everyone else (v.index_select(0, place) for v in (base, z, scale))
            change = self.system.solve(by * field(start + at, t if everyone else t[index]) - at, index)
            at = at + change
            z = at if everyone else z.index_copy(0, place, at)
            tolerance = live.tolerance if everyone else live.tolerance.rows(index, len(x), x.ndim)
            size = tolerance.ratio(change, start, start + at)
            self.evaluations[rows] += 1
            self.reads += 1
            index = index[torch.from_numpy(self.judge(rows, size, before, iteration))]
        return base + z, z / scale

    def judge(self, rows: np.ndarray, size: np.ndarray, before: np.ndarray, iteration: int) -> np.ndarray:
        """Which of the samples ``rows`` go on, given the size of their last correction."""
        enough = self.enough[rows]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            if iteration:
                self.rate[rows] = np.maximum(size / before[rows], 0.1 * np.minimum(self.rate[rows], 1.0))
            rate = self.rate[rows] if iteration else np.minimum(self.rate[rows], 1.0) ** 0.8
            ahead = np.where(rate < 1, rate / (1 - rate), np.inf) * size
            done = (ahead <= enough) | (size == 0)
            left = self.newton.iterations - 1 - iteration
            hopeless = ~np.isfinite(size) | (left == 0)
            if iteration:
                hopeless |= (rate >= 1) | (ahead * rate**left > enough)
        before[rows] = size
        self.failed[rows] |= hopeless & ~done
        self.rate[rows[hopeless & ~done]] = 1.0
        return ~done & ~hopeless


def sum_of(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Their weighted sum."""
    return slopes[0] if list(weights) == [1.0] else cast(Tensor, combine(slopes, weights))


def column(value: Tensor, like: Tensor) -> Tensor:
    """A number for each sample as a tensor that multiplies states."""
    return value.to(device=like.device, dtype=like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


for _name in IMPLICIT:
    register_method(ImplicitMethod(_name))
