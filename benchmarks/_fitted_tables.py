"""What the benchmark of fitted plans found, as rows of JSON, tables of a page and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from work_precision import OURS, Run, best, pipes

METHODS = ("fitted", "fitted, gradient", "fitted, both")
BEGIN, END = "<!-- tables of benchmarks/fitted_plans.py -->", "<!-- end of the tables -->"


@dataclass(frozen=True)
class Entry(Run):
    """A run, with what else is known of it.

    Attributes:
        live, live_standard: Most state-sized tensors at once, and those of a multistep solver of as much memory.
        seconds: Of the fit.
        energy, frechet: Distances of many samples to real digits.
    """

    live: int | None = None
    live_standard: int | None = None
    seconds: float | None = None
    energy: float | None = None
    frechet: float | None = None


def rows(entries: list[Entry]) -> list[dict[str, Any]]:
    """One for each fit and library: its error against the best of the library."""
    found = []
    for mine in entries:
        for library in dict.fromkeys(e.library for e in entries if not e.library.startswith("fitted")):
            theirs = best(entries, mine.problem, mine.dtype, mine.budget, library)
            if mine.library.startswith("fitted") and theirs:
                found.append({
                    "case": f"{mine.problem}, {mine.budget} evaluations, {mine.library}", "peer": library,
                    "ours": mine.error, "theirs": theirs.error, "ratio": theirs.error / mine.error,
                    "their_solver": f"{theirs.solver}, {theirs.grid}",
                })  # fmt: skip
    return found


def peer_libraries(entries: list[Entry]) -> list[str]:
    """Those that are not ours."""
    return list(dict.fromkeys(e.library for e in entries if e.library != OURS and not e.library.startswith("fitted")))


def best_standard(entries: list[Entry], problem: str, nfe: int) -> Run | None:
    """Of all libraries."""
    found = [best(entries, problem, "float32", nfe, library) for library in (OURS, *peer_libraries(entries))]
    return min((run for run in found if run), key=lambda run: run.error, default=None)


def cell(run: Run | None) -> str:
    """An error, the median sample's, and with what."""
    return "" if run is None else f"{errors_of(run)} {run.solver}, {run.grid}"


def errors_of(run: Run) -> str:
    """Root mean square, and in brackets the median sample's error."""
    return f"{short(run.error)} ({short(run.median)})"


def short(value: float | None) -> str:
    """Three digits, two of small numbers; nothing where there is no number."""
    return "" if value is None else f"{value:.{2 if value < 1e-3 else 3}g}"


def tables(entries: list[Entry]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines."""
    others, found = peer_libraries(entries), {(e.problem, e.budget) for e in entries}
    cases = sorted(found, key=lambda case: (*place(case[0]), case[1]))

    def of(kind: str, problem: str, nfe: int) -> Entry | None:
        return next((e for e in entries if (e.library, e.problem, e.budget) == (kind, problem, nfe)), None)

    lines, memory, methods, digits = [], [], [], []
    for problem, nfe in cases:
        mine, top = of("fitted", problem, nfe), best_standard(entries, problem, nfe)
        if mine is None or top is None:
            continue
        standards = [cell(best(entries, problem, "float32", nfe, library)) for library in (OURS, *others)]
        ratio = f"{top.error / mine.error:.1f}"
        if top.median and mine.median:
            ratio += f" ({top.median / mine.median:.1f})"
        if problem.startswith("digits"):
            digits += [digit_line(e, nfe) for e in entries if (e.problem, e.budget) == (problem, nfe) and e.energy]
            continue
        lines.append([problem, str(nfe), *standards, errors_of(mine), ratio])
        short_memory = [of(f"fitted, memory {m}", problem, nfe) for m in (2, 3)]
        if all(short_memory):
            memory.append([problem, str(nfe), *(memory_cell(e, mine, top) for e in short_memory if e)])
        by_method = [of(kind, problem, nfe) for kind in METHODS]
        if by_method[-1]:
            methods.append([problem, str(nfe), *standards[1:], *(errors_of(e) if e else "" for e in by_method)])
    yield "Mixtures", ["problem", "NFE", "best of ours, not fitted", *(f"best of {name}" for name in others), "fitted",
                       "best / fitted"], lines  # fmt: skip
    yield (
        "Methods",
        ["problem", "NFE", *(f"best of {name}" for name in others), "least squares", "gradient", "both"],
        methods,
    )
    yield "Short memory", ["problem", "NFE", "memory 2", "memory 3"], memory
    yield "Digits", ["problem", "NFE", "solver", "error (median)", "energy distance", "Frechet distance"], digits


def place(problem: str) -> tuple[bool, bool, bool, int]:
    """Where a problem stands among others: flows first, small ones first."""
    number = next(int(word.strip(",")) for word in problem.split() if word.strip(",").isdigit())
    return problem.startswith("digits"), "apart" in problem, "diffusion" in problem, number


def memory_cell(entry: Entry, full: Run, top: Run) -> str:
    """Error, the share of the gain that is left, as logarithms, and tensors alive."""
    share = math.log(top.error / entry.error) / math.log(top.error / full.error)
    return f"{short(entry.error)}, {share:.0%}, {entry.live} ({entry.live_standard})"


def digit_line(entry: Entry, nfe: int) -> list[str]:
    """One solver on the digits."""
    name = "fitted" if entry.library == "fitted" else f"{entry.library} {entry.solver}, {entry.grid}"
    return [entry.problem, str(nfe), name, errors_of(entry), f"{entry.energy:.4f}", f"{entry.frechet:.3f}"]


def into_page(page: str, entries: list[Entry]) -> str:
    """The page with the tables that there are between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    parts = [f"### {title}\n\n" + "\n".join(pipes(head, lines)) for title, head, lines in tables(entries) if lines]
    return before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after


def plot(entries: list[Entry], file: Path) -> None:
    """Error against evaluations, one panel a problem."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    problems = sorted({e.problem for e in entries}, key=place)
    columns = min(4, len(problems))
    shape = math.ceil(len(problems) / columns), columns
    figure, axes = pyplot.subplots(*shape, squeeze=False, figsize=(3.2 * shape[1], 2.8 * shape[0]))
    known = {e.library for e in entries}
    fits = sorted(name for name in known if name.startswith("fitted"))
    names = [name for name in (OURS, *peer_libraries(entries), *fits) if name in known]
    for axis, problem in zip(axes.flat, problems, strict=False):
        for index, name in enumerate(names):
            found = {e.budget: e for nfe in sorted({e.budget for e in entries})
                     if (e := best(entries, problem, "float32", nfe, name))}  # fmt: skip
            style = {"linestyle": "-" if name in fits else "--", "marker": "os^vDPX*"[index % 8], "color": f"C{index}"}
            axis.plot(list(found), [e.error for e in found.values()], label=name, markersize=4, **style)
        axis.set(title=problem, xlabel="network evaluations", yscale="log")
        axis.set_xticks(sorted({e.budget for e in entries if e.problem == problem}))
        axis.grid(alpha=0.3, which="both")
    for axis in axes.flat[len(problems) :]:
        axis.set_axis_off()
    axes[0, 0].set_ylabel("error")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=len(names))
    figure.savefig(file, dpi=72)
    pyplot.close(figure)
