"""Search over paths: solve the flow some way, go back by fresh noise, and solve again, keeping the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, BudgetError
from ...models import Interpolant
from ...models.interpolants import equal_noise
from ..grids import grid
from ..particles import Particles
from ..particles.population import SLOTS
from ..plan import Plan
from ..solver import FixedGridSolver, solver
from .best_of_n import best_rows
from .blockwise import CANDIDATES, branch
from .method import Method, Outcome, State, affordable, at_least, register
from .plans import optimised_plan, part_plan, start_of
from .task import Task

ROUNDS = 1000  # at most
PATHS = SLOTS // CANDIDATES  # each path's branches have that many slots
SLACK = 1e-9  # rounding of levels, which are sums and differences of decimals


@dataclass(kw_only=True)
class Ways(State):
    """Where the paths are: ``step`` counts their rounds.

    Attributes:
        paths, branches, solve_steps: N, M and n_s.
        particles: S N of them, at the level of the round.
        values: Their rewards, float64 [S N]; empty before the first round.

    """

    paths: int
    branches: int
    solve_steps: int
    particles: Particles
    values: Tensor


@dataclass(frozen=True)
class Leg:
    """A round of the search: from a level back to a noisier one, and from there on.

    Attributes:
        time: Where it begins, on the model's path.
        solve: The flow from the noisier level to the next one.
        look: The clean estimate at that level; None where it is the data.

    """

    time: float
    solve: Plan
    look: Plan | None


@register("paths")
@dataclass(frozen=True)
class SearchOverPaths(Method):
    r"""Search over paths: N states near the data, from each M ways back into the noise and forth again.

    Levels u are those of the linear path, :math:`u = \sigma / (\alpha + \sigma)`: 1 is noise, 0 is data; other paths
    are at the level at which their :math:`\sigma / \alpha` is the same.

    1. Solve the flow from N noises to u = ``start_level``.
    2. From each state draw M states at :math:`u^+ = u + \Delta_f` from the path's Markov kernel
       :math:`x^+ = \frac{\alpha^+}{\alpha} x + \sqrt{\sigma^{+2} - (\alpha^+ / \alpha)^2 \sigma^2} \, \xi`,
       which takes the law of x at u to that at u+.
    3. Solve each to :math:`u^- = \max(u^+ - \Delta_b, 0)`, weigh it by r(D(x, u-)), and keep N. Repeat until u- = 0,
       where samples are weighed themselves.

    There are :math:`R = \lceil u_0 / (\Delta_b - \Delta_f) \rceil` rounds. A solver of one evaluation a step pays
    :math:`N n_s + R N M n_s` evaluations, and :math:`(R - 1) N M` for the clean estimates. Those are evaluated where a
    solve ends: the estimate of its last step costs nothing, but is that of a point one step back.

    Of N, M and n_s one may be None: as many as the budget pays for. The published levels are 0.12, 0.78 and 0.81 with
    N = 2, M = 5. On 16 independent coordinates of two modes, with a reward that counts signs, they lose to best of N:
    -4.54 against -3.66 for 500 evaluations, and with n_s left open more of these do not help, -4.48 for 1500. With M
    left open and n_s = 4 the same levels reach -3.54 and -2.62, and the defaults here -2.74 and -1.52 (standard errors
    below 0.1). Cells of a drawing that the bundled digits violate, for 300 evaluations: best of N 4.6, those levels
    3.5, the defaults 2.9 (0.3). The gain is from levels that are noisier and strides that forget less.

    Attributes:
        paths: N; left open, it is 2 where only time is limited.
        branches: M; left open, it is 5 where only time is limited. Branch j is the same for every M.
        solve_steps: n_s, steps of every solve, on the search's grid moved between the two levels; left open, those of
            the search where evaluations are not limited. A grid that is a sequence of times has its own number.
        start_level: u_0 in (0, 1).
        forward, backward: The strides Delta_f towards the noise and Delta_b towards the data, in u.
        keep: The best N of all N M ("global"), or the best of each path's M ("each"): then paths do not depend on one
            another.

    """

    paths: int | None = 2
    branches: int | None = None
    solve_steps: int | None = 4
    start_level: float = 0.4
    forward: float = 0.5
    backward: float = 0.6
    keep: Literal["global", "each"] = "global"

    source: ClassVar[str] = "Ma et al. 2025, Inference-time scaling for diffusion models: search over paths"
    solver: ClassVar[FixedGridSolver] = solver("euler")

    def __post_init__(self) -> None:
        open_ones = [name for name in ("paths", "branches", "solve_steps") if getattr(self, name) is None]
        if len(open_ones) > 1:
            raise ArgumentError(open_ones[1], got=f"None, and {open_ones[0]} too", expected="at most one left open")
        for name in ("paths", "branches", "solve_steps"):
            at_least(name, getattr(self, name), 1)
        for name, most in (("paths", PATHS), ("branches", CANDIDATES)):
            if (getattr(self, name) or 0) > most:
                raise ArgumentError(name, got=getattr(self, name), expected=f"at most {most}")
        for name in ("start_level", "forward"):
            if not 0 < getattr(self, name) < 1:
                raise ArgumentError(name, got=getattr(self, name), expected="a number in (0, 1)")
        if not self.forward < self.backward < math.inf:
            expected = f"more than forward = {self.forward}, or the search never reaches the data"
            raise ArgumentError("backward", got=self.backward, expected=expected)
        if self.start_level > ROUNDS * (self.backward - self.forward):
            least = self.forward + self.start_level / ROUNDS
            raise ArgumentError("backward", got=self.backward, expected=f"at least {least:.6g}, for {ROUNDS} rounds")
        if self.start_level + self.forward > 1 + SLACK:
            got = f"{self.forward}, to the level {self.start_level + self.forward:.6g}"
            raise ArgumentError("forward", got=got, expected=f"at most 1 - start_level = {1 - self.start_level:.6g}")
        if self.keep not in ("global", "each"):
            raise ArgumentError("keep", got=repr(self.keep), expected="'global' or 'each'")

    @property
    def rounds(self) -> int:
        """R."""
        return math.ceil(self.start_level / (self.backward - self.forward) - SLACK)

    def level(self, number: int) -> float:
        """The level u after so many rounds."""
        return 0.0 if number == self.rounds else self.start_level - number * (self.backward - self.forward)

    # --- plans and the budget ---------------------------------------------------------------------------------------

    def first(self, task: Task, steps: int) -> Plan:
        """The flow from noise to the first level."""
        start = grid(task.schedule, task.plan.steps, task.path)[0]
        return part_plan(task, start, self.time(task, self.level(0)), steps)

    def leg(self, task: Task, number: int, steps: int) -> Leg:
        """A round."""
        here, below = self.level(number), self.level(number + 1)
        solve = part_plan(task, self.time(task, here + self.forward), self.time(task, below), steps)
        own, look = task.model.interpolant, None
        if below > 0:
            times = (solve.grid[-1], 1.0)
            look = optimised_plan(solver("ddim"), times, own, task.model.prediction, task.guidance)
        return Leg(equal_noise(task.path, self.time(task, here), own)[0], solve, look)

    def time(self, task: Task, level: float) -> float:
        """Time of the sampler's path at a level; its first time at the highest, and its last at 0.

        Raises:
            ArgumentError: The level is beyond the first.
        """
        times = grid(task.schedule, task.plan.steps, task.path)
        if level == 0:
            return times[-1]
        ratio = task.path.noise_ratio(times[0])
        highest = 1.0 if math.isinf(ratio) else ratio / (1 + ratio)
        if level > highest + SLACK:
            got = f"{self.forward}, to the level {level:.6g}"
            expected = f"at most {highest - self.start_level:.6g}: the sampler begins at {highest:.6g}"
            raise ArgumentError("forward", got=got, expected=expected)
        return time_at(task.path, level) if level < highest - SLACK else times[0]

    def costs(self, task: Task, steps: int) -> tuple[int, int]:
        """Evaluations of a path before the first round, and of a branch in all rounds."""
        legs = [self.leg(task, number, steps) for number in range(self.rounds)]
        looks = sum(leg.look.nfe for leg in legs if leg.look)
        return self.first(task, steps).nfe, sum(leg.solve.nfe for leg in legs) + looks

    def afford(self, task: Task) -> tuple[int, int, int]:
        """N, M and n_s."""
        steps = self.solve_steps
        if isinstance(task.schedule, tuple) or getattr(task.schedule, "steps", None) is not None:
            steps = task.plan.steps
        elif steps is None and task.evaluations_left() is None:
            steps = task.plan.steps
        elif steps is None:
            steps = self.most_steps(task, self.paths or 1, self.branches or 1)
        first, each = self.costs(task, steps)
        if self.paths is None:
            m = self.branches or 1
            price = (first + m * each, m * self.rounds)
            return min(affordable(task, "paths", None, each=price, otherwise=2), PATHS), m, steps
        n, price = self.paths, (self.paths * each, self.paths * self.rounds)
        m = affordable(task, "branches", self.branches, fixed=(n * first, 0), each=price, otherwise=5)
        return n, min(m, CANDIDATES), steps

    def most_steps(self, task: Task, paths: int, branches: int) -> int:
        """The largest n_s that every request can pay for."""

        def cost(steps: int) -> int:
            first, each = self.costs(task, steps)
            return paths * (first + branches * each)

        have, least = task.evaluations_left() or 0, cost(1)
        if least > have:
            price = task.evaluation_cost
            expected = f"at least {least * price} for solve_steps = 1 ({paths} paths of {branches} branches)"
            raise BudgetError("budget.nfe", got=have * price, expected=expected)
        more = paths * (1 + branches * self.rounds) * task.solver.evaluations_per_step
        steps = 1 + (have - least) // more  # exact but for solvers whose first steps are unlike the rest
        while steps > 1 and cost(steps) > have:
            steps -= 1
        while cost(steps + 1) <= have:
            steps += 1
        return steps

    # --- the search -------------------------------------------------------------------------------------------------

    def begin(self, task: Task) -> Ways:
        """Solve from the noises to the first level."""
        if task.plan.stochastic:
            expected = "a solver without noise: the search draws its own between solves"
            raise ArgumentError("solver", got=task.plan.solver, expected=expected)
        paths, branches, steps = self.afford(task)
        plan = self.first(task, steps)
        noise = start_of(task, task.start(torch.arange(paths) * CANDIDATES), plan)
        particles = task.run(noise, plan, "initial")
        nothing = torch.empty(0, dtype=torch.float64)
        return Ways(paths=paths, branches=branches, solve_steps=steps, particles=particles, values=nothing)

    def advance(self, task: Task, state: Ways) -> None:
        """A round; straight to the data if the time is up."""
        if task.out_of_time:
            plan = part_plan(task, self.time(task, self.level(state.step)), self.time(task, 0.0), state.solve_steps)
            state.particles = task.run(state.particles, plan, "finish")
            state.values = task.score(state.particles, state.step)
            task.note("finish", state.step, state.values, finished=True)
            state.done = True
            return
        leg = self.leg(task, state.step, state.solve_steps)
        copies = branch(state.particles, state.branches)
        copies = replace(copies, x=self.back(task, copies, leg, state.step))
        copies = task.run(copies, leg.solve, "search")
        clean = copies if leg.look is None else task.run(copies, leg.look, "search")
        values = task.score(clean, state.step, "search")
        task.note("search", state.step, values, finished=leg.look is None, time=leg.solve.grid[-1])
        chosen = self.choose(state, values.reshape(len(task.requests), -1))
        slots = torch.arange(state.paths).repeat(len(task.requests)) * CANDIDATES
        state.particles, state.values = copies.take(chosen, slots), values[chosen]
        state.step += 1
        state.done = leg.look is None

    def back(self, task: Task, copies: Particles, leg: Leg, number: int) -> Tensor:
        """Renoised states, keyed by round and slot."""
        draw = kernels.Draw(kernels.PURPOSE_RENOISING, number)
        noise = kernels.Noise(task.seed, draw, task.ids(copies))
        return renoised(copies.x, task.model.interpolant, leg.time, leg.solve.grid[0], noise)

    def choose(self, state: Ways, table: Tensor) -> Tensor:
        """Rows of the N that go on, of the branches [S, N M] of all."""
        if self.keep == "global":
            return best_rows(table, state.paths)
        return best_rows(table.reshape(len(table) * state.paths, -1))

    def outcome(self, task: Task, state: Ways) -> Outcome:
        """The paths."""
        return Outcome(state.particles, state.values.reshape(len(task.requests), -1))


def renoised(x: Tensor, path: Interpolant, time: float, back: float, noise: kernels.Noise) -> Tensor:
    r"""States of an earlier time from those of a later one, by the Markov kernel of the path.

    .. math:: x^+ = a x + \sqrt{\sigma^{+2} - a^2 \sigma^2} \, \xi, \quad a = \alpha^+ / \alpha

    If x has the law of :math:`x_t`, then x+ has that of :math:`x_{t^+}`.

    Args:
        x: States at ``time``, [B, *D].
        path: A one-sided interpolant.
        time, back: t > t+.
        noise: Key of xi.

    Raises:
        ArgumentError: ``back`` is not before ``time``.

    Example:
        >>> from pushforward.models import Linear
        >>> key = kernels.Noise(0, kernels.Draw(kernels.PURPOSE_RENOISING, 0))
        >>> renoised(torch.ones(1, 2), Linear(), 1.0, 0.5, key) - renoised(torch.zeros(1, 2), Linear(), 1.0, 0.5, key)
        tensor([[0.5000, 0.5000]])
    """
    if not back < time:
        raise ArgumentError("back", got=back, expected=f"a time before {time}")
    (alpha, sigma, _, _), (alpha_back, sigma_back, _, _) = path(time), path(back)
    a = alpha_back / alpha
    spread = math.sqrt((sigma_back - a * sigma) * (sigma_back + a * sigma))
    return cast(Tensor, kernels.combine([x], [a], noise=[noise], scale=[spread]))


def time_at(path: Interpolant, level: float) -> float:
    """Time of a path at which sigma / (alpha + sigma) is ``level`` in [0, 1]."""
    return path.time_at_noise_ratio(level / (1 - level) if level < 1 else math.inf)
