"""What does a solver cost a step, outside the network, against diffusers' scheduler for the same algorithm?

The network is replaced by a function that returns a fixed tensor, so everything measured is overhead. Ours is one run
of a prepared executor over all steps; theirs is ``scheduler.step`` for the same steps after ``set_timesteps``, which
is not timed. Both end at the same sample, which is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from _harness import Benchmark, main

import pushforward as pf

STEPS = 20
SHAPES = [(1, 4, 32, 32), (1, 4, 64, 64), (1, 16, 128, 128), (8, 16, 128, 128)]


def fixed(output: torch.Tensor) -> Callable[..., tuple[torch.Tensor]]:
    """A network without a cost."""
    outputs = (output,)
    return lambda x, t, branches: outputs


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

        def run() -> torch.Tensor:
            x = x0
            for t in fresh.timesteps:
                x = fresh.step(output, t, x, return_dict=False)[0]
            return x

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


def ddim() -> tuple[object, pf.Plan]:
    """Diffusers' DDIM, and our plan on its own timesteps."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    path = pf.models.interpolant_from_scheduler(scheduler.config)
    model = pf.models.adapt(torch.nn.Identity(), pf.models.prediction("noise", path))
    grid = [path.time_of_index(int(i)) for i in scheduler.timesteps] + [1.0]
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
            bench.compare(f"{name} {'x'.join(map(str, shape))} float32", "diffusers", mine, peer, repeats=STEPS)


if __name__ == "__main__":
    main(benchmark, __doc__)
