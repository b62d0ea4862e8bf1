"""What each operation is, for the generated page of the documentation: every family describes its own."""

from __future__ import annotations

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
        rows: Part of the row's ``case`` that selects its rows in that script's JSON.
    """

    op: str
    formula: str
    moved: str
    differentiable: str
    benchmark: str
    rows: str


entries: dict[str, Entry] = {}


def describe(
    op: str, *, formula: str, moved: str, differentiable: str = "no", benchmark: str, rows: str | None = None
) -> None:
    """Add an operation to the page."""
    entries[op] = Entry(op, formula, moved, differentiable, benchmark, op if rows is None else rows)
