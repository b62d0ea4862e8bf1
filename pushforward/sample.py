"""One call from a model to samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from .errors import ArgumentError, DtypeError, ShapeError
from .models import BranchWeights, Interpolant, Model, Prediction, Source, interpolant
from .models.capabilities import check_no_memory, check_transform
from .models.guidance import as_guidance
from .solvers import Executor, FixedGridSolver, Hook, Plan
from .solvers.executor import Check
from .solvers.fitting import solver_for
from .solvers.grids import GridFunction
from .solvers.hooks import replaces_state
from .solvers.lowered import lowered_plan
from .solvers.run_times import run_times
from .solvers.solver import LastStep
from .solvers.start import check_starts_at_noise, network_device
from .solvers.start import initial_noise as noise_at_start

TRANSFORM = "transform"


def make_plan(
    model: Model,
    *,
    solver: str | FixedGridSolver = "heun",
    steps: int | None = None,
    grid: str | GridFunction | Sequence[float] = "uniform",
    path: str | Interpolant | None = None,
    guidance: float | BranchWeights = 1.0,
    backward: bool = False,
    transform: bool = False,
    last_step: LastStep = "auto",
    observe: bool = False,
    replace: bool = False,
) -> Plan:
    """The optimised plan that :func:`sample` would run; build it once to run it often, print it, or ship it.

    Args:
        model: Decides the interpolant and what the network returns.
        solver, steps, grid, path, guidance, backward, last_step: As in :func:`sample`.
        transform: Whether clean estimates pass through a function named "transform".
        observe, replace: Whether hooks will read, and write, the state.

    """
    path = model.interpolant if path is None else interpolant(path)
    chosen = solver_for(model, solver, steps, guidance)
    times = run_times(chosen, grid, steps, path)
    times, weights = times[::-1] if backward else times, as_guidance(guidance)
    if weights is not None:
        weights.check_acts(times, path)
    return compiled(
        chosen,
        times,
        path,
        model.prediction,
        weights,
        TRANSFORM if transform else None,
        last_step,
        observe,
        replace,
    )


@lru_cache(maxsize=256)
def compiled(
    solver: FixedGridSolver,
    times: tuple[float, ...],
    path: Interpolant,
    prediction: Prediction,
    guidance: BranchWeights | None,
    transform: str | None,
    last_step: LastStep,
    observe: bool,
    replace: bool,
) -> Plan:
    """All stages of a plan; kept, since every argument is immutable and so is the plan."""
    plan = lowered_plan(solver, times, path, prediction, guidance, transform, last_step)
    return plan.optimise(observe=observe, replace=replace)


def sample(
    model: Model,
    start: Tensor | Sequence[int] | Source,
    *,
    solver: str | FixedGridSolver = "heun",
    steps: int | None = None,
    grid: str | GridFunction | Sequence[float] = "uniform",
    path: str | Interpolant | None = None,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    seed: int = 0,
    samples: Tensor | None = None,
    backward: bool = False,
    transform: Callable[[Tensor, float], Tensor] | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = False,
    last_step: LastStep = "auto",
    check: Check = "fused",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    differentiable: bool = False,
    checkpoint: bool = False,
) -> Tensor:
    """Move samples along the model's flow: from noise to data, or back.

    Args:
        model: A network with its prediction and interpolant; see :func:`pushforward.models.adapt`.
        start: Shape [B, *D] to draw noise for, or the state itself at the first time, or a
            :class:`pushforward.models.Source` to draw it from, which may take a part of the condition.
        solver: A registered name or a solver object, for instance ``pf.solver("ddim", eta=0.5)``. A fitted plan brings
            its own grid; "fitted" is the one that ships for this bundled model, number of steps and guidance.
        steps: Number of steps; needed unless ``grid`` is explicit times.
        grid: A registered name, a grid object, or times in [0, 1] (0 = noise, 1 = data).
        path: Interpolant that the solver and the grid are on, if it is not the model's own: sampling along another path
            than the model was trained on. State, hooks and network stay on the model's; see
            :func:`pushforward.solvers.plan.convert`.
        guidance: Weight w of classifier-free guidance, ``w cond + (1 - w) null``, or a :class:`Guidance`.
        condition, null: Keyword arguments of the network for the two branches.
        seed: Seed of all noise in [0, 2**64). Sample i is the same whatever the batch.
        samples: Ids of the samples, int64 [B]; 0 .. B - 1 by default. ``torch.tensor([2])`` draws sample 2 alone.
        backward: Integrate from data (``start``, then a tensor) to noise.
        transform: Function of (clean estimate, time) applied to every clean estimate, for instance a clamp.
        hooks: Called at the end of every step; see :class:`pushforward.solvers.Hook` and :class:`Trajectory`.
        progress: Show a progress bar on stderr.
        last_step: See :func:`pushforward.solvers.plan`.
        check: See :class:`pushforward.solvers.Executor`.
        dtype, device: Of the noise, where ``start`` is a shape; float32 and the network's device by default.
        differentiable: Keep the autograd graph from ``start`` and the network's parameters to the result.
        checkpoint: With ``differentiable``: recompute activations in the backward pass.

    Returns:
        The samples, shape [B, *D].

    Raises:
        PushforwardError: A named error for every bad argument; see :mod:`pushforward.errors`.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.GaussianOracle([0.7], [[0.09]]).model()
        >>> pf.sample(model, (2, 1), solver="heun", steps=8, dtype=torch.float64).shape
        torch.Size([2, 1])

    """
    if backward:
        check_no_memory(model, "inversion")
    check_transform(transform, model)
    plan = make_plan(
        model,
        solver=solver,
        steps=steps,
        grid=grid,
        path=path,
        guidance=guidance,
        backward=backward,
        transform=transform is not None,
        last_step=last_step,
        observe=bool(hooks),
        replace=replaces_state(hooks),
    )
    if isinstance(start, Source):
        source, start = start, drawn(plan, start, seed, samples, condition, backward)
        condition = source.left(condition)
    x0 = (
        start
        if isinstance(start, Tensor)
        else initial_noise(plan, start, model, seed, samples, backward, dtype, device)
    )
    if isinstance(start, Tensor) and (dtype, device) != (None, None):
        raise ArgumentError("dtype, device", got=(dtype, device), expected="None when start is a tensor or a source")
    network = model.bind(condition, null, guidance)
    with nullcontext() if differentiable else torch.no_grad():
        run = Executor(
            plan,
            x0,
            seed=seed,
            samples=samples,
            hooks=hooks,
            check=check,
            differentiable=differentiable,
            transforms={} if transform is None else {TRANSFORM: transform},
        )
        if not progress:
            return run.run(network.evaluate, checkpoint=checkpoint)
        with progress_bar() as bar:
            task = bar.add_task(plan.solver, total=plan.nfe)

            def evaluate(*asked: Any) -> Sequence[Tensor]:
                outputs = network.evaluate(*asked)
                bar.advance(task)
                return outputs

            return run.run(evaluate, checkpoint=checkpoint)


def drawn(
    plan: Plan,
    source: Source,
    seed: int,
    samples: Tensor | None,
    condition: Mapping[str, Any] | None,
    backward: bool,
) -> Tensor:
    """States at t = 0 from a source."""
    if backward:
        raise ArgumentError("start", got="a source", expected="a tensor of data, since backward=True")
    if source.is_noise:
        check_starts_at_noise(plan, "start", "a tensor there")
    elif plan.interpolant.alpha(plan.grid[0]) != 0:
        got = f"a source, with a grid that starts at t = {plan.grid[0]:.4g}"
        raise ArgumentError("start", got=got, expected="a tensor there: a source is the state at t = 0")
    x0 = source.sample(seed, samples, condition)
    return x0.mul(plan.interpolant.sigma(plan.grid[0])) if source.is_noise else x0


def initial_noise(
    plan: Plan,
    shape: Sequence[int],
    model: Model,
    seed: int,
    samples: Tensor | None,
    backward: bool,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    """The noise that a run starts from, where that is what ``start`` asks for."""
    if backward:
        raise ArgumentError("start", got=f"the shape {tuple(shape)}", expected="a tensor of data, since backward=True")
    if len(shape) < 1 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape):
        raise ShapeError("start", got=tuple(shape), expected="a shape [B, *D] of non-negative integers, or a tensor")
    if dtype is not None and not dtype.is_floating_point:
        raise DtypeError("dtype", got=dtype, expected="a floating-point dtype")
    if not model.prediction.source_is_noise:
        expected = "a Source or a tensor: this flow starts from encoded data, not noise"
        raise ArgumentError("start", got=f"the shape {tuple(shape)}", expected=expected)
    check_starts_at_noise(plan, "start", "a tensor there")
    return noise_at_start(
        plan,
        model.prediction,
        shape,
        seed=seed,
        samples=samples,
        dtype=dtype or torch.float32,
        device=device or network_device(model),
    )


def progress_bar() -> Progress:
    """Solver, bar, evaluations done, time."""
    from rich.console import Console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
