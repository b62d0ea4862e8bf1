"""Plug-and-play guidance by noise experts (PPAP): five small adapters against one, and what each is worth as a guide.

The classifier was trained on clean digits. Without data or labels, adapters learn to say of noisy pictures what it says
of clean ones: five for a fifth of the noise levels each, or one for all, with as many updates in total. Experts go on
from the adapters of the cleaner range, as in the authors' code. Each then guides the unconditional model, and another
classifier judges.
"""

from __future__ import annotations

import argparse

import torch

import pushforward as pf
from pushforward.models import ClassLogLikelihood, GradientGuidance, NoiseExperts
from pushforward.models.training.low_rank import adapter_state, merged
from pushforward.models.training.train_experts import mean_divergence, train_experts, transfer_set


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few seconds: too few updates to mean anything")
    quick = parser.parse_args().quick
    pictures, updates, drawn, steps = (50, 10, 10, 3) if quick else (1000, 3000, 200, 25)

    teacher, judge = (pf.models.bundled.load(f"digits28-classifier-{which}") for which in "ab")
    shown, held_out = transfer_set(pictures), transfer_set(max(pictures // 5, 20), seed=1)
    guides = {"clean": NoiseExperts([teacher], [])}
    for count in (1, 5):
        trained = train_experts(teacher, shown, count, updates=updates, batch=32, rate=4e-3, inherit=True)
        guides[f"{count} adapter" + "s" * (count > 1)] = NoiseExperts.equal([merged(net) for net in trained])
    numbers = sum(value.numel() for value in adapter_state(trained[0]).values())
    print(f"an adapter trains {numbers} numbers beside a network of {sum(p.numel() for p in teacher.parameters())}")

    model = pf.models.load("digits28-small")
    labels = torch.arange(10).repeat(drawn // 10)
    null = {"label": torch.tensor([10])}
    for name, experts in guides.items():
        guided = GradientGuidance.around(
            model,
            log_likelihood=ClassLogLikelihood(experts),
            scale=7.5,
            kind="state",
            observed={"label": labels},
        )
        digits = pf.sample(guided, (drawn, 1, 28, 28), solver="ddim", steps=steps, condition=null)
        agreement = (judge(digits.clamp(-1, 1)).argmax(1) == labels).float().mean().item()
        far = mean_divergence(experts, teacher, held_out)
        print(f"{name:10}  divergence from the clean network {far:6.3f}   judged to be the label {agreement:6.1%}")
    print("the paper: experts guide better than one noise-aware network, and that better than the clean network")


if __name__ == "__main__":
    main()
