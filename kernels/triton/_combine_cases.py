"""The specialisations of the kernels of `combine` that are compiled without a GPU."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from ._combine import OPTIONS, block_elements, combine_kernel, uniform_kernel
from ._philox import KEY_TYPE
from ._static import StaticCase

# Triton's name, and bytes
TYPES = {"float32": ("fp32", 4), "float64": ("fp64", 8), "bfloat16": ("bf16", 2), "float16": ("fp16", 2)}


def static_cases() -> list[StaticCase]:
    """Sums from one to sixteen inputs, with noise, with tables of coefficients; random numbers alone."""
    return [
        combination("combine K=2", 2, 1, "float32", quick=True),
        combination("combine K=2", 2, 1, "bfloat16", quick=True),
        combination("combine K=2", 2, 1, "float16", quick=True),
        combination("combine K=2", 2, 1, "float64"),
        combination("combine K=7 O=2", 7, 2, "float32"),
        combination("combine K=7 O=2", 7, 2, "bfloat16"),
        combination("combine K=16 O=4", 16, 4, "float64"),
        combination("combine K=2 noise", 2, 1, "float32", draws=1, quick=True),
        combination("combine K=2 noise", 2, 1, "bfloat16", draws=1, quick=True),
        combination("combine K=2 noise", 2, 1, "float16", draws=1, quick=True),
        combination("combine K=2 noise samples status", 2, 1, "float16", draws=1, samples=True, status=True),
        combination("combine K=16 O=4 four draws", 16, 4, "float32", draws=4, status=True),
        combination("combine K=16 O=4 four draws", 16, 4, "bfloat16", draws=4, status=True),
        combination("combine K=16 O=4 four draws", 16, 4, "float64", draws=4, status=True),
        combination("combine K=2 noise, coefficients by sample", 2, 1, "float32", draws=1, table="row"),
        combination("combine K=2, coefficients by token", 2, 1, "bfloat16", table="group of row"),
        combination("combine K=2 O=2 noise, short rows", 2, 2, "float32", draws=1, table="row", short=True),
        combination(
            "combine K=2 noise, odd short rows", 2, 1, "float32", draws=1, table="row", short=True, quads=False
        ),
        combination("combine K=2, coefficients by pixel", 2, 1, "float32", table="group of element"),
        combination("combine K=2, past 2^31 elements", 2, 1, "float32", integers="i64"),
        combination("normal", 0, 1, "float32", draws=1),
        combination("normal", 0, 1, "bfloat16", draws=1),
        uniforms("float32", quick=True),
        uniforms("float64"),
        uniforms("float32", short=True),
    ]


def combination(
    name: str,
    inputs: int,
    outputs: int,
    dtype: str,
    *,
    draws: int = 0,
    samples: bool = False,
    status: bool = False,
    table: str = "",
    short: bool = False,
    quads: bool = True,
    integers: str = "i32",
    quick: bool = False,
) -> StaticCase:
    """A call of `combine_kernel` with contiguous tensors of 16 m elements a sample."""
    kind, size = TYPES[dtype]
    wide, count = ("fp64" if size == 8 else "fp32"), outputs * (inputs + draws)
    block = block_elements(size, inputs + draws)
    numbers: Any = () if table else ("i64",) * (2 * count) if size == 8 else ("fp32",) * count
    signature = {
        "inputs": ("*" + kind,) * inputs,
        "outs": ("*" + kind,) * outputs,
        "numbers": numbers,
        "table": "*" + wide if table else None,
        "groups": "*i64" if "group" in table else None,
        "keys": (KEY_TYPE,) * draws,
        "samples": ("*i64" if samples else "*" + kind,) * draws,
        "status": "*i32" if status else None,
        **dict.fromkeys(("n", "total", "chunks", "outer", "run", "inner"), integers),
    }
    constants = {
        "GIVEN": (samples,) * draws,
        "SHORT": short,
        "QUADS": quads,
        "EACH": table == "group of element",
        "INDEX": tl.int32 if integers == "i32" else tl.int64,
        "WIDE": tl.float64 if size == 8 else tl.float32,
        "BLOCK": block,
    }
    gathers = table and (short or constants["EACH"])
    return StaticCase(
        name=f"{name} {dtype}",
        kernel=combine_kernel,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constants=constants,
        aligned=("inputs", "outs", "table", "groups", "total", *["n"] * quads),
        elements=block,
        minimum=None if gathers else size * (inputs + outputs),
        wide=not gathers,
        options=OPTIONS,
        quick=quick,
    )


def uniforms(dtype: str, *, short: bool = False, quick: bool = False) -> StaticCase:
    """A call of `uniform_kernel`."""
    kind, size = TYPES[dtype]
    block = block_elements(size, 0)
    return StaticCase(
        name=f"uniform{', short rows' if short else ''} {dtype}",
        kernel=uniform_kernel,
        signature={"out": "*" + kind, "key": KEY_TYPE, "samples": "*" + kind}
        | dict.fromkeys(("n", "total", "chunks"), "i32")
        | dict.fromkeys(("GIVEN", "SHORT", "BLOCK"), "constexpr"),
        constants={"GIVEN": False, "SHORT": short, "BLOCK": block},
        aligned=("out", "n", "total"),
        elements=block,
        minimum=size,
        options=OPTIONS,
        quick=quick,
    )
