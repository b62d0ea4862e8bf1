"""Starts of one model whose exact samples are known: what is made for the model is fitted to and measured on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models import Bound, BranchWeights, Model, Prediction
from ..models.guidance import as_guidance
from ..models.trees import tree_map
from .executor import EvaluateFunction, Executor
from .plan import Plan
from .solver import FixedGridSolver, plan, solver

if TYPE_CHECKING:
    from ..models import Interpolant
    from .hooks import Hook

Times = tuple[float, ...]


class Pilot:
    """Starts and their exact samples, for one model, guidance and condition.

    Attributes:
        exact: The exact samples, [B, *D], once :meth:`find_exact` has been called.
    """

    exact: Tensor

    def __init__(
        self,
        model: Model,
        noise: Tensor,
        guidance: float | BranchWeights,
        condition: dict[str, Any] | None,
        null: dict[str, Any] | None,
        batch: int | None = None,
    ) -> None:
        self.model, self.noise, self.batch = model, noise, batch
        self.guidance = as_guidance(guidance)
        self.condition = condition, null
        self.counted = [0]

    @property
    def calls(self) -> int:
        """How often the network was called, for these starts and for parts of them."""
        return self.counted[0]

    def count(self, calls: int) -> None:
        """Add to the calls."""
        self.counted[0] += calls

    @cached_property
    def evaluate(self) -> EvaluateFunction:
        """The network on the model's own path, under the conditions of the starts."""
        return in_parts(self.model.bind(*self.condition, self.guidance), len(self.noise), self.batch)

    @cached_property
    def linear(self) -> tuple[EvaluateFunction, Prediction]:
        """The network as it is called from the linear path."""
        prediction = self.model.prediction.on("linear")
        network = self.model.reading(prediction).bind(*self.condition, self.guidance)
        return in_parts(network, len(self.noise), self.batch), prediction

    def program(self, solver: FixedGridSolver, times: Times) -> Plan:
        """The optimised plan of a solver on a grid of the model's path.

        Raises:
            ArgumentError: It draws noise.
            PushforwardError: It cannot run there.
        """
        prediction = self.model.prediction
        program = plan(solver, times, self.model.interpolant, prediction=prediction)
        if program.stochastic:
            raise ArgumentError("solver", got=str(solver), expected="one that draws no noise")
        return program.lower(prediction, self.guidance).optimise()

    def samples(self, program: Plan) -> Tensor:
        """What it makes of the starts, as a user's run does."""
        self.count(program.nfe)
        with torch.no_grad():
            start = self.noise * self.model.interpolant.sigma(program.grid[0])
            return Executor(program, start).run(self.evaluate)

    def find_exact(self, first: float, steps: int, hooks: Sequence[Hook] = ()) -> None:
        """Make the exact samples by RK4, from the state at ``first``.

        On the linear path, whatever the model's: the samples do not depend on the path, and a discrete one has kinks at
        which a Runge-Kutta method is of first order. Hooks see its states.
        """
        self.exact = self.along_linear(first, steps, hooks)

    def exact_to(self, first: float, steps: int) -> float:
        """A bound of the error of the exact samples, root mean square.

        A third of what half as many steps change: right for order two, and RK4 is no worse on a smooth field.
        """
        return root_mean_square(self.exact - self.along_linear(first, steps // 2)) / 3

    def along_linear(self, first: float, steps: int, hooks: Sequence[Hook] = ()) -> Tensor:
        """The samples by RK4 on equal angles of the linear path."""
        (evaluate, prediction), path = self.linear, self.model.interpolant
        alpha, sigma, *_ = path(first)
        times = equal_angles(prediction.interpolant, alpha / (alpha + sigma), path.noise_range[0], steps)
        program = plan(solver("rk4"), times, prediction.interpolant, prediction=prediction)
        program = program.lower(prediction, self.guidance).optimise(observe=bool(hooks))
        with torch.no_grad():
            start = self.noise * (sigma / (alpha + sigma))
            exact = Executor(program, start, hooks=hooks).run(evaluate)
        self.count(program.nfe)
        return exact


def in_parts(network: Bound, rows: int, batch: int | None) -> EvaluateFunction:
    """The network's ``evaluate``, on so many rows at once at most: for starts that memory does not hold at once."""
    if batch is None or batch >= rows:
        return network.evaluate
    bounds = [(first, min(first + batch, rows)) for first in range(0, rows, batch)]
    parts = [(slice(*ends), network.select(torch.arange(*ends))) for ends in bounds]

    def evaluate(x: Tensor, t: float, branches: tuple[str, ...]) -> Sequence[Tensor]:
        outputs = [part.evaluate(x[some], t, branches) for some, part in parts]
        return [torch.cat(of_branch) for of_branch in zip(*outputs, strict=True)]

    return evaluate


def take_rows(tree: dict[str, Any] | None, rows: slice | Tensor, count: int) -> dict[str, Any] | None:
    """A condition with some of its rows; tensors of one row or of none stay."""

    def take(path: str, leaf: Any) -> Any:
        return leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == count else leaf

    return None if tree is None else tree_map(take, tree)


def equal_angles(path: Interpolant, first: float, smallest: float, steps: int) -> Times:
    """Times from ``first`` to 1 at equal steps of atan(nu): fine where every path turns from noise to data.

    The last step, which has to be one of first order at sigma = 0, is divided further, by fours. No level is below
    ``smallest``; the last one before 1 is ``smallest`` itself if that is not 0: networks know nothing below it.
    """
    high = math.atan(path.noise_ratio(first))
    levels = [math.tan(high * (1 - i / steps)) for i in range(1, steps)]
    levels += [levels[-1] / 4**k for k in range(1, 6)]
    levels = [nu for nu in levels if nu > smallest] + ([smallest] if smallest else [])
    return (first, *(path.time_at_noise_ratio(nu) for nu in levels), 1.0)


def root_mean_square(values: Tensor) -> float:
    """Root of the mean square, in float64."""
    return values.double().square().mean().sqrt().item()
