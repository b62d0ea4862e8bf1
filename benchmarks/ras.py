"""Is a transformer faster if most steps see half of its tokens, and are its samples as good?

Region-adaptive sampling (Liu et al. 2025) against the same network, solver and grid with all tokens: 28 Euler steps, of
which the first four and two resets are dense. Ratios are of the partial steps; `average` is over the run. A row of the
table is one batch; `frechet` is the distance of 1,000 samples to training digits in the features of a classifier that
the network has not met, beside that of the dense run on the same noise (`dense_frechet`). The paper has speed-ups of
2.36 (SD3) and 2.51 (Lumina-Next), of networks of 4096 tokens on a GPU.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from _harness import Benchmark, main

import pushforward as pf
from pushforward.models import Model, bundled
from pushforward.models.regional import RegionAdaptive, RegionSchedule
from pushforward.models.training import metrics
from pushforward.models.training.digits import load_digits28

STEPS, WARMUP, RESETS, TOKENS = 28, 4, (12, 20), 49
PAPER = {"paper_sd3": 2.36, "paper_lumina": 2.51}


def around(model: Model, ratio: float, selector: str) -> RegionAdaptive:
    """The model with this share of its tokens in partial steps."""
    schedule = RegionSchedule(ratio, warmup=WARMUP, resets=RESETS)
    return RegionAdaptive.around(model, schedule=schedule, selector=selector)


def draw(model: Model, ids: torch.Tensor, guidance: float = 1.0, steps: int = STEPS) -> torch.Tensor:
    """Samples ``ids``, class by class."""
    condition = {"label": ids % 10}
    shape = (len(ids), 1, 28, 28)
    return pf.sample(model, shape, solver="euler", steps=steps, guidance=guidance, samples=ids, condition=condition)


@lru_cache
def digits(count: int) -> torch.Tensor:
    """Features of as many training digits, class-balanced."""
    train = load_digits28()[0]
    rows = torch.cat([(train.labels == c).nonzero()[: count // 10, 0] for c in range(10)])
    return bundled.load("digits28-classifier-b").features(train.images[rows])


def frechet(model: Model, count: int, guidance: float, steps: int = STEPS) -> float:
    """Of ``count`` samples."""
    judge = bundled.load("digits28-classifier-b")
    images = torch.cat([draw(model, ids, guidance, steps).clamp(-1, 1) for ids in torch.arange(count).split(100)])
    return metrics.frechet_distance(judge.features(images), digits(count))


def benchmark(bench: Benchmark) -> None:
    """Ratios, selectors, batches and guidance."""
    model, count = pf.models.load("digits28-dit"), 640 if bench.quick else 1000
    kept: dict[tuple[object, ...], float] = {}

    def quality(key: tuple[object, ...], fast: Model, guidance: float, steps: int = STEPS) -> float:
        if key not in kept:
            kept[key] = frechet(fast, count, guidance, steps)
        return kept[key]

    cases = [(0.5, "change", 64, 1.0), (0.36, "drift", 64, 1.0)]
    if not bench.quick:
        cases += [(0.5, "drift", 64, 1.0), (0.36, "change", 64, 1.0), (0.25, "drift", 64, 1.0)]
        cases += [(0.5, "random", 64, 1.0), (0.5, "std", 64, 1.0), (0.5, "drift", 16, 1.0), (0.5, "drift", 64, 2.0)]
    for ratio, selector, batch, guidance in cases:
        case = f"ras {ratio:g} {selector} {batch}x49 tokens guidance {guidance:g}"
        if not bench.wants(case):
            continue
        fast, ids = around(model, ratio, selector), torch.arange(batch)
        dense = quality(("dense", guidance), model, guidance)
        found = quality((ratio, selector, guidance), fast, guidance)
        average = fast.schedule.average(STEPS, TOKENS)
        bench.compare(
            case,
            "all tokens",
            lambda fast=fast, ids=ids, w=guidance: lambda: draw(fast, ids, w),
            lambda ids=ids, w=guidance: lambda: draw(model, ids, w),
            average=average,
            frechet=found,
            dense_frechet=dense,
            frechet_ratio=found / dense,
            **PAPER,
        )
        row = bench.rows[-1]
        print(
            f"{case}: {row['ratio']:.2f} times as fast ({1 / average:.2f} at no cost), Frechet {found:.3f}/{dense:.3f}"
        )
    case = "ras 0.5 drift against as many evaluations"
    if bench.wants(case) and not bench.quick:
        steps, fast, ids = 17, around(model, 0.5, "drift"), torch.arange(64)
        bench.compare(
            case,
            f"all tokens, {steps} steps",
            lambda: lambda: draw(fast, ids),
            lambda: lambda: draw(model, ids, steps=steps),
            frechet=quality((0.5, "drift", 1.0), fast, 1.0),
            dense_frechet=quality(("fewer",), model, 1.0, steps),
        )


if __name__ == "__main__":
    main(benchmark, __doc__)
