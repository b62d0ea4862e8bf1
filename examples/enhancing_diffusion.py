"""DDPM, DDIM, guidance, schedules and latents, assembled and scored.

Shah, Gromis & Pinto 2024 (Enhancing Diffusion Models for High-Quality Image Generation) put these parts together on
CIFAR-10 and ImageNet-100 and find DDIM with classifier-free guidance fastest and best, other schedules and the latent
space fragile. Here the network is the bundled small one, a schedule is a path that the solver works on, and a sample
counts if classifier B, which neither has met, sees the digit that was asked for.
"""

from __future__ import annotations

import argparse

import torch

import pushforward as pf
from pushforward.models.training.metrics import class_agreement

RUNS = (("ddpm", 1.0), ("ddim", 1.0), ("ddim", 2.0))
SCHEDULES = ("vp", "cosine", "linear")  # linear betas 1e-4 .. 0.02 in continuous time, the cosine schedule, a line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples and steps: a look, not a measurement")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--limit", action="store_true", help="DDPM and DDIM in 1,000 steps: ten minutes")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.quick else 2)
    samples, steps = (10, 3) if options.quick else (options.samples, 1000 if options.limit else 20)
    runs, schedules = (RUNS[:2], SCHEDULES[:1]) if options.limit else (RUNS, SCHEDULES)
    labels = torch.arange(samples) % 10
    judge = pf.models.bundled.load("digits28-classifier-b")
    model = pf.models.load("digits28-small")

    print(f"share of {samples} samples in {steps} steps that show their label; the paper: DDIM+CFG > DDIM > DDPM")
    print("schedule   " + "   ".join(f"{solver}, w = {w:g}" for solver, w in runs))
    for schedule in schedules[:1] if options.quick else schedules:
        row = []
        for solver, weight in runs:
            images = pf.sample(model, (samples, 1, 28, 28), solver=solver, steps=steps, path=schedule, guidance=weight,
                               last_step="denoise", condition={"label": labels}, seed=1)  # fmt: skip
            with torch.no_grad():
                row.append(class_agreement(judge(images.clamp(-1, 1)), labels))
        print(f"{schedule:9}  " + "   ".join(f"{share.value:6.1%} ±{share.error:4.1%}" for share in row))


if __name__ == "__main__":
    main()
