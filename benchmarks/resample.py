"""What does a resampling step cost, from log-weights to ancestors?

One population of 10^6 float32 log-weights (and smaller ones): ancestors, normalised weights, effective sample size and
mean. Against `torch.multinomial` on weights that are normalised already, torch's own operations for systematic
resampling, and the package `particles`, which gets float64 log-weights as it works in them.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import torch
from _harness import Benchmark, main, repeated
from torch import Tensor

from pushforward.kernels import PURPOSE_RESAMPLING, RESAMPLING_SCHEMES, Draw, backend, resample

DRAW = Draw(PURPOSE_RESAMPLING, 0)


def torch_systematic(log_weights: Tensor) -> Tensor:
    """Systematic resampling as a user writes it: cumulative sum and binary search."""
    rows, particles = log_weights.shape
    cumulative = log_weights.double().softmax(1).cumsum(1)
    places = (torch.arange(particles) + torch.rand(rows, 1, dtype=torch.float64)) / particles
    return torch.searchsorted(cumulative, places, right=True).clamp(max=particles - 1)


def particles_ancestors(scheme: Any, log_weights: Any) -> None:
    """Resampling of each row by the package, from log-weights."""
    from particles import resampling

    for row in log_weights:
        scheme(resampling.exp_and_normalise(row))


def check(log_weights: Tensor, scheme: str) -> None:
    """Equal to the reference, and close to the expected numbers of children."""
    result = resample(log_weights, scheme, seed=0, draw=DRAW)
    with backend("reference"):
        expected = resample(log_weights, scheme, seed=0, draw=DRAW)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    if scheme in ("systematic", "ssp"):
        children = torch.zeros(log_weights.shape).scatter_add(1, result.ancestors, torch.ones(result.ancestors.shape))
        assert ((children - log_weights.shape[1] * log_weights.double().softmax(1)).abs() < 1 + 1e-6).all()


def rows(bench: Benchmark, populations: int, particles: int) -> None:
    """Every scheme at one size."""
    cases = {scheme: f"resample {scheme} {populations}x{particles} float32" for scheme in RESAMPLING_SCHEMES}
    if not bench.wants(*cases.values()):
        return
    generator = torch.Generator().manual_seed(particles)
    log_weights = torch.randn(populations, particles, generator=generator)
    loops = max(1, min(200, 2**16 // (populations * particles)))
    weights = log_weights.softmax(1)
    double = log_weights.double().numpy()
    for scheme, case in cases.items():
        if not bench.wants(case):
            continue
        check(log_weights, scheme)
        ours = repeated(lambda s=scheme: resample(log_weights, s, seed=0, draw=DRAW), loops)
        draw = repeated(lambda: torch.multinomial(weights, particles, replacement=True), loops)
        bench.compare(case, "torch.multinomial", ours, draw, repeats=loops)
        if scheme == "systematic":
            search = repeated(lambda: torch_systematic(log_weights), loops)
            bench.compare(case, "torch cumsum + searchsorted", ours, search, repeats=loops)
        if importlib.util.find_spec("particles") is None:
            bench.skip("particles: the package is not installed")
            continue
        from particles import resampling

        function = partial(particles_ancestors, getattr(resampling, scheme), double)
        bench.compare(case, "particles", ours, repeated(function, loops), repeats=loops)


def benchmark(bench: Benchmark) -> None:
    """The acceptance size, a small population, and many."""
    sizes = ((1, 10**6), (1, 64)) if bench.quick else ((1, 10**6), (1, 10**4), (1, 64), (64, 1024))
    for populations, particles in sizes:
        rows(bench, populations, particles)


if __name__ == "__main__":
    main(benchmark, __doc__)
