"""How many network calls one after another does sampling in parallel over time save, and what does it spend?

Picard iteration against the sequential run of the same plan, on the reference mixture and on the bundled digit model,
for windows and tolerances: calls one after another, evaluations a sample, and the error against the sequential run,
beside the error of the sequential run with as many steps as there were calls, which it has to beat. Times are of this
machine, whose cores a single row already fills: here it loses. "idle device" is the other extreme: a network that takes
10 ms whatever the number of its rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from _harness import Benchmark, main
from torch import Tensor

import pushforward as pf


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return x.square().mean().sqrt().item()


def timed(run: Callable[[], object]) -> float:
    """Seconds of the second of two runs."""
    run()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def problem(name: str, steps: int, count: int) -> tuple[pf.models.Model, dict[str, object], Tensor]:
    """A model, the options of its run, and its start."""
    if name in ("mixture", "idle device"):
        oracle = pf.models.reference_mixture("vp")
        times = [oracle.interpolant.time_at(-3 + 5.5 * i / steps) for i in range(steps + 1)]
        model = oracle.model("denoised")
        if name == "idle device":
            model = dataclasses.replace(
                model, network=lambda x, t, inner=model.network: time.sleep(0.01) or inner(x, t)
            )
        return model, {"grid": times}, oracle.sample(count, seed=5, t=times[0])
    noise = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    condition = {"label": torch.arange(count) % 10}
    return pf.models.load("digits28-base"), {"steps": steps, "condition": condition}, noise


def case(
    bench: Benchmark,
    name: str,
    solver: str,
    steps: int,
    count: int,
    window: int | None,
    tolerance: float,
    memory: int = 0,
) -> None:
    """One row: ours in parallel, theirs in sequence."""
    size = "all" if window is None else window
    title = f"{name} {solver} {steps} steps window {size} tolerance {tolerance:g}" + f" memory {memory}" * bool(memory)
    if not bench.wants(title):
        return
    model, options, start = problem(name, steps, count)
    chosen = pf.solver("ddim", eta=1.0) if solver == "ddim eta=1" else pf.solver(solver)

    def parallel() -> tuple[Tensor, pf.solvers.parallel.ParallelReport]:
        more = {"window": window, "tolerance": tolerance, "memory": memory}
        return pf.sample_parallel(model, start, solver=chosen, **more, **options)

    def sequential() -> Tensor:
        return pf.sample(model, start, solver=chosen, **options)

    exact, (x, report) = sequential(), parallel()
    row = {
        "calls": report.calls,
        "sequential_calls": steps,
        "evaluations": float(report.evaluations.mean()),
        "error": rms(x - exact),
    }
    # as many calls one after another, spent on a coarser grid
    coarse = problem(name, report.calls, count)[1]
    row["error_of_fewer_steps"] = rms(pf.sample(model, start, solver=chosen, **coarse) - exact)
    mine, theirs = timed(parallel), timed(sequential)
    bench.rows.append(
        {"case": title, "peer": "in sequence", "ours": mine, "theirs": theirs, "ratio": theirs / mine} | row
    )
    print(
        f"{title}: {report.calls} calls, {row['evaluations']:.1f} evaluations a sample, error {row['error']:.1e} "
        f"(that many steps: {row['error_of_fewer_steps']:.1e}), {theirs / mine:.2f} times as fast"
    )


def benchmark(bench: Benchmark) -> None:
    """All cases."""
    for steps in (50, 100):
        for window, tolerance in ((None, 0.1), (10, 0.1), (25, 1e-3), (None, 1e-3)):
            case(bench, "mixture", "ddim", steps, 64, window, tolerance)
    for window, tolerance in ((None, 0.1), (10, 0.1), (None, 1e-2)):
        case(bench, "idle device", "ddim", 50, 1, window, tolerance)
    case(bench, "mixture", "ddim eta=1", 50, 64, None, 0.1)
    case(bench, "mixture", "ddim eta=1", 50, 64, None, 1e-3)
    for memory in (0, 3):
        case(bench, "mixture", "ddim", 50, 64, None, 1e-2, memory)
        case(bench, "mixture", "ddim eta=1", 50, 64, None, 1e-2, memory)
        case(bench, "digits", "ddim", 50, 2, None, 1e-2, memory)
        case(bench, "digits", "ddim eta=1", 50, 2, None, 1e-2, memory)
    case(bench, "mixture", "dpmpp_2m", 50, 64, None, 1e-3)
    for steps in (50,) if bench.quick else (50, 100):
        for window, tolerance in ((None, 0.1), (10, 0.1), *([(None, 1e-2)] if steps == 100 else [])):
            case(bench, "digits", "ddim", steps, 2, window, tolerance)
    case(bench, "digits", "ddim eta=1", 50, 2, None, 0.1)
    case(bench, "digits", "dpmpp_2m", 50, 2, None, 0.1)


if __name__ == "__main__":
    main(benchmark, __doc__)
