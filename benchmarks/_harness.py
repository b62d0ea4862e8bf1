"""What every benchmark script shares: threads, warm-up, alternated order, medians, the table and the JSON file.

A script defines ``benchmark(bench)`` and ends with ``main(benchmark, __doc__)``; it then understands ``--json FILE``,
``--quick``, ``--only CASE`` and ``--threads N``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Run = Callable[[], Any]


class Benchmark:
    """Collects rows; every peer is timed in the same process, its runs alternating with ours."""

    def __init__(self, *, quick: bool = False, only: Sequence[str] = ()) -> None:
        self.quick, self.only = quick, tuple(only)
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[str] = []

    def wants(self, *cases: str) -> bool:
        """True if one of these cases was asked for; `compare` asks itself, and scripts before they prepare a lot."""
        return not self.only or any(case.startswith(self.only) for case in cases)

    def compare(
        self, case: str, peer: str, ours: Callable[[], Run], theirs: Callable[[], Run], *, repeats: int = 1, **more: Any
    ) -> None:
        """Time one run of each, in turn, and add a row of medians.

        Args:
            case: Algorithm and size.
            peer: What it is compared with.
            ours: Prepares a run, untimed; the function it returns is timed, and may return the seconds that count as a
                float, if not all of them do.
            theirs: The same for the peer.
            repeats: Operations in one run; times are reported for one operation.
            **more: Further fields of the row; a function is called with the finished row.
        """
        if not self.wants(case):
            return
        for prepare in (ours, theirs):  # warm caches, thread pools, compilers
            for _ in range(2):
                prepare()()
        budget = 0.3 if self.quick else 1.5
        times: tuple[list[float], list[float]] = ([], [])
        start, turn = time.perf_counter(), 0
        while turn < 5 or (turn < 200 and time.perf_counter() - start < budget):
            for which in (0, 1) if turn % 2 else (1, 0):
                run = (ours, theirs)[which]()
                begin = time.perf_counter()
                counted = run()
                whole = time.perf_counter() - begin
                times[which].append((counted if isinstance(counted, float) else whole) / repeats)
            turn += 1
        mine, peers = (statistics.median(values) for values in times)
        row = {"case": case, "peer": peer, "ours": mine, "theirs": peers, "ratio": peers / mine, "runs": turn}
        row |= {"ours_min": min(times[0]), "theirs_min": min(times[1])}
        self.rows.append(row | {key: value(row) if callable(value) else value for key, value in more.items()})

    def alone(self, case: str, seconds: float, why: str, **more: Any) -> None:
        """Add a row that has no peer.

        Args:
            case: Algorithm and size.
            seconds: What ours took.
            why: What stands in the place of a peer's name.
            **more: Further fields of the row.
        """
        self.rows.append({"case": case, "peer": why, "ours": seconds, "theirs": None, "ratio": None} | more)

    def skip(self, line: str) -> None:
        """Say why a peer is not compared."""
        self.skipped.append(line)

    def table(self) -> Table:
        """The rows for people."""
        table = Table(title=f"{torch.get_num_threads()} threads, medians")
        table.add_column("case", no_wrap=True)
        table.add_column("peer", no_wrap=True)
        for name in ("ours", "theirs", "ratio"):
            table.add_column(name, justify="right")
        for row in self.rows:
            theirs = ("-", "-") if row["ratio"] is None else (seconds(row["theirs"]), f"{row['ratio']:.2f}")
            table.add_row(row["case"], row["peer"], seconds(row["ours"]), *theirs)
        return table


def repeated(function: Run, times: int) -> Callable[[], Run]:
    """A preparation whose run calls the function so many times: for what is too short for one look at the clock."""

    def run() -> None:
        for _ in range(times):
            function()

    return lambda: run


def seconds(value: float) -> str:
    """A time with a unit.

    Example:
        >>> seconds(2.5e-6), seconds(0.0123), seconds(4.0)
        ('2.50 us', '12.30 ms', '4.00 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value * 1e9:.0f} ns"


def machine() -> dict[str, Any]:
    """Where the numbers were taken."""
    from pushforward import kernels

    info: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        info["processor"] = names[0] if names else info["processor"]
    info |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
    info |= {"backends": kernels.backends(), "load": list(os.getloadavg())}
    return info


def main(benchmark: Callable[[Benchmark], None], doc: str | None, arguments: list[str] | None = None) -> None:
    """Run a benchmark script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows here")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and fewer sizes where there are many")
    parser.add_argument("--only", metavar="CASE", nargs="+", default=[], help="cases that begin like one of these")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    bench = Benchmark(quick=options.quick, only=options.only)
    load = os.getloadavg()[0]
    with torch.no_grad():
        benchmark(bench)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(bench.table())
    for line in bench.skipped:
        console.print(f"skipped: {line}")
    if load > 0.5:
        console.print(f"[yellow]Other processes were running (load {load:.1f}): read the ratios with care.")
    if options.json:
        options.json.write_text(
            json.dumps({"rows": bench.rows, "machine": machine() | {"load": load}}, indent=1) + "\n"
        )
