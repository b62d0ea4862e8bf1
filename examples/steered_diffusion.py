"""Steered diffusion: an unconditional model that completes pictures, and draws a class, without having learned to.

Inpainting projects clean estimates onto the known pixels, at no cost. A loss of a classifier at the clean estimate
steers what is drawn, at one backward pass an evaluation. Another classifier, which steered nothing, judges.
"""

from __future__ import annotations

import argparse

import torch

import pushforward as pf
from pushforward.models import ClassLogLikelihood, KnownPixels, SteeringLoss, Window, steered


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few samples and steps")
    quick = parser.parse_args().quick
    count, steps = (10, 4) if quick else (100, 50)

    steering, judge = (pf.models.bundled.load(f"digits28-classifier-{which}") for which in "ab")
    model, null = pf.models.load("digits28-small"), {"label": torch.tensor([10])}
    labels = torch.arange(10).repeat(count // 10)
    options = {"solver": pf.solver("ddim", eta=1.0), "steps": steps, "condition": null}

    whole = pf.sample(model, (count, 1, 28, 28), solver="heun", steps=10, condition={"label": labels}, seed=1)
    known = torch.zeros(1, 1, 28, 28, dtype=torch.bool)
    known[..., :14, :] = True
    loss = ClassLogLikelihood(steering, prepare=lambda x: x.clamp(-1, 1))
    wanted = SteeringLoss(
        lambda d, t, label: -loss(d, t, label), 30.0, Window(0.0, 4.0, "noise_ratio"), given={"label": labels}
    )
    runs = {
        "unconditional": (model, None),
        "upper half known": (model, KnownPixels(known, whole)),
        "class steered": (steered(model, wanted), None),
        "both": (steered(model, wanted), KnownPixels(known, whole)),
    }
    for name, (network, transform) in runs.items():
        digits = pf.sample(network, (count, 1, 28, 28), transform=transform, **options)
        agreement = (judge(digits.clamp(-1, 1)).argmax(1) == labels).float().mean().item()
        off = (digits - whole)[:, known[0]].abs().max().item() if transform else float("nan")
        print(f"{name:17}  judged to be the label {agreement:6.1%}   largest change of a known pixel {off:.0e}")
    real = (judge(whole.clamp(-1, 1)).argmax(1) == labels).float().mean().item()
    print(f"the conditional model, for comparison: {real:.1%}")
    print(
        "the paper: an unconditional model follows known pixels and networks' losses together, without being retrained"
    )


if __name__ == "__main__":
    main()
