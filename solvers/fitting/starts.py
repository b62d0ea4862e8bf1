"""Starts whose exact trajectories are known: what a formula is fitted to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, NotFiniteError
from ...models import BranchWeights, Interpolant, Linear, Prediction
from ..executor import Executor
from ..hooks import Trajectory
from ..pilot import Pilot, Times, take_rows
from ..plan import Plan, StepBuilder
from ..solver import FixedGridSolver, plan

POINTS = 6  # of the polynomial between known states: far above RK4's own order
SAME_OUTPUT = 1e-4  # relative: what two calls of one network may differ by, where sums are not ordered


class Starts(Pilot):
    """Starts on the linear path, with their exact states at any time.

    Attributes:
        start: The states that runs begin with, [B, *D].
        angles: atan(nu) of the times whose exact states are known, decreasing.
        states: Those states.
    """

    start: Tensor
    angles: tuple[float, ...]
    states: list[Tensor]

    def find_trajectory(self, first: float, steps: int) -> None:
        """Solve accurately from a time of the linear path, and keep the states.

        Raises:
            ArgumentError: A network that answers the same question differently.
            NotFiniteError: A state or an output is not finite; says where.
        """
        path = self.model.interpolant
        self.start = self.noise * (1 - first)
        self.check_deterministic(first)
        seen = Trajectory()
        self.find_exact(from_linear(path, first), steps, [seen])
        self.states = [self.start, *seen.states]
        self.angles = tuple(math.atan2(1 - t, t) for t in (first, *seen.times))

    def check_deterministic(self, t: float) -> None:
        """Ask twice.

        Raises:
            ArgumentError: The answers differ.
        """
        first, second = (self.velocity(self.start, t, 1.0, 0) for _ in range(2))
        scale = first.abs().max()
        if not bool(((first - second).abs() <= SAME_OUTPUT * scale).all()):
            raise ArgumentError(
                "model",
                got=f"outputs that differ by {(first - second).abs().max().item():.3g} between two equal calls",
                expected="a deterministic network",
                hint="network.eval() ends dropout",
            )

    def at(self, t: float) -> Tensor:
        """The exact states at a time of the linear path, float64 [B, *D]: a polynomial in atan(nu) through six."""
        angle = math.atan2(1 - t, t)
        nearest = int(np.searchsorted(-np.asarray(self.angles), -angle))
        first = min(max(nearest - POINTS // 2, 0), max(len(self.angles) - POINTS, 0))
        some = range(first, min(first + POINTS, len(self.angles)))
        total = torch.zeros_like(self.states[0], dtype=torch.float64)
        for i in some:
            ratios = [(angle - self.angles[j]) / (self.angles[i] - self.angles[j]) for j in some if j != i]
            total.add_(self.states[i].double(), alpha=math.prod(ratios))
        return total

    def velocity(
        self, y: Tensor, t: float, t_next: float, step: int, *, at: float | None = None, gradient: bool = False
    ) -> Tensor:
        """The guided velocity of the linear path, in the dtype of the states, as a plan would form it in this step.

        Args:
            y: The state.
            t, t_next: The step.
            step: Its number, for errors.
            at: The time that the network is told, if not t.
            gradient: Record what it takes for a gradient.

        Raises:
            NotFiniteError: It is not finite.
        """
        evaluate, prediction = self.linear
        program = asking(t, t_next, t if at is None else at, prediction, self.guidance)
        self.count(1)
        try:
            with torch.set_grad_enabled(gradient):
                run = Executor(program, y.to(self.noise.dtype), differentiable=gradient)
                return run.run(evaluate, checkpoint=gradient)
        except NotFiniteError as error:
            error.step, error.t = step, t
            raise NotFiniteError(
                f"network at step {step}, t = {t:.4g} of the linear path",
                got="NaN or infinity",
                expected="finite outputs along the trajectories that are fitted",
            ) from error

    def rows(self, some: Tensor, *, trajectory: bool = False) -> Starts:
        """Some of the starts, on their own, with their exact samples, and their trajectories if wanted."""
        conditions = (take_rows(tree, some, len(self.noise)) for tree in self.condition)
        part = Starts(self.model, self.noise[some], self.guidance or 1.0, *conditions, batch=self.batch)
        part.counted = self.counted
        part.start, part.exact = self.start[some], self.exact[some]
        if trajectory:
            part.angles, part.states = self.angles, [state[some] for state in self.states]
        return part


@dataclass(frozen=True)
class Groups:
    """Starts that coefficients are fitted to, others that choose the ridge, the grid and the method, and the rest.

    Attributes:
        fitted, judging: One set of starts for each guidance that is fitted.
        held_out: That nothing but the report sees.
    """

    fitted: tuple[Starts, ...]
    judging: tuple[Starts, ...]
    held_out: tuple[Starts, ...] = ()

    @property
    def all(self) -> tuple[Starts, ...]:
        """All sets."""
        return (*self.fitted, *self.judging, *self.held_out)

    def first(self, count: int) -> Groups:
        """The first starts of each set that is fitted to or judges."""
        return Groups(*(tuple(some_of(s, count) for s in sets) for sets in (self.fitted, self.judging)))


def some_of(starts: Starts, count: int) -> Starts:
    """The first of them; all, if there are no more."""
    if count >= len(starts.noise):
        return starts
    return starts.rows(torch.arange(count, device=starts.noise.device), trajectory=True)


@dataclass(frozen=True)
class VelocityAlone(FixedGridSolver):
    """Not a step: its result is the velocity at its state, at a time within."""

    time: float

    order, source = 1, "pushforward"

    def step(self, s: StepBuilder) -> None:
        """The velocity."""
        s.advance(s.velocity(s.x, self.time))


@lru_cache(maxsize=1024)
def asking(t: float, t_next: float, at: float, prediction: Prediction, guidance: BranchWeights | None) -> Plan:
    """The program of one evaluation: scaled input, branches weighted as at the start of the step to ``t_next``."""
    program = plan(VelocityAlone(at), (t, t_next), prediction.interpolant, prediction=prediction, last_step="solver")
    return program.lower(prediction, guidance).optimise()


def on_linear(path: Interpolant, t: float) -> float:
    """The time of the linear path with the same noise ratio."""
    if isinstance(path, Linear):
        return t
    alpha, sigma, *_ = path(t)
    return alpha / (alpha + sigma)


def from_linear(path: Interpolant, t: float) -> float:
    """Inverse of :func:`on_linear`."""
    if isinstance(path, Linear):
        return t
    return path.time_at_noise_ratio((1 - t) / t) if t else path.t_min


def linear_times(path: Interpolant, times: Times) -> Times:
    """A grid, on the linear path."""
    return tuple([on_linear(path, t) for t in times])
