"""Picard iteration over the steps of a plan: many evaluations at once, few one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, DtypeError, NotFiniteError, PlanError, ShapeError
from ...kernels.arguments import MAX_INPUTS
from ..plan import Link, Plan, chain
from .anderson import Anderson

FLOOR = 1e-3  # of a state: the noise of a step vanishes where sigma does, and no tolerance may

Rows = NDArray[np.int64]


class RowModel(Protocol):
    """What a run needs of a bound model; see :class:`pushforward.models.BoundModel`."""

    @property
    def calls(self) -> int:
        """How often the network was called so far."""
        ...

    def select(self, index: Rows) -> RowModel:
        """The model bound to these rows of its conditions."""
        ...

    def evaluate_rows(self, x: Tensor, times: NDArray[np.float64], branches: tuple[str, ...]) -> Sequence[Tensor]:
        """One raw output for each branch, for rows with times of their own."""
        ...


@dataclass(frozen=True)
class ParallelReport:
    """What a run took.

    Attributes:
        steps: Of the grid, which is what a sequential run takes in evaluations and calls.
        rounds: Of each sample until it was done, int64 [B].
        evaluations: Of each sample, int64 [B]; a guided pair counts as one.
        calls: Of the network, one after another: one a round, for the slowest sample.
        converged: Whether each sample met the tolerance at every step, bool [B]; false where ``rounds`` ended the run.
    """

    steps: int
    rounds: Rows
    evaluations: Rows
    calls: int
    converged: NDArray[np.bool_]

    def __str__(self) -> str:
        slowest, spent = self.rounds.max(initial=0), self.evaluations.sum() / max(1, len(self.evaluations))
        return f"{slowest} rounds for {self.steps} steps, {spent:.4g} evaluations a sample"


def picard(
    plan: Plan,
    x0: Tensor,
    model: RowModel,
    *,
    window: int | None = None,
    tolerance: float = 0.01,
    rounds: int | None = None,
    memory: int = 0,
    seed: int = 0,
    samples: Tensor | None = None,
) -> tuple[Tensor, ParallelReport]:
    r"""The plan's result by Picard iteration over a sliding window of steps.

    With guesses :math:`x_b, \dots, x_e` of the states in the window, a round evaluates the network at all of them in
    one call and sums the increments of the plan's own steps,

    .. math:: \frac{x_{i+1}}{r_{i+1}} \leftarrow \frac{x_b}{r_b} + \sum_{k=b}^{i} \left(
        \frac{A_k x_k + B_k o_k + S_k z_k}{r_{k+1}} - \frac{x_k}{r_k} \right), \quad r = \sqrt{\alpha^2 + \sigma^2}

    with the plan's own noise, so that a stochastic plan gives the same sample as a sequential run. Scaled by r, states
    are those of a variance-preserving path, so that every path needs the same number of rounds. After k rounds the
    first k states are those of a sequential run, whatever the network: at most as many rounds as steps, usually far
    fewer. Then the window goes on to the first state whose change was too large,

    .. math:: \tfrac{1}{d} |x^{new}_{i+1} - x^{old}_{i+1}|^2 > \tau^2 \max\left( \sigma_{i+1}^2 (1 - e^{-2 |h_i|}), \;
        (10^{-3} r_{i+1})^2 \right)

    the variance of the noise that DDPM would add in the step, h being its half log-SNR, with a floor: at least by one,
    and states that enter start from the last one, scaled by r. Multistep plans read the estimates of the last iterate.
    Every sample has a window of its own: its result does not depend on its batch, and those that are done leave it.
    Rows of one call have different times, so the network must take a time for each row.

    With ``memory``, states also learn from their last rounds (Anderson acceleration, triangular in time), which keeps
    what is exact and saves rounds, most where the plan is stochastic; see :class:`.anderson.Anderson`.

    Sums are formed in the dtype of x0, in float32 for 16 bits. Memory: all states of the run, all outputs of a
    multistep plan, and 2 m times the states for a memory of m. One value a row is read back in each round, all in one
    read.

    Args:
        plan: A plan at stage "outputs" (lowered, not optimised), of one evaluation a step.
        x0: State at ``plan.grid[0]``, [B, *D]; not written to.
        model: A bound model.
        window: States that are evaluated at once for each sample, at least 1; all by default.
        tolerance: The :math:`\tau` above, at least 0; 0 goes on until nothing changes.
        rounds: Stop after as many, converged or not.
        memory: Rounds that the acceleration remembers, 2 to 5 in the paper, or 0 for none.
        seed, samples: Key of the noise, as for an executor.

    Returns:
        The samples, [B, *D], in the dtype of x0, and a report.

    Raises:
        PlanError: "a one-evaluation plan is needed", another stage, or a path without noise.
        NotFiniteError: A state became NaN or infinite; says at which step.
        ArgumentError, ShapeError, DtypeError: An argument outside its range.

    Source:
        Shih et al. 2023, Parallel sampling of diffusion models (ParaDiGMS), algorithm 1; the acceleration is that of
        Tang et al. 2024 (ParaTAA).
    """
    check_arguments(plan, x0, window, tolerance, rounds, memory, samples)
    with torch.no_grad():
        run = Picard(plan, x0, model, window or plan.steps, tolerance, seed, samples, memory)
        while run.active.size and (rounds is None or run.count < rounds):
            run.round()
        return run.result()


class Picard:
    """One run: the states of every step, and each sample's window.

    Attributes:
        states: Latest iterates, [N + 1, B, *D].
        begin, end: Each sample's window: states ``begin`` to ``end - 1`` are evaluated next, [B].
        active: Samples that are not done, ascending.
        count: Rounds so far.
    """

    def __init__(
        self,
        plan: Plan,
        x0: Tensor,
        model: RowModel,
        window: int,
        tolerance: float,
        seed: int,
        samples: Tensor | None,
        memory: int = 0,
    ) -> None:
        self.plan, self.links, self.model, self.window = plan, chain(plan), model, window
        self.dtype = x0.dtype
        start = x0.detach().to(torch.promote_types(x0.dtype, torch.float32))
        self.steps, self.batch = plan.steps, len(start)
        self.states = start.new_empty((self.steps + 1, *start.shape))
        self.states[0] = start
        self.bounds = tolerance**2 * step_variances(plan)
        self.times = np.array([link.time for link in self.links])
        self.scales = np.array([link.scale for link in self.links])
        self.sizes = state_sizes(plan)
        self.anderson = Anderson(memory, self.batch, self.sizes[1:]) if memory else None
        self.seed, self.ids = seed, samples
        if samples is None and any(link.draws for link in self.links):
            self.ids = torch.arange(self.batch, device=start.device)
        self.remembers = any(link.first < i for i, link in enumerate(self.links))
        self.outputs: dict[str, Tensor] = {}  # of a multistep plan, by branch, [N, B, *D]
        self.selected: tuple[Rows, RowModel] = (np.arange(0), model)
        self.begin = np.zeros(self.batch, dtype=np.int64)
        self.end = np.zeros(self.batch, dtype=np.int64)
        self.active = np.arange(self.batch)
        self.rounds = np.zeros(self.batch, dtype=np.int64)
        self.evaluations = np.zeros(self.batch, dtype=np.int64)
        self.count = self.calls = 0
        self.extend()

    # --- one round ---------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Evaluate the windows, sum the increments, read the changes, and move on."""
        step, sample = self.window_rows()
        flat = self.states.flatten(0, 1)
        here, there = step * self.batch + sample, (step + 1) * self.batch + sample
        old = flat.index_select(0, self.on_device(here))
        found = self.evaluate(old, step, sample)
        target = self.on_device(there)
        new, last = self.sweep(old, found, step, sample), flat.index_select(0, target)
        change = (new - last).flatten(1)
        if self.anderson is not None:
            new = self.anderson(last, new - last, step, sample, self.begin)
        changes = (torch.linalg.vector_norm(change, dim=1).square() / max(1, change.shape[1])).tolist()  # the one read
        flat.index_copy_(0, target, new)
        self.advance(np.array(changes, dtype=np.float64), step, sample)

    def window_rows(self) -> tuple[Rows, Rows]:
        """Step and sample of every state to evaluate, steps ascending, samples ascending within a step."""
        sizes = self.end[self.active] - self.begin[self.active]
        sample = np.repeat(self.active, sizes)
        step = np.concatenate([np.arange(self.begin[s], self.end[s]) for s in self.active])
        order = np.lexsort((sample, step))
        return step[order], sample[order]

    def evaluate(self, x: Tensor, step: Rows, sample: Rows) -> dict[str, Tensor]:
        """The raw outputs at the rows, by branch: one call; all rows pay for a branch that some step needs."""
        branches = tuple(dict.fromkeys(b for i in np.unique(step) for b in self.links[i].branches))
        x = scaled(x, self.scales[step])
        if not np.array_equal(self.selected[0], sample):
            self.selected = sample, self.model.select(sample)
        model = self.selected[1]
        before = model.calls
        outputs = model.evaluate_rows(x.to(self.dtype), self.times[step], branches)
        self.calls += model.calls - before
        found: dict[str, Tensor] = {}
        for branch, output in zip(branches, outputs, strict=True):
            if output.shape != x.shape or output.dtype != self.dtype or output.device != x.device:
                got = f"{output.dtype} {list(output.shape)} on {output.device}"
                expected = f"{self.dtype} {list(x.shape)} on {x.device}, as its input"
                raise ShapeError("network output", got=got, expected=expected)
            found[branch] = output.to(x.dtype)
        if self.remembers:
            place = self.on_device(step * self.batch + sample)
            for branch, output in found.items():
                if branch not in self.outputs:
                    self.outputs[branch] = torch.empty_like(self.states[1:])
                self.outputs[branch].flatten(0, 1).index_copy_(0, place, output)
        return found

    def sweep(self, old: Tensor, found: Mapping[str, Tensor], step: Rows, sample: Rows) -> Tensor:
        """New states at the ends of the rows' steps: the first of the window plus a running sum of increments."""
        total = self.states.flatten(0, 1).index_select(
            0, self.on_device(self.begin * self.batch + np.arange(self.batch))
        )
        new = torch.empty_like(old)
        edges = np.flatnonzero(np.diff(step, prepend=-1, append=-1))
        for lo, hi in itertools.pairwise(edges.tolist()):
            index = int(step[lo])
            link, rows = self.links[index], sample[lo:hi]
            chosen = None if hi - lo == self.batch else self.on_device(rows)
            growth = float(self.sizes[index + 1] / self.sizes[index])
            terms = [(growth, pick(total, chosen)), (link.states[index] - growth, old[lo:hi])]
            for k, weight in link.states.items():
                if k != index:
                    terms.append((weight, pick(self.states[k], chosen)))
            for (k, branch), weight in link.outputs.items():
                value = found[branch][lo:hi] if k == index else pick(self.outputs[branch][k], chosen)
                terms.append((weight, value))
            self.combine(terms, link, chosen, new[lo:hi])
            # Not in place: where all samples had the step before, the total is a part of the result.
            total = new[lo:hi] if chosen is None else total.index_copy(0, chosen, new[lo:hi])
        return new

    def combine(self, terms: list[tuple[float, Tensor]], link: Link, chosen: Tensor | None, out: Tensor) -> None:
        """The weighted sum of the terms plus the step's noise, in as few passes as a combination's inputs allow."""
        terms = [terms[0], *((weight, value) for weight, value in terms[1:] if weight != 0)]
        while len(terms) > MAX_INPUTS:
            head, terms = terms[:MAX_INPUTS], terms[MAX_INPUTS:]
            kernels.combine([value for _, value in head], [weight for weight, _ in head], out=out)
            terms.insert(0, (1.0, out))
        noise = None
        if link.draws:
            ids = pick(cast(Tensor, self.ids), chosen)
            noise = [kernels.Noise(self.seed, draw, ids) for draw in link.draws]
        scale = list(link.draws.values()) or None
        kernels.combine([v for _, v in terms], [w for w, _ in terms], out=out, noise=noise, scale=scale)

    # --- windows -----------------------------------------------------------------------------------------------

    def advance(self, changes: NDArray[np.float64], step: Rows, sample: Rows) -> None:
        """Accept states up to the first that changed too much, and let as many enter."""
        self.count += 1
        if not np.isfinite(changes).all():
            worst = int(np.flatnonzero(~np.isfinite(changes))[0])
            place = f"step {step[worst]} of {self.steps}, t = {self.times[step[worst]]:.4g}, sample {sample[worst]}"
            error = NotFiniteError(place, got="NaN or infinity in the state", expected="finite numbers")
            error.step, error.t = int(step[worst]), float(self.times[step[worst]])
            raise error
        sizes = self.end - self.begin
        good = np.zeros((self.batch, int(sizes.max())), dtype=bool)
        good[sample, step - self.begin[sample]] = changes <= self.bounds[step]
        settled = np.cumprod(good, axis=1).sum(axis=1)
        self.rounds[self.active] += 1
        self.evaluations += sizes
        # The first state of a window is final, and so is the next one, which is made of final ones only.
        self.begin += np.minimum(1 + settled, sizes)
        self.active = np.flatnonzero(self.begin < self.steps)
        self.extend()

    def extend(self) -> None:
        """Fill the windows up; states that enter are the last one, at the size of their time."""
        end = np.minimum(self.begin + self.window, self.steps)
        fresh = end - self.end
        sample = np.repeat(np.arange(self.batch), fresh)
        if sample.size:
            entering = np.concatenate([np.arange(lo, hi) for lo, hi in zip(self.end, end, strict=True)]) + 1
            flat = self.states.flatten(0, 1)
            source = flat.index_select(0, self.on_device(self.end[sample] * self.batch + sample))
            source = scaled(source, self.sizes[entering] / self.sizes[self.end[sample]])
            flat.index_copy_(0, self.on_device(entering * self.batch + sample), source)
        self.end = end

    def result(self) -> tuple[Tensor, ParallelReport]:
        """The last states: of a run that was stopped, the last that a sample has."""
        last = self.on_device(self.end * self.batch + np.arange(self.batch))
        samples = self.states.flatten(0, 1).index_select(0, last).to(self.dtype)
        done = self.begin >= self.steps
        return samples, ParallelReport(self.steps, self.rounds, self.evaluations, self.calls, done)

    def on_device(self, rows: Rows) -> Tensor:
        """Row numbers where the states are."""
        return torch.from_numpy(rows).to(self.states.device)


