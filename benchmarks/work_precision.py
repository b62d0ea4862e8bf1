"""What is the error of a sample for so many network evaluations: ours, diffusers, k-diffusion, azula?

Every deterministic solver that is registered, on every registered grid, against every comparable sampler of the
others on each of its schedules; then ours with grids optimised for the model (on other starts than those that are
measured). Error is the root mean square distance to the exact samples of the same starts: Gaussian mixtures, whose
flow is known, on the linear and on Stable Diffusion's diffusion path, and the bundled digit model, whose reference is
its own solution in 1,000 steps. Where a method has more than one evaluation a step, it gets as many steps as fit.

``--json FILE`` has a row for each case and peer (ours and theirs are errors, ratio is theirs / ours) and all runs; it
is written after each budget, and ``--reuse FILE`` takes what is there, so that a long run can be done in pieces.
``--markdown FILE`` writes the tables, ``--plot FILE`` the picture. ``--quick`` leaves the digits and bfloat16 out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _harness import machine
from _peers import peers
from _sampling import Digits, Mixture, Problem
from rich.console import Console
from rich.table import Table
from torch import Tensor

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import PushforwardError

NFE = (5, 8, 10, 15, 20)
OPTIMISED_NFE = (8, 10)
MIXTURE = "mixture, flow"
FEW_GRIDS = ["uniform", "beta", "cosine"]  # where a solver's best are not known
OURS, OPTIMISED, FITTED = "pushforward", "pushforward, optimised grid", "pushforward, fitted grid and weights"
OWN_START = "offset"  # the grid that is run from where it begins, which is where diffusers' flow schedulers do
REQUIRED = {"dynamic_shift": {"tokens": 1024}}  # options of grids that have no default


@dataclass(frozen=True)
class Run:
    """One sampler on one problem: the root mean square of all errors, and the median of the samples'."""

    problem: str
    dtype: str
    budget: int
    library: str
    solver: str
    grid: str
    nfe: int
    error: float
    median: float | None = None


# --- ours --------------------------------------------------------------------------------------------------------


def grids(path: models.Interpolant) -> list[str]:
    """Names of the registered grids that fit the path, each set of times once."""
    found: dict[tuple[float, ...], str] = {}
    for name in solvers.GRIDS:
        times = times_of(name, 7, path)
        if times is not None:
            found.setdefault(times, name)
    return list(found.values())


@cache
def times_of(name: str, steps: int, path: models.Interpolant) -> tuple[float, ...] | None:
    """A registered grid, begun where the path begins: a run that leaves the first part out has another answer."""
    try:
        times = pf.grid(name, steps, path, **REQUIRED.get(name, {}))
    except PushforwardError:
        return None
    return times if name == OWN_START else (path.t_min, *times[1:])


@cache
def largest_plan(solver: solvers.FixedGridSolver, grid: str, nfe: int, prediction: models.Prediction) -> pf.Plan | None:
    """The plan with the most steps that needs no more than so many evaluations."""
    for steps in range(nfe // solver.evaluations_per_step + 1, 0, -1):
        times = times_of(grid, steps, prediction.interpolant)
        if times is None:
            return None
        try:
            plan = solvers.plan(solver, times, prediction.interpolant, prediction=prediction)
        except PushforwardError:
            return None
        if plan.stochastic:
            return None
        if plan.nfe <= nfe:
            return plan.lower(prediction).optimise()
    return None


def sample(plan: pf.Plan, problem: Problem, dtype: torch.dtype) -> Tensor:
    """Our run from the problem's starts."""
    start = (plan.interpolant.sigma(plan.grid[0]) * problem.noise).to(dtype)
    return pf.Executor(plan, start).run(problem.bound(dtype).evaluate)


def our_runs(problem: Problem, nfe: int, dtype: torch.dtype, only: dict[str, list[str]]) -> Iterator[Run]:
    """Every deterministic solver, on every grid or on those that ``only`` has for it."""
    prediction = problem.model(dtype).prediction
    for name, solver in solvers.solvers():
        if solver.stochastic:
            continue
        for grid in only.get(name, FEW_GRIDS) if only else grids(problem.path):
            plan = largest_plan(solver, grid, nfe, prediction)
            if plan is not None:
                try:
                    x = sample(plan, problem, dtype)
                except PushforwardError:  # NaN: some methods blow up on some grids
                    continue
                errors = problem.errors(x, problem.path.noise_ratio(plan.grid[0]))
                yield Run(problem.name, str(dtype)[6:], nfe, OURS, name, grid, plan.nfe, *errors)


def best_grids(runs: list[Run], problem: str, nfe: int, count: int) -> dict[str, list[str]]:
    """For each solver of ours the grids with the least errors."""
    found: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda r: r.error):
        if (run.library, run.problem, run.budget, run.dtype) == (OURS, problem, nfe, "float32"):
            found.setdefault(run.solver, []).append(run.grid)
    return {solver: list(dict.fromkeys(names))[:count] for solver, names in found.items()}


