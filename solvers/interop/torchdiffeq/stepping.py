"""Fixed-step methods on rows: Runge-Kutta tableaus, and Adams methods started by one."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ....kernels import combine
from ...ode.runge_kutta import RK38, Euler, Heun, Midpoint
from ...ode.tableau import Tableau
from .problem import Problem, Time

HEUN3 = Tableau(order=3, a="1/3; 0 2/3", b="1/4 0 3/4", source="Heun 1900, Z. Math. Phys. 45, 23-38")
TABLEAUS = {
    "euler": Euler.tableau,
    "midpoint": Midpoint.tableau,
    "heun2": Heun.tableau,
    "heun3": HEUN3,
    "rk4": RK38.tableau,  # the 3/8 rule, which torchdiffeq calls rk4
}
FEWEST_VELOCITIES = 3  # with fewer, Adams methods take Runge-Kutta steps
FEW = 1 << 17
UNIFORM = 1e-4  # nodes that are whole multiples of the step to within this are taken for a uniform grid


@dataclass(frozen=True)
class Step:
    """A step from t0 to t1: times as numbers, or as tensors where the times require a gradient.

    Attributes:
        t0, t1, h: Start, end and length (negative backwards in time).
        start, stop: The ends as numbers.

    """

    t0: Time
    t1: Time
    h: Time
    start: float
    stop: float


class Stepper(Protocol):
    """A method in one run."""

    def step(self, x: Tensor, step: Step, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state after the step, and the slope at its start (``slope``, if it is known already)."""
        ...


def add(x: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], h: Time) -> Tensor:
    """``x + h sum_i w_i k_i``; weights of zero are no terms.

    One pass over memory, or one for each term: where the length of the step has a gradient, and for small tensors where
    one is recorded, since an operator of ours costs autograd as much as seven of torch's (measured: they are even at
    10^5 elements).
    """
    used = [(k, float(w)) for k, w in zip(slopes, weights, strict=True) if w]
    if isinstance(h, Tensor):
        total = used[0][0] * used[0][1]
        for k, w in used[1:]:
            total = torch.add(total, k, alpha=w)
        return x + h.to(x.dtype) * total
    if torch.is_grad_enabled() and x.numel() < FEW and (x.requires_grad or any(k.requires_grad for k, _ in used)):
        for k, w in used:
            x = torch.add(x, k, alpha=h * w)
        return x
    return cast(Tensor, combine([x, *(k for k, _ in used)], [1.0, *(h * w for _, w in used)]))


