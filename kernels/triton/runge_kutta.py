"""`rk_step` in Triton: the new state, estimates and dense output of the reference, bit for bit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..device import on_device_of
from ..dispatch import implements
from ..runge_kutta import MAX_DENSE, MAX_ESTIMATES, Rows
from ._narrow import narrow
from ._ordered_sum import Division, elements_of, store_sums, sum_blocks_kernel, sum_rows, tree
from ._static import StaticCase


@triton.jit
def add_term(total, k, h, WEIGHT: tl.constexpr, WIDE: tl.constexpr):
    """``total + k h WEIGHT``, the coefficient rounded once; a weight of zero is no term."""
    if WEIGHT != 0:
        total = total + k * (h * tl.full((), WEIGHT, tl.float64)).to(WIDE)
    return total


@triton.jit
def square(estimate, before, after, rtol, atol, TINY: tl.constexpr, WIDE: tl.constexpr):
    """Square, in float64, of the estimate over its tolerance; NaN where the new state is not finite."""
    size = tl.maximum(tl.abs(before), tl.abs(after))
    tolerance = tl.maximum(atol + rtol * size, tl.full((), TINY, WIDE))
    if WIDE == tl.float32:
        ratio = tl.div_rn(estimate, tolerance)  # a plain division is approximate
    else:
        ratio = estimate / tolerance
    ratio = (ratio + (after - after)).to(tl.float64)
    return ratio * ratio


@triton.jit(do_not_specialize=["rows", "blocks"])
def rk_step_kernel(
    x,
    stages,
    h,
    out,
    dense,
    sums,
    rows,
    size,
    blocks,
    rtol: tl.float64,
    atol: tl.float64,
    WEIGHTS: tl.constexpr,
    ESTIMATES: tl.constexpr,
    STEP: tl.constexpr,
    ROOT: tl.constexpr,
    TINY: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVELS: tl.constexpr,
    DENSE: tl.constexpr,
):
    """A step over [rows, size].

    Args:
        x: State.
        stages: Pointers to the slopes.
        h: float64 step sizes, STEP numbers apart.
        out: New state; may be x or a stage.
        dense: Pointers for dense output.
        sums: float64 [rows, ESTIMATES, blocks], sums of squares; ROOT (of rows of one block): error norms.
        rows: Of x.
        size: Of a row.
        blocks: Of a row.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        WEIGHTS: Rows of a number for each stage, one after the other: new state, two estimates, four of dense output;
            zeros where there is none.
        ESTIMATES: How many estimates.
        STEP: 1, or 0 if all rows have the same step size.
        ROOT: See ``sums``.
        TINY: Smallest normal number.
        WIDE: Type of the sums.
        ROWS: See `Division`.
        COLUMNS: See `Division`.
        LEVELS: See `Division`.
        DENSE: See `Division`.
    """
    COUNT: tl.constexpr = len(stages)
    first, block, row, at, inside = elements_of(rows, size, blocks, ROWS, COLUMNS, DENSE)
    if STEP == 0:
        step = tl.load(h)
    elif ROWS == 1:
        step = tl.load(h + first)
    else:
        step = tl.load(h + row, row < rows, 0)
    before = tl.load(x + at, inside, 0).to(WIDE)
    zero = tl.zeros([ROWS * COLUMNS], WIDE)
    total, e0, e1, q0, q1, q2, q3 = before, zero, zero, zero, zero, zero, zero
    for s in tl.static_range(COUNT):
        k = tl.load(stages[s] + at, inside, 0).to(WIDE)
        total = add_term(total, k, step, WEIGHTS[s], WIDE)
        e0 = add_term(e0, k, step, WEIGHTS[COUNT + s], WIDE)
        e1 = add_term(e1, k, step, WEIGHTS[2 * COUNT + s], WIDE)
        q0 = add_term(q0, k, step, WEIGHTS[3 * COUNT + s], WIDE)
        q1 = add_term(q1, k, step, WEIGHTS[4 * COUNT + s], WIDE)
        q2 = add_term(q2, k, step, WEIGHTS[5 * COUNT + s], WIDE)
        q3 = add_term(q3, k, step, WEIGHTS[6 * COUNT + s], WIDE)
    estimates, q = (e0, e1), (q0, q1, q2, q3)
    stored = narrow(total, out.dtype.element_ty)
    tl.store(out + at, stored, inside)
    for j in tl.static_range(len(dense)):
        tl.store(dense[j] + at, narrow(q[j], out.dtype.element_ty), inside)

    relative, absolute = tl.full((), rtol, tl.float64).to(WIDE), tl.full((), atol, tl.float64).to(WIDE)
    for e in tl.static_range(ESTIMATES):
        terms = square(estimates[e], before, stored.to(WIDE), relative, absolute, TINY, WIDE)
        value = tree(tl.where(inside, terms, 0), ROWS, COLUMNS, LEVELS)
        if ROOT:
            value = tl.sqrt(value / size.to(tl.float64))
        store_sums(sums + e * blocks + block, ESTIMATES * blocks, first, rows, value, ROWS)


@implements("rk_step", "triton")
def _triton(x, stages, h, rows: Rows, out, error, dense) -> None:
    count = x.shape[0]
    if x.numel() == 0:
        error.zero_()
        return
    division = Division(count, x.numel() // count)
    target = out if out.is_contiguous() else torch.empty_like(x, memory_format=torch.contiguous_format)
    single = division.blocks == 1
    sums = error if single else error.new_empty(count, len(rows.estimates), division.blocks)
    with on_device_of(x):
        rk_step_kernel[(division.programs,)](
            x.contiguous(), tuple(k.contiguous() for k in stages), h.contiguous(), target, tuple(dense), sums,
            count, division.size, division.blocks, rows.rtol, rows.atol,
            WEIGHTS=_weights(rows.weights, rows.estimates, rows.dense),
            ESTIMATES=len(rows.estimates), STEP=1 if h.shape[0] > 1 else 0, ROOT=single, **_types(x.dtype),
            **division.constants,
        )  # fmt: skip
    if not single:
        sum_rows(sums, error, division.size)
    if target is not out:
        out.copy_(target)


def _weights(weights, estimates, dense) -> tuple[float, ...]:
    """All rows, one after the other, those that are absent as zeros."""
    none = (0.0,) * len(weights)
    rows = (weights, *(*estimates, none)[:MAX_ESTIMATES], *(*dense, *[none] * MAX_DENSE)[:MAX_DENSE])
    return tuple(w for row in rows for w in row)


def _types(dtype: torch.dtype) -> dict:
    double = dtype == torch.float64
    return {
        "WIDE": tl.float64 if double else tl.float32,
        "TINY": torch.finfo(torch.float64 if double else torch.float32).tiny,
        "num_warps": 8 if double else 4,
        "enable_fp_fusion": False,
    }


# Bogacki and Shampine 1989, with four dense rows like it; the numbers of a tableau do not change what is compiled.
_WEIGHTS = (2 / 9, 1 / 3, 4 / 9, 0.0), (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
_TYPES = {
    "fp32": (torch.float32, 4),
    "fp64": (torch.float64, 8),
    "bf16": (torch.bfloat16, 2),
    "fp16": (torch.float16, 2),
}


def static_cases() -> list[StaticCase]:
    """Few and many stages, rows of a block and of two elements, dense output; then the sums of blocks."""
    cases = [
        _case("rk_step 4 stages", 4, 1, 0, "fp32", 2**14, quick=True),
        _case("rk_step 7 stages", 7, 1, 0, "bf16", 2**14, quick=True),
        _case("rk_step 7 stages", 7, 1, 0, "fp16", 2**14),
        _case("rk_step 7 stages", 7, 1, 0, "fp64", 2**14),
        _case("rk_step 16 stages, two estimates, dense", 16, 2, 4, "fp32", 2**14),
        _case("rk_step 16 stages, two estimates, dense", 16, 2, 4, "fp64", 2**14),
        _case("rk_step 7 stages, rows of 2", 7, 1, 0, "fp64", 2, wide=False),
        _case("rk_step 7 stages, rows of 3", 7, 1, 0, "fp32", 3, wide=False),  # and the step size of each row
    ]
    sums = {"terms": "*fp64", "sums": "*fp64", "count": "i32", "blocks": "i32", "elements": "i32"}
    constants = {"ROOT": True, "SIZE": 1024, "LEVELS": 10}
    return [
        *cases,
        StaticCase("sums of blocks", sum_blocks_kernel, sums, constants, ("terms", "sums"), 1024, 8.0, wide=False),
    ]


def _case(name, stages, estimates, dense, kind, size, *, wide=True, quick=False) -> StaticCase:
    """A call with contiguous tensors of 16 m elements a sample, or rows of a few."""
    dtype, width = _TYPES[kind]
    pointer = "*" + kind
    signature = {
        "x": pointer,
        "stages": (pointer,) * stages,
        "h": "*fp64",
        "out": pointer,
        "dense": (pointer,) * dense,
        "sums": "*fp64",
        **dict.fromkeys(("rows", "size", "blocks"), "i32"),
        **dict.fromkeys(("rtol", "atol"), "fp64"),
    }
    division, types = Division(64, size), _types(dtype)
    options = {name: types.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    rows = [tuple(row[s % 3] for s in range(stages)) for row in _WEIGHTS]
    weights = _weights(rows[0], rows[1:] * estimates, rows[1:] * dense)
    constants = {
        "WEIGHTS": weights,
        "ESTIMATES": estimates,
        "STEP": 1,
        "ROOT": division.blocks == 1,
        **types,
        **division.constants,
    }
    aligned = ("x", "stages", "out", "dense", "sums", *(("size",) if size % 16 == 0 else ()))
    minimum = (stages + 2 + dense) * width if size % 16 == 0 else None
    name = f"{name} {str(dtype).removeprefix('torch.')}"
    return StaticCase(name, rk_step_kernel, signature, constants, aligned, 1024, minimum, wide, options, quick)
