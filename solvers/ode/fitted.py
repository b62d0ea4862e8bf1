"""A multistep formula whose coefficients were fitted to one model, step by step, on one grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...errors import ArgumentError, GridError
from ...models import Interpolant, Linear
from ..plan import Coefficient, Expression, StepBuilder, weighted
from ..solver import FixedGridSolver

Times = tuple[float, ...]
Quantity = Literal["velocity", "denoised", "noise"]
QUANTITIES: tuple[Quantity, ...] = ("velocity", "denoised", "noise")
SAME_LEVEL = 1e-5  # relative: noise ratios that come as float32 through another library are the same


@dataclass(frozen=True)
class FittedMultistep(FixedGridSolver):
    r"""A multistep formula with coefficients of its own in each step, one evaluation a step.

    .. math:: y_{n+1} = a_n y_n + \sum_{j} w_{nj}\, q_{n-j}, \quad y = x / (\alpha + \sigma)

    y is the state on the linear path, and q what is remembered: the velocity u = D - n of that path, the clean estimate
    D or the noise estimate n. None depends on the path that the model is on, so neither do the coefficients. With all
    earlier q, the first state and the outputs of all steps are spanned: every multistep and exponential formula of one
    evaluation a step is a special case. Coefficients need not be consistent (weights that sum to the
    step, a = 1): that only counts as steps become short. :func:`pushforward.fit` finds them.

    Of pure noise a network can only tell the mean of the data. With an ``opening`` it is asked for the first output as
    if the first y were that of a later time, where the noise has begun to show what it will become.

    Attributes:
        times: The grid they belong to, increasing.
        weights: For each step, of the newest q first; at most as many as there are by then.
        interpolant: The path of the times.
        scales: a, one a step; all 1 if left out. Each number of the two may be one for each channel of the state.
        quantity: q.
        opening: The time that the network is told with the first state, from the first of the times to below the
            second; None: the first.

    Raises:
        ArgumentError: Not one row of weights a step, a row that is empty or longer than the history, not one scale a
            step, a quantity that is none of the three, an opening outside the first step.
        GridError: Planned at other noise ratios.

    Source:
        Shaul et al. 2024, Bespoke Non-Stationary Solvers, equation 10.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[Coefficient, ...], ...]
    interpolant: Interpolant
    scales: tuple[Coefficient, ...] = ()
    quantity: Quantity = "velocity"
    opening: float | None = None

    # Of a run on the only grid there is, no limit of short steps can be taken: 1 is nominal.
    order = 1
    source = "Shaul et al. 2024, Bespoke Non-Stationary Solvers (coefficients made for the model)"

    def __post_init__(self) -> None:
        steps = len(self.times) - 1
        if len(self.weights) != steps:
            raise ArgumentError("weights", got=f"{len(self.weights)} rows", expected=f"{steps}, one for each step")
        for n, row in enumerate(self.weights):
            if not 1 <= len(row) <= n + 1:
                raise ArgumentError(f"weights[{n}]", got=f"{len(row)} weights", expected=f"1 to {n + 1}")
        if self.scales and len(self.scales) != steps:
            raise ArgumentError("scales", got=f"{len(self.scales)} numbers", expected=f"{steps}, one for each step")
        if self.quantity not in QUANTITIES:
            raise ArgumentError("quantity", got=repr(self.quantity), expected=f"one of {', '.join(QUANTITIES)}")
        if self.opening is not None and not self.times[0] <= self.opening < self.times[1]:
            expected = f"None, or from {self.times[0]} to below {self.times[1]}, within the first step"
            raise ArgumentError("opening", got=self.opening, expected=expected)

    @property
    def evaluations_per_step(self) -> int:
        """One."""
        return 1

    @property
    def starting_steps(self) -> int:
        """Until the longest row of weights has all of its history."""
        return max(map(len, self.weights)) - 1

    def __str__(self) -> str:
        return f"{type(self).__name__}({len(self.weights)} steps, up to {self.starting_steps + 1} outputs)"

    def times_on(self, interpolant: Interpolant) -> tuple[float, ...]:
        """The grid on a path: the times there with the same noise ratios."""
        return moved(self.times, self.interpolant, interpolant)

    def step(self, s: StepBuilder) -> None:
        """The scaled state, and the weighted sum of what is remembered."""
        self.check_grid(s)
        q = remembered(s, self.quantity, *self.asked(s))
        row = self.weights[s.index]
        y = (self.scales[s.index] if self.scales else 1.0) * s.x / (s.alpha + s.sigma)
        past = [q, *(s.history(k) for k in range(1, len(row)))]
        s.advance((s.alpha_next + s.sigma_next) * (y + weighted(row, past)), remember=q)

    def asked(self, s: StepBuilder) -> tuple[Expression, float]:
        """Where the network is asked in this step."""
        if s.index or self.opening is None:
            return s.x, s.t
        (t,) = moved((self.opening,), self.interpolant, s.interpolant)
        if isinstance(s.interpolant, Linear):
            return s.x, t
        return (s.interpolant.alpha(t) + s.interpolant.sigma(t)) / (s.alpha + s.sigma) * s.x, t

    def check_grid(self, s: StepBuilder) -> None:
        """Refuse other noise ratios than those of the fit."""
        if same_levels(s.grid, s.interpolant, self.times, self.interpolant):
            return
        got = f"{s.steps} steps from {s.grid[0]:g} to {s.grid[-1]:g} on {s.interpolant}"
        hint = f"solver.times_on(path) is {[round(t, 4) for t in self.times]} on {self.interpolant}"
        raise GridError("grid", got=got, expected=f"the noise ratios that {self} was fitted at", hint=hint)


def remembered(s: StepBuilder, quantity: Quantity, x: Expression, t: float) -> Expression:
    """The quantity at a state, from one evaluation."""
    if quantity == "denoised":
        return s.denoised(x, t)
    if quantity == "noise":
        return s.noise_prediction(x, t)
    if isinstance(s.interpolant, Linear):  # what a network of this path returns: nothing to convert, nothing to store
        return s.velocity(x, t)
    return s.denoised(x, t) - s.noise_prediction(x, t)


def moved(times: Times, path: Interpolant, other: Interpolant) -> Times:
    """The times of another path with the same noise ratios."""
    return times if other == path else tuple([other.time_at_noise_ratio(path.noise_ratio(t)) for t in times])


def same_levels(times: Times, path: Interpolant, others: Times, on: Interpolant) -> bool:
    """Whether two grids have the same noise ratios to the rounding of float32; infinity and 0 only equal themselves."""
    if times == others and path == on:
        return True
    levels = zip(map(path.noise_ratio, times), map(on.noise_ratio, others), strict=False)
    return len(times) == len(others) and all(a == b or math.isclose(a, b, rel_tol=SAME_LEVEL) for a, b in levels)
