"""Counts in the machine code of a GPU kernel (registers, spills, widths of global accesses), and what is wrong."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

# LDG.E.128.CONSTANT R4, ... ; LDGSTS copies to shared memory past the registers. 32 bits where no width is named.
_ACCESS = re.compile(r"\b(LDGSTS|LDG|STG)((?:\.[A-Z0-9_]+)*)\s")
_LOCAL = re.compile(r"\b(LDL|STL)(?:\.[A-Z0-9_]+)*\s")
_ATOMIC = re.compile(r"\b(ATOMG?|REDG?)\.E")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def tools() -> Path:
    """Folder of cuobjdump and nvdisasm, which come inside the package triton."""
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__path__[0]) / "bin"


def run(*command: object, folder: str | None = None) -> str:
    """Output of a program, run in a folder; raises with its complaint if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def inspect(cubin: bytes) -> dict[str, Any]:
    """What a compiled kernel uses: ``registers``, ``shared``, ``local`` (bytes), ``spills``, ``loads``, ``stores``.

    ``spills`` counts instructions on local memory; ``loads`` and ``stores`` count global accesses by width in bits.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _USAGE.search(run(tools() / "cuobjdump", "-res-usage", file))
        text = run(tools() / "nvdisasm", "-c", file)
    if usage is None:
        raise RuntimeError("cuobjdump printed no resource usage")
    registers, stack, shared, local = (int(number) for number in usage.groups())
    return {"registers": registers, "shared": shared, "local": stack + local} | counts(text)


def counts(text: str) -> dict[str, Any]:
    """What a disassembly does with memory: ``spills``, ``loads``, ``stores``, ``atomics``."""
    loads, stores = accesses(text)
    return {
        "spills": len(_LOCAL.findall(text)),
        "loads": loads,
        "stores": stores,
        "atomics": len(_ATOMIC.findall(text)),
    }


def accesses(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """Global loads and stores in a disassembly, counted by width in bits.

    Example:
        >>> accesses("LDG.E.128 R4, desc[UR4][R2.64] ;  @P0 STG.E.U16 desc[UR4][R2.64], R4 ;")
        ({'128': 1}, {'16': 1})
    """
    loads: Counter[str] = Counter()
    stores: Counter[str] = Counter()
    for name, suffixes in _ACCESS.findall(text):
        parts = suffixes.split(".")
        width = next((part.lstrip("US") for part in parts if part in ("128", "64", "U16", "S16", "U8", "S8")), "32")
        (stores if name == "STG" else loads)[width] += 1
    return dict(loads), dict(stores)


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a kernel, in words; also for the rows of CUDA kernels."""
    found = []
    if row["spills"]:
        found.append(f"{row['spills']} accesses to spilled registers")
    if row["local"]:
        found.append(f"{row['local']} bytes of local memory")
    for kind in ("loads", "stores"):
        narrow = {width: count for width, count in row[kind].items() if width != "128"}
        if row.get("wide", True) and narrow:
            found.append(f"narrow {kind}: " + ", ".join(f"{count} of {width} bits" for width, count in narrow.items()))
    if row["minimum"] is not None and abs(row["bytes"] - row["minimum"]) > 1e-6:
        found.append(f"{row['bytes']:g} bytes an element, at least {row['minimum']:g} are needed")
    if row.get("fused") and not row["fusion"]:
        found.append(f"{row['fused']} fused multiply-adds")
    return found
