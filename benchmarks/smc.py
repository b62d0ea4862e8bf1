"""What does a particle filter of a million particles cost, from noise to weighted samples?

Gaussian data in the plane, 20 steps of Euler-Maruyama, the reward a coordinate, a closed-form network in float32:
`pushforward.search` with the method "smc" against the loop that one writes in torch (`torch.randn`, softmax,
`torch.multinomial`, indexing), with the same network and the same reward. Once with resampling at every step, and once
where the effective sample size falls below half, which it does once. The estimates of the evidence must agree with the
exact one. The peak memory is that of a process that does nothing else, torch itself included; it is in the JSON file,
in bytes.
"""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _harness import Benchmark, main
from torch import Tensor

import pushforward as pf
from pushforward import models, solvers
from pushforward.solvers.search import SMC

STEPS, STRENGTH, MEAN, VARIANCE = 20, 3.0, 1.5, 0.25
MEMORY = """
import resource, sys, torch
sys.path.insert(0, sys.argv[1])
import smc
torch.set_num_threads(2)
with torch.no_grad():
    smc.RUNS[sys.argv[2]](int(sys.argv[3]), float(sys.argv[4]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def network(x: Tensor, t: Tensor) -> Tensor:
    """The clean estimate of N(1.5, 0.25) in both coordinates, on the linear path."""
    time = float(t)
    gain = time * VARIANCE / (time * time * VARIANCE + (1 - time) ** 2)
    return x * gain + MEAN * (1 - gain * time)


def reward(x: Tensor, context: Any) -> Tensor:
    """The second coordinate."""
    del context
    return x[:, 1]


def ours(particles: int, threshold: float) -> float:
    """The library's run; returns log Zhat."""
    model = models.adapt(network, "denoised", "linear", time_shape="scalar")
    method = SMC(particles=particles, strength=STRENGTH, threshold=threshold)
    result = pf.search(model, reward, particles * STEPS, shape=(1, 2), method=method, steps=STEPS)
    assert result.log_evidence is not None
    return float(result.log_evidence)


def coefficients() -> list[tuple[float, float, float, float]]:
    """Time, weights of state and clean estimate, and noise of every step."""
    model = models.adapt(network, "denoised", "linear", time_shape="scalar")
    grid = [k / STEPS for k in range(STEPS + 1)]
    plan = solvers.plan(SMC.solver, grid, model.interpolant, prediction=model.prediction).lower(model.prediction)
    steps = solvers.particles.Transitions.of(plan, model.prediction)
    return [(step.time, *step.weights, step.noise) for step in steps]


def eager(particles: int, threshold: float) -> float:
    """The same in torch, operation by operation; returns log Zhat."""
    x, last, log_evidence = torch.randn(particles, 2), torch.zeros(particles), 0.0
    log_weights = torch.full((particles,), -math.log(particles))
    for time, keep, pull, noise in coefficients():
        clean = network(x, torch.tensor(time))
        seen = STRENGTH * reward(clean, None)
        log_weights = log_weights + seen - last
        total = log_weights.logsumexp(0)
        log_evidence += float(total)
        log_weights = log_weights - total
        last = seen
        weights = log_weights.softmax(0)
        if 1 / float(weights.square().sum()) < threshold * particles or threshold == 1:
            ancestors = torch.multinomial(weights, particles, replacement=True)
            x, clean, last = x[ancestors], clean[ancestors], last[ancestors]
            log_weights = torch.full((particles,), -math.log(particles))
        x = keep * x + pull * clean + noise * torch.randn_like(x)
    log_weights = log_weights + STRENGTH * reward(x, None) - last
    return log_evidence + float(log_weights.logsumexp(0))


RUNS = {"ours": ours, "eager": eager}


def exact() -> float:
    """Exact log Z of the chain that both sample: its states are Gaussian, with moments that the steps hand on."""
    mean, variance = 0.0, 1.0
    for time, keep, pull, noise in coefficients():
        offset = float(network(torch.zeros(1, dtype=torch.float64), torch.tensor(time, dtype=torch.float64)))
        gain = float(network(torch.ones(1, dtype=torch.float64), torch.tensor(time, dtype=torch.float64))) - offset
        mean, variance = (keep + pull * gain) * mean + pull * offset, (keep + pull * gain) ** 2 * variance + noise**2
    return STRENGTH * mean + STRENGTH**2 * variance / 2


def peak(which: str, particles: int, threshold: float) -> int:
    """Bytes that a process which only does this has in memory at most."""
    arguments = [sys.executable, "-c", MEMORY, str(Path(__file__).parent), which, str(particles), str(threshold)]
    return int(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()[-1])


def benchmark(bench: Benchmark) -> None:
    """The acceptance size, and a smaller one."""
    for particles in (10**6,) if bench.quick else (10**6, 10**4):
        for threshold, name in ((1.0, "resampled at every step"), (0.5, "resampled below half")):
            case = f"smc {particles}x2, {STEPS} steps, {name}"
            if not bench.wants(case):
                continue
            runs = [partial(run, particles, threshold) for run in (ours, eager)]
            for run in runs:  # the relative variance of Zhat is below 20 / N
                assert abs(run() - exact()) < 5 * math.sqrt(20 / particles), "log Zhat"
            peaks = {f"peak_{which}": peak(which, particles, threshold) for which in RUNS}
            assert peaks["peak_ours"] < 2e9, "memory"
            bench.compare(case, "torch eager", *(partial(prepared, run) for run in runs), **peaks)


def prepared(run: Any) -> Any:
    """A run whose result does not count as seconds."""
    return lambda: [run()]


if __name__ == "__main__":
    main(benchmark, __doc__)
