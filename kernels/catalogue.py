"""What each operation is, for the generated page of the documentation: every family describes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One row of `docs/kernels.md`.

    Args:
        op: Name of the operation, as in the table of `dispatch`.
        formula: What it computes, in one line of plain text.
        moved: Bytes moved, for elements of s bytes, as a formula in the sizes that ``formula`` names.
        differentiable: In what, or "no".
        benchmark: Script that measures it.
        rows: Beginnings of the ``case`` of its rows in that script's JSON; what the first selects comes first.
    """

    op: str
    formula: str
    moved: str
    differentiable: str
    benchmark: str
    rows: tuple[str, ...]


entries: dict[str, Entry] = {}


def describe(
    op: str, *, formula: str, moved: str, differentiable: str = "no", benchmark: str, rows: Sequence[str] = ()
) -> None:
    """Add an operation to the page; without ``rows``, with all cases that begin with its name."""
    entries[op] = Entry(op, formula, moved, differentiable, benchmark, tuple(rows) or (f"{op} ",))