@dataclass
class RungeKuttaStepper:
    """Steps of an explicit tableau.

    Attributes:
        problem: What is integrated.
        tableau: The method.
        perturb: Whether the function is called just inside the ends of a step instead of at them.

    """

    problem: Problem
    tableau: Tableau
    perturb: bool

    def __post_init__(self) -> None:
        self.rows = [tuple(map(float, row)) for row in self.tableau.matrix]
        self.weights = tuple(map(float, self.tableau.weights))
        self.nodes = tuple(map(float, self.tableau.nodes))

    def step(self, x: Tensor, step: Step, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All stages, then the weighted sum."""
        slopes = [at_start(self.problem, x, step, self.perturb) if slope is None else slope]
        for row, c in zip(self.rows[1:], self.nodes[1:], strict=True):
            t = step.t1 if c == 1 else step.t0 + c * step.h
            inside = -self.problem.direction if c == 1 and self.perturb else 0.0
            slopes.append(self.problem.slope(t, add(x, slopes, row, step.h), inside))
        return add(x, slopes, self.weights, step.h), slopes[0]


@dataclass
class AdamsStepper:
    r"""Adams methods of the highest order that history allows, up to ``max_order``, as torchdiffeq's.

    Predict with the last p slopes, :math:`x' = x + h \sum_{j<p} w_j v_{n-j}`; if ``implicit``, put the slope there with
    those of the history, and again, until what is added changes by less than the tolerances or ``max_iters`` times.
    With fewer than three slopes in the history a step is the 3/8 rule's. The history holds ``max_order - 1`` slopes.

    Weights are those of the actual times, where torchdiffeq's are those of a uniform grid; on one they are the same.

    Attributes:
        problem: What is integrated.
        implicit: Whether to correct.
        max_order, max_iters: Bounds of history and iterations.
        perturb: As of `RungeKuttaStepper`.

    """

    problem: Problem
    implicit: bool
    max_order: int
    max_iters: int
    perturb: bool
    past: deque[tuple[float, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.past = deque(maxlen=self.max_order - 1)
        self.starter = RungeKuttaStepper(self.problem, RK38.tableau, self.perturb)

    def step(self, x: Tensor, step: Step, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predict, and correct if implicit."""
        slope = at_start(self.problem, x, step, self.perturb) if slope is None else slope
        self.past.appendleft((step.start, slope))
        if len(self.past) < FEWEST_VELOCITIES:
            return self.starter.step(x, step, slope)
        nodes, slopes = [t for t, _ in self.past], [v for _, v in self.past]
        weights = weights_at(nodes, step)
        if not self.implicit:
            return add(x, slopes, weights, step.h), slope
        zero = torch.zeros_like(x)
        predicted = add(zero, slopes, weights, step.h)
        added = self.correct(x, step, predicted, add_history(zero, nodes, slopes, step))
        return cast(Tensor, combine([x, added], [1.0, 1.0])), slope

    def correct(self, x: Tensor, step: Step, added: Tensor, history: tuple[Tensor, float]) -> Tensor:
        """Functional iteration for what the step adds to the state."""
        known, weight = history
        inside = -self.problem.direction if self.perturb else 0.0
        for _ in range(self.max_iters):
            last = added
            ahead = self.problem.slope(step.t1, cast(Tensor, combine([x, last], [1.0, 1.0])), inside)
            added = add(known, [ahead], [weight], step.h)
            if self.converged(last.detach(), added.detach()):
                return added
        said = f"the iteration of implicit_adams did not converge at t = {step.stop:.6g}; take smaller steps"
        warnings.warn(said, RuntimeWarning, stacklevel=6)
        self.past.pop()
        return added

    def converged(self, last: Tensor, new: Tensor) -> bool:
        """Whether every element has changed by less than the tolerances; one host read."""
        scale = self.problem.atol + self.problem.rtol * torch.maximum(last.abs(), new.abs())
        return bool(((new - last).abs() < scale).all())


def at_start(problem: Problem, x: Tensor, step: Step, perturb: bool) -> Tensor:
    """The slope at the start of a step, or just behind it."""
    return problem.slope(step.t0, x, problem.direction if perturb else 0.0)


def weights_at(nodes: Sequence[float], step: Step) -> tuple[float, ...]:
    """Adams weights over the length of the step, for slopes at these times."""
    units = (np.asarray(nodes) - step.start) / (step.stop - step.start)
    whole = np.rint(units)
    exact = tuple(whole if (np.abs(units - whole) < UNIFORM * np.maximum(1, np.abs(whole))).all() else units)
    return unit_weights(exact)


@lru_cache(maxsize=64)
def unit_weights(nodes: tuple[float, ...]) -> tuple[float, ...]:
    r"""Adams weights over a step of length one: :math:`\int_0^1 \ell_j(u)\, du` for the Lagrange basis on the nodes.

    By a Gauss rule that is exact for their degree, which loses no digits. The moment equations of
    :func:`~pushforward.solvers.ode.adams.adams_weights` lose ten of them for eleven nodes.

    Example:
        >>> [round(24 * w, 12) for w in unit_weights((0.0, -1.0, -2.0, -3.0))]
        [55.0, -59.0, 37.0, -9.0]

    """
    points, shares = np.polynomial.legendre.leggauss((len(nodes) + 1) // 2)
    u, at = np.asarray(nodes), 0.5 * (points + 1)
    weights = []
    for j, node in enumerate(u):
        others = np.delete(u, j)
        basis = np.prod((at[:, None] - others) / (node - others), axis=1)
        weights.append(float(0.5 * shares @ basis))
    return tuple(weights)


def add_history(x: Tensor, nodes: Sequence[float], slopes: Sequence[Tensor], step: Step) -> tuple[Tensor, float]:
    """What the known slopes add under the implicit formula, and the weight of the slope at the end."""
    ahead, *weights = weights_at([step.stop, *nodes], step)
    return add(x, slopes, weights, step.h), ahead