def of_search(problem: Problem) -> dict[str, Any]:
    """What grids are made with: other starts, and the power 1 on the digits, a few of which may become another."""
    small = isinstance(problem, Digits)
    pilot, held_out = (128, 64) if small else (256, 256)
    return {
        "pilot": pilot, "held_out": held_out, "seed": 77, "reference_steps": 32 if small else 48,
        "condition": {"label": torch.arange(pilot + held_out) % 10} if small else None, "power": 1.0 if small else 2.0,
    }  # fmt: skip


def optimised_runs(problem: Problem, nfe: int, runs: list[Run], count: int) -> Iterator[tuple[Run, pf.Plan]]:
    """Grids made for the best solvers of this budget, and their error on the problem's starts, never seen before."""
    best: dict[str, Run] = {}
    for run in sorted((r for r in runs if r.library == OURS and r.budget == nfe), key=lambda r: r.error):
        if run.grid != OWN_START:
            best.setdefault(run.solver, run)
    model, iterations = problem.model(torch.float32), 3 if isinstance(problem, Digits) else 10
    for run in list(best.values())[:count]:
        solver = solvers.solver(run.solver)
        base = largest_plan(solver, run.grid, nfe, model.prediction)
        assert base is not None
        found = pf.optimise_grid(
            model, solver, base.steps, problem.shape[1:], base=base.grid, iterations=iterations, **of_search(problem)
        )
        plan = pf.make_plan(model, solver=solver, grid=found)
        yield made_run(problem, nfe, OPTIMISED, run.solver, f"from {run.grid}", plan), plan


def fitted_run(problem: Problem, nfe: int) -> Iterator[tuple[Run, pf.Plan]]:
    """A formula with its grid, from equal steps of time."""
    model = problem.model(torch.float32)
    base = times_of("uniform", nfe, problem.path)
    assert base is not None
    options = of_search(problem)
    pairs = options.pop("pilot") + options.pop("held_out")  # fit itself divides them
    plan = pf.make_plan(model, solver=pf.fit(model, nfe, problem.shape[1:], grid=base, pairs=pairs, **options))
    yield made_run(problem, nfe, FITTED, "fit", "from uniform", plan), plan


def made_run(problem: Problem, nfe: int, library: str, solver: str, grid: str, plan: pf.Plan) -> Run:
    """The error of what was made for a problem."""
    nu = problem.path.noise_ratio(problem.path.t_min)
    errors = problem.errors(sample(plan, problem, torch.float32), nu)
    return Run(problem.name, "float32", nfe, library, solver, grid, plan.nfe, *errors)


# --- theirs ------------------------------------------------------------------------------------------------------


def peer_runs(
    problem: Problem, nfe: int, dtype: torch.dtype, only: set[tuple[str, str, str]] | None, skip: Callable[[str], None]
) -> Iterator[Run]:
    """Every peer, or those in ``only``."""
    for peer in peers(problem, skip):
        if only is not None and (peer.library, peer.solver, peer.grid) not in only:
            continue
        try:
            done = peer.within(problem, nfe, dtype)
        except Exception as error:  # of a library that is not ours: say it, and go on
            skip(f"{peer.library} {peer.solver}, {peer.grid}, {problem.name}: {type(error).__name__}: {error}"[:160])
            continue
        if done is None:
            continue
        x, nu, calls = done
        errors = problem.errors(x, nu)
        if not math.isfinite(errors[0]):
            skip(f"{peer.library} {peer.solver}, {peer.grid}, {problem.name}: its samples are not finite")
            continue
        yield Run(problem.name, str(dtype)[6:], nfe, peer.library, peer.solver, peer.grid, calls, *errors)


