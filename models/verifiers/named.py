"""Verifiers of digits by name, for command lines and configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from ...errors import ArgumentError, UnknownNameError
from .blocks import Holes, InkBlocks
from .classifier import ClassProbability
from .images import Ink, Slant, Symmetry
from .verifier import Verifier

EIGHT = ("..##..", ".#..#.", ".#..#.", "..##..", ".#..#.", "..##..")

VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "ink": Ink,
    "symmetry": Symmetry,
    "slant": Slant,
    "blocks": partial(InkBlocks, pattern=EIGHT),
    "holes": partial(Holes, count=1),
    "classifier": partial(ClassProbability, classifier="digits28-classifier-a"),
    "judge": partial(ClassProbability, classifier="digits28-classifier-b", log=False),
}
"""Names, and what makes the verifier: "classifier" is meant to be searched with, "judge" to be held out."""


def named(name: str, **options: Any) -> Verifier:
    """The verifier of that name.

    Args:
        name: One of :data:`VERIFIERS`.
        options: Of its class; a ``pattern`` may be written with slashes between its rows.

    Raises:
        UnknownNameError: No verifier has that name; lists those there are.
        ArgumentError: An option that it does not have, or a value out of range.

    Example:
        >>> named("ink", target=0.3)
        Ink(target=0.3)
        >>> named("blocks", pattern="#./.#")
        InkBlocks(pattern=('#.', '.#'))
    """
    if name not in VERIFIERS:
        raise UnknownNameError("reward", got=repr(name), expected=f"one of {', '.join(VERIFIERS)}")
    known = list(inspect.signature(VERIFIERS[name]).parameters)
    if unknown := sorted(set(options) - set(known)):
        raise ArgumentError(f"reward {name}", got=f"the option {unknown[0]}", expected=f"some of {known}")
    if isinstance(pattern := options.get("pattern"), str):
        options["pattern"] = tuple(pattern.split("/"))
    return VERIFIERS[name](**options)
