"""Rows of `static_gpu.py` for the CUDA kernels: what the machine code in the compiled module shows."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import _sass

_FUNCTION = re.compile(r" Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SECTION = re.compile(r"^\s*\.section\s+\.text\.([^,\s]+)", re.MULTILINE)
_FUSED = re.compile(r"\b[FDH]FMA\b")
_SCALAR = re.compile(r"\b(?:LDG\S*\.CONSTANT|STG\S*\.EF)\b.*")  # launch.hpp's scalar() and store_scalar()


def rows() -> list[dict[str, Any]]:
    """A row for each kernel and architecture; none if the module was built without CUDA."""
    from pushforward.kernels.dispatch import native_module

    if native_module is None or not native_module.has_cuda():
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        module = Path(shutil.copy(native_module.__file__, folder))
        _sass.run(_sass.tools() / "cuobjdump", "-xelf", "all", module.name, folder=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            found += _rows_of(cubin, re.findall(r"sm_\d+", cubin.name)[-1])
    return sorted(found, key=lambda row: (row["kernel"], row["arch"]))


def _rows_of(cubin: Path, arch: str) -> list[dict[str, Any]]:
    usage = _FUNCTION.findall(_sass.run(_sass.tools() / "cuobjdump", "-res-usage", cubin))
    text = _sass.run(_sass.tools() / "nvdisasm", "-c", cubin)
    starts = [(match.group(1), match.start()) for match in _SECTION.finditer(text)]
    ends = [start for _, start in starts][1:] + [len(text)] * bool(starts)
    bodies = {name: text[start:end] for (name, start), end in zip(starts, ends, strict=True)}
    found = []
    for mangled, registers, stack, shared, local in usage:
        name = _readable(mangled)
        row = {"kernel": f"cuda {name}", "arch": arch, "registers": int(registers), "shared": int(shared)}
        # Kernels for aligned tensors say so with their last argument; the others read element by element.
        row |= {"wide": name.endswith("true>"), "minimum": None, "bytes": None}
        # Divisions and square roots are subroutines of fused operations; sums without noise have neither.
        row |= {"fused": len(_FUSED.findall(bodies[mangled])), "fusion": not re.match(r"Combine<\w+, \d, false", name)}
        row["local"] = int(stack) + int(local)
        found.append(row | _sass.counts(_SCALAR.sub("", bodies[mangled])))
    return found


def _readable(mangled: str) -> str:
    """Name of the kernel with its template arguments, for instance ``Combine<Float32, 1, false, false, true>``."""
    demangled = _sass.run("c++filt", mangled).strip()
    inner = demangled.partition("on_device<")[2].rpartition(">(")[0].strip()
    inner = inner.replace("(anonymous namespace)::", "").replace("pushforward::cuda::", "")
    return re.sub(r"\((?:bool|int)\)", "", re.sub(r"_GLOBAL__N__\w+::", "", inner)).replace("> >", ">>")
