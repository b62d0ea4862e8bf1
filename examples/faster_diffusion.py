"""Faster Diffusion (Li et al. 2023): the encoder of a UNet runs at some steps, its features serve the others.

Draws digits in 50 DDIM steps with the encoder at nine or thirteen of them: with the paper's keys and even ones, held
as in the paper, or extrapolated in time. All cases take turns on every batch, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import time

import torch

import pushforward as pf
from pushforward.models import bundled, reuse
from pushforward.models.training import metrics
from pushforward.models.training.digits import load_digits28

STEPS = 50
PAPER = reuse.Static(reuse.FASTER_DIFFUSION_KEYS)
EVEN = reuse.Interval(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small network and few samples, no Frechet distance")
    quick = parser.parse_args().quick
    count, batch = (10, 10) if quick else (640, 16)
    base = pf.models.load("digits28-small" if quick else "digits28-base")
    labels = torch.arange(10).repeat(count // 10)
    plan = pf.make_plan(base, solver="ddim", steps=STEPS)

    def propagated(policy: reuse.ReusePolicy, order: int) -> reuse.EncoderPropagation:
        schedule = reuse.Schedule.of(plan, policy)
        return reuse.EncoderPropagation.around(base, schedule=schedule, order=order)

    cases = {
        "every step": (base, STEPS),
        "paper's keys, held": (propagated(PAPER, 0), STEPS),
        "every fourth, extrapolated": (propagated(EVEN, 2), STEPS),
        "13 steps, every one": (base, 13),
    }
    seconds, samples = dict.fromkeys(cases, 0.0), {name: [] for name in cases}
    exact = []
    for ids in torch.arange(count).split(batch):
        run = {"solver": "ddim", "seed": 2024, "samples": ids, "condition": {"label": labels[ids]}}
        for name, (model, steps) in cases.items():
            begin = time.perf_counter()
            samples[name].append(pf.sample(model, (len(ids), 1, 28, 28), steps=steps, **run).clamp(-1, 1))
            seconds[name] += time.perf_counter() - begin
        if len(exact) < 4:
            run |= {"solver": "rk4"}
            exact.append(pf.sample(base, (len(ids), 1, 28, 28), steps=12 if quick else 50, **run).clamp(-1, 1))
    exact = torch.cat(exact)
    distances = {} if quick else frechet({name: torch.cat(drawn) for name, drawn in samples.items()}, count)
    print(f"{count} digits, {STEPS} DDIM steps; error: to the exact flow, root mean square")
    for name, drawn in samples.items():
        saved = 1 - seconds[name] / seconds["every step"]
        error = (torch.cat(drawn)[: len(exact)] - exact).square().mean().sqrt()
        judged = f"  Frechet distance {distances[name]:.2f}" if distances else ""
        print(f"  {name:27s} {seconds[name]:6.2f} s  saved {saved:4.0%}  error {error:.3f}{judged}")
    print("the paper: 41 % of the time saved (Stable Diffusion, 50 DDIM steps, its keys, held) at equal FID")


def frechet(samples: dict[str, torch.Tensor], count: int) -> dict[str, float]:
    """Distance to real digits in the features of a classifier that no training has seen."""
    judge = bundled.load("digits28-classifier-b")
    images = load_digits28()[0].images
    real = judge.features(images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))][:count])
    return {name: metrics.frechet_distance(judge.features(x), real) for name, x in samples.items()}


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
