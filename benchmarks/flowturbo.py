"""Is FlowTurbo worth its refiner, and compilation its seconds? On the bundled digits, against Heun's method.

Rows "quality" hold the Frechet distance of 1,000 samples in the judge's features (5 % apart counts as equal), rows
"run" the wall time of a batch of 64 beside Heun's in alternation, with the share that is saved; "pseudo-corrector" how
many evaluations Heun's method needs for the same distance to the exact solution; "compiled" the time of compiled runs
beside plain ones, and what compiling took; "steps alone" a run whose networks cost nothing, which bounds what
compiling the steps too could gain. A network's evaluation that is guided is two forward passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache

import torch
from _harness import Benchmark, Run, main
from torch import Tensor

import pushforward as pf
from pushforward.models import RefinedModel, bundled
from pushforward.models.training import metrics
from pushforward.models.training.digits import load_digits28
from pushforward.solvers import FixedGridSolver
from pushforward.solvers.ode import FlowTurbo

HEUN, TURBO, BATCH = pf.solver("heun"), FlowTurbo(heun=2, pseudo=4, refine=3), 64
SCHEDULES = [(HEUN, n) for n in (9, 6, 5)]
SCHEDULES += [(TURBO, 9), (FlowTurbo(heun=1, pseudo=5, refine=3), 9), (FlowTurbo(heun=2, pseudo=7), 9)]


@cache
def digits() -> RefinedModel:
    """The bundled model with its refiner."""
    base, refiner = pf.models.load("digits28-base"), pf.models.load("digits28-refiner")
    return RefinedModel.around(base, refiner=refiner)


def draw(solver: FixedGridSolver, steps: int, guidance: float, labels: Tensor) -> Tensor:
    """Samples in batches, the same for each seed whatever the batch."""
    model, shape = digits(), (1, 28, 28)
    run = {"solver": solver, "steps": steps, "guidance": guidance, "seed": 2024}
    return torch.cat([
        pf.sample(model, (len(ids), *shape), samples=ids, condition={"label": labels[ids]}, **run).clamp(-1, 1)
        for ids in torch.arange(len(labels)).split(250)
    ])  # fmt: skip


def named(solver: FixedGridSolver, steps: int, guidance: float) -> str:
    """The case."""
    return f"{solver} {steps} steps, guidance {guidance:g}"


def quality(bench: Benchmark, guidance: float) -> None:
    """Frechet distances, and each one's change against Heun's at as many steps as FlowTurbo takes."""
    labels = torch.arange(10).repeat(10 if bench.quick else 100)
    judge = bundled.load("digits28-classifier-b")
    data, _, _ = load_digits28()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    real = judge.features(data.images[order[: len(labels)]])
    first: float | None = None
    for solver, steps in SCHEDULES:
        case = f"quality {named(solver, steps, guidance)}"
        if not bench.wants(case):
            continue
        began = time.perf_counter()
        samples = draw(solver, steps, guidance, labels)
        seconds = time.perf_counter() - began
        distance = metrics.frechet_distance(judge.features(samples), real)
        first = distance if first is None else first
        agreement = metrics.class_agreement(judge(samples), labels).value
        change = {"frechet": distance, "change": distance / first - 1, "agreement": agreement}
        bench.alone(case, seconds, f"Frechet {distance:.3f} ({distance / first - 1:+.1%})", **change)
        print(case, change, flush=True)


def run_of(solver: FixedGridSolver, steps: int, guidance: float, *, compiled: bool = False) -> Callable[[], Run]:
    """A preparation of one batch."""
    model, condition = digits(), {"label": torch.arange(BATCH) % 10}
    plan, shape = pf.make_plan(model, solver=solver, steps=steps, guidance=guidance), (BATCH, 1, 28, 28)
    if compiled:
        ready = plan.compile(model, shape, condition=condition)
        return lambda: clocked(lambda: ready(seed=1, condition=condition))
    run = {"solver": solver, "steps": steps, "guidance": guidance, "seed": 1, "condition": condition}
    return lambda: clocked(lambda: pf.sample(model, shape, **run))


def clocked(run: Run) -> Run:
    """With one thread, the processor's time: what an idle machine would take, and this one if it is shared."""
    if torch.get_num_threads() > 1:
        return run

    def timed() -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    return timed


