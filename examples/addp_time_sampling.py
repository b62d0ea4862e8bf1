"""Training times in proportion to what each step contributes, and a prompt that changes on the way.

Pang, Xu & Wang 2025 (ADDP) align diffusion models with perception by training on time steps as often as they contribute
to the result, and correct it by further prompts during sampling; they report gains for depth and segmentation, and no
constants. Here the contribution is the exact weight of each estimate in the end point of DDIM, the network is the
bundled small one, trained on for a while under each density of times, and the prompt is a label.

Printed: how the contribution is spread over the steps; errors of the clean estimate of held-out digits at five times,
each density's; and how often the second of two prompts wins, by when it is given.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

import pushforward as pf
from pushforward.models.training.contributions import contributions
from pushforward.models.training.digits import Digits, load_digits28
from pushforward.models.training.finetune import finetune
from pushforward.models.training.train_digits import RECIPES, flow_loss

RECIPE = replace(RECIPES["digits28-small"], uniform_times=0.1)
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def generated(count: int) -> Digits:
    """Digits of the bundled network: enough to see that the example runs."""
    labels = torch.arange(count) % 10
    model = pf.models.load("digits28-small")
    return Digits(pf.sample(model, (count, 1, 28, 28), solver="euler", steps=4, condition={"label": labels}), labels)


@torch.no_grad()
def errors(net: torch.nn.Module, data: Digits) -> list[float]:
    """Mean squared error of the clean estimate at each of the times."""
    x0, found = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(0)), []
    for t in TIMES:
        x = torch.lerp(x0, data.images, t)
        clean = x + (1 - t) * net(x, torch.full((len(x),), t), data.labels)
        found.append((clean - data.images).square().mean().item())
    return found


@torch.no_grad()
def second_prompt_wins(switch: float, samples: int, steps: int) -> float:
    """Share of samples that show the label given from t = ``switch`` on, not the one before."""
    first = torch.arange(samples) % 10
    second = (first + 3) % 10
    model = pf.models.load("digits28-small").with_branches(corrected={"label": second})
    timeline = pf.models.Stitch(("cond", "corrected"), (switch,))
    grid = sorted({*(k / steps for k in range(steps + 1)), switch})
    images = pf.sample(model, (samples, 1, 28, 28), solver="euler", grid=grid, guidance=timeline,
                       condition={"label": first})  # fmt: skip
    seen = pf.models.bundled.load("digits28-classifier-b")(images.clamp(-1, 1)).argmax(1)
    return (seen == second).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two steps on generated digits: a look only")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.quick else 2)
    grid = [k / 10 for k in range(11)]
    early = contributions("linear", grid[1:], "noise")
    late = contributions("linear", grid[:-1], "data")
    print("share of ten steps, by noise estimates from t = 0.1:", " ".join(f"{s:.2f}" for s in early / early.sum()))
    print("              and by clean estimates until t = 0.9:", " ".join(f"{s:.2f}" for s in late / late.sum()))

    train, test = (generated(32),) * 2 if options.quick else load_digits28()[:2]
    steps, batch = (2, 16) if options.quick else (options.steps, 64)
    net = pf.models.bundled.load("digits28-small")
    print("squared error of the clean estimate at t =", *TIMES)
    print(f"{'before':>14}", " ".join(f"{e:.4f}" for e in errors(net, test)))
    for name in ("uniform", "logit_normal", "contribution"):
        recipe = replace(RECIPE, times=name)
        trained = finetune(
            net, train, lambda n, x, y, g, recipe=recipe: flow_loss(n, x, y, recipe, g), steps=steps, batch=batch
        )
        print(f"{name:>14}", " ".join(f"{e:.4f}" for e in errors(trained, test)))

    samples, pieces = (10, 2) if options.quick else (200, 10)
    switches = (0.4,) if options.quick else (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    won = ", ".join(f"{s}: {second_prompt_wins(s, samples, pieces):.0%}" for s in switches)
    print(f"a second prompt wins if it is given at t = {won}")


if __name__ == "__main__":
    main()
