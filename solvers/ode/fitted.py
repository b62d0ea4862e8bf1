"""A multistep formula whose weights were fitted to one model, step by step, on one grid."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError, GridError
from ...models import Interpolant
from ..plan import StepBuilder
from ..solver import FixedGridSolver
from .runge_kutta import weighted


@dataclass(frozen=True)
class FittedMultistep(FixedGridSolver):
    r"""A linear multistep formula with weights of its own in each step, one evaluation a step.

    .. math:: y_{n+1} = y_n + \sum_{j} w_{nj}\, u_{n-j}, \quad y = x / (\alpha + \sigma), \; u = D - n

    y is the state on the linear path and u its velocity, whatever the path, so the weights of the Adams-Bashforth
    formulas are special ones. They need not sum to the length of the step: what is lost in consistency, which only
    counts as steps become short, is gained in the steps that there are. :func:`pushforward.fit_multistep` finds them.

    Attributes:
        times: The grid they belong to, increasing.
        weights: For each step, of the newest velocity first; at most as many as there are by then.
        interpolant: The path of the times.

    Raises:
        ArgumentError: Not one row of weights a step, a row that is empty or longer than the history.
        GridError: Planned on other times or another path.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    interpolant: Interpolant

    # Of a run on the only grid there is, no limit of short steps can be taken: 1 is nominal.
    order, source = 1, "Shaul et al. 2024, Bespoke Non-Stationary Solvers (weights of each step made for the model)"

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.times) - 1:
            expected = f"{len(self.times) - 1}, one for each step"
            raise ArgumentError("weights", got=f"{len(self.weights)} rows", expected=expected)
        for n, row in enumerate(self.weights):
            if not 1 <= len(row) <= n + 1:
                raise ArgumentError(f"weights[{n}]", got=f"{len(row)} weights", expected=f"1 to {n + 1}")

    @property
    def evaluations_per_step(self) -> int:
        """One."""
        return 1

    @property
    def starting_steps(self) -> int:
        """Until the longest row of weights has all of its history."""
        return max(map(len, self.weights)) - 1

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.weights)} steps, up to {self.starting_steps + 1} velocities)"

    def step(self, s: StepBuilder) -> None:
        """The weighted sum of velocities of the linear path."""
        if s.grid != self.times or s.interpolant != self.interpolant:
            got = f"{s.steps} steps from {s.grid[0]:g} to {s.grid[-1]:g} on {s.interpolant}"
            raise GridError("grid", got=got, expected=f"the times that {self} was fitted on, on {self.interpolant}")
        u = s.denoised(s.x, s.t) - s.noise_prediction(s.x, s.t)
        row = self.weights[s.index]
        past = [u, *(s.history(k) for k in range(1, len(row)))]
        y = s.x / (s.alpha + s.sigma) + weighted(row, past)
        s.advance((s.alpha_next + s.sigma_next) * y, remember=u)