# --- the whole ---------------------------------------------------------------------------------------------------


def measure(
    problems: list[Problem],
    dtypes: list[torch.dtype],
    count: int,
    runs: list[Run],
    say: Callable[[str], None],
    keep: Callable[[list[Run], list[str]], None],
) -> tuple[list[Run], list[str]]:
    """All runs, added to those there are; in bfloat16 each solver runs on its best float32 grid.

    On the digits each of our solvers runs on the three grids that were best for it on the mixture, if that is known.
    What there is of a problem, dtype, budget and side (fixed grids, grids made for the model) is not run again.
    """
    skipped: dict[str, None] = {}
    begin = time.perf_counter()

    def skip(line: str) -> None:
        skipped.setdefault(line)

    for problem in problems:
        small = isinstance(problem, Digits)
        for nfe in NFE:
            there = [r for r in runs if (r.problem, r.budget) == (problem.name, nfe)]
            new, plans = [], []
            if not any(r.library == OURS for r in there):
                known = best_grids(runs, MIXTURE, nfe, 3) if small else {}
                new += our_runs(problem, nfe, torch.float32, known)
                new += peer_runs(problem, nfe, torch.float32, None, skip)
            if nfe in OPTIMISED_NFE and count:
                known_libraries = {r.library for r in there}
                made = (
                    *(() if OPTIMISED in known_libraries else optimised_runs(problem, nfe, there + new, count)),
                    *(() if FITTED in known_libraries else fitted_run(problem, nfe)),
                )
                plans = [*made]
                new += [run for run, _ in plans]
            for dtype in dtypes[1:]:
                name = str(dtype)[6:]
                low: list[Run] = []
                if not any(r.dtype == name for r in there):
                    full = [r for r in there + new if r.dtype == "float32"]
                    chosen = [found[0] for found in by_solver(full).values()]
                    theirs = {(r.library, r.solver, r.grid) for r in chosen if not r.library.startswith(OURS)}
                    low += our_runs(problem, nfe, dtype, best_grids(full, problem.name, nfe, 1))
                    low += peer_runs(problem, nfe, dtype, theirs, skip)
                nu = problem.path.noise_ratio(problem.path.t_min)
                for run, plan in plans:
                    error, median = problem.errors(sample(plan, problem, dtype), nu)
                    low.append(Run(**asdict(run) | {"dtype": name, "error": error, "median": median}))
                new += low
            runs = runs + new
            keep(runs, list(skipped))
            say(f"{problem.name}, {nfe} evaluations: {len(new)} runs, {time.perf_counter() - begin:.0f} s")
    return runs, list(skipped)


