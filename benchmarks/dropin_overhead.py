"""What does the drop-in scheduler cost a pipeline, outside the network, against diffusers' scheduler it replaces?

Both run the loop of a pipeline: ``scale_model_input``, the network, ``step``. The network is one elementwise function
and the clock is stopped while it works. All that a run needs is counted but ``set_timesteps`` ("with set-up" counts
that too). Both must end at the same sample. Times are for one entry of the list of timesteps.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _harness import Benchmark, main
from torch import Tensor

STEPS = 20
SHAPES = [(1, 4, 64, 64), (8, 16, 128, 128)]
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
LEADING = {"timestep_spacing": "leading"} | STABLE
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "euler (flow)": ("FlowMatchEulerDiscrete", {"shift": 3.0}, {"solver": "euler"}),
    "euler": ("EulerDiscrete", LEADING, {"solver": "euler", "path": "edm"}),
    "ddim": ("DDIM", {"clip_sample": False} | STABLE, {"solver": "ddim"}),
    "heun (flow)": ("FlowMatchHeunDiscrete", {"shift": 3.0}, {"solver": "heun", "last_step": "denoise"}),
    "heun": ("HeunDiscrete", LEADING, {"solver": "heun", "path": "edm"}),
    "dpmpp_2m": ("DPMSolverMultistep", LEADING, {"solver": "dpmpp_2m"}),
    "unipc2": ("UniPCMultistep", LEADING, {"solver": "unipc"}),
    "lms": ("LMSDiscrete", LEADING, {"solver": "lms", "path": "edm"}),
}


def network(x: Tensor) -> Tensor:
    """Stands for a network: a new tensor for each call."""
    return torch.tanh(x)


def run(scheduler: Any, x0: Tensor, result: list[Tensor], set_up: bool) -> Callable[[], Callable[[], float]]:
    """Seconds outside the network in one run."""

    def prepare() -> Callable[[], float]:
        fresh = copy.deepcopy(scheduler)  # theirs counts its own steps
        scale = getattr(fresh, "scale_model_input", lambda x, _: x)

        def timed() -> float:
            outside, begin = 0.0, time.perf_counter()
            if set_up:
                fresh.set_timesteps(STEPS)
            outside += time.perf_counter() - begin
            x = x0 * getattr(fresh, "init_noise_sigma", 1.0)
            for t in fresh.timesteps:
                begin = time.perf_counter()
                given = scale(x, t)
                outside += time.perf_counter() - begin
                output = network(given)
                begin = time.perf_counter()
                x = fresh.step(output, t, x, return_dict=False)[0]
                outside += time.perf_counter() - begin
            result[:] = [x]
            return outside

        return timed

    return prepare


def benchmark(bench: Benchmark) -> None:
    """One row for each algorithm and shape; solvers that are not there are skipped."""
    import diffusers

    from pushforward.solvers.interop import DiffusersScheduler
    from pushforward.solvers.solver import REGISTRY

    warnings.filterwarnings("ignore", message="__array", category=DeprecationWarning)
    for name, (peer, config, options) in CASES.items():
        if options["solver"] not in REGISTRY:
            bench.skip(f"{name}: no solver {options['solver']!r}")
            continue
        theirs = getattr(diffusers, f"{peer}Scheduler")(**config)
        ours = DiffusersScheduler.from_config(theirs, **options)
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(STEPS)
        for shape in SHAPES[:1] if bench.quick else SHAPES:
            x0 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            case, mine, peers = f"{name} {'x'.join(map(str, shape))} float32", list[Tensor](), list[Tensor]()
            for set_up in (False, True) if shape == SHAPES[0] else (False,):
                case += " with set-up" if set_up else ""
                prepared = run(ours, x0, mine, set_up), run(theirs, x0, peers, set_up)
                if not bench.wants(case):
                    continue
                bench.compare(case, "diffusers", *prepared, repeats=len(ours.timesteps))
                torch.testing.assert_close(mine[0], peers[0], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    main(benchmark, __doc__)
