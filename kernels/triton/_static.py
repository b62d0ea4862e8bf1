"""What `benchmarks/static_gpu.py` compiles without a GPU: a kernel with the types and constants of one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StaticCase:
    """One specialisation of a Triton kernel, and what its machine code must show.

    A module of this package that has kernels defines ``static_cases() -> list[StaticCase]``.

    Args:
        name: Operation, sizes and dtype, for instance ``"combine K=4 float32"``.
        kernel: The ``@triton.jit`` function.
        signature: Triton type of every argument in order: ``"*fp32"``, ``"i64"``, ``"fp64"``, ``"constexpr"``; None for
            an argument that is None; a tuple of these for a tuple.
        constants: Values of the constexpr arguments.
        aligned: Pointers and integers known to be multiples of 16, as they are for torch's contiguous tensors. The name
            of a tuple stands for all that is in it.
        elements: Elements that one program handles in straight-line code (or in one turn of its loop).
        minimum: Bytes per element that must be read and written, each once; None where accesses depend on data. Scalars
            that a whole program reads or writes (an id, a coefficient, a partial sum) are not counted.
        wide: Whether all global accesses to tensors must be 128 bits wide.
        options: Launch options, as the launcher passes them.
        quick: Whether tests compile it, too. They compile the first case of a kernel that has no such case.
    """

    name: str
    kernel: Any
    signature: dict[str, Any]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    elements: int
    minimum: float | None
    wide: bool = True
    options: dict[str, Any] = field(default_factory=lambda: {"num_warps": 4, "enable_fp_fusion": False})
    quick: bool = False