def by_solver(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs of each (library, solver), best first."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda r: r.error):
        found.setdefault((run.library, run.solver), []).append(run)
    return found


def best(runs: list[Run], problem: str, dtype: str, nfe: int, library: str) -> Run | None:
    """The least error of a library."""
    fitting = (r for r in runs if (r.problem, r.dtype, r.budget, r.library) == (problem, dtype, nfe, library))
    return min(fitting, key=lambda r: r.error, default=None)


def rows(runs: list[Run]) -> list[dict]:
    """One for each case and peer: our best against its best."""
    found = []
    for problem, dtype, nfe in dict.fromkeys((r.problem, r.dtype, r.budget) for r in runs):
        for ours in (OURS, OPTIMISED, FITTED):
            mine = best(runs, problem, dtype, nfe, ours)
            for library in ("diffusers", "k-diffusion", "azula"):
                theirs = best(runs, problem, dtype, nfe, library)
                if mine and theirs:
                    suffix = ours.removeprefix(OURS)
                    found.append({
                        "case": f"{problem}, {nfe} evaluations {dtype}{suffix}", "peer": library,
                        "ours": mine.error, "theirs": theirs.error, "ratio": theirs.error / mine.error, "nfe": nfe,
                        "our_solver": f"{mine.solver}, {mine.grid}", "their_solver": f"{theirs.solver}, {theirs.grid}",
                    })  # fmt: skip
    return found


# --- what people see ---------------------------------------------------------------------------------------------


def cells(runs: list[Run], problem: str, dtype: str, nfe: int, libraries: list[str]) -> list[str]:
    """One line of the table: least error of each library and with what, and the ratios to ours."""
    found = {library: best(runs, problem, dtype, nfe, library) for library in libraries}
    line = [str(nfe)]
    for library in libraries:
        run = found[library]
        median = "" if run is None or run.median is None else f" ({run.median:.4f})"
        line.append("" if run is None else f"{run.error:.4f}{median} {run.solver}, {run.grid}")
    theirs = [run.error for library, run in found.items() if run and not library.startswith(OURS)]
    for library in libraries:
        if library.startswith(OURS):
            run = found[library]
            line.append(f"{min(theirs) / run.error:.2f}" if run and theirs else "")
    return line


def tables(runs: list[Run]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and lines for each problem and dtype."""
    order = (OURS, OPTIMISED, FITTED, "diffusers", "k-diffusion", "azula")
    libraries = [name for name in order if any(r.library == name for r in runs)]
    ratios = [f"best peer / {name.removeprefix(OURS).removeprefix(', ') or 'ours'}" for name in libraries
              if name.startswith(OURS)]  # fmt: skip
    for problem, dtype in dict.fromkeys((r.problem, r.dtype) for r in runs):
        head = ["NFE", *libraries, *ratios]
        yield f"{problem}, {dtype}", head, [cells(runs, problem, dtype, nfe, libraries) for nfe in NFE]


def solver_table(runs: list[Run], problem: str) -> tuple[list[str], list[list[str]]]:
    """Each solver's error on its best grid, for each budget."""
    mine = [r for r in runs if r.problem == problem and r.dtype == "float32"]
    names = dict.fromkeys((r.library, r.solver) for r in mine)
    found = {(r.library, r.solver, r.budget): r for r in sorted(mine, key=lambda r: -r.error)}
    lines = []
    for library, solver in names:
        each = [found.get((library, solver, nfe)) for nfe in NFE]
        lines.append([library, solver, *("" if r is None else f"{r.error:.4f}" for r in each)])
    return ["library", "solver", *map(str, NFE)], lines


def markdown(runs: list[Run], skipped: list[str], picture: str | None, note: str = "") -> str:
    """The page ``docs/work_precision.md``."""
    parts = [PREAMBLE.strip(), ""] + ([note, ""] if note else [])
    if picture:
        parts += [f"![error against evaluations]({picture})", ""]
    for title, head, lines in tables(runs):
        parts += [f"## {title[0].upper()}{title[1:]}", "", *pipes(head, lines), ""]
    for problem in dict.fromkeys(r.problem for r in runs):
        parts += [f"## Every solver on its best grid: {problem}, float32", "", *pipes(*solver_table(runs, problem)), ""]
    parts += ["## Left out", "", *(f"- {line}" for line in skipped), ""]
    return "\n".join(parts)


PREAMBLE = """
# Error against evaluations

Written by `benchmarks/work_precision.py --markdown docs/work_precision.md --plot docs/work_precision.png`; run that to
make it again (k-diffusion and azula are compared where they are installed). Each cell is the root mean square distance
to the exact samples of the same starts, and where it is known the median sample's in brackets, for the best solver and
grid of a library at no more than so many network evaluations. All fixed grids compete, on both sides; an optimised grid
was made by `pushforward.optimise_grid`, a grid with its weights by `pushforward.fit`, both on other starts than those
measured here. The ratios compare with the best of all peers: above 1, ours is more accurate.

- "mixture, flow": three Gaussians in the plane (`models.reference_mixture`) on the linear path from pure noise.
- "mixture, diffusion": the same on Stable Diffusion's discrete path (scaled linear betas), from its last level.
- "digits": the bundled class-conditional model, unguided; the reference is its solution in 1,000 steps.

Each run is measured against the exact flow from where it begins: diffusers' flow schedulers begin at t = 0.001,
karras and exponential schedules of EDM and k-diffusion at nu = 80, azula short of both ends. In bfloat16 states,
outputs and the network are bfloat16, and each solver runs on its best float32 grid.

Known causes of differences: diffusers truncates the times its `use_flow_sigmas` networks are told to thousandths;
UniPC bh1 divides infinity by infinity in its last step to sigma = 0 and returns NaN; azula's last level is
`sigma_min`, so that much noise remains in its samples.
"""


def pipes(head: list[str], lines: list[list[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *lines)]


def plot(runs: list[Run], file: Path) -> None:
    """Best error of each library against evaluations, one panel a problem."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((r.problem, r.dtype) for r in runs))
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(lines, columns, squeeze=False, figsize=(4.6 * columns, 3.8 * lines))
    marks = {OURS: "o-", OPTIMISED: "*", FITTED: "P", "diffusers": "s--", "k-diffusion": "^:", "azula": "v-."}
    for (problem, dtype), axis in zip(panels, axes.flat, strict=False):
        for index, (library, mark) in enumerate(marks.items()):
            points = [(nfe, run.error) for nfe in NFE if (run := best(runs, problem, dtype, nfe, library))]
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    mark,
                    color=f"C{index}",
                    label=library,
                    markersize=9 if mark in "*P" else 5,
                )
        axis.set(title=f"{problem}, {dtype}", xlabel="network evaluations", ylabel="RMS error", yscale="log")
        axis.set_xticks(NFE)
        axis.grid(alpha=0.3, which="both")
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    shown = axes.flat[0].get_legend_handles_labels()  # the mixture has every library
    figure.tight_layout()
    figure.legend(*shown, fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("json", "markdown", "plot"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="mixtures in float32 only, fewer samples")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--digits", type=int, default=16, help="samples of the digit model (0: leave them out)")
    parser.add_argument("--only", default="", help="problems whose name has this in it")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], metavar="FILE", help="add the runs of such JSON")
    parser.add_argument("--note", default="", help="a paragraph for the page: how many samples, what differed")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="the first chooses the grids")
    parser.add_argument("--optimise", type=int, default=4, help="solvers for which a grid is made, of each budget")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=200)
    earlier = [json.loads(file.read_text()) for file in options.reuse]
    runs = [Run(**run) for one in earlier for run in one["runs"]]
    count = 256 if options.quick else 512
    problems: list[Problem] = [
        Mixture(models.Linear(), count), Mixture(models.DiscreteDDPM.scaled_linear(), count)]  # fmt: skip
    if options.digits and not options.quick:
        problems.append(Digits(options.digits))
    problems = [problem for problem in problems if options.only in problem.name]
    dtypes = [getattr(torch, name) for name in options.dtypes[: 1 if options.quick else None]]
    before = [line for one in earlier for line in one["skipped"]]

    def keep(runs: list[Run], skipped: list[str]) -> None:
        if options.json:
            found = {"rows": rows(runs), "runs": [asdict(run) for run in runs],
                     "skipped": list(dict.fromkeys([*before, *skipped])), "machine": machine()}  # fmt: skip
            options.json.write_text(json.dumps(found, indent=1) + "\n")

    with torch.no_grad():
        runs, skipped = measure(problems, dtypes, options.optimise, runs, console.print, keep)
    skipped = list(dict.fromkeys([*before, *skipped]))
    for title, head, lines in tables(runs):
        table = Table(*head, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for line in skipped:
        console.print(f"skipped: {line}", markup=False)
    if options.plot:
        plot(runs, options.plot)
    if options.markdown:
        picture = options.plot.name if options.plot else None
        options.markdown.write_text(markdown(runs, skipped, picture, options.note), encoding="utf-8")


if __name__ == "__main__":
    main()