def scaled(x: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """Each row times its factor; x itself if all are 1."""
    return x if (factors == 1).all() else cast(Tensor, kernels.combine([x], torch.from_numpy(factors)[:, None]))


def pick(x: Tensor, chosen: Tensor | None) -> Tensor:
    """The chosen rows, or all of them as they are."""
    return x if chosen is None else x.index_select(0, chosen)


def step_variances(plan: Plan) -> NDArray[np.float64]:
    r"""Variance of the noise that DDPM adds in each step, with a floor: what a tolerance is relative to, [N].

    .. math:: \max(\sigma_{i+1}^2 (1 - e^{-2 |h_i|}), \; (10^{-3} r_{i+1})^2)
    """
    path = plan.interpolant
    found = [
        -(path.sigma(t_next) ** 2) * math.expm1(-2 * abs(path.half_log_snr(t_next) - path.half_log_snr(t)))
        for t, t_next in itertools.pairwise(plan.grid)
    ]
    return np.maximum(found, (FLOOR * state_sizes(plan)[1:]) ** 2)


def state_sizes(plan: Plan) -> NDArray[np.float64]:
    """``r = sqrt(alpha^2 + sigma^2)`` at the times of the grid, [N + 1]: 1 on variance-preserving paths."""
    return np.array([math.hypot(*plan.interpolant(t)[:2]) for t in plan.grid])


def check_arguments(
    plan: Plan,
    x0: Tensor,
    window: int | None,
    tolerance: float,
    rounds: int | None,
    memory: int,
    samples: Tensor | None,
) -> None:
    """Raise a named error for what cannot be run."""
    for name, value in (("window", window), ("rounds", rounds)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ArgumentError(name, got=repr(value), expected="an integer, at least 1, or None")
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0 or memory == 1:
        raise ArgumentError("memory", got=repr(memory), expected="an integer, at least 2, or 0 for no acceleration")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise ArgumentError("tolerance", got=repr(tolerance), expected="a finite number, at least 0")
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        raise DtypeError("x0", got=getattr(x0, "dtype", type(x0).__name__), expected="a floating-point tensor")
    if x0.ndim < 1:
        raise ShapeError("x0", got=list(x0.shape), expected="[B, *D], the batch first")
    if samples is not None:
        kernels.noise.check_samples(samples)
        if len(samples) != len(x0):
            raise ShapeError("samples", got=list(samples.shape), expected=f"[{len(x0)}], one id for each row")
    if not plan.interpolant.one_sided:
        expected = "a path from Gaussian noise, since the tolerance is relative to its noise"
        raise PlanError("plan.interpolant", got=plan.interpolant, expected=expected)
