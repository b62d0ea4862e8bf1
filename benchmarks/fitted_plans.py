"""What does a solver that was made for the model leave of the error of the best one that was not?

Plans of `pushforward.fit` against every deterministic solver of ours with one evaluation a step, on every registered
grid, and every sampler of diffusers (of azula and k-diffusion too, where they are installed) on each of its schedules,
in as many network evaluations and on starts that no fit has seen:

- Gaussian mixtures in 2 to 64 dimensions, as velocities on the linear path and as noise predictions on Stable
  Diffusion's: root mean square distance to the exact samples, relative to the samples' root mean square;
- formulas that read no more than the last 2 or 3 outputs: how much of that gain is left, and how many states live;
- the bundled digits at guidance 1 and 2: distance to the solution in 1,000 steps, and of 1,000 samples the energy
  distance to real digits and the Frechet distance in the features of a classifier that neither has met.

``--json FILE`` keeps the results after each case, and ``--reuse FILE`` takes what is there, so that a long run can be
done in pieces; ``--markdown PAGE`` writes the tables between the marks of a page, ``--plot FILE`` the picture.
``--only NAME`` selects problems by the beginning of their name, ``--fits`` what is fitted on mixtures. ``--quick``: one
small mixture at 5 evaluations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _fitted_tables import METHODS, Entry, into_page, plot, rows, tables
from _harness import machine
from _peers import peers
from _sampling import DIGITS, Digits, Mixture, Problem
from rich.console import Console
from rich.table import Table
from torch import Tensor
from work_precision import FEW_GRIDS, OURS, Run, best, grids, largest_plan, our_runs, peer_runs, sample

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import UnknownNameError

NFE, NFE_32, NFE_DIGITS = (5, 8, 10), (5, 8, 10, 15), (5, 6, 8, 10)
FITS: dict[str, dict[str, Any]] = {
    "fitted": {}, "fitted, memory 2": {"memory": 2}, "fitted, memory 3": {"memory": 3},
    "fitted, gradient": {"method": "gradient"}, "fitted, both": {"method": "both"},
}  # fmt: skip
POLISH = 12  # of mixtures: they are cheap
EVERYWHERE = ("fitted", "fitted, memory 2", "fitted, memory 3")
COUNT = 1024  # starts that are measured
MULTISTEP = {  # registered solvers that remember as much of the same
    "velocity": {2: "ab2", 3: "ab3_ramp"}, "denoised": {2: "dpmpp_2m", 3: "dpmpp_3m"}
}  # fmt: skip
DIGIT_SOLVERS = ("ab2", "ab3_ramp", "ab4_ramp", "unipc", "unipc3", "dpmpp_2m", "plms")
DIGIT_PAIRS = 256  # of a fit in the benchmark
DIGIT_PEERS = ("UniPC", "DPM-Solver++ 2M", "DEIS")  # their names begin so
KEPT = 3  # runs of one library that are written down
SAMPLES, PART = 1000, 100


class Relative(Mixture):
    """A mixture in d dimensions, with relative errors.

    In two it is `models.reference_mixture`; in more, five Gaussians of standard deviation 0.3 with means from
    N(0, 1 / d), so that they overlap; or far "apart", with means from N(0, 1): there a start between two of them is
    decided by the smallest error, and the few that end in the wrong one make the root mean square.
    """

    def __init__(self, path: models.Interpolant, count: int, dimension: int, apart: bool = False) -> None:
        self.dimension, self.apart = dimension, apart
        super().__init__(path, count)
        which = f"mixture {dimension} apart" if apart else f"mixture {dimension}"
        self.name = self.name.replace("mixture", which)
        self.reference = ("rk4", 100)

    def oracle(self, path: models.Interpolant) -> models.MixtureOracle:
        """The mixture on a path."""
        if self.dimension == 2:
            return super().oracle(path)
        draw, d = pf.kernels.Draw(pf.kernels.PURPOSE_USER, 0), self.dimension
        means = pf.kernels.normal((5, d), seed=d, draw=draw, dtype=torch.float64) / (1 if self.apart else math.sqrt(d))
        return models.MixtureOracle([3, 2.5, 2, 1.5, 1], list(means), 0.09, path)

    def errors(self, x: Tensor, nu: float) -> tuple[float, float]:
        """Relative to the root mean square of the exact samples."""
        scale = self.exact(nu).square().mean().sqrt().item()
        error, median = super().errors(x, nu)
        return error / scale, median / scale


class GuidedDigits(Digits):
    """The bundled digit model at a guidance scale, as one model; samples from number ``first`` on."""

    def __init__(self, guidance: float, count: int, first: int = 0) -> None:
        super().__init__(count)
        self.guidance, self.first, self.name = guidance, first, f"digits, guidance {guidance:g}"
        self._models = dict[torch.dtype, models.Model]()

    @cached_property
    def noise(self) -> Tensor:
        """Of these samples."""
        draw, ids = pf.kernels.Draw(pf.kernels.PURPOSE_INITIAL, 0), torch.arange(self.shape[0]) + self.first
        return pf.kernels.normal(self.shape, seed=20, draw=draw, dtype=torch.float64, samples=ids)

    def model(self, dtype: torch.dtype) -> models.Model:
        """With its guidance inside."""
        if dtype not in self._models:
            plain = models.load(DIGITS, dtype=dtype)
            self._models[dtype] = plain if self.guidance == 1 else models.guided(plain, self.guidance)
        return self._models[dtype]

    def linear(self, dtype: torch.dtype) -> models.BoundModel:
        """The same with its labels."""
        return self.bound(dtype)

    def parts(self) -> Iterator[GuidedDigits]:
        """As many samples as distances need, in batches."""
        for first in range(0, SAMPLES, PART):
            yield GuidedDigits(self.guidance, PART, first)


# --- fitted ------------------------------------------------------------------------------------------------------


def fitted_run(problem: Relative, nfe: int, kind: str) -> Entry:
    """A plan made for a mixture from other starts, and its error here."""
    model, began = problem.model(torch.float32), time.perf_counter()
    with torch.enable_grad():
        options = {"seed": 77, "reference_steps": 32, "polish": POLISH} | FITS[kind]
        fitted = pf.fit(model, nfe, problem.shape[1:], **options)
    seconds = time.perf_counter() - began
    plan = pf.make_plan(model, solver=fitted)
    errors = problem.errors(sample(plan, problem, torch.float32), problem.path.noise_ratio(fitted.times[0]))
    entry = Entry(problem.name, "float32", nfe, kind, "fit", "", plan.nfe, *errors, seconds=seconds)
    memory, one = FITS[kind].get("memory"), (1, *problem.shape[1:])
    if memory is None:
        return replace(entry, live=plan.cost(one).live_tensors)
    name = MULTISTEP[getattr(fitted.solver, "quantity", "velocity")][memory]
    multistep = pf.make_plan(model, solver=name, steps=nfe)
    return replace(entry, live=plan.cost(one).live_tensors, live_standard=multistep.cost(one).live_tensors)


def digit_plan(nfe: int, guidance: float, anew: bool) -> tuple[pf.FittedPlan, float | None]:
    """The bundled plan, or a new one with the seconds that it took."""
    model = models.load(DIGITS)
    if not anew:
        return solvers.bundled_fit(model, nfe, guidance), None
    pairs, began = DIGIT_PAIRS, time.perf_counter()
    labels = {"label": torch.arange(pairs) % 10}
    fitted = pf.fit(model, nfe, (1, 28, 28), guidance=guidance, condition=labels, pairs=pairs, seed=77)
    return fitted, time.perf_counter() - began


def digit_entries(problem: GuidedDigits, nfe: int, runs: Sequence[Run], anew: bool) -> Iterator[Entry]:
    """The fitted plan and the best of the others: error, and distances of many samples to real digits."""
    fitted, seconds = digit_plan(nfe, problem.guidance, anew)
    plan = plan_for(problem, fitted, fitted.times)
    errors = problem.errors(sample(plan, problem, torch.float32), math.inf)
    mine = Entry(problem.name, "float32", nfe, "fitted", "fit", "", plan.nfe, *errors, seconds=seconds)
    judge = Judge()
    yield judge.judged(mine, (sample(plan, part, torch.float32) for part in problem.parts()))
    for library in dict.fromkeys(run.library for run in runs):
        run = best(list(runs), problem.name, "float32", nfe, library)
        assert run is not None
        yield judge.judged(Entry(**asdict(run)), (drawn(run, part) for part in problem.parts()))


def plan_for(problem: Problem, solver: solvers.FixedGridSolver, times: Sequence[float]) -> pf.Plan:
    """A plan whose guidance is in the model."""
    prediction = problem.model(torch.float32).prediction
    return solvers.plan(solver, times, problem.path, prediction=prediction).lower(prediction).optimise()


def drawn(run: Run, problem: Problem) -> Tensor:
    """The samples of a standard run from other starts."""
    if run.library == OURS:
        plan = largest_plan(solvers.solver(run.solver), run.grid, run.budget, problem.model(torch.float32).prediction)
        assert plan is not None
        return sample(plan, problem, torch.float32)
    said: list[str] = []
    wanted = (run.library, run.solver, run.grid)
    peer = next(peer for peer in peers(problem, said.append) if (peer.library, peer.solver, peer.grid) == wanted)
    done = peer.within(problem, run.budget, torch.float32)
    assert done is not None
    return done[0]


class Judge:
    """Classifier B and real digits, as in `models/training/evaluate.py`."""

    def __init__(self) -> None:
        from pushforward.models.training.digits import load_digits28

        train, self.held_out, _ = load_digits28()
        self.network = models.bundled.load("digits28-classifier-b")
        each = SAMPLES // 10
        rows = [(train.labels == c).nonzero()[:each, 0] for c in range(10)]
        self.features = self.network.features(train.images[torch.cat(rows)])

    def judged(self, entry: Entry, parts: Iterable[Tensor]) -> Entry:
        """The entry with the distances of these samples."""
        from pushforward.models.training import metrics

        x = torch.cat(list(parts)).float().clamp(-1, 1)
        energy = pf.kernels.energy_distance(x.flatten(1), self.held_out.images.flatten(1)).item()
        return replace(entry, energy=energy, frechet=metrics.frechet_distance(self.network.features(x), self.features))


# --- the whole ---------------------------------------------------------------------------------------------------


def standard_runs(problem: Problem, nfe: int, skip: Callable[[str], None]) -> list[Entry]:
    """The best few of each library; of ours with one evaluation a step, which are the better ones by far at so few.

    On digits only the solvers that come first where all are tried (docs/work_precision.md), ours on a few grids.
    """
    digits = isinstance(problem, Digits)
    some = {
        name: [] if solver.evaluations_per_step > 1 or (digits and name not in DIGIT_SOLVERS)
        else FEW_GRIDS if digits else grids(problem.path)
        for name, solver in solvers.solvers()
    }  # fmt: skip
    every = peers(problem, skip) if digits else ()
    known = {(peer.library, peer.solver, peer.grid) for peer in every if peer.solver.startswith(DIGIT_PEERS)}
    found = our_runs(problem, nfe, torch.float32, some)
    found = [*found, *peer_runs(problem, nfe, torch.float32, known if digits else None, skip)]
    kept, counts = [], dict[str, int]()
    for run in sorted(found, key=lambda run: run.error):
        counts[run.library] = counts.get(run.library, 0) + 1
        if counts[run.library] <= KEPT:
            kept.append(Entry(**asdict(run)))
    return kept


def measure(
    problems: Sequence[Problem],
    entries: list[Entry],
    anew: bool,
    keep: Callable[[list[Entry]], None],
    say: Callable[[str], object],
    fits: Sequence[str] = tuple(FITS),
    quick: bool = False,
    alone: bool = False,
) -> list[Entry]:
    """All entries, added to those there are; what there is of a problem, budget and library is not run again."""
    began, cases = time.perf_counter(), [(nfe, problem) for problem in problems for nfe in budgets(problem)]
    if quick:
        cases = [(nfe, problem) for nfe, problem in cases if nfe == NFE[0]]
    for nfe, problem in sorted(cases, key=lambda case: case[0]):  # plans are compiled once for all of a path
        there = [e for e in entries if (e.problem, e.budget) == (problem.name, nfe)]
        enough = alone or any(e.library == OURS for e in there)
        new = [] if enough else standard_runs(problem, nfe, lambda _: None)
        if isinstance(problem, GuidedDigits):
            if not any(e.library == "fitted" for e in there):
                try:
                    new += digit_entries(problem, nfe, there + new, anew)
                except UnknownNameError as error:
                    say(f"{problem.name}, {nfe} evaluations: {error}; --fit makes one")
        else:
            assert isinstance(problem, Relative)
            kinds = kinds_for(problem)
            wanted = [kind for kind in kinds if kind in fits and all(e.library != kind for e in there)]
            new += [fitted_run(problem, nfe, kind) for kind in wanted]
        entries = once(entries + new)
        keep(entries)
        say(f"{problem.name}, {nfe} evaluations: {len(new)} entries, {time.perf_counter() - began:.0f} s")
    return entries


def kinds_for(problem: Relative) -> Sequence[str]:
    """What is fitted: every method in 32 dimensions, short memories where the path is the linear one."""
    if problem.dimension == 32:
        return METHODS
    return EVERYWHERE if isinstance(problem.path, models.Linear) and not problem.apart else EVERYWHERE[:1]


def once(entries: Iterable[Entry]) -> list[Entry]:
    """Each solver on each grid for each budget, as it was told last."""
    return list({(e.problem, e.budget, e.library, e.solver, e.grid): e for e in entries}.values())


def budgets(problem: Problem) -> tuple[int, ...]:
    """Evaluations."""
    if isinstance(problem, Digits):
        return NFE_DIGITS
    return NFE_32 if problem.shape[1] == 32 else NFE


def problems_of(options: argparse.Namespace) -> list[Problem]:
    """Those that were asked for."""
    count = 64 if options.quick else COUNT
    flow, diffusion = models.Linear(), models.DiscreteDDPM.scaled_linear()
    found: list[Problem] = [Relative(path, count, d) for path in (flow, diffusion) for d in (2, 16, 64)]
    found += [Relative(flow, count, d, apart=True) for d in (16, 32, 64)]
    if options.digits and not options.quick:
        found += [GuidedDigits(guidance, options.digits) for guidance in (1.0, 2.0)]
    names = tuple(options.only) or ("mixture 2, flow" if options.quick else "",)
    return [problem for problem in found if problem.name.startswith(names)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("json", "markdown", "plot"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], metavar="FILE", help="add the runs of such JSON")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="problems whose names begin so")
    parser.add_argument("--quick", action="store_true", help="one mixture, 5 evaluations, one fit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--digits", type=int, default=192, help="digits with a solution in 1,000 steps (0: none)")
    parser.add_argument("--fit", action="store_true", help="fit plans for the digits; otherwise the bundled ones")
    parser.add_argument("--fits", nargs="+", choices=FITS, default=[*FITS], help="on mixtures")
    parser.add_argument("--alone", action="store_true", help="only fits, without the solvers they are compared with")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names, console = {field.name for field in fields(Entry)}, Console(width=160)
    kept = [run for file in options.reuse for run in json.loads(file.read_text())["runs"]]
    entries = once(Entry(**{key: value for key, value in run.items() if key in names}) for run in kept)

    def keep(entries: list[Entry]) -> None:
        if options.json:
            runs = [{key: value for key, value in asdict(e).items() if value is not None} for e in entries]
            found = {"rows": rows(entries), "runs": runs, "machine": machine()}
            options.json.write_text(json.dumps(found, indent=1) + "\n")

    with torch.no_grad():
        fits = ["fitted"] if options.quick else options.fits
        problems, flags = problems_of(options), (options.quick, options.alone)
        entries = measure(problems, entries, options.fit, keep, console.print, fits, *flags)
    keep(entries)
    for title, head, lines in tables(entries):
        table = Table(*head, title=title)
        for line in lines:
            table.add_row(*line)
        if lines:
            console.print(table)
    if options.plot:
        plot(entries, options.plot)
    if options.markdown:
        options.markdown.write_text(into_page(options.markdown.read_text(), entries))


if __name__ == "__main__":
    main()
