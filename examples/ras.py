"""Half of the tokens of a transformer at most steps: the ones that it is working on.

Liu et al. 2025 (Region-Adaptive Sampling) report speed-ups of 2.36 (Stable Diffusion 3) and 2.51 (Lumina-Next) at small
losses of quality, for networks of 4096 tokens on a GPU. Here the transformer has the 49 tokens of a digit; the Frechet
distance is taken in the features of a classifier that it has not met. Beside it stand plain runs: of all steps, and of
as few as cost the same. "change" ranks tokens by how fast their velocity was last seen to change, "drift" by how far it
must have gone since.
"""

from __future__ import annotations

import argparse
import time

import torch

import pushforward as pf
from pushforward.models.regional import RegionAdaptive, RegionSchedule
from pushforward.models.training.digits import load_digits28
from pushforward.models.training.metrics import frechet_distance

STEPS, WARMUP, RESETS, TOKENS = 28, 4, (12, 20), 49
ENOUGH = 640  # ten rows a feature: below, the bias of the distance hides everything
HALF = 0.36  # of the tokens in partial steps is half of them on average over the run, since six steps are dense


@torch.no_grad()
def features(images: torch.Tensor) -> torch.Tensor:
    """What classifier B says of images."""
    return pf.models.bundled.load("digits28-classifier-b").features(images)


def features_of_digits(samples: int) -> torch.Tensor:
    """Of as many training digits."""
    real = load_digits28()[0]
    rows = torch.cat([(real.labels == c).nonzero()[: samples // 10, 0] for c in range(10)])
    return features(real.images[rows])


def draw(model: pf.models.Model, samples: int, steps: int) -> tuple[torch.Tensor, float]:
    """Samples in batches of 100, and the seconds that they took."""
    labels, parts, began = torch.arange(samples) % 10, [], time.perf_counter()
    for ids in torch.arange(samples).split(100):
        given = {"steps": steps, "samples": ids, "condition": {"label": labels[ids]}}
        parts.append(pf.sample(model, (len(ids), 1, 28, 28), solver="euler", seed=0, **given))
    return torch.cat(parts).clamp(-1, 1), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: a look, not a measurement")
    parser.add_argument("--samples", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1 if options.quick else options.threads)  # of few rows, a second thread only waits
    samples = 20 if options.quick else options.samples

    model = pf.models.load("digits28-dit")
    digits = features_of_digits(samples) if samples >= ENOUGH else None
    runs: list[tuple[str, pf.models.Model, int, float]] = [("all tokens", model, STEPS, 1.0)]
    for ratio, selector in ((0.5, "change"), (HALF, "drift")):
        schedule = RegionSchedule(ratio, warmup=WARMUP, resets=RESETS)
        fast = RegionAdaptive.around(model, schedule=schedule, selector=selector)
        runs.append((f"{ratio:.0%} by {selector}", fast, STEPS, schedule.average(STEPS, TOKENS)))
    runs.append(("all tokens, fewer steps", model, round(STEPS * runs[1][3]), runs[1][3]))

    draw(model, 20, 2)  # threads and memory, before the clock
    whole = exact = None
    print(
        "tokens                    average   Frechet distance   off by    speed-up   (RAS: 2.36 on SD3, 2.51 on Lumina)"
    )
    for name, fast, steps, average in runs:
        images, took = draw(fast, samples, steps)
        whole, exact = whole or took, images if exact is None else exact
        distance = float("nan") if digits is None else frechet_distance(features(images), digits)
        off = (images - exact).square().mean().sqrt().item()
        print(f"{name:25} {average:7.1%} {distance:18.3f} {off:8.4f} {whole / took:11.2f}")


if __name__ == "__main__":
    main()
