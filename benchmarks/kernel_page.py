"""Writes `docs/kernels.md`: every operation with its formula, backends, bytes moved and measured ratio.

    python benchmarks/kernel_page.py                    write the page anew from the operations and docs/kernels.json
    python benchmarks/kernel_page.py --measure          measure all operations first (some minutes, a quiet machine)
    python benchmarks/kernel_page.py --measure gram     measure some
    python benchmarks/kernel_page.py FILE.json ...      take rows that benchmark scripts have written with --json

Operations describe themselves (`pushforward.kernels.catalogue`): what they compute, the script that measures them, and
which of its cases are shown. Measured rows are kept in docs/kernels.json, so that the page can be written without
measuring, and a test can see that it is up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _harness import seconds

from pushforward import kernels
from pushforward.kernels import catalogue, dispatch
from pushforward.kernels.catalogue import Entry

FOLDER = Path(__file__).resolve().parent
PAGE, STORE = FOLDER.parent / "docs" / "kernels.md", FOLDER.parent / "docs" / "kernels.json"
MACHINE = ("processor", "cores", "threads", "torch", "python", "load")
KEPT = ("case", "peer", "ours", "theirs", "ratio", "ours_bytes", "memory", "nanoseconds_an_element")
Rows = Mapping[str, Sequence[Mapping[str, Any]]]

INTRODUCTION = """\
# Kernels

Every operation exists once as a definition in torch, the backend `reference`, and several times as machine code:
`native` is C++ for processors (AVX-512, AVX2 and baseline x86-64 in one module, chosen at run time), `triton` and
`cuda` are for GPUs. All are tested against the definition. `pushforward.kernels.backends()` says which of them work on
a machine, and why the others do not; `with pushforward.kernels.backend("reference"):` forces one. Tensors on the CPU
use `native`, tensors on a GPU `cuda`, then `triton`; where none has the operation, the definition runs.

Every operation is registered with `torch.library`: it works under `torch.compile(fullgraph=True)` and, where it is
differentiable, under autograd, twice.

Bytes moved are what an operation reads and writes; an element takes s bytes, an index 8. The ratio is the time of the
first peer below over ours, in the same run.
"""

METHOD = """\
## How it was measured

{machine}

Our runs and those of a peer alternate in one process, in changing order, after a warm-up; times are medians, and the
results are compared before. The last column has what a script measures besides: nanoseconds an element, or memory at
its peak beyond the arguments, and what part that is of the peer's. The scripts in `benchmarks/` measure more sizes and
dtypes than are shown here: `python benchmarks/resample.py`, for instance.

    python benchmarks/kernel_page.py --measure    measures these cases again and writes this page and kernels.json
    python benchmarks/kernel_page.py              writes this page from kernels.json

The peer `particles` is measured where the package is installed: `pip install '.[bench]'`.
"""


def selected(entry: Entry, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an operation, in the order in which it lists their cases, with the fields that the page shows."""
    rows = list(found)
    return [
        {key: rounded(row[key]) for key in KEPT if key in row}
        for beginning in entry.rows
        for row in rows
        if row["case"].startswith(beginning)
    ]


def rounded(value: Any, digits: int = 4) -> Any:
    """Some digits of a measured number: more would only be noise in the history of a file."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def measure(script: str, cases: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """What a script writes with --json, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(FOLDER / script), "--json", str(file), "--only", *cases]
        # Where PYTHONSAFEPATH is set, a script's own folder is not on the path.
        paths = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.run(command + ["--quick"] * quick, check=True, env=os.environ | {"PYTHONPATH": paths})
        return json.loads(file.read_text())


def update(store: dict[str, Any], entries: Mapping[str, Entry], written: Mapping[str, Any], script: str = "") -> None:
    """Replace the rows of the operations (of one script) for which there are new ones."""
    for op, entry in entries.items():
        if script in ("", entry.benchmark) and (rows := selected(entry, written["rows"])):
            store["rows"][op] = rows
            store["machine"] = {key: rounded(written["machine"][key]) for key in MACHINE}


