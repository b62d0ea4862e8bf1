"""What does a solver cost a step, outside the network, against diffusers' scheduler for the same algorithm?

The network is replaced by a function that returns a fixed tensor, so everything measured is overhead. Ours is one run
of a prepared executor over all steps; theirs is ``scheduler.step`` for the same steps after ``set_timesteps``, which
is not timed. Both end at the same sample, which is checked. Rows "with set-up" time that too: binding the plan to its
buffers, and ``set_timesteps``; all times are for one step.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from _harness import Benchmark, main

import pushforward as pf
from pushforward.models.diffusers import read_scheduler

STEPS = 20
SHAPES = [(1, 4, 32, 32), (1, 4, 64, 64), (1, 16, 128, 128), (8, 16, 128, 128)]


def fixed(output: torch.Tensor) -> Callable[..., tuple[torch.Tensor]]:
    """A network without a cost; two copies in turn, as a real one returns a new tensor while the last is in use."""
    answers = itertools.cycle([(output,), (output.clone(),)])
    return lambda x, t, branches: next(answers)


def ours(plan: pf.Plan, x0: torch.Tensor, output: torch.Tensor) -> Callable[[], Callable[[], torch.Tensor]]:
    """Prepares a run; what it returns is timed."""

    def prepare() -> Callable[[], torch.Tensor]:
        run, network = pf.Executor(plan, x0), fixed(output)
        return lambda: run.run(network)

    return prepare


def theirs(scheduler: object, x0: torch.Tensor, output: torch.Tensor) -> Callable[[], Callable[[], torch.Tensor]]:
    """A fresh copy of the scheduler, since it counts its own steps; the loop over its timesteps is timed."""

    def prepare() -> Callable[[], torch.Tensor]:
        fresh = copy.deepcopy(scheduler)
        return lambda: loop(fresh, x0, output)

    return prepare


def loop(scheduler: object, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """What a pipeline does with a scheduler."""
    for t in scheduler.timesteps:
        x = scheduler.step(output, t, x, return_dict=False)[0]
    return x


def whole_run(plan: pf.Plan, scheduler: object, x0: torch.Tensor, output: torch.Tensor) -> tuple[Callable, Callable]:
    """Both with what comes before the first step: binding the plan, and ``set_timesteps``."""

    def mine() -> Callable[[], torch.Tensor]:
        return lambda: pf.Executor(plan, x0).run(fixed(output))

    def peer() -> Callable[[], torch.Tensor]:
        fresh = copy.deepcopy(scheduler)

        def run() -> torch.Tensor:
            fresh.set_timesteps(STEPS)
            return loop(fresh, x0, output)

        return run

    return mine, peer


def flow(kind: str) -> tuple[object, pf.Plan]:
    """Diffusers' flow-matching scheduler, and our plan on its own grid."""
    import diffusers

    scheduler = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")()
    scheduler.set_timesteps(STEPS)
    sigmas = list(dict.fromkeys(scheduler.sigmas.double().tolist()))  # Heun's lists each inner level twice
    model = pf.models.adapt(torch.nn.Identity(), pf.models.prediction("velocity", "linear", sign=-1))
    last = "denoise" if kind == "Heun" else "auto"
    return scheduler, pf.make_plan(model, solver=kind.lower(), grid=[1 - s for s in sigmas], last_step=last)


def ddim() -> tuple[object, pf.Plan]:
    """Diffusers' DDIM, and our plan on its own timesteps."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    model = pf.models.adapt(torch.nn.Identity(), read_scheduler(scheduler))
    grid = [model.interpolant.time_of_index(int(i)) for i in scheduler.timesteps] + [1.0]
    return scheduler, pf.make_plan(model, solver="ddim", grid=grid)


def benchmark(bench: Benchmark) -> None:
    """One row for each algorithm and shape."""
    for name, pair in (("euler", flow("Euler")), ("heun", flow("Heun")), ("ddim", ddim())):
        scheduler, plan = pair
        for shape in SHAPES:
            generator = torch.Generator().manual_seed(0)
            x0, output = (torch.randn(shape, generator=generator) for _ in range(2))
            mine, peer = ours(plan, x0, output), theirs(scheduler, x0, output)
            torch.testing.assert_close(mine()(), peer()(), rtol=1e-4, atol=1e-4)
            case = f"{name} {'x'.join(map(str, shape))} float32"
            bench.compare(case, "diffusers", mine, peer, repeats=STEPS)
            if shape == SHAPES[1]:
                bench.compare(
                    f"{case} with set-up", "diffusers", *whole_run(plan, scheduler, x0, output), repeats=STEPS
                )


if __name__ == "__main__":
    main(benchmark, __doc__)
