"""The command line: ``pushforward sample``, ``solvers`` and ``plan``; ``fit`` and ``search`` are beside it."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from . import __version__, models, solvers
from .cli_fit import EXAMPLE as FIT_EXAMPLE
from .cli_fit import fit_command, read_plan
from .cli_options import (
    GridOption,
    GuidanceOption,
    LabelsOption,
    ModelOption,
    OptionsOption,
    ProgressOption,
    SeedOption,
    SolverOption,
    StepsOption,
    ThreadsOption,
    digits,
    named_solver,
    out,
    parse_options,
)
from .cli_search import EXAMPLE, methods_command, search_command
from .errors import ArgumentError, PushforwardError
from .picture import save_grid
from .sample import make_plan, sample

app = typer.Typer(
    name="pushforward",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Samples from flow-matching and diffusion models, and the programs that draw them.",
)
app.command("search", epilog=EXAMPLE)(search_command)
app.command("fit", epilog=FIT_EXAMPLE)(fit_command)
app.command("methods", epilog="Example: `pushforward methods`")(methods_command)


@app.command(
    "sample",
    epilog="Example: `pushforward sample --steps 5 --guidance 2 --out digits.png`",
)
def sample_command(
    context: typer.Context,
    model: ModelOption = "digits28-base",
    solver: SolverOption = "pseudo_corrector",
    steps: StepsOption = 10,
    grid: GridOption = "uniform",
    guidance: GuidanceOption = 2.0,
    labels: LabelsOption = "0123456789",
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="A file of `pushforward fit`: solver, steps and grid, and which guidance fits."),
    ] = None,
    columns: Annotated[int, typer.Option(help="Samples of each label.")] = 10,
    seed: SeedOption = 0,
    option: OptionsOption = [],  # noqa: B006  # typer reads the default, nothing mutates it
    threads: ThreadsOption = 0,
    progress: ProgressOption = True,
    path: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("digits.png"),
) -> None:
    """Draw samples from a bundled model and write them as a labelled PNG grid."""
    each = digits(labels)
    if columns < 1:
        raise ArgumentError("--columns", got=columns, expected="at least 1")
    if threads:
        torch.set_num_threads(threads)
    planned = None if plan_file is None else read_plan(plan_file, context)
    chosen, guidance = planned or (named_solver(solver, parse_options(option)), guidance)
    count = None if planned else steps
    network = models.load(model)
    wanted = each.repeat_interleave(columns)
    plan = make_plan(network, solver=chosen, steps=count, grid=grid, guidance=guidance)
    started = time.perf_counter()
    images = sample(
        network,
        (len(wanted), *models.card(model)["shape"]),
        solver=chosen,
        steps=count,
        grid=grid,
        guidance=guidance,
        condition={"label": wanted},
        seed=seed,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    save_grid(
        images,
        path,
        rows=list(labels),
        title=f"{model}, {plan.solver}, {plan.nfe} NFE, guidance {guidance:g}, seed {seed}",
    )
    nfe = f"{plan.nfe} NFE ({plan.cost().forward_passes} forward passes)"
    out.print(
        f"{path}: {len(wanted)} samples of {model}, {plan.solver}, {nfe}, {seconds:.2f} s",
        soft_wrap=True,
        highlight=False,
    )


@app.command("solvers", epilog="Example: `pushforward solvers`")
def solvers_command() -> None:
    """List the solvers: name, order, network evaluations a step, source."""
    table = Table("name", "order", "NFE per step", "noise", "source")
    for name, solver in solvers.solvers():
        table.add_row(
            name,
            str(solver.order),
            str(solver.evaluations_per_step),
            "yes" if solver.stochastic else "no",
            solver.source,
        )
    out.print(table)


@app.command(
    "plan", epilog="Example: `pushforward plan --solver heun --steps 2 --prediction noise --interpolant cosine`"
)
def plan_command(
    solver: SolverOption = "heun",
    steps: StepsOption = 4,
    grid: GridOption = "uniform",
    prediction: Annotated[str, typer.Option(help="What the network returns.")] = "velocity",
    interpolant: Annotated[str, typer.Option(help="The path from noise to data.")] = "linear",
    guidance: GuidanceOption = 1.0,
    option: OptionsOption = [],  # noqa: B006
    shape: Annotated[str, typer.Option(help="State shape for the cost, batch first.")] = "1,4,64,64",
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON instead.")] = False,
) -> None:
    """Print the program that a solver becomes, and what it costs."""
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        raise ArgumentError("--shape", got=repr(shape), expected="integers such as 1,4,64,64") from None
    path = models.interpolant(interpolant)
    model = models.adapt(unused_network, models.prediction(prediction, path))
    plan = make_plan(
        model, solver=solvers.solver(solver, **parse_options(option)), steps=steps, grid=grid, guidance=guidance
    )
    if json:
        print(plan.to_json(indent=1))
        return
    out.print(str(plan), soft_wrap=True, highlight=False, markup=False)
    out.print(
        f"for a state of {list(sizes)} float32: {plan.cost(sizes)}", soft_wrap=True, highlight=False, markup=False
    )


def unused_network(*_: object) -> torch.Tensor:
    """A plan is printed without ever calling the network."""
    raise ArgumentError("network", got="a call", expected="none while a plan is printed")


def version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(f"pushforward {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point; an error of the library is one line on stderr and exit code 1, bad usage is exit code 2."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {' '.join(str(message).split())}\n"
    try:
        app()
    except (PushforwardError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