def cell(text: str) -> str:
    """Code within a table, where a bar would end the cell."""
    return "`" + text.replace("|", "\\|") + "`"


def backends_of(op: str, written: Mapping[str, Sequence[str]]) -> str:
    """Names of the backends that have the operation, in the order of the table."""
    return ", ".join(name for name in dispatch.BACKENDS if name in written[op])


def ratio(row: Mapping[str, Any]) -> str:
    """How many times faster than the peer; two digits, as more are not reproducible."""
    return "" if row["ratio"] is None else f"{rounded(row['ratio'], 2):g}"


def besides(row: Mapping[str, Any]) -> str:
    """What else a script measures."""
    found = []
    if "nanoseconds_an_element" in row:
        found.append(f"{row['nanoseconds_an_element']:.2f} ns an element")
    if "ours_bytes" in row:
        found.append(f"{row['ours_bytes'] / 2**20:.1f} MiB")
    if "memory" in row:
        found.append(f"{100 * row['memory']:.1f} %")
    return ", ".join(found)


def origin(machine: Mapping[str, Any]) -> str:
    """The sentence about the machine."""
    processor = f"{machine['cores']} cores of {machine['processor']}"
    busy = f", while other processes were running (load {machine['load']:.1f})" if machine["load"] > 0.5 else ""
    return f"On {processor}, with torch {machine['torch']} and {machine['threads']} threads{busy}."


def render(entries: Mapping[str, Entry], store: Mapping[str, Any], written: Mapping[str, Sequence[str]]) -> str:
    """The page.

    Raises:
        ValueError: An operation names cases of which none has been measured.
    """
    lines = ["| operation | formula | backends | bytes moved | differentiable in | ratio |", "| --- " * 6 + "|"]
    measured = ["## Measurements", "", "| case | peer | ours | peer's | ratio | besides |"]
    measured.append("| --- | --- | ---: | ---: | ---: | --- |")
    for op, entry in entries.items():
        rows = store["rows"].get(op, [])
        if missing := [part for part in entry.rows if not any(row["case"].startswith(part) for row in rows)]:
            raise ValueError(f"{op} has no measured case {missing}: python benchmarks/kernel_page.py --measure {op}")
        module = getattr(kernels, op).__module__.removeprefix("pushforward.").replace(".", "/")
        link = f"[`{op}`](../{module}.py)"
        backends, first = backends_of(op, written), f"{ratio(rows[0])} ({rows[0]['peer']})"
        cells = (link, cell(entry.formula), backends, entry.moved.replace("|", "\\|"), entry.differentiable, first)
        lines.append(f"| {' | '.join(cells)} |")
        for row in rows:
            theirs = "" if row["theirs"] is None else seconds(row["theirs"])
            cells = (row["case"], row["peer"], seconds(row["ours"]), theirs, ratio(row), besides(row))
            measured.append(f"| {' | '.join(cells)} |")
    method = METHOD.format(machine=origin(store["machine"]))
    return "\n".join([INTRODUCTION, *lines, "", *measured, "", method])


def main(arguments: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="rows that scripts have written")
    parser.add_argument("--measure", metavar="OP", nargs="*", help="measure these operations, or all")
    parser.add_argument("--quick", action="store_true", help="measure with fewer repetitions")
    options = parser.parse_args(arguments)
    entries = catalogue.entries
    store = json.loads(STORE.read_text()) if STORE.exists() else {"machine": {}, "rows": {}}
    store["rows"] = {op: rows for op, rows in store["rows"].items() if op in entries}
    for file in options.files:
        update(store, entries, json.loads(file.read_text()))
    if options.measure is not None:
        cases: dict[str, list[str]] = defaultdict(list)
        for op in options.measure or entries:
            cases[entries[op].benchmark] += entries[op].rows
        for script, beginnings in cases.items():
            update(store, entries, measure(script, beginnings, quick=options.quick), script)
            STORE.write_text(json.dumps(store, indent=1) + "\n")  # what is measured stays, if the next one fails
    STORE.write_text(json.dumps(store, indent=1) + "\n")
    PAGE.write_text(render(entries, store, dispatch.written()))


if __name__ == "__main__":
    main()
