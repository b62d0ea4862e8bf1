"""Fit a solver to one model and one budget."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, UnknownNameError
from ...models import BranchWeights, Model
from ...models.fingerprint import fingerprint
from ..grids import GridFunction
from ..grids import grid as find_grid
from ..grids.optimise import LEAST_GAIN, check_counts, check_power
from ..ode.fitted import Quantity
from ..pilot import take_rows
from ..solver import FixedGridSolver
from ..solver import solver as solver_of
from .family import Family
from .fitted_plan import FittedPlan, FitWarning
from .regression import RIDGES
from .report import Reporter, scale_of
from .responses import base_coefficients
from .search import Search
from .starts import Groups, Starts
from .stepwise import Stepwise

Method = Literal["least-squares", "gradient", "both"]
METHODS: tuple[Method, ...] = ("least-squares", "gradient", "both")
ELEMENTS, FEWEST, MOST = 2**17, 256, 4096  # of all starts, unless said otherwise, within these numbers of starts
LARGEST = 2**26  # elements of all starts, but for 32 of them
CPU_BATCH = 2**16  # elements of one call: what a layer writes stays in a cache, and calls are still few
Guidances = float | BranchWeights | Sequence[float]


def fit(
    model: Model,
    steps: int,
    shape: Sequence[int],
    *,
    base: str | FixedGridSolver = "unipc",
    grid: str | GridFunction | Sequence[float] = "uniform",
    method: Method = "least-squares",
    memory: int | None = None,
    quantity: Quantity | None = None,
    per_channel: bool = False,
    guidance: Guidances = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    pairs: int | None = None,
    seed: int = 0,
    ridge: float | None = None,
    power: float = 2.0,
    rounds: int = 1,
    tries: int = 2,
    polish: int = 2,
    iterations: int = 300,
    reference_steps: int = 24,
    batch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> FittedPlan:
    r"""A solver made for one model and one number of steps: the same executor and cost, a fraction of the error.

    A plan's coefficients are numbers, and these are chosen for the network instead of for short steps. The family,

    .. math:: y_{n+1} = a_n y_n + \sum_{j < m} w_{nj}\, q_{n-j}, \quad y = x / (\alpha + \sigma),

    holds every multistep and exponential formula with one evaluation a step; :class:`FittedMultistep` says what q is,
    and why the first output is asked for at a time of its own.
    Starts are drawn and solved accurately, and divided: a half is fitted to, a quarter chooses between ridges, grids
    and methods, and the last quarter is measured once, at the end, for the report.

    - "least-squares": for each grid that is tried, step by step along the run itself (:func:`fit_steps`), with a ridge
      towards the base solver; then times and coefficients together for the end of the run (:func:`polish`). Only
      forward passes: sessions and compiled engines do as well.
    - "gradient": Adam through the network, from the base solver (:func:`descend`).
    - "both": Adam from what least squares found.

    If on the last quarter the result is not better than the base, by 1 % and by more than the error of the exact
    samples, the base comes back, with a warning. Only the seed decides the result.

    Args:
        model: The network, or an oracle's.
        steps: Steps, and network evaluations, of the plan, at least 1.
        shape: Of one sample, without the batch.
        base: The solver that a strong ridge leads to: one evaluation a step, no noise.
        grid: Where the search for times begins, and the base's.
        method: See above.
        memory: m, the most outputs that a step reads, and so the buffers that stay; None: all of the run, at most 15.
        quantity: q: "velocity", "denoised" or "noise"; None: the best of the first two where memory is short, since
            with all outputs there is no difference.
        per_channel: Coefficients for each channel of the state [B, C, *D], whose scales may differ.
        guidance: As in :func:`pushforward.sample`; several scales for a plan that serves all between them.
        condition, null: As there. Tensors of a condition have 1 row, or ``pairs``: they should be what the plan will
            be asked for.
        pairs: How many starts are drawn; by default 256 to 4096, more where samples are small.
        seed: Of the starts, in [0, 2**64).
        ridge: One strength for all steps instead of the best of ten: relative to the columns' squares; infinity is
            the base solver, to the last bit.
        power: q in [0, 2] of the errors that are minimised: 2 is the mean square, 1 the mean, 0 the mean logarithm,
            for the typical sample at the cost of the rare one that is about to become something else.
        rounds: Of the search over grids; 0 keeps ``grid`` (but for ``polish``).
        tries: Grids that the end of the run is tried from on a few starts, at least 1: the best that is found, the
            base's best, then those of other names by their errors.
        polish: How often derivatives are made for the end of the run, at most; 12 and more bring errors down by another
            third or so, where there is time.
        iterations: Of Adam.
        reference_steps: Steps of RK4 for the exact samples, at least 4; see ``report.reference_error``.
        batch: The most rows that the network is called with; None: 65,536 elements on a CPU, elsewhere all starts.
        dtype, device: Of the states.
        progress: Show on stderr what is being done.

    Returns:
        The plan, with ``report``.

    Raises:
        ArgumentError: A number out of range, fewer starts than unknowns, a network that answers the same question
            differently, a base with more than one evaluation a step, "gradient" for a network that has none.
        NotFiniteError: A state or an output is not finite; says where.
        PushforwardError: What a run of the base would raise.

    Source:
        Shaul et al. 2024, Bespoke Non-Stationary Solvers (the family, and "gradient"); Frankel et al. 2025, S4S. Least
        squares along the run, and Gauss-Newton on its end, are this library's.

    Example:
        >>> import pushforward as pf
        >>> fitted = pf.fit(pf.models.reference_mixture().model(), 5, (2,), pairs=512, rounds=0, dtype=torch.float64)
        >>> fitted.report.gain > 3
        True
    """
    given = [count for count in (("pairs", pairs, 8), ("batch", batch, 1)) if count[1] is not None]
    check_counts(("steps", steps, 1), ("rounds", rounds, 0), ("tries", tries, 1), ("polish", polish, 0),
                 ("iterations", iterations, 1), ("reference_steps", reference_steps, 4), *given)  # fmt: skip
    check_power(power)
    if method not in METHODS:
        raise UnknownNameError("method", got=repr(method), expected=f"one of {', '.join(METHODS)}")
    if ridge is not None and not ridge >= 0:
        raise ArgumentError("ridge", got=ridge, expected="a number, at least 0, or infinity")
    if per_channel and not shape:
        raise ArgumentError("per_channel", got="a state without channels", expected="a shape (C, *D)")
    solver, base_times = solver_of(base), find_grid(grid, steps, model.interpolant)
    base_coefficients(solver, base_times, model.interpolant)
    families = families_of(memory, quantity, shape[0] if per_channel else None, steps)
    count = pairs or default_pairs(math.prod(shape))
    check_starts(count, families[0].unknowns(steps))
    scales = tuple(guidance) if isinstance(guidance, Sequence) else (guidance,)
    draw = kernels.Draw(kernels.PURPOSE_INITIAL, 0)
    noise = kernels.normal((count, *shape), seed=seed, draw=draw, dtype=dtype, device=device)
    trees = dict(condition or {}), None if null is None else dict(null)
    if batch is None and noise.device.type == "cpu":
        batch = cpu_batch(math.prod(shape))
    groups = divided(model, noise, scales, trees, batch)
    search = Search(solver, model.interpolant, base_times, groups, RIDGES if ridge is None else (ridge,), power)
    stages = Stages(method, rounds, tries, polish, iterations, seed)
    with showing(progress) as say:
        say("exact samples")
        for some in groups.all:
            some.find_trajectory(search.first, reference_steps)
        exact_to = max(some.exact_to(base_times[0], reference_steps) for some in groups.held_out)
        found = None if ridge == math.inf else stages.best(search, families, say)
        say("report")
        formula = None if found is None else search.on_path(found.formula)
        report = Reporter(model, solver, base_times, groups.held_out, exact_to).report(
            formula,
            evaluations=lambda: sum(some.calls for some in groups.all),
            ridges=found.ridges if found else (math.inf,) * steps,
            method=method,
            memory=memory,
            power=power,
            seed=seed,
            pairs=count,
        )
    made_for = tuple(scale_of(scale) for scale in scales), fingerprint(model)
    least = max(LEAST_GAIN * report.base.error, exact_to, torch.finfo(dtype).eps)
    if formula is not None and report.base.error - report.fitted.error > least:
        return FittedPlan(formula, formula.times, model.interpolant, *made_for, report)
    if formula is not None:
        told = f"nothing gained on held-out starts ({report.fitted.error:.3g} against {report.base.error:.3g})"
        warnings.warn(f"{told}: the base solver {solver} is returned", FitWarning, stacklevel=2)
    report = dataclasses.replace(report, fitted=report.base)
    return FittedPlan(solver, base_times, model.interpolant, *made_for, report)


@dataclass(frozen=True)
class Stages:
    """What is tried, as in :func:`fit`."""

    method: Method
    rounds: int
    tries: int
    polish: int
    iterations: int
    seed: int

    def best(self, search: Search, families: Sequence[Family], say: Callable[[str], object]) -> Stepwise:
        """The formula that the judging starts like best, of all families and stages."""
        found = []
        for family in families:
            kind = f"outputs remembered: {family.memory or 'all'}, {family.quantity}"
            if self.method == "gradient":
                found.append(search.base(family))
            else:
                say(f"time grids ({kind})")
                grids = search.grids(family, self.rounds, self.tries)
                say(f"coefficients ({kind})")
                found += [search.opened(times, family) for times in grids]
                if self.polish:
                    say(f"the end of the run ({kind})")
                    found.append(search.polished(search.promising(found[-len(grids) :]), self.polish))
            if self.method != "least-squares":
                say(f"gradients ({kind})")
                found.append(search.descended(search.best(found), self.iterations, self.seed))
        return search.best(found)


def divided(
    model: Model,
    noise: Tensor,
    scales: Sequence[float | BranchWeights],
    trees: tuple[dict[str, Any], dict[str, Any] | None],
    batch: int | None,
) -> Groups:
    """The starts: half to fit to, a quarter to choose by, a quarter to measure; each shared out among the scales."""
    count = len(noise)
    half, most = count // 2, count - count // 4

    def starts(first: int, last: int) -> tuple[Starts, ...]:
        parts = [slice(first + k, last, len(scales)) for k in range(len(scales))]
        return tuple(
            Starts(model, noise[rows], scale, *(take_rows(tree, rows, count) for tree in trees), batch=batch)
            for rows, scale in zip(parts, scales, strict=True)
        )

    return Groups(starts(0, half), starts(half, most), starts(most, count))


def families_of(memory: int | None, quantity: Quantity | None, channels: int | None, steps: int) -> list[Family]:
    """What to try: with short memory it matters what is remembered."""
    if quantity is None:
        short = memory is not None and 1 < memory < steps
        tried: tuple[Quantity, ...] = ("velocity", "denoised") if short else ("velocity",)
        return [family for each in tried for family in families_of(memory, each, channels, steps)]
    family = Family(memory, quantity, channels)
    family.check_size(steps)
    return [family]


def default_pairs(size: int) -> int:
    """256 to 4096 starts by the size of one, fewer where they are large."""
    return min(max(FEWEST, min(MOST, ELEMENTS // max(size, 1))), max(32, LARGEST // max(size, 1)))


def cpu_batch(size: int) -> int:
    """Rows of one call on a CPU, by the size of one."""
    return max(CPU_BATCH // max(size, 1), 1)


def check_starts(count: int, unknowns: int) -> None:
    """Refuse to fit more numbers than there are starts.

    Raises:
        ArgumentError: Says how many it takes.
    """
    if count // 2 < unknowns:
        got = f"{count} starts, of which half are fitted to, for {unknowns} unknowns a step"
        raise ArgumentError("pairs", got=got, expected=f"at least {2 * unknowns}")


@contextmanager
def showing(wanted: bool) -> Iterator[Callable[[str], object]]:
    """A function that shows what is being done on stderr, or does nothing."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not wanted,
    ) as progress:
        tasks: list[TaskID] = []

        def say(stage: str) -> None:
            for task in tasks[-1:]:
                progress.update(task, total=1, completed=1)
            tasks.append(progress.add_task(stage, total=None))

        yield say
