"""The command ``pushforward fit``, and how ``sample`` reads what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from torch import Tensor

from . import models
from .cli_options import GridOption, ModelOption, ProgressOption, SeedOption, StepsOption, ThreadsOption, out
from .errors import ArgumentError
from .solvers.fitting import FittedPlan, Method, fit
from .solvers.fitting.fit import METHODS, default_pairs

EXAMPLE = "Example: `pushforward fit --model digits28-base --steps 8 --guidance 1,2 --out plan.json`"
OF_THE_PLAN = ("solver", "option", "grid")  # what a fitted plan decides, beside the number of steps


def fit_command(
    model: ModelOption = "digits28-base",
    steps: StepsOption = 8,
    guidance: Annotated[
        list[str],
        typer.Option("--guidance", "-w", help="Guidance weight; several, for all between them: 1,2 or repeated."),
    ] = ["2"],  # noqa: B006  # typer reads the default, nothing mutates it
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "least-squares",
    memory: Annotated[int | None, typer.Option(help="Outputs that a step reads, at most; all by default.")] = None,
    base: Annotated[str, typer.Option(help="The solver that the fit begins with.")] = "unipc",
    grid: GridOption = "uniform",
    pairs: Annotated[int | None, typer.Option(help="Starts that are drawn; by default by their size.")] = None,
    power: Annotated[float, typer.Option(help="Of the errors that are minimised, 0 to 2.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Of the search for times; 0 keeps those of the grid.")] = 1,
    tries: Annotated[int, typer.Option(help="Time grids that the end of the run is tried from.")] = 2,
    polish: Annotated[int, typer.Option(help="Rounds for the end of the run, at most.")] = 2,
    iterations: Annotated[int, typer.Option(help="Of Adam, for the methods with gradients.")] = 300,
    reference_steps: Annotated[int, typer.Option(help="Steps of RK4 for the exact samples.")] = 24,
    batch: Annotated[int | None, typer.Option(help="Rows of a network call, at most.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
    progress: ProgressOption = True,
    path: Annotated[Path, typer.Option("--out", help="The JSON file to write.")] = Path("plan.json"),
) -> None:
    """Fit a solver to a bundled model and a number of steps, and write it as a file for `pushforward sample --plan`."""
    if not path.parent.is_dir():
        raise ArgumentError("--out", got=str(path), expected="a file in an existing folder")
    scales = read_scales(guidance)
    if threads:
        torch.set_num_threads(threads)
    network, card = models.load(model), models.card(model)
    count = default_pairs(int(torch.Size(card["shape"]).numel())) if pairs is None else pairs
    labels = dealt(max(count, 0), len(scales), card["architecture"]["arguments"]["classes"])
    plan = fit(
        network,
        steps,
        card["shape"],
        base=base,
        grid=grid,
        method=cast(Method, method),
        memory=memory,
        guidance=scales,
        condition={"label": labels},
        pairs=count,
        seed=seed,
        power=power,
        rounds=rounds,
        tries=tries,
        polish=polish,
        iterations=iterations,
        reference_steps=reference_steps,
        batch=batch,
        progress=progress,
    )
    plan.save(path)
    out.print(str(plan.report), soft_wrap=True, highlight=False, markup=False)
    out.print(f"{path}: {plan} for {model}, guidance {said(scales)}", soft_wrap=True, highlight=False, markup=False)


def read_scales(texts: list[str]) -> tuple[float, ...]:
    """Guidance weights, one or more.

    Raises:
        ArgumentError: Something that is no number, a weight twice, or nothing.

    Example:
        >>> read_scales(["1,2", "3.5"])
        (1.0, 2.0, 3.5)
    """
    try:
        scales = tuple(float(part) for text in texts for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or len(set(scales)) < len(scales):
        raise ArgumentError("--guidance", got=repr(",".join(texts)), expected="distinct numbers such as 2, or 1,2")
    return scales


def dealt(count: int, scales: int, classes: int) -> Tensor:
    """A label for each start; starts are dealt out to the scales in turn, so labels change after each has had one.

    Example:
        >>> dealt(8, 2, 3)
        tensor([0, 0, 1, 1, 2, 2, 0, 0])
    """
    return torch.arange(count) // scales % classes


def read_plan(path: Path, context: typer.Context) -> tuple[FittedPlan, float]:
    """A fitted plan of a file and the guidance to use it with: the command's, or the plan's where it has another.

    Raises:
        ArgumentError: An option of the command line that contradicts the plan; names it.
        CorruptFileError: A file that holds no fitted plan.
    """
    plan, given = FittedPlan.load(path), context.params
    for name in OF_THE_PLAN:
        if stated(context, name):
            raise ArgumentError(f"--{name}", got=given[name], expected=f"none beside --plan: {path} has its own")
    if stated(context, "steps") and given["steps"] != plan.steps:
        raise ArgumentError("--steps", got=given["steps"], expected=f"{plan.steps}, as {path} has, or none")
    scales = [scale for scale in plan.guidance if not isinstance(scale, str)]
    if not scales:
        raise ArgumentError("--plan", got=f"one for {said(plan.guidance)}", expected="one for a guidance weight")
    if plan.fits(given["guidance"]):
        return plan, given["guidance"]
    if stated(context, "guidance"):
        expected = f"{said(scales)}, as {path} was fitted for" + (", or one between" if len(scales) > 1 else "")
        raise ArgumentError("--guidance", got=given["guidance"], expected=expected)
    return plan, scales[0]


def stated(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line, and not a default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"  # of click, or of the copy of click in typer


def said(scales: Sequence[float | str]) -> str:
    """Scales in a message.

    Example:
        >>> said((1.0, 2.5))
        '1, 2.5'
    """
    return ", ".join(scale if isinstance(scale, str) else f"{scale:g}" for scale in scales)
