"""What does a solver cost a step, outside the network, against diffusers' scheduler for the same algorithm?

The network is one elementwise function, so that every step has a new output, as in a real run; the clock is stopped
while it works. Ours is a prepared executor from one request to the next; theirs is ``scheduler.step`` after
``set_timesteps``, which is not timed. Both must end at the same sample. Rows "with set-up" count that too: binding
the plan to its buffers, and ``set_timesteps``. All times are for one step of the grid.

No scheduler has the formula of a fitted plan, so its rows are beside our own two-step multistep solver, which stands
where diffusers' scheduler does in the others: 1 is no more overhead than that.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from _harness import Benchmark, main
from torch import Tensor

import pushforward as pf
from pushforward.models.adapters.diffusers import read_scheduler
from pushforward.solvers.ode.fitted import FittedMultistep

STEPS = 20
MOST = 15  # outputs that a step of a fitted plan reads, where nothing else is asked for
SHAPES = [(1, 4, 32, 32), (1, 4, 64, 64), (1, 16, 128, 128), (8, 16, 128, 128)]


class Result:
    """Where a run leaves its sample, to be compared."""

    x: Tensor


def network(x: Tensor) -> Tensor:
    """Stands for a network: a new tensor for each call."""
    return torch.tanh(x)


def ours(plan: pf.Plan, x0: Tensor, result: Result, set_up: bool) -> Callable[[], Callable[[], float]]:
    """Seconds outside the network in one run of the plan."""

    def prepare() -> Callable[[], float]:
        prepared = None if set_up else pf.Executor(plan, x0)

        def run() -> float:
            outside, begin = 0.0, time.perf_counter()
            executor = prepared or pf.Executor(plan, x0)
            for request in executor:
                outside += time.perf_counter() - begin
                output = network(request.input)
                begin = time.perf_counter()
                executor.supply((output,))
            outside += time.perf_counter() - begin
            result.x = executor.result
            return outside

        return run

    return prepare


def theirs(scheduler: object, x0: Tensor, result: Result, set_up: bool) -> Callable[[], Callable[[], float]]:
    """The same for the loop of a pipeline; a fresh copy of the scheduler each time, since it counts its own steps."""

    def prepare() -> Callable[[], float]:
        fresh = copy.deepcopy(scheduler)

        def run() -> float:
            x, outside, begin = x0, 0.0, time.perf_counter()
            if set_up:
                fresh.set_timesteps(STEPS)
            outside += time.perf_counter() - begin
            for t in fresh.timesteps:
                output = network(x)
                begin = time.perf_counter()
                x = fresh.step(output, t, x, return_dict=False)[0]
                outside += time.perf_counter() - begin
            result.x = x
            return outside

        return run

    return prepare


def flow(kind: str) -> tuple[object, pf.Plan]:
    """Diffusers' flow-matching scheduler, and our plan on its own grid."""
    import diffusers

    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")()
    scheduler.set_timesteps(STEPS)
    sigmas = list(dict.fromkeys(scheduler.sigmas.double().tolist()))  # Heun's lists each inner level twice
    model = pf.models.adapt(torch.nn.Identity(), pf.models.prediction("velocity", "linear", sign=-1))
    last = "denoise" if kind == "Heun" else "auto"
    return scheduler, pf.make_plan(model, solver=kind.lower(), grid=[1 - s for s in sigmas], last_step=last)


def diffusion(kind: str, solver: pf.solvers.FixedGridSolver, **options: object) -> tuple[object, pf.Plan]:
    """A scheduler of diffusers for noise predictions, and our plan on its own timesteps."""
    import diffusers

    scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    scheduler.set_timesteps(STEPS)
    model = pf.models.adapt(torch.nn.Identity(), read_scheduler(scheduler))
    path = model.interpolant
    end = path.time_of_index(0) if kind == "DEISMultistep" else 1.0  # theirs ends at the lowest level, not at data
    grid = [*(path.time_of_index(int(i)) for i in scheduler.timesteps), end]
    return scheduler, pf.make_plan(model, solver=solver, grid=grid)


def fitted(memory: int) -> tuple[FittedMultistep, pf.Plan]:
    """A formula of up to so many outputs, as a fit would return it, with coefficients of no meaning, and its plan."""
    grid = tuple(k / STEPS for k in range(STEPS + 1))
    rows = [[1.5 / STEPS, *[-0.5 / STEPS / (j + 1) for j in range(n)]][:memory] for n in range(STEPS)]
    scales = tuple(1 + 0.01 * (-1) ** n for n in range(STEPS))
    formula = FittedMultistep(grid, tuple(map(tuple, rows)), pf.models.Linear(), scales)
    model = pf.models.adapt(torch.nn.Identity(), pf.models.prediction("velocity", "linear"))
    return formula, pf.make_plan(model, solver=formula)


def by_hand(formula: FittedMultistep, x: Tensor) -> Tensor:
    """The run of a formula, written out."""
    past: list[Tensor] = []
    for scale, row in zip(formula.scales, formula.weights, strict=True):
        past.insert(0, network(x))
        x = scale * x + sum(w * v for w, v in zip(row, past, strict=False))
    return x


def benchmark(bench: Benchmark) -> None:
    """One row for each algorithm and shape."""
    solver = pf.solvers.solver
    pairs = {
        "euler": flow("Euler"),
        "heun": flow("Heun"),
        "ddim": diffusion("DDIM", solver("ddim"), clip_sample=False),
        "dpmpp_2m": diffusion("DPMSolverMultistep", solver("dpmpp_2m")),
        "deis2": diffusion("DEISMultistep", solver("deis_tab1", clock="lambda")),
        "unipc2": diffusion("UniPCMultistep", solver("unipc")),
    }
    for name, (scheduler, plan) in pairs.items():
        for shape in SHAPES[1::2] if bench.quick else SHAPES:
            x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            case, mine, peer = f"{name} {'x'.join(map(str, shape))} float32", Result(), Result()
            for set_up in (False, True)[: 2 if shape == SHAPES[1] else 1]:
                case += " with set-up" if set_up else ""
                if not bench.wants(case):
                    continue
                bench.compare(
                    case, "diffusers", ours(plan, x0, mine, set_up), theirs(scheduler, x0, peer, set_up), repeats=STEPS
                )
                torch.testing.assert_close(mine.x, peer.x, rtol=1e-4, atol=1e-4)
    two_step = pairs["dpmpp_2m"][1]
    for memory in (2, MOST):
        formula, plan = fitted(memory)
        for shape in SHAPES[1::2] if bench.quick else SHAPES:
            x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            case, mine, peer = f"fitted, {memory} outputs {'x'.join(map(str, shape))} float32", Result(), Result()
            if not bench.wants(case):
                continue
            others = ours(two_step, x0, peer, False)
            bench.compare(case, "our dpmpp_2m", ours(plan, x0, mine, False), others, repeats=STEPS)
            torch.testing.assert_close(mine.x, by_hand(formula, x0), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main(benchmark, __doc__)
