"""Sums over rows in the order of `ordered_sum`, without atomics: blocks of 1024 terms, then the sums of the blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..device import on_device_of
from ..ordered_sum import BLOCK


@triton.jit
def tree(terms, ROWS: tl.constexpr, SIZE: tl.constexpr, LEVELS: tl.constexpr):
    """Sums of rows of 2 ** LEVELS = SIZE terms: halves are added, then halves of that, and so on.

    A scalar for one row, else [ROWS].
    """
    for level in tl.static_range(LEVELS):  # a sum of two has one order
        if ROWS > 1:
            terms = tl.sum(tl.reshape(terms, (ROWS, 2, SIZE >> (level + 1))), 1)
        elif level + 1 < LEVELS:
            terms = tl.sum(tl.reshape(terms, (2, SIZE >> (level + 1))), 0)
        else:
            terms = tl.sum(terms, 0)
    if ROWS > 1:
        terms = tl.reshape(terms, (ROWS,))
    return terms


@triton.jit
def store_sums(to, stride, first, rows, value, ROWS: tl.constexpr):
    """Store what `tree` gave for the rows from ``first`` on, ``stride`` apart."""
    if ROWS > 1:
        row = first + tl.arange(0, ROWS)
        tl.store(to + row * stride, value, row < rows)
    else:
        tl.store(to + first * stride, value)


@triton.jit(do_not_specialize=["count", "blocks", "elements"])
def sum_blocks_kernel(
    terms, sums, count, blocks, elements, ROOT: tl.constexpr, SIZE: tl.constexpr, LEVELS: tl.constexpr
):
    """One block of a row of ``count`` terms a program; ROOT: the root of the mean over ``elements``, instead."""
    row, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    at = block.to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tree(tl.load(terms + row * count + at, at < count, 0), 1, SIZE, LEVELS)
    if ROOT:
        total = tl.sqrt(total / elements.to(tl.float64))
    tl.store(sums + row * blocks + block, total)


class Division:
    """How rows of a tensor are divided over programs: several short rows each, or a block of 1024 elements of a row."""

    def __init__(self, rows: int, size: int) -> None:
        columns = min(BLOCK, triton.next_power_of_2(size))
        self.rows, self.size = rows, size
        self.blocks = triton.cdiv(size, BLOCK)
        in_program = BLOCK // columns
        self.programs = triton.cdiv(rows, in_program) * self.blocks
        self.constants = {
            "ROWS": in_program,
            "COLUMNS": columns,
            "LEVELS": columns.bit_length() - 1,
            "DENSE": in_program == 1 or size == columns,  # elements of a program have no gaps
        }


@triton.jit
def elements_of(rows, size, blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DENSE: tl.constexpr):
    """Of this program: its rows and block; each element's row, address and whether it exists."""
    first, block = (tl.program_id(0) // blocks).to(tl.int64) * ROWS, (tl.program_id(0) % blocks).to(tl.int64)
    lane = tl.arange(0, ROWS * COLUMNS)
    row, column = first + lane // COLUMNS, block * COLUMNS + lane % COLUMNS
    if ROWS == 1:
        at, inside = first * size + block * COLUMNS + lane, block * COLUMNS + lane < size
    elif DENSE:
        at, inside = first * COLUMNS + lane, row < rows
    else:
        at, inside = row * size + column, (row < rows) & (column < size)
    return first, block, row, at, inside


def sum_rows(terms: Tensor, sums: Tensor, elements: int = 0) -> None:
    """Sums of the last dimension of ``terms`` into ``sums``; with ``elements`` the root of the mean over so many."""
    while True:
        count = terms.shape[-1]
        size = min(BLOCK, triton.next_power_of_2(count))
        blocks, rows = triton.cdiv(count, size), terms.numel() // count
        to = sums if blocks == 1 else torch.empty(*terms.shape[:-1], blocks, dtype=torch.float64, device=terms.device)
        with on_device_of(terms):
            sum_blocks_kernel[(rows * blocks,)](
                terms, to, count, blocks, max(elements, 1),
                ROOT=blocks == 1 and elements > 0, SIZE=size, LEVELS=size.bit_length() - 1, num_warps=4,
            )  # fmt: skip
        if blocks == 1:
            return
        terms = to
