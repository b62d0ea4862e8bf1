"""Tables of things with names: what registers in one, and what makes an entry with its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import ArgumentError, UnknownNameError

Kind = TypeVar("Kind", bound=type)
Made = TypeVar("Made")


def registration(table: dict[str, Any], name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make the class known under ``name``.

    Raises:
        ArgumentError: The name is taken.
    """

    def add(kind: Kind) -> Kind:
        if name in table:
            raise ArgumentError("name", got=repr(name), expected="a name that is not registered yet")
        table[name] = kind
        return kind

    return add


def made(table: Mapping[str, type[Made]], what: str, name: str, options: Mapping[str, Any]) -> Made:
    """The entry of that name, with its options.

    Raises:
        UnknownNameError: There is none; lists those there are.
        ArgumentError: An option that it does not have, or out of range.
    """
    if name not in table:
        raise UnknownNameError(what, got=repr(name), expected="one of " + ", ".join(table))
    try:
        return table[name](**options)
    except TypeError as error:
        raise ArgumentError("options", got=sorted(options), expected=f"options of {name}") from error
