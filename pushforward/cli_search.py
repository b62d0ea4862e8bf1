"""The commands ``pushforward search`` and ``pushforward methods``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from . import models, solvers
from .cli_options import (
    GuidanceOption,
    LabelsOption,
    ModelOption,
    ProgressOption,
    SeedOption,
    ThreadsOption,
    digits,
    named_solver,
    out,
    parse_options,
)
from .errors import ArgumentError
from .models.verifiers import VERIFIERS, Verifier, name_of, named
from .picture import save_grid
from .solvers.search import Budget, Method, SearchResult, methods, plot_trace, search
from .solvers.search import method as make_method
from .solvers.search.plot import figure_kind

EXAMPLE = "Example: `pushforward search --reward symmetry --method svdd --budget 500 --labels 038 --held-out judge`"
NAMES = ", ".join(VERIFIERS)


def search_command(
    reward: Annotated[str, typer.Option(help=f"What to maximise: {NAMES}; options as ink:target=0.3.")],
    method: Annotated[str, typer.Option(help="A name from `pushforward methods`.")] = "rbf",
    budget: Annotated[int, typer.Option("--budget", "-b", help="Rows that the network may see, for each digit.")] = 500,
    seconds: Annotated[float | None, typer.Option(help="Wall time of the search, at most.")] = None,
    labels: LabelsOption = "0123456789",
    held_out: Annotated[str | None, typer.Option(help="A reward that judges the best samples only.")] = None,
    keep: Annotated[int, typer.Option(help="How many of the best samples of each digit to write.")] = 1,
    option: Annotated[
        list[str], typer.Option("--option", "-o", help="A method option as NAME=VALUE, for instance chains=4.")
    ] = [],  # noqa: B006  # typer reads the default, nothing mutates it
    model: ModelOption = "digits28-base",
    guidance: GuidanceOption = 1.0,
    solver: Annotated[str | None, typer.Option("--solver", "-s", help="Instead of the method's own.")] = None,
    solver_option: Annotated[list[str], typer.Option(help="A solver option as NAME=VALUE.")] = [],  # noqa: B006
    steps: Annotated[int | None, typer.Option("--steps", "-n", help="Instead of the method's own number.")] = None,
    grid: Annotated[str | None, typer.Option(help=f"One of {', '.join(solvers.GRIDS)}.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="The interpolant to sample on.")] = None,
    seed: SeedOption = 0,
    batch: Annotated[int, typer.Option(help="Rows of a network call, at most.")] = 256,
    threads: ThreadsOption = 0,
    picture: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("best.png"),
    trace: Annotated[Path | None, typer.Option(help="A file for the log, JSON lines.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A file for a plot of rewards against evaluations.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where to save the search; if it is there, the search goes on from it.")
    ] = None,
    every: Annotated[int, typer.Option(help="Steps of the method between two checkpoints.")] = 1,
    progress: ProgressOption = True,
) -> None:
    """Search for digits of high reward, each within a budget, and write the best as a labelled PNG grid."""
    wanted = digits(labels)
    for name, file in (("--out", picture), ("--trace", trace), ("--plot", plot)):
        if file is not None and not file.parent.is_dir():
            raise ArgumentError(name, got=str(file), expected="a file in an existing folder")
    if plot is not None:
        figure_kind()  # a missing matplotlib is better known before the search
    if threads:
        torch.set_num_threads(threads)
    score, judge = read_reward("--reward", reward), None if held_out is None else read_reward("--held-out", held_out)
    if solver is None and solver_option:
        raise ArgumentError("--solver-option", got=solver_option, expected="a --solver that has it")
    chosen = read_method(method, option)
    options = parse_options(solver_option, "--solver-option")
    network = models.load(model)
    started = time.perf_counter()
    result = search(
        network,
        score,
        Budget(budget, seconds=seconds),
        shape=(len(wanted), *models.card(model)["shape"]),
        method=chosen,
        solver=None if solver is None else named_solver(solver, options, "--solver-option"),
        steps=steps,
        grid=grid,
        path=path,
        guidance=guidance,
        condition={"label": wanted},
        held_out=judge,
        keep=keep,
        seed=seed,
        batch=batch,
        checkpoint=checkpoint,
        every=every,
        progress=progress,
        log=trace,
    )
    took = time.perf_counter() - started
    title = f"{model}, {name_of(score)}, {method}, {budget} NFE, guidance {guidance:g}, seed {seed}"
    save_grid(result.samples.flatten(0, 1), picture, rows=list(labels), title=title)
    if plot is not None:
        plot_trace(result, plot)
    out.print(table_of(result, labels))
    out.print(f"{picture}: {result.samples.shape[1]} a digit, {took:.2f} s", soft_wrap=True, highlight=False)


def table_of(result: SearchResult, labels: str) -> Table:
    """Reward, held-out reward and cost of each request, and their means."""
    table = Table("request", "digit", "reward", "held out", "NFE", title=result.method, title_justify="left")
    judged = None if result.held_out is None else result.held_out[:, 0].tolist()
    nfe = result.ledger.nfe.tolist()
    for index, digit in enumerate(labels):
        said = "" if judged is None else f"{judged[index]:.4g}"
        table.add_row(str(index), digit, f"{float(result.best[index]):.4g}", said, str(nfe[index]))
    table.add_section()
    said = "" if judged is None else f"{sum(judged) / len(judged):.4g}"
    table.add_row("mean", "", f"{float(result.best.mean()):.4g}", said, f"{sum(nfe) / len(nfe):.4g}")
    return table


def methods_command() -> None:
    """List the search methods: name, what they sample with by default, options, source."""
    table = Table("name", "solver", "steps", "time limit", "options", "source")
    for name, found in methods():
        fields = [field.name for field in dataclasses.fields(found)]  # type: ignore[arg-type]
        sampler = str(found.solver).partition("(")[0]
        limit = "yes" if found.interruptible else "no"
        table.add_row(name, sampler, str(found.steps), limit, ", ".join(fields), found.source)
    out.print(table)


def read_reward(argument: str, text: str) -> Verifier:
    """The verifier of ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``.

    Raises:
        UnknownNameError: No such name.
        ArgumentError: An option that it does not have, or a value that does not fit.

    Example:
        >>> read_reward("--reward", "slant:target=0.2")
        Slant(target=0.2)
    """
    name, _, rest = text.partition(":")
    options = parse_options([pair for pair in rest.split(",") if pair], argument)
    try:
        return named(name, **options)
    except TypeError as error:  # a word where a number belongs
        raise ArgumentError(argument, got=repr(text), expected=f"values that fit ({error})") from error


def read_method(name: str, pairs: list[str]) -> Method:
    """The method of that name with its options.

    Raises:
        UnknownNameError: No such name.
        ArgumentError: An option that it does not have, or a value that does not fit.
    """
    options: dict[str, Any] = parse_options(pairs)
    try:
        return make_method(name, **options)
    except TypeError as error:  # a word where a number belongs
        raise ArgumentError("--option", got=pairs, expected=f"values that fit ({error})") from error
