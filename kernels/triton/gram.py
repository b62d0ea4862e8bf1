"""`gram` in Triton: the products and sums of the reference, bit for bit."""

from __future__ import annotations

import itertools

import torch
import triton
import triton.language as tl

from ..device import on_device_of
from ..dispatch import implements
from ._ordered_sum import Division, elements_of, store_sums, sum_rows, tree
from ._static import StaticCase

AT_ONCE = 4  # tensors of one pass


@triton.jit(do_not_specialize=["rows", "blocks"])
def gram_kernel(
    tensors,
    sums,
    rows,
    size,
    blocks,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVELS: tl.constexpr,
    DENSE: tl.constexpr,
):
    """Sums over blocks of [rows, size], into ``sums`` [rows, R * R + R, blocks]: all products, then the tensors."""
    COUNT: tl.constexpr = len(tensors)
    WIDTH: tl.constexpr = COUNT * (COUNT + 1)
    first, block, _, at, inside = elements_of(rows, size, blocks, ROWS, COLUMNS, DENSE)
    x = [tl.load(pointer + at, inside, 0).to(tl.float64) for pointer in tensors]
    for i in tl.static_range(COUNT):
        value = tree(x[i], ROWS, COLUMNS, LEVELS)
        store_sums(sums + (COUNT * COUNT + i) * blocks + block, WIDTH * blocks, first, rows, value, ROWS)
        for j in tl.static_range(i, COUNT):
            value = tree(x[i] * x[j], ROWS, COLUMNS, LEVELS)
            store_sums(sums + (i * COUNT + j) * blocks + block, WIDTH * blocks, first, rows, value, ROWS)
            if i != j:
                store_sums(sums + (j * COUNT + i) * blocks + block, WIDTH * blocks, first, rows, value, ROWS)


@implements("gram", "triton")
def _triton(tensors, products, sums) -> None:
    if len(tensors) <= AT_ONCE:
        _products(tensors, products, sums)
        return
    # More trees than registers hold: pairs of tensors with pairs. Each product has a tree of its own, so the bits stay.
    pairs = [range(i, min(i + AT_ONCE // 2, len(tensors))) for i in range(0, len(tensors), AT_ONCE // 2)]
    for first, second in itertools.combinations(pairs, 2):
        chosen = [*first, *second]
        some = products.new_empty(len(products), len(chosen), len(chosen))
        ones = sums.new_empty(len(sums), len(chosen))
        _products([tensors[i] for i in chosen], some, ones)
        at = torch.tensor(chosen, device=products.device)
        products[:, at[:, None], at] = some
        sums[:, at] = ones


def _products(tensors, products, sums) -> None:
    """Of a few tensors, in one pass."""
    like, count = tensors[0], len(tensors)
    batch = like.shape[0]
    if like.numel() == 0:
        products.zero_()
        sums.zero_()
        return
    division = Division(batch, like.numel() // batch)
    partial = products.new_empty(batch, count * count + count, division.blocks)
    with on_device_of(like):
        gram_kernel[(division.programs,)](
            tuple(x.contiguous() for x in tensors), partial, batch, division.size, division.blocks,
            **division.constants, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    total = partial.new_empty(partial.shape[:2])
    if division.blocks == 1:
        total = partial[..., 0]
    else:
        sum_rows(partial, total)
    products.copy_(total[:, : count * count].view_as(products))
    sums.copy_(total[:, count * count :])


def static_cases() -> list[StaticCase]:
    """Two to four tensors, in rows of blocks and of a few elements."""
    return [
        _case(2, "float32", "fp32", 4, 2**14, quick=True),
        _case(3, "bfloat16", "bf16", 2, 2**14),
        _case(4, "float32", "fp32", 4, 2**14),
        _case(4, "float64", "fp64", 8, 2**14),
        _case(2, "float64", "fp64", 8, 2),
    ]


def _case(count: int, dtype: str, kind: str, width: int, size: int, *, quick: bool = False) -> StaticCase:
    division = Division(64, size)
    signature = {"tensors": ("*" + kind,) * count, "sums": "*fp64", "rows": "i32", "size": "i32", "blocks": "i32"}
    wide = size % 16 == 0
    aligned = ("tensors", "sums", *(("size",) if wide else ()))
    name = f"gram R={count} {dtype}" + ("" if wide else f", rows of {size}")
    return StaticCase(
        name,
        gram_kernel,
        signature,
        division.constants,
        aligned,
        1024,
        count * width if wide else None,
        wide,
        quick=quick,
    )
