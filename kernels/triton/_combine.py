"""The kernels behind `combine`, `normal` and `uniform`."""

from __future__ import annotations

import triton
import triton.language as tl

from ._narrow import narrow, widen
from ._philox import decode, fine_uniform, normal_of, normals, sample_of, spread, uniform, words

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def block_elements(size: int, terms: int) -> int:
    """Elements of a program, for elements of so many bytes and sums of so many terms.

    A thread's accesses are 16 bytes or a multiple; its registers hold its elements of all terms at once.
    """
    return 128 * (4 if size == 8 or (size == 4 and terms > 8) else 8)


@triton.jit(do_not_specialize=["chunks", "outer", "run", "inner"])
def combine_kernel(
    inputs,
    outs,
    numbers,
    table,
    groups,
    keys,
    samples,
    status,
    n,
    total,
    chunks,
    outer,
    run,
    inner,
    GIVEN: tl.constexpr,
    SHORT: tl.constexpr,
    QUADS: tl.constexpr,
    EACH: tl.constexpr,
    INDEX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Linear combinations plus noise, over rows of ``n`` elements.

    Args:
        inputs: K pointers.
        outs: O pointers.
        numbers: [O][K + D] coefficients if all elements have the same: float32, or halves of float64.
        table: Else [G, O, K + D] coefficients; a row of elements has that of its own number or of ``groups``.
        groups: A group for each row; EACH: for elements ``e``, at ``e // outer * inner + e // run % inner``.
        keys: D keys of normals; rows are then samples.
        samples: D pointers to their ids.
        status: Where to note that an output is not finite, or None.
        n: Elements of a row.
        total: Elements of all rows.
        chunks: Programs of a row, if it has its own.
        outer: See ``groups``.
        run: See ``groups``.
        inner: See ``groups``.
        GIVEN: D flags: a sample's id is not its number, but in ``samples``.
        SHORT: A program has many rows instead.
        QUADS: Rows begin with a block of four random numbers (n is a multiple of four, if SHORT).
        EACH: See ``groups``.
        INDEX: Integers that hold ``total``, for divisions.
        WIDE: Type of the sums.
        BLOCK: Elements of a program.
    """
    COUNT: tl.constexpr = len(inputs) + len(keys)
    program = tl.program_id(0)
    lanes, quads = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 4)
    if SHORT:
        index = program.to(INDEX) * BLOCK + lanes
        inside = index < total
        row, at = (index // n).to(tl.int64), index.to(tl.int64)
        element = at - row * n
    else:
        row = (program // chunks).to(tl.int64)
        element = (program % chunks).to(tl.int64) * BLOCK + lanes
        at, inside = row * n + element, element < n

    x = [widen(tl.load(pointer + at, inside, 0), WIDE) for pointer in inputs]
    if len(keys) > 0:
        if SHORT and QUADS:
            quad = program.to(INDEX) * (BLOCK // 4) + quads
            of = quad // (n // 4)
            at_quad, in_rows = of.to(tl.int64), quad < total // 4
            block = (quad - of * (n // 4)).to(tl.uint32)
        elif not SHORT:
            at_quad, in_rows = row, True
            block = ((program % chunks).to(tl.int64) * (BLOCK // 4) + quads).to(tl.uint32)
        for d in tl.static_range(len(keys)):
            if SHORT and not QUADS:
                z = normal_of(keys[d], sample_of(samples[d], row, inside, GIVEN[d]), element)
            else:
                z = spread(normals(keys[d], sample_of(samples[d], at_quad, in_rows, GIVEN[d]), block))
            x = x + [z.to(WIDE)]  # noqa: RUF005  (Triton knows no starred lists)

    if table is not None:
        if EACH:
            index = at.to(INDEX)
            group = (index // outer.to(INDEX)) * inner.to(INDEX) + (index // run.to(INDEX)) % inner.to(INDEX)
            row = tl.load(groups + group, inside, 0)
        elif groups is not None:
            row = tl.load(groups + row, inside if SHORT else True, 0)
        coefficients = table + row * (len(outs) * COUNT)

    bad = at < 0
    for o in tl.static_range(len(outs)):
        value = tl.zeros([BLOCK], WIDE)
        for k in tl.static_range(COUNT):
            if table is not None:
                w = tl.load(coefficients + (o * COUNT + k), inside if EACH or SHORT else True, 0)
            else:
                w = number(numbers, o * COUNT + k, WIDE)
            value = x[k] * w if k == 0 else value + x[k] * w
        value = narrow(value, outs[o].dtype.element_ty)
        tl.store(outs[o] + at, value, inside)
        if status is not None:
            bad = bad | ~(tl.abs(widen(value, WIDE)) < float("inf"))
    if status is not None:
        if tl.max((bad & inside).to(tl.int32), 0) > 0:
            tl.atomic_or(status, 1, sem="relaxed")


@triton.jit
def number(numbers, index: tl.constexpr, WIDE: tl.constexpr):
    """A coefficient that is an argument: float32, or the two halves of a float64."""
    if WIDE == tl.float64:
        high, low = decode(numbers[2 * index]).to(tl.int64), decode(numbers[2 * index + 1]).to(tl.int64)
        value = ((high << 32) | low).to(tl.float64, bitcast=True)
    else:
        value = numbers[index]
    return value


@triton.jit(do_not_specialize=["chunks"])
def uniform_kernel(out, key, samples, n, total, chunks, GIVEN: tl.constexpr, SHORT: tl.constexpr, BLOCK: tl.constexpr):
    """Uniform numbers, in rows of ``n`` with ``chunks`` programs each; SHORT: many rows in a program."""
    program = tl.program_id(0)
    fine: tl.constexpr = out.dtype.element_ty == tl.float64  # two words each
    if SHORT:
        at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < total
        row = at // n
        element, sample = at - row * n, sample_of(samples, row, inside, GIVEN)
        if fine:
            w0, w1, w2, w3 = words(key, sample, (element >> 1).to(tl.uint32))
            second = (element & 1) != 0
            value = fine_uniform(tl.where(second, w2, w0), tl.where(second, w3, w1))
        else:
            w0, w1, w2, w3 = words(key, sample, (element >> 2).to(tl.uint32))
            second, odd = (element & 2) != 0, (element & 1) != 0
            value = uniform(tl.where(odd, tl.where(second, w3, w1), tl.where(second, w2, w0)))
    else:
        row, start = (program // chunks).to(tl.int64), (program % chunks).to(tl.int64) * BLOCK
        at, inside = row * n + start + tl.arange(0, BLOCK), start + tl.arange(0, BLOCK) < n
        sample = sample_of(samples, row, True, GIVEN)
        if fine:
            w0, w1, w2, w3 = words(key, sample, (start // 2 + tl.arange(0, BLOCK // 2)).to(tl.uint32))
            value = tl.interleave(fine_uniform(w0, w1), fine_uniform(w2, w3))
        else:
            w0, w1, w2, w3 = words(key, sample, (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32))
            value = spread((uniform(w0), uniform(w1), uniform(w2), uniform(w3)))
    tl.store(out + at, value, inside)
