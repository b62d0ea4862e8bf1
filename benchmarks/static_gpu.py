"""What the machine code of the GPU kernels shows, without a GPU.

Compiles every Triton kernel, in the specialisations that its module lists, for sm_80 and sm_90, takes every CUDA
kernel from the compiled module, and prints registers, shared memory, spills, widths of global loads and stores, and
bytes moved per element against the minimum (each operand once; CUDA kernels have loops of any length, and tests count
their bytes in emulation). Ends with status 1 if a kernel spills, uses local memory, moves a byte twice, or reads or
writes contiguous tensors in less than 128 bits.

``--quick`` compiles few specialisations, for sm_90 only.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import _cuda_static
import _sass

ARCHITECTURES = (80, 90)
_SCALAR_LOAD = re.compile(r"tt\.load .* : !tt\.ptr<(\w+)>")
_SCALAR_STORE = re.compile(r"tt\.store .* : !tt\.ptr<(\w+)>")


def modules() -> list[str]:
    """Modules that list cases, by name."""
    package = importlib.import_module("pushforward.kernels.triton")
    names = sorted(f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__))
    return [name for name in names if not name.rpartition(".")[2].startswith("_")]


def cases(module: str, *, quick: bool = False) -> list[Any]:
    """Cases of a module; if ``quick``, those marked so, and one of every other kernel."""
    found = getattr(importlib.import_module(module), "static_cases", list)()
    if not quick:
        return found
    marked = {id(case.kernel) for case in found if case.quick}
    first = {id(case.kernel): case for case in reversed(found)}
    return [c for c in found if c.quick or (id(c.kernel) not in marked and first[id(c.kernel)] is c)]


def compile_case(case: Any, arch: int) -> Any:
    """Triton's compiled kernel, with its intermediate forms as ``.asm``."""
    import triton
    from triton.backends.compiler import GPUTarget

    names = list(case.signature)
    constants: dict[Any, Any] = dict(case.constants)
    attributes: dict[Any, Any] = {}

    def visit(kind: Any, path: tuple[int, ...], aligned: bool) -> Any:
        if isinstance(kind, tuple):
            return tuple(visit(inner, (*path, index), aligned) for index, inner in enumerate(kind))
        if kind is None:
            constants[path] = None
            return "constexpr"
        if aligned and (kind.startswith("*") or kind in ("i32", "i64")):
            attributes[path] = [["tt.divisibility", 16]]
        return kind

    signature = {
        name: visit(kind, (index,), name in case.aligned)
        for index, (name, kind) in enumerate(zip(names, case.signature.values(), strict=True))
    }
    source = triton.compiler.ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=case.options)


def analyse(case: Any, arch: int) -> dict[str, Any]:
    """One row: what the kernel's machine code uses and moves."""
    compiled = compile_case(case, arch)
    row = {"kernel": case.name, "arch": f"sm_{arch}", "wide": case.wide, "minimum": case.minimum}
    row |= _sass.inspect(compiled.asm["cubin"])
    row["fused"] = len(re.findall(r"\bfma\.", compiled.asm["ptx"]))
    row["fusion"] = case.options.get("enable_fp_fusion", True)
    threads = 32 * compiled.metadata.num_warps
    moved = 0
    for kind, pattern in (("loads", _SCALAR_LOAD), ("stores", _SCALAR_STORE)):
        scalars = Counter(re.sub(r"\D", "", name) for name in pattern.findall(compiled.asm["ttgir"]))
        tensors = Counter(row[kind]) - scalars
        row[kind] = dict(tensors)
        moved += sum(int(width) // 8 * count for width, count in tensors.items()) * threads
    row["bytes"] = moved / case.elements
    return row


def _work(job: tuple[str, int, int, bool]) -> dict[str, Any]:
    module, index, arch, quick = job
    case = cases(module, quick=quick)[index]
    try:
        return analyse(case, arch)
    except Exception as error:  # the other kernels are still worth a look
        return {"kernel": case.name, "arch": f"sm_{arch}", "error": f"{type(error).__name__}: {error}"}


def rows(
    *, quick: bool = False, only: str = "", module: str | None = None, workers: int | None = None
) -> list[dict[str, Any]]:
    """Rows of all Triton kernels, then of all CUDA kernels; or of one module."""
    architectures = ARCHITECTURES[-1:] if quick else ARCHITECTURES
    of_interest = [f"sm_{arch}" for arch in architectures]
    jobs = [
        (module, index, arch, quick)
        for module in (modules() if module is None else [module])
        for index, case in enumerate(cases(module, quick=quick))
        for arch in architectures
        if only in case.name
    ]
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        found = list(pool.map(_work, jobs))
    if module is None:
        found += [row for row in _cuda_static.rows() if only in row["kernel"] and row["arch"] in of_interest]
    for row in found:
        row["problems"] = [row["error"]] if "error" in row else _sass.problems(row)
    return found


def table(found: list[dict[str, Any]]) -> Any:
    """The rows for people."""
    from rich.table import Table

    result = Table(title="GPU kernels, compiled")
    for name in ("kernel", "arch", "registers", "shared", "spills", "loads", "stores", "bytes", "minimum"):
        result.add_column(name, justify="left" if name in ("kernel", "arch", "loads", "stores") else "right")
    for row in found:
        if "error" in row:
            result.add_row(row["kernel"], row["arch"], *["-"] * 7, style="red")
            continue
        widths = [" ".join(f"{count}x{width}" for width, count in row[kind].items()) for kind in ("loads", "stores")]
        moved, minimum = ("-" if row[name] is None else f"{row[name]:g}" for name in ("bytes", "minimum"))
        numbers = [str(row[name]) for name in ("registers", "shared", "spills")]
        style = "red" if row["problems"] else None
        result.add_row(row["kernel"], row["arch"], *numbers, *widths, moved, minimum, style=style)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the script; 1 if there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows here")
    parser.add_argument("--quick", action="store_true", help="few specialisations, one architecture")
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains this")
    parser.add_argument("--module", metavar="NAME", help="cases of this module only, for instance of planted faults")
    parser.add_argument("--workers", type=int, help="processes that compile (default: one a core)")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "0"  # read when a kernel is decorated: no module with kernels is imported yet
    found = rows(quick=options.quick, only=options.only, module=options.module, workers=options.workers)
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 150)
    console.print(table(found))
    for row in found:
        for problem in row["problems"]:
            console.print(f"{row['kernel']} {row['arch']}: {problem}", style="red", markup=False)
    if options.json:
        options.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")
    return 1 if any(row["problems"] for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