def saved(row: dict) -> float:
    """Share of the peer's time that is not needed."""
    return 1 - row["ours"] / row["theirs"]


def runs(bench: Benchmark, guidance: float) -> None:
    """Wall time beside Heun's."""
    for peer in (9, 6):
        bench.compare(
            f"run {named(TURBO, 9, guidance)}",
            f"heun {peer} steps",
            run_of(TURBO, 9, guidance),
            run_of(HEUN, peer, guidance),
            saved=saved,
        )


def equal_errors(bench: Benchmark) -> None:
    """Evaluations of the pseudo-corrector and of Heun's method at equal distance to the exact solution."""
    case = "pseudo-corrector"
    if not bench.wants(case):
        return
    labels = torch.arange(10).repeat(2 if bench.quick else 10)
    exact = draw(pf.solver("rk4"), 30, 1.0, labels)

    def errors(solver: FixedGridSolver, counts: tuple[int, ...]) -> list[float]:
        return [(draw(solver, n, 1.0, labels) - exact).square().mean().sqrt().item() for n in counts]

    cached, counts = pf.solver("pseudo_corrector", terminal="cached"), (6, 8, 11, 15, 20)
    pseudo = errors(cached, counts)
    for steps, error in zip((5, 7, 10), errors(HEUN, (5, 7, 10)), strict=True):
        needed = interpolated(error, pseudo, counts)
        more = {"error": error, "pseudo_corrector_nfe": needed, "heun_nfe": 2 * steps, "fewer": 2 * steps / needed}
        bench.alone(f"{case} at Heun's error {error:.4f}", 0.0, f"{needed:.1f} for {2 * steps} evaluations", **more)
        print(case, more, flush=True)


def interpolated(error: float, errors: list[float], counts: tuple[int, ...]) -> float:
    """The count at which an error is reached, linear in the logarithms; extrapolated from the nearest pair."""
    k = next((k for k in range(1, len(errors)) if errors[k] <= error), len(errors) - 1)
    (e0, e1), (n0, n1) = (map(math.log, pair[k - 1 : k + 1]) for pair in (errors, counts))
    return math.exp(n0 + (math.log(error) - e0) * (n1 - n0) / (e1 - e0))


def compilation(bench: Benchmark) -> None:
    """Compiled runs beside plain ones."""
    for solver in (TURBO, HEUN):
        case = f"compiled {named(solver, 9, 1.0)}"
        if bench.wants(case):
            ours = run_of(solver, 9, 1.0, compiled=True)
            plan = pf.make_plan(digits(), solver=solver, steps=9)
            ready = plan.compile(digits(), (BATCH, 1, 28, 28), condition={"label": torch.arange(BATCH) % 10})
            facts = {"how": ready.how, "compile_seconds": ready.seconds, "difference": ready.difference}
            bench.compare(case, "eager", ours, run_of(solver, 9, 1.0), saved=saved, **facts)


def steps_alone(bench: Benchmark) -> None:
    """A run whose networks cost nothing."""
    answer = torch.zeros(BATCH, 1, 28, 28)

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return answer.clone()

    refiner = pf.models.adapt(network, null={"label": torch.tensor([10])})
    free = RefinedModel.around(pf.models.adapt(network, null={"label": torch.tensor([10])}), refiner=refiner)
    run = {"steps": 9, "seed": 1, "condition": {"label": torch.arange(BATCH) % 10}}
    shape = (BATCH, 1, 28, 28)
    bench.compare(
        "steps alone flow_turbo",
        "with networks",
        lambda: clocked(lambda: pf.sample(free, shape, solver=TURBO, **run)),
        run_of(TURBO, 9, 1.0),
    )


def benchmark(bench: Benchmark) -> None:
    """All questions."""
    for guidance in (1.0, 2.0)[: 1 if bench.quick else 2]:
        runs(bench, guidance)
    steps_alone(bench)
    equal_errors(bench)
    quality(bench, 1.0)
    if not bench.quick:  # compiling takes a minute
        compilation(bench)


if __name__ == "__main__":
    main(benchmark, __doc__)
