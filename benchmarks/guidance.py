"""What does guidance cost a step, outside the network, against the same step without, and against a loop in torch?

Guidance whose weights are known beforehand is part of the plan: a step of Euler reads one tensor more. The peers are
our own unguided plan, and ``u + w * (c - u)`` followed by diffusers' scheduler. Rules of inner products are compared
with the functions of diffusers. Networks are one elementwise function each; the clock is stopped while they work.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

import pushforward as pf
from pushforward.models import APG, Rescale, guided

STEPS, WEIGHT = 20, 4.0
SHAPES = [(1, 4, 64, 64), (1, 16, 128, 128), (8, 16, 128, 128)]


class Result:
    """Where a run leaves its sample, to be compared."""

    x: Tensor


def outputs(x: Tensor, branches: int) -> Sequence[Tensor]:
    """Stand for a network's branches: new tensors for each call, rows of one."""
    return torch.tanh(torch.cat([x, x / 2][:branches])).split(len(x))


def in_plan(plan: pf.Plan, x0: Tensor, result: Result, branches: int) -> Callable[[], Callable[[], float]]:
    """Seconds outside the network in one run of a prepared plan."""

    def prepare() -> Callable[[], float]:
        executor = pf.Executor(plan, x0)

        def run() -> float:
            outside, begin = 0.0, time.perf_counter()
            for request in executor:
                outside += time.perf_counter() - begin
                output = outputs(request.input, branches)
                begin = time.perf_counter()
                executor.supply(output)
            result.x = executor.result
            return outside + time.perf_counter() - begin

        return run

    return prepare


def in_torch(scheduler: object, x0: Tensor, result: Result) -> Callable[[], Callable[[], float]]:
    """The same for a pipeline's loop."""

    def prepare() -> Callable[[], float]:
        fresh = copy.deepcopy(scheduler)

        def run() -> float:
            x, outside = x0, 0.0
            for t in fresh.timesteps:
                c, u = outputs(x, 2)
                begin = time.perf_counter()
                x = fresh.step(u + WEIGHT * (c - u), t, x, return_dict=False)[0]
                outside += time.perf_counter() - begin
            result.x = x
            return outside

        return run

    return prepare


def plans(bench: Benchmark) -> None:
    """Guidance in the plan: against no guidance, and against diffusers."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    grid = [1 - sigma for sigma in scheduler.sigmas.double().tolist()]
    model = pf.models.adapt(torch.nn.Identity(), pf.models.prediction("velocity", "linear", sign=-1))
    with_two, with_one = (pf.make_plan(model, solver="euler", grid=grid, guidance=w) for w in (WEIGHT, 1.0))
    for shape in SHAPES[1:2] if bench.quick else SHAPES:
        x0, size = torch.randn(shape, generator=torch.Generator().manual_seed(0)), "x".join(map(str, shape))
        mine, peer = Result(), Result()
        ours = in_plan(with_two, x0, mine, 2)
        more = {"passes": with_two.cost(shape).passes - with_one.cost(shape).passes}
        case = f"guidance in the plan, euler {size} float32"
        bench.compare(case, "no guidance", ours, in_plan(with_one, x0, peer, 1), repeats=STEPS, **more)
        bench.compare(case, "diffusers", ours, in_torch(scheduler, x0, peer), repeats=STEPS)
        if bench.wants(case):
            torch.testing.assert_close(mine.x, peer.x, rtol=1e-4, atol=1e-4)


def rules(bench: Benchmark) -> None:
    """Rules of inner products: an evaluation of two outputs that are there already."""
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    def rescaled(c: Tensor, u: Tensor) -> Tensor:
        return rescale_noise_cfg(u + WEIGHT * (c - u), c, 0.7)

    def projected(c: Tensor, u: Tensor) -> Tensor:
        return normalized_guidance(c, u, WEIGHT - 1, None, 0.0, 15.0, use_original_formulation=True)

    pairs = {
        "rescale": (Rescale(0.7), rescaled),
        "apg": (APG(eta=0.0, cap=15.0), projected),
    }
    for name, (rule, theirs) in pairs.items():
        for shape in SHAPES[1:2] if bench.quick else SHAPES:
            c, u, x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).unbind()
            condition, null = {"y": c}, {"y": u}
            model = pf.models.adapt(lambda x, t, y: y, "denoised", null=null, sequential=True)
            bound = guided(model, WEIGHT, rule).bind(condition)
            case = f"{name} {'x'.join(map(str, shape))} float32"
            bench.compare(
                case,
                "diffusers",
                repeated(lambda b=bound, x=x: b.evaluate(x, 0.5), 10),
                repeated(lambda c=c, u=u, f=theirs: f(c, u), 10),
                repeats=10,
            )
            if bench.wants(case):
                torch.testing.assert_close(bound.evaluate(x, 0.5)[0], theirs(c, u), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def benchmark(bench: Benchmark) -> None:
    """Both parts."""
    plans(bench)
    rules(bench)


if __name__ == "__main__":
    main(benchmark, __doc__)
