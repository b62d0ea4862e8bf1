"""What the commands share: their options, and how values are read."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import torch
import typer
from rich.console import Console
from torch import Tensor

from . import solvers
from .errors import ArgumentError

out = Console()

ModelOption: TypeAlias = Annotated[str, typer.Option("--model", "-m", help="A bundled model.")]
SolverOption: TypeAlias = Annotated[str, typer.Option("--solver", "-s", help="A name from `pushforward solvers`.")]
StepsOption: TypeAlias = Annotated[int, typer.Option("--steps", "-n", help="Number of steps of the time grid.")]
GridOption: TypeAlias = Annotated[str, typer.Option("--grid", help=f"One of {', '.join(solvers.GRIDS)}.")]
GuidanceOption: TypeAlias = Annotated[
    float, typer.Option("--guidance", "-w", help="Guidance weight; 1 is none, which halves the cost.")
]
LabelsOption: TypeAlias = Annotated[str, typer.Option(help="Digits to draw, one row each.")]
SeedOption: TypeAlias = Annotated[int, typer.Option(help="Same seed, same samples.")]
ThreadsOption: TypeAlias = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's choice.")]
ProgressOption: TypeAlias = Annotated[bool, typer.Option(help="Show a progress bar.")]
OptionsOption: TypeAlias = Annotated[
    list[str], typer.Option("--option", "-o", help="A solver option as NAME=VALUE, for instance eta=0.5; repeatable.")
]
WORDS = {"true": True, "false": False, "none": None}


def parse_options(pairs: list[str], argument: str = "--option") -> dict[str, Any]:
    """``NAME=VALUE`` pairs as keyword arguments; see :func:`parse_value`.

    Raises:
        ArgumentError: A pair without a name or an equals sign; names the ``argument`` it was given to.

    Example:
        >>> parse_options(["eta=0.5", "chains=2", "start=shared"])
        {'eta': 0.5, 'chains': 2, 'start': 'shared'}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ArgumentError(argument, got=repr(pair), expected="NAME=VALUE")
        options[name] = parse_value(text)
    return options


def parse_value(text: str) -> Any:
    """An integer, a number, true, false, none, a tuple of such with commas between, or the text itself.

    Example:
        >>> parse_value("8,4,2"), parse_value("1e-3"), parse_value("true"), parse_value("uniform")
        ((8, 4, 2), 0.001, True, 'uniform')
    """
    if "," in text:
        return tuple(parse_value(part) for part in text.split(",") if part)
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return text


def digits(labels: str) -> Tensor:
    """Class labels of a string of digits.

    Raises:
        ArgumentError: Anything else in it, or nothing.

    Example:
        >>> digits("307")
        tensor([3, 0, 7])
    """
    if not labels.isdigit() or not labels.isascii():
        raise ArgumentError("--labels", got=repr(labels), expected="digits, for instance 0123456789")
    return torch.tensor([int(digit) for digit in labels])


def named_solver(name: str, options: dict[str, Any], argument: str = "--option") -> str | solvers.FixedGridSolver:
    """A solver of the command line; "fitted" is left to whoever knows the model.

    Raises:
        UnknownNameError: No such solver.
        ArgumentError: Options that it does not have.
    """
    if name != solvers.fitting.FITTED:
        return solvers.solver(name, **options)
    if options:
        raise ArgumentError(argument, got=sorted(options), expected="none beside --solver fitted")
    return name
