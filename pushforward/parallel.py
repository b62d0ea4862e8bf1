"""One call from a model to samples, in parallel over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import ArgumentError
from .models import BranchWeights, Interpolant, Model, interpolant
from .models.capabilities import check_no_memory
from .models.guidance import as_guidance
from .sample import initial_noise
from .solvers import FixedGridSolver
from .solvers.fitting import solver_for
from .solvers.grids import GridFunction
from .solvers.lowered import lowered_plan
from .solvers.parallel import ParallelReport, picard
from .solvers.run_times import run_times
from .solvers.solver import LastStep


def sample_parallel(
    model: Model,
    start: Tensor | Sequence[int],
    *,
    solver: str | FixedGridSolver = "ddim",
    steps: int | None = None,
    grid: str | GridFunction | Sequence[float] = "uniform",
    path: str | Interpolant | None = None,
    window: int | None = None,
    tolerance: float = 0.01,
    rounds: int | None = None,
    memory: int = 0,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    seed: int = 0,
    samples: Tensor | None = None,
    backward: bool = False,
    last_step: LastStep = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ParallelReport]:
    """The samples of :func:`pushforward.sample` to a tolerance, in fewer network calls one after another.

    Many steps are evaluated in each call, and all of them are repeated until they agree (Picard iteration, see
    :func:`pushforward.solvers.parallel.picard`). It buys latency for evaluations: worth it where the device is not
    busy with one step, as for few samples, many steps and a small network. No gradients.

    Args:
        model: A network that takes a time for each row.
        start, steps, grid, path, condition, null, seed, samples, backward, last_step, dtype, device: As in
            :func:`pushforward.sample`.
        solver: One of one evaluation a step: "euler", "ddim", "ddpm", "euler_ancestral", "dpmpp_2m" and others;
            fitted plans, as there.
        window: Steps evaluated at once for each sample; all by default. A call has up to ``window`` rows a sample.
        tolerance: Largest change of a state that is accepted, in units of the noise that DDPM adds in that step. 0.1
            is the paper's, but for a deterministic solver no better than as many steps as it has rounds; 0 goes on
            until nothing changes.
        rounds: Stop after as many, converged or not.
        memory: Rounds that Anderson acceleration remembers, 0 for none. 3 saves stochastic solvers nearly half of
            theirs, and others little.
        guidance: As in :func:`pushforward.sample`; where an interval leaves out some steps of a call, they pay for
            both branches all the same.

    Returns:
        The samples, [B, *D], and a :class:`ParallelReport`: rounds, evaluations, calls.

    Raises:
        PushforwardError: A named error for every bad argument; PlanError for a solver of several evaluations a step.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.GaussianOracle([0.7], [[0.09]]).model()
        >>> x, report = pf.sample_parallel(model, (2, 1), steps=50, grid="log_snr", dtype=torch.float64)
        >>> x.shape, report.calls < 25
        (torch.Size([2, 1]), True)

    """
    check_no_memory(model, "a parallel run")
    path = model.interpolant if path is None else interpolant(path)
    chosen = solver_for(model, solver, steps, guidance)
    times = run_times(chosen, grid, steps, path)
    plan = lowered_plan(
        chosen,
        times[::-1] if backward else times,
        path,
        model.prediction,
        as_guidance(guidance),
        None,
        last_step,
    )
    if isinstance(start, Tensor):
        if (dtype, device) != (None, None):
            raise ArgumentError("dtype, device", got=(dtype, device), expected="None when start is a tensor")
        x0 = start
    else:
        x0 = initial_noise(plan, start, model, seed, samples, backward, dtype, device)
    network = model.bind(condition, null, guidance)
    return picard(
        plan,
        x0,
        network,
        window=window,
        tolerance=tolerance,
        rounds=rounds,
        memory=memory,
        seed=seed,
        samples=samples,
    )
